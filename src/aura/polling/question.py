"""One question of a poll: its action is called once, behind the attempt boundary, and what comes of it is a value.

A question is part of no run, and nothing of it is on record. It has an id of its own, as a run has, by which its
processes and its folder are found; both are gone when it is over. What only a run has its ``ctx`` refuses
(``perform.ask``). It is stopped as a step is: by an edge, a grace and a pulse, and then it is stuck, and may end later.

Who asks, how often, and what an answer means is for ``polls``.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from aura.bus import MAX_PAYLOAD
from aura.context import Log
from aura.errors import BadOutput, StrayCancellation
from aura.events import Emitter
from aura.graph import StepProgress
from aura.lifecycle import Stop
from aura.plan import Plan
from aura.processes.leftovers import end_run_leftovers
from aura.run import Failure, failure_of
from aura.runs.attempt import Attempt, EdgeCause
from aura.runs.deadline import Timed
from aura.runs.perform import ask, checked_output
from aura.runs.runtime import Runtime
from aura.runs.workdirs import remove_workdirs
from aura.schedule import Poll
from aura.task import Source, Step

#: Seconds for which an action may take to answer, at least: one that is asked less often may take that long.
LONGEST = 60.0
#: How long its clean-up may take when it is stopped, in seconds.
GRACE = 5.0
#: How long the search for processes that it has left may take, in seconds: at least, and at most.
LEAST_SWEEP, LONGEST_SWEEP = 0.1, 2.0
#: How many names of its folder are removed at once.
NAMES = 10_000
#: How an action sees the step that it would be in a run.
STEP = "poll"


class Answer(msgspec.Struct, frozen=True):
    """What came of a question: plain JSON data, or why there is none."""

    value: Any = None
    failure: Failure | None = None


class Question:
    """One call of a poll's action, and the ``attempt.Owner`` that its attempt has instead of a run.

    ``name`` is of what wants to know, as people read it; ``scope`` gives what the expressions of the parameters may
    name; ``on_stuck`` is told if it does not end though it should.
    """

    # it times out with its attempt alone
    timer: asyncio.TimerHandle | None = None
    cleanup_deadline = float("inf")
    bounded = False
    parent: Timed | None = None
    awaited_until = float("inf")

    def __init__(
        self,
        runtime: Runtime,
        plan_name: str,
        name: str,
        poll: Poll,
        scope: Callable[[Plan], Mapping[str, Any]],
        on_stuck: Callable[["Question"], object],
    ) -> None:
        self._runtime = runtime
        self.plan_name = plan_name
        self.name = name
        self._poll = poll
        self._scope = scope
        self.cid = runtime.cids.next()
        self.boot_tag = runtime.boot_tag
        self.redactor = runtime.redactor
        self.stop: Stop | None = None
        self.used_processes = False
        self.code_prefixes: tuple[str, ...] = ()
        self._folder = runtime.workdirs / self.cid
        self._has_folder = False
        step = StepProgress(Step(STEP, poll.action, Source("", 0), poll.params))
        step.attempt = step.starts = 1
        self._attempt = Attempt(self, step, GRACE, lambda _: on_stuck(self))

    # -- asking

    async def ask(self) -> Answer:
        """Ask, clean up, and give the answer. Never raises what the action raises."""
        self._attempt.time_out_after(max(LONGEST, self._poll.period))
        if self._attempt.cause is None:  # else it was stopped before its child began
            await self._attempt.edge.attend(self._runtime.body_of(self._attempt, self.call()))
        self._attempt.finish()
        answer = self._answer()
        await self._clean_up()
        return answer

    def request_stop(self, kind: Stop, grace: float) -> None:
        """Stop it, with so many seconds for its clean-up at most; a shorter grace replaces a longer one."""
        self.stop = self.stop or kind
        self._attempt.request_stop(EdgeCause.RUN, kind.label, min(grace, GRACE))

    @property
    def stuck(self) -> bool:
        """Whether it has not ended though it should have."""
        return self._attempt.stuck

    def hangs_at(self) -> str | None:
        """``file:line`` where it is now."""
        return self._attempt.hangs_at()

    async def call(self) -> Any:
        """What runs inside the attempt's boundary; ``culprit`` knows its frame."""
        generation = self._runtime.generations.current(self.plan_name)
        self.code_prefixes = generation.code_prefixes
        home = generation.home_of(self._poll.action)  # held here, with its modules, as long as its code runs
        answer = await ask(self._runtime, home, self._attempt, self._scope(generation.plan))
        value, encoded = checked_output(answer)
        if len(encoded) > MAX_PAYLOAD:
            raise BadOutput(f"the answer is {len(encoded)} bytes of JSON, and an event takes {MAX_PAYLOAD} at most")
        return value

    def _answer(self) -> Answer:
        edge, error = self._attempt.edge, self._attempt.edge.error
        if self._attempt.cause is EdgeCause.TIMEOUT and (edge.seen or self.stuck):
            error = TimeoutError(f"it did not answer within {max(LONGEST, self._poll.period):g} s")
        elif isinstance(error, asyncio.CancelledError):
            error = StrayCancellation("the action was cancelled, and not by Aura")
        if error is None:
            return Answer(edge.value)
        return Answer(failure=failure_of(error, plan_files=self.code_prefixes, hide=self.redactor.text))

    # -- what it leaves

    async def _clean_up(self) -> None:
        if self.used_processes:
            # the scope: this call alone, which has a bound of its own
            with anyio.move_on_after(max(LEAST_SWEEP, min(LONGEST_SWEEP, self._attempt.grace_left()))):
                await end_run_leftovers(self.boot_tag, self.cid)
        if self._has_folder:
            await self._remove_folder()

    async def _remove_folder(self) -> None:
        remove = partial(remove_workdirs, self._runtime.workdirs, [self.cid], NAMES)
        removed = await anyio.to_thread.run_sync(remove)
        while not (removed.gone or removed.failed):
            removed = await anyio.to_thread.run_sync(remove)
        for why in removed.failed.values():
            self.logger().warning(f"the folder {self._folder} of a poll cannot be removed: {why}")

    # -- what its attempt asks of it (attempt.Owner)

    @property
    def workdir(self) -> Path:
        """A folder of its own, made at first use."""
        self._has_folder = True
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder

    def logger(self, *_: Any, **__: Any) -> Log:
        """Make a logger whose lines name the plan and what wants to know."""
        return self._runtime.logs.logger_for(None, self.plan_name).bind(poll=self.name)

    def note_progress(self, *_: Any, **__: Any) -> None:
        """Nobody is shown it."""

    def emitter(self, *_: Any, **__: Any) -> Emitter:
        """What an event says of its origin that its action emits."""
        return Emitter(self.plan_name, None, None, None, None)
