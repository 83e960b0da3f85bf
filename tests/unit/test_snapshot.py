"""One reading of a plans folder: what is read, what is not, and what can never hang or lead out."""

import os
import socket
from pathlib import Path

import pytest
from tests.fakes.plans import LOG, write_files

from aura.errors import ConfigError, ExitCode
from aura.loading.snapshot import Snapshot, check_folder_safe, look_at_plan, read_folder, read_plan


def read_one(root: Path) -> Snapshot:
    (snapshot,) = read_folder(root)
    return snapshot


def problems_of(root: Path) -> list[str]:
    return [str(problem) for problem in read_one(root).problems]


def test_reads_what_a_plan_is_made_of(tmp_path: Path) -> None:
    files = [
        "plan.yaml",
        "tasks/a.yaml",
        "tasks/b/c.yaml",
        "actions/x.py",
        "actions/y/z.py",
        "lib.py",
        "pkg/__init__.py",
    ]
    others = [
        "README.md",
        "data/a.py",
        "data/a.yaml",
        "tests/test_a.py",
        "tests/__init__.py",
        ".hid/a.py",
        "tasks/a.txt",
    ]
    write_files(tmp_path, {f"lab/{path}": "x" for path in (*files, *others)})
    assert sorted(read_one(tmp_path).files) == sorted(files)


def test_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    write_files(tmp_path, {"lab/lib.py": "a", "lab/README.md": "x"})
    first = read_one(tmp_path).hash
    write_files(tmp_path, {"lab/README.md": "y"})
    assert read_one(tmp_path).hash == first
    write_files(tmp_path, {"lab/lib.py": "b"})
    second = read_one(tmp_path).hash
    os.rename(tmp_path / "lab/lib.py", tmp_path / "lab/lob.py")
    assert len({first, second, read_one(tmp_path).hash}) == 3


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        read_folder(tmp_path / "nope")


def test_device_like_files_are_named_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "lab/tasks").mkdir(parents=True)
    os.mkfifo(tmp_path / "lab/tasks/fifo.yaml")
    (tmp_path / "lab/tasks/null.yaml").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lab/tasks/socket.yaml"))
    assert problems_of(tmp_path) == [
        "lab/tasks/fifo.yaml:1:1: this is not a regular file; it is not read",
        "lab/tasks/null.yaml:1:1: this link leads out of the plans folder and is not followed",
        "lab/tasks/socket.yaml:1:1: the file cannot be read: No such device or address",
    ]


def test_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write_files(tmp_path, {"secret/x.yaml": "a: 1", "plans/lab/plan.yaml": "title: x"})
    (tmp_path / "plans/lab/tasks").symlink_to(tmp_path / "secret")
    (tmp_path / "plans/lab/actions.py").symlink_to(tmp_path / "secret/x.yaml")
    snapshot = read_one(tmp_path / "plans")
    assert list(snapshot.files) == ["plan.yaml"]
    assert [problem.file for problem in snapshot.problems] == ["lab/actions.py", "lab/tasks"]


def test_plan_that_is_a_link_out_is_not_followed(tmp_path: Path) -> None:
    write_files(tmp_path, {"secret/plan.yaml": "title: x", "plans/README": ""})
    (tmp_path / "plans/lab").symlink_to(tmp_path / "secret")
    assert problems_of(tmp_path / "plans") == ["lab:1:1: this link leads out of the plans folder and is not followed"]


def test_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    write_files(tmp_path, {"lab/tasks/a.yaml": "a: 1"})
    (tmp_path / "lab/tasks/b.yaml").symlink_to("a.yaml")
    assert read_one(tmp_path).files["tasks/b.yaml"] == b"a: 1"


def test_loop_of_links_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lab").symlink_to("lab")
    assert problems_of(tmp_path) == ["lab:1:1: the folder cannot be read: Too many levels of symbolic links"]


def test_loop_of_folders_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "lab/tasks").mkdir(parents=True)
    (tmp_path / "lab/tasks/again").symlink_to(tmp_path / "lab/tasks")
    assert "folders nest deeper than 16 levels here; is this a loop of links?" in problems_of(tmp_path)[0]


