"""A run that kills the server is parked after three crashes in a row, and what is behind it runs."""

import time
from pathlib import Path

import pytest
from tests.acceptance.crash.door import Where, ask
from tests.acceptance.crash.life import PATIENCE, START_TIME, Server, open_server
from tests.fakes.served import write_plans

PLANS = {
    "lab/tasks/own.yaml": "recovery: restart\nsteps:\n  a: {action: kill_server}\n",
    "lab/tasks/parent.yaml": """
recovery: resume
steps:
  a: {action: log, params: {message: once}}
  b: {action: shell.run, params: {shell: 'kill -9 "$PPID"; sleep 10'}, idempotent: true, depends_on: a}
""",
    "lab/tasks/good.yaml": "recovery: restart\nsteps:\n  a: {action: log, params: {message: well}}\n",
    "lab/actions.py": """
import os
from aura import action

@action
def kill_server() -> None:
    os.kill(os.getpid(), 9)
""",
}
#: One place, so that what is behind the bad one has to wait for it.
ONE_PLACE = {"AURA_LANES__MAIN__LIMIT": "1"}
CRASHES = 3


def ready(server: Server) -> Where | None:
    with server.killed_after(START_TIME):
        return server.wait_ready()


def wait_ended(where: Where, cid: str) -> dict[str, object]:
    end = time.monotonic() + PATIENCE
    while (run := ask(where, "GET", f"/api/runs/{cid}"))["finished_at"] is None:
        assert time.monotonic() < end, run
        time.sleep(0.02)
    return dict(run)


@pytest.mark.parametrize("task", ["own", "parent"])
def test_run_that_kills_the_server_is_parked_and_others_run(tmp_path: Path, task: str) -> None:
    write_plans(tmp_path, PLANS)
    with open_server(tmp_path, more=ONE_PLACE) as server:
        where = ready(server)
        assert where
        wanted = [{"plan_name": "lab", "task_name": name} for name in (task, "good")]
        bad, good = (item["cid"] for item in ask(where, "POST", "/api/tasks/batch", {"tasks": wanted})["items"])
        assert server.wait_end() == -9
    for _ in range(CRASHES - 1):
        with open_server(tmp_path, more=ONE_PLACE) as server:
            ready(server)
            assert server.wait_end() == -9
    with open_server(tmp_path, more=ONE_PLACE) as server:
        where = ready(server)
        assert where
        run = wait_ended(where, bad)
        assert (run["state"], run["reason"]) == ("crashed", "parked")
        assert wait_ended(where, good)["state"] == "succeeded"
        server.process.terminate()
        assert server.wait_end() == 0
