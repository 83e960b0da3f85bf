"""What tests of polls share: a plan whose rule ``low`` polls the action ``sense``, and the sensor that answers.

The plan's code imports ``sensor`` from here: tests say what it gives, and see when it was asked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from tests.engine.interrupts_kit import ACTIONS, Lab, open_lab, rule

from aura.events import LogEntry

SENSE = """
from typing import Any
from tests.engine.polls_kit import sensor

@action
async def sense(ctx: Context, given: Any = None) -> Any:
    sensor.given = given
    return await sensor.answer(ctx)
"""
POLL = "{poll: {action: sense, every: 2s}}"


class Sensor:
    """What ``sense`` does: it answers ``script``, one for each question, and then ``value``; an error is raised."""

    def __init__(self) -> None:
        self.value: Any = False
        self.script: list[Any] = []
        self.lasts = 0.0
        self.act: Callable[[Any], Any] | None = None
        self.given: Any = None
        #: At which a thread of the plan may wait.
        self.gate: Any = None
        #: The loop times at which it was asked.
        self.times: list[float] = []
        self.open = self.most = 0
        #: What the log has said since a lab was opened.
        self.lines: list[LogEntry] = []

    async def answer(self, ctx: Any) -> Any:
        """Answer one question; ``act`` does so in its own way."""
        self.times.append(anyio.current_time())
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            if self.act is not None:
                return await self.act(ctx)
            answer = self.script.pop(0) if self.script else self.value
            await anyio.sleep(self.lasts)
        finally:
            self.open -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def gaps(self) -> list[float]:
        """Seconds between the questions."""
        return [round(b - a, 3) for a, b in zip(self.times, self.times[1:], strict=False)]


sensor = Sensor()


class Deaf:
    """What hears of no stop until it is let go, or, so that a test that fails ends, for 600 virtual seconds."""

    def __init__(self) -> None:
        self.free = False
        self.begun = 0

    async def __call__(self, _: Any) -> bool:
        self.begun += 1
        end = anyio.current_time() + 600
        while not self.free and anyio.current_time() < end:
            with suppress(asyncio.CancelledError):
                await anyio.sleep(0.05)
        return False


def low(extra: str = "", poll: str = POLL) -> str:
    """The text of interrupts.yaml with the rule ``low``."""
    return rule(extra, name="low", on=poll)


@asynccontextmanager
async def open_polled(folder: Path, poll: str = POLL, extra: str = "", **keys: Any) -> AsyncIterator[Lab]:
    """Open a lab whose only rule is ``low``; the sensor forgets what it was asked before."""
    sensor.times.clear()
    files = {"rules": low(extra, poll), "actions": ACTIONS + SENSE} | keys
    async with open_lab(folder, **files) as world:
        world.engine.journal.add_sink(sensor.lines.append)
        yield world


async def asked(world: Lab, count: int) -> None:
    """Return when so many questions have ended."""
    await world.until(lambda: len(sensor.times) >= count and not sensor.open)
    await world.loop.wait_quiet()


def poll_of(world: Lab, plan_name: str = "lab", name: str = "low") -> dict[str, Any]:
    """The poll of a rule as it is shown."""
    (poll,) = world.engine.rule(plan_name, name)["polls"]
    assert isinstance(poll, dict)
    return poll


def lines(level: str = "warning") -> list[str]:
    """The messages of the log lines of this level that polls have written."""
    found = [line.record() for line in sensor.lines]
    return [line["message"] for line in found if line["level"] == level and "poll" in line["fields"]]
