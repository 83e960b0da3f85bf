"""``AsyncClient``: one method for each route of a server, typed, for asyncio and trio.

Each route is written here and nowhere else; ``blocking.Client`` makes its methods of these. What the members of the
answers mean is said in ``docs/reference/http.md``. Every method may raise ``Unreachable`` (nobody answers) and
``Refused`` (the server said no; its ``code`` says why).
"""

import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio
import msgspec

from aura import api
from aura.client.answers import read
from aura.client.connection import Connection, given, quoted
from aura.client.download import Download
from aura.client.pages import Pages
from aura.client.streams import Stream
from aura.client.target import Target, default_target
from aura.run import Request

T = TypeVar("T")

KEY = "Idempotency-Key"


class AsyncClient:
    """A client of one server; close it, or use it as an async context manager. Its calls may run at the same time."""

    def __init__(self, target: Target | None = None, agent: str = "aura-client") -> None:
        """Without a target it is the server that the commands would ask.

        ``agent`` says who asks; a run that ``aura-cli`` asked for has the cause ``cli``.
        """
        self._connection = Connection(target or default_target(), agent)

    @property
    def target(self) -> Target:
        """The server that is asked."""
        return self._connection.target

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, those of open streams too."""
        await self._connection.aclose()

    # -- the server ----------------------------------------------------------------------------------------------------

    async def status(self) -> api.ServerStatus:
        """What the server is and how it fares."""
        return await self._get("/api/system/status", api.ServerStatus)

    async def ready(self) -> api.Readiness:
        """Whether work is taken and started, and if not, why."""
        answer = await self._connection.send("GET", "/readyz", fine=frozenset({503}))
        if not answer.headers.get("Content-Type", "").startswith("application/json"):  # a stranger is not told why
            return api.Readiness(ready=answer.is_success, reasons=[])
        return read(answer, api.Readiness)

    async def start(self) -> api.EngineAnswer:
        """Start the engine."""
        return await self._post("/api/system/start", api.EngineAnswer)

    async def stop(self, mode: Literal["drain", "cancel"] = "drain", grace_s: float | None = None) -> api.EngineAnswer:
        """Stop the engine; the server still answers and accepts runs, which wait until it is started."""
        return await self._post("/api/system/stop", api.EngineAnswer, {"mode": mode, "grace_s": grace_s})

    async def reload(self) -> list[api.ReloadedPlan]:
        """Load the plans again."""
        return (await self._post("/api/system/reload", api.Reloaded)).plans

    async def metrics(self) -> str:
        """The server's figures, as Prometheus reads them."""
        return (await self._connection.send("GET", "/metrics")).text

    async def openapi(self) -> dict[str, Any]:
        """The description of the HTTP interface (OpenAPI 3.1)."""
        return await self._get("/openapi.json", dict[str, Any])

    # -- what there is to run ------------------------------------------------------------------------------------------

    def plans(self) -> Pages[api.Plan]:
        """All plans, by name."""
        return self._list("/api/plans", api.Page[api.Plan])

    def tasks(self, plan_name: str) -> Pages[api.Task]:
        """The tasks of a plan, by name."""
        return self._list(f"/api/plans/{quoted(plan_name)}/tasks", api.Page[api.Task])

    async def task(self, plan_name: str, task_name: str) -> api.Task:
        """One task, with the JSON Schema of its inputs."""
        return await self._get(f"/api/plans/{quoted(plan_name)}/tasks/{quoted(task_name)}", api.Task)

    def actions(self) -> Pages[api.Action]:
        """The actions, those of Aura and those of plans, by name."""
        return self._list("/api/actions", api.Page[api.Action])

    # -- asking for runs -----------------------------------------------------------------------------------------------

    async def run_task(
        self,
        plan_name: str,
        task_name: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        lane: str | None = None,
        delay_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        wait: float | None = None,
    ) -> api.Accepted | api.Run:
        """Ask for a run. With ``wait`` (seconds) the whole run is answered if it ends in that time.

        The request has an idempotency key, of its own if none is given: it is asked again when the connection is lost
        under it, and is one run however often the server has heard it.
        """
        options = {"priority": priority, "lane": lane, "delay_s": delay_s, "labels": labels or None}
        body = {"plan_name": plan_name, "task_name": task_name, "inputs": inputs or {}} | given(options)
        return await self._ask_run("/api/tasks/run", body, idempotency_key, wait)

    async def _ask_run(
        self, path: str, body: Mapping[str, Any], key: str | None, wait: float | None
    ) -> api.Accepted | api.Run:
        headers = _key(key) | ({} if wait is None else {"Prefer": f"wait={math.ceil(wait)}"})
        answer = await self._connection.send(
            "POST", path, body=body, headers=headers, repeatable=True, wait=wait or 0.0
        )
        return read(answer, api.Run) if answer.status_code == 200 else read(answer, api.Accepted)

    async def batch(
        self, tasks: Sequence[Request], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> api.Batch:
        """Ask for up to 1,000 runs in one commit; with ``atomic`` for all of them or none. Safe as ``run_task`` is."""
        body = {"tasks": [msgspec.to_builtins(task) for task in tasks], "atomic": atomic}
        answer = await self._connection.send(
            "POST", "/api/tasks/batch", body=body, headers=_key(idempotency_key), repeatable=True
        )
        return read(answer, api.Batch)

    # -- steering runs -------------------------------------------------------------------------------------------------

    async def cancel(self, cid: str, reason: str | None = None) -> api.RunAnswer:
        """Cancel a run; of an ended one ``Refused`` with the code ``ended``."""
        return await self._post(f"/api/tasks/{quoted(cid)}/cancel", api.RunAnswer, {"reason": reason})

    async def cancel_where(
        self,
        *,
        state: str | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        lane: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Cancel every run that fits, at least one condition given → their ids."""
        body = {"state": state, "plan_name": plan_name, "task_name": task_name, "lane": lane, "labels": labels or None}
        return (await self._post("/api/tasks/cancel", api.Cancelled, body)).cancelled

    async def pause(self, cid: str, reason: str | None = None) -> api.RunAnswer:
        """Stop a run so that it can go on later; it is kept until it is resumed."""
        return await self._post(f"/api/tasks/{quoted(cid)}/pause", api.RunAnswer, {"reason": reason})

    async def resume(self, cid: str) -> api.RunAnswer:
        """Let a paused run go on as soon as there is a place."""
        return await self._post(f"/api/tasks/{quoted(cid)}/resume", api.RunAnswer)

    async def answer(
        self,
        cid: str,
        step: str,
        approved: bool = True,
        values: Mapping[str, Any] | None = None,
        *,
        index: int | None = None,
    ) -> api.RunAnswer:
        """Answer a step that waits for it, or the item ``index`` of one; a second time ``Refused`` (``answered``)."""
        body = {"step": step, "approved": approved, "values": values, "index": index}
        return await self._post(f"/api/tasks/{quoted(cid)}/answer", api.RunAnswer, given(body))

    async def set_priority(self, cid: str, priority: int) -> api.Prioritized:
        """Change the priority of a run that has not ended; a queued one moves at once."""
        path = f"/api/tasks/{quoted(cid)}/priority"
        return await self._tell("PATCH", path, api.Prioritized, {"priority": priority})

    async def rerun(
        self, cid: str, from_step: str | None = None, *, idempotency_key: str | None = None
    ) -> api.Accepted:
        """Ask for a new run of what an ended one did, from its beginning or from a step. Safe as ``run_task`` is."""
        path = f"/api/tasks/{quoted(cid)}/rerun"
        headers = _key(idempotency_key)
        answer = await self._connection.send(
            "POST", path, body=given({"from_step": from_step}), headers=headers, repeatable=True
        )
        return read(answer, api.Accepted)

    # -- events --------------------------------------------------------------------------------------------------------

    async def emit(self, name: str, payload: Any = None) -> api.EmittedEvent:
        """Emit an event; answered once it is on record, with the runs that it has started."""
        return await self._post("/api/events", api.EmittedEvent, {"name": name, "payload": payload})

    # -- interrupts ----------------------------------------------------------------------------------------------------

    def interrupts(self) -> Pages[api.Rule]:
        """The interrupt rules, by plan and name."""
        return self._list("/api/interrupts", api.Page[api.Rule])

    async def fire(self, plan_name: str, rule: str, payload: Any = None) -> api.EmittedEvent:
        """Fire a rule, whether or not it is switched on; answered once it is on record."""
        return await self._post(_of_rule(plan_name, rule, "fire"), api.EmittedEvent, {"payload": payload})

    async def dry_run(self, plan_name: str, rule: str) -> api.DryRun:
        """What firing a rule would do now; nothing is done."""
        return await self._post(_of_rule(plan_name, rule, "fire"), api.DryRun, {"dry_run": True})

    async def enable_rule(self, plan_name: str, rule: str) -> api.Rule:
        """Switch a rule on, until its file says something else."""
        return await self._post(_of_rule(plan_name, rule, "enable"), api.Rule)

    async def disable_rule(self, plan_name: str, rule: str) -> api.Rule:
        """Switch a rule off, until its file says something else: its triggers fire it no more."""
        return await self._post(_of_rule(plan_name, rule, "disable"), api.Rule)

    # -- schedules -----------------------------------------------------------------------------------------------------

    def schedule(self) -> Pages[api.ScheduledItem]:
        """The items of all schedules, by plan and name."""
        return self._list("/api/schedule", api.Page[api.ScheduledItem])

    async def item(self, plan_name: str, item: str) -> api.ScheduledItem:
        """One item of a schedule as it stands."""
        return await self._get(_of_item(plan_name, item), api.ScheduledItem)

    async def preview(
        self, plan_name: str, item: str, begin: datetime | None = None, end: datetime | None = None
    ) -> api.Preview:
        """The times at which an item is due, from ``begin`` (now) until before ``end`` (a week later), with a zone."""
        span = given({"from": begin.isoformat() if begin else None, "to": end.isoformat() if end else None})
        return await self._get(_of_item(plan_name, item, "/preview"), api.Preview, span)

    async def run_item(
        self,
        plan_name: str,
        item: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        wait: float | None = None,
    ) -> api.Accepted | api.Run:
        """Start an item now, with its inputs and over them ``inputs``. Answered, and as safe, as ``run_task`` is."""
        path, body = _of_item(plan_name, item, "/run"), {"inputs": inputs or {}}
        return await self._ask_run(path, body, idempotency_key, wait)

    async def enable_item(self, plan_name: str, item: str) -> api.ScheduledItem:
        """Switch an item on, until its file says something else."""
        return await self._post(_of_item(plan_name, item, "/enable"), api.ScheduledItem)

    async def disable_item(self, plan_name: str, item: str) -> api.ScheduledItem:
        """Switch an item off, until its file says something else: its triggers start nothing any more."""
        return await self._post(_of_item(plan_name, item, "/disable"), api.ScheduledItem)

    # -- why ----------------------------------------------------------------------------------------------------------

    def why(
        self,
        *,
        plan_name: str | None = None,
        item: str | None = None,
        rule: str | None = None,
        task_name: str | None = None,
        reason: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int | None = None,
    ) -> Pages[api.Why]:
        """What does not begin yet, then what did not start, the newest first, and why. Times have a zone."""
        filters = {
            "plan_name": plan_name,
            "item": item,
            "rule": rule,
            "task_name": task_name,
            "reason": reason,
            "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
            "limit": page_size,
        }
        return self._list("/api/why", api.Page[api.Why], filters)

    # -- runs ----------------------------------------------------------------------------------------------------------

    async def get_run(self, cid: str) -> api.Run:
        """One whole run."""
        return await self._get(f"/api/runs/{quoted(cid)}", api.Run)

    def runs(
        self,
        *,
        state: str | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        lane: str | None = None,
        labels: Mapping[str, str] | None = None,
        cids: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int | None = None,
    ) -> Pages[api.RunShort]:
        """Runs, the newest first. ``since`` and ``until`` are about when they were accepted, with a zone."""
        filters = {
            "state": state,
            "plan_name": plan_name,
            "task_name": task_name,
            "lane": lane,
            "label": [f"{name}:{value}" for name, value in (labels or {}).items()] or None,
            "cid": ",".join(cids) or None,
            "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
            "limit": page_size,
        }
        return self._list("/api/runs", api.Page[api.RunShort], filters)

    def active_runs(self) -> Pages[api.RunShort]:
        """What holds a place now, the newest first."""
        return self._list("/api/runs/active", api.Page[api.RunShort])

    def logs(self, cid: str, *, level: api.Level | None = None) -> Pages[api.LogRecord]:
        """The stored log lines of a run, of ``level`` or above, the oldest first."""
        filters = {"level": level, "limit": 1000}
        return self._list(f"/api/runs/{quoted(cid)}/logs", api.Page[api.LogRecord], filters)

    def files(self, cid: str) -> Pages[api.RunFile]:
        """What is in the workdir of a run, by path."""
        return self._list(f"/api/runs/{quoted(cid)}/files", api.Page[api.RunFile], {"limit": 1000})

    def download(self, cid: str, path: str) -> Download:
        """The bytes of one file of a run, piece by piece."""
        return Download(self._connection, f"/api/runs/{quoted(cid)}/files/{quoted(path)}")

    async def wait_run(self, cid: str, timeout: float | None = None) -> api.Run:
        """Wait until a run has ended, by its stream; the whole run.

        Raises:
            TimeoutError: it has not after ``timeout`` seconds.
        """
        with anyio.fail_after(timeout):
            async with self.follow_run(cid) as records:
                async for _ in records:
                    pass
            return await self.get_run(cid)

    # -- the queue -----------------------------------------------------------------------------------------------------

    def queue(self, *, lane: str | None = None, page_size: int | None = None) -> Pages[api.QueuedRun]:
        """The queued runs, in the order in which they would start."""
        return self._list("/api/queue/list", api.Page[api.QueuedRun], {"lane": lane, "limit": page_size})

    async def queue_overview(self) -> api.QueueOverview:
        """How work fares in the lanes and of the plans: what waits, how long, how much is done."""
        return await self._get("/api/queue/overview", api.QueueOverview)

    # -- who may ask ---------------------------------------------------------------------------------------------------

    def tokens(self) -> Pages[api.Token]:
        """The tokens that were made, without their secrets."""
        return self._list("/api/tokens", api.Page[api.Token])

    async def new_token(
        self, scopes: Sequence[api.TokenScope], *, name: str = "", expires_s: float | None = None
    ) -> api.NewToken:
        """Make a token; nobody is shown its secret again. ``expires_s``: how long it is good for, else for ever."""
        return await self._post("/api/tokens", api.NewToken, {"scopes": scopes, "name": name, "expires_s": expires_s})

    async def revoke_token(self, token_id: str) -> None:
        """Revoke a token: it is refused from now on, and what it has open ends."""
        await self._connection.send("DELETE", f"/api/tokens/{quoted(token_id)}")

    async def login_code(self) -> api.LoginCode:
        """Make a code that opens one browser session, with this client's rights."""
        return await self._post("/api/login/codes", api.LoginCode)

    # -- streams -------------------------------------------------------------------------------------------------------

    def follow_run(self, cid: str, *, after: str | None = None) -> Stream:
        """Everything of one run, from its start or behind the record ``after``, to its end: the last event."""
        return Stream(self._connection, f"/api/runs/{quoted(cid)}/events", None, after)

    def follow_logs(
        self,
        *,
        level: api.Level | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        cid: str | None = None,
        after: str | None = None,
    ) -> Stream:
        """Log lines as they come, from now on or from behind the record ``after``, without an end."""
        filters = {"level": level, "plan_name": plan_name, "task_name": task_name, "cid": cid}
        return Stream(self._connection, "/api/logs/stream", filters, after)

    def events(
        self,
        name: str | None = None,
        *,
        plan_name: str | None = None,
        task_name: str | None = None,
        cid: str | None = None,
        after: str | None = None,
    ) -> Stream:
        """Events as they come, Aura's own too, from now on or from behind the record ``after``, without an end.

        ``name`` is a name or a pattern of names: ``disk.*``.
        """
        filters = {"name": name, "plan_name": plan_name, "task_name": task_name, "cid": cid}
        return Stream(self._connection, "/api/events/stream", filters, after)

    # -- how all of them ask -------------------------------------------------------------------------------------------

    async def _get(self, path: str, kind: type[T], params: Mapping[str, Any] | None = None) -> T:
        return read(await self._connection.send("GET", path, params=params), kind)

    async def _post(self, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> T:
        return await self._tell("POST", path, kind, body)

    async def _tell(self, method: str, path: str, kind: type[T], body: Mapping[str, Any] | None) -> T:
        return read(await self._connection.send(method, path, body=body), kind)

    def _list(self, path: str, kind: type[api.Page[T]], filters: Mapping[str, Any] | None = None) -> Pages[T]:
        async def fetch(cursor: str | None) -> api.Page[T]:
            return await self._get(path, kind, {**(filters or {}), "cursor": cursor})

        return Pages(fetch)


def _of_item(plan_name: str, item: str, verb: str = "") -> str:
    return f"/api/schedule/{quoted(plan_name)}/{quoted(item)}{verb}"


def _of_rule(plan_name: str, rule: str, verb: str) -> str:
    return f"/api/interrupts/{quoted(plan_name)}/{quoted(rule)}/{verb}"


def _key(key: str | None) -> dict[str, str]:
    return {KEY: key or os.urandom(16).hex()}
