"""A ``Context`` whose host remembers what an action did, for tests of actions without an engine."""

import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aura.actions import Action
from aura.builtin import shipped
from aura.context import Context
from aura.loading.generations import Generations
from aura.redaction import Redactor, Stream

#: The plans that come with Aura.
PLANS = Path(__file__).parents[2] / "plans"


class FakeLog:
    """Keeps lines as (level, text)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def debug(self, event: str, **fields: Any) -> None:
        self.lines.append(("debug", event))

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event))

    def exception(self, event: str, **fields: Any) -> None:
        self.lines.append(("exception", event))

    def texts(self, level: str) -> list[str]:
        return [text for kind, text in self.lines if kind == level]


class FakeState:
    """What a plan remembers, as long as the test lasts: a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    async def set(self, key: str, value: Any, ttl: float | str | None) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> bool:
        return self.values.pop(key, self) is not self

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | str | None) -> bool:
        if self.values.get(key) != expected:
            return False
        self.values[key] = value
        return True

    async def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.values if key.startswith(prefix))


class FakeHost:
    """Stands where the attempt stands; ``grace`` is what ``ctx.grace_left()`` gives, ``on_progress`` hears it all."""

    def __init__(self, workdir: Path) -> None:
        self.live = True
        self.plan_name = "p"
        self.log = FakeLog()
        self.stopping_because: str | None = None
        self.workdir = workdir
        self.process_environment: Mapping[str, str] = {
            "AURA_BOOT": "teststore.1",
            "AURA_CID": str(uuid.uuid4()),
            "AURA_STEP": "step",
            "AURA_ATTEMPT": "1",
        }
        self.grace = math.inf
        self.redactor = Redactor()
        self.progressed: list[tuple[float, float | None, str]] = []
        self.on_progress: Callable[[float], None] = lambda done: None
        #: ("run" or "start", plan, task, inputs) of each task that was asked for.
        self.asked: list[tuple[str, str | None, str, dict[str, Any]]] = []
        #: (name, payload) of each event that was emitted.
        self.emitted: list[tuple[str, Any]] = []
        self.state = FakeState()
        self.checkpointed: Any = None

    async def checkpoint(self, value: Any) -> None:
        self.checkpointed = value

    def grace_left(self) -> float:
        return self.grace

    def time_left(self) -> float:
        return math.inf

    def progress(self, done: float, total: float | None, message: str) -> None:
        self.progressed.append((done, total, message))
        self.on_progress(done)

    def hiding(self) -> Stream:
        return self.redactor.stream()

    async def run_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> Any:
        self.asked.append(("run", plan, task, dict(inputs)))
        return {"ran": task}

    async def start_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> str:
        self.asked.append(("start", plan, task, dict(inputs)))
        return "cid-2"

    async def emit(self, event: str, payload: Any) -> str:
        self.emitted.append((event, payload))
        return str(len(self.emitted))


class Bench:
    """Calls actions as an attempt does: parameters checked, result made plain JSON."""

    def __init__(self, workdir: Path, actions: Mapping[str, Action]) -> None:
        self.host = FakeHost(workdir)
        self.workdir = workdir
        self.ctx = Context(self.host, cid="cid", step="step", attempt=1, variables={}, secrets={})
        self._actions = actions

    @property
    def log(self) -> FakeLog:
        return self.host.log

    def function(self, name: str) -> Callable[..., Any]:
        return self._actions[name].function

    async def call(self, name: str, /, **params: Any) -> Any:
        action = self._actions[name]
        given = action.bind(params)
        result = action.function(self.ctx, **given) if action.wants_context else action.function(**given)
        return action.check_result(await result)


async def plan_bench(plan_name: str, workdir: Path) -> Bench:
    """A bench with the actions of one of the plans that come with Aura, loaded as a server loads them."""
    generations = Generations(PLANS, shipped())
    await generations.reload()
    return Bench(workdir, generations.current(plan_name).actions)
