"""The client: how it finds a server, what it makes of refusals, and streams that go on where they broke."""

import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.server import Answer, FakeServer, open_fake_server, problem, sse, stream

import aura.client
from aura.client import Client, Target, find_target, read_token, request_of
from aura.config import Settings, load_settings
from aura.errors import ExitCode, NotPermitted, Refused, Unreachable


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        yield fake


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(Target(fake.url, "secret")) as client:
        yield client


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
    fake.answers["GET /api/system/status"] = {"state": "running"}
    assert client.status() == {"state": "running"}
    assert fake.asked[0].headers["Authorization"] == "Bearer secret"
    assert fake.asked[0].headers["User-Agent"].startswith("aura-client/")


def test_names_in_paths_are_quoted_but_for_the_slash(fake: FakeServer, client: Client) -> None:
    fake.answers["GET /api/plans/a%20b/tasks/c/d%3F"] = {"name": "c/d?"}
    assert client.task("a b", "c/d?") == {"name": "c/d?"}


def test_lists_are_fetched_page_by_page(fake: FakeServer, client: Client) -> None:
    fake.answers["GET /api/runs?state=failed"] = {"items": [{"cid": "1"}], "next_cursor": "x"}
    fake.answers["GET /api/runs?state=failed&cursor=x"] = {"items": [{"cid": "2"}], "next_cursor": None}
    runs = client.runs(state="failed", plan_name=None)
    assert next(runs)["cid"] == "1"
    assert len(fake.asked) == 1
    assert [run["cid"] for run in runs] == ["2"]


def test_refusal_has_the_code_and_all_errors(fake: FakeServer, client: Client) -> None:
    errors = [{"path": "/inputs/day", "message": "is required"}]
    fake.answers["POST /api/tasks/run"] = problem(422, "inputs_invalid", "bad inputs", errors=errors, hint="x")
    with pytest.raises(Refused, match="bad inputs") as caught:
        client.run_task(request_of("lab", "report", {}, priority=None, labels={}))
    error = caught.value
    assert (error.status, error.code, error.extra) == (422, "inputs_invalid", {"hint": "x"})
    assert [(e.path, e.message) for e in error.errors] == [("/inputs/day", "is required")]
    assert fake.bodies("/api/tasks/run") == [{"plan_name": "lab", "task_name": "report", "inputs": {}}]


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
    fake.answers["GET *"] = {"state": "running"}
    with Client(Target(fake.url)) as client:
        assert client.status()["state"] == "running"


EVENTS = "GET /api/runs/c/events"


def test_stream_ends_with_the_end(fake: FakeServer, client: Client) -> None:
    log = {"kind": "log", "message": "hi"}
    fake.answers[EVENTS] = stream(": ping\n\n", sse(("", "5", log)), sse(("end", "6", {"state": "failed"})), hold=True)
    assert [(m.name, m.id, m.data) for m in client.follow_run("c")] == [
        ("message", "5", log),
        ("end", "6", {"state": "failed"}),
    ]


def test_stream_that_breaks_goes_on_from_the_last_id(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aura.client, "RETRY_DELAY", 0.0)
    cut = stream(sse(("", "5", {"kind": "log"})))
    starting = problem(503, "shutting_down")
    fake.answers[EVENTS] = [cut, starting, stream(sse(("end", "6", {})))]
    assert [m.id for m in client.follow_run("c")] == ["5", "6"]
    assert [asked.headers.get("Last-Event-ID") for asked in fake.asked] == [None, "5", "5"]


def test_stream_whose_end_was_seen_before_is_over(fake: FakeServer, client: Client) -> None:
    fake.answers[EVENTS] = Answer(204)
    assert list(client.follow_run("c")) == []


@pytest.mark.parametrize("status", [404, 503])
def test_stream_that_is_refused_at_first_is_an_error(fake: FakeServer, client: Client, status: int) -> None:
    fake.answers[EVENTS] = problem(status, "unknown_run")
    with pytest.raises(Refused):
        list(client.follow_run("c"))


def test_stream_whose_server_stays_away_is_unreachable(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aura.client, "RETRY_DELAY", 0.0)
    monkeypatch.setattr(aura.client, "PATIENCE", 0.0)
    fake.answers[EVENTS] = [stream(sse(("", "5", {"kind": "log"}))), problem(503, "shutting_down")]
    messages = client.follow_run("c")
    assert next(messages).id == "5"
    with pytest.raises(Refused, match="no"):
        next(messages)
