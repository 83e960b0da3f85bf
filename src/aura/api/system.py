"""The server: whether it is ready, and how each part of it fares."""

from typing import Literal

from aura.api.common import Shape, Time

EngineState = Literal["running", "stopping", "stopped", "degraded"]


class Readiness(Shape, frozen=True, kw_only=True):
    """Whether work is taken and started, and if not, why."""

    ready: bool
    reasons: list[str]


class LaneStatus(Shape, frozen=True, kw_only=True):
    """How full a lane is, in runs."""

    limit: int
    running: int
    queued: int
    stuck: int


class ResourceStatus(Shape, frozen=True, kw_only=True):
    """A resource: how much there is, how much is in use or, of a rate, spent, and how many runs and steps wait."""

    capacity: int
    in_use: int
    waiting: int


class PlanCounts(Shape, frozen=True, kw_only=True):
    """How many plans there are, by status."""

    ready: int
    stale: int
    broken: int


class StoreStatus(Shape, frozen=True, kw_only=True):
    """The storage: whether it takes new work, how many writes wait, and the commits since the start.

    ``disk_free`` is the room on the data folder's disk in bytes at the last look, None where nobody looks.
    """

    writable: bool
    pending: int
    commits: int
    disk_free: int | None = None


class RetentionStatus(Shape, frozen=True, kw_only=True):
    """What is kept: ended runs for ``days``, and ``runs`` of them at most; what was removed since the start.

    ``bytes`` is the size of the database, ``reusable_bytes`` of these wait to be used again, and ``oldest_at`` is when
    the oldest run that is kept was accepted, all at the last look, a few seconds ago.
    """

    days: int
    runs: int
    removed_runs: int
    removed_rows: int
    bytes: int | None
    reusable_bytes: int | None
    oldest_at: Time | None


class ServiceStatus(Shape, frozen=True, kw_only=True):
    """A service child of the server."""

    state: str
    failures: int
    last_error: str | None


class PlanServices(Shape, frozen=True, kw_only=True):
    """How many services of plans are open, and how many did not close and were left behind."""

    open: int = 0
    stuck: int = 0


class Suspended(Shape, frozen=True, kw_only=True):
    """Who is asked about events no more, since some went round in a circle through it: by which event, why and when."""

    subscriber: str
    event: str
    reason: str
    at: Time


class EventsStatus(Shape, frozen=True, kw_only=True):
    """How many wait for events, how many events are being stored, how often one that waits has failed, who is cut off.

    Of ``suspended`` the latest are named.
    """

    subscribers: int = 0
    on_the_way: int = 0
    failures: int = 0
    suspended: list[Suspended] = []


class OpenInterrupt(Shape, frozen=True, kw_only=True):
    """A firing of an interrupt rule that has not ended; ``cid`` is its handler, and ``state`` that one's state.

    It is ``cleanup`` while the handler waits for the runs ``awaited``. Of these and of ``victims`` some are named.
    """

    plan_name: str
    rule: str
    cid: str
    state: str
    since: Time
    awaited: list[str]
    victims: list[str]
    victim_count: int


class InterruptsStatus(Shape, frozen=True, kw_only=True):
    """The firings that are open, the most urgent first; of ``open_total`` the first are named."""

    open: list[OpenInterrupt] = []
    open_total: int = 0


class TakenOver(Shape, frozen=True, kw_only=True):
    """The handler ``cid`` of an interrupt rule has taken over the resources ``names``."""

    plan_name: str
    rule: str
    cid: str
    names: list[str]


class StuckRun(Shape, frozen=True, kw_only=True):
    """A run that did not end when told to: the step and the line that it hangs at, since when, and what had stopped it.

    ``interrupt`` is ``plan/rule`` if the firing of a rule had. ``taken_over``: by whom what it holds was taken.
    """

    cid: str
    plan_name: str
    task_name: str
    lane: str
    step: str
    hangs_at: str
    since: Time
    stop: str | None = None
    interrupt: str | None = None
    taken_over: list[TakenOver] = []


class StuckStatus(Shape, frozen=True, kw_only=True):
    """The runs that hang, those that have for the longest first; of ``total`` some are named."""

    runs: list[StuckRun] = []
    total: int = 0


class LoopBlock(Shape, frozen=True, kw_only=True):
    """The event loop was kept for ``seconds`` until ``at``, mostly at a line, by a step; null if not known."""

    at: Time
    seconds: float
    file: str | None = None
    line: int | None = None
    function: str | None = None
    cid: str | None = None
    plan_name: str | None = None
    task_name: str | None = None
    step: str | None = None


class LoopStatus(Shape, frozen=True, kw_only=True):
    """How late the event loop last went on, in seconds, and what has blocked it within the last hour, the latest ten.

    ``stalled``: for five seconds or more within the last minute, so that the server is not ready.
    """

    lag_s: float = 0.0
    stalled: bool = False
    blocked: list[LoopBlock] = []


class NextDue(Shape, frozen=True, kw_only=True):
    """The item that is due next."""

    plan_name: str
    item: str
    due: Time


class ScheduleStatus(Shape, frozen=True, kw_only=True):
    """The items of all schedules: how many, how many of them are on, how many of those suspended, which is next."""

    items: int = 0
    enabled: int = 0
    suspended: int = 0
    next: NextDue | None = None


class ServerStatus(Shape, frozen=True, kw_only=True):
    """What a server is and how it fares."""

    state: EngineState
    version: str
    boot: int
    started_at: Time
    uptime_s: float
    lanes: dict[str, LaneStatus]
    resources: dict[str, ResourceStatus]
    plans: PlanCounts
    store: StoreStatus
    retention: RetentionStatus | None = None
    services: dict[str, ServiceStatus]
    plan_services: PlanServices = PlanServices()
    events: EventsStatus = EventsStatus()
    interrupts: InterruptsStatus = InterruptsStatus()
    schedule: ScheduleStatus = ScheduleStatus()
    stuck: StuckStatus = StuckStatus()
    loop: LoopStatus = LoopStatus()
    reasons: list[str]


class EngineAnswer(Shape, frozen=True, kw_only=True):
    """The state of the engine after it was told something."""

    state: EngineState
