"""What is in a workdir: paged in order, opened safely, whatever is there."""

import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aura.runs import workfiles
from aura.runs.workfiles import list_files, open_file

NAMES = st.sampled_from(["a", "b", "a-b", "a.b", "a b", "z", "é", "A", "-", "0", "a0"])
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=25)


def fill(folder: Path, *paths: str) -> None:
    for path in paths:
        with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):  # a name is a file or a folder
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(path)


def pages(folder: Path, limit: int) -> list[list[str]]:
    found, after, places = [], "", {""}
    for _ in range(10_000):
        page = list_files(folder, after, limit)
        assert len(page.files) <= limit
        found.append([file.path for file in page.files])
        if page.last is None:
            return found
        assert page.last not in places
        places.add(page.last)
        after = page.last
    raise AssertionError("the pages have no end")


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=TREES, limit=st.integers(1, 6), looked_at=st.sampled_from([0, 1, 3, 100_000]))
def test_pages_have_each_file_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], limit: int, looked_at: int
) -> None:
    folder = tmp_path_factory.mktemp("work")
    fill(folder, *paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workfiles, "MAX_LOOKED_AT", looked_at)
        found = [path for page in pages(folder, limit) for path in page]
    assert found == everything(folder)


def test_file_says_what_it_is(tmp_path: Path) -> None:
    fill(tmp_path, "sub/x.txt")
    os.utime(tmp_path / "sub/x.txt", (1, 5.5))
    assert list_files(tmp_path, "", 10) == ([("sub/x.txt", 9, 5.5)], None)


def test_workdir_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list_files(tmp_path / "no", "", 10) == ([], None)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert list_files(tmp_path / "file", "", 10) == ([], None)
    assert list_files(tmp_path / "link", "", 10) == ([], None)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # a socket's path is short
        made.bind(path.name)


def make_link_to_file(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_link_to_folder(path: Path) -> None:
    path.symlink_to("/etc")


def make_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


SPECIAL = [make_fifo, make_socket, make_link_to_file, make_link_to_folder, make_dangling, make_loop, Path.mkdir]


@pytest.mark.parametrize("make", SPECIAL, ids=lambda make: make.__name__)
def test_what_is_no_ordinary_file_is_neither_listed_nor_opened(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x")
    fill(tmp_path, "y")
    assert [file.path for file in list_files(tmp_path, "", 10).files] == ["y"]
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path, "x")


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../secret", "sub/../../secret", "/etc/hostname", "sub//x", "sub/", "x\0", "link/hostname",
     "no/such", "sub", "out/secret", "x" * 300, "/".join("a" * 3000), "\ud800"],
    ids=lambda path: ascii(path)[:20],
)  # fmt: skip
def test_path_that_leads_elsewhere_opens_nothing(tmp_path: Path, path: str) -> None:
    work = tmp_path / "work"
    fill(tmp_path, "secret", "work/sub/x")
    (work / "link").symlink_to("/etc")
    (work / "out").symlink_to(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        open_file(work, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_file_is_opened(tmp_path: Path) -> None:
    fill(tmp_path, "a/b/c.txt")
    opened = open_file(tmp_path, "a/b/c.txt")
    assert (os.read(opened.handle, 99), opened.bytes) == (b"a/b/c.txt", 9)
    os.close(opened.handle)


def test_folder_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    """The parts are opened below each other, so that what is swapped in between leads nowhere."""
    work, other = tmp_path / "work", tmp_path / "other"
    fill(tmp_path, "work/sub/x", "other/x")
    (work / "sub/x").unlink()
    (work / "sub").rmdir()
    (work / "sub").symlink_to(other)
    assert list_files(work, "", 10).files == []
    with pytest.raises(FileNotFoundError):
        open_file(work, "sub/x")


def test_file_that_may_not_be_read_is_listed_and_not_opened(tmp_path: Path) -> None:
    fill(tmp_path, "x")
    (tmp_path / "x").chmod(0)
    assert [file.path for file in list_files(tmp_path, "", 10).files] == ["x"]
    if os.geteuid():  # root reads everything
        with pytest.raises(FileNotFoundError, match="Permission"):
            open_file(tmp_path, "x")


def test_depth_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workfiles, "MAX_DEPTH", 2)
    fill(tmp_path, "x", "a/x", "a/b/x", "a/b/c/x")
    assert [file.path for file in list_files(tmp_path, "", 10).files] == ["a/b/x", "a/x", "x"]
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path, "a/b/c/x")


def test_name_that_is_not_unicode_is_listed(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))).touch()
    assert [file.path for file in list_files(tmp_path, "", 10).files] == ["\udcff\udcfe"]


def test_files_that_come_and_go_meanwhile_do_no_harm(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{n % 7}/{n}" for n in range(200)))
    kept = {f"{n % 7}/{n}" for n in range(0, 200, 2)}
    chance, seen, after = random.Random(3), [], ""
    while (page := list_files(tmp_path, after, 10)).last is not None:
        seen += [file.path for file in page.files]
        after = page.last
        n = chance.randrange(1, 200, 2)
        (tmp_path / f"{n % 7}/{n}").unlink(missing_ok=True)
        fill(tmp_path, f"{chance.randrange(9)}/new{chance.randrange(99)}")
    seen += [file.path for file in page.files]
    assert kept <= set(seen)
    assert seen == sorted(set(seen))
