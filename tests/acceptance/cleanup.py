"""The clean-up proof: after the first step of an interrupt's handler nothing is left of what it has displaced.

``victims`` runs at once each hold a tree of processes (a shell that has started another, which has started a third), a
temporary file, a thread and a resource. A rule is fired; in the turn of the loop in which the first step of its handler
begins, the kernel, the folder, the interpreter and the pool are asked what is still there. Then the victims come back,
take all of it again, and the next round begins. The server, its disk and its time are real.

``make cleanup N=200`` runs it in full, ``test_cleanup.py`` a few rounds.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anyio
import msgspec
from tests.fakes.served import write_plans
from tests.fakes.web import make_settings

from aura.engine.engine import Engine
from aura.lifecycle import RunState
from aura.processes.leftovers import CID, look_at_all
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.server import Server

VICTIMS = 100
#: The grace of the rule, and how much later its handler may begin, in seconds.
GRACE, LATE = 5.0, 0.1
#: Seconds that a round may take to come up again.
PATIENCE = 120.0
#: Processes of each tree.
TREE = 3

ACTIONS = """
import tempfile, threading
import anyio
from aura import action

@action
async def hold(folder: str) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="victim's")
    with tempfile.NamedTemporaryFile(dir=folder):
        thread.start()
        try:
            await anyio.sleep_forever()
        finally:
            done.set()
            while thread.is_alive():
                await anyio.sleep(0.001)
"""
PLANS = {
    "proof/actions.py": ACTIONS,
    "proof/plan.yaml": f"resources: {{slot: {VICTIMS}}}\n",
    "proof/interrupts.yaml": f"rules:\n  stop: {{triggers: [{{event: never}}], task: handle, grace: {GRACE:g}s}}\n",
    "proof/tasks/handle.yaml": "steps: {look: {action: sleep, params: {duration: 300ms}}}\n",
    "proof/tasks/victim.yaml": """
inputs: {folder: {type: string}}
resources: {slot: 1}
steps:
  tree: {action: shell.run, params: {shell: "sh -c 'sleep 1000 & wait' & wait"}}
  hold: {action: hold, params: {folder: "{{ inputs.folder }}"}}
"""
    + "  both: {action: log, params: {message: over}, depends_on: [tree, hold]}\n",
}


class Left(NamedTuple):
    """What is there of the victims: processes, files, threads and what is held of the resource."""

    processes: int
    files: int
    threads: int
    held: int


NOTHING = Left(0, 0, 0, 0)


class Round(NamedTuple):
    """What was left when the handler's first step began, and how many seconds after the firing that was."""

    left: Left
    seconds: float


class Proof:
    """A server with its victims."""

    def __init__(self, engine: Engine, folder: Path, victims: int) -> None:
        self.engine = engine
        self.folder = folder
        self.victims: list[LiveRun] = []
        self._count = victims

    async def begin(self) -> None:
        """Start the victims."""
        for _ in range(self._count):
            request = Request("proof", "victim", {"folder": str(self.folder)})
            accepted = await self.engine.submit(request, Cause("api"))
            self.victims.append(self.engine.runtime.open[accepted.cid])

    def left(self) -> Left:
        """Look at all that is there."""
        cids = {victim.cid for victim in self.victims}
        return Left(
            sum(not seen.zombie and seen.marks.get(CID) in cids for seen in look_at_all()),
            len(list(self.folder.iterdir())),
            sum(thread.name == "victim's" for thread in threading.enumerate()),
            self.engine.claims.status()["proof/slot"]["in_use"],
        )

    async def round(self) -> Round:
        """Wait until every victim holds all of it, fire, and look when the handler's first step begins."""
        count = self._count
        await until(lambda: self.left() == Left(TREE * count, count, count, count), 0.05)
        began = time.monotonic()
        cid = (await self.engine.fire("proof", "stop")).interrupts[0].cid
        handler = self.engine.runtime.open[cid]
        await until(lambda: handler.live)
        took, left = time.monotonic() - began, self.left()
        assert all(victim.state is RunState.PREEMPTED for victim in self.victims)
        await handler.wait_end()
        return Round(left, took)

    async def end(self) -> None:
        """Cancel the victims."""
        for victim in self.victims:
            await self.engine.cancel(victim.cid)
        for victim in self.victims:
            await victim.wait_end()


async def until(condition: Callable[[], object], pause: float = 0.0) -> None:
    """Look again and again, in each turn of the loop or after a pause in seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        await anyio.sleep(pause)


async def prove(home: Path, rounds: int, victims: int = VICTIMS) -> list[Round]:
    """Serve, and do so many rounds; progress goes to stderr."""
    write_plans(home, PLANS)
    folder = home / "files"
    folder.mkdir()
    found: list[Round] = []
    settings = make_settings(home, grace=2.0)
    lanes = {**settings.lanes, "main": msgspec.structs.replace(settings.lanes["main"], limit=victims)}
    server = Server(msgspec.structs.replace(settings, lanes=lanes), leave=_refuse_to_leave)
    async with anyio.create_task_group() as group:  # the server, which ends by request_stop
        await group.start(server.serve)
        try:
            proof = Proof(server.engine, folder, victims)
            await proof.begin()
            for number in range(rounds):
                found.append(await proof.round())
                if number % 10 == 9:
                    print(f"round {number + 1} of {rounds}: {found[-1]}", file=sys.stderr, flush=True)
            await proof.end()
        finally:
            server.request_stop()
    return found


def _refuse_to_leave(code: int) -> None:
    raise AssertionError(f"the server wanted to leave hard with {code}")


def main() -> int:
    """Run ``N`` rounds and say what came of them; 1 if anything was ever left, or the handler was late."""
    rounds = int(sys.argv[1])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        found = anyio.run(prove, Path(home), rounds)
    took = sorted(one.seconds for one in found)
    dirty = [one for one in found if one.left != NOTHING]
    late = [one for one in found if one.seconds > GRACE + LATE]
    print(f"{rounds} rounds of {VICTIMS} victims in {time.monotonic() - began:.0f} s")
    print(f"something was left in {len(dirty)} rounds {dirty[:3]}, the handler was late in {len(late)}")
    print(f"firing to first step: median {statistics.median(took):.3f} s, worst {took[-1]:.3f} s")
    return 1 if dirty or late else 0


if __name__ == "__main__":
    sys.exit(main())
