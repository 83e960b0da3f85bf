"""The client: how it finds a server, what it makes of refusals, and streams that go on where they broke."""

import asyncio
import gc
import inspect
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.server import CUT, Answer, FakeServer, open_fake_server, problem, sse, stream

from aura import api
from aura.client import AsyncClient, Client, Record, Request, Target, connection, find_target, read_token, streams
from aura.config import Settings, load_settings
from aura.errors import ExitCode, NotPermitted, Refused, Unreachable


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        yield fake


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_PAUSE", 0.01)


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(Target(fake.url, "secret")) as client:
        yield client


STATUS = {
    "state": "running",
    "version": "1",
    "boot": 1,
    "started_at": "2026-11-22T05:00:00Z",
    "uptime_s": 1.5,
    "lanes": {},
    "plans": {"ready": 2, "stale": 1, "broken": 0},
    "resources": {},
    "store": {"writable": True, "pending": 0, "commits": 1},
    "services": {},
    "reasons": [],
}
PLAN: dict[str, Any] = {
    "title": "",
    "description": "",
    "status": "ready",
    "generation": None,
    "task_count": 1,
    "errors": [],
    "uses": [],
    "preempts_others": False,
}
NOBODY = {"plan_name": None, "task_name": None, "cid": "c", "step": None}


def log(number: int, message: str = "hi", **more: Any) -> dict[str, Any]:
    record = {"kind": "log", "id": str(number), "time": "2026-11-22T05:00:00Z", "level": "info", "message": message}
    return record | NOBODY | {"attempt": None, "fields": {}} | more


def event(number: int, name: str = "run.succeeded") -> dict[str, Any]:
    record = {"kind": "event", "id": str(number), "time": "2026-11-22T05:00:00Z", "name": name, "payload": None}
    return record | NOBODY | {"cause": None, "root": None, "depth": 0}


def settings(folder: Path, **flags: Any) -> Settings:
    return load_settings({"data": folder, **flags}, {}, cwd=folder)


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        pytest.param({}, "http://127.0.0.1:8700", id="default"),
        pytest.param({"host": "0.0.0.0", "port": 1}, "http://127.0.0.1:1", id="any-v4"),
        pytest.param({"host": "::"}, "http://[::1]:8700", id="any-v6"),
        pytest.param({"host": "localhost"}, "http://localhost:8700", id="name"),
    ],
)
def test_server_is_found_in_the_settings(tmp_path: Path, flags: dict[str, Any], url: str) -> None:
    assert find_target(settings(tmp_path, **flags), {}).url == url


def test_server_on_a_unix_socket_is_found_in_the_settings(tmp_path: Path) -> None:
    target = find_target(settings(tmp_path, uds="a.sock"), {})
    assert (target.uds, str(target)) == (tmp_path / "a.sock", f"unix:{tmp_path}/a.sock")


def test_server_option_beats_the_environment_beats_the_settings(tmp_path: Path) -> None:
    environ = {"AURA_SERVER": "https://b:2/"}
    assert find_target(settings(tmp_path), environ).url == "https://b:2"
    assert find_target(settings(tmp_path), environ, "unix:/s").uds == Path("/s")


def test_token_of_the_environment_beats_that_of_the_data_folder(tmp_path: Path) -> None:
    assert find_target(settings(tmp_path), {}).token is None
    (tmp_path / "token").write_text("local\n")
    assert find_target(settings(tmp_path), {}).token == "local"
    assert find_target(settings(tmp_path), {"AURA_TOKEN": "mine"}).token == "mine"


def test_token_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    with pytest.raises(NotPermitted, match="set AURA_TOKEN") as caught:
        read_token(tmp_path)
    assert caught.value.exit_code == ExitCode.NOT_PERMITTED


@pytest.mark.parametrize("server", ["127.0.0.1:8700", "ftp://x", "http://", "nonsense"])
def test_address_that_is_none_is_said(tmp_path: Path, server: str) -> None:
    with pytest.raises(Unreachable, match="is not a server's address"):
        find_target(settings(tmp_path), {}, server)


def test_requests_carry_the_token_and_the_agent(fake: FakeServer, client: Client) -> None:
    fake.answers["GET /api/system/status"] = STATUS | {"something": "of a later version"}
    assert client.status().started_at == datetime(2026, 11, 22, 5, tzinfo=UTC)
    assert fake.asked[0].headers["Authorization"] == "Bearer secret"
    assert fake.asked[0].headers["User-Agent"].startswith("aura-client/")


