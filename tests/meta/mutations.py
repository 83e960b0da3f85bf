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
        "runs/edge.py",
        "            self._inner.shield = True\n        else:",
        "            self._pending = True\n        else:",
    ),
    Mutation(
        "an edge that was not taken in its turn closes the shield as soon as it is",
        "runs/edge.py",
        "if self._pending and self._task.cancelling() > before:",
        "if False:",
    ),
    Mutation(
        "only what was thrown in is evidence of a stop",
        "runs/edge.py",
        "if isinstance(error, CancelledError) and self._outer.cancel_called:",
        "if isinstance(error, CancelledError):",
    ),
    Mutation(
        "the boundary lets nothing through",
        "runs/edge.py",
        "                except BaseException as error:\n                    self.error = plain_error(error)",
        "                except Exception as error:\n                    self.error = plain_error(error)",
    ),
    Mutation(
        "a stranger's cancel is used up before our next await",
        "runs/edge.py",
        "if task.cancelling() > base:  #",
        "if False:  #",
    ),
    Mutation(
        "when the grace is over there is one pulse, and then the attempt is stuck",
        "runs/attempt.py",
        "        self.edge.pulse()\n",
        "",
    ),
    Mutation(
        "after a stop nothing more starts",
        "runs/stops.py",
        "return run.stop is not None and not run.bounded",
        "return False and not run.bounded",
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
        "runs/seal.py",
        "    if run.ending in (RunState.SUCCEEDED, RunState.FAILED):",
        "    if run.stop is None and run.ending in (RunState.SUCCEEDED, RunState.FAILED):",
    ),
    Mutation(
        "a run always seals",
        "kernel/executor.py",
        "        finally:\n            self._leaving.leave(run)",
        "        finally:\n            pass",
    ),
    Mutation(
        "a step begins only when its start is committed",
        "kernel/executor.py",
        "await self._hand_over(run).wait()",
        "self._hand_over(run)",
    ),
    Mutation(
        "no more items of a loop run at once than may",
        "runs/loops.py",
        "while loop.open < rules.parallelism and",
        "while",
        "tests/engine/test_loops.py",
    ),
    Mutation(
        "after its first failure nothing more of a loop begins",
        "runs/loops.py",
        "    if loop.failure is not None:\n        return []\n",
        "",
        "tests/engine/test_loops.py",
    ),
    Mutation(
        "what a stop cut off of a loop begins again",
        "runs/seal.py",
        "                _give_back_items(run, progress)\n",
        "",
        "tests/engine/test_loops_stopped.py",
    ),
    Mutation(
        "a try that cannot fit the time that is left is not begun",
        "runs/retries.py",
        "if delay < left or withheld(run):",
        "if True:",
        "tests/engine/test_retries.py",
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
        "engine/steering.py",
        "ticket is not None:\n            try:\n                await ticket.wait()",
        "ticket is not None:\n            try:\n                pass",
        "tests/engine/test_told_is_on_record.py",
    ),
    Mutation(
        "a place is given back at the seal",
        "kernel/dispatcher.py",
        "            lane.release(run)\n        elif run not in self.gone:",
        "            pass\n        elif run not in self.gone:",
    ),
    Mutation(
        "what is paused stands in no lane",
        "kernel/pausing.py",
        "            self._dispatcher.leave(run)\n",
        "",
        "tests/engine/test_pausing.py",
    ),
    Mutation(
        "a shutdown does not take a pause back",
        "runs/liverun.py",
        "return self.held is not None or self.resumed or self.row is RunState.PREEMPTED",
        "return False",
        "tests/engine/test_pausing.py",
    ),
    Mutation(
        "what is paused is cancelled with its clean-up",
        "runs/stops.py",
        "if run.begun and (run.children or ",
        "if run.begun and (run.children or False and ",
        "tests/engine/test_pausing.py tests/engine/test_pause_over_restarts.py",
    ),
    Mutation(
        "what is put away before a run rests",
        "kernel/executor.py",
        "run.begun_starts > starts:",
        "run.begun_starts < starts:",
        "tests/engine/test_on_preempt.py tests/engine/test_on_resume.py",
    ),
    Mutation(
        "what a run needs comes before it goes on",
        "kernel/executor.py",
        "            if graph.outcome() is not RunState.SUCCEEDED:\n",
        "            if False:\n",
        "tests/engine/test_on_resume.py",
    ),
    Mutation(
        "a paused run goes on with the code that it began with",
        "runs/keptcode.py",
        "if generation.hash == run.accepted.generation else None",
        "if True else None",
        "tests/engine/test_pause_over_restarts.py",
    ),
    Mutation(
        "what an attempt is told, its sub-tasks are told in the same turn",
        "kernel/children.py",
        "        attempt.on_told = self._pass_on\n",
        "",
        "tests/engine/test_children.py tests/engine/test_children_stopped.py",
    ),
    Mutation(
        "a step that comes back goes on with the sub-task that it had",
        "kernel/children.py",
        "next((c for c in children if c.accepted.call == call and c.reason != UNAWAITED), None)",
        "None",
        "tests/engine/test_children.py tests/engine/test_children_stopped.py",
    ),
    Mutation(
        "no sub-task runs on behind the back of its attempt",
        "kernel/executor.py",
        "            if attempt.step.key in run.children:",
        "            if False:",
        "tests/engine/test_children.py tests/engine/test_children_stopped.py",
    ),
    Mutation(
        "a sub-task that hangs makes its parent one that hangs",
        "kernel/executor.py",
        "if run.parent is not None and run.parent.state in PLACED and not run.parent.stuck:",
        "if False:",
        "tests/engine/test_children.py tests/engine/test_children_stopped.py",
    ),
    Mutation(
        "after a crash no sub-task starts alone",
        "kernel/orphans.py",
        "else decide_child(own, decided.get(parent_cid))",
        "else own",
        "tests/engine/test_boot_trees.py",
    ),
    Mutation(
        "only what may run again does, after a crash",
        "kernel/orphans.py",
        "            return rule is Rule.AGAIN\n",
        "            return True\n",
        "tests/engine/test_resume_at_every_turn.py",
    ),
    Mutation(
        "the code of a run that goes on is kept",
        "kernel/executor.py",
        "keeping_code(run) if run.recovery is Recovery.RESUME else None",
        "None",
        "tests/engine/test_resume_at_every_turn.py",
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
        "kernel/admission.py",
        "        self._dispatcher.leave(run)\n",
        "",
        "tests/engine/test_undone.py",
    ),
    Mutation(
        "a run takes all that it needs before it has a place",
        "kernel/dispatcher.py",
        "if self._has_code(run) and self._claims.take_start(run, partial(self._turn_of, run)):",
        "if self._claims.take_start(run, partial(self._turn_of, run)) or True:",
        "tests/engine/test_modes.py tests/engine/test_resources_of_runs.py",
    ),
    Mutation(
        "a later claim does not take what an earlier one waits for",
        "kernel/pool.py",
        "    return bool(queue) and queue[0][0] < claim.order",
        "    return False",
        "tests/unit/test_pool.py",
    ),
    Mutation(
        "what runs does not wait behind what has yet to start",
        "kernel/pool.py",
        "(claim.outside and _stands_before(found.outside, claim))",
        "_stands_before(found.outside, claim)",
        "tests/unit/test_pool.py tests/engine/test_resources_of_runs.py",
    ),
    Mutation(
        "a wait that would close a circle is refused",
        "kernel/pool.py",
        "self._left()\n        if claim.holder in left:",
        "self._left()\n        if False:",
        "tests/unit/test_pool.py tests/engine/test_resources_of_runs.py",
    ),
    Mutation(
        "the order of those who wait closes no circle",
        "kernel/pool.py",
        "        stays = claim.holder in self._left(in_order=True)",
        "        stays = False",
        "tests/unit/test_pool.py",
    ),
    Mutation(
        "a rate is spent",
        "kernel/pool.py",
        "                found.level -= need",
        "                pass",
        "tests/unit/test_pool.py",
    ),
    Mutation(
        "a run gives its resources back at every seal, and its slot at the last",
        "kernel/claims.py",
        "self.pool.give_back(run.claims.holder, keep_slots=True)",
        "self.pool.give_back(run.claims.holder)",
        "tests/engine/test_modes.py",
    ),
    Mutation(
        "a try gives back what it took when it has ended",
        "kernel/executor.py",
        "            self._claims.end_try(run, attempt.step.key)\n",
        "",
        "tests/engine/test_resources_of_runs.py",
    ),
    Mutation(
        "a run replaces others only when it is on record",
        "kernel/admission.py",
        "        unit = accept_run(shown, ",
        "        if task.mode.kind is ModeKind.RESTART:\n            self._modes.replace(run)\n"
        "        unit = accept_run(shown, ",
        "tests/engine/test_modes.py",
    ),
    Mutation(
        "what an open firing covers does not start",
        "kernel/holds.py",
        "return not any(keeps(firing, run) for firing in self.open)",
        "return True",
        "tests/engine/test_interrupts.py",
    ),
    Mutation(
        "a handler waits for the clean-up of what its firing stops",
        "kernel/holds.py",
        "return self.open[0] is run.firing and run.firing.ready",
        "return self.open[0] is run.firing",
        "tests/engine/test_interrupts.py",
    ),
    Mutation(
        "a firing ends in the unit that ends its handler",
        "runs/victims.py",
        "return None if run.firing is None else end_firing(",
        "return None if run.firing is None or run.row is not RunState.QUEUED else end_firing(",
        "tests/engine/test_interrupts_at_every_turn.py",
    ),
    Mutation(
        "the boot ends a firing whose handler does not live",
        "engine/boot.py",
        "        staged.extend(end_dead(execute, runtime, dead, clock.wall()))\n",
        "",
        "tests/engine/test_interrupts_over_restarts.py",
    ),
    Mutation(
        "what is to start over does so in the boot",
        "engine/boot.py",
        "if restarted := restarted_by(dead):",
        "if restarted := set[int]():",
        "tests/engine/test_interrupts_over_restarts.py",
    ),
    Mutation(
        "nothing starts after a crash before the firings are open again",
        "engine/engine.py",
        "        self.interrupts.take_over(firings)\n",
        "",
        "tests/engine/test_interrupts_over_restarts.py",
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
