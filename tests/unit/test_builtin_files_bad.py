"""``file.*`` given what is not right: each says which path it is and what is wrong with it, and changes nothing.

What is written or removed here is below ``tmp_path``, also where a guard should fail.
"""

import os
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.context import Bench

from aura.actions import MAX_OUTPUT
from aura.builtin import files, shipped
from aura.errors import ParamsInvalid

Row = tuple[dict[str, Any], type[Exception], str]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A workdir with one of each: a file, a folder, a pipe, links to nothing, to itself and out."""
    workdir = tmp_path / "work"
    (workdir / "folder").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    (workdir / "file").write_text("content")
    (workdir / "bytes").write_bytes(b"ab\xff")
    (workdir / "large").write_bytes(b"x" * (MAX_OUTPUT + 1))
    os.mkfifo(workdir / "pipe")
    (workdir / "circle").symlink_to("circle")
    (workdir / "out").symlink_to("../outside")
    (workdir / "piped").symlink_to("pipe")
    return Bench(workdir, shipped())


def tree(folder: Path) -> dict[str, object]:
    """What is there: each path with its kind, and content or where it leads."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        kind = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(kind) else os.readlink(path) if stat.S_ISLNK(kind) else None
        found[str(path.relative_to(folder))] = (kind, content)
    return found


#: What is wrong with a path for whoever reads it; for each the error and what its message has.
UNREADABLE: Mapping[str, tuple[str, type[Exception], str]] = {
    "none": ("none", FileNotFoundError, "work/none"),
    "below what is not there": ("none/x", FileNotFoundError, "work/none/x"),
    "a folder": ("folder", IsADirectoryError, "work/folder is a folder"),
    "the workdir": (".", IsADirectoryError, "is a folder"),
    "empty": ("", IsADirectoryError, "is a folder"),
    "below a file": ("file/x", NotADirectoryError, "work/file/x"),
    "a pipe": ("pipe", OSError, "work/pipe is not an ordinary file"),
    "a link to a pipe": ("piped", OSError, "work/pipe is not an ordinary file"),
    "a circle of links": ("circle", OSError, "symbolic links"),
    "up and out": ("../outside/kept", PermissionError, r"\.\./outside/kept leads out"),
    "out through a link": ("out/kept", PermissionError, "out/kept leads out"),
    "a long name": ("x" * 300, OSError, "File name too long"),
    "a long path": ("x/" * 3000, OSError, "File name too long"),
    "NUL": ("a\0b", ValueError, "NUL"),
    "half a character": ("a\ud800", ValueError, "lone surrogate"),
}
READ = {name: ({"path": path}, error, said) for name, (path, error, said) in UNREADABLE.items()}
COPY = {
    f"from {name}": ({"source": path, "target": "new"}, error, said) for name, (path, error, said) in UNREADABLE.items()
}
UNWRITABLE: Mapping[str, tuple[str, type[Exception], str]] = {
    "below a file": ("file/x", NotADirectoryError, "work/file is not a folder"),
    "far below a file": ("file/x/y/z", NotADirectoryError, "is not a folder"),
    "a pipe": ("pipe", OSError, "work/pipe is not an ordinary file"),
    "up and out": ("../outside/kept", PermissionError, "leads out"),
    "out through a link": ("out/new", PermissionError, "out/new leads out"),
    "a long name": ("x" * 300, OSError, "File name too long"),
    "NUL": ("a\0b", ValueError, "NUL"),
    "half a character": ("a\ud800", ValueError, "lone surrogate"),
}

TABLE: Mapping[str, Mapping[str, Row]] = {
    "file.read": {
        **READ,
        "not UTF-8": ({"path": "bytes"}, ValueError, "work/bytes is not text in UTF-8: byte 2"),
        "too large": ({"path": "large"}, ValueError, f"work/large is larger than {MAX_OUTPUT} bytes"),
        "a number": ({"path": 1}, ParamsInvalid, "path"),
        "nothing": ({}, ParamsInvalid, "path"),
    },
    "file.checksum": {
        **READ,
        "unknown algorithm": ({"path": "file", "algorithm": "crc32"}, ValueError, "there are blake2b"),
        "one of any length": ({"path": "file", "algorithm": "shake_128"}, ValueError, "unknown algorithm"),
        "no algorithm": ({"path": "file", "algorithm": ""}, ValueError, "unknown algorithm"),
    },
    "file.write": {
        **{name: ({"path": p, "content": "x"}, error, said) for name, (p, error, said) in UNWRITABLE.items()},
        "a folder": ({"path": "folder", "content": "x"}, IsADirectoryError, "work/folder is a folder"),
        "the workdir": ({"path": "", "content": "x"}, IsADirectoryError, "is a folder"),
        "half a character to write": ({"path": "file", "content": "ab\ud800"}, ValueError, "work/file .* position 2"),
        "a mapping": ({"path": "file", "content": {}}, ParamsInvalid, "content"),
        "no content": ({"path": "file"}, ParamsInvalid, "content"),
    },
    "file.copy": {
        **COPY,
        **{f"to {n}": ({"source": "file", "target": p}, error, said) for n, (p, error, said) in UNWRITABLE.items()},
        "onto itself": ({"source": "file", "target": "./file"}, ValueError, "work/file would be copied onto itself"),
        "into its own folder": ({"source": "file", "target": "."}, ValueError, "onto itself"),
        "no target": ({"source": "file"}, ParamsInvalid, "target"),
    },
    "file.remove": {
        "none": ({"path": "none", "missing_ok": False}, FileNotFoundError, "work/none"),
        "below a file": ({"path": "file/x"}, NotADirectoryError, "work/file/x"),
        "the workdir": ({"path": "."}, PermissionError, "the run's own workdir"),
        "empty": ({"path": ""}, PermissionError, "the run's own workdir"),
        "the workdir by way of a folder": ({"path": "folder/.."}, PermissionError, "the run's own workdir"),
        "up": ({"path": ".."}, PermissionError, "leads out|the run's own workdir"),
        "up and out": ({"path": "../outside"}, PermissionError, "leads out"),
        "out through a link": ({"path": "out/kept"}, PermissionError, "leads out"),
        "a long name": ({"path": "x" * 300}, OSError, "File name too long"),
        "NUL": ({"path": "a\0b"}, ValueError, "NUL"),
        "half a character": ({"path": "a\ud800"}, ValueError, "lone surrogate"),
        "a word for true": ({"path": "file", "missing_ok": "yes"}, ParamsInvalid, "missing_ok"),
    },
    "file.glob": {
        "no such root": ({"pattern": "*", "root": "none"}, FileNotFoundError, "work/none"),
        "a root that is a file": ({"pattern": "*", "root": "file"}, NotADirectoryError, "work/file"),
        "a root that is a pipe": ({"pattern": "*", "root": "pipe"}, NotADirectoryError, "work/pipe"),
        "a root that is a circle": ({"pattern": "*", "root": "circle"}, OSError, "symbolic links"),
        "a root outside": ({"pattern": "*", "root": "../outside"}, PermissionError, "leads out"),
        "a root outside through a link": ({"pattern": "*", "root": "out"}, PermissionError, "leads out"),
        "a root with NUL": ({"pattern": "*", "root": "a\0"}, ValueError, "NUL"),
        "an absolute pattern": ({"pattern": "/*"}, ValueError, "give the folder as `root`"),
        "a pattern that goes up": ({"pattern": "a/../../*"}, ValueError, "give the folder as `root`"),
        "a list of patterns": ({"pattern": ["*"]}, ParamsInvalid, "pattern"),
        "no pattern": ({}, ParamsInvalid, "pattern"),
    },
}
ROWS = [pytest.param(name, *row, id=f"{name} {what}") for name, rows in TABLE.items() for what, row in rows.items()]


