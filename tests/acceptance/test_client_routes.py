"""Every route of the door by the typed client, over real HTTP: what is answered has the type that is promised."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from tests.fakes.web import TOKEN, Web, open_web

from aura import api
from aura.client import AsyncClient, Pages, Request, Source, Target
from aura.errors import Refused
from aura.run import RunRecord
from aura.web.app import ROUTES
from aura.web.call import ApiRoute
from aura.why import Why

#: Routes that the client leaves out: for supervisors, for browsers, and for clients of other kinds.
NOT_FOR_PROGRAMS = {
    "GET /livez",
    "GET /docs",
    "GET /login",
    "POST /api/login",
    "POST /api/logout",
    "POST /api/hooks/{plan}/{item}",
    "GET /ws/logs",
}


class Lab(NamedTuple):
    """A served door with a queued, a running and an ended run, and a client of it."""

    web: Web
    client: AsyncClient
    queued: RunRecord
    running: RunRecord
    ended: RunRecord


#: What a step of a run asks for, as the engine says it.
ASKED = {"type": "object", "properties": {"version": {"type": "string"}}, "required": ["version"]}
WAIT = {"step": "deploy", "index": None, "kind": "approval", "message": "Go?", "inputs": ASKED, "since": 1, "until": 2}
WAITING_FOR = {"kind": "approval", "names": [], "holders": [], "steps": ["deploy"], "waits": [WAIT], "waits_total": 1}


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with open_web(tmp_path) as web, AsyncClient(Target(web.base, TOKEN)) as client:
        engine = web.engine
        queued, running, ended = engine.add_run(), engine.add_run("running"), engine.add_run("running")
        engine.journal.log("info", "hello", cid=ended.cid, step="ping")
        engine.end(ended)
        engine.change(running, waiting_for=WAITING_FOR)
        engine.whys = [Why("mode", "it runs already", "lab", id=2), Why("mode", "it runs already", "lab", id=1)]
        engine.workdirs = tmp_path / "work"
        (engine.workdirs / ended.cid).mkdir(parents=True)
        (engine.workdirs / ended.cid / "a.txt").write_text("text")
        yield Lab(web, client, queued, running, ended)


async def _made_token(lab: Lab) -> list[api.Token]:
    await lab.client.new_token(["read"])
    return [token async for token in lab.client.tokens()]


async def _revoked(lab: Lab) -> None:
    await lab.client.revoke_token((await lab.client.new_token(["read"])).id)


async def _resumed(lab: Lab) -> api.RunAnswer:
    await lab.client.pause(lab.running.cid)
    return await lab.client.resume(lab.running.cid)


async def _followed(lab: Lab) -> list[Any]:
    """The first line that comes once the stream is open."""
    async with lab.client.follow_logs() as records:
        async with anyio.create_task_group() as group:  # one that speaks until it was heard

            async def speak() -> None:
                while True:
                    lab.web.engine.journal.log("info", "again")
                    await anyio.sleep(0.01)

            group.start_soon(speak)
            first = await anext(records)
            group.cancel_scope.cancel()
        return [first]


async def _heard(lab: Lab) -> list[Any]:
    """The first event that comes once the stream is open."""
    async with lab.client.events("a.*") as records:
        async with anyio.create_task_group() as group:  # one that emits until it was heard

            async def emit() -> None:
                while True:
                    await lab.client.emit("a.b", {"n": 1})
                    await anyio.sleep(0.01)

            group.start_soon(emit)
            first = await anext(records)
            group.cancel_scope.cancel()
        return [first]


#: method → (how it is called, the type of what it answers, or of each of its items).
CALLS: dict[str, tuple[Callable[[Lab], Any], Any]] = {
    "status": (lambda lab: lab.client.status(), api.ServerStatus),
    "ready": (lambda lab: lab.client.ready(), api.Readiness),
    "start": (lambda lab: lab.client.start(), api.EngineAnswer),
    "stop": (lambda lab: lab.client.stop("cancel", 1.0), api.EngineAnswer),
    "reload": (lambda lab: lab.client.reload(), api.ReloadedPlan),
    "metrics": (lambda lab: lab.client.metrics(), str),
    "openapi": (lambda lab: lab.client.openapi(), dict),
    "plans": (lambda lab: lab.client.plans(), api.Plan),
    "tasks": (lambda lab: lab.client.tasks("lab"), api.Task),
    "task": (lambda lab: lab.client.task("lab", "a/b"), api.Task),
    "actions": (lambda lab: lab.client.actions(), api.Action),
    "run_task": (lambda lab: lab.client.run_task("lab", "report", {"day": "x"}), api.Accepted),
    "batch": (lambda lab: lab.client.batch([Request("lab", "report", {"day": "x"})]), api.Batch),
    "cancel": (lambda lab: lab.client.cancel(lab.running.cid, "why"), api.RunAnswer),
    "cancel_where": (lambda lab: lab.client.cancel_where(state="queued"), str),
    "pause": (lambda lab: lab.client.pause(lab.running.cid, "why"), api.RunAnswer),
    "resume": (_resumed, api.RunAnswer),
    "answer": (lambda lab: lab.client.answer(lab.running.cid, "deploy", values={"version": "v1"}), api.RunAnswer),
    "set_priority": (lambda lab: lab.client.set_priority(lab.queued.cid, -5), api.Prioritized),
    "rerun": (lambda lab: lab.client.rerun(lab.ended.cid, "ping"), api.Accepted),
    "get_run": (lambda lab: lab.client.get_run(lab.ended.cid), api.Run),
    "runs": (lambda lab: lab.client.runs(state="succeeded", page_size=1), api.RunShort),
    "active_runs": (lambda lab: lab.client.active_runs(), api.RunShort),
    "logs": (lambda lab: lab.client.logs(lab.ended.cid, level="info"), api.LogRecord),
    "files": (lambda lab: lab.client.files(lab.ended.cid), api.RunFile),
    "download": (lambda lab: lab.client.download(lab.ended.cid, "a.txt"), bytes),
    "wait_run": (lambda lab: lab.client.wait_run(lab.ended.cid, 10), api.Run),
    "queue": (lambda lab: lab.client.queue(lane="main"), api.QueuedRun),
    "queue_overview": (lambda lab: lab.client.queue_overview(), api.QueueOverview),
    "tokens": (_made_token, api.Token),
    "new_token": (lambda lab: lab.client.new_token(["read"], name="x", expires_s=60), api.NewToken),
    "revoke_token": (_revoked, type(None)),
    "login_code": (lambda lab: lab.client.login_code(), api.LoginCode),
    "follow_run": (lambda lab: lab.client.follow_run(lab.ended.cid), api.LogRecord | api.EventRecord),
    "follow_logs": (_followed, api.LogRecord),
    "emit": (lambda lab: lab.client.emit("a.b", {"n": 1}), api.EmittedEvent),
    "why": (lambda lab: lab.client.why(plan_name="lab", page_size=1), api.Why),
    "interrupts": (lambda lab: lab.client.interrupts(), api.Rule),
    "fire": (lambda lab: lab.client.fire("lab", "low_battery", {"n": 1}), api.EmittedEvent),
    "dry_run": (lambda lab: lab.client.dry_run("lab", "low_battery"), api.DryRun),
    "enable_rule": (lambda lab: lab.client.enable_rule("lab", "low_battery"), api.Rule),
    "disable_rule": (lambda lab: lab.client.disable_rule("lab", "low_battery"), api.Rule),
    "events": (_heard, api.EventRecord),
    "schedule": (lambda lab: lab.client.schedule(), api.ScheduledItem),
    "item": (lambda lab: lab.client.item("lab", "nightly"), api.ScheduledItem),
    "preview": (lambda lab: lab.client.preview("lab", "nightly", datetime(2027, 1, 1, tzinfo=UTC)), api.Preview),
    "run_item": (lambda lab: lab.client.run_item("lab", "nightly", {"day": "x"}), api.Accepted),
    "enable_item": (lambda lab: lab.client.enable_item("lab", "nightly"), api.ScheduledItem),
    "disable_item": (lambda lab: lab.client.disable_item("lab", "nightly"), api.ScheduledItem),
}


async def answer(found: Any) -> list[Any]:
    """What a call gives in the end, as a list."""
    if isinstance(found, Pages | Source):
        return [item async for item in found]
    found = await found
    return list(found) if isinstance(found, list) else [found]


@pytest.mark.parametrize("method", CALLS)
async def test_answer_has_its_type(lab: Lab, method: str) -> None:
    call, kind = CALLS[method]
    with anyio.fail_after(20):
        found = await answer(call(lab))
    assert found
    assert {type(item) for item in found} - {kind} == set() or all(isinstance(item, kind) for item in found)


async def test_every_route_has_a_method(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = set()
    handle = ApiRoute.handle

    async def noted(self: ApiRoute, scope: Any, receive: Any, send: Any) -> None:
        reached.add(f"{scope['method']} {self.path}")
        await handle(self, scope, receive, send)

    monkeypatch.setattr(ApiRoute, "handle", noted)
    for name in sorted(CALLS, key=lambda name: name in ("cancel", "cancel_where", "stop")):
        lab.web.engine.change(lab.running, state="running")
        with anyio.fail_after(20):
            await answer(CALLS[name][0](lab))
    routes = {f"{method} {route.path}" for route in ROUTES for method in route.methods or ()}
    assert reached == {route for route in routes if not route.startswith("HEAD ")} - NOT_FOR_PROGRAMS


def test_every_method_is_called_here() -> None:
    methods = {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose", "target"}
    assert set(CALLS) == methods


async def test_what_was_asked_arrives(lab: Lab) -> None:
    calls = lab.web.engine.calls
    await lab.client.rerun(lab.ended.cid, "ping")
    await lab.client.cancel(lab.running.cid, "no need")
    await lab.client.stop("cancel", 2.5)
    wanted = [("rerun", lab.ended.cid, "ping"), ("cancel", lab.running.cid, "no need"), ("stop", "cancel", 2.5)]
    assert [call for call in calls if call in wanted] == wanted


async def test_run_that_ends_in_time_is_answered_whole(lab: Lab) -> None:
    ended: list[api.Accepted | api.Run] = []
    async with anyio.create_task_group() as group:  # the request, which ends with the run that the body ends

        async def ask() -> None:
            ended.append(await lab.client.run_task("lab", "report", {"day": "x"}, wait=20))

        group.start_soon(ask)
        await _until(lambda: lab.web.engine.ends)
        lab.web.engine.end(list(lab.web.engine.records.values())[-1])
    assert [type(run) for run in ended] == [api.Run]


async def test_pages_are_fetched_to_the_last(lab: Lab) -> None:
    wanted = [lab.ended.cid, lab.running.cid, lab.queued.cid]
    assert [run.cid async for run in lab.client.runs(page_size=1)] == wanted
    first = await lab.client.runs(page_size=2).page()
    second = await lab.client.runs(page_size=2).page(first.next_cursor)
    assert [run.cid for run in (*first.items, *second.items)] == wanted
    assert second.next_cursor is None


async def test_same_key_is_the_same_run(lab: Lab) -> None:
    cids = {(await lab.client.run_task("lab", "report", {"day": "x"}, idempotency_key="k")).cid for _ in range(2)}
    assert len(cids) == 1


async def test_stranger_learns_whether_it_is_ready(lab: Lab) -> None:
    async with AsyncClient(Target(lab.web.base)) as stranger:
        assert await stranger.ready() == api.Readiness(ready=True, reasons=[])
        with pytest.raises(Refused) as caught:
            await stranger.status()
    assert caught.value.code == "unauthorized"


async def test_wait_that_is_cut_off_leaves_nothing_and_the_stream_goes_on(lab: Lab) -> None:
    before = asyncio.all_tasks()
    records = lab.client.follow_run(lab.running.cid)
    lab.web.engine.tell(lab.running, "run.started")
    first = await anext(records)
    with anyio.move_on_after(0.05):
        await anext(records)
    await anyio.wait_all_tasks_blocked()
    left = {task for task in asyncio.all_tasks() - before if "aura.client" in repr(task)}
    assert left == set()
    lab.web.engine.end(lab.running)
    with anyio.fail_after(10):
        rest = [record async for record in records]
    assert [getattr(record, "name", None) for record in (first, *rest)] == ["run.started", "run.succeeded"]


async def test_stream_that_is_left_is_hung_up(lab: Lab) -> None:
    lab.web.engine.tell(lab.running, "run.started")
    async with lab.client.follow_run(lab.running.cid) as records:
        await anext(records)
    await _until(lambda: not lab.web.engine.journal.readers)


async def _until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_program_is_not_taken_for_the_command_line(lab: Lab) -> None:
    accepted = await lab.client.run_task("lab", "report", {"day": "x"})
    assert (await lab.client.get_run(accepted.cid)).cause.kind == "api"
