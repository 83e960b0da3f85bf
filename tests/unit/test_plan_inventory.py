"""The plan ``inventory``: what kernels wrote elsewhere, mounts that do not answer, names that are no Markdown."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import pytest
from tests.fakes.children import running_of, until
from tests.fakes.context import Bench, plan_bench

X86 = """\
processor\t: 0
model name\t: AMD Ryzen 5 PRO 4650U
physical id\t: 0
core id\t\t: 0

processor\t: 1
model name\t: AMD Ryzen 5 PRO 4650U
physical id\t: 0
core id\t\t: 0

processor\t: 2
model name\t: AMD Ryzen 5 PRO 4650U
physical id\t: 1
core id\t\t: 0
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 108.00
CPU part\t: 0xd08

processor\t: 1
BogoMIPS\t: 108.00

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
MEMORY = """\
MemTotal:        8000 kB
MemFree:         1000 kB
MemAvailable:    5000 kB
Buffers:          500 kB
Cached:          2000 kB
SwapTotal:       4000 kB
SwapFree:        3000 kB
HugePages_Total:       0
"""
MOUNTS = """\
21 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
22 21 0:5 / /proc rw,nosuid shared:2 - proc proc rw
23 21 8:3 / /srv/my\\040disk ro,relatime shared:3 - xfs /dev/sda3 rw
24 21 8:2 /etc/hosts /etc/hosts rw - ext4 /dev/sda2 rw
25 21 0:44 / /mnt/nas rw,relatime shared:9 - nfs4 nas:/export rw,vers=4.2
26 21 0:45 / /mnt/box rw,nosuid - fuse.sshfs me@box:/ rw,user_id=0
27 21 8:4 / /mnt/usb rw - vfat /dev/sdb1 ro
28 21 8:5 / /mnt/usb rw - ext4 /dev/sdc1 rw
"""


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return await plan_bench("inventory", tmp_path)


def parts(bench: Bench, action: str) -> dict[str, Any]:
    """The names in the module that has an action."""
    return bench.function(action).__globals__


@pytest.fixture
async def parsing(bench: Bench) -> SimpleNamespace:
    """The module of pure functions, by way of one of them."""
    found: dict[str, Any] = parts(bench, "cores")["parse_cores"].__globals__
    return SimpleNamespace(**found)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        pytest.param(X86, ("AMD Ryzen 5 PRO 4650U", 2, 2, 3), id="x86"),
        pytest.param(ARM, ("Raspberry Pi 4 Model B Rev 1.4", 1, 2, 2), id="arm"),
        pytest.param("", ("unknown", 0, 0, 0), id="nothing"),
    ],
)
async def test_cores_are_counted(parsing: SimpleNamespace, text: str, counted: tuple[str, int, int, int]) -> None:
    found = parsing.parse_cores(text)
    assert (found.model, found.sockets, found.cores, found.threads) == counted


async def test_memory_is_read_in_bytes(parsing: SimpleNamespace) -> None:
    found = parsing.parse_memory(MEMORY)
    assert (found.total, found.available) == (8000 * 1024, 5000 * 1024)
    assert (found.swap_total, found.swap_free) == (4000 * 1024, 3000 * 1024)
    old = MEMORY.replace("MemAvailable", "SomethingElse").replace("Swap", "Other")
    assert vars(parsing.parse_memory(old)) == {
        "total": 8000 * 1024,
        "available": 3500 * 1024,
        "swap_total": 0,
        "swap_free": 0,
    }


async def test_mounts_are_each_device_once_and_none_that_is_only_one_by_name(parsing: SimpleNamespace) -> None:
    found = [(m.path, m.source, m.read_only, m.remote) for m in parsing.parse_mounts(MOUNTS)]
    assert found == [
        ("/", "/dev/sda2", False, False),
        ("/mnt/box", "me@box:/", False, True),
        ("/mnt/nas", "nas:/export", False, True),
        ("/mnt/usb", "/dev/sdc1", False, False),  # what was mounted over it is hidden
        ("/srv/my disk", "/dev/sda3", True, False),
    ]


@pytest.mark.parametrize("name", ["sshd", "a b", "x) R 1 (y", "(sd-pam)", ""])
async def test_process_is_read_whatever_its_name(parsing: SimpleNamespace, name: str) -> None:
    rest = "S 1 2 3 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 12345 1000000 256 18446744073709551615 1 1"
    found = parsing.parse_stat(f"4711 ({name}) {rest}\n")
    assert vars(found) == {"pid": 4711, "name": name, "state": "S", "ticks": 300, "pages": 256}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', "Debian GNU/Linux 12 (bookworm)"),
        ("PRETTY_NAME=Alpine\n", "Alpine"),
        ("NAME=odd\n", ""),
        ("", ""),
    ],
)
async def test_release_is_named(parsing: SimpleNamespace, text: str, name: str) -> None:
    assert parsing.parse_release(text) == name


async def test_disks_are_those_with_a_size(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts(bench, "disks"), "SYS", tmp_path)
    assert await bench.call("disks") == []  # as in a container
    for name, size, rotational in [("sda", "4096", "1"), ("loop0", "0", "1"), ("nvme0n1", "10", "0"), ("odd", "2", "")]:
        (tmp_path / "block" / name / "queue").mkdir(parents=True)
        (tmp_path / "block" / name / "size").write_text(f"{size}\n")
        (tmp_path / "block" / name / "queue/rotational").write_text(f"{rotational}\n")
    found = await bench.call("disks")
    assert [(d["name"], d["bytes"], d["rotational"]) for d in found] == [
        ("nvme0n1", 5120, False),
        ("odd", 1024, None),
        ("sda", 2097152, True),
    ]


