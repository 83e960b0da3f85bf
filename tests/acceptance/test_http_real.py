"""The HTTP door over the real server: a plan on disk, a database, runs that run, streams over a restart."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.real import HELLO, Real, open_real
from tests.fakes.web import Events, connections

BAD = "inputs_invalid"


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


async def stop_engine(real: Real) -> None:
    """Stop what runs, and return once it has stopped."""
    assert (await real.http.post("/api/system/stop", json={"mode": "cancel", "grace_s": 0})).status_code == 202
    with anyio.fail_after(5):
        while (await real.get("/api/system/status"))["state"] != "stopped":
            await anyio.lowlevel.checkpoint()


async def test_stopped_engine_queues_and_a_started_one_runs(real: Real) -> None:
    await stop_engine(real)
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


# -- clients that go, plans that change -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "stored"),
    [
        pytest.param(0.5, 0.0, 0, id="within the head"),
        pytest.param(1.0, 0.0, 0, id="before the body"),
        pytest.param(1.0, 0.5, 0, id="within the body"),
        pytest.param(1.0, 1.0, 1, id="before the answer"),
    ],
)
async def test_request_of_a_client_that_goes_is_stored_whole_or_not_at_all(
    real: Real, head: float, body: float, stored: int
) -> None:
    raw = json.dumps({"plan_name": "lab", "task_name": "hello", "inputs": {"day": "2026"}}).encode()
    url = real.http.base_url
    lines = ["POST /api/tasks/run HTTP/1.1", f"Host: {url.host}:{url.port}", "Content-Type: application/json"]
    lines += [f"Authorization: {real.http.headers['Authorization']}", f"Content-Length: {len(raw)}", "", ""]
    asked = "\r\n".join(lines).encode()
    before = connections()
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        await stream.send(asked[: int(head * len(asked))] + raw[: int(body * len(raw))])
    with anyio.fail_after(5):
        while connections() - before or len((await real.get("/api/runs"))["items"]) < stored:
            await anyio.lowlevel.checkpoint()
    items = (await real.get("/api/runs"))["items"]
    assert len(items) == stored
    for item in items:
        await real.wait_state(item["cid"], "succeeded")


async def test_run_keeps_the_plan_that_it_started_with(real: Real, tmp_path: Path) -> None:
    task = tmp_path / "plans/lab/tasks/gate.yaml"
    wait = {
        "name": "wait",
        "action": "shell.run",
        "params": {"shell": f"until [ -e {tmp_path}/open ]; do sleep 0.01; done"},
    }
    say = {"name": "say", "action": "log", "params": {"message": "first"}}
    task.write_text(json.dumps({"steps": [wait, say]}))
    await real.http.post("/api/system/reload")
    cid = await real.cid("gate")
    await real.wait_state(cid, "running")
    task.write_text(json.dumps({"steps": [wait, say | {"params": {"message": "second"}}]}))
    (plan,) = (await real.http.post("/api/system/reload")).json()["plans"]
    (tmp_path / "open").touch()
    said = [event["data"].get("message") for event in await real.events(cid)]
    assert ("first" in said, "second" in said) == (True, False)
    assert (await real.get(f"/api/runs/{cid}"))["generation"] != plan["generation"]
    assert "second" in [event["data"].get("message") for event in await real.events(await real.cid("gate"))]


@pytest.mark.parametrize("gone", ["plans/lab", "plans/lab/tasks/hello.yaml"], ids=["whole plan", "task"])
async def test_queued_run_of_what_was_removed_fails_and_says_so(real: Real, tmp_path: Path, gone: str) -> None:
    await stop_engine(real)
    cid = await real.cid()
    (tmp_path / gone).rename(tmp_path / "gone")
    await real.http.post("/api/system/reload")
    await real.http.post("/api/system/start")
    assert (await real.events(cid))[-1]["event"] == "end"
    run = await real.get(f"/api/runs/{cid}")
    assert (run["state"], run["reason"]) == ("failed", "plan_removed")
    said = "the plan lab has no task 'hello'" if gone.endswith(".yaml") else "there is no plan 'lab'"
    assert said in run["error"]["message"]
    assert (await real.run()).status_code == 404


ACTION = "from aura import action\n@action\ndef say() -> str:\n    return 'first'\n"


async def test_queued_run_whose_action_was_removed_runs_the_last_good_version(real: Real, tmp_path: Path) -> None:
    (tmp_path / "plans/lab/tasks/own.yaml").write_text("steps: {a: {action: say}}\nreturns: '{{ steps.a.output }}'\n")
    (tmp_path / "plans/lab/actions.py").write_text(ACTION)
    await real.http.post("/api/system/reload")
    await stop_engine(real)
    cid = await real.cid("own")
    (tmp_path / "plans/lab/actions.py").write_text(ACTION.replace("say", "speak"))
    (plan,) = (await real.http.post("/api/system/reload")).json()["plans"]
    assert (plan["status"], "there is no action 'say'" in plan["errors"][0]["message"]) == ("stale", True)
    await real.http.post("/api/system/start")
    await real.wait_state(cid, "succeeded")
    assert (await real.get(f"/api/runs/{cid}"))["result"] == "first"


async def test_import_that_starts_a_thread_is_said_in_the_log(real: Real, tmp_path: Path) -> None:
    code = "import threading\nend = threading.Timer(0.1, int)\nend.name = 'poller'\nend.start()\n"
    (tmp_path / "plans/lab/actions.py").write_text(code)
    async with real.http.stream("GET", "/api/logs/stream", params={"level": "warning"}) as answer:
        await real.http.post("/api/system/reload")
        assert "the import started a thread, poller" in (await Events(answer).next())["data"]["message"]
