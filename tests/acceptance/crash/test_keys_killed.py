"""One idempotency key, asked for by many at once while the server is killed again and again, is one run."""

import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.acceptance.crash import mix
from tests.acceptance.crash.clients import request
from tests.acceptance.crash.door import CUT_OFF, Where, connect
from tests.acceptance.crash.life import START_TIME, Death, Server, open_server
from tests.fakes.served import write_plans

#: How often it is asked for in each life, by how many at once (a token may have some requests under way).
POSTS, AT_ONCE = 200, 40
#: Of five lives: before it is on record, on record and nobody knows it, and after so many answers.
DEATHS = [Death(f"accept.{moment}:kill@1") for moment in ("before", "inside", "after")] + [Death(), Death()]
ANSWERS = 20


def post(where: Where, _: int) -> str | None:
    """Ask once, on a connection of its own; the run's id, or None if the server is dead."""
    door = connect(where)
    with closing(door.connection):
        try:
            status, answer = door.ask("POST", "/api/tasks/run", request("nothing", "monday"), once="monday")
        except CUT_OFF:
            return None
    assert status == 202, answer
    return str(answer["cid"])


def ask_of(server: Server, death: Death | None) -> set[str]:
    """The ids that one life tells; without a failpoint it is killed after some answers."""
    with server.killed_after(START_TIME):
        where = server.wait_ready()
    assert where is not None
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(partial(post, where), range(POSTS))
        return _count(answers, server if death is not None and not death.failpoint else None)


def _count(answers: Iterable[str | None], doomed: Server | None) -> set[str]:
    told = set()
    for number, cid in enumerate(answers):
        told |= {cid} if cid else set()
        if doomed is not None and number == ANSWERS:
            doomed.process.kill()
    return told


def test_one_key_is_one_run_whatever_is_killed(tmp_path: Path) -> None:
    write_plans(tmp_path, mix.plan_files(tmp_path))
    told = []
    for death in DEATHS:
        with open_server(tmp_path, death) as server:
            told.append(ask_of(server, death))
            assert server.wait_end() == -9
    with open_server(tmp_path) as server:
        last = ask_of(server, None)
    assert [len(cids) for cids in told] == [0, 0, 0, 1, 1]
    assert {cid for cids in told for cid in cids} == last
    with closing(sqlite3.connect(tmp_path / "data" / "aura.db")) as db:
        assert db.execute("SELECT cid FROM run WHERE cause ->> 'kind' = 'api'").fetchall() == [tuple(last)]
