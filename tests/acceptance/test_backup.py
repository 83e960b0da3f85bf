"""The plan ``backup`` on a real server and a real tree: it archives, verifies and reports, or leaves nothing."""

import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.children import running_of
from tests.fakes.context import PLANS
from tests.fakes.following import read_until
from tests.fakes.served import Served, open_served

FILES = 10_000
SERVE = ("--port", "0", "--plans", str(PLANS))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten thousand files in a hundred folders, 30 MB that cannot be made smaller."""
    root = tmp_path_factory.mktemp("tree") / "tree"
    for number in range(FILES):
        folder = root / f"{number // 100:02}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"{number}.bin").write_bytes(os.urandom(number % 6000))
    return root


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with open_served(tmp_path, *SERVE) as served:
        yield served


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def begin(tree: Path, target: Path) -> list[str]:
    return ["run", "backup/folder", "-i", f"source={tree}", "-i", f"target={target}"]


def test_tree_of_ten_thousand_files_is_archived_verified_and_reported(served: Served, tree: Path, target: Path) -> None:
    began = time.monotonic()
    done = served.aura(*begin(tree, target))
    assert time.monotonic() - began < 20
    assert done.code == 0, done.err
    result = done.json
    assert (result["files"], result["skipped"], result["pruned"]) == (FILES, [], [])
    assert result["bytes"] == sum(number % 6000 for number in range(FILES))
    assert f"/{FILES + 101} (" in done.err  # live progress: 2031/10101 (20%) …
    assert f"{FILES} files, {result['bytes']} bytes, verified" in done.err
    assert subprocess.run(["sha256sum", "-c", result["archive"] + ".sha256"], cwd=target, check=False).returncode == 0
    with tarfile.open(result["archive"]) as archive:
        assert len(archive.getnames()) == FILES + 101
    assert not list((served.folder / "data").glob("work/*/*"))  # `finally` has tidied up


def test_old_archives_are_pruned(served: Served, target: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    results = [served.aura(*begin(tmp_path / "small", target), "-i", "keep=2").json for _ in range(3)]
    assert [len(result["pruned"]) for result in results] == [0, 0, 1]
    assert results[2]["pruned"] == [Path(results[0]["archive"]).name]
    assert len(list(target.iterdir())) == 4


def test_cancel_half_way_leaves_no_archive_and_no_process(served: Served, tree: Path, target: Path) -> None:
    with served.following(*begin(tree, target)) as command:
        read_until(command, f"/{FILES + 101} (")
        assert list(target.glob("*.partial"))
        began = time.monotonic()
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=20)
    assert (command.returncode, time.monotonic() - began < 3) == (130, True)
    run = served.aura("show", "@last", "--json").json
    assert (run["state"], run["stuck"]) == ("cancelled", False)
    assert {step["name"]: step["state"] for step in run["steps"]}["tidy"] == "succeeded"
    assert list(target.iterdir()) == []
    assert not running_of(run["cid"])


def test_source_that_is_not_there_fails_with_a_reason(served: Served, target: Path) -> None:
    done = served.aura(*begin(Path("/nowhere"), target))
    assert done.code == 1
    assert "step archive: NotADirectoryError: the source /nowhere is not a folder" in done.err
    assert "/nowhere was not backed up" in done.err


def test_kill_half_way_is_told_by_the_next_start_and_cleared_up_by_the_next_backup(
    tmp_path: Path, tree: Path, target: Path
) -> None:
    with open_served(tmp_path, *SERVE) as served, served.following(*begin(tree, target)) as command:
        read_until(command, f"/{FILES + 101} (")
        served.process.kill()
        served.process.wait(10)
    assert [path.suffix for path in target.iterdir()] == [".partial"]
    with open_served(tmp_path, *SERVE) as served:
        run = served.aura("show", "@last", "--json").json
        assert run["state"] == "crashed"
        assert "archive" in json.dumps([run["reason"], run["error"]])
        status = served.aura("status", "--json").json
        assert all(lane["running"] == lane["queued"] == 0 for lane in status["lanes"].values())
        done = served.aura(*begin(tree, target))
        assert (done.code, "which a run that died had left" in done.err) == (0, True)
        assert sorted(path.suffix for path in target.iterdir()) == [".gz", ".sha256"]
