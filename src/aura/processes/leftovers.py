"""Processes that Aura started and that nobody waits for any more: how they are found, ended and reaped.

A child process of an action is normally ended by ``processes``, which started it. What is dealt with here got away:
it left its group, outlived the command that started it, or belongs to a boot of this server that was killed.

Theory of operation
    A process is known by marks in its environment, which its descendants inherit: ``AURA_BOOT`` (``<store>.<boot>``),
    ``AURA_CID`` and ``AURA_PROCESS`` (one call of ``open_process``). ``/proc/*/environ`` shows them, to their own user.
    A process that empties its environment and leaves its session is not found; nothing is promised about it.

    A number alone is not a process: it may have been given to another since. So nothing is signalled unless the start
    time (``/proc/<pid>/stat``, field 22) is still the one that was seen, and through a pidfd taken before that check,
    which holds on to the process that was checked.

    As child subreaper the server becomes the parent of what its descendants leave behind. Such a child has to be
    reaped, but a child that somebody here started (asyncio, ``subprocess`` in a plan's own code) must not be: its
    exit status is theirs. The two can be told apart by the session: a child that was forked here is in our session or
    leads its own, so a dead child in a session that neither we nor it leads was adopted. One that leads its own is
    taken for adopted only if it was seen alive with a mark that ``open_process`` gave.

After a crash of the server ``end_leftovers`` ends what the older boots left; it needs nothing from them but the marks.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

BOOT = "AURA_BOOT"
CID = "AURA_CID"
PROCESS = "AURA_PROCESS"
#: How long what an older boot or an ended run left may take over its own clean-up, in seconds.
LEFTOVER_PATIENCE = 0.5
#: How long a killed process may take to be gone, in seconds. Only one that hangs in the kernel needs more.
KILL_WAIT = 2.0
#: How long a look waits for processes that are just becoming another program, in seconds.
BECOMING = 0.1
_MARKS = (BOOT, CID, PROCESS)
#: PF_KTHREAD of the kernel: it has no program, and so no environment.
_KERNEL_THREAD = 0x00200000
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


class Seen(msgspec.Struct, frozen=True):
    """One process as it was when it was looked at. ``start`` is its start time in clock ticks since the machine's."""

    pid: int
    name: str
    zombie: bool
    parent: int
    group: int
    session: int
    start: int
    marks: Mapping[str, str] = {}
    #: It is just becoming another program, and shows no environment until it has.
    becoming: bool = False


Wanted = Callable[[Seen], bool]
#: How many seconds a process still has for its own clean-up, asked again and again: they may get fewer meanwhile.
Patience = Callable[[], float]


# -- looking ----------------------------------------------------------------------------------------------------------


def look_at(pid: int) -> Seen | None:
    """Read one process from ``/proc``; None if there is none with this number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    name, _, rest = stat.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    parent, group, session, flags, start, environ_end = (int(fields[i]) for i in (1, 2, 3, 6, 19, 48))
    zombie = fields[0] in b"ZX"
    environ = _environ_of(pid)
    becoming = environ == b"" and not (environ_end or zombie or flags & _KERNEL_THREAD)
    return Seen(pid, os.fsdecode(name), zombie, parent, group, session, start, _marks_in(environ or b""), becoming)


def _environ_of(pid: int) -> bytes | None:
    """What it was started with; None if that is not ours to read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None


