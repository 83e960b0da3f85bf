"""The commands that steer runs, what every command does when something is wrong, and what none of them imports."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.fakes.server import Answer, FakeServer, open_fake_server, problem

from aura.cli.main import COMMANDS, main

CID = "0198a1b2-0000-7000-8000-0123456789ab"
ACCEPTED = {"cid": CID, "state": "queued", "plan_name": "lab", "task_name": "report"}
EMPTY: dict[str, Any] = {"items": [], "next_cursor": None}
OVERVIEW: dict[str, Any] = {"lanes": [], "plans": [], "window_s": 60.0}
COMMAND = "import sys; from aura.cli.main import main; sys.exit(main())"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Aura = Callable[..., Outcome]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in [name for name in os.environ if name.startswith("AURA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AURA_DATA", str(tmp_path / "data"))
    with open_fake_server() as fake:
        monkeypatch.setenv("AURA_SERVER", fake.url)
        yield fake


@pytest.fixture
def run(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> Aura:
    def run(*argv: str) -> Outcome:
        code = main(argv)
        return Outcome(code, *capsys.readouterr())

    return run


# -- steering ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "path", "body", "state"),
    [
        pytest.param(["pause", CID], "pause", {}, "stopping", id="pause"),
        pytest.param(["pause", CID, "--reason", "later"], "pause", {"reason": "later"}, "preempted", id="with-reason"),
        pytest.param(["resume", CID], "resume", None, "preempted", id="resume"),
    ],
)
def test_run_is_paused_and_resumed(
    run: Aura, fake: FakeServer, argv: list[str], path: str, body: Any, state: str
) -> None:
    answer = {"cid": CID, "state": state}
    fake.answers[f"POST /api/tasks/{CID}/{path}"] = Answer(202, answer)
    assert run(*argv) == (0, "", f"{CID} is {state}\n")
    assert fake.bodies(f"/api/tasks/{CID}/{path}") == [body]
    assert json.loads(run(*argv, "--json").out) == answer


@pytest.mark.parametrize("number", ["7", "-7", "0"])
def test_priority_is_changed(run: Aura, fake: FakeServer, number: str) -> None:
    answer = {"cid": CID, "priority": int(number), "state": "queued"}
    fake.answers[f"PATCH /api/tasks/{CID}/priority"] = answer
    assert run("priority", CID, number) == (0, "", f"{CID} has priority {number} and is queued\n")
    assert fake.bodies(f"/api/tasks/{CID}/priority") == [{"priority": int(number)}]
    assert json.loads(run("priority", CID, number, "--json").out) == answer


def test_rerun_prints_the_new_run(run: Aura, fake: FakeServer) -> None:
    fake.answers[f"POST /api/tasks/{CID}/rerun"] = Answer(202, ACCEPTED | {"cid": "new"})
    assert run("rerun", CID, "--from", "ping") == (0, "new\n", "")
    assert fake.bodies(f"/api/tasks/{CID}/rerun") == [{"from_step": "ping"}]
    assert json.loads(run("rerun", CID, "--json").out)["cid"] == "new"


def test_runs_that_fit_are_cancelled_and_counted(run: Aura, fake: FakeServer) -> None:
    fake.answers["POST /api/tasks/cancel"] = Answer(202, {"cancelled": ["a", "b"]})
    filters = ["--state", "queued", "--task", "lab/a/b", "--label", "team=ops", "--label", "n=1", "--lane", "main"]
    assert run("cancel", *filters) == (0, "a\nb\n", "2 runs told to cancel\n")
    body = {"state": "queued", "plan_name": "lab", "task_name": "a/b", "lane": "main"}
    assert fake.bodies("/api/tasks/cancel") == [body | {"labels": {"team": "ops", "n": "1"}}]


@pytest.mark.parametrize(
    ("cids", "said"), [([], "no runs told to cancel\n"), (["a"], "1 run told to cancel\n")], ids=["none", "one"]
)
def test_number_of_cancelled_runs_is_said(run: Aura, fake: FakeServer, cids: list[str], said: str) -> None:
    fake.answers["POST /api/tasks/cancel"] = Answer(202, {"cancelled": cids})
    assert run("cancel", "--task", "lab").err == said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["cancel"], "say which", id="cancel-nothing"),
        pytest.param(["cancel", CID, "--state", "queued"], "say which", id="cancel-both"),
        pytest.param(["cancel", "--state", "gone"], "'gone' is not one of 'queued', 'running'", id="cancel-state"),
        pytest.param(["runs", "--state", "gone"], "'gone' is not one of 'queued', 'running'", id="runs-state"),
        pytest.param(["cancel", "--state", "queued", "--reason", "x"], "--reason goes with a CID", id="cancel-reason"),
        pytest.param(["cancel", "--label", "team"], "'team' is not of the form key=value", id="label"),
        pytest.param(["priority", CID, "1001"], "-1000<=x<=1000", id="priority"),
        pytest.param(["runs", "--since", "soon"], "'soon' is neither a time", id="since"),
        pytest.param(["logs", "--task", "lab"], "--task goes with -f", id="logs-task"),
    ],
)
def test_misuse_is_said_in_a_line(run: Aura, fake: FakeServer, argv: list[str], message: str) -> None:
    outcome = run(*argv)
    assert (outcome.code, outcome.out) == (64, "")
    assert message in outcome.err.splitlines()[0]
    assert fake.asked == []


# -- lists ------------------------------------------------------------------------------------------------------------


def asked_for_runs(fake: FakeServer) -> dict[str, list[str]]:
    return parse_qs(urlsplit(fake.asked[-1].path).query)


def test_runs_are_asked_for_by_every_filter(run: Aura, fake: FakeServer) -> None:
    fake.answers["GET *"] = EMPTY
    times = ["--since", "2026-11-22T05:00Z", "--until", "2026-11-22T06:00:00+01:00"]
    run("runs", "--lane", "event", "--label", "a=1", "--label", "b=2", *times)
    asked = asked_for_runs(fake)
    since, until = (datetime.fromisoformat(asked.pop(name)[0]) for name in ("since", "until"))
    assert since == until == datetime(2026, 11, 22, 5, tzinfo=UTC)
    assert asked == {"lane": ["event"], "label": ["a:1", "b:2"], "limit": ["20"]}


def test_since_may_be_so_long_ago(run: Aura, fake: FakeServer) -> None:
    fake.answers["GET *"] = EMPTY
    run("runs", "--since", "2h")
    since = datetime.fromisoformat(asked_for_runs(fake)["since"][0])
    assert timedelta(hours=2) <= datetime.now(UTC) - since < timedelta(hours=2, minutes=5)


@pytest.mark.parametrize(("argv", "limit"), [(["-n", "5"], "5"), (["-n", "5000"], "1000"), (["--all"], "1000")])
def test_runs_are_asked_for_in_pages(run: Aura, fake: FakeServer, argv: list[str], limit: str) -> None:
    fake.answers["GET *"] = [EMPTY | {"next_cursor": "x"}, EMPTY]
    run("runs", *argv)
    assert [parse_qs(urlsplit(one.path).query).get("cursor") for one in fake.asked] == [None, ["x"]]
    assert asked_for_runs(fake)["limit"] == [limit]


# -- what goes wrong, over all commands -------------------------------------------------------------------------------

#: Commands that ask a server, each as it would be typed.
ASKING: dict[str, list[str]] = {
    "run": ["lab/report"],
    "ps": [],
    "runs": [],
    "show": [CID],
    "logs": [CID],
    "cancel": [CID],
    "pause": [CID],
    "resume": [CID],
    "priority": [CID, "1"],
    "rerun": [CID],
    "answer": [CID, "deploy"],
    "emit": ["door.opened"],
    "interrupts": [],
    "schedule": [],
    "why": [],
    "queue": [],
    "files": [CID],
    "plans": [],
    "tasks": ["lab"],
    "actions": [],
    "graph": ["lab/report"],
    "status": [],
    "start": [],
    "stop": [],
    "reload": [],
    "open": [],
}
#: Those that ask none, or have a word of their own for it.
NOT_ASKING = {"serve", "init", "check", "test", "token", "doctor", "backup", "schema", "completion", "version"}
SITUATIONS = {
    "no token": (problem(401, "unauthorized", "say a token"), 77, "aura: say a token"),
    "not allowed": (problem(403, "forbidden", "the token may not"), 77, "aura: the token may not"),
    "unknown": (problem(404, "unknown_task", "no such task; did you mean report?"), 64, "did you mean report?"),
    "invalid": (problem(422, "invalid", "bad", errors=[{"path": "/x", "message": "is bad"}]), 64, "  /x: is bad"),
    "refused": (problem(409, "conflict", "not now"), 75, "aura: not now"),
    "full": (problem(429, "queue_full", "full"), 75, "aura: full"),
    "stopping": (problem(503, "shutting_down", "bye"), 75, "aura: bye"),
    "its fault": (problem(500, "internal", "oops"), 70, "aura: oops"),
    "not Aura's": (Answer(200, "<html>", content_type="text/html"), 64, "is this address an Aura server's?"),
}


def test_table_has_every_command() -> None:
    assert set(ASKING) | NOT_ASKING == set(COMMANDS)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("command", ASKING)
def test_refusal_is_a_line_and_an_exit_code(run: Aura, fake: FakeServer, command: str, situation: str) -> None:
    answer, code, said = SITUATIONS[situation]
    fake.answers = {"GET *": answer, "POST *": answer, "PATCH *": answer}
    outcome = run(command, *ASKING[command])
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", ASKING)
def test_no_server_there_is_69(run: Aura, command: str) -> None:
    outcome = run("--server", "http://127.0.0.1:1", command, *ASKING[command])
    assert (outcome.code, outcome.out) == (69, "")
    assert "(Connection refused); start one with `aura serve`" in outcome.err


# -- what is not imported ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["status"], ["runs"], ["show", CID], ["logs", CID], ["queue"]], ids=lambda a: a[0])
def test_commands_that_show_nothing_live_do_not_import_rich(fake: FakeServer, argv: list[str]) -> None:
    fake.answers["GET *"] = EMPTY
    fake.answers["GET /api/queue/overview"] = OVERVIEW
    code = "import sys; from aura.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True, timeout=60)
    assert {"rich", "hypercorn", "starlette", "jinja2", "aura.engine.engine"} & set(done.stdout.split()) == set()


def test_reader_of_a_followed_log_that_goes_away_is_no_error(fake: FakeServer) -> None:
    record = {"kind": "log", "id": "1", "time": "2026-11-22T05:00:01Z", "level": "info", "message": "x" * 1000}
    whose: dict[str, Any] = dict.fromkeys(("plan_name", "task_name", "cid", "step", "attempt"))
    text = json.dumps(record | whose | {"fields": {}})
    fake.answers["GET /api/logs/stream"] = Answer(
        stream=(f"id: 1\ndata: {text}\n\n" * 2000,), content_type="text/event-stream", hold=True
    )
    command = f"{sys.executable} -c '{COMMAND}' logs -f | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
