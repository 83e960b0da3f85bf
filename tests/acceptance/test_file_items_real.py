"""File triggers on a real server: files that are written by the byte, renamed into place, replaced and removed."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.served import Served, open_served, write_plans

from aura.client import Client, Target

TASK = """
steps: {only: {action: log, params: {message: hello}}}
returns: "{{ event.payload.files }}"
"""
ITEMS = """
items:
  files:
    task: take
    triggers:
      - {file: {path: "{{ plan.dir }}/../../inbox", pattern: "**/*.csv", changes: [added, modified, deleted]}}
"""
#: Seconds within which whatever does not hang is told, on a machine that has much else to do.
SOON = 30.0


@contextmanager
def asking(served: Served) -> Iterator[Client]:
    with Client(Target(served.address, (served.folder / "data/token").read_text().strip())) as client:
        yield client


def told(client: Client) -> Counter[str]:
    """What has been told by runs that have ended, as ``change name`` with how often."""
    ended = [client.get_run(run.cid) for run in client.runs(state="succeeded")]
    return Counter(f"{one['change']} {Path(one['path']).name}" for run in ended for one in run.result)


def wait_told(client: Client, *wanted: str) -> None:
    """Wait until all of this has been told, each once, and nothing else."""
    end = time.monotonic() + SOON
    while (found := told(client)) != Counter(wanted):
        assert time.monotonic() < end, found
        assert found <= Counter(wanted), found
        time.sleep(0.1)  # between two looks; bounded above


def wait_looked(client: Client) -> None:
    """Wait until the folder has been looked at for the first time."""
    end = time.monotonic() + SOON
    while [item.folders[0].looked_at for item in client.schedule()] == [None]:
        assert time.monotonic() < end
        time.sleep(0.05)


def write_by_the_byte(file: Path) -> None:
    with file.open("wb", buffering=0) as writer:
        for _ in range(20):
            writer.write(b"x")
            time.sleep(0.02)  # a slow writer: nothing is waited for here


def test_files_are_told_once_when_they_are_whole(tmp_path: Path) -> None:
    write_plans(tmp_path, {"lab/tasks/take.yaml": TASK, "lab/schedule.yaml": ITEMS})
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "old.csv").write_text("lies there")
    with open_served(tmp_path) as served, asking(served) as client:
        wait_looked(client)
        write_by_the_byte(folder / "slow.csv")
        (folder / "sub").mkdir()
        (folder / "sub/.whole.csv.part").write_text("whole")
        os.rename(folder / "sub/.whole.csv.part", folder / "sub/whole.csv")
        wait_told(client, "added slow.csv", "added whole.csv")
        (folder / "old.csv").unlink()
        wait_told(client, "added slow.csv", "added whole.csv", "deleted old.csv")
        served.process.kill()
    (folder / "slow.csv").write_text("changed while nobody was there")
    with open_served(tmp_path) as served, asking(served) as client:
        known = ["added slow.csv", "added whole.csv", "deleted old.csv", "modified slow.csv"]
        wait_told(client, *known)
        os.rename(folder, tmp_path / "away")
        folder.mkdir()
        (folder / "new.csv").write_text("in another folder of that name")
        wait_told(client, *known, "added new.csv", "deleted slow.csv", "deleted whole.csv")
        assert served.stop() == 0