def _marks_in(environ: bytes) -> dict[str, str]:
    if b"AURA_" not in environ:
        return {}
    pairs = (entry.partition(b"=") for entry in environ.split(b"\0") if entry.startswith(b"AURA_"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if os.fsdecode(name) in _MARKS}


def look_at_all() -> list[Seen]:
    """Read all processes of this user, about 30 µs for each; blocks for ``BECOMING`` at most for one in an ``exec``."""
    ours = os.getuid()
    found = [seen for pid in _numbers_of(ours) if (seen := look_at(pid)) is not None]
    end = time.monotonic() + BECOMING
    while any(seen.becoming for seen in found) and time.monotonic() < end:
        time.sleep(0.0005)
        again = (look_at(seen.pid) if seen.becoming else seen for seen in found)
        found = [seen for seen in again if seen is not None]
    return found


def _numbers_of(user: int) -> Iterator[int]:
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and _owner(entry) == user:
                yield int(entry.name)


def _owner(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_uid
    except OSError:
        return None


class _Looks:
    """Shares looks: a thousand stops in one instant need two of them, not a thousand."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._limiter = anyio.CapacityLimiter(1)
        self._begun = 0
        self._last = (0, list[Seen]())

    async def fresh(self) -> list[Seen]:
        """Give what a look saw that began after this call."""
        wanted = self._begun + 1
        async with self._lock:
            if self._last[0] < wanted:
                self._begun += 1
                self._last = (self._begun, await anyio.to_thread.run_sync(look_at_all, limiter=self._limiter))
            return self._last[1]


_looks: anyio.lowlevel.RunVar[_Looks] = anyio.lowlevel.RunVar("aura.processes.leftovers.looks")


async def find(wanted: Wanted) -> list[Seen]:
    """Give the living processes of this user that are ``wanted``, as they are after this call."""
    looks = _looks.get(None)
    if looks is None:
        looks = _Looks()
        _looks.set(looks)
    return [seen for seen in await looks.fresh() if not seen.zombie and wanted(seen)]


# -- ending -----------------------------------------------------------------------------------------------------------


def send(seen: Seen, number: signal.Signals) -> bool:
    """Signal exactly this process, never another that has its number by now; say whether it was sent."""
    try:
        handle = os.pidfd_open(seen.pid)
    except OSError:
        return False
    try:
        now = look_at(seen.pid)
        if now is None or now.start != seen.start:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def countdown(seconds: float) -> Patience:
    """A patience that begins now."""
    end = anyio.current_time() + seconds
    return lambda: end - anyio.current_time()


async def end_processes(wanted: Wanted, patience: Patience) -> tuple[list[int], list[int]]:
    """Ask all that is ``wanted`` to end (TERM), and kill it when the ``patience`` is over.

    What appears meanwhile is ended too. Returns the numbers of those that were signalled, and of those that are still
    there 2 s after the patience.
    """
    told: set[int] = set()
    left: list[Seen] = []
    impatient = patience() <= 0
    # The shield is for the clean-up of a stopped run; it cannot hang, for it has a deadline.
    with anyio.move_on_after(max(0.0, patience()) + KILL_WAIT, shield=True):
        confirmed = False  # one look may miss what was started by one that ended during it
        for pause in _pauses():
            left = await find(wanted)
            if not left:
                if confirmed:
                    break
                confirmed = True
                continue
            confirmed = False
            more = patience()
            kill = more <= 0 and (impatient or bool(told))  # a slow look must not cost them their clean-up
            _tell([seen for seen in left if kill or seen.pid not in told], kill)
            told.update(seen.pid for seen in left)
            await anyio.sleep(pause if more <= 0 else min(pause, more))
    reap_adopted()
    return sorted(told), [seen.pid for seen in left]


def _tell(those: Iterable[Seen], kill: bool) -> None:
    for seen in those:
        if PROCESS in seen.marks and seen.pid not in awaited:
            _adopted[seen.pid] = seen.start  # ours to reap, once those between it and us are gone
        if kill:
            send(seen, signal.SIGKILL)
        elif send(seen, signal.SIGTERM):
            send(seen, signal.SIGCONT)  # a stopped process would not hear it


def _pauses() -> Iterator[float]:
    pause = 0.005
    while True:
        yield pause
        pause = min(0.1, pause * 2)


async def end_leftovers(store_id: str, boot: int) -> list[int]:
    """End what older boots of this data folder left running; give the numbers of those processes.

    This process and its ancestors are spared: a server may have been started by a run of the one before it. The first
    boot of a data folder has none before it, and looks for nothing.
    """
    if boot <= 1:
        return []
    spared = _ancestry()

    def wanted(seen: Seen) -> bool:
        return seen.pid not in spared and is_older(seen.marks.get(BOOT, ""), store_id, boot)

    return (await end_processes(wanted, countdown(LEFTOVER_PATIENCE)))[0]


def is_older(tag: str, store_id: str, boot: int) -> bool:
    """Whether a mark (``BOOT``) is of an older boot of this data folder."""
    store, _, number = tag.rpartition(".")
    return store == store_id and number.isdecimal() and int(number) < boot


def _ancestry() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        seen = look_at(pid)
        pid = seen.parent if seen else 0
    return found


async def end_boot_leftovers(boot_tag: str) -> list[int]:
    """End what a server that is going has left running, whosever run it was; give the numbers of those processes."""
    return (await end_processes(lambda seen: seen.marks.get(BOOT) == boot_tag, countdown(LEFTOVER_PATIENCE)))[0]


async def end_run_leftovers(boot_tag: str, cid: str) -> list[int]:
    """End what a run left running in the background; give the numbers of those processes.

    Half of what the caller's scope leaves, at most 0.5 s, is for its own clean-up; then it is killed. One look at
    ``/proc`` at least: call it only for a run that may have had processes.
    """
    left = max(0.0, anyio.current_effective_deadline() - anyio.current_time())

    def wanted(seen: Seen) -> bool:
        return seen.marks.get(CID) == cid and seen.marks.get(BOOT) == boot_tag

    return (await end_processes(wanted, countdown(min(LEFTOVER_PATIENCE, left / 2))))[0]


# -- adopting and reaping ---------------------------------------------------------------------------------------------

#: The children that ``open_process`` started and will reap itself.
awaited: set[int] = set()
#: Adopted children, and what is about to become one (number → start time): they were seen alive with a mark.
_adopted: dict[int, int] = {}


def become_subreaper() -> bool:
    """Become the parent of whatever our descendants leave behind; say whether the system can do that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def is_subreaper() -> bool:
    """Say whether this process is the parent of whatever its descendants leave behind."""
    answer = ctypes.c_int(0)
    return _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer)) and bool(answer.value)


