"""The list of the kernel's rules against the tests and the mutations that it names."""

import re
from pathlib import Path

import pytest
from tests.meta.mutations import MUTATIONS, ROOT, Mutation

PAGE = (ROOT / "docs" / "decisions" / "0006-kernel-rules.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and "`test_" in line]


def names_of_tests() -> set[str]:
    found: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def test_every_rule_names_names_of_tests() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(test_\w+)`", row)}
    assert len(ROWS) > 30
    assert named - names_of_tests() == set()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_every_mutation_finds_its_lines(mutation: Mutation) -> None:
    text = (Path(ROOT) / "src" / "aura" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert mutation.old != mutation.new


def test_there_is_a_mutation_for_each_rule_with_a_star() -> None:
    assert len([row for row in ROWS if row.startswith("| ★")]) == len(MUTATIONS)
