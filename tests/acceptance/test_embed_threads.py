"""``aura.embed.start``: a server for a synchronous program, asked from many threads, of which nothing is left."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.host import HOOKS, SOON, Gate, gate, nothing_left, own_tmp, write_lab

from aura.embed import BlockingServer, portal, start
from aura.errors import AuraError, ConfigError, EmbedError, ServerEnded, StoreInUse, StoreIOError, WorkLeft
from aura.stores.folder import DataFolder

__all__ = ["gate", "own_tmp"]  # fixtures
QUICK = {"server": {"grace": "300ms", "port": 0}}
WIDE = {"lanes": {"main": {"limit": 50}}}
THREADS, EACH = 10, 50


@pytest.fixture
def lab(tmp_path: Path, own_tmp: Path) -> Path:
    """A plans folder; temporary files go to a folder of the test's own."""
    return write_lab(tmp_path)


def use(lab: Path, **more: Any) -> None:
    with start(lab, settings=QUICK, **more) as server:
        for task in ("hello", "spawns", "exits_in_a_thread"):
            server.wait(server.submit("lab", task).cid, SOON)


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """What ``work`` gives, begun in all threads at the same moment."""
    barrier = threading.Barrier(THREADS)

    def one(number: int) -> Any:
        barrier.wait(SOON)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


@contextmanager
def quicker_than(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        assert time.monotonic() - began < seconds


# -- many threads


@pytest.mark.parametrize("data", [None, "data"], ids=["memory", "folder"])
def test_ten_threads_submit_and_wait_at_once(lab: Path, tmp_path: Path, data: str | None) -> None:
    with start(lab, data=data and tmp_path / data, settings=WIDE) as server:

        def work(number: int) -> list[tuple[str, Any]]:
            days = [f"{number}.{index}" for index in range(EACH)]
            cids = [server.submit("lab", "hello", {"day": day}, labels={"of": str(number)}).cid for day in days]
            runs = [server.wait(cid, SOON) for cid in cids]
            assert [run.result for run in runs] == [{"day": day} for day in days]
            return [(run.cid, run.state) for run in runs]

        ended = [pair for pairs in in_threads(work) for pair in pairs]
        assert len(dict(ended)) == THREADS * EACH
        assert {state for _, state in ended} == {"succeeded"}
        listed = server.runs(limit=1000)
        assert {run.cid for run in listed} == dict(ended).keys()
        assert len(server.runs(labels={"of": "3"})) == EACH
        lanes = server.status().lanes
        assert (lanes["main"].running, lanes["main"].queued) == (0, 0)


def test_threads_cancel_what_others_wait_for(lab: Path) -> None:
    with start(lab, settings=WIDE) as server:
        cids = [server.submit("lab", "nap").cid for _ in range(THREADS)]

        def work(number: int) -> str:
            if number % 2:
                return server.wait(cids[number - 1], SOON).state
            server.cancel(cids[number])
            return server.wait(cids[number], SOON).state

        assert in_threads(work) == ["cancelled"] * THREADS
        for cid in cids[1::2]:
            server.cancel(cid)


def test_same_request_of_ten_threads_under_a_key_is_one_run(lab: Path) -> None:
    with start(lab) as server:
        cids = in_threads(lambda _: server.submit("lab", "hello", idempotency_key="once").cid)
        assert len(set(cids)) == len(server.runs()) == 1


def test_call_from_the_servers_own_thread_is_refused(lab: Path) -> None:
    refused: list[str] = []

    def ask() -> None:
        with pytest.raises(EmbedError) as error:
            server.status()
        refused.append(str(error.value))

    HOOKS["ask"] = ask
    (lab / "lab/tasks/asks.yaml").write_text("steps: {do: {action: calls, params: {name: ask}}}")
    with start(lab) as server:
        assert server.wait(server.submit("lab", "asks").cid, SOON).state == "succeeded"
    assert "own thread" in refused[0]


# -- what it leaves


@pytest.mark.parametrize("http", [False, True], ids=["no-door", "door"])
def test_nothing_is_left_however_often(lab: Path, tmp_path: Path, http: bool) -> None:
    with nothing_left(first=True):
        use(lab, data=tmp_path / "data", http=http)
    with nothing_left():
        for _ in range(3):
            use(lab, data=tmp_path / "data", http=http)
            use(lab, http=http)


def test_two_servers_that_end_in_their_own_order_leave_nothing(lab: Path, tmp_path: Path) -> None:
    use(lab)
    with nothing_left():
        first, second = (start(lab, data=tmp_path / name, settings=QUICK) for name in "ab")
        one, other = first.__enter__(), second.__enter__()
        assert one.submit("lab", "nap").cid != other.submit("lab", "nap").cid
        first.__exit__(None, None, None)
        assert len(other.runs()) == 1
        second.__exit__(None, None, None)


class Oops(Exception):
    """An error of the host's."""


@pytest.mark.parametrize("error", [Oops, KeyboardInterrupt, SystemExit])
def test_error_in_the_body_stops_the_server_and_is_raised(lab: Path, error: type[BaseException]) -> None:
    use(lab)

    def host() -> None:
        with start(lab, settings=QUICK) as server:
            server.submit("lab", "nap")
            raise error

    with nothing_left(), pytest.raises(error), quicker_than(SOON):
        host()


def ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_ctrl_c_in_a_call_leaves_nothing(lab: Path) -> None:
    use(lab)

    def host() -> None:
        with start(lab, settings=QUICK) as server:
            HOOKS["interrupt"] = ctrl_c
            server.submit("lab", "interrupts")
            server.wait(server.submit("lab", "nap").cid, SOON)

    (lab / "lab/tasks/interrupts.yaml").write_text("steps: {do: {action: calls, params: {name: interrupt}}}")
    with nothing_left(), pytest.raises(KeyboardInterrupt):
        host()


def test_ctrl_c_while_it_ends_hurries_it(lab: Path, tmp_path: Path, gate: Gate) -> None:
    def interrupt() -> None:
        if gate.begun.wait(SOON):
            ctrl_c()

    def host() -> None:
        with start(lab, data=tmp_path / "data", settings={"server": {"grace": "50s"}}) as server:
            server.submit("lab", "cleans")
            assert gate.entered.wait(SOON)
            threading.Thread(target=interrupt).start()

    with pytest.raises(KeyboardInterrupt), quicker_than(20):
        host()
    DataFolder.open(tmp_path / "data").release()


# -- what cannot start


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"plans": "/nowhere"}, ConfigError, id="no-plans"),
        pytest.param({"settings": {"lanes": {"main": {"limit": 0}}}}, ConfigError, id="bad-setting"),
        pytest.param({"data": "locked"}, StoreInUse, id="data-folder-in-use"),
    ],
)
def test_start_that_fails_says_why_and_leaves_nothing(
    lab: Path, tmp_path: Path, arguments: dict[str, Any], error: type[AuraError]
) -> None:
    use(lab)
    owner = DataFolder.open(tmp_path / "locked")
    given = {"plans": lab, **arguments}
    if "data" in given:
        given["data"] = tmp_path / given["data"]
    with nothing_left(), pytest.raises(error), start(**given):
        pytest.fail("it began")
    owner.release()