def test_each_action_has_rows_enough() -> None:
    assert TABLE.keys() == {name for name in shipped() if name.startswith("file.")}
    assert min(map(len, TABLE.values())) >= 8


@pytest.mark.parametrize(("name", "params", "error", "message"), ROWS)
async def test_bad_input_says_what_is_wrong_and_changes_nothing(
    bench: Bench, name: str, params: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = tree(bench.workdir.parent)
    with anyio.fail_after(10), pytest.raises(error, match=message):
        await bench.call(name, **params)
    assert tree(bench.workdir.parent) == before


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["of characters", "of blocks"])
async def test_device_is_not_removed(bench: Bench, kind: int) -> None:
    """A node of our own stands for one of the system's."""
    node = bench.workdir / "node"
    try:
        os.mknod(node, kind | 0o600, os.makedev(1, 3) if kind == stat.S_IFCHR else os.makedev(7, 0))
    except PermissionError:
        pytest.skip("only root can make a device")
    with pytest.raises(PermissionError, match="is a device and is not removed"):
        await bench.call("file.remove", path="node")
    assert node.exists()


@pytest.mark.parametrize("pattern", ["[", "[!", "***", "a**b", "[z-a]", "*" * 300, "(", "\\", "x" * 5000])
async def test_odd_patterns_match_what_they_say_or_nothing(bench: Bench, pattern: str) -> None:
    with anyio.fail_after(10):
        found = await bench.call("file.glob", pattern=pattern)
    assert all(Path(path).parent == bench.workdir for path in found)


async def test_pattern_of_many_stars_is_quick(bench: Bench) -> None:
    (bench.workdir / ("a" * 200)).touch()
    with anyio.fail_after(10):
        assert await bench.call("file.glob", pattern="*a" * 60 + "b") == []


async def test_glob_that_finds_too_much_stops_looking(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_OUTPUT", 2000)
    monkeypatch.setattr(files, "ENTRIES", 10)
    for number in range(300):
        (bench.workdir / f"folder/{number:03}").touch()
    looked_at = 0
    matches = files._matches

    def counted(*args: Any) -> Any:
        nonlocal looked_at
        for match in matches(*args):
            looked_at += 1
            yield match

    monkeypatch.setattr(files, "_matches", counted)
    with pytest.raises(ValueError, match="narrow the pattern"):
        await bench.call("file.glob", pattern="**")
    assert looked_at < 200


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("old", [True, False], ids=["over an old file", "where none was"])
async def test_write_that_fails_anywhere_leaves_what_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, old: bool
) -> None:
    before = tree(bench.workdir)
    broken: dict[str, Callable[[], None]] = {
        "write": lambda: monkeypatch.setattr(files.Partial, "publish", _full),
        "fsync": lambda: monkeypatch.setattr(os, "fsync", _full),
        "replace": lambda: monkeypatch.setattr(Path, "replace", _full),
    }
    broken[step]()
    with pytest.raises(OSError, match="No space left"):
        await bench.call("file.write", path="file" if old else "new", content="x" * 10_000)
    assert tree(bench.workdir) == before


def _full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


async def test_writers_of_one_file_leave_one_whole_text(bench: Bench) -> None:
    texts = [str(number) * 100_000 for number in range(8)]
    async with anyio.create_task_group() as group:  # eight writers; each ends by itself
        for text in texts:
            group.start_soon(partial(bench.call, "file.write", path="file", content=text))
    assert (bench.workdir / "file").read_text() in texts
    assert not list(bench.workdir.glob(".aura-*"))
