"""The HTTP door over the real server: a plan on disk, a database, runs that run, streams over a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx2
import pytest
from tests.fakes.web import Events, connections, make_settings

from aura.server import Server

HELLO = """\
title: Hello
inputs:
  day: {type: string, pattern: '^[0-9]{4}$'}
  count: {type: integer, default: 1, minimum: 1}
steps:
  - name: say
    action: log
    params: {message: "hello {{ inputs.day }}"}
  - name: count
    action: log
    params: {message: "{{ inputs.count }} times"}
returns: {day: "{{ inputs.day }}"}
"""
LONG = """\
steps:
  nap: {action: sleep, params: {duration: 10m}}
"""


BAD = "inputs_invalid"


class Real(NamedTuple):
    """A running server and a client that has its token."""

    server: Server
    http: httpx2.AsyncClient

    async def run(self, task: str = "hello", **body: Any) -> httpx2.Response:
        inputs = {"day": "2026"} if task == "hello" else {}
        request = {"plan_name": "lab", "task_name": task, "inputs": inputs} | body
        return await self.http.post("/api/tasks/run", json=request)

    async def cid(self, task: str = "hello", **body: Any) -> str:
        answer = await self.run(task, **body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["cid"])

    async def get(self, path: str, **params: Any) -> Any:
        return (await self.http.get(path, params=params)).json()

    async def events(self, cid: str) -> list[dict[str, Any]]:
        """Everything of a run, once it has ended."""
        async with self.http.stream("GET", f"/api/runs/{cid}/events") as answer:
            return await Events(answer).rest()

    async def wait_state(self, cid: str, state: str) -> None:
        with anyio.fail_after(10):
            while (await self.get(f"/api/runs/{cid}"))["state"] != state:
                await anyio.lowlevel.checkpoint()


def refuse_to_leave(code: int) -> None:
    raise AssertionError(f"the server wanted to leave hard with {code}")


@asynccontextmanager
async def open_real(tmp: Path) -> AsyncIterator[Real]:
    (tmp / "plans/lab/tasks").mkdir(parents=True, exist_ok=True)
    (tmp / "plans/lab/tasks/hello.yaml").write_text(HELLO)
    (tmp / "plans/lab/tasks/long.yaml").write_text(LONG)
    server = Server(make_settings(tmp, grace=0.5), leave=refuse_to_leave)
    async with anyio.create_task_group() as group:  # the server, which ends by request_stop
        base = await group.start(server.serve)
        headers = {"Authorization": "Bearer " + (tmp / "data/token").read_text().strip()}
        transport = httpx2.AsyncHTTPTransport(verify=False)
        async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=20, transport=transport) as http:
            yield Real(server, http)
        server.request_stop()


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with open_real(tmp_path) as opened:
        yield opened


async def test_run_goes_from_request_to_result(real: Real) -> None:
    cid = await real.cid(labels={"team": "ops"}, priority=3)
    events = await real.events(cid)
    names = [event["data"].get("name", event["data"].get("message")) for event in events]
    assert names[:3] == ["run.accepted", "run.started", "step.started"]
    assert [name for name in names if name.endswith(("2026", "times"))] == ["hello 2026", "1 times"]
    assert (events[-1]["event"], names[-1]) == ("end", "run.succeeded")
    run = await real.get(f"/api/runs/{cid}")
    assert (run["state"], run["result"], run["labels"], run["priority"]) == (
        "succeeded",
        {"day": "2026"},
        {"team": "ops"},
        3,
    )
    assert [(step["name"], step["state"]) for step in run["steps"]] == [("say", "succeeded"), ("count", "succeeded")]


async def test_ids_of_a_stream_rise_and_the_replay_is_the_same(real: Real) -> None:
    cid = await real.cid()
    live, replayed = await real.events(cid), await real.events(cid)
    ids = [int(event["id"]) for event in live]
    assert ids == sorted(set(ids))
    assert replayed == live


@pytest.mark.parametrize(
    ("body", "code", "paths"),
    [
        pytest.param({"inputs": {"day": "2026", "x": 1, "y": 2}}, BAD, {"/inputs/x", "/inputs/y"}, id="unknown inputs"),
        pytest.param({"inputs": {}}, BAD, {"/inputs/day"}, id="missing input"),
        pytest.param({"inputs": {"count": 0, "x": 1}}, BAD, {f"/inputs/{n}" for n in ("day", "count", "x")}, id="all"),
        pytest.param({"inputs": {"day": "2026", "count": "1"}}, BAD, {"/inputs/count"}, id="text for a number"),
        pytest.param({"inputs": {"day": "2026", "count": 1.5}}, BAD, {"/inputs/count"}, id="fraction for an integer"),
        pytest.param({"inputs": {"day": "{{ 7 * 7 }}"}}, BAD, {"/inputs/day"}, id="pattern"),
        pytest.param({"priority": 1001}, "invalid", {"/priority"}, id="priority too high"),
        pytest.param({"priority": -1001}, "invalid", {"/priority"}, id="priority too low"),
        pytest.param({"lane": "interrupt"}, "invalid", {"/lane"}, id="lane of handlers"),
        pytest.param({"lane": "nope"}, "invalid", {"/lane"}, id="unknown lane"),
        pytest.param({"delay_s": -1}, "invalid", {"/delay_s"}, id="negative delay"),
        pytest.param({"delay_s": 1e12}, "invalid", {"/delay_s"}, id="endless delay"),
    ],
)  # fmt: skip
async def test_bad_request_is_422_with_its_fields_and_nothing_is_stored(
    real: Real, body: dict[str, Any], code: str, paths: set[str]
) -> None:
    answer = await real.run(**body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert {error["path"] for error in answer.json()["errors"]} == paths
    assert (await real.get("/api/runs"))["items"] == []


async def test_unknown_plan_and_task_are_404_with_near_names(real: Real) -> None:
    for body, near in (({"plan_name": "lap"}, "lab"), ({"task_name": "helo"}, "hello")):
        answer = await real.run(**body)
        assert answer.status_code == 404
        assert near in answer.json()["detail"]
    assert (await real.get("/api/runs"))["items"] == []


async def test_atomic_batch_with_one_bad_stores_none(real: Real) -> None:
    good = {"plan_name": "lab", "task_name": "hello", "inputs": {"day": "2026"}}
    answer = await real.http.post("/api/tasks/batch", json={"tasks": [good, good | {"inputs": {}}], "atomic": True})
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == ["/tasks/1/inputs/day"]
    assert (await real.get("/api/runs"))["items"] == []


async def test_cancel_twice_is_202_then_409_with_the_state(real: Real) -> None:
    cid = await real.cid("long")
    await real.wait_state(cid, "running")
    assert [run["cid"] for run in (await real.get("/api/runs/active"))["items"]] == [cid]
    assert (await real.http.post(f"/api/tasks/{cid}/cancel", json={"reason": "enough"})).status_code == 202
    await real.wait_state(cid, "cancelled")
    again = await real.http.post(f"/api/tasks/{cid}/cancel")
    assert (again.status_code, again.json()["code"], again.json()["state"]) == (409, "ended", "cancelled")
    assert (await real.get(f"/api/runs/{cid}"))["reason"] == "enough"


async def test_stopped_engine_queues_and_a_started_one_runs(real: Real) -> None:
    assert (await real.http.post("/api/system/stop", json={"mode": "cancel", "grace_s": 0})).status_code == 202
    with anyio.fail_after(5):
        while (await real.get("/api/system/status"))["state"] != "stopped":
            await anyio.lowlevel.checkpoint()
    cids = [await real.cid(priority=p) for p in (0, 5)]
    assert [item["cid"] for item in (await real.get("/api/queue/list"))["items"]] == cids[::-1]
    assert (await real.http.get("/readyz")).status_code == 503
    assert (await real.http.post("/api/system/start")).json() == {"state": "running"}
    assert [(await real.events(cid))[-1]["event"] for cid in cids] == ["end", "end"]


async def test_reload_tells_where_a_plan_is_wrong_and_keeps_the_old_one(real: Real, tmp_path: Path) -> None:
    (tmp_path / "plans/lab/tasks/hello.yaml").write_text(HELLO.replace("action: log", "acton: log", 1))
    (plan,) = (await real.http.post("/api/system/reload")).json()["plans"]
    assert (plan["name"], plan["status"]) == ("lab", "stale")
    assert ("lab/tasks/hello.yaml", 7) in {(error["file"], error["line"]) for error in plan["errors"]}
    await real.events(await real.cid())


async def test_log_stream_resumes_over_a_restart(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        async with real.http.stream("GET", "/api/logs/stream", params={"plan_name": "lab"}) as answer:
            await real.events(await real.cid(inputs={"day": "1111"}))
            events = Events(answer)
            first = await events.next()
            assert first["data"]["message"] == "hello 1111"
        await real.events(await real.cid(inputs={"day": "2222"}))
    async with open_real(tmp_path) as real:
        await real.events(await real.cid(inputs={"day": "3333"}))
        headers = {"Last-Event-ID": first["id"]}
        async with real.http.stream("GET", "/api/logs/stream", params={"plan_name": "lab"}, headers=headers) as answer:
            found = await Events(answer).messages(5)
    assert found == ["1 times", "hello 2222", "1 times", "hello 3333", "1 times"]


async def test_stream_of_a_run_of_an_older_boot_is_the_same(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        cid = await real.cid()
        before = await real.events(cid)
    async with open_real(tmp_path) as real:
        assert await real.events(cid) == before
        last = {"Last-Event-ID": before[-1]["id"]}
        assert (await real.http.get(f"/api/runs/{cid}/events", headers=last)).status_code == 204


async def test_logs_of_a_run_are_there_as_soon_as_it_has_ended(real: Real) -> None:
    cid = await real.cid()
    await real.events(cid)
    items = (await real.get(f"/api/runs/{cid}/logs"))["items"]
    assert [item["message"] for item in items] == ["hello 2026", "1 times"]


async def test_server_that_goes_refuses_requests_and_tells_streams(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        cid = await real.cid("long")
        async with real.http.stream("GET", f"/api/runs/{cid}/events") as answer:
            events = Events(answer)
            while (await events.next())["data"]["name"] != "step.started":
                pass
            real.server.request_stop()
            refused = await real.run()
            assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
            assert refused.headers["connection"] == "close"
            assert (await events.rest())[-1]["event"] in ("end", "shutdown")
    assert not connections()


async def test_ten_runs_at_once_have_streams_of_their_own(real: Real) -> None:
    cids = [await real.cid(inputs={"day": f"{n:04}"}) for n in range(10)]

    async def follow(cid: str, day: str) -> None:
        messages = [event["data"].get("message") for event in await real.events(cid)]
        assert f"hello {day}" in messages
        assert not {f"hello {n:04}" for n in range(10)} - {f"hello {day}"} & set(messages)

    async with anyio.create_task_group() as group:  # ten readers, which end with their runs
        for n, cid in enumerate(cids):
            group.start_soon(follow, cid, f"{n:04}")
