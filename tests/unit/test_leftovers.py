"""What got away: found by its marks, signalled only if it is still the same, reaped only if it was adopted."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.fakes.children import dead_children, until_file

from aura import leftovers

#: Another one in each test process: they must not end each other's.
STORE = secrets.token_hex(4)
MINE = secrets.token_hex(4)


@pytest.fixture
def subreaper() -> Iterator[None]:
    assert leftovers.become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


@contextmanager
def marked(marks: Mapping[str, str], *argv: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else's, as an older boot of a server left it; `sleep 100` unless said otherwise."""
    environment = {"PATH": os.defpath, "AURA_BOOT": "", "AURA_CID": ""} | dict(marks)
    popen = subprocess.Popen(argv or ("sleep", "100"), env=environment, start_new_session=True)
    try:
        while not getattr(leftovers.look_at(popen.pid), "marks", None):
            time.sleep(0.001)  # for a moment after its start its environment is not there yet
        yield popen
    finally:
        popen.kill()
        popen.wait()


def test_process_is_seen_with_its_marks_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "a) R (b"
    odd.symlink_to("/bin/sleep")
    with marked({"AURA_CID": "c1", "AURA_TOKEN": "t"}, odd, "100") as popen:
        seen = leftovers.look_at(popen.pid)
    assert seen is not None
    assert (seen.name, seen.zombie, seen.parent, seen.session) == ("a) R (b", False, os.getpid(), popen.pid)
    assert seen.marks == {"AURA_BOOT": "", "AURA_CID": "c1"}


def test_look_at_a_number_that_is_nobodys() -> None:
    assert leftovers.look_at(2**30) is None


async def test_looks_that_are_asked_for_at_once_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = leftovers.look_at_all

    def look_at_all() -> list[leftovers.Seen]:
        looks.append(1)
        return real()

    monkeypatch.setattr(leftovers, "look_at_all", look_at_all)
    async with anyio.create_task_group() as group:  # a hundred who look; ends with the last
        for _ in range(100):
            group.start_soon(leftovers.find, lambda seen: seen.pid == os.getpid())
    assert 1 <= len(looks) <= 2


def test_signal_is_not_sent_to_another_process_with_the_same_number() -> None:
    with marked({}) as popen:
        seen = leftovers.look_at(popen.pid)
        assert seen is not None
        earlier = leftovers.Seen(seen.pid, seen.name, False, seen.parent, seen.group, seen.session, seen.start - 1)
        assert not leftovers.send(earlier, signal.SIGKILL)
        assert popen.poll() is None
        assert leftovers.send(seen, signal.SIGKILL)
        assert popen.wait() == -signal.SIGKILL
    assert not leftovers.send(seen, signal.SIGKILL)


@pytest.mark.parametrize(
    ("tag", "ended"),
    [
        pytest.param(f"{STORE}.1", True, id="older boot"),
        pytest.param(f"{STORE}.2", False, id="this boot"),
        pytest.param(f"{STORE}.10", False, id="newer boot, smaller as text"),
        pytest.param("beef.1", False, id="another data folder"),
        pytest.param(f"x{STORE}.1", False, id="another one, with the same end"),
        pytest.param(f"{STORE}.", False, id="no number"),
        pytest.param("", False, id="empty"),
    ],
)
async def test_leftovers_of_older_boots_of_this_folder_are_ended(tag: str, ended: bool) -> None:
    with marked({"AURA_BOOT": tag}) as popen:
        found = await leftovers.end_leftovers(STORE, 2)
        assert found == ([popen.pid] if ended else [])
        assert (popen.poll() is not None) == ended


async def test_leftover_that_ignores_term_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = f"trap '' TERM; echo > {ready}; sleep 100; sleep 100"
    with marked({"AURA_BOOT": f"{STORE}.1"}, "sh", "-c", command) as popen:
        await until_file(ready)
        await leftovers.end_leftovers(STORE, 2)
        assert popen.wait() == -signal.SIGKILL


async def test_leftover_may_clean_up(tmp_path: Path) -> None:
    ready, cleaned = tmp_path / "ready", tmp_path / "cleaned"
    command = f"trap 'echo > {cleaned}; exit' TERM; echo > {ready}; while :; do sleep 0.05; done"
    with marked({"AURA_BOOT": f"{STORE}.1"}, "sh", "-c", command):
        await until_file(ready)
        await leftovers.end_leftovers(STORE, 2)
    assert cleaned.exists()


def test_server_that_was_started_by_a_run_spares_itself_and_its_ancestors() -> None:
    script = (
        "import anyio, sys; from aura import leftovers; "
        f"sys.exit(len(anyio.run(leftovers.end_leftovers, {STORE!r}, 2)))"
    )
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, script]
    ended = subprocess.run(command, env=dict(os.environ) | {"AURA_BOOT": f"{STORE}.1"}, check=False)
    assert ended.returncode == 0


async def test_leftovers_of_a_run_are_ended_and_those_of_others_are_not() -> None:
    with (
        marked({"AURA_BOOT": f"{STORE}.2", "AURA_CID": MINE}) as mine,
        marked({"AURA_BOOT": f"{STORE}.2", "AURA_CID": "other"}) as other,
        marked({"AURA_BOOT": f"{STORE}.3", "AURA_CID": MINE}) as elsewhere,
    ):
        assert await leftovers.end_run_leftovers(f"{STORE}.2", MINE) == [mine.pid]
        assert mine.poll() is not None
        assert other.poll() is None
        assert elsewhere.poll() is None


def test_adopted_child_is_reaped(subreaper: None) -> None:
    before = {seen.pid for seen in dead_children()}  # other tests of this worker have left some that are not adopted
    subprocess.run(["sh", "-c", "setsid sh -c 'true & exit' & wait"], check=True, start_new_session=True)
    deadline = 200
    while (dead := [seen for seen in dead_children() if seen.pid not in before]) and deadline:
        leftovers.reap_adopted()
        deadline -= 1
    assert not dead


@pytest.mark.parametrize("own_session", [True, False], ids=["own session", "our session"])
def test_child_that_somebody_waits_for_is_not_reaped(subreaper: None, own_session: bool) -> None:
    popen = subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=own_session)
    os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    leftovers.reap_adopted()
    assert popen.wait() == 7
