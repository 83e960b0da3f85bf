"""The real server in this process: its HTTP door on a free port, a plan on disk, a client that has its token."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx2
from tests.fakes.web import Events, make_settings

from aura.clock import Clock
from aura.server import Server

HELLO = """\
title: Hello
inputs:
  day: {type: string, pattern: '^[0-9]{4}$'}
  count: {type: integer, default: 1, minimum: 1}
steps:
  - name: say
    action: log
    params: {message: "hello {{ inputs.day }}"}
  - name: count
    action: log
    params: {message: "{{ inputs.count }} times"}
returns: {day: "{{ inputs.day }}"}
"""
LONG = """\
steps:
  nap: {action: shell.run, params: {argv: [sleep, "600"]}}
"""


class Real(NamedTuple):
    """A running server and a client that has its token."""

    server: Server
    http: httpx2.AsyncClient

    async def run(self, task: str = "hello", **body: Any) -> httpx2.Response:
        inputs = {"day": "2026"} if task == "hello" else {}
        request = {"plan_name": "lab", "task_name": task, "inputs": inputs} | body
        return await self.http.post("/api/tasks/run", json=request)

    async def cid(self, task: str = "hello", **body: Any) -> str:
        answer = await self.run(task, **body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["cid"])

    async def get(self, path: str, **params: Any) -> Any:
        return (await self.http.get(path, params=params)).json()

    async def events(self, cid: str) -> list[dict[str, Any]]:
        """Everything of a run, once it has ended."""
        async with self.http.stream("GET", f"/api/runs/{cid}/events") as answer:
            return await Events(answer).rest()

    async def wait_state(self, cid: str, state: str) -> None:
        with anyio.fail_after(10):
            while (await self.get(f"/api/runs/{cid}"))["state"] != state:
                await anyio.lowlevel.checkpoint()


def refuse_to_leave(code: int) -> None:
    raise AssertionError(f"the server wanted to leave hard with {code}")


@asynccontextmanager
async def open_real(tmp: Path, clock: Clock | None = None) -> AsyncIterator[Real]:
    """Serve ``tmp/plans`` while inside."""
    (tmp / "plans/lab/tasks").mkdir(parents=True, exist_ok=True)
    (tmp / "plans/lab/tasks/hello.yaml").write_text(HELLO)
    (tmp / "plans/lab/tasks/long.yaml").write_text(LONG)
    server = Server(make_settings(tmp, grace=0.5), clock=clock, leave=refuse_to_leave)
    async with anyio.create_task_group() as group:  # the server, which ends by request_stop
        base = await group.start(server.serve)
        headers = {"Authorization": "Bearer " + (tmp / "data/token").read_text().strip()}
        transport = httpx2.AsyncHTTPTransport(verify=False)
        async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=20, transport=transport) as http:
            yield Real(server, http)
        server.request_stop()