def test_dangling_link_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lab/tasks").mkdir(parents=True)
    (tmp_path / "lab/tasks/a.yaml").symlink_to("nope.yaml")
    assert problems_of(tmp_path) == ["lab/tasks/a.yaml:1:1: the file cannot be read: No such file or directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    write_files(tmp_path, {"lab/plan.yaml": "title: x"})
    (tmp_path / "lab/plan.yaml").chmod(0)
    assert problems_of(tmp_path) == ["lab/plan.yaml:1:1: the file cannot be read: Permission denied"]


def test_too_many_files_are_reported(tmp_path: Path) -> None:
    write_files(tmp_path, {f"lab/tasks/t{number}.yaml": "" for number in range(2001)})
    assert "the plan has more than 2000 files" in problems_of(tmp_path)[0]


def test_name_that_is_no_text_is_shown_somehow(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/lab/tasks"
    os.makedirs(folder)
    os.mkfifo(folder + b"/\xff.yaml")
    assert "lab/tasks/?.yaml:1:1: this is not a regular file" in problems_of(tmp_path)[0]


# -- who may write to it ----------------------------------------------------------------------------------------------


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    root = write_files(tmp_path / "plans", {"lab/tasks/a.yaml": f"steps: {{a: {LOG}}}", "lab/data.csv": ""})
    for path in (root, *root.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    return root


def test_folder_of_its_own_is_safe(safe: Path) -> None:
    check_folder_safe(safe)


def test_data_beside_a_plan_may_be_anybodys(safe: Path) -> None:
    (safe / "lab/data.csv").chmod(0o666)
    check_folder_safe(safe)


@pytest.mark.parametrize("path", [".", "..", "lab", "lab/tasks", "lab/tasks/a.yaml"])
def test_folder_that_everybody_can_write_is_refused(safe: Path, path: str) -> None:
    (safe / path).chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by everybody; `chmod go-w") as caught:
        check_folder_safe(safe)
    assert caught.value.exit_code == ExitCode.UNSAFE == 78


def test_sticky_parent_is_allowed_but_no_sticky_folder(safe: Path) -> None:
    safe.parent.chmod(0o1777)
    check_folder_safe(safe)
    safe.chmod(0o1777)
    with pytest.raises(ConfigError):
        check_folder_safe(safe)


@pytest.mark.skipif(os.geteuid() != 0, reason="of another user a file may be a user's own group's; for root it is not")
def test_folder_that_a_group_can_write_is_refused(safe: Path) -> None:
    safe.chmod(0o775)
    with pytest.raises(ConfigError, match="can be written by its group; `chmod g-w"):
        check_folder_safe(safe)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("path", [".", "lab/tasks/a.yaml"])
def test_folder_of_another_user_is_refused(safe: Path, path: str) -> None:
    os.chown(safe / path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user") as caught:
        check_folder_safe(safe)
    assert caught.value.exit_code == ExitCode.UNSAFE


def test_folder_that_is_not_there_is_no_question_of_safety(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there") as caught:
        check_folder_safe(tmp_path / "nope")
    assert caught.value.exit_code == ExitCode.USAGE


def test_tests_are_read_where_plan_yaml_may_ask_for_them_and_are_not_hashed(tmp_path: Path) -> None:
    files = {
        "lab/tests/test_a.py": "a",
        "lab/tests/data/t.csv": "b",
        "lab/tests/.hidden": "c",
        "lab/tests/__pycache__/x": "",
    }
    write_files(tmp_path, {"lab/plan.yaml": "title: x\n", **files})
    assert read_plan(tmp_path, "lab").tests == {}
    write_files(tmp_path, {"lab/plan.yaml": "reload: {gate: tests}\n"})
    gated = read_plan(tmp_path, "lab")
    assert dict(gated.tests) == {"tests/data/t.csv": b"b", "tests/test_a.py": b"a"}
    write_files(tmp_path, {"lab/tests/test_a.py": "other"})
    other = read_plan(tmp_path, "lab")
    assert other.hash == gated.hash
    assert other.tests_hash != gated.tests_hash


def test_test_that_leads_out_of_the_plans_folder_is_a_problem_of_a_plan_with_a_gate(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"plans/lab/plan.yaml": "reload: {gate: tests}\n", "plans/lab/tests/test_a.py": "", "out": ""}
    )
    (tmp_path / "plans/lab/tests/data").symlink_to(tmp_path / "out")
    [problem] = read_plan(tmp_path / "plans", "lab").problems
    assert str(problem) == "lab/tests/data:1:1: this link leads out of the plans folder and is not followed"


def test_look_sees_a_change_of_a_test(tmp_path: Path) -> None:
    write_files(tmp_path, {"lab/plan.yaml": "title: x\n", "lab/tests/test_a.py": "a"})
    before = look_at_plan(tmp_path, "lab")
    write_files(tmp_path, {"lab/tests/test_a.py": "longer"})
    assert look_at_plan(tmp_path, "lab").stamps.keys() == before.stamps.keys()
    assert look_at_plan(tmp_path, "lab").stamps != before.stamps
