"""How far the steps of one graph are: which may start, which can never start, and what the graph as a whole came to.

A task has one graph of its steps and one for each handler (``finally`` and the ``on_…``). This module knows nothing of
children, time or storage; it is told what began and what ended, and says what follows from it. The outcome of a run
comes from here, never from a scope.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from aura.lifecycle import STEP_FINAL, RunState, StepState, check_step_move
from aura.run import Failure
from aura.task import Step, Steps

P = StepState
#: Steps that ended by themselves; a cancelled one did not, unless the run was ended early by ``stop``.
BAD = frozenset({P.FAILED, P.TIMED_OUT})


class Progress:
    """What can be tried, of one run: a step, or one item of a step that loops. Times are Unix seconds.

    ``attempt`` counts tries in the present retry budget; ``starts`` every time it began, for ever: it is the fence
    number of a start. ``key`` names it within its run: the step's name, or ``name[index]``.
    """

    __slots__ = (
        "attempt",
        "error",
        "finished_at",
        "key",
        "name",
        "output",
        "output_json",
        "outputs",
        "since",
        "started_at",
        "starts",
        "state",
        "step",
        "times_out_at",
    )

    #: Of an item its position, counted from 0; None of a step.
    index: int | None

    def __init__(self, step: Step, key: str) -> None:
        self.step = step
        self.name = step.name
        self.key = key
        self.state = P.PENDING
        self.attempt = 0
        self.starts = 0
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.output: Any = None
        self.output_json: bytes | None = None
        self.outputs: dict[str, Any] | None = None
        self.error: Failure | None = None
        #: The id that the next record had when its last start was written down: it misses no event from there on.
        self.since = 0
        #: When the present try times out, in Unix seconds, if it has waited for a sub-task and goes on.
        self.times_out_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.state in STEP_FINAL

    def move(self, to: StepState) -> None:
        """Change the state.

        Raises:
            InternalError: the lifecycle has no such move.
        """
        check_step_move(self.state, to)
        self.state = to


class StepProgress(Progress):
    """One step of one run: its state and all that is on record of it.

    ``skipped_because`` says in words why it was skipped, ``explained`` in data: see ``explain``. ``loop`` is there once
    a step that loops has begun.
    """

    __slots__ = ("explained", "loop", "skipped_because")
    index = None

    def __init__(self, step: Step) -> None:
        super().__init__(step, step.name)
        self.skipped_because: str | None = None
        self.explained: dict[str, Any] | None = None
        self.loop: LoopProgress | None = None

    def value(self) -> dict[str, Any]:
        """What ``steps.<name>`` is in an expression: output and outputs are null until it has succeeded."""
        done = self.state is P.SUCCEEDED
        outputs = self.outputs if done and self.outputs else dict.fromkeys(self.step.outputs)
        value = {
            "state": self.state.value,
            "output": self.output if done else None,
            "outputs": outputs,
            "error": self.error.shown() if self.error else None,
            "attempt": self.attempt,
        }
        if self.step.loop is not None:
            value["each"] = each = self.loop.each() if self.loop else []
            value["failed"] = [item for item in each if item["state"] in BAD]
        return value


class ItemProgress(Progress):
    """One item of a step that loops, or one round of it: what it goes over, and how far it is."""

    __slots__ = ("index", "item")
    index: int

    def __init__(self, step: Step, index: int, item: Any) -> None:
        super().__init__(step, f"{step.name}[{index}]")
        self.index = index
        self.item = item

    def value(self) -> dict[str, Any]:
        """What ``steps.<name>.each[index]`` is in an expression."""
        return {
            "item": self.item,
            "state": self.state.value,
            "output": self.output if self.state is P.SUCCEEDED else None,
            "error": self.error.shown() if self.error else None,
        }


class LoopProgress:
    """How far a step that loops is. It knows nothing of when an item may begin: see ``loops``.

    ``over`` are the items as they were frozen, None for the rounds of ``while`` and ``until``; ``over_json`` is what is
    on record of them. ``items`` are those that have begun or wait to, in their order: ``items[n].index`` is ``n``.

    Invariant: ``open`` counts the items that have not ended; ``left`` are those of them that were to run and were taken
    back, so that they begin before any other does.
    """

    __slots__ = ("failure", "items", "left", "open", "over", "over_json", "rested", "unasked")

    def __init__(self, over: Sequence[Any] | None, over_json: bytes) -> None:
        self.over = over
        self.over_json = over_json
        self.items: list[ItemProgress] = []
        self.left: list[ItemProgress] = []
        self.open = 0
        #: The first failure of an item, if it ends the loop.
        self.failure: Failure | None = None
        #: Its rest before the next round is over.
        self.rested = False
        #: Whether it is over has to be asked before anything more of it begins.
        self.unasked = True

    @property
    def total(self) -> int | None:
        """How many items there are; None of rounds: nobody knows."""
        return None if self.over is None else len(self.over)

    @property
    def ended(self) -> int:
        """How many items have ended."""
        return len(self.items) - self.open

    def last_before(self, index: int) -> Any:
        """The output of the item before this index; None if it has none, or none yet."""
        if not 0 < index <= len(self.items):
            return None
        before = self.items[index - 1]
        return before.output if before.state is P.SUCCEEDED else None

    def add(self, step: Step) -> ItemProgress:
        """The next item, as one that has not begun."""
        index = len(self.items)
        item = ItemProgress(step, index, index if self.over is None else self.over[index])
        self.items.append(item)
        self.open += 1
        return item

    def end(self, item: ItemProgress, state: StepState) -> None:
        """Give an item its final state."""
        item.move(state)
        self.open -= 1

    def give_back(self, item: ItemProgress) -> None:
        """Take back an item that was to run, or was stopped to come back: it is pending again."""
        item.times_out_at = None
        if item.state is not P.PENDING:
            item.move(P.PENDING)
        if item not in self.left:
            self.left.append(item)

    def each(self) -> list[dict[str, Any]]:
        """``steps.<name>.each``: those that never began are pending."""
        begun = [item.value() for item in self.items]
        rest = self.over[len(begun) :] if self.over is not None else ()
        return begun + [{"item": item, "state": P.PENDING.value, "output": None, "error": None} for item in rest]


class Graph:
    """The progress of all steps of one graph.

    Invariant: ``_open`` counts the steps that have not ended; ``_touched`` holds the pending steps whose dependencies
    have changed since ``take_ready`` last looked, so that a look costs what has changed and not the whole graph.
    """

    __slots__ = ("_dependants", "_open", "_touched", "ended_early_by", "looping", "steps")

    def __init__(self, steps: Steps) -> None:
        self.steps = {name: StepProgress(step) for name, step in steps.items()}
        self._dependants: dict[str, list[str]] = {}
        for name, step in steps.items():
            for dependency in step.depends_on:
                self._dependants.setdefault(dependency.step, []).append(name)
        self._touched = list(self.steps)
        self._open = len(self.steps)
        #: The steps that are under way as loops, by name.
        self.looping: dict[str, StepProgress] = {}
        #: The step whose ``stop`` action ended the run, if one did.
        self.ended_early_by: str | None = None

    def __iter__(self) -> Iterator[StepProgress]:
        return iter(self.steps.values())

    def find(self, key: str) -> Progress:
        """The step, or the item of one, whose ``key`` this is."""
        name, _, index = key.partition("[")
        step = self.steps[name]
        if not index:
            return step
        assert step.loop is not None
        return step.loop.items[int(index[:-1])]

    def loop_of(self, item: ItemProgress) -> LoopProgress:
        """The loop that an item is part of."""
        loop = self.steps[item.name].loop
        assert loop is not None
        return loop

    @property
    def ended(self) -> bool:
        """Whether every step has ended."""
        return self._open == 0

    def goes_on(self, progress: Progress) -> bool:
        """Whether something of it may still begin: its graph was not ended early, nor its loop by a failure."""
        if self.ended_early_by is not None:
            return False
        return not isinstance(progress, ItemProgress) or self.loop_of(progress).failure is None

    def begin_loop(self, progress: StepProgress) -> None:
        """Note that a step is about to run as a loop."""
        self.looping[progress.name] = progress

    def take_ready(self) -> tuple[list[StepProgress], list[StepProgress]]:
        """Give the steps that may start now, and those that were skipped because they never can.

        Each ready step is given once; whoever takes it starts it, skips it, or gives it back (``give_back``).
        """
        ready: list[StepProgress] = []
        skipped: list[StepProgress] = []
        while self._touched:
            touched, self._touched = self._touched, []
            for name in touched:
                progress = self.steps[name]
                if progress.state is not P.PENDING or progress in ready:
                    continue
                verdict = self._verdict(progress.step)
                if verdict is True:
                    ready.append(progress)
                elif isinstance(verdict, str):
                    self.skip(progress, verdict)
                    skipped.append(progress)
        return ready, skipped

    def _verdict(self, step: Step) -> bool | str | None:
        """True: it may start. A text: it never can, and why. None: not yet."""
        unmet: str | None = None
        waiting = met = False
        for dependency in step.depends_on:
            state = self.steps[dependency.step].state
            if state not in STEP_FINAL:
                waiting = True
            elif state in dependency.states:
                met = True
            else:
                unmet = f"{dependency.step} {state.value.replace('_', ' ')}"
        if step.any_of and step.depends_on:
            return True if met else None if waiting else unmet
        if unmet is not None:
            return unmet
        return None if waiting else True

    def give_back(self, progress: Progress) -> None:
        """Take back what was to start, or was stopped to come back: it is pending again and will be ready."""
        if isinstance(progress, ItemProgress):
            self.loop_of(progress).give_back(progress)
            return
        progress.times_out_at = None
        if progress.state is not P.PENDING:
            progress.move(P.PENDING)
        self.looping.pop(progress.name, None)
        self._touched.append(progress.name)

    def skip(self, progress: StepProgress, because: str) -> None:
        """End a step that will not run, and say why."""
        progress.skipped_because = because
        self.end(progress, P.SKIPPED)

    def end(self, progress: StepProgress, state: StepState) -> None:
        """Give a step its final state and look at its dependants next time."""
        progress.move(state)
        self._open -= 1
        self.looping.pop(progress.name, None)
        self._touched += self._dependants.get(progress.name, ())

    def put_ended(self, progress: StepProgress, state: StepState) -> None:
        """Put a step that has not begun where the record says that it ended: no move, since that was made earlier."""
        progress.state = state
        self._open -= 1
        self._touched += self._dependants.get(progress.name, ())

    def end_early(self, by: str) -> list[StepProgress]:
        """End the graph as succeeded: what has not begun is skipped and given; what runs is for the caller to stop."""
        self.ended_early_by = by
        left = [p for p in self if p.state is P.PENDING]
        for progress in left:
            self.skip(progress, f"{by} ended the run")
        self._touched.clear()
        return left

    def outcome(self) -> RunState | None:
        """What the graph came to: succeeded or failed; None if not every step has ended, or one was cut off."""
        if self.ended_early_by:
            return RunState.SUCCEEDED if self.ended else None
        if not self.ended:
            return None
        states = {p.state for p in self.steps.values()}
        if P.CANCELLED in states:
            return None
        return RunState.SUCCEEDED if states.isdisjoint(BAD) or self.first_failure() is None else RunState.FAILED

    def first_failure(self) -> StepProgress | None:
        """The step whose failure makes the run fail, the earliest one; None if there is none."""
        bad = [p for p in self if p.state in BAD and not p.step.continue_on_failure]
        return min(bad, key=lambda p: p.finished_at or 0.0) if bad else None
