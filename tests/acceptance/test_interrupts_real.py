"""An interrupt on a real server, as its clients see it: fired by HTTP, followed on a stream, asked for by commands."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.served import Served, open_served, write_plans

from aura import api
from aura.client import AsyncClient, Target

WORK = "steps: {long: {action: sleep, params: {duration: 100ms}, loop: {times: 20}}}\nreturns: {n: 20}\n"
SAVE = "steps: {save: {action: log, params: {message: \"{{ event.payload.why or '' }}\"}}}\n"
RULES = "rules:\n  urgent: {triggers: [{event: door.open}], task: save}\n"
FILES = {"lab/tasks/work.yaml": WORK, "lab/tasks/save.yaml": SAVE, "lab/interrupts.yaml": RULES}
#: What is heard of it, in this order.
TOLD = ["interrupt.fired", "run.preempted", "run.resumed", "run.succeeded"]


def client_of(served: Served) -> AsyncClient:
    return AsyncClient(Target(served.address, (served.folder / "data/token").read_text().strip()))


async def started(client: AsyncClient) -> str:
    """A run of the work that has begun."""
    cid = (await client.run_task("lab", "work")).cid
    async with client.follow_run(cid) as records:
        async for record in records:
            if isinstance(record, api.EventRecord) and record.name == "step.started":
                return cid
    raise AssertionError("it ended before it began")


async def follow(client: AsyncClient, cid: str, after: str, found: dict[str, Any]) -> None:
    """Keep what is told of interrupts, and of one run, until that has ended."""
    async with client.events(after=after) as records:
        async for record in records:
            if isinstance(record, api.EventRecord) and (record.cid == cid or record.name.startswith("interrupt.")):
                found.setdefault(record.name, record)
                if record.name == "run.succeeded":
                    return


@pytest.mark.anyio
async def test_clients_hear_of_an_interrupt_in_its_order(tmp_path: Path) -> None:
    write_plans(tmp_path, FILES)
    with anyio.fail_after(60), open_served(tmp_path) as served:
        async with client_of(served) as client:
            cid = await started(client)
            dry = await client.dry_run("lab", "urgent")
            assert (dry.victims, dry.holds[0].lane) == ([cid], "main")
            told = await client.fire("lab", "urgent", {"why": "fire"})
            found: dict[str, Any] = {}
            await follow(client, cid, str(int(told.event_id) - 1), found)
            (fired,) = told.interrupts
            names = list(found)
            assert [name for name in names if name in TOLD] == TOLD
            assert names.index("interrupt.fired") < names.index("interrupt.ended") < names.index("run.resumed")
            assert (found["interrupt.fired"].payload["victims"], found["interrupt.ended"].payload["cid"]) == (
                [cid], fired.cid
            )  # fmt: skip
            assert found["run.preempted"].payload["by"]["cid"] == fired.cid
            run, handler = await client.get_run(cid), await client.get_run(fired.cid)
            assert run.preempted_by is not None
            assert (run.state, run.preemptions, run.preempted_by.cid) == ("succeeded", 1, fired.cid)
            assert [(one.cid, one.outcome) for one in handler.victims] == [(cid, "preempted")]
            assert [line.message async for line in client.logs(fired.cid)] == ["fire"]


def test_commands_ask_fire_and_switch(tmp_path: Path) -> None:
    write_plans(tmp_path, FILES | {"lab/tasks/work.yaml": WORK.replace("times: 20", "times: 2000")})
    with open_served(tmp_path) as served:
        cid = served.aura("run", "lab/work", "--detach").out.strip()
        dry = served.aura("interrupts", "fire", "lab/urgent", "--dry-run", "--json").json
        assert (dry["victims"], dry["spared"], dry["holds"][0]["queued"]) == ([cid], [], 0)
        assert served.aura("interrupts", "disable", "lab/urgent").err == "lab/urgent is off\n"
        assert served.aura("emit", "door.open", "--json").json["interrupts"] == []
        (rule,) = served.aura("interrupts", "--json").json["items"]
        assert (rule["enabled"], rule["switched_by"], rule["missed"]) == (False, "local", {"disabled": 1})
        (fired,) = served.aura("interrupts", "fire", "lab/urgent", "--json").json["interrupts"]
        served.aura("logs", "-f", fired["cid"])  # to its end
        assert served.aura("show", cid, "--json").json["preempted_by"]["cid"] == fired["cid"]
        assert served.aura("interrupts", "enable", "lab/urgent").code == 0
        unknown = served.aura("interrupts", "fire", "lab/urgnt")
        assert (unknown.code, "urgent" in unknown.err) == (64, True)
        assert served.aura("cancel", cid).code == 0
