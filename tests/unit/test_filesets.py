"""What a look at a folder finds, and what patterns mean."""

import os
from pathlib import Path

import pytest

from aura.scheduling import filesets
from aura.scheduling.filesets import FilePattern, Sign, look_at, shown


def found(root: Path, pattern: str = "**") -> set[str]:
    return set(look_at(str(root), FilePattern(pattern), {}).changes)


def tree(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


FILES = ("a.csv", "b.txt", ".hid.csv", "in/c.csv", "in/deep/d.csv", ".git/e.csv", "out/c.csv")


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("*", {"a.csv", "b.txt"}),
        ("*.csv", {"a.csv"}),
        ("**/*.csv", {"a.csv", "in/c.csv", "in/deep/d.csv", "out/c.csv"}),
        ("**", {"a.csv", "b.txt", "in/c.csv", "in/deep/d.csv", "out/c.csv"}),
        ("in/**", {"in/c.csv", "in/deep/d.csv"}),
        ("*/c.csv", {"in/c.csv", "out/c.csv"}),
        ("**/deep/**/*.csv", {"in/deep/d.csv"}),
        (".git/*", {".git/e.csv"}),
        (".*", {".hid.csv"}),
        ("[ab].*", {"a.csv", "b.txt"}),
        ("in", set[str]()),
        ("in//c.csv", {"in/c.csv"}),
        ("**/**/**/**/**/**/x", set[str]()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pattern_means(tmp_path: Path, pattern: str, meant: set[str]) -> None:
    assert found(tree(tmp_path, *FILES), pattern) == meant


def test_what_is_no_file_and_links_are_not_found(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "x", "below/y")
    root = tree(tmp_path / "root", "a")
    os.mkfifo(root / "fifo")
    (root / "to_file").symlink_to(outside / "x")
    (root / "to_folder").symlink_to(outside)
    (root / "to_itself").symlink_to(root)
    assert found(root) == {"a"}


def test_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree(tmp_path / "root", "a"))
    assert found(tmp_path / "link") == {"a"}


def test_names_are_found_whatever_they_are(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9\n{{ 7*7 }}")
    assert found(tree(tmp_path, odd, "ü")) == {odd, "ü"}
    assert shown(odd) == "caf\\xe9\n{{ 7*7 }}"


def test_differences_are_by_time_and_size(tmp_path: Path) -> None:
    tree(tmp_path, "same", "older", "new")
    signs = {name: Sign((tmp_path / name).stat().st_mtime_ns, 1) for name in ("same", "older")}
    known = {**signs, "older": Sign(signs["older"].mtime_ns - 1, 1), "gone": Sign(1, 1)}
    changes = look_at(str(tmp_path), FilePattern("*"), known).changes
    assert set(changes) == {"older", "new", "gone"}
    assert changes["gone"] is None


def no_folder(root: Path) -> None:
    """It is not there."""


def loop(root: Path) -> None:
    root.symlink_to(root)


def too_many(root: Path) -> None:
    tree(root, *map(str, range(21)))


def too_much(root: Path) -> None:
    for number in range(51):
        (root / f"d{number}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "trouble", "is_blind"),
    [
        (no_folder, "it is not there", False),
        (loop, "it cannot be read", True),
        (too_many, "more than 20 files", True),
        (too_much, "it has more than 50 entries", True),
    ],
)
def test_folder_that_cannot_be_seen_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, trouble: str, is_blind: bool
) -> None:
    monkeypatch.setattr(filesets, "MAX_FILES", 20)
    monkeypatch.setattr(filesets, "MAX_ENTRIES", 50)
    assert callable(make)
    make(tmp_path / "root")
    look = look_at(str(tmp_path / "root"), FilePattern("**"), {"known": Sign(1, 1)})
    assert (dict(look.changes), look.is_blind) == ({}, is_blind)
    assert look.trouble is not None
    assert look.trouble.startswith(trouble)


def test_what_lies_too_deep_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesets, "MAX_DEPTH", 1)
    tree(tmp_path, "a/here", "a/b/there", "a/bb")
    known = {"a/b/there": Sign(1, 1), "a/b/gone": Sign(1, 1), "a/gone": Sign(1, 1)}
    look = look_at(str(tmp_path), FilePattern("**"), known)
    assert look.changes.keys() == {"a/here", "a/bb", "a/gone"}
    assert look.trouble == "a/b is more than 1 folders deep"


@pytest.fixture
def unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which ``shut`` may not be read by anybody, root included."""
    tree(tmp_path, "open/a", "shut/b")
    real = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return tmp_path


def test_what_may_not_be_read_is_as_it_was(unreadable: Path) -> None:
    known = {"shut/b": Sign(1, 1), "shutter": Sign(1, 1)}
    look = look_at(str(unreadable), FilePattern("**"), known)
    assert look.changes.keys() == {"open/a", "shutter"}
    assert look.trouble == "shut cannot be read: Permission denied"


def test_only_folders_of_this_machine_can_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a/b/c", "x/y")
    assert set(look_at(str(tmp_path), FilePattern("a/**"), {}).folders.values()) == {
        str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/a/b",
    }  # fmt: skip
    monkeypatch.setattr(filesets, "remote_devices", lambda: frozenset({tmp_path.stat().st_dev}))
    assert look_at(str(tmp_path), FilePattern("a/**"), {}).folders == {}
