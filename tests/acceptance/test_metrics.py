"""``GET /metrics`` and ``GET /api/queue/overview``: formats, what is counted, labels that stay few, and the docs."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.types import ASGIApp, Message, Scope
from tests.fakes.engine import FakeEngine
from tests.fakes.web import BEARER, Web, open_web

from aura.lifecycle import FINAL
from aura.runs.measures import MAX_PLANS, OTHER
from aura.web.app import ROUTES, create_app
from aura.web.metrics import NO_ROUTE

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


async def scrape(web: Web) -> dict[str, Metric]:
    """The metrics by name."""
    answer = await web.http.get("/metrics")
    assert answer.status_code == 200
    return {family.name: family for family in parse_text(answer.text)}


def values(family: Metric, name: str | None = None) -> dict[tuple[str, ...], float]:
    """Samples of one name by the values of their labels."""
    wanted = [sample for sample in family.samples if sample.name == (name or sample.name)]
    found = {tuple(sample.labels.values()): sample.value for sample in wanted}
    assert len(found) == len(wanted), "a sample is there twice"
    return found


def count_all(engine: FakeEngine) -> None:
    """Have something counted of everything, so that every metric has a sample."""
    measures = engine.measures
    measures.note_wait("main", "lab", 0.3)
    measures.note_end("main", "lab", "failed")
    measures.note_step("failed", 2.0)
    measures.refusals.note("queue_full")
    engine.not_started = {("mode", "lab"): 1}
    measures.note_block("lab", 8.0)
    measures.note_fired("lab", "low_battery")
    measures.note_poll("lab", failed=True)
    measures.note_item_start("lab", "schedule")
    for histogram in (measures.loop_lag, measures.cleanups, measures.store.commit_times, measures.store.batch_sizes):
        histogram.add(1.0)


# -- formats


async def test_metrics_are_the_text_format_unless_something_else_is_asked_for(web: Web) -> None:
    answer = await web.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\n# TYPE aura_runs_ended_total counter\n" in answer.text
    assert list(parse_text(answer.text))


async def test_metrics_are_openmetrics_for_a_prometheus_that_asks_for_it(web: Web) -> None:
    count_all(web.engine)
    answer = await web.http.get("/metrics", headers=OPENMETRICS)
    assert (
        answer.headers["content-type"]
        == "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
    )
    assert answer.text.endswith("\n# EOF\n")
    names = {family.name for family in parse_openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    assert {"aura_runs_ended", "aura_build", "aura_run_wait_seconds"} <= names


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/html", "text/plain;version=x", "application/openmetrics-text;version=1.x.9",
     "application/openmetrics-text; version=99; escaping=\"", ";;,,==", "text/plain; version=1.0.0; escaping=zz"],
)  # fmt: skip
async def test_metrics_come_whatever_is_said_to_be_accepted(web: Web, accept: str) -> None:
    answer = await web.http.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert "99" not in answer.headers["content-type"]


async def test_metrics_are_for_whoever_may_read(web: Web) -> None:
    assert (await web.stranger.get("/metrics")).status_code == 401
    assert (await web.http.post("/metrics")).status_code == 405
    assert (await web.http.head("/metrics")).status_code == 200
    assert (await web.http.get("/metrics?name=x")).status_code == 422


# -- what is counted


async def test_metrics_show_what_was_measured(web: Web) -> None:
    count_all(web.engine)
    found = await scrape(web)
    assert values(found["aura_runs_ended"]) == {("main", "lab", "failed"): 1}
    assert values(found["aura_runs_started"]) == {("main", "lab"): 1}
    assert values(found["aura_requests_refused"]) == {("queue_full",): 1}
    assert values(found["aura_run_wait_seconds"], "aura_run_wait_seconds_count") == {("main",): 1, ("event",): 0}
    assert values(found["aura_step_seconds"], "aura_step_seconds_sum") == {("failed",): 2.0}
    buckets = values(found["aura_run_wait_seconds"], "aura_run_wait_seconds_bucket")
    assert (buckets["main", "0.1"], buckets["main", "0.5"], buckets["main", "+Inf"]) == (0, 1, 1)
    assert values(found["aura_lane_limit"]) == {("main",): 4}
    assert values(found["aura_store_writable"]) == {(): 1}
    assert values(found["aura_interrupts_fired"]) == {("lab", "low_battery"): 1}
    assert values(found["aura_polls"]) == {("failed", "lab"): 1}
    assert values(found["aura_interrupts_open"]) == {(): 1}
    assert values(found["aura_schedule_starts"]) == {("schedule", "lab"): 1}
    assert values(found["aura_schedule_items"]) == {("on",): 1, ("off",): 0, ("suspended",): 0}
    assert values(found["aura_schedule_next_due_timestamp_seconds"]) == {(): 90_000}
    assert values(found["aura_interrupt_cleanup_seconds"], "aura_interrupt_cleanup_seconds_sum") == {(): 1.0}
    assert values(found["aura_engine_state"])["running",] == 1
    assert sum(values(found["aura_engine_state"]).values()) == 1


async def test_answers_are_counted_by_route_and_class_of_status(web: Web) -> None:
    run = web.engine.add_run()
    for path in (
        f"/api/runs/{run.cid}",
        "/api/runs/nobody",
        "/api/runs?limit=x",
        "/nowhere",
        "/api/plans/lab/tasks/a/b",
    ):
        await web.http.get(path)
    await web.http.delete("/api/runs")
    await web.stranger.get("/api/runs")
    found = values((await scrape(web))["aura_http_answers"])
    assert found == {
        ("/api/runs/{cid}", "2xx"): 1,
        ("/api/runs/{cid}", "4xx"): 1,
        ("/api/runs", "4xx"): 3,
        (NO_ROUTE, "4xx"): 1,
        ("/api/plans/{plan}/tasks/{task}", "2xx"): 1,
    }
    assert values((await scrape(web))["aura_http_answers"])["/metrics", "2xx"] == 1


async def test_open_streams_are_counted_while_they_are_open(web: Web) -> None:
    async with web.http.stream("GET", "/api/logs/stream") as stream:
        assert stream.status_code == 200
        assert values((await scrape(web))["aura_http_streams_open"]) == {(): 1}
    with anyio.fail_after(10):
        while values((await scrape(web))["aura_http_streams_open"]) != {(): 0}:
            pass


# -- labels stay few


async def ask(app: ASGIApp, method: str, path: str) -> tuple[int, str]:
    """Ask the application itself, without a connection; gives status and body."""
    host = (b"host", b"127.0.0.1:8700")
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [host, *((k.lower().encode(), v.encode()) for k, v in BEARER.items())],
        "server": ("127.0.0.1", 8700),
        "client": ("127.0.0.1", 1),
        "extensions": {},
    }
    await app(scope, receive, send)
    return int(sent[0]["status"]), b"".join(message.get("body", b"") for message in sent).decode()


PATHS = ["/x{}", "/api/runs/{}", "/api/plans/p{}/tasks", "/api/plans/lab/tasks/t{}", "/api/tasks/{}/cancel"]


async def test_ten_thousand_paths_and_plans_make_no_more_labels_than_there_are_routes_and_names(web: Web) -> None:
    app = create_app(web.engine, web.auth, web.settings, web.stop)
    for n in range(10_000):
        status, _ = await ask(app, ("GET", "POST", "XYZ")[n % 3], PATHS[n % len(PATHS)].format(n))
        assert 400 <= status < 500
        web.engine.measures.note_end("main", f"p{n}", "failed")
    found = {family.name: family for family in parse_text((await ask(app, "GET", "/metrics"))[1])}
    answers = values(found["aura_http_answers"])
    assert {route for route, _ in answers} <= {route.template for route in ROUTES} | {NO_ROUTE}
    assert (len(answers), sum(answers.values())) == (len(PATHS), 10_000)
    ended = values(found["aura_runs_ended"])
    assert len(ended) == MAX_PLANS + 1
    assert ended["main", OTHER, "failed"] == 10_000 - MAX_PLANS
    assert sum(len(family.samples) for family in found.values()) < 600


# -- the docs


def documented() -> Mapping[str, tuple[str, set[str]]]:
    """The rows of the docs: name → type and labels."""
    rows = re.findall(r"^\| `(aura_\w+)` \| (\w+) \| (.*?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


async def test_every_metric_has_a_row_in_the_docs_and_no_other_has(web: Web) -> None:
    count_all(web.engine)
    await web.http.get("/livez")
    found: dict[str, tuple[str, set[str]]] = {}
    for family in (await scrape(web)).values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
        assert family.documentation.endswith("."), name
    assert found == documented()


def test_states_and_names_that_the_docs_list_are_those_that_there_are() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert " ".join(f"`{state}`" for state in sorted(FINAL)) in text
    assert f"`{OTHER}`" in text
    assert f"`{NO_ROUTE}`" in text


# -- the overview


async def test_overview_has_its_shape_with_null_for_what_nobody_knows(web: Web) -> None:
    answer = await web.http.get("/api/queue/overview")
    assert answer.status_code == 200
    figures = {
        "running": 1, "queued": 3, "delayed": 1, "stuck": 0, "oldest_age_s": None,
        "wait_p50_s": 0.5, "wait_p95_s": 2.0, "started_per_min": None, "ended_per_min": None,
    }  # fmt: skip
    assert answer.json() == {
        "lanes": [{"lane": "main", "limit": 4, **figures}],
        "plans": [{"plan_name": None, **figures}],
        "window_s": 0.0,
    }


# -- who pays


def test_only_a_server_with_a_door_imports_prometheus_client() -> None:
    commands = "import importlib; from aura.cli.main import COMMANDS\n"
    commands += "for name in set(COMMANDS.values()): importlib.import_module(f'aura.cli.{name}')\n"
    text = commands + "import sys, aura.server, aura.client; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], check=False, timeout=60).returncode == 0
