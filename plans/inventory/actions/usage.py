"""How full the mounted file systems are. One whose other side is gone does not answer: nobody waits for it for long.

``statvfs`` on such a mount cannot be interrupted, so each remote file system is asked by a process of its own, which
can be killed. It carries the run's mark: if not even a kill ends it, since it hangs in the kernel, Aura will find it.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
from anyio import to_thread

from aura import Context, action

from .parsing import parse_mounts

MOUNTS = Path("/proc/self/mountinfo")
#: Seconds that a remote file system has for its answer; so many are asked at once, and in all.
PATIENCE = 5.0
AT_ONCE = 8
ASKED = 40
_ASK = "import os, sys; s = os.statvfs(sys.argv[1]); print(s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail)"


@dataclass
class Usage:
    """A mounted file system; the sizes are null if it did not say, and ``problem`` says why."""

    path: str
    source: str
    kind: str
    read_only: bool
    total: int | None = None
    used: int | None = None
    free: int | None = None
    problem: str | None = None


@action
async def mounts(ctx: Context) -> list[Usage]:
    """List what is mounted and how full it is; what does not answer in time is said to be silent."""
    found = parse_mounts(MOUNTS.read_text(errors="replace"))
    usages = {mount.path: Usage(mount.path, mount.source, mount.kind, mount.read_only) for mount in found}
    for mount in found:
        if not mount.remote:
            await to_thread.run_sync(_look, usages[mount.path])
    await _ask_all(ctx, [usages[mount.path] for mount in found if mount.remote])
    return list(usages.values())


def _look(usage: Usage) -> None:
    try:
        said = os.statvfs(usage.path)
    except OSError as error:
        usage.problem = error.strerror
    else:
        _fill(usage, said.f_frsize, said.f_blocks, said.f_bfree, said.f_bavail)


def _fill(usage: Usage, size: int, blocks: int, unused: int, free: int) -> None:
    """``free`` is what ordinary users may still take; some of what is unused may be kept from them."""
    usage.total, usage.used, usage.free = blocks * size, (blocks - unused) * size, free * size


async def _ask_all(ctx: Context, usages: list[Usage]) -> None:
    for usage in usages[ASKED:]:
        usage.problem = f"not asked: more than {ASKED} remote file systems"
    limiter = anyio.CapacityLimiter(AT_ONCE)
    # A child for each remote file system; each ends by itself after PATIENCE and the time that a kill takes.
    async with anyio.create_task_group() as group:
        for usage in usages[:ASKED]:
            group.start_soon(_ask, ctx, usage, limiter)


async def _ask(ctx: Context, usage: Usage, limiter: anyio.CapacityLimiter) -> None:
    command = [sys.executable, "-I", "-S", "-c", _ASK, usage.path]
    async with limiter:
        usage.problem = "silent"
        # shielded, so that a stop does not meet a process that is there and that nobody holds yet; it only starts one
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=ctx.process_environment
            )
        try:
            with anyio.move_on_after(PATIENCE):
                await _read(process, usage)
        finally:
            await _end(process)
    if usage.problem:
        ctx.log.warning(f"{usage.path} ({usage.source}): {usage.problem}")


async def _read(process: anyio.abc.Process, usage: Usage) -> None:
    assert process.stdout
    answer = b""
    try:
        while True:
            answer += await process.stdout.receive()
    except anyio.EndOfStream:
        numbers = [int(part) for part in answer.split() if part.isdigit()]
    if len(numbers) == 4:
        usage.problem = None
        _fill(usage, *numbers)
    else:
        usage.problem = "cannot be read"


async def _end(process: anyio.abc.Process) -> None:
    """Kill the process if it is still there, and see it end, unless it hangs in the kernel."""
    if process.returncode is None:
        process.kill()
    with anyio.move_on_after(1, shield=True):  # bounded: what even a kill does not end is left to itself
        await process.wait()
        await process.aclose()
