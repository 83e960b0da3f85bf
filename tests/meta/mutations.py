"""Takes rules of the kernel out, one at a time, and says which tests notice: ``make mutate``.

Each mutation is a rule of ``docs/decisions/0006-kernel-rules.md``, the lines that hold it, and the tests that must fail
without them. It is made in a copy of the source; the copy stands first on the path of a pytest of its own. A mutation
that nothing notices, or whose lines are no longer there, makes the exit code 1.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: Seconds after which a test run counts as one that hangs.
LIMIT = 300


class Mutation(NamedTuple):
    """``old`` in ``file`` becomes ``new``; ``tests`` are where that must be noticed."""

    rule: str
    file: str
    old: str
    new: str
    tests: str = "tests/engine"


MUTATIONS: Sequence[Mutation] = (
    Mutation(
        "a stop is one edge: the shield closes when it was taken",
        "edge.py",
        "            self._inner.shield = True\n        else:",
        "            self._pending = True\n        else:",
    ),
    Mutation(
        "an edge that was not taken in its turn closes the shield as soon as it is",
        "edge.py",
        "if self._pending and self._task.cancelling() > before:",
        "if False:",
    ),
    Mutation(
        "only what was thrown in is evidence of a stop",
        "edge.py",
        "if isinstance(error, CancelledError) and self._outer.cancel_called:",
        "if isinstance(error, CancelledError):",
    ),
    Mutation(
        "the boundary lets nothing through",
        "edge.py",
        "                except BaseException as error:\n                    self.error = plain_error(error)",
        "                except Exception as error:\n                    self.error = plain_error(error)",
    ),
    Mutation(
        "a stranger's cancel is used up before our next await",
        "edge.py",
        "if task.cancelling() > base:  #",
        "if False:  #",
    ),
    Mutation(
        "when the grace is over there is one pulse, and then the attempt is stuck",
        "attempt.py",
        "        self.edge.pulse()\n",
        "",
    ),
    Mutation(
        "after a stop nothing more starts",
        "stops.py",
        "    return run.phase is Phase.MAIN or",
        "    return False and run.phase is Phase.MAIN or",
    ),
    Mutation(
        "a stop of a lower rank replaces none of a higher one",
        "lifecycle.py",
        "return old is None or new > old",
        "return True",
        "tests/engine/test_second_stops.py tests/unit/test_lifecycle.py",
    ),
    Mutation(
        "the outcome comes from the graph, and a stop that came later changes nothing",
        "seal.py",
        "    if run.ending in (RunState.SUCCEEDED, RunState.FAILED):",
        "    if run.stop is None and run.ending in (RunState.SUCCEEDED, RunState.FAILED):",
    ),
    Mutation(
        "a run always seals",
        "executor.py",
        "        finally:\n            self._seal.seal(run)",
        "        finally:\n            pass",
    ),
    Mutation(
        "a step begins only when its start is committed",
        "executor.py",
        "await self._hand_over(run).wait()",
        "self._hand_over(run)",
    ),
    Mutation(
        "nobody is shown an event before its commit",
        "journal.py",
        "state=STAGED,",
        "state=SHOWN,",
        "tests/engine tests/unit/test_journal.py",
    ),
    Mutation(
        "whoever is told of a stop is told when it is on record",
        "engine.py",
        "ticket is not None:\n            try:\n                await ticket.wait()",
        "ticket is not None:\n            try:\n                pass",
        "tests/engine/test_told_is_on_record.py",
    ),
    Mutation(
        "a place is given back at the seal",
        "dispatcher.py",
        "            lane.release(run)\n            self._freed()",
        "            self._freed()",
    ),
    Mutation(
        "what is paused stands in no lane",
        "pausing.py",
        "            self._dispatcher.leave(run)\n",
        "",
        "tests/engine/test_pausing.py",
    ),
    Mutation(
        "a shutdown does not take a pause back",
        "liverun.py",
        "return self.held is not None or self.resumed or self.row is RunState.PREEMPTED",
        "return False",
        "tests/engine/test_pausing.py",
    ),
    Mutation(
        "what is paused is cancelled with its clean-up",
        "stops.py",
        "elif run.begun and run.handlers(",
        "elif False and run.handlers(",
        "tests/engine/test_pausing.py tests/engine/test_pause_over_restarts.py",
    ),
    Mutation(
        "a paused run goes on with the code that it began with",
        "keptcode.py",
        "if generation.hash == run.accepted.generation else None",
        "if True else None",
        "tests/engine/test_pause_over_restarts.py",
    ),
    Mutation(
        "a bad unit fails alone",
        "store.py",
        "            _replay(execute, batch)",
        "            raise",
        "tests/engine tests/unit/test_store.py tests/conformance",
    ),
    Mutation(
        "an acceptance that was not stored is undone",
        "admission.py",
        "        self._dispatcher.leave(run)\n",
        "",
        "tests/engine/test_undone.py",
    ),
)


def mutate(mutation: Mutation, scratch: Path) -> Path:
    """Make the mutated copy and give the folder to put on the path."""
    source = scratch / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    file = source / "aura" / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise LookupError(f"{mutation.file} has these lines {text.count(mutation.old)} times: {mutation.old!r}")
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return source


def failures(mutation: Mutation) -> list[str]:
    """Run the tests over the mutated source and name those that failed, or the one that did not end."""
    with tempfile.TemporaryDirectory(prefix="aura-mutation-") as scratch:
        source = mutate(mutation, Path(scratch))
        options = ["-v", "--maxfail=5", "-p", "no:cacheprovider", "-o", f"pythonpath={source} ."]
        command = [sys.executable, "-m", "pytest", *options, *mutation.tests.split()]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired as hanging:
            return [f"hangs in {_last_begun(hanging.stdout or b'')}"]
    return re.findall(r"^(?:FAILED|ERROR) (?:\S*/)?(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)


def _last_begun(output: bytes) -> str:
    lines = [line for line in output.decode().splitlines() if "::" in line]
    return lines[-1].rpartition("/")[2].strip() if lines else "its start"


def main(words: Sequence[str]) -> int:
    """Try every mutation whose rule has one of the words (all without any); give the exit code."""
    unnoticed = 0
    for mutation in MUTATIONS:
        if words and not any(word in mutation.rule for word in words):
            continue
        try:
            failed = failures(mutation)
        except LookupError as error:
            failed = []
            print(error)
        unnoticed += not failed
        print(f"{'noticed  ' if failed else 'UNNOTICED'} {mutation.rule}", *failed, sep="\n            ", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
