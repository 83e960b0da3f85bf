"""A file, and the delivery of a webhook, start one run, at whichever moment of its commit the server is killed."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from tests.acceptance.crash.door import CUT_OFF, Where, ask, connect
from tests.acceptance.crash.life import START_TIME, Death, open_server
from tests.fakes.served import write_plans

from aura.failpoints import SITES, Site

PLAN = {
    "lab/plan.yaml": "secrets: [hook]\n",
    "lab/tasks/take.yaml": "steps: {a: {action: log, params: {message: it came}}}\n",
    "lab/schedule.yaml": "items:\n"
    "  file: {task: take, triggers: [{file: {path: inbox}}]}\n"
    "  hook: {task: take, triggers: [{webhook: {secret: hook, scheme: bearer}}]}\n",
}
SECRET = {"AURA_SECRET_HOOK": "knock knock knock"}
#: Each kills the first commit of a life that starts an item.
DEATHS = [Death(f"{Site.SLOT}.{moment}:kill@1") for moment in SITES[Site.SLOT]]


def wait_for_look(where: Where) -> None:
    """Wait until the folder has been looked at in this life."""
    end = time.monotonic() + START_TIME
    while ask(where, "GET", "/api/schedule/lab/file")["folders"][0]["looked_at"] is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def file_comes(folder: Path, where: Where) -> None:
    """It is there from the first life on; what lies there before the first look counts as known."""
    wait_for_look(where)
    with suppress(FileExistsError):
        (folder / "plans/lab/inbox/one").touch(exist_ok=False)


def hook_is_called(_: Path, where: Where) -> None:
    """The same delivery comes in each life."""
    with closing((door := connect(where)).connection):
        status, answer = door.ask("POST", "/api/hooks/lab/hook", {}, "monday", SECRET["AURA_SECRET_HOOK"])
    assert status in (200, 202), answer


@pytest.mark.parametrize("comes", [file_comes, hook_is_called])
def test_trigger_starts_one_run_whenever_it_is_killed(tmp_path: Path, comes: Callable[[Path, Where], None]) -> None:
    write_plans(tmp_path, PLAN)
    (tmp_path / "plans/lab/inbox").mkdir()
    for death in (*DEATHS, None):
        with open_server(tmp_path, death, SECRET) as server:
            with server.killed_after(START_TIME):
                where = server.wait_ready()
            if where is not None:  # else what came in an earlier life has killed it already
                with suppress(*CUT_OFF if death else ()):
                    comes(tmp_path, where)
            if death is None:
                server.process.terminate()
            assert server.wait_end() == (-9 if death else 0), death
    assert (tmp_path / "server.log").read_text(encoding="utf-8").count("aura: failpoint") == len(DEATHS)
    with closing(sqlite3.connect(tmp_path / "data" / "aura.db")) as db:
        assert db.execute("SELECT count(*) FROM run").fetchall() == [(1,)]
