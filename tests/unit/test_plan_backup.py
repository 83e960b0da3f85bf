"""The actions of the plan ``backup``: what is packed, what is reported, and that nothing half-done stays behind."""

import fcntl
import os
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.context import Bench, plan_bench


class Backup:
    """A source, a target and the actions between them."""

    def __init__(self, folder: Path, bench: Bench) -> None:
        self.source, self.target = folder / "source", folder / "target"
        self.source.mkdir()
        self.bench = bench

    async def archive(self, **params: Any) -> dict[str, Any]:
        given = {"source": str(self.source), "target": str(self.target)} | params
        result: dict[str, Any] = await self.bench.call("archive", **given)
        return result

    async def verify(self, archived: dict[str, Any]) -> Any:
        return await self.bench.call("verify", archive=archived["archive"], sha256=archived["sha256"])

    def unpack(self, archived: dict[str, Any]) -> Path:
        where = self.target.parent / "unpacked"
        where.mkdir()
        subprocess.run(["tar", "xzf", archived["archive"], "-C", where], check=True)
        return where / "source"

    def in_target(self) -> list[str]:
        return sorted(path.name for path in self.target.iterdir())


@pytest.fixture
async def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backup:
    (tmp_path / "work").mkdir()
    bench = await plan_bench("backup", tmp_path / "work")
    slices = bench.function("archive").__globals__["in_slices"].__globals__
    monkeypatch.setitem(slices, "SLICE", 0.0)  # a slice for each entry: tests may step in anywhere
    return Backup(tmp_path, bench)


def succeeds(*argv: str | Path, cwd: Path | None = None) -> bool:
    return subprocess.run(argv, cwd=cwd, check=False, capture_output=True).returncode == 0


def make_tree(root: Path) -> None:
    """A small tree with what a tree may have."""
    (root / "empty").mkdir()
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/é \n name").write_bytes(b"x" * 3_000_001)
    (root / ("long" * 60)).write_text("a name that no old tar can hold")
    (root / os.fsdecode(b"not utf-8 \xff")).write_text("odd")
    (root / "nothing").touch()
    (root / "run").write_text("#!/bin/sh")
    (root / "run").chmod(0o751)
    (root / "link").symlink_to("deep/er")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.link(root / "run", root / "twin")


async def test_archive_has_everything_and_is_verified(backup: Backup) -> None:
    make_tree(backup.source)
    archived = await backup.archive()
    assert (archived["files"], archived["folders"], archived["links"]) == (6, 4, 2)
    assert await backup.verify(archived) == {"entries": 12, "files": 6, "bytes": archived["bytes"]}
    unpacked = backup.unpack(archived)
    assert succeeds("diff", "-r", "--no-dereference", backup.source, unpacked)
    assert (unpacked / "run").stat().st_mode & 0o777 == 0o751
    assert backup.bench.host.progressed[-1][:2] == (archived["archive_bytes"], archived["archive_bytes"])


async def test_checksum_beside_it_is_what_sha256sum_expects_and_both_are_private(backup: Backup) -> None:
    archived = await backup.archive()
    assert succeeds("sha256sum", "-c", *backup.target.glob("*.sha256"), cwd=backup.target)
    assert Path(archived["archive"]).stat().st_mode & 0o077 == 0


async def test_special_files_are_counted_and_left_out(backup: Backup) -> None:
    os.mkfifo(backup.source / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(backup.source / "sock"))
        with anyio.fail_after(5):
            archived = await backup.archive()
    assert (archived["special"], archived["files"], archived["skipped"]) == (2, 0, [])


async def test_file_that_vanishes_is_reported(backup: Backup) -> None:
    for name in "abc":
        (backup.source / name).touch()
    backup.bench.host.on_progress = lambda done: (backup.source / "c").unlink(missing_ok=True) if done == 2 else None
    archived = await backup.archive()
    assert archived["skipped"] == [{"path": "c", "reason": "not there any more"}]
    assert (archived["files"], archived["skipped_count"]) == (2, 1)
    assert backup.bench.log.texts("warning") == ["not in the archive: c: not there any more"]
    await backup.verify(archived)


