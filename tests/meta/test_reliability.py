"""The table of promises against the tree: each line has a proof, and each proof that it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
#: The rows of the tables of promises: what is promised, what Aura does, what proves it.
ROWS = [tuple(row) for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)]
PROMISES = [row for row in ROWS if row[0] != "promise" and not row[0].startswith("--")]


@pytest.mark.parametrize("row", PROMISES, ids=[row[0][:50] for row in PROMISES])
def test_promise_names_what_proves_it(row: tuple[str, str, str]) -> None:
    proofs = re.findall(r"`([^`]+)`", row[2])
    assert proofs
    assert all(re.fullmatch(r"tests/\S+\.py|make [a-z-]+", proof) for proof in proofs), proofs


def test_tests_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+\.py)(?:::\w+)?`", PAGE))
    assert len(named) > 20
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_targets_that_the_page_names_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", PAGE))
    assert named <= targets
    assert "crash" in named
