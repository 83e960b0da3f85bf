"""What got away: found by its marks, signalled only if it is still the same, reaped only if it was adopted."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.fakes.children import dead_children, until_file

from aura.processes import leftovers

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


async def test_first_boot_looks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No boot of this folder was before it; each look at all processes takes its time."""

    def looked() -> list[leftovers.Seen]:
        raise AssertionError("it looked")

    monkeypatch.setattr(leftovers, "look_at_all", looked)
    assert await leftovers.end_leftovers(STORE, 1) == []
    with pytest.raises(AssertionError):
        await leftovers.end_leftovers(STORE, 2)


def test_server_that_was_started_by_a_run_spares_itself_and_its_ancestors() -> None:
    script = (
        "import anyio, sys; from aura.processes import leftovers; "
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


async def test_ending_what_a_run_left_lives_within_what_the_caller_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(leftovers, "LEFTOVER_PATIENCE", 60.0)
    deaf = ("sh", "-c", f"trap '' TERM; echo > {tmp_path}/deaf; while :; do sleep 1; done")
    with marked({"AURA_BOOT": f"{STORE}.2", "AURA_CID": MINE}, *deaf) as mine:
        await until_file(tmp_path / "deaf")
        begun = time.monotonic()
        with anyio.move_on_after(0.2):
            assert mine.pid in await leftovers.end_run_leftovers(f"{STORE}.2", MINE)
        assert time.monotonic() - begun < 20
        assert mine.wait(10) == -signal.SIGKILL


# -- a number that was given to another process


class Table:
    """A table of processes instead of the machine's; it notes what is signalled: number, start time, signal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *seen: leftovers.Seen) -> None:
        self.processes = {one.pid: one for one in seen}
        self.signalled: list[tuple[int, int, signal.Signals]] = []
        self.slow = 0.0
        self.after_look: dict[int, leftovers.Seen] = {}
        self.on_signal: dict[int, leftovers.Seen | None] = {}
        self._handles: dict[int, leftovers.Seen] = {}
        monkeypatch.setattr(leftovers, "look_at_all", self.look_at_all)
        monkeypatch.setattr(leftovers, "look_at", self.processes.get)
        monkeypatch.setattr(leftovers, "_children", lambda: [])
        monkeypatch.setattr(leftovers, "KILL_WAIT", 0.1)
        monkeypatch.setattr(leftovers, "LEFTOVER_PATIENCE", 0.02)
        monkeypatch.setattr(os, "pidfd_open", self.pidfd_open)
        monkeypatch.setattr(signal, "pidfd_send_signal", self.send)

    def look_at_all(self) -> list[leftovers.Seen]:
        time.sleep(self.slow)
        found = list(self.processes.values())
        self.processes.update(self.after_look)
        return found

    def pidfd_open(self, pid: int) -> int:
        if pid not in self.processes:
            raise ProcessLookupError
        handle = os.open(os.devnull, os.O_RDONLY)
        self._handles[handle] = self.processes[pid]
        return handle

    def send(self, handle: int, number: signal.Signals) -> None:
        seen = self._handles[handle]
        self.signalled.append((seen.pid, seen.start, number))
        if number is signal.SIGKILL:
            self.processes.pop(seen.pid, None)
        elif seen.pid in self.on_signal:
            after = self.on_signal[seen.pid]
            self.processes.pop(seen.pid) if after is None else self.processes.update({seen.pid: after})


OLD = {"AURA_BOOT": f"{STORE}.1", "AURA_CID": MINE}


def a_process(pid: int, start: int, marks: Mapping[str, str]) -> leftovers.Seen:
    return leftovers.Seen(pid, "p", False, 1, pid, pid, start, marks)


async def at_boot() -> list[int]:
    return await leftovers.end_leftovers(STORE, 2)


async def at_stop() -> list[int]:
    return await leftovers.end_run_leftovers(f"{STORE}.1", MINE)


WHEN = pytest.mark.parametrize("end", [at_boot, at_stop], ids=lambda end: end.__name__)
STRANGER = a_process(9_000_001, 500, {})


@WHEN
async def test_stranger_with_the_number_of_what_was_seen_is_not_signalled(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], Awaitable[list[int]]]
) -> None:
    table = Table(monkeypatch, a_process(9_000_001, 100, OLD), a_process(9_000_002, 100, OLD))
    table.after_look = {9_000_001: STRANGER}
    await end()
    assert {(pid, start) for pid, start, _ in table.signalled} == {(9_000_002, 100)}
    assert table.processes == {9_000_001: STRANGER}


@WHEN
async def test_stranger_with_the_number_of_what_was_told_to_end_is_not_killed(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], Awaitable[list[int]]]
) -> None:
    table = Table(monkeypatch, a_process(9_000_001, 100, OLD))
    table.on_signal = {9_000_001: STRANGER}
    await end()
    assert table.signalled == [(9_000_001, 100, signal.SIGTERM)]
    assert table.processes == {9_000_001: STRANGER}


@WHEN
async def test_another_of_ours_with_the_number_of_one_that_ended_is_ended_too(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], Awaitable[list[int]]]
) -> None:
    table = Table(monkeypatch, a_process(9_000_001, 100, OLD))
    table.on_signal = {9_000_001: a_process(9_000_001, 200, OLD)}
    await end()
    assert not table.processes
    assert {start for _, start, number in table.signalled if number is signal.SIGTERM} <= {100, 200}
    assert table.signalled[-1] == (9_000_001, 200, signal.SIGKILL)


@WHEN
async def test_slow_look_does_not_cost_anybody_its_clean_up(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], Awaitable[list[int]]]
) -> None:
    table = Table(monkeypatch, a_process(9_000_001, 100, OLD))
    table.on_signal = {9_000_001: None}
    table.slow = 2 * leftovers.LEFTOVER_PATIENCE
    await end()
    assert table.signalled == [(9_000_001, 100, signal.SIGTERM)]


@WHEN
async def test_what_ignores_term_is_killed_and_others_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], Awaitable[list[int]]]
) -> None:
    other = a_process(9_000_002, 100, {"AURA_CID": MINE, "AURA_BOOT": "beef.1"})
    table = Table(monkeypatch, a_process(9_000_001, 100, OLD), other)
    assert await end() == [9_000_001]
    numbers = [number for _, _, number in table.signalled]
    assert numbers[:2] == [signal.SIGTERM, signal.SIGCONT]
    assert numbers[-1] == signal.SIGKILL
    assert table.processes == {9_000_002: other}


# -- reaping


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


def test_process_adopts_until_the_last_of_its_servers_has_ended() -> None:
    assert not leftovers.is_subreaper()
    first, second = leftovers.adopting(), leftovers.adopting()
    assert first.__enter__()
    assert second.__enter__()
    first.__exit__(None, None, None)
    assert leftovers.is_subreaper()
    second.__exit__(None, None, None)
    assert not leftovers.is_subreaper()


def test_process_that_adopted_before_goes_on(subreaper: None) -> None:
    with leftovers.adopting():
        pass
    assert leftovers.is_subreaper()