async def test_file_that_cannot_be_read_is_reported(backup: Backup) -> None:
    here = os.open(backup.source, os.O_RDONLY)
    for _ in range(20):  # a path that is longer than the system takes: not even root can read that
        os.mkdir("d" * 250, dir_fd=here)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    archived = await backup.archive()
    shutil.rmtree(backup.source)
    assert [skipped["reason"] for skipped in archived["skipped"]] == ["File name too long"]
    await backup.verify(archived)


async def test_many_problems_are_counted_and_the_first_are_named(backup: Backup) -> None:
    for number in range(150):
        (backup.source / f"{number:03}").touch()
    doomed = list(backup.source.iterdir())

    def remove_all(done: float) -> None:
        if done == 1:
            for path in doomed:
                path.unlink(missing_ok=True)

    backup.bench.host.on_progress = remove_all
    archived = await backup.archive()
    assert (archived["skipped_count"], len(archived["skipped"])) == (150, 100)


@pytest.mark.parametrize("size", [0, 10, 5_000_000], ids=["to nothing", "shorter", "longer"])
async def test_file_that_changes_while_it_is_read_is_counted_and_the_archive_is_whole(
    backup: Backup, size: int
) -> None:
    path = backup.source / "log"
    path.write_bytes(b"x" * 3_000_000)
    (backup.source / "z").write_text("after it")
    reads = 0

    def change(done: float) -> None:
        nonlocal reads
        reads += done == 1  # once the folder itself is done, each progress is a piece of the file
        if reads == 2:
            os.truncate(path, size)

    backup.bench.host.on_progress = change
    archived = await backup.archive()
    assert (archived["changed"], archived["files"], archived["bytes"]) == (1, 2, 3_000_008)
    await backup.verify(archived)
    assert (backup.unpack(archived) / "z").read_text() == "after it"


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        pytest.param({"target": "{source}"}, ValueError, "inside the source", id="target is the source"),
        pytest.param({"target": "{source}/sub/target"}, ValueError, "inside the source", id="target below it"),
        pytest.param({"target": "{link}/t"}, ValueError, "inside the source", id="target below it, by a link"),
        pytest.param({"source": "relative"}, ValueError, "absolute", id="relative source"),
        pytest.param({"target": "~/backups"}, ValueError, "absolute", id="relative target"),
        pytest.param({"source": "{source}/none"}, NotADirectoryError, "not a folder", id="no such source"),
        pytest.param({"source": "/etc/passwd"}, NotADirectoryError, "not a folder", id="source is a file"),
        pytest.param({"name": "../x"}, ValueError, "beginning of a file's name", id="a name that leads elsewhere"),
    ],
)
async def test_archive_refuses(backup: Backup, params: dict[str, str], error: type[Exception], message: str) -> None:
    link = backup.source.parent / "link"
    link.symlink_to(backup.source)
    given = {key: value.format(source=backup.source, link=link) for key, value in params.items()}
    with pytest.raises(error, match=message):
        await backup.archive(**given)
    assert list(backup.source.iterdir()) == []


async def test_archives_of_one_folder_do_not_overwrite_each_other(backup: Backup) -> None:
    async with anyio.create_task_group() as group:  # five backups at once; ends with the last
        for _ in range(5):
            group.start_soon(backup.archive)
    assert len(list(backup.target.glob("*.tar.gz"))) == 5


async def test_partial_archive_of_a_dead_run_is_removed_and_that_of_a_living_one_is_not(backup: Backup) -> None:
    backup.target.mkdir()
    stale, alive, other = (
        backup.target / f"{name}-20260101T000000.00000{number}Z.tar.gz.partial"
        for number, name in enumerate(["source", "source", "source-2"])
    )
    for path in (stale, alive, other):
        path.touch()
    with alive.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await backup.archive()
    assert (stale.exists(), alive.exists(), other.exists()) == (False, True, True)
    assert stale.name in backup.bench.log.texts("warning")[0]


