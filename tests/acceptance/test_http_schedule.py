"""The routes of schedules over a real port, with an engine of the tests behind them; one test has the real one."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.served import Served, open_served, write_plans
from tests.fakes.web import Web, open_web

from aura.run import Receipt

ITEM = "/api/schedule/lab/nightly"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


async def test_items_are_listed_as_they_stand(web: Web) -> None:
    found = (await web.http.get("/api/schedule")).json()
    (item,) = found["items"]
    assert found["next_cursor"] is None
    assert (item["plan_name"], item["item"], item["task_name"], item["enabled"]) == ("lab", "nightly", "report", True)
    assert (item["next_due"], item["last_due"]) == ("1970-01-02T01:00:00Z", "1970-01-01T01:00:00Z")
    assert (item["last_cid"], item["last_started_at"]) == ("started", "1970-01-01T01:00:00.500000Z")
    assert item["last_missed"]["at"] == "1970-01-01T00:50:00Z"
    assert item["folders"][0]["looked_at"] == "1970-01-01T00:00:01Z"
    (trigger,) = item["triggers"]
    assert (trigger["kind"], trigger["text"]) == ("cron", "cron 30 2 * * * (Europe/Berlin)")
    assert (await web.http.get(ITEM)).json() == item


async def test_items_come_in_pages(web: Web) -> None:
    schedules = web.engine.schedules
    schedules.items["lab", "a"] = schedules.items["lab", "nightly"] | {"item": "a"}
    first = (await web.http.get("/api/schedule?limit=1")).json()
    rest = (await web.http.get("/api/schedule", params={"cursor": first["next_cursor"]})).json()
    assert [item["item"] for item in first["items"] + rest["items"]] == ["a", "nightly"]
    assert rest["next_cursor"] is None


async def test_tasks_name_the_items_that_start_them(web: Web) -> None:
    tasks = (await web.http.get("/api/plans/lab/tasks")).json()["items"]
    assert {task["name"]: task["started_by"] for task in tasks} == {"a/b": [], "report": ["lab/nightly"]}
    assert (await web.http.get("/api/plans/lab/tasks/report")).json()["started_by"] == ["lab/nightly"]


@pytest.mark.parametrize("body", [None, {}, {"inputs": {"day": "x"}}], ids=["none", "empty", "inputs"])
async def test_run_is_answered_as_a_run_of_its_task(web: Web, body: Any) -> None:
    answer = await web.http.post(f"{ITEM}/run", **({} if body is None else {"json": body}))
    (run,) = web.engine.records.values()
    assert answer.status_code == 202
    assert answer.json() == {"cid": run.cid, "state": "queued", "plan_name": "lab", "task_name": "report"}
    assert answer.headers["location"] == f"/api/runs/{run.cid}"
    assert web.engine.calls[0] == ("run_item", "lab", "nightly", (body or {}).get("inputs", {}))
    ((_, cause),) = web.engine.asked
    assert (cause.kind, cause.item) == ("api", "nightly")


async def test_run_with_a_key_counts_once_and_its_body_is_its_own(web: Web) -> None:
    key = {"Idempotency-Key": "k"}
    first, again = [await web.http.post(f"{ITEM}/run", headers=key) for _ in range(2)]
    assert (first.json()["cid"], again.headers["idempotent-replayed"]) == (again.json()["cid"], "true")
    other = await web.http.post(f"{ITEM}/run", headers=key, json={"inputs": {"day": "y"}})
    task = {"plan_name": "lab", "task_name": "report"}
    as_task = await web.http.post("/api/tasks/run", headers=key, json=task)
    assert [(one.status_code, one.json()["code"]) for one in (other, as_task)] == [(422, "key_reused")] * 2


async def test_who_prefers_to_wait_is_given_the_ended_run(web: Web) -> None:
    run = web.engine.add_run("succeeded")

    async def submit(*_: Any) -> Receipt:
        return Receipt(run.cid, "queued", "lab", "report")

    web.engine.submit = submit  # type: ignore[assignment, method-assign]
    answer = await web.http.post(f"{ITEM}/run", headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait"


@pytest.mark.parametrize(("verb", "enabled"), [("enable", True), ("disable", False)])
async def test_switch_is_answered_with_the_item(web: Web, verb: str, enabled: bool) -> None:
    answer = await web.http.post(f"{ITEM}/{verb}")
    item = answer.json()
    assert answer.status_code == 200
    assert (item["enabled"], item["switched_by"], item["switched_at"]) == (enabled, "local", "1970-01-01T00:00:03Z")


async def test_preview_has_the_changes_of_the_clocks(web: Web) -> None:
    answer = await web.http.get(f"{ITEM}/preview?from=1970-01-01T00:00:00Z&to=1970-01-02T00:00:00%2B01:00")
    slot = {"due": "1970-01-02T01:00:00Z", "local": "1970-01-02T02:00:00+01:00", "dst": "gap"}
    assert answer.json() == {"items": [slot], "cut": False}
    assert web.engine.calls == [("preview", "lab", "nightly", 0.0, 82_800.0)]
    await web.http.get(f"{ITEM}/preview")
    assert web.engine.calls[1:] == [("preview", "lab", "nightly", None, None)]


@pytest.mark.parametrize("query", ["from=yesterday", "to=2027-01-01T00:00:00", "until=2027-01-01T00:00:00Z"])
async def test_preview_of_no_span_is_422(web: Web, query: str) -> None:
    answer = await web.http.get(f"{ITEM}/preview?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, f"/{query.partition('=')[0]}")


@pytest.mark.parametrize(
    ("method", "verb"), [("GET", ""), ("GET", "/preview"), ("POST", "/run"), ("POST", "/enable"), ("POST", "/disable")]
)
@pytest.mark.parametrize(("name", "code"), [("lab/x", "unknown_item"), ("nowhere/x", "unknown_plan")])
async def test_unknown_item_is_404(web: Web, method: str, verb: str, name: str, code: str) -> None:
    answer = await web.http.request(method, f"/api/schedule/{name}{verb}")
    assert (answer.status_code, answer.json()["code"]) == (404, code)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        pytest.param({"inputs": []}, "/inputs", id="list"),
        pytest.param({"input": {}}, "/input", id="unknown"),
        pytest.param({"inputs": {"dya": "x"}}, "/inputs/dya", id="of-the-task"),
    ],
)
async def test_bad_inputs_are_422_with_a_pointer(web: Web, body: dict[str, Any], path: str) -> None:
    answer = await web.http.post(f"{ITEM}/run", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    assert web.engine.asked == []


WORK = """
inputs: {day: string, n: {type: integer, default: 1}}
steps: {a: {action: log, params: {message: x}}}
returns: {day: "{{ inputs.day }}", n: "{{ inputs.n }}"}
"""
SCHEDULE = """
items:
  often: {task: work, inputs: {day: "{{ due | date }}"}, triggers: [{every: 200ms}]}
  later: {task: work, inputs: {day: x}, triggers: [{cron: "30 2 * * *", timezone: Europe/Berlin}]}
