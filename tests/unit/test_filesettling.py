"""When changed files count, what is told together, and which file systems are not of this machine."""

import os
from pathlib import Path

import msgspec
import pytest

from aura.bus import MAX_PAYLOAD
from aura.schedule import Change
from aura.scheduling.filebatch import Changed, batches, changed_of
from aura.scheduling.filesets import Changes, Sign
from aura.scheduling.mounts import remote_devices
from aura.scheduling.settling import Settling

ONE, TWO = Sign(1, 10), Sign(2, 20)
KNOWN = {"known": Sign(0, 5)}


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        pytest.param([(0, {"a": ONE}), (0.4, {"a": ONE}), (0.6, {"a": ONE})], [{}, {}, {"a": ONE}], id="stays"),
        pytest.param([(0, {"a": ONE}), (0.6, {"a": TWO}), (1.0, {"a": TWO})], [{}, {}, {}], id="grows"),
        pytest.param([(0, {"a": ONE}), (0.3, {}), (0.6, {"a": ONE})], [{}, {}, {}], id="as-it-was-between"),
        pytest.param([(0, {"known": None}), (0.5, {"known": None})], [{}, {"known": None}], id="gone"),
        pytest.param(
            [(0, {"known": Sign(1, 0)}), (1.9, {"known": Sign(1, 0)}), (2, {"known": Sign(1, 0)})],
            [{}, {}, {"known": Sign(1, 0)}],
            id="emptied",
        ),
        pytest.param([(0, {"new": Sign(1, 0)}), (0.5, {"new": Sign(1, 0)})], [{}, {"new": Sign(1, 0)}], id="empty"),
        pytest.param(
            [(0, {"a": ONE}), (0.4, {"a": ONE, "b": ONE}), (0.6, {"a": ONE, "b": ONE}), (0.9, {"a": ONE, "b": ONE})],
            [{}, {}, {}, {"a": ONE, "b": ONE}],
            id="together",
        ),
    ],
)
def test_change_counts(looks: list[tuple[float, Changes]], told: list[Changes]) -> None:
    settling = Settling()
    assert [settling.look(changes, KNOWN, now) for now, changes in looks] == told


def test_what_has_settled_does_not_wait_for_ever() -> None:
    settling = Settling()
    looks = [settling.look({"a": ONE, "log": Sign(n, n)}, {}, n * 0.5) for n in range(12)]
    assert looks.index({"a": ONE}) == 11
    assert looks[:11] == [{}] * 11


def test_pause_is_until_the_next_one_has_settled() -> None:
    settling = Settling()
    settling.look({}, KNOWN, 0.0)
    assert settling.pause(KNOWN, 0.0) is None
    settling.look({"a": ONE}, KNOWN, 0.0)
    settling.look({"a": ONE, "b": ONE}, KNOWN, 0.2)
    assert settling.pause(KNOWN, 0.2) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "each", "sizes"),
    [
        ("{}", False, [1000, 1000, 500]),
        ("x" * 100 + "{}", False, [478, 477, 474, 474, 474, 123]),
        ("{}", True, [1] * 2500),
    ],
    ids=["as-many-as-one-may-name", "as-much-as-has-room", "each"],
)
def test_event_names_so_many_files(name: str, each: bool, sizes: list[int]) -> None:
    changed = [Changed(name.format(n), Change.ADDED, ONE) for n in range(2500)]
    found = list(batches(changed, "/r", each))
    assert [one for batch in found for one in batch] == changed
    assert all(len(msgspec.json.encode({"files": [one.entry("/r") for one in batch]})) < MAX_PAYLOAD for batch in found)
    assert [len(batch) for batch in found] == sizes


def test_changes_are_told_in_the_order_of_their_times() -> None:
    settled = {"late": Sign(9, 1), "known": Sign(8, 1), "soon": Sign(7, 1), "gone": None}
    found = changed_of(settled, KNOWN)
    assert [(one.path, one.change.value) for one in found] == [
        ("gone", "deleted"), ("soon", "added"), ("known", "modified"), ("late", "added"),
    ]  # fmt: skip


TABLE = """\
22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:52 / /mnt/nas rw,relatime shared:2 - nfs4 nas:/export rw
41 22 0:53 / /home/me/far rw - fuse.sshfs me@far: rw
"""


def test_remote_file_systems_are_known_by_their_type(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(TABLE)
    assert remote_devices(str(tmp_path / "mountinfo")) == {os.makedev(0, 52), os.makedev(0, 53)}


@pytest.mark.parametrize("text", ["", "no table", "1 2 3 4 - nfs", "1 2 x:y / / - nfs"])
def test_table_of_file_systems_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "mountinfo").write_text(text)
    assert remote_devices(str(tmp_path / "mountinfo")) == frozenset()
    assert remote_devices(str(tmp_path / "none")) == frozenset()