@pytest.mark.parametrize("at", range(8))
async def test_archive_that_is_stopped_leaves_nothing(backup: Backup, at: int) -> None:
    for number in range(3):
        (backup.source / str(number)).write_bytes(b"x" * 2_000_000)
    calls = 0
    with anyio.CancelScope() as scope:

        def stop(done: float) -> None:
            nonlocal calls
            calls += 1
            if calls > 3 + at:  # the first are those of the count
                scope.cancel()

        backup.bench.host.on_progress = stop
        await backup.archive()
    assert scope.cancelled_caught
    assert backup.in_target() == []


async def test_archive_that_cannot_be_written_leaves_nothing(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        await backup.archive()
    assert backup.in_target() == []


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "a flipped byte":
            data[len(data) // 2] ^= 1
        case "cut off":
            del data[len(data) // 2 :]
        case "empty":
            data.clear()
        case "something behind it":
            data += b"x"
        case "another archive":
            data[:] = subprocess.run(["tar", "cz", "/etc/hostname"], capture_output=True, check=True).stdout
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["a flipped byte", "cut off", "empty", "something behind it", "another archive"])
async def test_damaged_archive_is_set_aside(backup: Backup, how: str) -> None:
    make_tree(backup.source)
    archived = await backup.archive()
    damage(Path(archived["archive"]), how)
    with pytest.raises(Exception, match=r"cannot be read back|has SHA-256|was packed") as raised:
        await backup.verify(archived)
    assert type(raised.value).__name__ == "ArchiveDamaged"
    assert backup.in_target() == [Path(archived["archive"]).name + ".damaged"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(", 2, ", ", 3, ", id="another size"),
        pytest.param('"file", "source/b"', '"file", "source/c"', id="another name"),
        pytest.param("3e23e816", "3e23e817", id="another content"),
        pytest.param('["file", "source/b"', '["folder"]\n["file", "source/b"', id="one less in the archive"),
    ],
)
async def test_archive_that_is_not_what_was_packed_is_damaged(backup: Backup, old: str, new: str) -> None:
    (backup.source / "a").write_text("aa")
    (backup.source / "b").write_text("b")
    archived = await backup.archive()
    manifest = backup.bench.workdir / "manifest.jsonl"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))
    with pytest.raises(Exception, match="was packed"):
        await backup.verify(archived)


async def test_archive_with_another_checksum_or_without_its_last_entry_is_damaged(backup: Backup) -> None:
    archived = await backup.archive()
    with pytest.raises(Exception, match="has SHA-256"):
        await backup.verify(archived | {"sha256": "0" * 64})
    archived = await backup.archive()
    with (backup.bench.workdir / "manifest.jsonl").open("a") as manifest:
        manifest.write('["folder", "source/z"]\n')
    with pytest.raises(Exception, match="ends where"):
        await backup.verify(archived)


@pytest.mark.parametrize(("keep", "left"), [(1, 1), (2, 2), (3, 3), (9, 4)])
async def test_prune_keeps_the_latest_of_this_name(backup: Backup, keep: int, left: int) -> None:
    other = await backup.archive(name="source-x")
    made = [await backup.archive() for _ in range(4)]
    removed = await backup.bench.call("prune", archive=made[-1]["archive"], keep=keep)
    names = [Path(archived["archive"]).name for archived in made]
    assert removed == names[: 4 - left]
    kept = [*names[4 - left :], Path(other["archive"]).name]
    assert backup.in_target() == sorted([*kept, *(name + ".sha256" for name in kept)])


async def test_prune_never_removes_the_archive_that_was_just_made(backup: Backup) -> None:
    made = [await backup.archive() for _ in range(3)]  # as if the clock had gone back: the new one is the oldest
    removed = await backup.bench.call("prune", archive=made[0]["archive"], keep=1)
    assert removed == [Path(archived["archive"]).name for archived in made[1:]]


async def test_archive_can_be_listed_by_others(backup: Backup) -> None:
    make_tree(backup.source)
    archived = await backup.archive()
    with tarfile.open(archived["archive"]) as tar:
        assert len(tar.getnames()) == 12
