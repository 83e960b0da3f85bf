"""The server's metrics as Prometheus reads them: names, units and help texts, in a registry of the server's own.

Nothing is counted here but the door's own answers. Everything else is read when somebody asks: from ``measures``, from
the status, from what is open. So a scrape costs about a millisecond (ten with 100 plans that run in all lanes and end
in all ways), and what it shows costs nothing between scrapes.

Every label has few values: lanes, states, codes, routes as they are written in the table, and the plans that
``measures`` tells apart. Nothing that a client sends becomes a label. ``docs/reference/metrics.md`` has a row for each
metric; ``tests/acceptance/test_metrics.py`` holds it.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from aura.api import EngineState
from aura.histogram import Histogram
from aura.web.facade import Engine
from aura.web.leases import StreamLimit

OPENMETRICS = "application/openmetrics-text"
#: The route of what is at no route.
NO_ROUTE = "(none)"
#: The plan of what is of none.
NO_PLAN = "(none)"

#: Rows of a metric: the values of its labels, and its value.
Rows = Iterable[tuple[tuple[str, ...], float]]


class Exposition(NamedTuple):
    """The text of all metrics, and its content type."""

    text: bytes
    content_type: str


class Metrics(Collector):
    """What ``GET /metrics`` shows, and the count of the door's answers."""

    def __init__(self, engine: Engine, streams: StreamLimit) -> None:
        self._engine = engine
        self._streams = streams
        self._answers: Counter[tuple[str, str]] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def note_answer(self, route: str | None, status: int) -> None:
        """An answer has begun; ``route`` is the path as the route table has it."""
        self._answers[route or NO_ROUTE, f"{status // 100}xx"] += 1

    def expose(self, accept: str) -> Exposition:
        """Everything now, as OpenMetrics if the header ``Accept`` names that, else as the text format 0.0.4."""
        # Asked with words of our own: its encoder fails on, or gives back, what a client may write there.
        encode, content_type = choose_encoder(f"{OPENMETRICS}; version=1.0.0" if OPENMETRICS in accept.lower() else "")
        return Exposition(encode(self._registry), content_type)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is, ``collect`` says."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now."""
        status = self._engine.status()
        yield from _server(status)
        yield from _lanes(status["lanes"])
        yield from self._interrupts(status["interrupts"])
        yield from self._schedules(status["schedule"])
        yield from self._work()
        yield from _store(status["store"])
        yield from _retention(status["retention"])
        lost = self._engine.journal.unstored
        yield _counter("log_lines_dropped", "Log lines that were not stored.", [], [((), lost)])
        yield from self._door()

    def _work(self) -> Iterator[Metric]:
        measures = self._engine.measures
        started, ended = measures.counts
        names = ["lane", "plan"]
        yield _counter("runs_started", "Runs that started, each counted once.", names, started.items())
        yield _counter("runs_ended", "Runs that ended, by how.", [*names, "state"], ended.items())
        refused = _by_name(measures.refusals.counts)
        yield _counter("requests_refused", "Requests for runs that were refused, by error code.", ["code"], refused)
        why = "Starts that did not become runs, by reason."
        yield _counter("not_started", why, ["reason", "plan"], self._not_started())
        waits = "Time from a run's acceptance, or its not_before, to its start."
        yield _histogram("run_wait_seconds", waits, "lane", measures.waits)
        steps = "Time from a step's first start to its end, by how it ended."
        yield _histogram("step_seconds", steps, "state", measures.steps)
        polls = "How often polls were asked, by whether that failed."
        yield _counter("polls", polls, ["plan", "outcome"], measures.polls.items())
        lag = "How much later than asked for the event loop went on."
        yield _histogram("loop_lag_seconds", lag, "", measures.loop_lag)
        blocked = "How long the event loop was blocked, by the plan whose code did it."
        yield _histogram("loop_blocked_seconds", blocked, "plan", measures.blocked)
        yield _histogram("store_commit_seconds", "Time that a commit took.", "", measures.store.commit_times)
        yield _histogram(
            "store_commit_units", "Changes that were written in one commit.", "", measures.store.batch_sizes
        )

    def _interrupts(self, status: Mapping[str, Any]) -> Iterator[Metric]:
        measures = self._engine.measures
        told = "How often an interrupt rule has fired."
        yield _counter("interrupts_fired", told, ["plan", "rule"], measures.fired.items())
        yield _gauge("interrupts_open", "Firings of interrupt rules that have not ended.", status["open_total"])
        cleanups = "Time from telling a run that an interrupt stops it until it had cleaned up."
        yield _histogram("interrupt_cleanup_seconds", cleanups, "", measures.cleanups)

    def _not_started(self) -> Rows:
        counts: Counter[tuple[str, str]] = Counter()
        for (reason, plan), count in self._engine.not_started.items():
            counts[reason, self._engine.measures.label(plan) if plan else NO_PLAN] += count
        return counts.items()

    def _schedules(self, status: Mapping[str, Any]) -> Iterator[Metric]:
        starts = "Runs that items of schedules have started, by what triggered them."
        yield _counter("schedule_starts", starts, ["plan", "cause"], self._engine.measures.item_starts.items())
        on = status["enabled"] - status["suspended"]
        states = {"on": on, "off": status["items"] - status["enabled"], "suspended": status["suspended"]}
        yield _gauges("schedule_items", "Items of schedules, by how they stand.", ["state"], _by_name(states))
        due = [] if status["next"] is None else [((), status["next"]["due"])]
        yield _gauges("schedule_next_due_timestamp_seconds", "When the item is due that is next.", [], due)

    def _door(self) -> Iterator[Metric]:
        names = ["route", "status"]
        yield _counter("http_answers", "HTTP answers, by route and class of status.", names, self._answers.items())
        yield _gauge("http_streams_open", "Streams that are open.", self._streams.open)


