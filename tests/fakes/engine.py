"""A small engine for the tests of the HTTP door: real journal, records in memory, no runs that do anything.

It keeps what it is told, so that a test can put a run, an event or a log line where it wants it, and refuses as the
real engine does.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
from tests.fakes.schedules import FakeSchedules
from tests.fakes.webhooks import FakeWebhooks

from aura.actions import Action, action
from aura.api import EngineState, PlanState
from aura.bus import check_event
from aura.clock import SystemClock
from aura.engine.overview import LaneFlow, Overview, PlanFlow
from aura.engine.priorities import Prioritized
from aura.engine.whyview import WhyPage, place_of
from aura.errors import FieldError, Problem, RequestError
from aura.events import Entry, EventEntry, EventReceipt, Fired, LogEntry
from aura.histogram import SHORT, SIZES, Histogram
from aura.journal import Journal
from aura.kernel.keys import Key
from aura.lifecycle import FINAL, StepState
from aura.loading.approvals import check_values
from aura.records.events import EventFilter, EventPage
from aura.records.firings import Stopped, StoppedRuns
from aura.records.reading import RunFilter
from aura.records.why import WhyFilter, fits
from aura.run import PRIORITIES, Cause, CidSource, Outcomes, Receipt, Request, RunRecord, StepRecord
from aura.runs.measures import Measures
from aura.servicedef import Service, service
from aura.task import Dependency, Input, Mode, ModeKind, Source, Step, Task
from aura.why import Place, Why

BOOT = 7


@action
async def ping(host: str, count: int = 1) -> str:
    """Ask a host whether it is there."""
    return host * count


@service
async def port() -> AsyncIterator[None]:
    """The serial port."""
    yield


class Unwritten:
    """A store to which nothing is written."""

    def __init__(self) -> None:
        self.written_at = 0.0
        self.commit_times = Histogram(SHORT)
        self.batch_sizes = Histogram(SIZES)


class Detail(msgspec.Struct):
    record: RunRecord
    steps: list[StepRecord]
    children: list[RunRecord]
    progress: dict[str, Any]
    stopped: StoppedRuns = StoppedRuns()


class Plan(msgspec.Struct):
    tasks: dict[str, Task]


class Generation(msgspec.Struct):
    plan: Plan
    actions: dict[str, Action]
    services: dict[str, Service]


class Status(msgspec.Struct):
    name: str
    title: str = ""
    description: str = ""
    status: PlanState = "ready"
    generation: str | None = "abc"
    task_count: int = 0
    errors: tuple[Problem, ...] = ()
    testing: str | None = None
    uses: tuple[str, ...] = ()


def lab_tasks() -> dict[str, Task]:
    source = Source("lab/tasks/report.yaml", 1)
    steps = {
        "ping": Step("ping", "lab.ping", source),
        "report": Step("report", "log", source, depends_on=(Dependency("ping", frozenset({StepState.SUCCEEDED})),)),
    }
    inputs = {"day": Input("day", {"type": "string"}), "n": Input("n", {"type": "integer"}, True, 1)}
    report = Task("report", "lab", source, steps, title="Report", inputs=inputs, mode=Mode(ModeKind.QUEUED, 3))
    nested = Task("a/b", "lab", Source("lab/tasks/a/b.yaml", 3), {})
    return {"report": report, "a/b": nested}


class Generations:
    """Plan ``lab`` with two tasks, and ``torn``, which cannot be served."""

    def __init__(self) -> None:
        services = {"port": Service.of(port, "lab", ())}
        self._lab = Generation(Plan(lab_tasks()), {"ping": Action.of(ping, "lab")}, services)

    def statuses(self) -> list[Status]:
        torn = Problem("torn/tasks/x.yaml", 2, 5, "no such key")
        return [
            Status("torn", status="broken", generation=None, errors=(torn,)),
            Status("lab", title="Lab", task_count=2),
        ]

    def current(self, plan_name: str) -> Generation:
        if plan_name == "torn":
            raise RequestError("plan_broken", "plan torn cannot be served")
        if plan_name != "lab":
            raise RequestError("unknown_plan", f"there is no plan {plan_name!r}; did you mean lab?")
        return self._lab

    def task(self, plan_name: str, task_name: str) -> tuple[Generation, Task]:
        generation = self.current(plan_name)
        if task_name not in generation.plan.tasks:
            raise RequestError("unknown_task", f"plan lab has no task {task_name!r}; did you mean report?")
        return generation, generation.plan.tasks[task_name]

    def shipped(self) -> Mapping[str, Action]:
        return {"log": Action.of(ping)}


def lab_rule() -> dict[str, Any]:
    """The rule ``low_battery`` of plan ``lab``, as the engine shows one that has fired once."""
    return {
        "plan_name": "lab",
        "rule": "low_battery",
        "task_name": "report",
        "source": {"file": "lab/interrupts.yaml", "line": 2},
        "enabled": True,
        "switched_by": None,
        "switched_at": None,
        "triggers": ["event battery.low when {{ event.payload.percent < 10 }}"],
        "preempts": {"lanes": ["main"], "plans": ["*"], "tasks": ["*"], "labels": {}, "below_priority": 1001},
        "preempts_others": True,
        "then": "resume",
        "handler_starts": "after_cleanup",
        "grace_s": 5.0,
        "cooldown_s": 30.0,
        "max_pending": 10,
        "pending": 0,
        "priority": 100,
        "while_running": [],
        "last_fired_at": 1.0,
        "last_cid": "handler",
        "last_victims": ["v1"],
        "last_victim_count": 2,
        "cooldown_left_s": 0.0,
        "open": [
            {
                "cid": "handler",
                "event_id": "7",
                "at": 1.0,
                "state": "queued",
                "victims": ["v1"],
                "victim_count": 2,
                "spared": [],
            }
        ],
        "missed": {"cooldown": 2},
        "last_missed": {"reason": "cooldown", "detail": "its cooldown ends in 3 s", "at": 2.0},
        "suspended": None,
        "polls": [],
    }


class FakeEngine:
    """See the module's text. ``fail`` is raised by everything that reads or writes runs."""

    def __init__(self, ring: int = 10_000) -> None:
        self.clock = SystemClock()
        self.journal = Journal(BOOT, self.clock, ring=ring)
        self.generations = Generations()
        self.measures = Measures(lambda: 0.0, ["main", "event"], Unwritten())
        self.state: EngineState = "running"
        self.reasons: list[str] = []
        self.fail: BaseException | None = None
        self.records: dict[str, RunRecord] = {}
        self.steps: dict[str, list[StepRecord]] = {}
        self.progress: dict[str, dict[str, Any]] = {}
        self.stored: list[Entry] = []
        #: The highest id that retention has taken, by stream.
        self.removed: dict[str, int] = {}
        self.workdirs = Path("/nowhere")
        self.asked: list[tuple[Any, ...]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.queue_limit = 10**9
        self.kept: dict[tuple[str, str], tuple[bytes, Any]] = {}
        self.lab_rule = lab_rule()
        #: The lines of the why-ledger, the newest first, and how many there were.
        self.whys: list[Why] = []
        self.not_started: dict[tuple[str, str | None], int] = {}
        self.schedules = FakeSchedules(self)
        self.webhooks = FakeWebhooks()
        #: What the firings of these handlers have stopped.
        self.stopped = {"handler": StoppedRuns(2, [Stopped("v1", "preempted", 1.5)])}
        #: Set when a run ends for which somebody waits.
        self.ends: dict[str, anyio.Event] = {}
        self._cids = CidSource()
        self.journal.add_sink(self.stored.append)

    @property
    def history(self) -> "FakeEngine":
        """The fake is its own history."""
        return self

    def progress_of(self, cid: str) -> dict[str, Any]:
        return self.progress.get(cid, {})

    # -- what a test puts there

    def add_run(self, state: str = "queued", **columns: Any) -> RunRecord:
        """Put a run on record."""
        now = self.clock.wall()
        seq = len(self.records) + 1
        run = RunRecord(
            seq, self._cids.next(), "lab", "report", "abc", "main", 0, {}, state, None, None, False, "fail", 0, now,
            None, now, None, None, 0.0, {"kind": "api"}, None, "", 0, BOOT, {"day": "x"},
        )  # fmt: skip
        run = msgspec.structs.replace(run, root_cid=run.cid, **columns)
        self.records[run.cid] = run
        return run

    def change(self, run: RunRecord, **columns: Any) -> RunRecord:
        """Change what is on record of a run."""
        self.records[run.cid] = msgspec.structs.replace(self.records[run.cid], **columns)
        return self.records[run.cid]

    def tell(self, run: RunRecord, name: str, **columns: Any) -> EventEntry:
        """Store and publish an event of a run."""
        entry = self.journal.stage(name, cid=run.cid, plan_name="lab", task_name="report", **columns)
        self.stored.append(entry)
        self.journal.settle([entry], committed=True)
        return entry

    def end(self, run: RunRecord, state: str = "succeeded") -> EventEntry:
        """Make a run final, with its event."""
        self.change(run, state=state, finished_at=self.clock.wall())
        self.ends.pop(run.cid, anyio.Event()).set()
        return self.tell(run, f"run.{state}")

    # -- what the door asks

    async def submit(self, request: Request, cause: Cause, key: Key | None = None) -> Receipt:
        self._check()
        if key is not None and (key.scope, key.name) in self.kept:
            return Receipt(**(msgspec.structs.asdict(self._kept(key)) | {"replayed": True}))
        receipt = await self._accept(request, cause)
        if key is not None:
            self.kept[key.scope, key.name] = (key.body, receipt)
        return receipt

    def _kept(self, key: Key) -> Any:
        body, answer = self.kept[key.scope, key.name]
        if body != key.body:
            raise RequestError("key_reused", "the key was sent with another body before")
        return answer

    async def _accept(self, request: Request, cause: Cause) -> Receipt:
        self._check_request(request)
        run = self.add_run(plan_name=request.plan_name, task_name=request.task_name, cause={"kind": cause.kind})
        self.asked.append((request, cause))
        return Receipt(run.cid, "queued", run.plan_name, run.task_name)

    def _check_request(self, request: Request) -> None:
        _, task = self.generations.task(request.plan_name, request.task_name)
        if len(self.records) >= self.queue_limit:
            raise RequestError("queue_full", "the queue of lane main is full", retry_after=5)
        unknown = [FieldError(f"/inputs/{k}", "is not an input") for k in request.inputs if k not in task.inputs]
        if unknown:
            raise RequestError("inputs_invalid", "the inputs are not valid", errors=unknown)

    async def submit_batch(
        self, requests: Sequence[Request | RequestError], cause: Cause, atomic: bool, key: Key | None = None
    ) -> Outcomes:
        if key is not None and (key.scope, key.name) in self.kept:
            return Outcomes(self._kept(key).items, replayed=True)
        outcomes: list[Receipt | RequestError] = []
        if atomic:
            for request in requests:
                assert isinstance(request, Request)
                self._check_request(request)
        for request in requests:
            try:
                if isinstance(request, RequestError):
                    raise request
                outcomes.append(await self.submit(request, cause))
            except RequestError as refused:
                outcomes.append(refused)
        if key is not None:
            self.kept[key.scope, key.name] = (key.body, Outcomes(outcomes))
        return Outcomes(outcomes)

    async def rerun(self, cid: str, from_step: str | None, key: Key | None = None) -> Receipt:
        run = (await self.get_run(cid)).record
        if run.state not in FINAL:
            raise RequestError("conflict", f"run {cid} has not ended", extra={"state": run.state})
        self.calls.append(("rerun", cid, from_step))
        return await self._accept(Request(run.plan_name, run.task_name), Cause("rerun", cid=cid))

    async def set_priority(self, cid: str, priority: int) -> Prioritized:
        if priority not in PRIORITIES:
            raise RequestError("invalid", "the request is not valid", errors=[FieldError("/priority", "is too far")])
        run = (await self.get_run(cid)).record
        if run.state in FINAL:
            raise RequestError("ended", f"run {cid} has already ended", extra={"state": run.state})
        return Prioritized(cid, self.change(run, priority=priority).priority, run.state)

    async def wait_run(self, cid: str) -> RunRecord:
        run = (await self.get_run(cid)).record
        if run.state not in FINAL:
            await self.ends.setdefault(cid, anyio.Event()).wait()
        return self.records[cid]

    async def emit(self, name: str, payload: Any) -> EventReceipt:
        self._check()
        plain, _ = check_event(name, payload)
        entry = self.journal.stage(name, payload=plain)
        self.stored.append(entry)
        self.journal.settle([entry], committed=True)
        return EventReceipt(str(entry.id))

    async def why(self, wanted: WhyFilter, limit: int, after: Place | None) -> WhyPage:
        lines = [line for line in self.whys if fits(line, wanted)]
        begin = 0 if after is None else [one.id for one in lines].index(after.id) + 1
        shown = lines[begin : begin + limit]
        return WhyPage(shown, place_of(shown[-1]) if len(lines) > begin + limit else None)

    def rules(self) -> list[dict[str, Any]]:
        return [self.lab_rule]

    def rule(self, plan_name: str, rule_name: str) -> dict[str, Any]:
        self.generations.current(plan_name)
        if rule_name != "low_battery":
            raise RequestError("unknown_rule", f"plan lab has no rule {rule_name!r}; it has low_battery")
        return self.lab_rule

    async def fire(self, plan_name: str, rule_name: str, payload: Any) -> EventReceipt:
        self._check()
        self.rule(plan_name, rule_name)
        check_event("manual", payload)
        self.calls.append(("fire", plan_name, rule_name, payload))
        run = self.add_run(cause={"kind": "interrupt", "rule": rule_name})
        return EventReceipt("7", [], [Fired(plan_name, rule_name, run.cid)])

    def dry_run(self, plan_name: str, rule_name: str) -> dict[str, Any]:
        preempts = self.rule(plan_name, rule_name)["preempts"]
        hold = {"lane": "main", "queued": 3} | {key: preempts[key] for key in preempts if key != "lanes"}
        return {"victims": ["v1"], "spared": ["s1"], "holds": [hold]}

    async def switch_rule(self, plan_name: str, rule_name: str, enabled: bool, by: str) -> None:
        self._check()
        self.rule(plan_name, rule_name)
        self.lab_rule = self.lab_rule | {"enabled": enabled, "switched_by": by, "switched_at": 3.0}
        self.calls.append(("switch", plan_name, rule_name, enabled))

    def plans_that_preempt_others(self) -> set[str]:
        return {"lab"}

    async def event_entries(self, wanted: EventFilter, after: int, until: int, limit: int) -> EventPage:
        events = [entry for entry in self.stored if entry.kind == "event" and after < entry.id < until][:limit]
        return EventPage([e for e in events if wanted.fits(e)], events[-1].id if len(events) == limit else None)

    async def removed_to(self, stream: str) -> int:
        return self.removed.get(stream, 0)

    async def cancel(self, cid: str, reason: str | None) -> str:
        run = (await self.get_run(cid)).record
        if run.state in FINAL:
            raise RequestError("ended", f"run {cid} has already ended", extra={"state": run.state})
        self.calls.append(("cancel", cid, reason))
        self.end(run, "cancelled")
        return "cancelled"

    async def pause(self, cid: str, reason: str | None) -> str:
        run = (await self.get_run(cid)).record
        if run.state in FINAL:
            raise RequestError("ended", f"run {cid} has already ended", extra={"state": run.state})
        self.change(run, state="preempted", reason=reason or "paused")
        return "preempted"

    async def resume(self, cid: str) -> str:
        run = (await self.get_run(cid)).record
        if run.state != "preempted":
            raise RequestError("conflict", f"run {cid} is not paused", extra={"state": run.state})
        self.change(run, reason=None)
        return "preempted"

    async def answer(
        self, cid: str, step: str, index: int | None, approved: bool, values: Mapping[str, Any], by: str
    ) -> str:
        run = (await self.get_run(cid)).record
        if run.state in FINAL:
            raise RequestError("ended", f"run {cid} has already ended", extra={"state": run.state})
        waits = (run.waiting_for or {}).get("waits", ())
        found = next((wait for wait in waits if (wait["step"], wait["index"]) == (step, index)), None)
        if found is None:
            raise RequestError("not_waiting", f"step {step} waits for no answer", extra={"state": run.state})
        if ("answer", cid, step, index) in [call[:4] for call in self.calls]:
            raise RequestError("answered", f"step {step} has been answered", extra={"state": run.state})
        checked = check_values(found["inputs"], values) if approved else {}
        self.calls.append(("answer", cid, step, index, approved, checked, by))
        return run.state

    async def cancel_where(self, **conditions: Any) -> list[str]:
        self.calls.append(("cancel_where", conditions))
        return [cid for cid, run in self.records.items() if conditions["state"] in (None, run.state)]

    def is_service_open(self, plan_name: str, name: str) -> bool:
        return (plan_name, name) == ("lab", "port")

    async def start(self) -> EngineState:
        self.state = "running"
        return self.state

    def request_stop(self, mode: Literal["drain", "cancel"], grace: float | None) -> EngineState:
        self.calls.append(("stop", mode, grace))
        self.state = "stopping"
        return self.state

    async def reload(self) -> list[Status]:
        return self.generations.statuses()

    async def wait_tested(self, seconds: float) -> list[Status]:
        self.calls.append(("wait_tested", seconds))
        return self.generations.statuses()

    def status(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "version": "0",
            "started_at": 0.0,
            "uptime_s": 1.0,
            "boot": BOOT,
            "lanes": {"main": {"limit": 4, "running": 0, "queued": 0, "stuck": 0}},
            "resources": {"screen": {"capacity": 1, "in_use": 0, "waiting": 0}},
            "plans": {"ready": 1, "stale": 0, "broken": 1},
            "store": {"writable": True, "pending": 0, "commits": 0, "disk_free": 2**30},
            "retention": {
                "days": 30,
                "runs": 100,
                "removed_runs": 0,
                "removed_rows": 0,
                "bytes": 4096,
                "reusable_bytes": 0,
                "oldest_at": None,
            },
            "services": {"http": {"state": "running", "failures": 0, "last_error": None}},
            "plan_services": {"open": 1, "stuck": 0},
            "stuck": {"runs": [], "total": 0},
            "loop": {"lag_s": 0.0, "stalled": False, "blocked": []},
            "interrupts": {
                "open": [
                    {
                        "plan_name": "lab",
                        "rule": "low_battery",
                        "cid": "handler",
                        "state": "cleanup",
                        "since": 1.0,
                        "awaited": ["v1"],
                        "victims": ["v1"],
                        "victim_count": 1,
                    }
                ],
                "open_total": 1,
            },
            "schedule": {
                "items": 1,
                "enabled": 1,
                "suspended": 0,
                "next": {"plan_name": "lab", "item": "nightly", "due": 90_000.0},
            },
            "events": {"subscribers": 0, "on_the_way": 0, "failures": 0, "suspended": []},
            "reasons": self.reasons,
        }

    def queue_overview(self) -> Overview:
        known = {"running": 1, "queued": 3, "delayed": 1, "stuck": 0, "wait_p50_s": 0.5, "wait_p95_s": 2.0}
        flow: Any = known | dict.fromkeys(("oldest_age_s", "started_per_min", "ended_per_min"))
        lane = LaneFlow(lane="main", limit=4, **flow)
        return Overview(lanes=[lane], plans=[PlanFlow(plan_name=None, **flow)], window_s=0.0)

    def queue_list(self, lane: str | None) -> list[dict[str, Any]]:
        fields = ["cid", "plan_name", "task_name", "lane", "priority", "state", "accepted_at", "not_before"]
        fields += ["waiting_for"]
        runs = [run for run in self.records.values() if run.state == "queued" and lane in (None, run.lane)]
        runs.sort(key=lambda run: (-run.priority, run.seq))
        places = [{"place": (0, 0, -run.priority, run.seq)} for run in runs]
        return [{n: getattr(run, n) for n in fields} | place for run, place in zip(runs, places, strict=True)]

    async def list_runs(self, wanted: RunFilter, limit: int, before: int | None) -> list[RunRecord]:
        self._check()
        self.calls.append(("list_runs", wanted))
        runs = sorted(self.records.values(), key=lambda run: -run.seq)
        fits = [r for r in runs if wanted.state in (None, r.state) and (before is None or r.seq < before)]
        return fits[:limit]

    async def active_runs(self, limit: int, before: int | None) -> list[RunRecord]:
        runs = [run for run in self.records.values() if run.state in ("running", "stopping")]
        return sorted((r for r in runs if before is None or r.seq < before), key=lambda r: -r.seq)[:limit]

    async def get_run(self, cid: str) -> Detail:
        self._check()
        self.calls.append(("get_run", cid))
        if cid not in self.records:
            raise RequestError("unknown_run", f"there is no run {cid!r}")
        children = [record for record in self.records.values() if record.parent_cid == cid]
        stopped = self.stopped.get(cid, StoppedRuns())
        return Detail(self.records[cid], self.steps.get(cid, []), children, self.progress.get(cid, {}), stopped)

    async def run_entries(self, cid: str, after: int, limit: int) -> list[Entry]:
        return self._read(limit, (e for e in self.stored if e.cid == cid and e.id > after))

    async def log_entries(
        self, *, after: int, limit: int, until: int | None = None, level: int | None = None, **wanted: str | None
    ) -> list[Entry]:
        self._check()
        names = {name: value for name, value in wanted.items() if value is not None}
        return self._read(
            limit,
            (
                entry
                for entry in self.stored
                if isinstance(entry, LogEntry)
                and after < entry.id < (until or 2**63)
                and entry.level >= (level or 0)
                and all(getattr(entry, name) == value for name, value in names.items())
            ),
        )

    def _read(self, limit: int, entries: Iterable[Entry]) -> list[Entry]:
        return sorted(entries, key=lambda entry: entry.id)[:limit]

    def _check(self) -> None:
        if self.fail is not None:
            raise self.fail
