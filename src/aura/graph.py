"""How far the steps of one graph are: which may start, which can never start, and what the graph as a whole came to.

A task has one graph of its steps and one for each handler (``finally`` and the ``on_…``). This module knows nothing of
children, time or storage; it is told what began and what ended, and says what follows from it. The outcome of a run
comes from here, never from a scope.
"""

from collections.abc import Iterator
from typing import Any

from aura.lifecycle import STEP_FINAL, RunState, StepState, check_step_move
from aura.plan import Step, Steps
from aura.run import Failure

P = StepState
#: Steps that ended by themselves; a cancelled one did not, unless the run was ended early by ``stop``.
_BAD = frozenset({P.FAILED, P.TIMED_OUT})


class StepProgress:
    """One step of one run: its state and all that is on record of it. Times are Unix seconds.

    ``attempt`` counts tries in the present retry budget; ``starts`` every time it began, for ever: it is the fence
    number of a start.
    """

    __slots__ = (
        "attempt",
        "error",
        "finished_at",
        "name",
        "output",
        "output_json",
        "outputs",
        "skipped_because",
        "started_at",
        "starts",
        "state",
        "step",
    )

    def __init__(self, step: Step) -> None:
        self.step = step
        self.name = step.name
        self.state = P.PENDING
        self.attempt = 0
        self.starts = 0
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.output: Any = None
        self.output_json: bytes | None = None
        self.outputs: dict[str, Any] | None = None
        self.error: Failure | None = None
        self.skipped_because: str | None = None

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

    def value(self) -> dict[str, Any]:
        """What ``steps.<name>`` is in an expression: output and outputs are null until it has succeeded."""
        done = self.state is P.SUCCEEDED
        outputs = self.outputs if done and self.outputs else dict.fromkeys(self.step.outputs)
        return {
            "state": self.state.value,
            "output": self.output if done else None,
            "outputs": outputs,
            "error": self.error.shown() if self.error else None,
            "attempt": self.attempt,
        }


class Graph:
    """The progress of all steps of one graph.

    Invariant: ``_open`` counts the steps that have not ended; ``_touched`` holds the pending steps whose dependencies
    have changed since ``take_ready`` last looked, so that a look costs what has changed and not the whole graph.
    """

    __slots__ = ("_dependants", "_open", "_touched", "ended_early_by", "steps")

    def __init__(self, steps: Steps) -> None:
        self.steps = {name: StepProgress(step) for name, step in steps.items()}
        self._dependants: dict[str, list[str]] = {}
        for name, step in steps.items():
            for dependency in step.depends_on:
                self._dependants.setdefault(dependency.step, []).append(name)
        self._touched = list(self.steps)
        self._open = len(self.steps)
        #: The step whose ``stop`` action ended the run, if one did.
        self.ended_early_by: str | None = None

    def __iter__(self) -> Iterator[StepProgress]:
        return iter(self.steps.values())

    @property
    def ended(self) -> bool:
        """Whether every step has ended."""
        return self._open == 0

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

    def give_back(self, progress: StepProgress) -> None:
        """Take back a step that was to start, or was stopped to come back: it is pending again and will be ready."""
        if progress.state is not P.PENDING:
            progress.move(P.PENDING)
        self._touched.append(progress.name)

    def skip(self, progress: StepProgress, because: str) -> None:
        """End a step that will not run, and say why."""
        progress.skipped_because = because
        self.end(progress, P.SKIPPED)

    def end(self, progress: StepProgress, state: StepState) -> None:
        """Give a step its final state and look at its dependants next time."""
        progress.move(state)
        self._open -= 1
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
        if not self.ended or any(p.state is P.CANCELLED for p in self):
            return None
        return RunState.FAILED if self.first_failure() else RunState.SUCCEEDED

    def first_failure(self) -> StepProgress | None:
        """The step whose failure makes the run fail, the earliest one; None if there is none."""
        bad = [p for p in self if p.state in _BAD and not p.step.continue_on_failure]
        return min(bad, key=lambda p: p.finished_at or 0.0) if bad else None
