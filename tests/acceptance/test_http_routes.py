"""What the routes answer: shapes, statuses, pages. The engine behind them is a small one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.web import Web, open_web

from aura.run import Cause, Request, StepRecord
from aura.web.query import make_cursor

GOOD = {"plan_name": "lab", "task_name": "report", "inputs": {"day": "x"}}
CAUSE = {"kind": "api", "item": None, "rule": None, "event_id": None, "cid": None, "step": None, "index": None}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


async def get(web: Web, path: str, **params: Any) -> Any:
    answer = await web.http.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_run_is_accepted_with_its_location(web: Web) -> None:
    full = GOOD | {"priority": 5, "lane": "event", "delay_s": 1.5, "labels": {"team": "ops"}}
    answer = await web.http.post("/api/tasks/run", json=full)
    body = answer.json()
    assert answer.status_code == 202
    assert body == {"cid": body["cid"], "state": "queued", "plan_name": "lab", "task_name": "report"}
    assert answer.headers["location"] == f"/api/runs/{body['cid']}"
    wanted = Request("lab", "report", {"day": "x"}, 5, "event", 1.5, {"team": "ops"})
    assert web.engine.asked == [(wanted, Cause("api"))]


async def test_integer_may_be_written_with_a_point(web: Web) -> None:
    assert (await web.http.post("/api/tasks/run", json=GOOD | {"priority": 7.0})).status_code == 202
    assert web.engine.asked[0][0].priority == 7


async def test_run_asked_for_by_the_command_has_the_cause_cli(web: Web) -> None:
    await web.http.post("/api/tasks/run", json=GOOD, headers={"User-Agent": "aura-cli/0.1"})
    assert web.engine.asked[0][1] == Cause("cli")


async def test_batch_answers_in_order(web: Web) -> None:
    answer = await web.http.post("/api/tasks/batch", json={"tasks": [GOOD, GOOD | {"task_name": "a/b", "inputs": {}}]})
    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["refused"]) == (2, 0)
    assert [set(item) for item in body["items"]] == [{"cid", "state"}] * 2
    assert [web.engine.records[item["cid"]].task_name for item in body["items"]] == ["report", "a/b"]


async def test_large_batch_is_taken(web: Web) -> None:
    answer = await web.http.post("/api/tasks/batch", json={"tasks": [GOOD] * 1000, "atomic": True})
    assert answer.json()["accepted"] == 1000


async def test_whole_run_has_every_field(web: Web) -> None:
    run = web.engine.add_run("succeeded", started_at=1.0, finished_at=3.5, result={"a": 1}, accepted_at=0.5, due=0.5)
    web.engine.steps[run.cid] = [StepRecord("ping", "succeeded", 1, 1.0, 2.25, "out")]
    web.engine.progress[run.cid] = {"ping": {"done": 1, "total": 2, "message": ""}}
    found = await get(web, f"/api/runs/{run.cid}")
    assert found == {
        "cid": run.cid, "plan_name": "lab", "task_name": "report", "generation": "abc", "lane": "main", "priority": 0,
        "labels": {}, "state": "succeeded", "reason": None, "error": None, "cleanup_error": None, "attempt": 0,
        "due": "1970-01-01T00:00:00.500000Z", "accepted_at": "1970-01-01T00:00:00.500000Z", "not_before": None,
        "started_at": "1970-01-01T00:00:01Z", "finished_at": "1970-01-01T00:00:03.500000Z",
        "progress": {"ping": {"done": 1, "total": 2, "message": ""}}, "waiting_for": None, "parent_cid": None,
        "stuck": False, "preempted_by": None, "preemptions": 0, "cause": CAUSE, "inputs": {"day": "x"},
        "result": {"a": 1},
        "steps": [
            {
                "name": "ping", "state": "succeeded", "attempt": 1, "started_at": "1970-01-01T00:00:01Z",
                "finished_at": "1970-01-01T00:00:02.250000Z", "duration_s": 1.25, "output": "out", "error": None,
                "skipped_because": None, "explained": None, "items": None, "items_total": None, "items_ended": None,
                "items_failed": None,
            }
        ],
        "sub_tasks": [], "victims": [], "victim_count": 0,
    }  # fmt: skip


async def test_list_has_short_records_newest_first(web: Web) -> None:
    runs = [web.engine.add_run() for _ in range(3)]
    items = (await get(web, "/api/runs"))["items"]
    assert [item["cid"] for item in items] == [run.cid for run in reversed(runs)]
    assert not {"steps", "inputs", "result"} & set(items[0])


@pytest.mark.parametrize("path", ["/api/runs", "/api/runs/active"])
async def test_pages_hold_each_run_once_while_others_arrive(web: Web, path: str) -> None:
    runs = [web.engine.add_run("running") for _ in range(25)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await get(web, path, limit=10, **cursor)
        seen += [item["cid"] for item in page["items"]]
        web.engine.add_run("running")
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [run.cid for run in reversed(runs)]


async def test_filters_reach_the_store(web: Web) -> None:
    await get(
        web, "/api/runs", state="failed", plan_name="lab", label=["team:ops", "a:b:c"], cid="x,y",
        since="2026-11-22T00:00:00Z", until="2026-11-22T01:00:00+01:00",
    )  # fmt: skip
    wanted = web.engine.calls[-1][1]
    assert (wanted.state, wanted.plan_name, wanted.labels, wanted.cids) == (
        "failed", "lab", {"team": "ops", "a": "b:c"}, ("x", "y"),
    )  # fmt: skip
    assert wanted.since == wanted.until == 1795305600.0


async def test_logs_of_a_run_are_in_order_and_in_pages(web: Web) -> None:
    run = web.engine.add_run()
    entries = [web.engine.journal.log("info", str(n), cid=run.cid) for n in range(5)]
    web.engine.journal.log("info", "other", cid="other")
    first = await get(web, f"/api/runs/{run.cid}/logs", limit=3)
    second = await get(web, f"/api/runs/{run.cid}/logs", limit=3, cursor=first["next_cursor"])
    assert first["items"] + second["items"] == [entry.record() for entry in entries]
    assert second["next_cursor"] is None


async def test_logs_of_a_run_by_level(web: Web) -> None:
    run = web.engine.add_run()
    web.engine.journal.log("info", "a", cid=run.cid)
    web.engine.journal.log("error", "b", cid=run.cid)
    assert [i["message"] for i in (await get(web, f"/api/runs/{run.cid}/logs", level="warning"))["items"]] == ["b"]


async def test_queue_is_in_pages_in_its_order(web: Web) -> None:
    runs = [web.engine.add_run() for _ in range(5)]
    first = await get(web, "/api/queue/list", limit=2)
    web.engine.change(runs[1], state="running")  # the run that the cursor stands for leaves the queue
    second = await get(web, "/api/queue/list", limit=2, cursor=first["next_cursor"])
    assert [item["cid"] for item in first["items"]] == [runs[0].cid, runs[1].cid]
    assert second["items"][0]["cid"] in (runs[2].cid, runs[3].cid)
    assert set(first["items"][0]) == {
        "cid", "plan_name", "task_name", "lane", "priority", "state", "accepted_at", "not_before", "waiting_for"
    }  # fmt: skip
    assert first["items"][0]["accepted_at"].endswith("Z")


@pytest.mark.parametrize("position", ["", "x", "1", "{}", '["x"]', "[1e999]", "[[1]]", "[1] 2"])
async def test_made_up_place_in_the_queue_is_refused(web: Web, position: str) -> None:
    answer = await web.http.get("/api/queue/list", params={"cursor": make_cursor("queue", position)})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


async def test_plans_tell_what_is_wrong_with_them(web: Web) -> None:
    lab, torn = (await get(web, "/api/plans"))["items"]
    assert (lab["name"], lab["status"], lab["task_count"], lab["errors"]) == ("lab", "ready", 2, [])
    problem = {"file": "torn/tasks/x.yaml", "line": 2, "column": 5, "message": "no such key"}
    assert (torn["status"], torn["generation"], torn["errors"]) == ("broken", None, [problem])


async def test_task_keeps_its_slash(web: Web) -> None:
    found = await get(web, "/api/plans/lab/tasks/a/b")
    assert (found["name"], found["source"]) == ("a/b", {"file": "lab/tasks/a/b.yaml", "line": 3})


async def test_task_has_the_schema_of_its_inputs_and_its_steps(web: Web) -> None:
    found = await get(web, "/api/plans/lab/tasks/report")
    assert found["inputs"] == {
        "type": "object",
        "properties": {"day": {"type": "string"}, "n": {"type": "integer", "default": 1}},
        "required": ["day"],
        "additionalProperties": False,
    }
    assert [step["depends_on"] for step in found["steps"]] == [{}, {"ping": ["succeeded"]}]
    assert found["mode"] == "queued"


async def test_lists_by_name_are_in_pages(web: Web) -> None:
    first = await get(web, "/api/plans/lab/tasks", limit=1)
    second = await get(web, "/api/plans/lab/tasks", limit=1, cursor=first["next_cursor"])
    assert [page["items"][0]["name"] for page in (first, second)] == ["a/b", "report"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/plans/lob/tasks", 404, "unknown_plan"),
        ("/api/plans/torn/tasks", 503, "plan_broken"),
        ("/api/plans/lab/tasks/rapport", 404, "unknown_task"),
        ("/api/plans/Ünï/tasks", 404, "unknown_plan"),
    ],
)
async def test_plan_or_task_that_cannot_be_shown(web: Web, path: str, status: int, code: str) -> None:
    answer = await web.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_actions_have_schemas(web: Web) -> None:
    found = {item["name"]: item for item in (await get(web, "/api/actions"))["items"]}["lab.ping"]
    assert found["params"]["properties"]["host"] == {"type": "string"}
    assert (found["result"], found["plan_name"], found["cancellable"]) == ({"type": "string"}, "lab", True)


async def test_services_are_among_the_actions(web: Web) -> None:
    found = {item["name"]: item for item in (await get(web, "/api/actions"))["items"]}
    ping, port = found["lab.ping"], found["lab.port"]
    assert (ping["kind"], ping["services"], ping["open"]) == ("action", [], None)
    assert (port["kind"], port["services"], port["open"], port["params"]) == ("service", [], True, {})
    assert port["description"] == "The serial port."


async def test_system_routes(web: Web) -> None:
    assert (await get(web, "/api/system/status"))["started_at"] == "1970-01-01T00:00:00Z"
    stopped = await web.http.post("/api/system/stop", json={"mode": "cancel", "grace_s": 2})
    assert (stopped.status_code, stopped.json()) == (202, {"state": "stopping"})
    assert web.engine.calls[-1] == ("stop", "cancel", 2.0)
    assert (await web.http.post("/api/system/start")).json() == {"state": "running"}
    plans = (await web.http.post("/api/system/reload")).json()["plans"]
    assert {plan["name"]: set(plan) for plan in plans}["lab"] == {"name", "status", "generation", "errors", "testing"}
    assert web.engine.calls[-1:] == [("wait_tested", 20.0)]


@pytest.mark.parametrize("body", [{"mode": "now"}, {"grace_s": -1}, {"grace_s": 1e9}, {"grace_s": "2"}, {"x": 1}])
async def test_stop_with_a_bad_body_is_422(web: Web, body: dict[str, Any]) -> None:
    assert (await web.http.post("/api/system/stop", json=body)).status_code == 422


async def test_cancel_takes_a_reason(web: Web) -> None:
    run = web.engine.add_run("running")
    answer = await web.http.post(f"/api/tasks/{run.cid}/cancel", json={"reason": "enough"})
    assert answer.status_code == 202
    assert web.engine.calls[-1] == ("cancel", run.cid, "enough")


async def test_pause_takes_a_reason_and_resume_takes_it_back(web: Web) -> None:
    run = web.engine.add_run(state="running")
    told = await web.http.post(f"/api/tasks/{run.cid}/pause", json={"reason": "lunch"})
    shown = (await web.http.get(f"/api/runs/{run.cid}")).json()
    assert (told.status_code, told.json()) == (202, {"cid": run.cid, "state": "preempted"})
    assert (shown["state"], shown["reason"]) == ("preempted", "lunch")
    told = await web.http.post(f"/api/tasks/{run.cid}/resume")
    assert (told.status_code, told.json()) == (202, {"cid": run.cid, "state": "preempted"})
    web.engine.end(run)
    for way in ("pause", "resume"):
        assert (await web.http.post(f"/api/tasks/{run.cid}/{way}")).status_code == 409


ASKED = {"type": "object", "properties": {"version": {"type": "string"}}, "required": ["version"]}
WAIT = {"step": "deploy", "index": 1, "kind": "approval", "message": "Go?", "inputs": ASKED}
WAIT |= {"since": 0.5, "until": None}
WAITING = {"kind": "approval", "names": [], "holders": [], "steps": ["deploy[1]"], "waits": [WAIT], "waits_total": 1}


async def test_answer_is_given_in_the_name_of_the_token(web: Web) -> None:
    run = web.engine.add_run("waiting", waiting_for=WAITING)
    made = (await web.http.post("/api/tokens", json={"scopes": ["run"], "name": "anna"})).json()
    body = {"step": "deploy", "index": 1, "approved": True, "values": {"version": "v1"}}
    headers = {"Authorization": f"Bearer {made['token']}"}
    told = await web.stranger.post(f"/api/tasks/{run.cid}/answer", json=body, headers=headers)
    assert (told.status_code, told.json()) == (202, {"cid": run.cid, "state": "waiting"})
    assert web.engine.calls[-1] == ("answer", run.cid, "deploy", 1, True, {"version": "v1"}, "anna")
    again = await web.http.post(f"/api/tasks/{run.cid}/answer", json=body)
    assert (again.status_code, again.json()["code"], again.json()["state"]) == (409, "answered", "waiting")


async def test_no_needs_no_values_and_a_token_without_a_name_is_its_id(web: Web) -> None:
    run = web.engine.add_run("waiting", waiting_for=WAITING)
    told = await web.http.post(f"/api/tasks/{run.cid}/answer", json={"step": "deploy", "index": 1, "approved": False})
    assert told.status_code == 202
    assert web.engine.calls[-1] == ("answer", run.cid, "deploy", 1, False, {}, "local")


GOOD_ANSWER = {"step": "deploy", "index": 1, "approved": True}


@pytest.mark.parametrize(
    ("body", "status", "code", "path"),
    [
        pytest.param(GOOD_ANSWER, 422, "inputs_invalid", "/values/version", id="missing-value"),
        pytest.param(GOOD_ANSWER | {"values": {"version": 1}}, 422, "inputs_invalid", "/values/version", id="value"),
        pytest.param(GOOD_ANSWER | {"values": []}, 422, "invalid", "/values", id="values-are-a-list"),
        pytest.param({"step": "deploy", "index": 1}, 422, "invalid", "/approved", id="neither-yes-nor-no"),
        pytest.param(GOOD_ANSWER | {"approved": "yes"}, 422, "invalid", "/approved", id="yes-is-no-boolean"),
        pytest.param({"approved": True}, 422, "invalid", "/step", id="no-step"),
        pytest.param(GOOD_ANSWER | {"index": -1}, 422, "invalid", "/index", id="index"),
        pytest.param(GOOD_ANSWER | {"by": "root"}, 422, "invalid", "/by", id="in-the-name-of-another"),
        pytest.param(GOOD_ANSWER | {"step": "other"}, 409, "not_waiting", None, id="other-step"),
        pytest.param(GOOD_ANSWER | {"index": None}, 409, "not_waiting", None, id="no-item"),
        pytest.param([], 422, "invalid", "", id="list"),
    ],
)
async def test_answer_that_does_not_fit(web: Web, body: Any, status: int, code: str, path: str | None) -> None:
    run = web.engine.add_run("waiting", waiting_for=WAITING)
    told = await web.http.post(f"/api/tasks/{run.cid}/answer", json=body)
    assert (told.status_code, told.json()["code"]) == (status, code)
    assert [error["path"] for error in told.json().get("errors", [])] == ([] if path is None else [path])
    assert not [call for call in web.engine.calls if call[0] == "answer"]


async def test_answer_of_an_ended_or_unknown_run_is_refused(web: Web) -> None:
    run = web.engine.add_run("waiting", waiting_for=WAITING)
    web.engine.end(run)
    ended = await web.http.post(f"/api/tasks/{run.cid}/answer", json=GOOD_ANSWER)
    assert (ended.status_code, ended.json()["code"]) == (409, "ended")
    other = run.cid[:-1] + ("0" if run.cid[-1] != "0" else "1")
    assert (await web.http.post(f"/api/tasks/{other}/answer", json=GOOD_ANSWER)).status_code == 404


async def test_run_shows_what_it_waits_for_with_times(web: Web) -> None:
    run = web.engine.add_run("waiting", waiting_for=WAITING)
    shown = [(await get(web, f"/api/runs/{run.cid}")), (await get(web, "/api/runs", state="waiting"))["items"][0]]
    for one in shown:
        (wait,) = one["waiting_for"].pop("waits")
        assert wait == WAIT | {"since": "1970-01-01T00:00:00.500000Z", "until": None, "pattern": None, "cid": None}
        assert one["waiting_for"] == {key: value for key, value in WAITING.items() if key != "waits"}


async def test_cancel_where_takes_conditions(web: Web) -> None:
    run = web.engine.add_run("queued")
    web.engine.add_run("running")
    answer = await web.http.post("/api/tasks/cancel", json={"state": "queued", "labels": {"a": "b"}})
    assert (answer.status_code, answer.json()) == (202, {"cancelled": [run.cid]})
    assert web.engine.calls[-1][1]["labels"] == {"a": "b"}


async def test_head_has_the_headers_of_get(web: Web) -> None:
    found, asked = await web.http.head("/api/runs"), await web.http.get("/api/runs")
    assert (found.status_code, found.content) == (200, b"")
    assert found.headers["content-length"] == asked.headers["content-length"]
