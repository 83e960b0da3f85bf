"""Doing what a case says, over one store, and comparing what came of it (``cases.py`` has the keys)."""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.fakes.kernel import copy_of
from tests.language.cases import Case

from aura.config import Settings, load_settings
from aura.errors import RequestError
from aura.lifecycle import STEP_FINAL
from aura.store import StoreBackend
from aura.stores.memory import MemoryBackend
from aura.stores.sqlite import SqliteBackend
from aura.testing.run import Run
from aura.testing.world import World, open_world

#: The longest that a case may take, in virtual seconds.
LIMIT = 10 * 365 * 86400.0


class Memory:
    """The store in memory: how a case opens it, and what a crash leaves of it."""

    def __init__(self, folder: Path) -> None:
        self.backend: StoreBackend = MemoryBackend()

    def again(self) -> StoreBackend:
        """After a stop."""
        return self.backend

    def left(self) -> StoreBackend:
        """What is committed now."""
        self.backend = copy_of(cast(MemoryBackend, self.backend))
        return self.backend


class Sqlite:
    """The same of the store on a disk."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "aura.db"
        self._file.touch(0o600)
        self._file.write_bytes(_empty_file())
        self.backend: StoreBackend = SqliteBackend(self._file)

    def again(self) -> StoreBackend:
        return SqliteBackend(self._file)

    def left(self) -> StoreBackend:
        before, self._file = self._file, self._file.with_name(f"after-{self._file.name}")
        source, target = sqlite3.connect(before), sqlite3.connect(self._file)
        source.backup(target)
        source.close()
        target.close()
        self._file.chmod(0o600)
        self.backend = SqliteBackend(self._file)
        return self.backend


@cache
def _empty_file() -> bytes:
    """A database in which there is nothing yet: to make one takes longer than most cases."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "aura.db")
        SqliteBackend(file).close()
        return file.read_bytes()


StoreKind = Callable[[Path], Memory | Sqlite]


def write(plans: Path, case: Case) -> None:
    """Write the plan files of a case."""
    for path, text in case.files():
        file = plans / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def settings_of(case: Case, folder: Path) -> Settings:
    """Settings below this folder, with the resources of the case."""
    flags = {"data": folder / "data", "plans": folder / "plans"}
    made = load_settings(flags, {}, None, folder)
    return msgspec.structs.replace(made, **_resources(case, folder))


def _resources(case: Case, folder: Path) -> dict[str, Any]:
    if "resources" not in case.data:
        return {}
    lines = [f"{name} = {_toml(value)}" for name, value in case.data["resources"].items()]
    (folder / "aura.toml").write_text("\n".join(["[resources]", *lines]))
    return {"resources": load_settings({}, {}, None, folder).resources}


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + "}"
    return msgspec.json.encode(value).decode()


