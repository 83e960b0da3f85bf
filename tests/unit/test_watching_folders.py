"""What rings when something in a folder may have changed: every way in which a folder can change, and go."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from aura.watching import folders as module
from aura.watching.folders import Folders, Identity, identity_of


class Listener:
    """Watches all folders below a root as anyone should: it covers what it finds whenever it is rung."""

    def __init__(self, folders: Folders, root: Path) -> None:
        self.root = root
        self.watch = folders.watch(self.ring)
        self.rung = 0
        self.heard = anyio.Event()
        self.look()

    def ring(self) -> None:
        self.rung += 1
        self.look()
        self.heard.set()

    def look(self) -> None:
        self.watch.cover(dict(self._found()))

    def _found(self) -> Iterator[tuple[Identity, str]]:
        for folder, _, _ in os.walk(self.root, followlinks=True):
            yield identity_of(os.stat(folder)), folder

    async def hears(self, change: Callable[[], object]) -> None:
        """Make a change and wait for the bell."""
        self.heard = anyio.Event()
        change()
        with anyio.fail_after(5):
            await self.heard.wait()

    async def wait_armed(self) -> None:
        """Wait until what it covers is watched: it is rung then."""
        with anyio.fail_after(5):
            while self.rung == 0 or self.watch in self.watch._folders._changed:  # noqa: ASYNC110 - a thread tells it
                await anyio.sleep(0.001)


@asynccontextmanager
async def listening(root: Path, warn: Callable[[str], object] = pytest.fail) -> AsyncIterator[Listener]:
    """A listener to a root with a folder in it, whose bell rings for events alone."""
    (root / "inner").mkdir(parents=True)
    folders = Folders(warn)
    async with anyio.create_task_group() as group:  # what rings; cancelled below
        listener = Listener(folders, root)
        group.start_soon(folders.serve)
        await listener.wait_armed()
        yield listener
        group.cancel_scope.cancel("the test is over")


def swap(link: Path, target: str) -> None:
    link.with_name("new").symlink_to(target)
    link.with_name("new").rename(link)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "NET", 600.0)  # what is heard is heard by events
    return tmp_path / "root"


async def test_each_change_of_a_folder_rings(root: Path) -> None:
    async with listening(root) as listener:
        file, inner = root / "inner/a.yaml", root / "inner"
        await listener.hears(lambda: file.write_text("1"))
        await listener.hears(lambda: file.write_text("2"))
        await listener.hears(lambda: file.chmod(0o600))
        await listener.hears(lambda: file.rename(inner / "b.yaml"))
        await listener.hears((inner / "b.yaml").unlink)
        await listener.hears(lambda: (root / "later").mkdir())
        await listener.wait_armed()
        await listener.hears(lambda: (root / "later/x").write_text("in one that came later"))
        await listener.hears(lambda: (inner / b"\xff\n".decode(errors="surrogateescape")).write_text("no text"))
        await listener.hears(lambda: file.write_text("after a name that is no text"))


async def test_folder_that_went_and_came_back_rings(root: Path) -> None:
    def away_and_back() -> None:
        inner.rename(root / "x")
        (root / "x").rename(inner)

    def anew() -> None:
        shutil.rmtree(inner)
        inner.mkdir()

    async with listening(root) as listener:
        inner = root / "inner"
        for change in (away_and_back, anew):
            await listener.hears(change)
            await settled(listener)
            await listener.hears(lambda: (inner / "a").write_text("1"))


async def settled(listener: Listener) -> None:
    """Wait until the watcher is for what is there now."""
    folders = listener.watch._folders
    with anyio.fail_after(5):
        while folders._doubtful or folders._armed != listener.watch.covered or folders._notify is None:
            await anyio.sleep(0.001)
            listener.look()


async def test_folder_behind_a_swapped_link_rings(root: Path) -> None:
    async with listening(root) as listener:
        for name in ("one", "two"):
            (root.parent / name).mkdir()
        link = root / "link"
        await listener.hears(lambda: link.symlink_to("../one"))
        await settled(listener)
        await listener.hears(lambda: swap(link, "../two"))
        await settled(listener)
        await listener.hears(lambda: (root.parent / "two/a").write_text("1"))


async def test_root_that_went_is_heard_of_again_by_the_net(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NET", 0.2)
    async with listening(root) as listener:
        await listener.hears(lambda: shutil.rmtree(root))
        root.mkdir()
        await settled(listener)
        await listener.hears(lambda: (root / "a").write_text("1"))


async def test_system_without_watches_is_looked_at_by_the_net(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr(module, "NET", 0.05)
    monkeypatch.setattr(module, "RustNotify", refuse)
    said: list[str] = []
    async with listening(root, said.append) as listener:
        for _ in range(3):
            await listener.hears(lambda: (root / "a").write_text("1"))
    assert said == [
        "some folders are only looked at every 0.05 s, since the system cannot watch them: OS file watch limit reached."
    ]


async def test_watch_that_finds_no_room_is_rung_by_the_net_and_others_by_events(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FOLDERS", 2)
    said: list[str] = []
    async with listening(root, said.append) as listener:
        other = Listener(listener.watch._folders, tmp_path)
        await listener.hears(lambda: (root / "a").write_text("1"))
        assert len(listener.watch._folders._armed) == 2
        assert len(said) == 1
        other.watch.close()
        other.watch.close()


async def test_watcher_ends_quickly_and_leaves_no_thread_and_no_descriptor(root: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with listening(root):
        pass
    with anyio.fail_after(2):  # the thread looks every 50 ms
        while len(set(os.listdir("/proc/self/fd")) - before) > 1:  # noqa: ASYNC110 - one is the listing itself
            await anyio.sleep(0.01)


async def test_only_those_whose_folders_changed_are_rung(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    async with listening(root) as listener:
        other = Listener(listener.watch._folders, tmp_path / "elsewhere")
        await other.wait_armed()
        rung = other.rung
        await listener.hears(lambda: (root / "a").write_text("1"))
        assert other.rung == rung
        await other.hears(lambda: (tmp_path / "elsewhere/b").write_text("1"))
