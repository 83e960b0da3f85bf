"""A poll on a real server: a command that is asked again and again fires its rule when what it prints turns."""

from pathlib import Path

import anyio
import pytest
from tests.fakes.served import Served, open_served, write_plans

from aura import api
from aura.client import AsyncClient, Target

RULES = """
rules:
  low:
    triggers:
      - poll: {action: shell.run, params: {argv: [cat, "{{ plan.dir }}/level"]}, every: 100ms}
        when: "{{ 'low' in event.payload.stdout }}"
    task: save
"""
FILES = {
    "lab/tasks/save.yaml": 'steps: {save: {action: log, params: {message: "{{ event.payload.stdout }}"}}}',
    "lab/interrupts.yaml": RULES,
    "lab/level": "fine",
}


BLOCKS = """
import time

from aura import action


@action
async def look() -> bool:
    time.sleep(1.5)
    return False
"""
BLOCKED = {
    "lab/tasks/save.yaml": "steps: {save: {action: log, params: {message: saved}}}",
    "lab/actions.py": BLOCKS,
    "lab/interrupts.yaml": "rules: {low: {task: save, enabled: false, triggers: [{poll: {action: look, every: 1h}}]}}",
}


async def fired(served: Served, client: AsyncClient) -> api.EventRecord:
    """Let the level fall, and give the event of the firing."""
    async with client.events() as records:
        (served.folder / "plans/lab/level").write_text("low")
        async for record in records:
            if isinstance(record, api.EventRecord) and record.name == "interrupt.fired":
                return record
    raise AssertionError("the stream has ended")


@pytest.mark.anyio
async def test_command_that_is_polled_fires_its_rule_and_shows_with_it(tmp_path: Path) -> None:
    write_plans(tmp_path, FILES)
    with anyio.fail_after(60), open_served(tmp_path) as served:
        async with AsyncClient(Target(served.address, (served.folder / "data/token").read_text().strip())) as client:
            event = await fired(served, client)
            async with client.follow_run(event.payload["cid"]) as records:
                assert "low" in [one.message async for one in records if isinstance(one, api.LogRecord)]
        (rule,) = served.aura("interrupts", "--json").json["items"]
        (poll,) = rule["polls"]
        assert (poll["action"], poll["every_s"], poll["last_state"]) == ("shell.run", 0.1, "ok")


def test_poll_that_blocks_the_loop_is_named_with_its_rule(tmp_path: Path) -> None:
    write_plans(tmp_path, BLOCKED)
    with open_served(tmp_path) as served:
        served.aura("interrupts", "enable", "lab/low")  # it asks at once, and whoever comes then has to wait
        (block,) = served.aura("status", "--json").json["loop"]["blocked"]
        assert (block["plan_name"], block["function"].rpartition(".")[2]) == ("lab", "look")
        (line,) = (one for one in (tmp_path / "server.log").read_text().splitlines() if "blocked the event loop" in one)
        assert "lab blocked" in line
        assert "poll=rule lab/low" in line
