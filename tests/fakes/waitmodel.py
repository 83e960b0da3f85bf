"""What runs that wait must come to: a model as simple as can be, and the plan whose tasks it is of.

Time is any clock's, in seconds. A task is stages one after the other, each of waits side by side; behind the last stage
comes a step ``z``. The result of a run is what each wait gave.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from aura.lifecycle import FINAL

ENDED = json.dumps(sorted(state.value for state in FINAL))
#: Nothing has come, and: it has taken too long.
OPEN, TOO_LONG = object(), object()
#: The name of the events that are waited for.
NAME = "go.on"


class Wait:
    """One wait: ``seconds`` is until when at most; ``fails`` says whether the step fails by that."""

    def __init__(self, key: str, kind: str, who: int = -1, seconds: float | None = None, fails: bool = True) -> None:
        self.key = key
        self.kind = kind
        self.who = who
        self.seconds = seconds
        self.fails = fails
        self.until = float("inf")
        self.came: Any = OPEN

    @property
    def is_open(self) -> bool:
        return self.came is OPEN

    def __repr__(self) -> str:
        return f"{self.kind} {self.key} for {self.who} until {self.until}: {'open' if self.is_open else self.came}"


Stages = list[list[Wait]]
#: Task → its stages, of a run that waits for events for ``who``.
TASKS: Mapping[str, Callable[[int], Stages]] = {
    "event": lambda who: [[Wait("a", "event", who)]],
    "event_timed": lambda who: [[Wait("a", "event", who, 30.0)]],
    "event_step_timed": lambda who: [[Wait("a", "event", who, 25.0)]],
    "approval": lambda _: [[Wait("a", "approval")]],
    "approval_timed": lambda _: [[Wait("a", "approval", seconds=10.0)]],
    "sleep": lambda _: [[Wait("a", "sleep", seconds=20.0, fails=False)]],
    "backoff": lambda _: [[Wait("a", "retry", seconds=15.0, fails=False)]],
    "both": lambda who: [[Wait("a", "approval"), Wait("e", "event", who)]],
    "chain": lambda who: [[Wait("e", "event", who)], [Wait("a", "approval")]],
    "timed_beside": lambda who: [[Wait("e", "event", who), Wait("a", "sleep", seconds=35.0, fails=False)]],
    "items": lambda _: [[Wait(f"a[{index}]", "event", index) for index in range(3)]],
    "parent": lambda who: [[Wait("s", "task", who)]],
}
_EVENT = """{action: event.wait, params: {name: go.on, when: "{{ event.payload.who == inputs.who }}"}}"""
_TIMED = _EVENT.replace('inputs.who }}"', 'inputs.who }}", timeout: 30s')
_APPROVAL = "{action: approval.wait, params: {message: Go on, inputs: {n: integer}}}"
_ITEM = _EVENT[:-1].replace("inputs.who", "loop.index") + ", loop: {times: 3, parallelism: 3}}"
_BY_EVENT = "{{ steps.%s.output.payload.n }}"
_BY_ANSWER = "{{ steps.a.output.values.n if steps.a.output.approved else null }}"
#: Task → its steps, and what stands in the result.
_STEPS: Mapping[str, tuple[dict[str, str], str]] = {
    "event": ({"a": _EVENT}, f'"{_BY_EVENT % "a"}", '),
    "event_timed": ({"a": _TIMED}, f'"{_BY_EVENT % "a"}", '),
    "event_step_timed": ({"a": _EVENT[:-1] + ", timeout: 25s}"}, f'"{_BY_EVENT % "a"}", '),
    "approval": ({"a": _APPROVAL}, f'"{_BY_ANSWER}", '),
    "approval_timed": ({"a": _APPROVAL[:-2] + ", timeout: 10s}}"}, f'"{_BY_ANSWER}", '),
    "sleep": ({"a": "{action: sleep, params: {duration: 20s}}"}, "null, "),
    "backoff": ({"a": "{action: first_fails, retry: {attempts: 2, delay: 15s}}"}, "null, "),
    "both": ({"a": _APPROVAL, "e": _EVENT}, f'"{_BY_ANSWER}", "{_BY_EVENT % "e"}", '),
    "chain": ({"e": _EVENT, "a": _APPROVAL[:-1] + ", depends_on: e}"}, f'"{_BY_EVENT % "e"}", "{_BY_ANSWER}", '),
    "timed_beside": (
        {"e": _EVENT, "a": "{action: sleep, params: {duration: 35s}}"},
        f'"{_BY_EVENT % "e"}", null, ',
    ),
    "items": ({"a": _ITEM}, "".join(f'"{{{{ steps.a.output[{n}].payload.n }}}}", ' for n in range(3))),
    "parent": (
        {"s": "{action: task.run, params: {task: event, inputs: {who: '{{ inputs.who }}'}}}"},
        '"{{ steps.s.output[0] }}", ',
    ),
}
_ACTIONS = '''
from aura import Context, action


@action
async def first_fails(ctx: Context) -> None:
    """Fail the first time."""
    if ctx.attempt == 1:
        raise OSError("not yet")
'''


def tasks_of_plan(plan: str) -> dict[str, str]:
    """The files of a plan with these tasks."""
    files = {f"{plan}/actions.py": _ACTIONS}
    for name, (steps, result) in _STEPS.items():
        lines = [f"  {step}: {text}" for step, text in steps.items()]
        last = f"  z: {{action: log, depends_on: [{', '.join(steps)}], params: {{message: done}}}}"
        head = ["inputs: {who: integer}", "steps:", *lines, last, f"returns: [{result.removesuffix(', ')}]"]
        files[f"{plan}/tasks/{name}.yaml"] = "\n".join(head) + "\n"
    return files


class ModelRun:
    """What a run must come to. ``final`` is empty until it has ended."""

    def __init__(self, cid: str, task: str, stages: Stages, now: float) -> None:
        self.cid = cid
        self.task = task
        self.stages = stages
        self.paused = False
        self.final = ""
        self.results: list[Any] = []
        self._done: list[Wait] = []
        self._begin(now)

    def __repr__(self) -> str:
        return f"<{self.task} {self.cid} {self.state} {self.results} {self.stages}>"

    # -- what must be so

    @property
    def state(self) -> str:
        return self.final or ("preempted" if self.paused else "waiting")

    @property
    def waits_for(self) -> set[tuple[str, str]]:
        return {(wait.key, wait.kind) for wait in self._now() if wait.is_open}

    @property
    def steps(self) -> set[str]:
        """All its steps, once it has succeeded."""
        return {"z", *(wait.key.partition("[")[0] for wait in self._done)}

    @property
    def asks(self) -> str:
        """The step that is answered, whether it asks or not."""
        return "s" if self.task == "parent" else "a"

    def refuses_answer(self, good: bool) -> str | None:
        """With which code an answer is refused; None if it is taken."""
        if self.final:
            return "ended"
        for wait in (*self._done, *self._now()):
            if wait.kind == "approval":
                return "answered" if not wait.is_open else None if good else "inputs_invalid"
        return "not_waiting"

    # -- what happens

    def event(self, name: str, who: int, number: int, now: float) -> bool:
        """An event comes; say whether something has waited for it."""
        fitting = [wait for wait in self._now() if wait.is_open and name == NAME and wait.who == who]
        for wait in fitting:
            wait.came = number
        self._go_on(now)
        return bool(fitting)

    def answer(self, number: int | None, now: float) -> None:
        for wait in self._now():
            if wait.kind == "approval":
                wait.came = number
        self._go_on(now)

    def time(self, now: float) -> None:
        for wait in self._now():
            if wait.is_open and wait.until <= now:
                wait.came = TOO_LONG
        self._go_on(now)

    def pause(self) -> None:
        self.paused = not self.final

    def resume(self, now: float) -> None:
        self.paused = False
        self._go_on(now)

    def cancel(self) -> None:
        self.final = self.final or "cancelled"

    def _now(self) -> list[Wait]:
        return [] if self.final or not self.stages else self.stages[0]

    def _begin(self, now: float) -> None:
        for wait in self._now():
            wait.until = float("inf") if wait.seconds is None else now + wait.seconds

    def _go_on(self, now: float) -> None:
        if self.final or self.paused or any(wait.is_open for wait in self._now()):
            return
        done = self.stages.pop(0)
        self._done += done
        if any(wait.came is TOO_LONG and wait.fails for wait in done):
            self.final = "failed"
            return
        self.results += [None if wait.came is TOO_LONG else wait.came for wait in done]
        if self.stages:
            self._begin(now)
        else:
            self.final = "succeeded"