def _server(status: Mapping[str, Any]) -> Iterator[Metric]:
    versions = {"version": status["version"], "python": platform.python_version()}
    yield InfoMetricFamily("aura_build", "What runs.", versions)
    yield _gauge("uptime_seconds", "Time since the server started.", status["uptime_s"])
    states = [((state,), float(state == status["state"])) for state in get_args(EngineState)]
    yield _gauges("engine_state", "1 for the state that the engine is in.", ["state"], states)
    yield _gauges("plans", "Plans, by status.", ["status"], _by_name(status["plans"]))
    services = _by_name(status["plan_services"])
    yield _gauges("plan_services", "Services of plans, by whether they are open or stuck.", ["state"], services)
    failures = {name: child["failures"] for name, child in status["services"].items()}
    told = "How often a part of the server failed and was served again."
    yield _counter("service_failures", told, ["service"], _by_name(failures))


def _lanes(lanes: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    for key, text in {
        "limit": "Runs that the lane lets run at once.",
        "running": "Runs that hold a place of the lane.",
        "queued": "Runs that wait for a place of the lane, delayed ones included.",
        "stuck": "Runs of the lane that do not end though they were told to.",
    }.items():
        yield _gauges(f"lane_{key}", text, ["lane"], _by_name({name: lane[key] for name, lane in lanes.items()}))


def _store(store: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("store_pending_units", "Changes that wait to be written.", store["pending"])
    yield _gauge("store_writable", "1 while the storage takes new work.", store["writable"])
    if store["disk_free"] is not None:
        yield _gauge("disk_free_bytes", "Room on the disk of the data folder.", store["disk_free"])


def _retention(kept: Mapping[str, Any]) -> Iterator[Metric]:
    for name, key, text in (
        ("store_bytes", "bytes", "Size of the database."),
        ("store_reusable_bytes", "reusable_bytes", "Of the database, what waits to be used again."),
        ("store_oldest_run_timestamp_seconds", "oldest_at", "When the oldest run that is kept was accepted."),
    ):
        yield _gauges(name, text, [], [] if kept[key] is None else [((), kept[key])])
    yield _counter("retention_runs", "Ended runs that were removed.", [], [((), kept["removed_runs"])])
    yield _counter("retention_rows", "Rows that were removed.", [], [((), kept["removed_rows"])])


def _by_name(values: Mapping[str, float]) -> Rows:
    return [((name,), value) for name, value in values.items()]


def _filled(family: Any, rows: Rows) -> Metric:
    for labels, value in rows:
        family.add_metric(labels, value)
    assert isinstance(family, Metric)
    return family


def _counter(name: str, text: str, names: list[str], rows: Rows) -> Metric:
    return _filled(CounterMetricFamily(f"aura_{name}", text, labels=names), rows)


def _gauges(name: str, text: str, names: list[str], rows: Rows) -> Metric:
    return _filled(GaugeMetricFamily(f"aura_{name}", text, labels=names), rows)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"aura_{name}", text, value=value)


def _histogram(name: str, text: str, label: str, found: Histogram | Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"aura_{name}", text, labels=[label] if label else [])
    rows = {(name,): histogram for name, histogram in found.items()} if isinstance(found, Mapping) else {(): found}
    for labels, histogram in rows.items():
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, histogram.cumulative(), strict=True))
        family.add_metric(labels, buckets, histogram.sum)
    return family