def _prctl(option: int, argument: Any) -> bool:
    """Call prctl(2), which other systems do not have; say whether it succeeded."""
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    return prctl is not None and prctl(option, argument, 0, 0, 0) == 0


#: How many servers of this process adopt, and whether it did before the first of them.
_adopting, _adopted_before = 0, False
_adopting_lock = threading.Lock()


@contextmanager
def adopting() -> Iterator[bool]:
    """Be a subreaper inside; at the end of the last one it is as it was before. Says whether the system can do that."""
    global _adopting, _adopted_before
    with _adopting_lock:
        _adopting += 1
        if _adopting == 1:
            _adopted_before = is_subreaper()
        able = become_subreaper()
    try:
        yield able
    finally:
        with _adopting_lock:
            _adopting -= 1
            if _adopting == 0 and able and not _adopted_before:
                _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def adopted() -> list[Seen]:
    """Give the living children that nobody here started; they carry the mark of the command that left them."""
    foreign = os.environ.get(PROCESS)  # when this server itself is a command of another one's run
    children = [seen for pid in _children() if pid not in awaited and (seen := look_at(pid)) is not None]
    living = [seen for seen in children if not seen.zombie and seen.marks.get(PROCESS, foreign) != foreign]
    known = {seen.pid for seen in children}
    for pid in _adopted.keys() - known:
        del _adopted[pid]
    _adopted.update((seen.pid, seen.start) for seen in living)
    return living


def reap_adopted() -> None:
    """Let go of adopted children that have ended. A child that somebody here waits for is not touched."""
    adopted()
    ours = os.getsid(0)
    for pid in _children():
        seen = look_at(pid) if pid not in awaited else None
        if seen is not None and seen.zombie and _was_adopted(seen, ours):
            _reap(pid)


def _was_adopted(seen: Seen, our_session: int) -> bool:
    return seen.session not in (our_session, seen.pid) or _adopted.get(seen.pid) == seen.start


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # it went meanwhile
        os.waitpid(pid, os.WNOHANG)
    _adopted.pop(pid, None)


def _children() -> list[int]:
    """The children of the main thread; adopted ones are always among them."""
    pid = os.getpid()
    try:
        return [int(child) for child in Path(f"/proc/self/task/{pid}/children").read_bytes().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [seen.pid for seen in look_at_all() if seen.parent == pid]
