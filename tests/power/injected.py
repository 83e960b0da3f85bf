"""Calls of a real server to the system that fail, by ``strace``: what it says, its exit code, and the start behind it.

``python -m tests.power.injected`` fails the first sync of the database and of its log, the second ... until a server
starts, accepts some runs and ends in order (``make faults``). strace counts the calls of each thread by itself.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.fakes.served import AURA, READY, Served, environment, open_served, write_plans

PLANS = {"lab/tasks/note.yaml": "steps:\n  a: {action: log, params: {message: hello}}\n"}
SYNCS = "fsync,fdatasync"
#: So many runs are asked for, while they are accepted.
RUNS = 4


class Injected(NamedTuple):
    """The ``number``-th of these calls that meets this file of the data folder fails with this error."""

    calls: str
    error: str
    file: str
    number: int = 1

    def command(self, folder: Path) -> list[str]:
        """A server with it."""
        fault = f"inject={self.calls}:error={self.error}:when={self.number}"
        command = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-P", str(folder / "data" / self.file)]
        command += ["-e", f"trace={self.calls}", "-e", fault]
        return [*command, AURA, "serve", "--data", "data", "--port", "0"]


class Ended(NamedTuple):
    """A server that has ended: whether it was ready before, what it said, and the runs that it had accepted."""

    code: int
    ready: bool
    said: list[str]
    accepted: list[str]

    def wrong(self, code: int) -> list[str]:
        """What is wrong if it should have ended with this code and one line."""
        own = [line for line in self.said if line.startswith("aura: ")]
        fine = self.code == code and len(own) == (1 if code else 0) and not any("Traceback" in x for x in self.said)
        return [] if fine else [f"exit code {self.code}, not {code}: {self.said}"]


def serve(folder: Path, fault: Injected) -> Ended:
    """Start a server with that fault and ask for runs until one is refused; then end it, if it has not."""
    write_plans(folder, PLANS)
    with (
        open(folder / "said", "w+", encoding="utf-8") as said,
        subprocess.Popen(
            fault.command(folder), cwd=folder, env=environment({}), stdout=PIPE, stderr=said, text=True
        ) as process,
    ):
        assert process.stdout
        line = process.stdout.readline()
        accepted = ask(Served(folder, process, line.removeprefix(READY).strip())) if line else []
        if len(accepted) == RUNS:
            with suppress(ProcessLookupError):  # it has just ended by the fault; strace waits for it
                os.kill(json.loads((folder / "data/aura.lock").read_text())["pid"], signal.SIGTERM)
        code = process.wait(30)
    return Ended(code, bool(line), (folder / "said").read_text(encoding="utf-8").splitlines(), accepted)


def ask(served: Served) -> list[str]:
    """The runs that are accepted, until one is not."""
    accepted: list[str] = []
    while len(accepted) < RUNS:
        done = served.aura("run", "lab/note", "--detach")
        if done.code:
            break
        accepted.append(done.out.strip())
    return accepted


def wrong_start(folder: Path, accepted: list[str]) -> list[str]:
    """What is wrong with the next start, when all is well again: what was accepted is on record, and a run succeeds."""
    with open_served(folder) as served:
        done = served.aura("run", "lab/note")
        known = {run["cid"] for run in served.aura("runs", "--json").json["items"]}
    wrong = [f"{cid} was accepted and is not on record" for cid in accepted if cid not in known]
    return wrong + ([f"a run ended with {done}"] if done.code else [])


def fail_sync(folder: Path, file: str, number: int) -> tuple[Ended, list[str]]:
    """A server of which this sync fails, and what is wrong with it and the next start."""
    ended = serve(folder, Injected(SYNCS, "EIO", file, number))
    code = 0 if ended.code == 0 and len(ended.accepted) == RUNS else 74
    return ended, ended.wrong(code) + wrong_start(folder, ended.accepted)


def main() -> int:
    """Fail each sync of each file of the database; the exit code is 1 if anything is wrong."""
    found: Counter[str] = Counter()
    for file in ("aura.db", "aura.db-wal"):
        for number in count(1):
            with TemporaryDirectory(prefix="aura-injected-") as name:
                ended, wrong = fail_sync(Path(name), file, number)
            found["wrong" if wrong else f"{'ended' if ended.ready else 'not started'} with {ended.code}"] += 1
            print(
                f"sync {number} of {file}: exit code {ended.code}, {len(ended.accepted)} accepted", *wrong, flush=True
            )
            if ended.code == 0:
                break
    print(dict(found))
    return bool(found["wrong"])


if __name__ == "__main__":
    sys.exit(main())
