"""One action for each bug, with the line that is wrong marked, and beside it the same without the bug."""
# ruff: noqa: ASYNC220 - starting a process is quick enough here

import asyncio
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import anyio

from aura import Context, action

camera = anyio.Lock()
parked: list[str] = []


async def move() -> None:
    try:
        await anyio.sleep(10)
    finally:
        await anyio.sleep(0.1)  # BUG clean_up
        parked.append("arm")


@action
async def clean_up_bad() -> None:
    async with anyio.create_task_group() as group:  # one child, which ends by itself
        group.start_soon(move)


@action
async def clean_up_good(ctx: Context) -> None:
    async def move_and_park() -> None:
        try:
            await anyio.sleep(10)
        finally:
            with ctx.cleanup():
                await anyio.sleep(0.1)
                parked.append("arm")

    async with anyio.create_task_group() as group:  # one child, which ends by itself
        group.start_soon(move_and_park)


@action
async def process_bad() -> None:
    viewer = subprocess.Popen(["sleep", "60"])  # BUG process
    await anyio.sleep(1)
    viewer.kill()
    viewer.wait()


@action
async def process_good() -> None:
    viewer = subprocess.Popen(["sleep", "60"])
    try:
        await anyio.sleep(1)
    finally:
        viewer.kill()
        viewer.wait()


@action
async def lock_bad() -> None:
    await camera.acquire()  # BUG lock
    await anyio.sleep(1)
    camera.release()


@action
async def lock_good() -> None:
    async with camera:
        await anyio.sleep(1)


@action
async def thread_bad() -> None:
    enough = threading.Event()
    threading.Thread(target=enough.wait, args=(2,), name="poller", daemon=True).start()  # BUG thread
    await anyio.sleep(1)
    enough.set()


@action
async def thread_good() -> None:
    enough = threading.Event()
    threading.Thread(target=enough.wait, args=(2,), name="poller", daemon=True).start()
    try:
        await anyio.sleep(1)
    finally:
        enough.set()


@action
async def temporary_file_bad() -> None:
    _, name = tempfile.mkstemp(suffix=".scan")  # BUG temporary_file
    await anyio.sleep(1)
    Path(name).unlink()


@action
async def temporary_file_good() -> None:
    with tempfile.NamedTemporaryFile(suffix=".scan"):
        await anyio.sleep(1)


@action
async def swallowed_bad() -> str:
    try:
        await anyio.sleep(10)  # BUG swallowed
    except asyncio.CancelledError:
        parked.append("the rest can wait")
    return "all is well"


@action
async def swallowed_good() -> str:
    try:
        await anyio.sleep(10)
    except TimeoutError:
        parked.append("the rest can wait")
    return "all is well"


@action
async def twice_bad(ctx: Context) -> None:
    await ctx.state.set("parts", await ctx.state.get("parts", 0) + 1)  # BUG twice
    await anyio.sleep(1)


@action
async def twice_good(ctx: Context) -> None:
    known: Any = ctx.checkpointed or {"parts": await ctx.state.get("parts", 0) + 1}
    await ctx.checkpoint(known)
    await ctx.state.set("parts", known["parts"])
    await anyio.sleep(1)


@action
async def lost_result_bad() -> list[int]:
    found = []
    try:
        for number in range(3):
            await anyio.sleep(1)  # BUG lost_result
            found.append(number)
    except asyncio.CancelledError:
        return found
    return found


@action
async def lost_result_good() -> list[int]:
    found = []
    for number in range(3):
        await anyio.sleep(1)
        found.append(number)
    return found


@action
async def nothing() -> None:
    pass


@action
async def look() -> None:
    await anyio.sleep(1)
