"""What the loop watchdog makes of blocks that were found: what it shows, for how long, and what it leaves unsaid."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine.kit import Opened, opened, step, task
from tests.fakes.kernel import works

from aura.engine import watchdog
from aura.engine.blocks import BLOCKED, LONG, Block
from aura.engine.culprit import Place
from aura.engine.watchdog import SHOWN, UNREADY_FOR, Watchdog

PLACE = Place("lab/actions/main.py", 7, "sleeps", own=True)
A_LONG_ONE, A_SHORT_ONE = (Block(seconds, PLACE, None, None) for seconds in (LONG, BLOCKED))


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        yield kit


def made(kit: Opened, *, ready: bool = True) -> tuple[Watchdog, list[str]]:
    """A watchdog, and what it says while a block lasts."""
    said = list[str]()
    dog = Watchdog(kit.engine.runtime, lambda: ready, lambda: None)
    dog.tell = said.append
    return dog, said


async def test_long_block_is_a_reason_for_a_minute_whatever_follows(kit: Opened) -> None:
    dog, _ = made(kit)
    dog._report([A_LONG_ONE, *[A_SHORT_ONE] * SHOWN])
    assert dog.reasons == [f"the event loop was blocked for {LONG} s at {PLACE}, 0 s ago"]
    await kit.advance(UNREADY_FOR - 1)
    assert dog.status()["stalled"]
    await kit.advance(1)
    assert (dog.reasons, dog.status()["stalled"]) == ([], False)


async def test_newest_blocks_are_shown_for_an_hour(kit: Opened) -> None:
    dog, _ = made(kit)
    dog._report([A_LONG_ONE, *[A_SHORT_ONE] * SHOWN])
    assert [block["seconds"] for block in dog.status()["blocked"]] == [BLOCKED] * SHOWN
    await kit.advance(watchdog.SHOWN_FOR)
    assert dog.status()["blocked"] == []


@pytest.mark.parametrize("ready", [True, False])
async def test_nothing_is_said_before_the_server_is_ready(kit: Opened, ready: bool) -> None:
    dog, said = made(kit, ready=ready)
    dog._tell_long(A_LONG_ONE)
    dog._report([A_LONG_ONE])
    assert [bool(said), bool(dog.reasons), bool(kit.engine.runtime.measures.blocked)] == [ready] * 3
