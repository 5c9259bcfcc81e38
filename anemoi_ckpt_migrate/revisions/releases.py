"""Released versions of the tracked package, and the revisions in each release."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import BadTarget, UsageError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version


def had(package: str, specifier: str) -> Callable[[str], bool]:
    """Return a function that tells whether releases that fit a specifier can contain a revision with a noted version.

    A revision notes the version it came with, and every later release has it. So lower limits have no effect: ``<0.12``
    and ``>=0.10,<0.12`` mean the same revisions, and ``==0.11.0`` means all up to that version.

    Parameters
    ----------
    package, specifier : str
        As in `targets.Released`.

    Raises
    ------
    BadTarget, UsageError
        Those of `check`.
    """
    clauses = check(package, specifier)

    def fits(noted: str) -> bool:
        version = _version(noted)
        return version is not None and all(_at_or_before(clause, version) for clause in clauses)

    return fits


def is_before(noted: str, version: str) -> bool:
    """Return whether a noted version is before another one; False for invalid versions."""
    found, limit = _version(noted), _version(version)
    return found is not None and limit is not None and found < limit


def check(package: str, specifier: str) -> SpecifierSet:
    """Parse a specifier.

    Raises
    ------
    BadTarget, UsageError
        It does not follow PEP 440; no version fits it.
    """
    clauses = _parsed(package, specifier)
    if not any(clauses.contains(version, prereleases=True) for version in _candidates(clauses)):
        raise UsageError(f"no version of {package} can match {specifier}")
    return clauses


def same_package(one: str, other: str) -> bool:
    """Return whether two names mean the same package: case, dots, dashes and underscores make no difference."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(one) == canonicalize_name(other)


def earliest(versions: Iterable[str]) -> str | None:
    """Return the earliest version; invalid versions are ignored."""
    known = [version for version in map(_version, versions) if version is not None]
    return str(min(known)) if known else None


def _version(text: str) -> Version | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return None


def _parsed(package: str, specifier: str) -> SpecifierSet:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    place = 0
    for clause in specifier.split(","):
        try:
            SpecifierSet(clause)
            empty = not clause.strip()
        except InvalidSpecifier:
            empty = True
        if empty:
            begin = len(package) + place
            what = f"{clause.strip() or 'nothing'!r} is not a version specifier, such as <0.12 or ==0.11.*"
            raise BadTarget(package + specifier, begin, begin + len(clause), what)
        place += len(clause) + 1
    return SpecifierSet(specifier)


def _at_or_before(clause: object, noted: Version) -> bool:
    """Return whether the noted version, or a later one, may fit a clause."""
    from packaging.specifiers import Specifier

    assert isinstance(clause, Specifier)  # noqa: S101  (what a set of them holds)
    if clause.operator in (">", ">=", "!="):
        return True
    limit = None if clause.operator in ("<", "<=") else _version(clause.version.removesuffix(".*"))
    before = limit is not None and noted < limit
    return before or clause.contains(noted, prereleases=True)


def _candidates(clauses: SpecifierSet) -> list[str]:
    """Return sample versions, one of which fits if any version does: 0, every limit, and a version right after it."""
    limits = [getattr(clause, "version", "").removesuffix(".*") for clause in clauses]
    known = [version for version in limits if _version(version) is not None]
    return ["0", *known, *(f"{_version(version).base_version}.0.0.0.1" for version in known)]  # type: ignore[union-attr]