def test_names_in_paths_are_quoted_but_for_the_slash(fake: FakeServer, client: Client) -> None:
    with pytest.raises(Refused, match="nothing at /api/plans/a%20b/tasks/c/d%3F"):
        client.task("a b", "c/d?")


def test_lists_are_fetched_page_by_page(fake: FakeServer, client: Client) -> None:
    fake.answers["GET /api/plans"] = {"items": [PLAN | {"name": "a"}], "next_cursor": "x"}
    fake.answers["GET /api/plans?cursor=x"] = {"items": [PLAN | {"name": "b"}], "next_cursor": None}
    plans = client.plans()
    assert fake.asked == []
    assert next(plans).name == "a"
    assert len(fake.asked) == 1
    assert [plan.name for plan in plans] == ["b"]


def test_filters_are_those_that_were_given(fake: FakeServer, client: Client) -> None:
    fake.answers["GET *"] = {"items": [], "next_cursor": None}
    since = datetime(2026, 11, 22, 6, tzinfo=timezone(timedelta(hours=1)))
    list(client.runs(state="failed", labels={"a": "1", "b": "2"}, cids=["x", "y"], since=since, page_size=5))
    asked = "state=failed&label=a%3A1&label=b%3A2&cid=x%2Cy&since=2026-11-22T06%3A00%3A00%2B01%3A00&limit=5"
    assert [one.path for one in fake.asked] == [f"/api/runs?{asked}"]


def test_refusal_has_the_code_and_all_errors(fake: FakeServer, client: Client) -> None:
    errors = [{"path": "/inputs/day", "message": "is required"}]
    fake.answers["POST /api/tasks/run"] = problem(422, "inputs_invalid", "bad inputs", errors=errors, hint="x")
    with pytest.raises(Refused, match="bad inputs") as caught:
        client.run_task("lab", "report", labels={})
    error = caught.value
    assert (error.status, error.code, error.extra, error.retry_after) == (422, "inputs_invalid", {"hint": "x"}, None)
    assert [(e.path, e.message) for e in error.errors] == [("/inputs/day", "is required")]
    assert fake.bodies("/api/tasks/run") == [{"plan_name": "lab", "task_name": "report", "inputs": {}}]


@pytest.mark.parametrize(("said", "seconds"), [("5", 5.0), ("Sun, 22 Nov 2026 05:00:00 GMT", None), ("", None)])
def test_refusal_says_when_to_ask_again(fake: FakeServer, client: Client, said: str, seconds: float | None) -> None:
    fake.answers["GET *"] = problem(429, "queue_full")._replace(headers={"Retry-After": said})
    with pytest.raises(Refused) as caught:
        client.status()
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("answer", "exit_code"),
    [
        pytest.param(problem(401, "unauthorized"), 77, id="no-token"),
        pytest.param(problem(403, "forbidden"), 77, id="scope"),
        pytest.param(problem(404, "unknown_task"), 64, id="unknown"),
        pytest.param(problem(422, "invalid"), 64, id="invalid"),
        pytest.param(problem(409, "refused_by_mode"), 75, id="mode"),
        pytest.param(problem(409, "ended", state="failed"), 1, id="ended"),
        pytest.param(problem(429, "queue_full"), 75, id="full"),
        pytest.param(problem(503, "shutting_down"), 75, id="shutting-down"),
        pytest.param(problem(500, "internal"), 70, id="internal"),
        pytest.param(Answer(502, {"oops": 1}), 70, id="not-aura"),
        pytest.param(Answer(200, [1]), 64, id="not-an-object"),
        pytest.param(Answer(200, {"state": 7}), 64, id="another-shape"),
    ],
)
def test_refusal_has_an_exit_code(fake: FakeServer, client: Client, answer: Answer, exit_code: int) -> None:
    fake.answers["GET *"] = answer
    with pytest.raises(Refused) as caught:
        client.status()
    assert caught.value.exit_code == exit_code


def test_nobody_listens_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with Client(Target(url)) as client, pytest.raises(Unreachable, match="start one with `aura serve`"):
        client.status()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore2 forgets to close its socket
def test_no_socket_file_is_unreachable(tmp_path: Path) -> None:
    target = Target("http://localhost", uds=tmp_path / "none.sock")
    with Client(target) as client, pytest.raises(Unreachable, match="no server answers at unix:"):
        client.status()
    gc.collect()  # so that the warning comes here


