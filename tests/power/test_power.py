"""A power cut at any moment loses nothing of what anybody was told, and leaves nothing half (``make power``)."""

from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import pytest
from tests.engine.kit import Opened, opened, until
from tests.power.connection import Committed
from tests.power.disk import Delete, Disk, Mark, Sync, Truncate, Write
from tests.power.images import Platter
from tests.power.story import Asked, Began, Ended, Fact, missing, record, tasks
from tests.power.verdicts import choose, moments, verdicts

from aura.stores.sqlite import SqliteBackend

SEED = 7
RUNS = 18


def folder_of(tmp_path: Path) -> Path:
    made = tmp_path / "image"
    made.mkdir()
    return made


async def test_power_cut_loses_nothing_of_what_was_told(tmp_path: Path) -> None:
    disk = await record(tmp_path, SEED, RUNS)
    found = list(verdicts(disk, Random(SEED), 60, folder_of(tmp_path)))
    assert [verdict for verdict in found if verdict.word != "sound"] == []
    facts = Counter(type(entry.fact).__name__ for entry in disk.log if isinstance(entry, Mark))
    assert facts["Accepted"] == facts["Ended"] == RUNS, facts
    assert min(facts[name] for name in ("Began", "Kept", "Emitted", "Committed")) > 0, facts
    checkpoints = [entry for entry in disk.log if isinstance(entry, Sync) and entry.file == "aura.db"]
    assert len(checkpoints) > 3


@pytest.mark.parametrize(
    ("how", "found"),
    [
        pytest.param({"synchronous": "NORMAL"}, {"lost"}, id="commits that do not sync"),
        pytest.param({"honest": False}, {"lost", "refused"}, id="a disk that lies"),
    ],
)
async def test_losses_are_found_where_there_are_some(tmp_path: Path, how: dict[str, object], found: set[str]) -> None:
    disk = await record(tmp_path, SEED, RUNS, **how)
    words = {verdict.word for verdict in verdicts(disk, Random(SEED), 25, folder_of(tmp_path))}
    assert words & found
    assert words <= {"sound", "lost", "refused"} | ({"wrong"} if "honest" in how else set())


def only_waits(kit: Opened) -> bool:
    return all(run.state == "waiting" for run in kit.engine.runtime.open.values())


async def test_server_goes_on_from_what_a_power_cut_has_left(tmp_path: Path) -> None:
    disk = await record(tmp_path, SEED, RUNS)
    random = Random(SEED)
    for number, (moment, platter) in enumerate(moments(disk, choose(disk, random, 4))):
        folder = tmp_path / str(number)
        folder.mkdir()
        platter.cut(random, folder)
        backend = SqliteBackend(folder / "aura.db")
        begun: list[Fact] = []
        async with opened(folder, *tasks(begun.append), backend=backend, lanes={"main": 4}) as kit:
            await until(partial(only_waits, kit))
            assert (await kit.run("chain", labels={"n": "0"})).state == "succeeded"
            lasting = [fact for fact in moment.facts if not isinstance(fact, Began)]
            assert list(missing(backend.execute, [*lasting, Asked("0")])) == []
        ended = {fact.cid for fact in moment.facts if isinstance(fact, Ended)}
        assert not ended & {fact.cid for fact in begun if isinstance(fact, Began)}


# -- the machine itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "possible"),
    [
        pytest.param([Write("f", 0, b"a" * 512), Sync("f")], {b"a" * 512}, id="synced"),
        pytest.param([Write("f", 0, b"a")], {None, b"a"}, id="of a new file, not synced"),
        pytest.param(
            [Write("f", 0, b"aa"), Sync("f"), Write("f", 1, b"b")], {b"aa", b"ab"}, id="one sector over another"
        ),
        pytest.param(
            [Write("f", 0, b"a" * 512), Sync("f"), Write("f", 511, b"bb")],
            {b"a" * 512, b"a" * 511 + b"b", b"a" * 512 + b"b", b"a" * 511 + b"bb"},
            id="torn between two sectors",
        ),
        pytest.param([Write("f", 0, b"ab"), Sync("f"), Truncate("f", 1)], {b"ab", b"a"}, id="cut"),
        pytest.param([Write("f", 0, b"a"), Sync("f"), Delete("f", False)], {b"a", None}, id="removed"),
        pytest.param([Write("f", 0, b"a"), Sync("f"), Delete("f", True)], {None}, id="removed for good"),
    ],
)
def test_images_are_all_that_the_log_allows(tmp_path: Path, log: list[object], possible: set[bytes | None]) -> None:
    found = set()
    for seed in range(200):
        platter = Platter()
        for entry in log:
            platter.play(entry)  # type: ignore[arg-type]
        platter.cut(Random(seed), tmp_path)
        file = tmp_path / "f"
        found.add(file.read_bytes() if file.exists() else None)
        file.unlink(missing_ok=True)
    assert found == possible


def test_fault_comes_at_its_call_once_or_for_ever() -> None:
    for for_ever, expected in ((False, [False, True, False]), (True, [False, True, True])):
        disk = Disk()
        disk.fault = ("sync", 2, for_ever)
        failed = []
        for _ in range(3):
            try:
                disk.pass_call("sync")
                failed.append(False)
            except Exception as error:
                failed.append("sync 2" in str(error) or "sync 3" in str(error))
        assert failed == expected


def test_marks_are_no_part_of_the_disk(tmp_path: Path) -> None:
    platter = Platter()
    platter.play(Mark(Committed("x")))
    platter.cut(Random(1), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["aura.db"]
