"""Workdirs that go: whatever a run has left in one, nothing outside of it is touched, and nothing of it stays."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aura.runs.workdirs import list_workdirs, remove_workdirs

NAME = "0198c0de-0000-7000-8000-00000000000f"
OTHER = "0198c0de-0000-7000-8000-0000000000ff"
#: Folders in one another: with their names a path would be longer than 4096 bytes.
DEEP, LONG = 250, "d" * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of workdirs, with one in it; what must stay is beside it."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    made = tmp_path / "work" / NAME
    made.mkdir(parents=True)
    return made


def files(made: Path) -> None:
    for name in ("a", "b/c", "b/d/e", "b/d/f/g", ".moved-1/x", ".moved-2"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("x")


def links(made: Path) -> None:
    (made / "to-folder").symlink_to(made.parent.parent / "precious")
    (made / "to-file").symlink_to(made.parent.parent / "precious" / "file")
    (made / "below").mkdir()
    (made / "below" / "up").symlink_to("../../..")
    (made / "below" / "nowhere").symlink_to("/nowhere")


def special(made: Path) -> None:
    os.mkfifo(made / "pipe")
    (made / b"\xff\xfe".decode(errors="surrogateescape")).write_text("x")
    (made / "x").write_text("x")
    os.link(made / "x", made / "y")


def forbidden(made: Path) -> None:
    (made / "closed" / "in").mkdir(parents=True)
    (made / "closed" / "in" / "file").write_text("x")
    (made / "closed" / "in").chmod(0)
    (made / "closed").chmod(0)
    made.chmod(0)


def deep(made: Path) -> None:
    """Deeper than a path may be long."""
    here = os.open(made, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir(LONG, dir_fd=here)
        os.close(os.open("f", os.O_CREAT, dir_fd=here))
        below = os.open(LONG, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def wide(made: Path) -> None:
    for number in range(300):
        (made / f"f{number}").touch()


@pytest.mark.parametrize("fill", [files, links, special, forbidden, deep, wide], ids=lambda fill: fill.__name__)
def test_all_of_it_goes_and_nothing_else(folder: Path, fill: Callable[[Path], None]) -> None:
    fill(folder)
    calls = 0
    removed = remove_workdirs(folder.parent, [NAME], 100)
    while not removed.gone and calls < 100:
        assert removed.failed == {}
        removed = remove_workdirs(folder.parent, [NAME], 100)
        calls += 1
    assert removed.gone == [NAME]
    assert list(folder.parent.iterdir()) == []
    assert (folder.parent.parent / "precious" / "file").read_text() == "x"


def test_a_call_is_bounded(folder: Path) -> None:
    wide(folder)
    assert remove_workdirs(folder.parent, [NAME], 100) == ([], {})
    assert len(list(folder.iterdir())) == 200


def test_link_in_the_place_of_a_workdir_goes_and_not_where_it_leads(folder: Path) -> None:
    (folder.parent / OTHER).symlink_to(folder.parent.parent / "precious")
    assert remove_workdirs(folder.parent, [OTHER], 10).gone == [OTHER]
    assert not (folder.parent / OTHER).is_symlink()
    assert (folder.parent.parent / "precious" / "file").exists()


def test_folder_of_workdirs_that_is_a_link_is_not_followed(folder: Path) -> None:
    link = folder.parent.parent / "linked"
    link.symlink_to(folder.parent)
    with pytest.raises(NotADirectoryError):
        remove_workdirs(link, [NAME], 10)
    assert folder.exists()


@pytest.mark.parametrize("name", ["../precious", "..", ".", "", "notes", f"{NAME}/../../precious", "/etc"])
def test_what_is_no_name_of_a_workdir_is_not_touched(folder: Path, name: str) -> None:
    (folder.parent / "notes").mkdir()
    assert remove_workdirs(folder.parent, [name], 10) == ([name], {})
    assert (folder.parent / "notes").exists()
    assert (folder.parent.parent / "precious" / "file").exists()


def test_what_is_not_there_is_gone(tmp_path: Path) -> None:
    assert remove_workdirs(tmp_path, [NAME], 10).gone == [NAME]
    assert remove_workdirs(tmp_path / "nowhere", [NAME], 10).gone == [NAME]
    assert list_workdirs(tmp_path / "nowhere", 1e12) == []


def test_what_cannot_be_removed_is_named_and_the_others_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    (folder.parent / OTHER).mkdir()
    unlink = os.unlink

    def refuse(name: str, *, dir_fd: int) -> None:
        if name == "file":
            raise PermissionError(1, "Operation not permitted", name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    removed = remove_workdirs(folder.parent, [NAME, OTHER], 10)
    assert (removed.gone, list(removed.failed)) == ([OTHER], [NAME])
    assert "Operation not permitted" in removed.failed[NAME]


def test_only_old_folders_with_the_name_of_a_run_are_listed(folder: Path) -> None:
    for name in ("notes", OTHER):
        (folder.parent / name).mkdir()
    os.utime(folder, (1, 1))
    os.utime(folder.parent / "notes", (1, 1))
    assert list_workdirs(folder.parent, 100.0) == [NAME]
