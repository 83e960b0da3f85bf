"""The plan ``inventory`` on a real server: this machine's report, in the run's folder and where it is wanted."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.context import PLANS
from tests.fakes.served import Served, open_served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_served(tmp_path_factory.mktemp("inventory"), "--port", "0", "--plans", str(PLANS)) as served:
        yield served


def test_report_of_this_machine_is_written_and_copied(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "reports" / "host.md"
    done = served.aura("run", "inventory/report", "-i", "top=2", "-i", f"target={target}")
    assert done.code == 0, done.err
    result, text = done.json, target.read_text()
    assert (result["report"], result["missing"]) == (str(target), [])
    assert (result["host"], result["threads"]) == (os.uname().nodename, os.cpu_count())
    assert text.startswith("# Inventory of ")
    assert text.count("| ---: | --- | --- | ---: | ---: |\n") == 2  # both tables of processes
    interfaces = text.partition("## Network interfaces")[2]
    assert all(f"| {name} |" in interfaces for _, name in socket.if_nameindex() if name.isalnum())
    (own,) = (served.folder / "data").glob("work/*/inventory.md")
    assert own.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["host.md"]


def test_parts_are_gathered_side_by_side(served: Served) -> None:
    assert served.aura("run", "inventory/report").code == 0
    steps = {step["name"]: step for step in served.aura("show", "@last", "--json").json["steps"]}
    parts = ("system", "cores", "memory", "disks", "mounts", "processes", "interfaces")
    assert max(steps[part]["started_at"] for part in parts) <= min(steps[part]["finished_at"] for part in parts)
    assert max(steps[part]["finished_at"] for part in parts) <= steps["render"]["started_at"]
    assert steps["publish"]["state"] == "skipped"


@pytest.mark.parametrize("wrong", ["top=0", "top=101", "target=here.md"])
def test_input_out_of_bounds_is_refused(served: Served, wrong: str) -> None:
    done = served.aura("run", "inventory/report", "-i", wrong)
    assert done.code == 64
    assert f"/inputs/{wrong.partition('=')[0]}" in done.err


def test_target_that_cannot_be_written_fails_and_the_report_stays_in_the_run_s_folder(served: Served) -> None:
    done = served.aura("run", "inventory/report", "-i", "target=/proc/inventory.md")
    assert done.code == 1
    assert "there is no complete inventory" in done.err
    cid = served.aura("show", "@last", "--json").json["cid"]
    assert (served.folder / "data" / "work" / cid / "inventory.md").is_file()


def test_part_that_cannot_be_read_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    plan = shutil.copytree(PLANS / "inventory", tmp_path / "plans/inventory")
    machine = plan / "actions/machine.py"
    machine.write_text(machine.read_text().replace('PROC / "meminfo"', 'PROC / "no-meminfo"'))
    with open_served(tmp_path, "--port", "0") as served:
        done = served.aura("run", "inventory/report", "-i", f"target={tmp_path / 'report.md'}")
    assert (done.code, done.json["missing"], done.json["memory_bytes"]) == (0, ["memory"], None)
    text = (tmp_path / "report.md").read_text()
    assert "## Memory\n\nCould not be read: FileNotFoundError: " in text
    assert text.count("Could not be read") == 1
