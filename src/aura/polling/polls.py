"""Polls: actions that are asked again and again, and the turns from false to true that their answers make.

Theory of operation. A poll asks one question (``question``) at a time, in a child of the group of runs, so that one
that hangs keeps nothing else from ending. Between two questions it is a timer and nothing more.

- *When it asks.* The next question comes ``period`` after the last one began, or as soon as that has ended if it took
  longer. After a failure the time doubles with each further one, up to ``LONGEST_PAUSE``; after an answer it is the
  period again. A failure is in the log when it is the first, or another than the one before, and degrades nothing.
- *Whether it asks.* Before each question it asks whose it is (``Listener.interest``). While nobody would listen it does
  not ask, and forgets what it knew, or keeps it if the listening is about to go on.
- *A turn* is an answer that holds after one that did not. The first one that holds is a turn as well, if whose it is
  says so; what has failed is no answer and changes nothing.
- *Stops.* It rests while the engine is stopped, and begins anew at the start. What it was asking is stopped then, and
  the answer counts no more; so it is when the plan does not have that poll any more. A reload leaves a poll alone that
  is as it was. One that hangs is asked nothing until it has ended after all.

Its timers are in the background (``eventloop.IN_BACKGROUND``): they are no sign that anybody can go on.

What a crash does: nothing of a poll is on record. The next boot ends its processes; its folder goes as that of a run
that is not on record.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextvars import copy_context
from enum import Enum, auto
from typing import Any, Protocol

import anyio

from aura.eventloop import IN_BACKGROUND
from aura.lifecycle import Stop
from aura.plan import Plan
from aura.polling.question import Answer, Question
from aura.run import Failure, failure_of
from aura.runs.runtime import Runtime
from aura.schedule import Poll

#: The longest time between two questions after failures, in seconds; a longer period stays as it is.
LONGEST_PAUSE = 300.0


class Interest(Enum):
    """Whether an answer would be listened to."""

    ASK = auto()
    #: Not now, but what is known still counts.
    REST = auto()
    #: No, and what is known is of no use any more.
    FORGET = auto()


class Listener(Protocol):
    """Whose poll it is. ``name`` is what people are shown of it."""

    name: str
    plan_name: str

    @property
    def interest(self) -> Interest: ...

    @property
    def counts_first(self) -> bool:
        """Whether the first answer is a turn, if it holds."""

    def scope(self, plan: Plan) -> Mapping[str, Any]:
        """What the expressions of the action's parameters may name."""

    def holds(self, answer: Any) -> bool:
        """Say whether an answer, plain JSON data, is one that counts. What it raises is a failure of the poll."""

    def turn(self, answer: Any, lost: Callable[[], object]) -> None:
        """It holds, and did not before. ``lost`` is to be called if what follows could not be stored."""


