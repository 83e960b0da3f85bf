"""A thousand runs in one batch, and a thousand one by one, over HTTP: each ends, and ends once."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import anyio
import httpx2
import pytest
from tests.fakes.served import Served, open_served, write_plans

COUNT = 1000
PLANS = {"lab/tasks/note.yaml": "steps:\n  a: {action: log, params: {message: hello, level: debug}}\n"}
ASKED = {"plan_name": "lab", "task_name": "note"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("volume")
    write_plans(folder, PLANS)
    with open_served(folder) as made:
        yield made


def client_of(served: Served) -> httpx2.AsyncClient:
    token = (served.folder / "data" / "token").read_text().strip()
    return httpx2.AsyncClient(base_url=served.address, headers={"Authorization": f"Bearer {token}"}, timeout=30)


async def wait_for_all(client: httpx2.AsyncClient) -> None:
    """Return once the record says of no run that it waits or runs. A place comes back before its end is on record."""
    with anyio.fail_after(60):
        for state in ("queued", "running"):
            while (await client.get(f"/api/runs?state={state}&limit=1")).json()["items"]:
                pass


def ends_of(served: Served, cids: list[str]) -> list[tuple[str, int]]:
    """(state, how many final events) of each run."""
    sql = """SELECT r.cid, r.state, count(h.id) FROM run r JOIN history h ON h.seq=r.seq
             WHERE h.name IN ('run.succeeded', 'run.failed', 'run.cancelled', 'run.timed_out', 'run.crashed')
             GROUP BY r.seq"""
    with closing(sqlite3.connect(served.folder / "data" / "aura.db")) as db:
        found = {cid: (state, count) for cid, state, count in db.execute(sql)}
    return [found.get(cid, ("lost", 0)) for cid in cids]


async def test_a_thousand_runs_in_one_batch_all_end_once(served: Served) -> None:
    async with client_of(served) as client:
        answer = await client.post("/api/tasks/batch", json={"tasks": [ASKED] * COUNT})
        assert answer.status_code == 202
        cids = [item["cid"] for item in answer.json()["items"]]
        assert len(set(cids)) == COUNT
        await wait_for_all(client)
    assert ends_of(served, cids) == [("succeeded", 1)] * COUNT


async def test_a_thousand_runs_one_by_one_all_end_once(served: Served) -> None:
    cids: list[str] = []

    async def submit(client: httpx2.AsyncClient, count: int) -> None:
        for _ in range(count):
            answer = await client.post("/api/tasks/run", json=ASKED)
            assert answer.status_code == 202, answer.text
            cids.append(answer.json()["cid"])

    async with client_of(served) as client:
        # ten clients; each ends after its share
        async with anyio.create_task_group() as clients:
            for _ in range(10):
                clients.start_soon(submit, client, COUNT // 10)
        await wait_for_all(client)
    assert len(set(cids)) == COUNT
    assert ends_of(served, cids) == [("succeeded", 1)] * COUNT