"""


def test_schedule_of_a_real_server(tmp_path: Path) -> None:
    write_plans(tmp_path, {"lab/tasks/work.yaml": WORK, "lab/schedule.yaml": SCHEDULE})
    with open_served(tmp_path) as served:
        often = _once_started(served)
        assert served.aura("schedule", "disable", "lab/often").err == "lab/often is off\n"
        by_item = served.aura("show", often["last_cid"], "--json").json
        assert (by_item["cause"]["kind"], by_item["cause"]["item"]) == ("schedule", "often")
        assert served.aura("schedule", "run", "lab/later", "-i", "n=3").json == {"day": "x", "n": 3}
        span = ("--from", "2027-10-31T00:00Z", "--to", "2027-11-01T00:00Z")
        (slot,) = served.aura("schedule", "preview", "lab/later", *span, "--json").json["items"]
        assert slot == {"due": "2027-10-31T00:30:00Z", "local": "2027-10-31T02:30:00+02:00", "dst": "fold"}
        near = served.aura("schedule", "run", "lab/latter")
        assert (near.code, "did you mean 'later'?" in near.err) == (64, True)
        [later, again] = served.aura("schedule", "--json").json["items"]
        assert (again["enabled"], again["switched_by"], later["last_due"], later["enabled"]) == (
            False,
            "local",
            None,
            True,
        )


def _once_started(served: Served) -> dict[str, Any]:
    """The item ``often`` once it has started a run, within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        item: dict[str, Any] = served.aura("schedule", "--json").json["items"][1]
        if item["last_cid"]:
            return item
    raise AssertionError("it has started nothing")
