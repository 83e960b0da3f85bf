"""Plans for tests of worlds: small folders, written where a test wants them."""

import threading
from collections.abc import Mapping
from pathlib import Path

#: What the code of plans has done in the present test, in all of its lives.
happened: list[str] = []
#: At which threads of a test wait.
gates: list[threading.Event] = []

LAB_ACTIONS = """\
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Optional

import anyio
import msgspec
from aura import Context, action, service
from tests.testing.kit import happened


class Pong(msgspec.Struct):
    ms: int
    via: Optional[str] = None


@dataclass
class Sample:
    weight: float
    labels: list[str]
    unit: str = "kg"


@service
async def power(ctx: Context) -> AsyncIterator[str]:
    happened.append("power on")
    yield "230 V"
    happened.append("power off")


@service
async def camera(ctx: Context, power: str) -> AsyncIterator[str]:
    happened.append("camera on")
    yield "camera at " + power
    happened.append("camera off")


@action
async def ping(host: str, count: int = 1) -> Pong:
    happened.append("ping " + host)
    return Pong(3)


@action
async def ping_all(hosts: list[str]) -> list[Pong]:
    return [Pong(3) for _ in hosts]


@action
def weigh(sample: Sample, timeout: float = 2.0) -> float:
    return sample.weight


@action
async def find(name: str) -> Optional[Sample]:
    return None


@action
async def anything(value=None):
    return value


@action(isolation="process")
def crunch(n: int) -> int:
    return n * n


@action
async def snap(ctx: Context, camera: str) -> str:
    return camera


@action
async def work(seconds: float) -> float:
    try:
        happened.append("work begins")
        await anyio.sleep(seconds)
        happened.append("work is done")
        return seconds
    finally:
        happened.append("work is tidied up")


@action
async def hang() -> None:
    await anyio.Event().wait()


@action
async def note(what: str) -> None:
    happened.append(what)


@action
async def is_low(n: int = 0) -> bool:
    return False
"""


def write_plan(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a plan's files, and give its folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def one_step(action: str, params: str = "{}", more: str = "") -> str:
    """A task of one step `a`, which returns what that gave."""
    return f'steps:\n  a: {{action: {action}, params: {params}{more}}}\nreturns: "{{{{ steps.a.output }}}}"\n'
