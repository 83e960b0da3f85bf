"""The task language, case by case (``cases.py`` says what a case is), over both stores."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.language.cases import Case, read_cases
from tests.language.doing import Doing, Memory, Sqlite, StoreKind, write

from aura.testing.world import open_world

CASES = read_cases()
STORES: Mapping[str, StoreKind] = {"memory": Memory, "sqlite": Sqlite}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 550


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("case", [c for c in CASES if "check" not in c.data], ids=lambda case: case.id)
async def test_case(tmp_path: Path, case: Case, store: StoreKind) -> None:
    write(tmp_path / "plans", case)
    async with AsyncExitStack() as stack:
        await Doing(case, tmp_path, store, stack).check()


@pytest.mark.parametrize("case", [c for c in CASES if "check" in c.data], ids=lambda case: case.id)
async def test_case_of_what_is_not_right(tmp_path: Path, case: Case) -> None:
    write(tmp_path / "plans", case)
    (tmp_path / "plans/other").mkdir(exist_ok=True)  # a world needs a plan that can be served
    async with open_world(tmp_path / "plans/other") as world:
        statuses = {status.name: status for status in world.engine.generations.statuses()}
        found = [(f"{e.line}:{e.column}", e.message) for e in statuses["p"].errors]
    expected = [tuple(text.split(": ", 1)) for text in case.data["check"]]
    assert [place for place, _ in found] == [place for place, _ in expected], found
    for (_, message), (_, part) in zip(found, expected, strict=True):
        assert part in message
