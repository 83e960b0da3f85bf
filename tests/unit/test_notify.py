"""What a service manager is told, as it hears it on a socket of its own."""

import os
import socket
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import anyio
import pytest

from aura import notify
from aura.notify import ALIVE, READY, Notifier

#: Seconds within which whatever does not hang is over.
SOON = 20.0


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that hears, and the name that a service is given of it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@aura-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        heard.settimeout(SOON)
        yield heard, name


def test_state_is_heard(manager: tuple[socket.socket, str]) -> None:
    heard, name = manager
    Notifier({"NOTIFY_SOCKET": name}).tell(READY)
    assert heard.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("given", "every"),
    [
        pytest.param({}, 0.0, id="no-manager"),
        pytest.param({"NOTIFY_SOCKET": "@x"}, 0.0, id="no-watchdog"),
        pytest.param({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"}, 30.0, id="watchdog"),
        pytest.param({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, 0.0, id="of-another-process"),
        pytest.param({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}, 0.0, id="nonsense"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 0.0, id="nobody-to-tell"),
    ],
)
def test_how_often_the_manager_wants_to_hear(given: dict[str, str], every: float) -> None:
    assert Notifier(given).every == every


def test_nobody_who_hears_changes_nothing(tmp_path: Path) -> None:
    Notifier().tell(READY)
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nothing")}).tell(READY)


def test_state_waits_for_room(manager: tuple[socket.socket, str]) -> None:
    heard, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    sent = fill(name)
    reader = threading.Timer(0.1, lambda: [heard.recv(100) for _ in range(sent)])
    reader.start()
    notifier.tell(READY)
    reader.join(SOON)
    assert heard.recv(100) == b"READY=1"


def test_state_that_nobody_reads_is_given_up(
    manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.05)
    heard, name = manager
    sent = fill(name)
    Notifier({"NOTIFY_SOCKET": name}).tell(READY)
    assert [heard.recv(100) for _ in range(sent)] == [b"full"] * sent
    heard.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard.recv(100)


def fill(name: str) -> int:
    """Leave no room in the socket; say how many messages that took."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(name.replace("@", "\0", 1) if name.startswith("@") else name)
        for sent in count():
            try:
                sender.send(b"full")
            except BlockingIOError:
                return sent
    raise AssertionError("there is always room")


async def test_that_the_loop_goes_on_is_told_again_and_again(manager: tuple[socket.socket, str]) -> None:
    heard, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000"})
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:  # the child that tells; cancelled by the body
            group.start_soon(notifier.serve_alive)
            for _ in range(3):
                assert await anyio.to_thread.run_sync(heard.recv, 100) == ALIVE.encode()
            group.cancel_scope.cancel("it was heard")


async def test_manager_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    gone = {"NOTIFY_SOCKET": str(tmp_path / "nothing"), "WATCHDOG_USEC": "2000"}
    with pytest.raises(FileNotFoundError), anyio.fail_after(SOON):
        await Notifier(gone).serve_alive()
