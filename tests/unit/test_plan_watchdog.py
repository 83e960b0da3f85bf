"""The plan ``watchdog``: what it measures, and that what runs out has the work make way for its report."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.context import Bench, plan_bench

MEMORY = "MemTotal:        8000 kB\nMemFree:         1000 kB\nMemAvailable:    5000 kB\nHugePages_Total:       0\n"
DISK = {"path": "/srv", "total_bytes": 4 * 2**40, "free_bytes": 3 * 2**30, "free_percent": 0.07}
SIZES = {"total_bytes": 2**33, "available_bytes": 2**29, "available_percent": 6.25}
LOAD = {"load": 3.0, "cores": 2, "per_core": 1.5}


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return await plan_bench("watchdog", tmp_path)


def call(bench: Bench, name: str, **params: Any) -> Any:
    """The result of a ``def`` action, as its step has it."""
    action = bench._actions[name]
    given = action.bind(params)
    return action.check_result(action.function(*([bench.ctx] if action.wants_context else []), **given))


@pytest.mark.anyio
async def test_sizes_of_memory_are_read_in_bytes(bench: Bench) -> None:
    read = bench.function("memory").__globals__["read_meminfo"]
    assert read(MEMORY) == {
        "MemTotal": 8000 * 1024, "MemFree": 1000 * 1024, "MemAvailable": 5000 * 1024, "HugePages_Total": 0
    }  # fmt: skip


@pytest.mark.anyio
async def test_disk_is_that_of_the_path(bench: Bench, tmp_path: Path) -> None:
    found, there = call(bench, "disk", path=str(tmp_path)), os.statvfs(tmp_path)
    assert (found["path"], found["total_bytes"]) == (str(tmp_path), there.f_blocks * there.f_frsize)
    assert 0 <= found["free_percent"] <= 100


@pytest.mark.anyio
async def test_disk_that_is_not_there_fails(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError):
        call(bench, "disk", path="/nowhere/at/all")


@pytest.mark.anyio
async def test_memory_and_load_are_of_this_machine(bench: Bench) -> None:
    memory, load = call(bench, "memory"), call(bench, "load")
    assert 0 < memory["available_bytes"] <= memory["total_bytes"]
    assert load["cores"] == len(os.sched_getaffinity(0))
    assert load["per_core"] == pytest.approx(load["load"] / load["cores"], abs=0.01)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("because", "head"),
    [
        pytest.param({"name": "poll.fired"}, "# This machine is in trouble\n\nBecause of: poll.fired\n", id="rule"),
        pytest.param(None, "# How this machine stands\n\nBecause of: asked for by hand\n", id="by-hand"),
    ],
)
async def test_report_says_what_is_left(bench: Bench, because: Any, head: str) -> None:
    told = call(bench, "write_report", disk=DISK, memory=SIZES, load=LOAD, because=because)
    text = (bench.workdir / told["file"]).read_text()
    assert text.startswith(head)
    assert "| disk at /srv | 4.0 TiB | 3.0 GiB | 0.07 |\n| memory | 8.0 GiB | 512.0 MiB | 6.25 |\n" in text
    assert text.endswith("Load: 3.0 on 2 cores, 1.5 for each.\n")