# -- what ends otherwise


@pytest.mark.parametrize("task", ["hangs", "swallows"])
def test_work_that_hangs_is_left_and_named(lab: Path, gate: Gate, task: str) -> None:
    cids: list[str] = []

    def host() -> None:
        with start(lab, settings=QUICK) as server:
            cids.append(server.submit("lab", task).cid)
            assert gate.begun.wait(SOON)

    with pytest.raises(WorkLeft) as left, quicker_than(SOON):
        host()
    assert left.value.cids == tuple(cids)


def test_loop_that_plan_code_blocks_is_left(lab: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal, "END_SLACK", 0.5)
    outcome: list[Any] = []

    def call(server: BlockingServer) -> None:
        try:
            outcome.append(server.status())
        except EmbedError as error:
            outcome.append(error)

    def host() -> None:
        with start(lab, settings=QUICK) as server:
            server.submit("lab", "blocks")
            assert gate.begun.wait(SOON)
            calling.append(threading.Thread(target=call, args=[server]))
            calling[0].start()

    calling: list[threading.Thread] = []
    with pytest.raises(WorkLeft, match="blocks its event loop"), quicker_than(SOON):
        host()
    calling[0].join(SOON)  # it is told as well, though nobody is left who could answer
    assert type(outcome[0]) is ServerEnded


@pytest.mark.parametrize("task", ["exits", "exits_in_a_thread", "exits_in_a_child", "interrupts_in_a_child"])
def test_plan_code_that_exits_fails_its_run_alone(lab: Path, task: str) -> None:
    with start(lab) as server:
        assert server.wait(server.submit("lab", task).cid, SOON).state == "failed"
        assert server.wait(server.submit("lab", "hello").cid, SOON).state == "succeeded"


def test_lost_storage_is_raised_by_calls_and_at_the_end(lab: Path, tmp_path: Path) -> None:
    def host() -> None:
        with start(lab, data=tmp_path / "data", settings=QUICK) as server:
            cid = server.submit("lab", "nap").cid
            for file in (tmp_path / "data").glob("aura.db*"):
                file.unlink()
            with pytest.raises(StoreIOError):
                server.submit("lab", "hello")
            with pytest.raises(StoreIOError):
                server.wait(cid, SOON)

    use(lab)
    with nothing_left(), pytest.raises(StoreIOError):
        host()


def test_calls_in_flight_at_the_end_are_answered(lab: Path) -> None:
    outcomes: dict[str, Any] = {}

    def wait(server: BlockingServer, name: str, cid: str) -> None:
        try:
            outcomes[name] = server.wait(cid).state
        except AuraError as error:
            outcomes[name] = type(error)

    with start(lab, settings=QUICK) as server:
        cids = {"running": server.submit("lab", "nap").cid}
        cids["queued"] = server.submit("lab", "hello", delay="1h").cid
        while not server.runs(state="running"):
            pass
        calls = [threading.Thread(target=wait, args=(server, *pair)) for pair in cids.items()]
        for call in calls:
            call.start()
    for call in calls:
        call.join(SOON)
    assert outcomes["queued"] is ServerEnded
    assert outcomes["running"] in ("cancelled", ServerEnded)  # the latter if its thread came too late


def test_call_after_the_end_fails(lab: Path) -> None:
    with start(lab) as server:
        cid = server.submit("lab", "hello").cid
    for call in (lambda: server.submit("lab", "hello"), lambda: server.wait(cid), server.status, server.runs):
        with pytest.raises(ServerEnded):
            call()


def test_calls_that_race_with_the_end_never_hang(lab: Path) -> None:
    stop = threading.Event()

    def ask(server: BlockingServer) -> int:
        answered = 0
        while not stop.is_set():
            try:
                server.status()
                answered += 1
            except ServerEnded:
                return answered
        return -1

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(5):
            with start(lab, settings=QUICK) as server:
                asking = [pool.submit(ask, server) for _ in range(THREADS)]
                server.wait(server.submit("lab", "hello").cid, SOON)
            try:
                assert all(one.result(SOON) >= 0 for one in asking)
            finally:
                stop.set() if not all(one.done() for one in asking) else None