class Doing:
    """A case that is being done: its world, which a crash or a restart replaces, and its runs by name."""

    def __init__(self, case: Case, folder: Path, kind: StoreKind, stack: AsyncExitStack) -> None:
        self.data = case.data
        self.runs: dict[str, Run] = {}
        self.world: World
        self._stack = stack
        self._store = kind(folder)
        self._plan = folder / "plans/p"
        self._settings = settings_of(case, folder)

    async def check(self) -> None:
        """Do what the case says, wait until nothing runs any more, and compare."""
        await self._open(self._store.backend)
        began = self.world.loop.time()
        try:
            for doing in self.data.get("do", [{"start": "t", **self.data.get("wishes", {})}]):
                await self._do(dict(doing))
            await self.world.loop.wait_until(lambda: not self.world.engine.runtime.open, LIMIT)
        except RequestError as refused:
            check_refusal(refused, self.data.get("refused"))
            return
        assert "refused" not in self.data, "it was not refused"
        took = self.world.loop.time() - began
        if "takes" in self.data:
            assert took == pytest.approx(self.data["takes"], abs=0.01), self._explained()
        await self._check_logs()
        self._check_nothing_is_open()
        if "do" not in self.data:
            await self._check_run(self.runs["t"], self.data)
        self._check_values()
        for name, expected in self.data.get("runs", {}).items():
            await self._check_run(self.runs[name], expected)
        for task, states in self.data.get("all", {}).items():
            assert [run.state for run in self.world.runs(task)] == states, self._explained()

    async def _open(self, backend: StoreBackend) -> None:
        secrets = self.data.get("secrets", {})
        world = open_world(self._plan, settings=self._settings, backend=backend, secrets=secrets)
        self.world = await self._stack.enter_async_context(world)
        self.runs = {name: Run(self.world, run.cid) for name, run in self.runs.items()}

    async def _do(self, doing: dict[str, Any]) -> None:
        """Do one thing; ``refused`` is the code with which it is to be refused."""
        refused = doing.pop("refused", None)
        if refused is None:
            await self._do_one(doing)
            return
        with pytest.raises(RequestError) as caught:
            await self._do_one(doing)
        assert caught.value.code == refused

    async def _do_one(self, doing: dict[str, Any]) -> None:
        match doing:
            case {"start": task, **wishes}:
                name, inputs = wishes.pop("as", task), wishes.pop("inputs", self.data.get("inputs"))
                self.runs[name] = await self.world.start(task, inputs=inputs, **wishes)
            case {"together": starts}:
                for one in starts:
                    await self._do(dict(one))
            case {"find": task, "as": name}:
                self.runs[name] = self.world.runs(task)[-1]
            case {"wait": seconds}:
                await self.world.advance(seconds)
            case {"emit": event, **keys}:
                await self.world.engine.runtime.bus.emit(event, keys.get("payload")).ticket.wait()
            case {"fire": rule, **keys}:
                cid = await self.world.fire(rule, keys.get("payload"))
                self.runs[keys.get("as", rule)] = Run(self.world, cid)
            case {"until": name, **what}:
                await self.world.until(self.runs[name], **what)
            case {"crash": True}:
                left = self._store.left()
                await self._stack.aclose()
                await self._open(left)
            case {"restart": True}:
                await self._stack.aclose()
                await self._open(self._store.again())
            case _:
                await self._steer(doing)

    async def _steer(self, doing: dict[str, Any]) -> None:
        """What a user does with one run, by its name."""
        engine = self.world.engine
        match doing:
            case {"cancel": name, **keys}:
                await engine.cancel(self.runs[name].cid, keys.get("reason"))
            case {"engine": "stop"}:
                await engine.stop("cancel", 10.0)
            case {"engine": "start"}:
                await engine.start()
            case {"pause": name, **keys}:
                await engine.pause(self.runs[name].cid)
                if keys.get("rests", True):
                    await self.world.loop.wait_until(lambda: self.runs[name].state == "preempted")
            case {"resume": name}:
                await engine.resume(self.runs[name].cid)
            case {"answer": name, "step": step, **keys}:
                index, approved, values = keys.get("index"), keys.get("approved", True), keys.get("values", {})
                await engine.answer(self.runs[name].cid, step, index, approved, values, "somebody")
            case {"priority": name, "to": number}:
                await engine.set_priority(self.runs[name].cid, number)
            case {"rerun": name, "as": other, **keys}:
                receipt = await engine.rerun(self.runs[name].cid, keys.get("from"))
                self.runs[other] = Run(self.world, receipt.cid)
            case _:
                raise AssertionError(f"nobody can do {doing}")

    async def _check_logs(self) -> None:
        entries = [e.record() for e in await self.world.engine.history.log_entries(limit=100_000)]
        if "said" in self.data:
            check_said([r["message"] for r in entries if r["fields"].get("said")], self.data["said"])
        for part in self.data.get("logged", ()):
            assert any(part in r["message"] for r in entries), [r["message"] for r in entries]

    def _check_nothing_is_open(self) -> None:
        """Of runs that have ended no step and no item is open, and nothing waits."""
        for table in ("step", "item"):
            states = self.world.backend.execute(f"SELECT DISTINCT state FROM {table}").fetchall()
            assert {state for (state,) in states} <= STEP_FINAL, (table, self._explained())
        for table in ("wait", "checkpoint"):
            assert self.world.backend.execute(f"SELECT * FROM {table}").fetchall() == []

    def _check_values(self) -> None:
        """Compare the expressions of a case with their values, and those that are wrong with their errors."""
        for index, (expression, value) in enumerate(self.data.get("values", ())):
            check_same(self.runs["t"].result[index], value, f"{expression}\n{self._explained()}")
        for index, (expression, part) in enumerate(self.data.get("wrong", ())):
            error = self.runs["t"].steps[f"w{index}"].error
            assert error is not None, expression
            assert part in error["message"], (expression, error["message"])
            assert error["type"] == "expression_error", (expression, error)

    def _explained(self) -> str:
        return "\n".join(run.explain() for run in self.world.runs())

    async def _check_run(self, run: Run, expected: Mapping[str, Any]) -> None:
        record, steps = run.record, run.steps
        members = {key: expected[key] for key in ("state", "reason", "result") if key in expected}
        for key, value in {**members, **expected.get("record", {})}.items():
            check_same(getattr(record, key), value, self._explained())
        for key, found in (("error", record.error), ("cleanup", record.cleanup_error)):
            if key in expected:
                check_error(found, expected[key])
        if "steps" in expected:
            assert {name: step.state for name, step in steps.items()} == expected["steps"], self._explained()
        for name, value in expected.get("outputs", {}).items():
            check_same(steps[name].output, value, self._explained())
        for name, error in expected.get("errors", {}).items():
            check_error(steps[name].error, error)
        for name, members in expected.get("because", {}).items():
            explained = steps[name].explained
            assert explained is not None, self._explained()
            assert {key: explained.get(key) for key in members} == members
        assert all(step.state in STEP_FINAL for step in steps.values()), self._explained()


def check_same(found: Any, expected: Any, explained: str) -> None:
    """Compare plain data, with the types of JSON: to Python true is 1, and 1 is 1.0."""
    assert found == expected, explained
    if isinstance(expected, dict | list | bool | int | float):
        assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True), explained


def check_error(found: Mapping[str, Any] | None, expected: Mapping[str, Any] | None) -> None:
    if expected is None:
        assert found is None, found
        return
    assert found is not None
    for key, value in expected.items():
        if key == "message":
            assert value in found["message"], found
        else:
            assert found[key] == value, found


def check_refusal(refused: RequestError, expected: Mapping[str, Any] | None) -> None:
    if expected is None:
        raise refused
    assert refused.code == expected["code"], refused
    found = {error.path: error.message for error in refused.errors}
    assert found.keys() == expected.get("errors", found).keys(), found
    for path, part in expected.get("errors", {}).items():
        assert part in found[path]


def check_said(found: Sequence[str], expected: Sequence[Any]) -> None:
    """Compare what was said; a list among what is expected may have come in any order."""
    position = 0
    for part in expected:
        group = [str(text) for text in part] if isinstance(part, list) else [str(part)]
        assert sorted(found[position : position + len(group)]) == sorted(group), (found, expected)
        position += len(group)
    assert list(found[position:]) == [], (found, expected)