def test_loopback_is_asked_without_a_proxy(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    fake.answers["GET *"] = STATUS
    with Client(Target(fake.url)) as client:
        assert client.status().state == "running"


# -- what is asked again ----------------------------------------------------------------------------------------------


def test_read_whose_connection_is_lost_is_asked_again(fake: FakeServer, client: Client) -> None:
    fake.answers["GET *"] = [CUT, CUT, STATUS]
    assert client.status().state == "running"
    assert len(fake.asked) == 3


def test_request_is_asked_again_with_its_key(fake: FakeServer, client: Client) -> None:
    accepted = {"cid": "c", "state": "queued", "plan_name": "lab", "task_name": "report"}
    fake.answers["POST /api/tasks/run"] = [CUT, problem(503, "shutting_down"), Answer(202, accepted)]
    assert client.run_task("lab", "report").cid == "c"
    keys = [asked.headers["Idempotency-Key"] for asked in fake.asked]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_each_request_has_a_key_of_its_own_unless_it_is_given_one(fake: FakeServer, client: Client) -> None:
    fake.answers["POST *"] = Answer(202, {"items": [], "accepted": 0, "refused": 0})
    for key in (None, None, "mine"):
        client.batch([Request("lab", "report")], idempotency_key=key)
    first, second, third = (asked.headers["Idempotency-Key"] for asked in fake.asked)
    assert first != second
    assert third == "mine"


def test_what_is_not_safe_to_repeat_is_asked_once(fake: FakeServer, client: Client) -> None:
    fake.answers["POST *"] = CUT
    with pytest.raises(Unreachable):
        client.start()
    assert len(fake.asked) == 1


def test_server_that_stays_away_is_unreachable_when_patience_is_over(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.0)
    fake.answers["GET *"] = CUT
    with pytest.raises(Unreachable, match="no server answers at"):
        client.status()


def test_refusal_is_not_asked_again(fake: FakeServer, client: Client) -> None:
    fake.answers["GET *"] = [problem(503, "shutting_down"), STATUS]
    with pytest.raises(Refused):
        client.status()
    assert len(fake.asked) == 1


def test_wait_for_the_end_is_asked_of_the_server_in_whole_seconds(fake: FakeServer, client: Client) -> None:
    accepted = {"cid": "c", "state": "queued", "plan_name": "lab", "task_name": "report"}
    fake.answers["POST *"] = Answer(202, accepted)
    answer = client.run_task("lab", "report", wait=0.5)
    assert isinstance(answer, api.Accepted)
    assert fake.asked[0].headers["Prefer"] == "wait=1"


# -- streams ----------------------------------------------------------------------------------------------------------

EVENTS = "GET /api/runs/c/events"


def test_stream_ends_with_the_end(fake: FakeServer, client: Client) -> None:
    end = event(6, "run.failed")
    fake.answers[EVENTS] = stream(": ping\n\n", sse(("", "5", log(5))), sse(("end", "6", end)), hold=True)
    first, last = client.follow_run("c")
    assert isinstance(first, api.LogRecord)
    assert (first.message, first.time.tzinfo) == ("hi", UTC)
    assert isinstance(last, api.EventRecord)
    assert last.name == "run.failed"


def test_stream_that_breaks_goes_on_from_the_last_id(fake: FakeServer, client: Client) -> None:
    cut = stream(sse(("", "5", log(5))))
    starting = problem(503, "shutting_down")
    fake.answers[EVENTS] = [cut, starting, stream(sse(("end", "6", event(6))))]
    assert [ids(record) for record in client.follow_run("c")] == ["5", "6"]
    assert [asked.headers.get("Last-Event-ID") for asked in fake.asked] == [None, "5", "5"]


def ids(record: Record) -> str:
    assert isinstance(record, api.LogRecord | api.EventRecord)
    return record.id


def test_stream_that_breaks_before_its_first_record_misses_nothing_in_silence(fake: FakeServer, client: Client) -> None:
    fake.answers["GET /api/logs/stream"] = [stream(": ping\n\n"), stream(sse(("", "6", log(6))), hold=True)]
    with client.follow_logs() as records:
        assert ids(next(records)) == "6"
    assert [asked.headers.get("Last-Event-ID") for asked in fake.asked] == [None, "0"]


def test_stream_begins_behind_a_record(fake: FakeServer, client: Client) -> None:
    fake.answers[EVENTS] = stream(sse(("end", "6", event(6))))
    assert [ids(record) for record in client.follow_run("c", after="4")] == ["6"]
    assert fake.asked[0].headers["Last-Event-ID"] == "4"


def test_gaps_and_shutdowns_are_records_and_what_is_unknown_is_left_out(fake: FakeServer, client: Client) -> None:
    later = {"kind": "picture", "id": "2"}
    parts = [("gap", "4", {"from": "2", "to": "4"}), ("", "5", later), ("news", "6", {}), ("shutdown", "", {})]
    fake.answers[EVENTS] = [stream(sse(*parts)), stream(sse(("end", "7", event(7) | {"mood": "good"})))]
    gap, shutdown, _ = client.follow_run("c")
    assert gap == api.Gap(first="2", last="4")
    assert shutdown == api.Shutdown()
    assert fake.asked[1].headers["Last-Event-ID"] == "6"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"kind": "log"}, id="members-are-missing"),
        pytest.param([1], id="no-object"),
    ],
)
def test_record_that_cannot_be_read_is_an_error(fake: FakeServer, client: Client, data: Any) -> None:
    fake.answers[EVENTS] = stream(sse(("", "5", data)), hold=True)
    with pytest.raises(Refused, match="cannot be read"):
        next(client.follow_run("c"))


