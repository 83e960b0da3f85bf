"""Processes of their own under a real server: kept warm, given secrets by no visible way, gone with it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.children import has_ended
from tests.fakes.served import Served, open_served, write_plans

from aura.isolation.messages import UNMARKED
from aura.processes import leftovers

SECRET = "correct-horse-battery"
PLANS = {
    "lab/plan.yaml": "secrets: [door]\n",
    "lab/actions.py": """
from aura import Context, action

@action(isolation="process")
def look(ctx: Context) -> list[str]:
    found = ctx.secrets["door"]
    ctx.progress(1, 2, "half")
    print("the secret is", found)
    shown = "".join(open(f"/proc/self/{name}").read() for name in ("cmdline", "environ"))
    return [found[::-1], "hidden" if found not in shown else "shown"]

@action(isolation="process")
def hang() -> None:
    while True:
        pass
""",
    "lab/tasks/look.yaml": "steps: {a: {action: look}}\nreturns: '{{ steps.a.output }}'\n",
    "lab/tasks/hang.yaml": "steps: {a: {action: hang}}\n",
    "lab/tasks/add.yaml": """
inputs: {n: integer}
steps:
  a: {action: python.run, params: {code: "result = inputs['n'] + 1", inputs: {n: "{{ inputs.n }}"}}}
returns: "{{ steps.a.output }}"
""",
}


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.02)


def children(served: Served) -> list[leftovers.Seen]:
    return [seen for seen in leftovers.look_at_all() if seen.parent == served.process.pid and not seen.zombie]


def idle(served: Served) -> list[leftovers.Seen]:
    return [seen for seen in children(served) if seen.marks.get(leftovers.CID) == UNMARKED]


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_none_is_left_of_a_server_that_ends(tmp_path: Path, killed: bool) -> None:
    write_plans(tmp_path, PLANS)
    with open_served(tmp_path, env={"AURA_GRACE": "2s", "AURA_SECRET_DOOR": SECRET}) as served:
        assert served.aura("run", "lab/add", "-i", "n=1").json == 2
        until(lambda: len(idle(served)) == 2)
        assert served.aura("run", "lab/add", "-i", "n=2").json == 3
        served.aura("run", "lab/hang", "--detach")
        until(lambda: len(idle(served)) == 2 and len(children(served)) == 3)
        there = children(served)
        if killed:
            served.process.kill()
            served.process.wait(10)
        else:
            assert served.stop() == 0
        until(lambda: all(has_ended(seen.pid) for seen in there))


def test_secret_goes_to_the_process_unseen(tmp_path: Path) -> None:
    write_plans(tmp_path, PLANS)
    with open_served(tmp_path, env={"AURA_SECRET_DOOR": SECRET}) as served:
        done = served.aura("run", "lab/look")
        assert done.json == [SECRET[::-1], "hidden"]
        assert "the secret is ***" in done.err
        assert SECRET not in done.err
