"""Child processes of a real server: gone after SIGTERM, gone after SIGKILL and the next start."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.children import running_in, running_of
from tests.fakes.door import wait_until
from tests.fakes.served import Served, open_served, write_plans

from aura.processes.leftovers import Seen, look_at, look_at_all

#: What takes its time to end, or does not hear that it should.
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(100)"
PLANS = {
    "lab/tasks/stubborn.yaml": """
steps:
  hang:
    action: shell.run
    params: {shell: "trap '' TERM; setsid sleep 100 & echo ready; sleep 100; sleep 100"}
""",
    "lab/tasks/daemon.yaml": """
steps:
  leave: {action: shell.run, params: {shell: "(setsid sh -c 'setsid sleep 100 & exit' >/dev/null 2>&1 &)"}}
  hang: {action: shell.run, params: {argv: [sleep, 100]}, depends_on: leave}
""",
    "lab/tasks/script.yaml": f"steps:\n  hang: {{action: python.run, params: {{code: {DEAF!r}}}}}\n".replace("'", '"'),
    "lab/tasks/apart.yaml": "steps:\n  once: {action: pass_by}\n  hang: {action: hang, depends_on: once}\n",
    "lab/actions.py": """
import time
from aura import action

@action(isolation="process")
def pass_by() -> None:
    pass

@action(isolation="process")
def hang() -> None:
    time.sleep(100)
""",
}


@contextmanager
def hanging(served: Served) -> Iterator[str]:
    """Begin a run whose command ignores TERM, and give its id once three processes of it are there."""
    cid = served.aura("run", "lab/stubborn", "--detach").out.strip()
    deadline = time.monotonic() + 10
    while len(running_of(cid)) < 3:
        assert time.monotonic() < deadline, served.aura("logs", cid).out
        time.sleep(0.02)
    yield cid


def test_sigterm_leaves_no_process_within_the_grace(tmp_path: Path) -> None:
    write_plans(tmp_path, PLANS)
    with open_served(tmp_path, env={"AURA_GRACE": "2s"}) as served, hanging(served) as cid:
        began = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began < 4
        assert not running_of(cid)
        assert not running_in(tmp_path / "data/work" / cid)


def test_processes_of_a_killed_server_are_ended_by_the_next_start(tmp_path: Path) -> None:
    write_plans(tmp_path, PLANS)
    with open_served(tmp_path) as served, hanging(served) as cid:
        served.process.kill()
        served.process.wait(10)
        assert len(running_of(cid)) >= 3
    began = time.monotonic()
    with open_served(tmp_path) as served:
        assert time.monotonic() - began < 5
        assert not running_of(cid)
        run = served.aura("show", cid, "--json").json
        assert (run["state"], run["stuck"]) == ("crashed", False)
    assert "of an older start was still there" in (tmp_path / "server.log").read_text()


def started_by(served: Served) -> list[Seen]:
    """Everything alive that bears the mark of this start of the server: idle interpreters too."""
    tags = {seen.marks["AURA_BOOT"] for seen in look_at_all() if seen.parent == served.process.pid and seen.marks}
    return [seen for seen in look_at_all() if not seen.zombie and seen.marks.get("AURA_BOOT") in tags]


def is_alive(seen: Seen) -> bool:
    """Whether this very process is, not another that has its number by now."""
    now = look_at(seen.pid)
    return now is not None and not now.zombie and now.start == seen.start


def test_whatever_a_killed_server_has_started_is_ended_by_the_next_start(tmp_path: Path) -> None:
    write_plans(tmp_path, PLANS)
    with open_served(tmp_path) as served:
        cids = [served.aura("run", f"lab/{task}", "--detach").out.strip() for task in ("daemon", "script", "apart")]
        wait_until(lambda: all(len(running_of(cid)) >= count for cid, count in zip(cids, (2, 1, 1), strict=True)))
        left = started_by(served)
        assert {seen.marks["AURA_CID"] for seen in left} > {*cids}  # and the interpreters that are kept ready
        served.process.kill()
        served.process.wait(10)
        assert [seen for seen in left if is_alive(seen)]  # those that do not notice that the server is gone
    with open_served(tmp_path) as served:
        assert not [seen for seen in left if is_alive(seen)], [seen for seen in left if is_alive(seen)]
        assert not [seen for cid in cids for seen in running_of(cid)]
