"""Docs and docstrings in plain English: rules that a count can hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import anemoi_ckpt_migrate

PACKAGE = Path(anemoi_ckpt_migrate.__file__).parent
DOCS = Path(__file__).parents[1]
MOST = 3  # in a thousand words


def docstrings() -> str:
    trees = [ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return "\n".join(
        ast.get_docstring(node) or "" for tree in trees for node in ast.walk(tree) if isinstance(node, holders)
    )


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


def test_modules_are_nouns_or_plain_verbs() -> None:
    gerunds = {
        path.stem for path in PACKAGE.rglob("*.py") if path.stem.endswith("ing") and path.parent.name != "versions"
    }
    assert gerunds <= {"diff_folding", "lightning", "wording"}