def test_record_that_is_too_large_is_an_error_and_not_asked_for_again(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD", 1000)
    fake.answers[EVENTS] = stream(sse(("", "5", log(5, "x" * 2000))), hold=True)
    with pytest.raises(Refused, match="exceeded the 1000 byte limit"):
        next(client.follow_run("c"))
    assert len(fake.asked) == 1


def test_stream_whose_end_was_seen_before_is_over(fake: FakeServer, client: Client) -> None:
    fake.answers[EVENTS] = Answer(204)
    assert list(client.follow_run("c")) == []


@pytest.mark.parametrize("status", [404, 503])
def test_stream_that_is_refused_at_first_is_an_error(fake: FakeServer, client: Client, status: int) -> None:
    fake.answers[EVENTS] = problem(status, "unknown_run")
    with pytest.raises(Refused):
        list(client.follow_run("c"))


def test_stream_whose_server_stays_away_is_an_error(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.0)
    fake.answers[EVENTS] = [stream(sse(("", "5", log(5)))), problem(503, "shutting_down")]
    records = client.follow_run("c")
    assert ids(next(records)) == "5"
    with pytest.raises(Refused, match="no"):
        next(records)


# -- threads and ends -------------------------------------------------------------------------------------------------


def test_client_may_be_used_from_several_threads(fake: FakeServer, client: Client) -> None:
    fake.answers["GET *"] = STATUS
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda _: client.status().state, range(64)))
    assert states == ["running"] * 64
    assert [thread.name for thread in threading.enumerate()].count("aura-client") == 1


def test_close_ends_the_thread_and_what_others_wait_for(fake: FakeServer) -> None:
    fake.answers[EVENTS] = stream(sse(("", "5", log(5))), hold=True)
    client = Client(Target(fake.url))
    records = client.follow_run("c")
    next(records)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, records)
        client.close()
        with pytest.raises(RuntimeError, match="this client is closed"):
            waiting.result(10)
    assert "aura-client" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.status()


def test_client_that_was_never_used_has_no_thread(fake: FakeServer) -> None:
    with Client(Target(fake.url)):
        assert "aura-client" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.filterwarnings("error")
def test_nothing_is_left_open(fake: FakeServer) -> None:
    fake.answers["GET /api/system/status"] = STATUS
    fake.answers[EVENTS] = stream(sse(("", "5", log(5))), hold=True)
    with Client(Target(fake.url)) as client:
        client.status()
        next(client.follow_run("c"))
    gc.collect()  # so that what is left says so here


def test_ctrl_c_is_heard_at_once_and_ends_the_request(fake: FakeServer) -> None:
    fake.answers["GET *"] = Answer(hold=True)
    code = "import sys; from aura.client import Client, Target; Client(Target(sys.argv[1])).status()"
    with subprocess.Popen([sys.executable, "-c", code, fake.url], stderr=subprocess.PIPE, text=True) as process:
        fake.wait_asked("/api/system/status")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=5)
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_leaves_no_request_behind(fake: FakeServer, client: Client) -> None:
    fake.answers["GET *"] = Answer(hold=True)

    def interrupt() -> None:
        fake.wait_asked("/api/system/status")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    async def others_end() -> None:
        with anyio.fail_after(5):
            while any("_call_func" in repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}):
                await anyio.lowlevel.checkpoint()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        client.status()
    thread.join()
    client._loop.wait(others_end)


def test_every_method_of_the_async_client_is_one_of_the_blocking_client() -> None:
    names = {name for name, _ in inspect.getmembers(AsyncClient, callable) if not name.startswith("_")} - {"aclose"}
    assert names == {name for name, _ in inspect.getmembers(Client, callable) if not name.startswith("_")} - {"close"}
    assert all(getattr(Client, name).__doc__ == getattr(AsyncClient, name).__doc__ for name in names)
