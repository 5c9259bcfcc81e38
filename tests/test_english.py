"""Docs, docstrings and messages in plain English: rules that a count can hold."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import anemoi_ckpt_migrate
from anemoi_ckpt_migrate.state import stash

PACKAGE = Path(anemoi_ckpt_migrate.__file__).parent
DOCS = Path(__file__).parents[1]
MOST = 3  # in a thousand words
ARCHAIC = (
    r"puts? aside",
    r"put back",
    r"(is|are) gone",
    r"c[ao]mes? about",
    r"says not",
    r"say (so|what|it|which)",
    r"told",
    r"said( to be)?",
    r"written out",
    r"anew",
    r"stands?",
    r"of then",
    r"as it should be",
    r"way back",
    r"what (is|are|was|were|comes?|came|stands?|undoes|becomes)",
    r"(not|never) known",
    r"nobody",
    r"somebody",
    r"mended?",
)


@functools.cache
def docstrings() -> str:
    trees = [ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return "\n".join(
        ast.get_docstring(node) or "" for tree in trees for node in ast.walk(tree) if isinstance(node, holders)
    )


@functools.cache
def messages() -> list[str]:
    """All strings of the package with several words, except docstrings and notes below attributes."""
    found = []
    # A wheel holds the chain's scripts too. Their texts are part of what was released.
    for path in sorted(
        each for each in PACKAGE.rglob("*.py") if not any(part.startswith("versions") for part in each.parts)
    ):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in documentation]
        found += [node.value for node in texts if isinstance(node.value, str) and " " in node.value.strip()]
    return [text for text in found if text != stash.PICKLE]  # a key in records


def per_thousand(word: str, text: str) -> float:
    words = [each.strip(".,;:()`").lower() for each in text.split()]
    return 1000 * words.count(word) / len(words)


def test_what_is_no_noun_in_docstrings() -> None:
    """ "What" as a noun ("what is gone", "what undoes it") hides the noun that a reader looks for."""
    assert per_thousand("what", docstrings()) < MOST


@pytest.mark.skipif(not (DOCS / "docs").is_dir(), reason="the docs are not here")
def test_what_is_no_noun_in_the_docs() -> None:
    pages = [DOCS / "README.md", *sorted((DOCS / "docs").rglob("*.md"))]
    assert per_thousand("what", "\n".join(page.read_text() for page in pages)) < MOST


def test_what_is_no_noun_in_messages() -> None:
    assert len(messages()) > 1000
    assert per_thousand("what", "\n".join(messages())) < MOST


@pytest.mark.parametrize("phrase", ARCHAIC)
def test_messages_avoid_phrases_that_a_stranger_stumbles_over(phrase: str) -> None:
    pattern = re.compile(rf"\b{phrase}\b")
    assert [text for text in messages() if pattern.search(text)] == []


def test_modules_are_nouns_or_plain_verbs() -> None:
    gerunds = {
        path.stem for path in PACKAGE.rglob("*.py") if path.stem.endswith("ing") and path.parent.name != "versions"
    }
    assert gerunds <= {"diff_folding", "lightning", "wording"}
