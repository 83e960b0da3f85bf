"""The routes of interrupt rules over a real port, with an engine of the tests behind them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.web import Web, open_web

from aura.records.firings import Stopped, StoppedRuns

RULE = "/api/interrupts/lab/low_battery"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


async def test_rules_are_listed_as_they_stand(web: Web) -> None:
    found = (await web.http.get("/api/interrupts")).json()
    (rule,) = found["items"]
    assert found["next_cursor"] is None
    assert (rule["plan_name"], rule["rule"], rule["last_fired_at"]) == ("lab", "low_battery", "1970-01-01T00:00:01Z")
    assert (rule["cooldown_left_s"], rule["last_victims"], rule["last_victim_count"]) == (0.0, ["v1"], 2)
    assert rule["last_missed"] == {
        "reason": "cooldown", "detail": "its cooldown ends in 3 s", "at": "1970-01-01T00:00:02Z"
    }  # fmt: skip
    assert rule["open"][0]["at"] == "1970-01-01T00:00:01Z"


async def test_rules_come_in_pages(web: Web) -> None:
    second = web.engine.lab_rule | {"rule": "z"}
    web.engine.rules = lambda: [web.engine.lab_rule, second]  # type: ignore[method-assign]
    first = (await web.http.get("/api/interrupts?limit=1")).json()
    rest = (await web.http.get("/api/interrupts", params={"cursor": first["next_cursor"]})).json()
    assert [rule["rule"] for rule in first["items"] + rest["items"]] == ["low_battery", "z"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("body", [None, {}, {"payload": {"percent": 5}}, {"payload": None, "dry_run": False}])
async def test_fire_is_answered_as_an_event(web: Web, body: Any) -> None:
    answer = await web.http.post(f"{RULE}/fire", **({} if body is None else {"json": body}))
    (run,) = web.engine.records.values()
    assert answer.status_code == 202
    assert answer.json() == {
        "event_id": "7", "started": [],
        "interrupts": [{"plan_name": "lab", "rule": "low_battery", "cid": run.cid}],
    }  # fmt: skip
    assert web.engine.calls == [("fire", "lab", "low_battery", (body or {}).get("payload"))]


async def test_dry_run_does_nothing_and_says_what_would_be(web: Web) -> None:
    answer = await web.http.post(f"{RULE}/fire", json={"dry_run": True})
    assert answer.status_code == 200
    hold = {"lane": "main", "plans": ["*"], "tasks": ["*"], "labels": {}, "below_priority": 1001, "queued": 3}
    assert answer.json() == {"victims": ["v1"], "spared": ["s1"], "holds": [hold]}
    assert web.engine.calls == []


@pytest.mark.parametrize(("verb", "enabled"), [("enable", True), ("disable", False)])
async def test_switch_is_answered_with_the_rule(web: Web, verb: str, enabled: bool) -> None:
    answer = await web.http.post(f"{RULE}/{verb}")
    rule = answer.json()
    assert answer.status_code == 200
    assert (rule["enabled"], rule["switched_by"], rule["switched_at"]) == (enabled, "local", "1970-01-01T00:00:03Z")


@pytest.mark.parametrize("verb", ["fire", "enable", "disable"])
@pytest.mark.parametrize(("name", "code"), [("lab/x", "unknown_rule"), ("nowhere/x", "unknown_plan")])
async def test_unknown_rule_is_404(web: Web, verb: str, name: str, code: str) -> None:
    answer = await web.http.post(f"/api/interrupts/{name}/{verb}")
    assert (answer.status_code, answer.json()["code"]) == (404, code)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        pytest.param({"dry_run": "yes"}, "/dry_run", id="word"),
        pytest.param({"cooldown": 1}, "/cooldown", id="unknown"),
        pytest.param({"payload": "x" * 65536}, "/payload", id="large"),
    ],
)
async def test_bad_body_is_422_with_a_pointer(web: Web, body: dict[str, Any], path: str) -> None:
    answer = await web.http.post(f"{RULE}/fire", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    assert web.engine.calls == []


async def test_plans_tell_whose_rules_stop_others(web: Web) -> None:
    plans = (await web.http.get("/api/plans")).json()["items"]
    assert {plan["name"]: plan["preempts_others"] for plan in plans} == {"lab": True, "torn": False}


async def test_run_tells_who_stopped_it_and_whom_it_has_stopped(web: Web) -> None:
    by = {"plan_name": "lab", "rule": "low_battery", "cid": "handler", "at": 1.0, "cleanup_s": 0.25}
    run = web.engine.add_run(preempted_by=by, preemptions=2)
    web.engine.stopped[run.cid] = StoppedRuns(5, [Stopped("v1", "preempted", 1.5), Stopped("v2", None, None)])
    found = (await web.http.get(f"/api/runs/{run.cid}")).json()
    assert found["preempted_by"] == by | {"at": "1970-01-01T00:00:01Z"}
    assert (found["preemptions"], found["victim_count"]) == (2, 5)
    assert found["victims"] == [
        {"cid": "v1", "outcome": "preempted", "gone_at": "1970-01-01T00:00:01.500000Z"},
        {"cid": "v2", "outcome": None, "gone_at": None},
    ]


async def test_status_names_the_open_firings(web: Web) -> None:
    found = (await web.http.get("/api/system/status")).json()["interrupts"]
    assert found == {
        "open": [
            {
                "plan_name": "lab", "rule": "low_battery", "cid": "handler", "state": "cleanup",
                "since": "1970-01-01T00:00:01Z", "awaited": ["v1"], "victims": ["v1"], "victim_count": 1,
            }
        ],
        "open_total": 1,
    }  # fmt: skip
