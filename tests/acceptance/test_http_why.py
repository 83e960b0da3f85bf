"""The route of the why-ledger: its shape, filters and pages, and what a real server tells by it and by its metrics."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.web import Web, open_web

from aura.web.query import make_cursor
from aura.why import Why


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        opened.engine.whys = [
            Why("cooldown", "its cooldown ends in 3 s", "lab", "nightly", None, "report", 4, 7.0, 5.0, 3),
            Why("mode", "it runs already", "lab", None, None, "report", 1, 6.0, 6.0, 2),
            Why("bad_inputs", "there is no plan 'x'", None, None, None, None, 1, 1.0, 1.0, 1),
        ]
        yield opened


async def test_line_says_all_that_is_known(web: Web) -> None:
    found = (await web.http.get("/api/why")).json()
    assert found["items"][0] == {
        "time": "1970-01-01T00:00:07Z", "reason": "cooldown", "plan_name": "lab", "item": "nightly", "rule": None,
        "task_name": "report", "detail": "its cooldown ends in 3 s", "count": 4, "first_time": "1970-01-01T00:00:05Z",
    }  # fmt: skip
    assert (len(found["items"]), found["next_cursor"]) == (3, None)


@pytest.mark.parametrize(
    ("query", "reasons"),
    [
        pytest.param("plan_name=lab", ["cooldown", "mode"], id="plan"),
        pytest.param("plan_name=lab&item=nightly", ["cooldown"], id="item"),
        pytest.param("task_name=report&reason=mode", ["mode"], id="task and reason"),
        pytest.param("rule=low", [], id="rule"),
        pytest.param("since=1970-01-01T00:00:06Z", ["cooldown", "mode"], id="since"),
        pytest.param("until=1970-01-01T00:00:06Z", ["bad_inputs"], id="until"),
    ],
)
async def test_filters_restrict(web: Web, query: str, reasons: list[str]) -> None:
    answer = await web.http.get(f"/api/why?{query}")
    assert [line["reason"] for line in answer.json()["items"]] == reasons


async def test_pages_have_every_line_once(web: Web) -> None:
    found, cursor = [], None
    while True:
        answer = (await web.http.get("/api/why", params={"limit": 1} | ({"cursor": cursor} if cursor else {}))).json()
        found += [line["reason"] for line in answer["items"]]
        if (cursor := answer["next_cursor"]) is None:
            break
    assert found == ["cooldown", "mode", "bad_inputs"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        pytest.param("reason=because", 422, "invalid", id="reason"),
        pytest.param("since=yesterday", 422, "invalid", id="time"),
        pytest.param("limit=0", 422, "invalid", id="limit"),
        pytest.param("cursor=x", 400, "bad_cursor", id="cursor"),
        pytest.param(f"cursor={make_cursor('runs', 5)}", 400, "bad_cursor", id="cursor of another list"),
        pytest.param(f"cursor={make_cursor('why', '[1.0]')}", 400, "bad_cursor", id="no place"),
        pytest.param(f"cursor={make_cursor('why', f'[1.0,{2**70}]')}", 400, "bad_cursor", id="too large"),
    ],
)
async def test_what_cannot_be_asked_is_refused(web: Web, query: str, status: int, code: str) -> None:
    answer = await web.http.get(f"/api/why?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_metric_counts_by_reason_and_plan(web: Web) -> None:
    web.engine.not_started = {("mode", "lab"): 3, ("bad_inputs", None): 2}
    text = (await web.http.get("/metrics")).text
    assert 'aura_not_started_total{plan="lab",reason="mode"} 3.0' in text
    assert 'aura_not_started_total{plan="(none)",reason="bad_inputs"} 2.0' in text
