"""``file.*``: results, errors, what is below the workdir, atomic writes, and a stop in the middle."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.context import Bench

from aura.actions import MAX_OUTPUT
from aura.builtin import files, shipped
from aura.errors import ParamsInvalid


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    workdir = tmp_path / "work"
    workdir.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return Bench(workdir, shipped())


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- read and write


@pytest.mark.parametrize("text", ["", "é\n", "a\r\nb\0", "x" * 1_000_000], ids=["empty", "unicode", "odd", "large"])
async def test_what_is_written_is_read(bench: Bench, text: str) -> None:
    written = await bench.call("file.write", path="a/b.txt", content=text)
    assert written == {"path": str(bench.workdir / "a/b.txt"), "bytes": len(text.encode())}
    assert await bench.call("file.read", path="a/b.txt") == text
    assert tree(bench.workdir) == ["a", "a/b.txt"]


async def test_write_keeps_the_mode_of_what_it_replaces_and_follows_a_link(bench: Bench) -> None:
    (bench.workdir / "real").write_text("old")
    (bench.workdir / "real").chmod(0o640)
    (bench.workdir / "link").symlink_to("real")
    await bench.call("file.write", path="link", content="new")
    assert (bench.workdir / "link").is_symlink()
    assert (bench.workdir / "real").read_text() == "new"
    assert (bench.workdir / "real").stat().st_mode & 0o777 == 0o640


async def test_write_that_fails_leaves_the_old_file_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.workdir / "a").write_text("old")

    def fsync(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        await bench.call("file.write", path="a", content="new")
    assert tree(bench.workdir) == ["a"]
    assert (bench.workdir / "a").read_text() == "old"


Maker = Callable[[Path], object]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        pytest.param(lambda path: None, FileNotFoundError, "No such file", id="missing"),
        pytest.param(Path.mkdir, IsADirectoryError, "is a folder", id="a folder"),
        pytest.param(os.mkfifo, OSError, "not an ordinary file", id="a pipe"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), PermissionError, "leads out", id="a device"),
        pytest.param(lambda path: path.symlink_to(path), OSError, "symbolic links", id="a circle"),
        pytest.param(lambda path: path.write_bytes(b"ab\xff"), ValueError, "byte 2 does not fit", id="not UTF-8"),
        pytest.param(lambda path: path.write_bytes(b"x" * (MAX_OUTPUT + 1)), ValueError, "larger than", id="too large"),
    ],
)
async def test_read_says_what_is_wrong(bench: Bench, make: Maker, error: type[Exception], message: str) -> None:
    make(bench.workdir / "f")
    with anyio.fail_after(5), pytest.raises(error, match=message):
        await bench.call("file.read", path="f")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
@pytest.mark.parametrize(
    ("name", "params"),
    [("file.read", {}), ("file.write", {"content": "x"}), ("file.checksum", {})],
    ids=["read", "write", "checksum"],
)
async def test_devices_are_refused(bench: Bench, name: str, params: dict[str, Any], path: str) -> None:
    with anyio.fail_after(5), pytest.raises(OSError, match="not an ordinary file"):
        await bench.call(name, path=path, **params)
    assert Path(path).is_char_device()


# -- where paths lead


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("../outside/secret", id="up"),
        pytest.param("a/../../outside/secret", id="down and up"),
        pytest.param("link/secret", id="through a link to a folder"),
        pytest.param("secret", id="a link to a file"),
        pytest.param("dangling", id="a link to nothing"),
    ],
)
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("file.read", {}),
        ("file.write", {"content": "x"}),
        ("file.checksum", {}),
        ("file.copy", {"target": "x", "path": None}),
        ("file.copy", {"source": "inner", "path": None}),
        ("file.glob", {"pattern": "*", "path": None}),
    ],
    ids=["read", "write", "checksum", "copy from", "copy to", "glob"],
)
async def test_relative_path_may_not_lead_out(bench: Bench, name: str, params: dict[str, Any], path: str) -> None:
    (bench.workdir / "link").symlink_to("../outside")
    (bench.workdir / "secret").symlink_to("../outside/secret")
    (bench.workdir / "dangling").symlink_to("../outside/new")
    (bench.workdir / "inner").write_text("inner")
    given = {"path": path} | params
    if given["path"] is None:
        del given["path"]
        given[{"file.glob": "root"}.get(name) or ("source" if "target" in params else "target")] = path
    with pytest.raises(PermissionError, match="leads out"):
        await bench.call(name, **given)
    assert (bench.workdir / "../outside/secret").read_text() == "secret"
    assert tree(bench.workdir / "../outside") == ["secret"]


async def test_absolute_path_is_taken_as_it_is(bench: Bench, tmp_path: Path) -> None:
    assert await bench.call("file.read", path=str(tmp_path / "outside/secret")) == "secret"
    written = await bench.call("file.write", path=str(tmp_path / "new"), content="x")
    assert written["path"] == str(tmp_path / "new")


@pytest.mark.parametrize("path", ["a\0b", "~", "%2e%2e/x", "-rf"], ids=["NUL", "tilde", "percent", "an option"])
async def test_odd_names_are_only_names(bench: Bench, path: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=r"No such file|NUL"):
        await bench.call("file.read", path=path)


# -- glob


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        pytest.param("*.csv", ["a.csv"], id="here"),
        pytest.param("**/*.csv", ["a.csv", "x/b.csv", "x/y/c.csv"], id="at any depth"),
        pytest.param("x/*", ["x/b.csv", "x/y"], id="in a folder, folders too"),
        pytest.param("*/b.*", ["x/b.csv"], id="a folder by a pattern"),
        pytest.param("x/**", ["x/b.csv", "x/y", "x/y/c.csv"], id="all below"),
        pytest.param("**/y/**/c.csv", ["x/y/c.csv"], id="twice at any depth"),
        pytest.param("[ab].csv", ["a.csv"], id="a class"),
        pytest.param(".*", [".hidden"], id="hidden, asked for"),
        pytest.param("link/*", [], id="links are not followed"),
        pytest.param("nothing", [], id="no match"),
        pytest.param("A.CSV", [], id="case counts"),
        pytest.param("", [], id="empty"),
    ],
)
async def test_glob_finds(bench: Bench, pattern: str, found: list[str]) -> None:
    for name in ("a.csv", "x/b.csv", "x/y/c.csv", ".hidden/d.csv"):
        (bench.workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (bench.workdir / name).touch()
    (bench.workdir / "link").symlink_to("../outside")
    assert await bench.call("file.glob", pattern=pattern) == [str(bench.workdir / name) for name in found]


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "x/../../*"])
async def test_glob_refuses_to_look_elsewhere(bench: Bench, pattern: str) -> None:
    with pytest.raises(ValueError, match="root"):
        await bench.call("file.glob", pattern=pattern)


async def test_glob_in_another_folder_and_in_none(bench: Bench, tmp_path: Path) -> None:
    found = await bench.call("file.glob", pattern="*", root=str(tmp_path / "outside"))
    assert found == [str(tmp_path / "outside/secret")]
    with pytest.raises(FileNotFoundError):
        await bench.call("file.glob", pattern="*", root="none")


async def test_glob_of_a_deep_tree_and_of_too_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = bench.workdir.joinpath(*["d"] * 500)
    deep.mkdir(parents=True)
    (deep / "f").touch()
    assert await bench.call("file.glob", pattern="**/f") == [str(deep / "f")]
    monkeypatch.setattr(files, "MAX_OUTPUT", 1000)
    with pytest.raises(ValueError, match="narrow the pattern"):
        await bench.call("file.glob", pattern="**")


# -- remove


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Path.touch, id="a file"),
        pytest.param(Path.mkdir, id="an empty folder"),
        pytest.param(lambda path: (path / "a/b/c").mkdir(parents=True), id="a folder with folders"),
        pytest.param(lambda path: path.symlink_to("../outside"), id="a link to a folder"),
        pytest.param(lambda path: (path.mkdir(), (path / "l").symlink_to("../../outside")), id="a folder with a link"),
        pytest.param(lambda path: path.symlink_to("gone"), id="a link to nothing"),
        pytest.param(os.mkfifo, id="a pipe"),
        pytest.param(lambda path: path.joinpath(*["d"] * 500).mkdir(parents=True), id="a deep folder"),
    ],
)
async def test_remove_removes_and_says_so(bench: Bench, make: Maker) -> None:
    make(bench.workdir / "x")
    assert await bench.call("file.remove", path="x") is True
    assert tree(bench.workdir) == []
    assert tree(bench.workdir / "../outside") == ["secret"]
    assert await bench.call("file.remove", path="x") is False
    with pytest.raises(FileNotFoundError):
        await bench.call("file.remove", path="x", missing_ok=False)


@pytest.mark.parametrize("path", [".", "", "/", "a/..", "{work}", "{work}/.."])
async def test_remove_never_takes_the_workdir_itself(bench: Bench, path: str) -> None:
    (bench.workdir / "a").mkdir()
    with pytest.raises(PermissionError, match="workdir"):
        await bench.call("file.remove", path=path.format(work=bench.workdir))
    assert tree(bench.workdir) == ["a"]


async def test_remove_may_not_lead_out(bench: Bench) -> None:
    (bench.workdir / "link").symlink_to("../outside")
    for path in ("../outside", "link/secret"):
        with pytest.raises(PermissionError, match="leads out"):
            await bench.call("file.remove", path=path)


# -- copy and checksum


@pytest.mark.parametrize(("target", "where"), [("b", "b"), ("new/b", "new/b"), ("folder", "folder/a")])
async def test_copy_has_content_mode_and_progress(bench: Bench, target: str, where: str) -> None:
    (bench.workdir / "folder").mkdir()
    (bench.workdir / "a").write_bytes(b"x" * 10)
    (bench.workdir / "a").chmod(0o751)
    assert await bench.call("file.copy", source="a", target=target) == {"path": str(bench.workdir / where), "bytes": 10}
    assert (bench.workdir / where).read_bytes() == b"x" * 10
    assert (bench.workdir / where).stat().st_mode & 0o777 == 0o751
    assert bench.host.progressed == [(10, 10, Path(where).name)]


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        pytest.param("none", "b", FileNotFoundError, id="no source"),
        pytest.param("folder", "b", IsADirectoryError, id="a folder"),
        pytest.param("a", "a", ValueError, id="onto itself"),
        pytest.param("a", "link", ValueError, id="onto itself through a link"),
        pytest.param("a", "/dev/null", OSError, id="onto a device"),
    ],
)
async def test_copy_says_what_is_wrong(bench: Bench, source: str, target: str, error: type[Exception]) -> None:
    (bench.workdir / "folder").mkdir()
    (bench.workdir / "a").touch()
    (bench.workdir / "link").symlink_to("a")
    with pytest.raises(error):
        await bench.call("file.copy", source=source, target=target)
    assert tree(bench.workdir) == ["a", "folder", "link"]


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "blake2b"])
async def test_checksum_is_that_of_hashlib(bench: Bench, algorithm: str) -> None:
    data = os.urandom(files.PIECE + 7)
    (bench.workdir / "a").write_bytes(data)
    expected = hashlib.new(algorithm, data).hexdigest()
    assert await bench.call("file.checksum", path="a", algorithm=algorithm) == expected
    if algorithm == "sha256":
        assert await bench.call("file.checksum", path="a") == expected


async def test_checksum_by_an_unknown_algorithm(bench: Bench) -> None:
    with pytest.raises(ValueError, match="there are blake2b"):
        await bench.call("file.checksum", path="a", algorithm="crc32")


# -- stopping


async def stopped_at_progress(bench: Bench, name: str, **params: Any) -> bool:
    """Run an action, cancel it at its first progress, and say whether it was cut off."""
    with anyio.CancelScope() as scope:
        bench.host.on_progress = lambda done: scope.cancel()
        await bench.call(name, **params)
    return scope.cancelled_caught


async def test_copy_that_is_stopped_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE", 10)
    (bench.workdir / "a").write_bytes(b"x" * 1000)
    assert await stopped_at_progress(bench, "file.copy", source="a", target="b")
    assert tree(bench.workdir) == ["a"]
    assert [done for done, _, _ in bench.host.progressed] == [10]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("file.glob", {"pattern": "**"}),
        ("file.checksum", {"path": "d/f"}),
        ("file.read", {"path": "d/f"}),
        ("file.remove", {"path": "d"}),
    ],
    ids=["glob", "checksum", "read", "remove"],
)
async def test_actions_hear_a_stop(bench: Bench, name: str, params: dict[str, Any]) -> None:
    (bench.workdir / "d").mkdir()
    (bench.workdir / "d/f").write_text("x")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await bench.call(name, **params)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("name", "params"),
    [
        pytest.param("file.read", {}, id="no path"),
        pytest.param("file.read", {"path": 7}, id="a number as path"),
        pytest.param("file.write", {"path": "a", "content": {"a": 1}}, id="a mapping as content"),
        pytest.param("file.remove", {"path": "a", "missing": True}, id="unknown parameter"),
    ],
)
async def test_bad_parameters_are_refused(bench: Bench, name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ParamsInvalid, match=name):
        await bench.call(name, **params)
