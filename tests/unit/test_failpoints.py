"""Failpoints: what may be named, that each commit site has its own, and that a kill is one."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from aura import failpoints
from aura.engine.boot import in_one_transaction
from aura.errors import ConfigError, StoreError, StoreReadOnly
from aura.failpoints import NAMES, SITES, Failpoint, Moment, Site
from aura.lifecycle import RunState
from aura.runs import runtime
from aura.store import Execute, Store
from aura.stores.failpoints import FailpointBackend, with_failpoints
from aura.stores.memory import MemoryBackend

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "aura"
#: All places that commit, or write to the database in another way, with what stands there. A new one needs its site.
COMMITS = {
    ("store.py", "COMMIT"),
    ("engine/boot.py", "COMMIT"),
    ("stores/sqlite.py", "COMMIT"),
    ("stores/sqlite.py", "executescript"),
    ("stores/sqlite.py", "PRAGMA wal_checkpoint(TRUNCATE)"),
}
#: What is called so: those of a backend, and those of the admission, which are told of a commit.
_ADMISSIONS = ("self.commit", "self._admission.commit", "self.admission.commit")
COMMIT_CALLS = ("self._backend.commit", "self._inner.commit", *_ADMISSIONS)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@asynccontextmanager
async def open_store() -> AsyncIterator[tuple[Store, MemoryBackend]]:
    """A store on a backend with failpoints; whoever enters has armed them."""
    backend = MemoryBackend()
    found: list[StoreError | Exception] = []
    store = Store(with_failpoints(backend), on_fault=found.append, on_fatal=found.append)
    async with anyio.create_task_group() as group:  # the flusher, which ends when the intake is closed
        group.start_soon(store.serve)
        try:
            with anyio.fail_after(10):
                yield store, backend
        finally:
            store.close()
    assert found == []


def insert(key: str, execute: Execute) -> None:
    execute("INSERT INTO meta VALUES (?, 'x')", (key,))


def keys(backend: MemoryBackend) -> list[str]:
    return [key for (key,) in backend.execute("SELECT key FROM meta")]


# -- the variable


def test_several_failpoints_are_read_with_their_counts() -> None:
    read = failpoints.parse("accept.told:kill@3, hop.inside:raise@1,")
    assert read == (Failpoint("accept.told", "kill", 3), Failpoint("hop.inside", "raise", 1))
    assert failpoints.parse("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("accept.later:kill@1", "no failpoint 'accept.later'; there are: accept.before", id="unknown"),
        pytest.param("schema.told:kill@1", "no failpoint 'schema.told'", id="moment-it-has-not"),
        pytest.param("accept.after", "'accept.after' cannot be read; say name:kill@k", id="no-act"),
        pytest.param("accept.after:kill@0", "cannot be read", id="zero"),
        pytest.param("accept.after:exit@1", "cannot be read", id="unknown-act"),
        pytest.param("accept.after:raise@2", "no error can come up; say accept.after:kill@2", id="after-the-commit"),
        pytest.param("checkpoint.before:raise@1", "no error can come up", id="checkpoint"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="AURA_FAILPOINT") as refused:
        failpoints.arm(text)
    assert message in str(refused.value)


def test_server_with_an_unknown_failpoint_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    command = [str(Path(sys.executable).with_name("aura")), "serve", "--data", "data", "--port", "0"]
    environ = {"PATH": os.environ["PATH"], "AURA_FAILPOINT": "x.before:kill@1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (64, "")
    assert "there is no failpoint 'x.before'" in done.stderr


# -- what happens there


def test_kill_comes_at_the_named_passage_and_says_so() -> None:
    lines = [
        "from aura.failpoints import Moment, Site, arm, passed",
        "arm('hop.after:kill@2')",
        "passed(Site.HOP, Moment.AFTER), passed(Site.HOP, Moment.BEFORE), print('once', flush=True)",
        "passed(Site.HOP, Moment.AFTER), print('twice', flush=True)",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "once\n")
    assert done.stderr == "aura: failpoint hop.after:kill@2\n"


async def test_store_passes_every_moment_of_every_site_in_order() -> None:
    for site in (Site.ACCEPT, Site.LOGS):
        armed = failpoints.arm("schema.after:kill@1000")  # armed, for what never comes
        async with open_store() as (store, _):
            await store.put(lambda execute: None, site=site).wait()
            await anyio.lowlevel.checkpoint()
        moments = [name for name in armed.counts if not name.startswith(Site.SCHEMA)]
        assert moments == [*(f"{site}.{moment}" for moment in SITES[site]), "checkpoint.before", "checkpoint.after"]


async def test_told_comes_when_the_waiter_has_gone_on() -> None:
    armed = failpoints.arm("schema.after:kill@1000")
    seen: list[int] = []
    async with open_store() as (store, _):
        ticket = store.put(lambda x: None, after=lambda: seen.append(armed.counts["accept.after"]), site=Site.ACCEPT)
        await ticket.wait()
        seen.append(armed.counts["accept.told"])
        await anyio.lowlevel.checkpoint()
        seen.append(armed.counts["accept.told"])
    assert seen == [1, 0, 1]


async def test_raise_before_a_commit_refuses_what_may_be_refused_and_heals() -> None:
    armed = failpoints.arm("accept.before:raise@2")
    async with open_store() as (store, backend):
        await store.put(lambda x: insert("first", x), refusable=True, site=Site.ACCEPT).wait()
        kept = store.put(lambda x: insert("kept", x), site=Site.HOP)
        second = store.put(lambda x: insert("second", x), refusable=True, site=Site.ACCEPT)
        with pytest.raises(StoreReadOnly, match=r"accept\.before:raise@2"):
            await second.wait()
        await kept.wait()
        assert {"first", "kept"} <= set(keys(backend))
        assert "second" not in keys(backend)
        assert (armed.counts["hop.before"], armed.counts["hop.inside"]) == (2, 1)


async def test_raise_inside_a_commit_is_healed_by_the_replay() -> None:
    failpoints.arm("hop.inside:raise@1")
    async with open_store() as (store, backend):
        tickets = [store.put(lambda x, n=n: insert(f"k{n}", x), site=Site.HOP) for n in range(3)]  # type: ignore[misc]
        for ticket in tickets:
            await ticket.wait()
        assert {"k0", "k1", "k2"} <= set(keys(backend))


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.INSIDE])
def test_raise_in_the_boots_transaction_rolls_it_back(moment: Moment) -> None:
    backend = MemoryBackend()
    failpoints.arm(f"boot_count.{moment}:raise@1")
    with pytest.raises(StoreReadOnly):
        in_one_transaction(backend.execute, Site.BOOT_COUNT, lambda: insert("k", backend.execute))
    in_one_transaction(backend.execute, Site.BOOT_COUNT, lambda: insert("again", backend.execute))
    assert "k" not in keys(backend)
    assert "again" in keys(backend)


def test_server_without_the_variable_has_the_backend_itself() -> None:
    backend = MemoryBackend()
    assert with_failpoints(backend) is backend
    failpoints.arm("accept.before:kill@1")
    assert isinstance(with_failpoints(backend), FailpointBackend)


# -- that none is missing


def calls() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted(SOURCE.rglob("*.py")):
        name = str(file.relative_to(SOURCE))
        yield from ((name, node) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))


def test_every_unit_that_is_handed_over_says_whose_it_is() -> None:
    puts = [(name, call) for name, call in calls() if ast.unparse(call.func).endswith("store.put")]
    nameless = [f"{name}:{call.lineno}" for name, call in puts if "site" not in {key.arg for key in call.keywords}]
    assert puts
    assert nameless == []


def test_every_commit_is_one_that_has_its_site() -> None:
    found = set()
    for name, call in calls():
        texts = [
            node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        found |= {(name, text) for text in texts if text == "COMMIT" or "wal_checkpoint" in text}
        if isinstance(call.func, ast.Attribute) and call.func.attr == "executescript":
            found.add((name, "executescript"))
        if isinstance(call.func, ast.Attribute) and call.func.attr == "commit":
            assert ast.unparse(call.func) in COMMIT_CALLS, f"{name}:{call.lineno}"
    assert found == COMMITS


def test_every_site_is_somewheres_and_has_moments() -> None:
    text = "\n".join(file.read_text() for file in SOURCE.rglob("*.py") if file.name != "failpoints.py")
    text += (SOURCE / "stores" / "failpoints.py").read_text()
    assert [site for site in Site if f"Site.{site.name}" not in text] == []
    assert set(SITES) == set(Site)
    assert len(NAMES) == len(set(NAMES)) == sum(len(moments) for moments in SITES.values())


def test_every_move_of_a_run_has_its_site() -> None:
    assert set(runtime._SITES) == {None, *RunState}


def test_docs_name_every_site_and_moment() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert [word for word in (*Site, *Moment) if f"`{word}`" not in page] == []