async def test_processes_are_ranked_by_both_and_ties_by_number(bench: Bench, parsing: SimpleNamespace) -> None:
    stats = [parsing.Stat(pid, f"p{pid}", "S", ticks, pages) for pid, ticks, pages in [(3, 5, 9), (1, 5, 2), (2, 8, 9)]]
    found = parts(bench, "processes")["rank"](stats, 2)
    assert found.count == 3
    assert [p.pid for p in found.by_memory] == [2, 3]
    assert [p.pid for p in found.by_cpu] == [2, 1]


# -- mounts whose other side may be gone ------------------------------------------------------------------------------


@pytest.fixture
def remote(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The module that asks mounts, with two that count as remote."""
    found = parts(bench, "mounts")
    bench.host.process_environment = {**bench.host.process_environment, "AURA_CID": str(uuid4())}
    lines = [f"3{n} 1 0:4{n} / {tmp_path / n} rw - nfs4 nas:/{n} rw" for n in "ab"]
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setitem(found, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setitem(found, "PATIENCE", 60.0)  # an answer may take long on a machine that is busy
    return found


async def test_remote_mounts_that_answer_have_their_sizes(bench: Bench, remote: dict[str, Any]) -> None:
    found = await bench.call("mounts")
    assert [(m["problem"], m["total"] > m["free"] > 0, m["used"] > 0) for m in found] == [(None, True, True)] * 2


async def test_remote_mount_that_does_not_answer_is_given_up_and_its_process_is_gone(
    bench: Bench, remote: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(remote, "_ASK", "import time; time.sleep(100)")
    monkeypatch.setitem(remote, "PATIENCE", 0.5)
    with anyio.fail_after(30):
        found = await bench.call("mounts")
    assert [(m["problem"], m["total"], m["used"], m["free"]) for m in found] == [("silent", None, None, None)] * 2
    assert min(bench.log.texts("warning")).endswith("(nas:/a): silent")
    assert not running_of(bench.host.process_environment["AURA_CID"])


async def test_process_that_asks_has_the_run_s_mark_and_is_gone_when_the_run_is_stopped(
    bench: Bench, remote: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = bench.host.process_environment["AURA_CID"]
    monkeypatch.setitem(remote, "_ASK", "import time; time.sleep(100)")
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(bench.call, "mounts")
            await until(lambda: len(running_of(cid)) == 2)
            group.cancel_scope.cancel()
    assert not running_of(cid)


@pytest.mark.parametrize("answer", ["print('odd')", "raise OSError", "pass", "print(1, 2)"])
async def test_remote_mount_that_says_nonsense_is_not_read(
    bench: Bench, remote: dict[str, Any], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setitem(remote, "_ASK", answer)
    assert {m["problem"] for m in await bench.call("mounts")} == {"cannot be read"}


async def test_remote_mounts_beyond_the_bound_are_not_asked(
    bench: Bench, remote: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(remote, "ASKED", 1)
    found = await bench.call("mounts")
    assert [m["problem"] for m in found] == [None, "not asked: more than 1 remote file systems"]


async def test_local_mount_that_cannot_be_read_says_why(bench: Bench, remote: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("31 1 8:1 / /nowhere/at/all rw - ext4 /dev/sda1 rw")
    (found,) = await bench.call("mounts")
    assert (found["problem"], found["total"]) == ("No such file or directory", None)


# -- the report -------------------------------------------------------------------------------------------------------


async def gathered(bench: Bench) -> dict[str, Any]:
    names = ("system", "cores", "memory", "disks", "mounts", "processes", "interfaces")
    return {name: await bench.call(name) for name in names}


async def test_report_has_every_part_and_tables_with_as_many_cells_as_their_head(bench: Bench) -> None:
    found = await gathered(bench)
    report = await bench.call("render", found=found, failed={}, at="today")
    titles = re.findall(r"^## (.+)$", report["text"], re.MULTILINE)
    assert titles == ["System", "Cores", "Memory", "Disks", "Mounts", "Processes", "Network interfaces"]
    assert (report["missing"], report["text"].startswith("# Inventory of ")) == ([], True)
    for block in report["text"].split("\n\n"):
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines() if line.startswith("|")}
        assert len(cells) <= 1


async def test_report_without_a_part_says_why_and_has_the_others(bench: Bench) -> None:
    found = await gathered(bench) | {"memory": None, "disks": []}
    failed = {"memory": {"type": "FileNotFoundError", "message": "no /proc/meminfo"}}
    report = await bench.call("render", found=found, failed=failed, at="today")
    assert report["missing"] == ["memory"]
    assert "## Memory\n\nCould not be read: FileNotFoundError: no /proc/meminfo\n" in report["text"]
    assert "## Disks\n\nNone found.\n" in report["text"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain-name", "plain-name"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("![x](y) *z* `k` _u_", r"\!\[x\](y) \*z\* \`k\` \_u\_"),
        ("two\nlines\r\x1b[31m\u202e", "two lines  \\[31m "),
        (None, ""),
        (7, "7"),
    ],
)
async def test_cell_is_escaped(bench: Bench, value: object, shown: str) -> None:
    assert parts(bench, "render")["escaped"](value) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(None, ""), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1024**3 - 1, "1.0 GiB"), (10**18, "888.2 PiB")],
)
async def test_size_is_for_people(bench: Bench, number: int | None, shown: str) -> None:
    assert parts(bench, "render")["size"](number) == shown


async def test_span_and_share_are_for_people(bench: Bench) -> None:
    names = parts(bench, "render")
    assert [names["span"](seconds) for seconds in (0, 3720, 90000)] == ["0 h 00 min", "1 h 02 min", "1 d 01 h 00 min"]
    assert [names["share"](*both) for both in ((1, 3), (0, 5), (1, 0), (None, 5))] == ["33 %", "0 %", "", ""]