class LivePoll:
    """One poll as it is served. Made by ``Polls``."""

    def __init__(self, polls: "Polls", spec: Poll, listener: Listener) -> None:
        self.spec = spec
        self.listener = listener
        self._polls = polls
        self._runtime = polls.runtime
        #: It is to ask again and again. Else it rests, once its last question is over.
        self._on = False
        self._timer: asyncio.TimerHandle | None = None
        self._question: Question | None = None
        #: Loop time at which the last question began.
        self._began = 0.0
        #: Whether its last answer held; None while there was none that is to be remembered.
        self._held: bool | None = None
        #: Of the last question that was answered, or failed: Unix seconds, and why it failed.
        self._last_at: float | None = None
        self._failure: Failure | None = None
        #: How many have failed since the last answer.
        self._failures = 0

    # -- being on

    def start(self) -> None:
        """Ask, from now on."""
        if not self._on:
            self._on = True
            self.forget()
            self._arm(0.0)

    def request_stop(self, kind: Stop, grace: float) -> None:
        """Ask nothing more, and stop what is being asked; a shorter grace replaces a longer one."""
        self._on = False
        self.cancel_timer()
        if self._question is not None:
            self._question.request_stop(kind, grace)

    def wake(self) -> None:
        """Ask now, if it waits to ask."""
        if self._timer is not None:
            self._arm(0.0)

    def forget(self) -> None:
        """Know of no former answer, and of no failure."""
        self._held, self._failures = None, 0

    @property
    def asking(self) -> bool:
        """Whether a question has not ended."""
        return self._question is not None

    @property
    def stuck(self) -> bool:
        """Whether a question does not end though it should have."""
        return self._question is not None and self._question.stuck

    def cancel_timer(self) -> None:
        """Ask nothing by itself until it is armed again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, seconds: float) -> None:
        self.cancel_timer()
        if self._on and self._question is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._due, context=self._polls.context)

    def _arm_next(self) -> None:
        pause = min(self.spec.period * 2.0 ** min(self._failures, 30), max(LONGEST_PAUSE, self.spec.period))
        self._arm(max(0.0, self._began + pause - asyncio.get_running_loop().time()))

    # -- asking

    def _due(self) -> None:
        self._timer = None
        self._began = asyncio.get_running_loop().time()
        try:
            match self.listener.interest:
                case Interest.ASK:
                    self._ask()
                    return
                case Interest.FORGET:
                    self.forget()
        except Exception as error:
            self._runtime.fault(f"{self} could not be asked", error)
        self._arm_next()

    def _ask(self) -> None:
        listener = self.listener
        self._question = question = Question(
            self._runtime, listener.plan_name, listener.name, self.spec, listener.scope, self._note_stuck
        )
        # in ``runs``: ends with the question, or is left behind with it as stuck
        self._runtime.runs.start_soon(self._attend, question, name=str(self))

    async def _attend(self, question: Question) -> None:
        try:
            answer = await question.ask()
            if question.stuck:
                question.logger().warning(f"{self} has ended after all")
            if question.stop is None:
                self._take(answer)
        except BaseException as error:  # ours, since the boundary lets nothing through
            self._runtime.fault(f"{self} was broken off", error)
        finally:
            self._question = None
            self._arm_next()
            self._polls.note_end()

    def _note_stuck(self, question: Question) -> None:
        question.logger().error(f"{self} does not end and is left behind; it hangs at {question.hangs_at()}")
        self._polls.note_end()

    # -- what an answer means

    def _take(self, answer: Answer) -> None:
        if self.listener.interest is not Interest.ASK:  # nobody listens any more
            return
        self._last_at = self._runtime.clock.wall()
        try:
            holds = answer.failure is None and self.listener.holds(answer.value)
        except Exception as error:
            answer = Answer(failure=failure_of(error, hide=self._runtime.redactor.text))
        self._runtime.measures.note_poll(self.listener.plan_name, failed=answer.failure is not None)
        if answer.failure is not None:
            self._fail(answer.failure)
            return
        self._failure, self._failures = None, 0
        former, self._held = self._held, holds
        if holds and not former and (former is False or self.listener.counts_first):
            self.listener.turn(answer.value, self.forget)

    def _fail(self, failure: Failure) -> None:
        former, self._failure = self._failure, failure
        self._failures += 1
        if former is None or (former.type, former.message) != (failure.type, failure.message):
            said = f"{self} has failed: {failure.type}: {failure.message}"
            self._runtime.logs.logger_for(None, self.listener.plan_name).bind(poll=self.listener.name).warning(said)

    # -- looking

    def shown(self) -> dict[str, Any]:
        """What doors show of it. ``last_at`` is in Unix seconds; in ``next_in_s`` it asks, if anybody listens."""
        state = None if self._last_at is None else "ok" if self._failure is None else "failed"
        left = None if self._timer is None else max(0.0, self._timer.when() - asyncio.get_running_loop().time())
        return {
            "action": self.spec.action,
            "every_s": self.spec.period,
            "last_at": self._last_at,
            "last_state": "stuck" if self.stuck else state,
            "error": self._failure.shown() if self._failure else None,
            "failures": self._failures,
            "next_in_s": None if left is None else round(left, 3),
        }

    def __str__(self) -> str:
        return f"the poll {self.spec.action} of {self.listener.name}"


class Polls:
    """All polls. They ask while the engine runs."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        #: In which timers and questions run: that of the server, whoever starts or reloads it.
        self.context = copy_context()
        self._on = False
        #: By whose they are, and then by what they say.
        self._served: dict[Hashable, dict[str, LivePoll]] = {}
        #: Those that are not served any more, while their last question has not ended.
        self._leaving: dict[tuple[Hashable, str], LivePoll] = {}
        self._ended = anyio.Event()

    # -- which there are

    def keep(self, owner: Hashable, wanted: Sequence[tuple[Poll, Any, Listener]]) -> None:
        """Have exactly these polls of ``owner``: each what it asks, what its ``when`` says, and who listens.

        Those that it had go on as they are, others begin and end.
        """
        former, now = self._served.pop(owner, {}), dict[str, LivePoll]()
        for spec, when, listener in wanted:
            says = _says(spec, when)
            while says in now:
                says += " again"
            now[says] = self._take(former.pop(says, None) or self._leaving.pop((owner, says), None), spec, listener)
        for says, poll in former.items():
            poll.request_stop(Stop.CANCEL, float("inf"))
            if poll.asking:
                self._leaving[owner, says] = poll
        if now:
            self._served[owner] = now

    def of(self, owner: Hashable) -> list[LivePoll]:
        """The polls of ``owner``, in their order."""
        return list(self._served.get(owner, {}).values())

    def _take(self, found: LivePoll | None, spec: Poll, listener: Listener) -> LivePoll:
        poll = found or LivePoll(self, spec, listener)
        poll.spec, poll.listener = spec, listener
        if self._on:
            poll.start()
        return poll

    def wake(self, owner: Hashable) -> None:
        """Have the polls of ``owner`` ask now, and not when their time has come."""
        for poll in self.of(owner):
            poll.wake()

    def _all(self) -> Iterator[LivePoll]:
        for polls in self._served.values():
            yield from polls.values()
        yield from self._leaving.values()

    # -- being on

    def start(self) -> None:
        """Begin to ask. Harmless if it does already."""
        self.context = copy_context()
        self.context.run(IN_BACKGROUND.set, True)
        self._on = True
        for polls in self._served.values():
            for poll in polls.values():
                poll.start()

    def request_stop(self, grace: float = float("inf")) -> None:
        """Ask nothing more, and stop what is being asked, with ``grace`` seconds for clean-up at most."""
        self._on = False
        for poll in self._all():
            poll.request_stop(Stop.SHUTDOWN, grace)

    async def wait_idle(self) -> None:
        """Return once nothing is being asked but what is stuck."""
        while any(poll.asking and not poll.stuck for poll in self._all()):
            self._ended = anyio.Event()
            await self._ended.wait()

    def note_end(self) -> None:
        """A question has ended, or is stuck."""
        self._leaving = {key: poll for key, poll in self._leaving.items() if poll.asking}
        self._ended.set()

    # -- looking

    @property
    def left(self) -> list[str]:
        """What is being asked, with where it hangs if it does; at the server's end nothing should be."""
        return [str(poll) for poll in self._all() if poll.asking]

    @property
    def stuck(self) -> list[str]:
        """What is stuck."""
        return [str(poll) for poll in self._all() if poll.stuck]

    def close(self) -> None:
        """Stop the timers, at the server's end."""
        for poll in self._all():
            poll.cancel_timer()


def _says(spec: Poll, when: Any) -> str:
    """What makes a poll the one that it is, whatever else of its plan changes."""
    return repr((spec.action, {key: value.value for key, value in spec.params.items()}, spec.period, when))
