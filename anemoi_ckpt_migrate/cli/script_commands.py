"""The commands about a project and its scripts: init, those that make scripts, those that change them."""

from __future__ import annotations

import argparse
from typing import Any

from anemoi_ckpt_migrate.cli.common import add, add_json
from anemoi_ckpt_migrate.console import output
from anemoi_ckpt_migrate.errors import UsageError


def add_commands(adding: Any) -> None:
    """Add the commands to a parser."""
    add(adding, "init", _init, "write a configuration, versions/ and a template", _init_arguments, writes_scripts=True)
    _add_new(adding)
    _add_changing(adding)


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", nargs="?", default=".", help="the folder (default: the current one)")
    parser.add_argument("--package", metavar="NAME", help="the package whose version new scripts note")


def _add_new(adding: Any) -> None:
    add(adding, "revision", _revision, "make a new migration script", _revision_arguments, writes_scripts=True)
    add(adding, "merge", _merge, "make a script that joins branches", _merge_arguments, writes_scripts=True)
    what = "import a folder of scripts of another migration command (default: that of anemoi-models)"
    add(adding, "import-scripts", _import_scripts, what, _import_scripts_arguments, writes_scripts=True)


def _revision_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the change, in one line")
    parser.add_argument("--final", action="store_true", help="make a barrier, which no checkpoint can cross")
    parser.add_argument(
        "--head", metavar="REV", help="the revision to follow (default: the head); `base` begins a new root"
    )
    parser.add_argument("--splice", action="store_true", help="follow a revision that is not a head: a new branch")
    generate = (
        "write operations that turn OLD into NEW: two checkpoints, or a checkpoint and a model as "
        "package.module:factory (default: from the manifest to the project's models)"
    )
    parser.add_argument("--autogenerate", nargs="*", metavar=("OLD", "NEW"), help=generate)
    parser.add_argument("--model", metavar="NAME", help="with --autogenerate, compare only this model")
    setup = "add a migrate_setup, for classes and modules that were moved or removed"
    parser.add_argument("--with-setup", action="store_true", help=setup)
    after = "a revision of another branch that must be applied first"
    parser.add_argument("--depends-on", metavar="REV", action="append", default=[], help=after)
    _add_common(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revisions", metavar="REV", nargs="*", help="the heads to join (default: all)")
    parser.add_argument("name", metavar="NAME", help="a title, in one line")
    parser.add_argument("--splice", action="store_true", help="allow revisions that are no heads")
    _add_common(parser)


def _import_scripts_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder; if you import it again, only new scripts are added")
    version = "the version for scripts that were not released (default: the installed one of the tracked package)"
    parser.add_argument("--next-version", metavar="VERSION", help=version)
    add_json(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rev-id", metavar="ID", help="the revision id (default: a random one)")
    parser.add_argument("--branch-label", metavar="LABEL", action="append", default=[], help="a label for its branch")
    parser.add_argument(
        "--version-path", metavar="DIR", help="the folder of scripts to write to, if the project has several"
    )
    add_json(parser)


def _add_changing(adding: Any) -> None:
    add(adding, "edit", _edit, "open a script in $VISUAL or $EDITOR", _edit_arguments, writes_scripts=True)
    add(adding, "rebase", _rebase, "make a script follow another revision", _rebase_arguments, writes_scripts=True)
    add(
        adding, "squash", _squash, "replace consecutive revisions by one script", _squash_arguments, writes_scripts=True
    )
    add(
        adding,
        "release",
        _release,
        "record all scripts as released; `check` fails if one of them changes later",
        add_json,
        writes_scripts=True,
    )


def _edit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REV", nargs="?", default="head", help="the revision (default: the head)")


def _rebase_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REV", help="the revision to move; its descendants move with it")
    parser.add_argument("--onto", metavar="REV", help="the revision to follow (default: the other head)")
    add_json(parser)


def _squash_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stretch", metavar="A:B", help="the first and the last revision to replace")
    parser.add_argument("name", metavar="NAME", help="the title of the new revision, in one line")
    parser.add_argument("--rev-id", metavar="ID", help="the revision id (default: a random one)")
    add_json(parser)


def _init(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.project import project

    output.print_laid(project.init(args.folder, args.package))
    return 0


def _revision(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import revision

    name, sides = _sides(args.name, args.autogenerate)
    made = revision.revision(
        name,
        final=args.final,
        rev_id=args.rev_id,
        head=args.head,
        splice=args.splice,
        branch_labels=args.branch_label,
        depends_on=args.depends_on,
        version_path=args.version_path,
        autogenerate=sides,
        model=args.model,
        with_setup=args.with_setup,
        project=args.config,
    )
    output.print_revision(made, args.json)
    return 0


def _sides(name: str | None, given: list[str] | None) -> tuple[str, Any]:
    """Return the name of a revision and the two sides to compare; the name may come after these."""
    if name is None and given and len(given) in (1, 3):
        *given, name = given
    if name is None:
        raise UsageError("a revision needs a NAME: describe the change in one line")
    if given is not None and len(given) not in (0, 2):
        raise UsageError("--autogenerate takes both OLD and NEW, or neither")
    return name, None if given is None else tuple(given)


def _merge(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.merge import merge

    made = merge(
        args.revisions or ["heads"],
        args.name,
        rev_id=args.rev_id,
        splice=args.splice,
        branch_labels=args.branch_label,
        version_path=args.version_path,
        project=args.config,
    )
    output.print_revision(made, args.json)
    return 0


def _import_scripts(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import import_scripts

    made = import_scripts.import_scripts(args.folder, next_version=args.next_version, project=args.config)
    output.print_import(made, args.json)
    return 0


def _edit(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.edit import edit

    edit(args.revision, project=args.config)
    return 0


def _rebase(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import rebase

    output.print_rebased(rebase.rebase(args.revision, args.onto, project=args.config), args.json)
    return 0


def _squash(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.squash import squash

    made = squash(args.stretch, args.name, rev_id=args.rev_id, project=args.config)
    output.print_squashed(made, args.json)
    return 0


def _release(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.release import release

    output.print_release(release(project=args.config), args.json)
    return 0
