"""Child processes of a real server: gone after SIGTERM, gone after SIGKILL and the next start."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.children import running_in, running_of
from tests.fakes.served import Served, open_served, write_plans

PLANS = {
    "lab/tasks/stubborn.yaml": """
steps:
  hang:
    action: shell.run
    params: {shell: "trap '' TERM; setsid sleep 100 & echo ready; sleep 100; sleep 100"}
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
