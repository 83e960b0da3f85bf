"""The disk under a folder: what it says of its room, and the ballast in it."""

import errno
import os
import resource
from pathlib import Path

import pytest

from aura.errors import StoreFull, StoreReadOnly
from aura.stores.disk import BALLAST_NAME, FolderDisk, as_refusal, refused_by
from aura.stores.folder import cannot_use

SIZE = 256 * 1024


def test_room_is_that_of_an_ordinary_user(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    free = FolderDisk(tmp_path).free()
    assert abs(free.bytes - found.f_bavail * found.f_frsize) < 2**30  # others use the disk too
    assert (free.files is None) == (found.f_files == 0)


def test_ballast_is_real_blocks_that_only_its_owner_sees_and_can_be_given_back(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    assert disk.held() == 0
    disk.make_ballast(SIZE)
    status = (tmp_path / BALLAST_NAME).stat()
    assert (status.st_size, status.st_mode & 0o777, disk.held()) == (SIZE, 0o600, SIZE)
    assert status.st_blocks * 512 >= SIZE
    disk.drop_ballast()
    disk.drop_ballast()  # there is none any more, and that is as good
    assert (disk.held(), list(tmp_path.iterdir())) == (0, [])


def test_ballast_of_holes_holds_nothing(tmp_path: Path) -> None:
    with open(tmp_path / BALLAST_NAME, "wb") as file:
        file.truncate(SIZE)
    assert FolderDisk(tmp_path).held() == 0


def test_ballast_of_another_size_is_replaced(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    for size in (SIZE, 2 * SIZE, SIZE):
        disk.make_ballast(size)
        assert disk.held() == size


def test_ballast_for_which_there_is_no_room_leaves_nothing(tmp_path: Path) -> None:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, former[1]))
    try:
        FolderDisk(tmp_path).make_ballast(SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_takes_a_write_refuses_nothing_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    assert refused_by(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fails_has_no_shortage(tmp_path: Path) -> None:
    assert refused_by(tmp_path / "away") is None


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        pytest.param(errno.ENOSPC, StoreFull, "make room", id="full"),
        pytest.param(errno.EDQUOT, StoreFull, "make room", id="quota"),
        pytest.param(errno.EROFS, StoreReadOnly, "make it writable", id="read-only"),
        pytest.param(errno.EMFILE, StoreReadOnly, "too many files are open to see why", id="open files"),
    ],
)
def test_shortage_says_what_to_do(number: int, kind: type[StoreReadOnly], said: str) -> None:
    refusal = as_refusal(OSError(number, os.strerror(number)))
    assert type(refusal) is kind
    assert said in str(refusal)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        pytest.param(errno.ENOSPC, 73, "make room on its disk", id="full"),
        pytest.param(errno.EROFS, 73, "make its file system writable", id="read-only"),
        pytest.param(errno.EMFILE, 73, "ulimit -n", id="open files"),
        pytest.param(errno.EACCES, 77, "run the server as its owner", id="another user's"),
        pytest.param(errno.EPERM, 77, "run the server as its owner", id="not permitted"),
        pytest.param(errno.ENOTDIR, 73, "name another", id="anything else"),
    ],
)
def test_start_that_cannot_use_a_file_ends_with_what_to_do(number: int, code: int, said: str) -> None:
    error = cannot_use("the folder cannot be used", OSError(number, os.strerror(number)), "name another")
    assert (error.exit_code, said in str(error), os.strerror(number) in str(error)) == (code, True, True)
