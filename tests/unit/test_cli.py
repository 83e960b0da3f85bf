"""The commands against a small fake server: what they ask, what they print where, and their exit codes."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any, NamedTuple

import click
import msgspec
import pytest
from tests.fakes.server import Answer, FakeServer, open_fake_server, problem, sse, stream

from aura import __version__
from aura.api import LogRecord
from aura.cli.files import _readable, _save
from aura.cli.inputs import read_input
from aura.cli.main import COMMANDS, aura, main
from aura.cli.output import local_time, log_line, one_line, seconds, took

CID = "0198a1b2-0000-7000-8000-0123456789ab"
OTHER = "0198a1b2-0000-7000-8000-ba9876543210"
RUN: dict[str, Any] = {
    "cid": CID,
    "plan_name": "lab",
    "task_name": "report",
    "generation": "g1",
    "lane": "main",
    "priority": 0,
    "labels": {"team": "ops"},
    "state": "succeeded",
    "reason": None,
    "error": None,
    "cleanup_error": None,
    "attempt": 1,
    "due": None,
    "accepted_at": "2026-11-22T05:00:00Z",
    "not_before": None,
    "started_at": "2026-11-22T05:00:01Z",
    "finished_at": "2026-11-22T05:00:03.500000Z",
    "progress": None,
    "waiting_for": None,
    "parent_cid": None,
    "stuck": False,
    "preempted_by": None,
    "preemptions": 0,
    "cause": {"kind": "cli", "item": None, "rule": None, "event_id": None, "cid": None, "step": None, "index": None},
    "result": {"path": "/x"},
    "inputs": {},
    "steps": [
        {
            "name": "ping",
            "state": "succeeded",
            "attempt": 1,
            "started_at": "2026-11-22T05:00:01Z",
            "finished_at": "2026-11-22T05:00:03.500000Z",
            "duration_s": 2.5,
            "output": None,
            "error": None,
            "skipped_because": None,
            "explained": None,
            "items": None,
            "items_total": None,
            "items_ended": None,
            "items_failed": None,
        }
    ],
    "sub_tasks": [],
    "victims": [],
    "victim_count": 0,
}
WHOLE_ONLY = ("inputs", "result", "steps", "sub_tasks", "victims", "victim_count")
SHORT: dict[str, Any] = {key: value for key, value in RUN.items() if key not in WHOLE_ONLY}
PLAN = {
    "name": "lab",
    "title": "Lab",
    "description": "",
    "status": "ready",
    "generation": "g",
    "task_count": 2,
    "errors": [],
    "testing": None,
    "uses": [],
    "preempts_others": False,
}
STATUS: dict[str, Any] = {
    "state": "running",
    "version": "1",
    "boot": 1,
    "started_at": "2026-11-22T05:00:00Z",
    "uptime_s": 7500.0,
    "lanes": {"main": {"limit": 4, "running": 1, "queued": 7, "stuck": 0}},
    "resources": {"lab/screen": {"capacity": 2, "in_use": 1, "waiting": 3}},
    "plans": {"ready": 2, "stale": 1, "broken": 0},
    "store": {"writable": True, "pending": 0, "commits": 1, "disk_free": 2**30},
    "retention": None,
    "services": {},
    "plan_services": {"open": 0, "stuck": 0},
    "stuck": {"runs": [], "total": 0},
    "loop": {"lag_s": 0.0, "stalled": False, "blocked": []},
    "events": {"subscribers": 0, "on_the_way": 0, "failures": 0, "suspended": []},
    "interrupts": {"open": [], "open_total": 0},
    "schedule": {"items": 0, "enabled": 0, "suspended": 0, "next": None},
    "reasons": [],
}
FAILURE = {
    "type": "OSError",
    "message": "no disk",
    "step": "ping",
    "item": None,
    "file": "a.py",
    "line": 3,
    "cause": None,
}
#: What ``aura ps`` asks beside the runs that run.
WAITING = "GET /api/runs?state=waiting&limit=101"
PREEMPTED = "GET /api/runs?state=preempted&limit=101"
FAILED = RUN | {"state": "failed", "error": FAILURE, "result": None}
ACCEPTED = {"cid": CID, "state": "queued", "plan_name": "lab", "task_name": "report"}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


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


NOBODY = {"plan_name": None, "task_name": None, "cid": None, "step": None}


def event(name: str, step: str | None = None, payload: Any = None) -> dict[str, Any]:
    record = {"kind": "event", "id": "1", "name": name, "time": "2026-11-22T05:00:01Z", "payload": payload}
    return record | NOBODY | {"cause": None, "root": None, "depth": 0, "step": step}


def step(name: str, state: str, payload: Any = None) -> dict[str, Any]:
    return event(f"step.{state}", name, payload)


def log(message: str, **more: Any) -> dict[str, Any]:
    record = {"kind": "log", "id": "1", "time": "2026-11-22T05:00:01Z", "level": "info", "message": message}
    return record | NOBODY | {"step": "ping", "attempt": None, "fields": {}} | more


def end(state: str) -> tuple[str, str, Any]:
    return ("end", "99", event(f"run.{state}"))


def page(*items: Any, next_cursor: str | None = None) -> dict[str, Any]:
    return {"items": list(items), "next_cursor": next_cursor}


def task(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "title": "",
        "description": "",
        "inputs": inputs,
        "lane": "main",
        "priority": 0,
        "mode": "parallel",
        "steps": [],
        "handlers": {},
        "source": {"file": "lab/tasks/x.yaml", "line": 1},
    }


def serve_run(fake: FakeServer, final: dict[str, Any], *records: dict[str, Any]) -> None:
    """Let ``lab/report`` be run: it sends ``records`` and ends as ``final``."""
    fake.answers["POST /api/tasks/run"] = Answer(202, ACCEPTED)
    fake.answers[f"GET /api/runs/{CID}"] = final
    messages = [("", str(number), record) for number, record in enumerate(records, 1)]
    fake.answers[f"GET /api/runs/{CID}/events"] = stream(sse(*messages, end(final["state"])))


# -- the group --------------------------------------------------------------------------------------------------------


def test_version_is_printed(run: Aura) -> None:
    assert run("version").out == f"aura {__version__}\n"
    assert run("version", "--json").json["version"] == __version__


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["rnus"], "No such command 'rnus'. Did you mean", id="command"),
        pytest.param(["runs", "--stat", "x"], "No such option '--stat'. (Did you mean", id="option"),
        pytest.param(["show"], "Missing argument 'CID'", id="missing"),
        pytest.param(["run", "lab"], "'lab' is not PLAN/TASK", id="no-task"),
        pytest.param(["run", "lab/x", "-i", "day"], "'day' is not of the form key=value", id="no-value"),
        pytest.param(["run", "lab/x", "--delay", "5"], "say 5s", id="delay"),
        pytest.param(["run", "lab/x", "--priority", "1001"], "-1000<=x<=1000", id="priority"),
        pytest.param(["stop", "--grace", "soon"], "is not a duration", id="grace"),
        pytest.param(["token", "make"], "No such command 'make'", id="subcommand"),
        pytest.param(["check", "nowhere"], "nowhere cannot be read", id="no-folder"),
        pytest.param(["--config", "none.toml", "ps"], "none.toml: No such file", id="config"),
    ],
)
def test_misuse_is_said_in_a_line(run: Aura, argv: list[str], message: str) -> None:
    outcome = run(*argv)
    assert (outcome.code, outcome.out) == (64, "")
    assert message in outcome.err.splitlines()[0]
    assert "Traceback" not in outcome.err


def test_every_command_has_a_help(run: Aura) -> None:
    for name in COMMANDS:
        assert run(name, "--help").out.startswith(f"Usage: aura {name}")


def test_bad_setting_is_said_in_a_line(run: Aura, tmp_path: Path) -> None:
    (tmp_path / "aura.toml").write_text("[server]\nprot = 1")
    outcome = run("ps")
    assert (outcome.code, "did you mean port?" in outcome.err) == (64, True)


def test_no_server_there_is_69(run: Aura) -> None:
    outcome = run("--server", "http://127.0.0.1:1", "ps")
    assert (outcome.code, "start one with `aura serve`" in outcome.err) == (69, True)


def test_server_option_may_stand_behind_the_command(run: Aura) -> None:
    assert run("ps", "--server", "http://127.0.0.1:1").code == 69


def test_refusal_is_printed_with_each_field(run: Aura, fake: FakeServer) -> None:
    errors = [{"path": "/inputs/day", "message": "is required"}, {"path": "/inputs/n", "message": "\x1b[2Jbad"}]
    fake.answers["POST /api/tasks/run"] = problem(422, "inputs_invalid", "the inputs do not fit", errors=errors)
    outcome = run("run", "lab/report")
    assert outcome.code == 64
    lines = ["aura: the inputs do not fit", "  /inputs/day: is required", "  /inputs/n: \\x1b[2Jbad"]
    assert outcome.err.splitlines() == lines


def test_own_fault_is_70_with_a_traceback(run: Aura, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command
    def ps() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("aura.cli.runs.ps", ps)
    outcome = run("ps")
    assert outcome.code == 70
    assert outcome.err.startswith("Traceback")
    assert outcome.err.endswith("this is a bug in Aura; report it with the lines above\n")


def test_reader_that_goes_away_is_no_error(fake: FakeServer) -> None:
    fake.answers["GET *"] = page(*[SHORT] * 5000)
    command = f"{sys.executable} -c 'import sys; from aura.cli.main import main; sys.exit(main())' ps --json | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


@pytest.mark.parametrize("argv", [["version"], ["--help"], ["ps", "--help"]])
def test_quick_commands_import_nothing_slow(argv: list[str]) -> None:
    slow = ["httpx2", "rich", "hypercorn", "starlette", "jinja2", "structlog", "ruamel.yaml"]
    code = "import sys; from aura.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert not set(slow) & set(done.stdout.splitlines()[-1].split())


# -- run --------------------------------------------------------------------------------------------------------------


def test_run_prints_the_result_alone_on_stdout(run: Aura, fake: FakeServer) -> None:
    serve_run(fake, RUN, step("ping", "started"), log("hello", fields={"ms": 3}), step("ping", "succeeded"))
    outcome = run("run", "lab/report")
    assert (outcome.code, outcome.json) == (0, {"path": "/x"})
    text = re.sub(r"^\d\d:\d\d:\d\d ", "", outcome.err, flags=re.MULTILINE)
    assert text.splitlines() == [
        f"run {CID}",
        "started   ping",
        "info    ping: hello ms=3",
        "succeeded ping",
        "succeeded run",
    ]


def test_run_that_fails_is_1_and_says_why(run: Aura, fake: FakeServer) -> None:
    serve_run(fake, FAILED, step("ping", "failed", {"error": FAILURE}))
    outcome = run("run", "lab/report")
    assert (outcome.code, outcome.out) == (1, "")
    assert "failed    ping: OSError: no disk (a.py:3)" in outcome.err
    assert outcome.err.endswith(
        f"aura: lab/report failed: step ping: OSError: no disk (a.py:3)\nsee: aura show {CID}\n"
    )


def test_run_asks_with_all_options(run: Aura, fake: FakeServer, tmp_path: Path) -> None:
    serve_run(fake, RUN)
    types = {"n": {"type": "integer"}, "hosts": {"type": "array"}, "day": {"type": "string"}}
    fake.answers["GET /api/plans/lab/tasks/a/b"] = task("a/b", {"properties": types | {"free": {}}})
    (tmp_path / "in.json").write_text('{"n": 1, "deep": {"a": null}}')
    options = ["--inputs", "in.json", "--priority", "5", "--lane", "event", "--delay", "1m30s", "--label", "team=ops"]
    given = ["-i", "n=7", "-i", 'hosts=["a"]', "-i", "day=07", "-i", "free=x=1"]
    outcome = run("run", "lab/a/b", *options, *given, "--detach")
    assert (outcome.code, outcome.out) == (0, f"{CID}\n")
    assert fake.bodies("/api/tasks/run") == [
        {
            "plan_name": "lab",
            "task_name": "a/b",
            "inputs": {"n": 7, "deep": {"a": None}, "hosts": ["a"], "day": "07", "free": "x=1"},
            "priority": 5,
            "lane": "event",
            "delay_s": 90.0,
            "labels": {"team": "ops"},
        }
    ]


def test_run_names_itself_as_the_command_line(run: Aura, fake: FakeServer) -> None:
    serve_run(fake, RUN)
    run("run", "lab/report", "--detach")
    assert fake.asked[-1].headers["User-Agent"] == f"aura-cli/{__version__}"


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        pytest.param("7", {"type": "string"}, "7", id="text-stays-text"),
        pytest.param("7", {"type": "integer"}, 7, id="integer"),
        pytest.param("7.5", {"type": "number"}, 7.5, id="number"),
        pytest.param("true", {"type": "boolean"}, True, id="true"),
        pytest.param('{"a": 1}', {"type": "object"}, {"a": 1}, id="object"),
        pytest.param("[1]", {}, [1], id="json-without-a-type"),
        pytest.param("a b", {}, "a b", id="text-without-a-type"),
        pytest.param("", {"type": "string"}, "", id="empty"),
        pytest.param("7.0", {"type": "integer"}, 7.0, id="whole-number"),
        pytest.param("-1e3", {"type": "number"}, -1000.0, id="exponent"),
        pytest.param("7", {"type": ["string", "null"]}, "7", id="text-or-null"),
        pytest.param("null", {"type": ["string", "null"]}, "null", id="text-that-says-null"),
        pytest.param("null", {"type": ["integer", "null"]}, None, id="null"),
        pytest.param("7", {"type": ["integer", "null"]}, 7, id="integer-or-null"),
    ],
)
def test_input_is_read_by_its_type(text: str, schema: dict[str, Any], value: Any) -> None:
    assert read_input(text, schema) == value


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("x", "integer", "'x' is not a whole number"),
        ("1_000", "integer", "'1_000' is not a whole number"),
        ("nan", "number", "'nan' is not a number"),
        ("Infinity", "number", "'Infinity' is not a number"),
        ("1e999", "number", "'1e999' is not a number"),
        ("true", "integer", "'true' is not a whole number"),
        ("null", "integer", "'null' is not a whole number"),
        ("yes", "boolean", "'yes' is not true or false"),
        ("[", "array", "is not a JSON array"),
        ("[1]", "object", "is not a JSON object"),
    ],
)
def test_input_of_another_type_is_refused(text: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_input(text, {"type": kind})


def test_message_of_a_bad_secret_is_without_it() -> None:
    with pytest.raises(ValueError, match=r"^is not a whole number$"):
        read_input("hunter2", {"type": "integer", "writeOnly": True})


def test_all_bad_inputs_are_said_at_once(run: Aura, fake: FakeServer) -> None:
    types = {"n": {"type": "integer"}, "on": {"type": "boolean"}, "day": {"type": "string"}}
    fake.answers["GET /api/plans/lab/tasks/report"] = task("report", {"properties": types, "required": ["day", "n"]})
    outcome = run("run", "lab/report", "-i", "n=x", "-i", "on=yes", "-i", "dya=1")
    assert (outcome.code, outcome.out) == (64, "")
    assert outcome.err.splitlines() == [
        "aura: the inputs do not fit",
        "  /inputs/n: 'x' is not a whole number",
        "  /inputs/on: 'yes' is not true or false",
        "  /inputs/dya: is not an input of the task; did you mean day?",
        "  /inputs/day: is required",
    ]
    assert fake.bodies("/api/tasks/run") == []


@pytest.mark.parametrize("text", ["[1]", "{", "\x00"])
def test_inputs_file_that_is_no_object_is_refused(run: Aura, tmp_path: Path, text: str) -> None:
    (tmp_path / "in.json").write_text(text)
    outcome = run("run", "lab/report", "--inputs", "in.json")
    assert (outcome.code, "in.json:" in outcome.err) == (64, True)


def progress(done: float, total: float, message: str = "") -> tuple[str, str, Any]:
    return ("progress", "", {"step": "ping", "done": done, "total": total, "message": message})


def test_run_shows_progress_by_tenths_without_a_terminal(run: Aura, fake: FakeServer) -> None:
    serve_run(fake, RUN)
    how_far = (progress(1, 40), progress(20, 40, "half"), progress(21, 40))
    told = sse(("", "1", step("ping", "started")), *how_far, end("succeeded"))
    fake.answers[f"GET /api/runs/{CID}/events"] = stream(told)
    lines = [line.split(" ", 1)[1] for line in run("run", "lab/report").err.splitlines()]
    assert [line for line in lines if line.startswith("ping ")] == ["ping 20/40 (50%) half"]


def test_run_whose_server_goes_away_is_69(run: Aura, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.client.connection.PATIENCE", 0.0)
    monkeypatch.setattr("aura.client.connection.FIRST_PAUSE", 0.01)
    serve_run(fake, RUN)
    stopping = stream(sse(("shutdown", "", {})))
    fake.answers[f"GET /api/runs/{CID}/events"] = [stopping, problem(503, "shutting_down", "stopping")]
    outcome = run("run", "lab/report")
    assert outcome.code == 75
    assert "the server is shutting down" in outcome.err


# -- run, as a process ------------------------------------------------------------------------------------------------


COMMAND = [sys.executable, "-c", "import sys; from aura.cli.main import main; sys.exit(main())", "run", "lab/report"]


@contextmanager
def following(fake: FakeServer) -> Iterator["subprocess.Popen[str]"]:
    """``aura run`` as a process of its own, once it has shown the first step; killed if it is there at the end."""
    serve_run(fake, RUN)
    fake.answers[f"POST /api/tasks/{CID}/cancel"] = Answer(202, {"cid": CID, "state": "stopping"})
    held = stream(sse(("", "1", step("ping", "started"))), hold=True)
    fake.answers[f"GET /api/runs/{CID}/events"] = [held, stream(sse(end("cancelled")))]
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"state": "cancelled", "reason": "Ctrl-C"}
    with subprocess.Popen(COMMAND, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            assert process.stderr
            wait_line(process.stderr, "started   ping")
            yield process
        finally:
            process.kill()


def wait_line(file: IO[str], wanted: str) -> None:
    assert any(wanted in line for line in file), f"the end came before {wanted!r}"


def test_ctrl_c_cancels_the_run_and_waits_for_its_end(fake: FakeServer) -> None:
    with following(fake) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr
        wait_line(process.stderr, "cancelling the run")
        fake.wait_asked(f"/api/tasks/{CID}/cancel")
        fake.over.set()
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "aura: lab/report cancelled: Ctrl-C" in err) == (130, True)
    assert fake.bodies(f"/api/tasks/{CID}/cancel") == [{"reason": "Ctrl-C"}]


def test_second_ctrl_c_leaves_at_once(fake: FakeServer) -> None:
    with following(fake) as process:
        process.send_signal(signal.SIGINT)
        fake.wait_asked(f"/api/tasks/{CID}/cancel")
        assert process.stderr
        wait_line(process.stderr, "cancel")  # it goes on following
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    asked = [asked.path for asked in fake.asked]
    assert asked.count(f"/api/runs/{CID}/events") == 1, "it waited for the stream"


def test_progress_is_a_bar_on_a_terminal(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    serve_run(fake, RUN)
    told = (("", "1", step("ping", "started")), ("", "2", log("\x1b]0;x\x07hi")), progress(1, 4, "copying"))
    held = stream(sse(*told), hold=True)
    fake.answers[f"GET /api/runs/{CID}/events"] = [held, stream(sse(end("succeeded")))]
    ours, theirs = pty.openpty()
    with subprocess.Popen(COMMAND, stdout=PIPE, stderr=theirs, text=True) as process, open(ours, "rb", 0) as terminal:
        os.close(theirs)
        seen = read_until(terminal, b"copying")
        fake.over.set()
        seen += read_until(terminal, b"")
        assert (process.wait(30), json.load(process.stdout or sys.stdin)) == (0, RUN["result"])
    assert re.search(rb"ping .* 25% copying", seen)
    assert rb"ping: \x1b]0;x\x07hi" in seen
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", seen), "there must be no colours"


def read_until(terminal: IO[bytes], wanted: bytes) -> bytes:
    """What appears on a terminal up to ``wanted``, or, if that is empty, until its other side is closed."""
    seen = b""
    with suppress(OSError):  # EIO: the other side is closed
        while not wanted or wanted not in seen:
            piece = terminal.read(4096)
            if not piece:
                break
            seen += piece
    return seen


# -- what reads -------------------------------------------------------------------------------------------------------


def test_runs_are_a_table_with_short_ids(run: Aura, fake: FakeServer) -> None:
    filters = "state=failed&plan_name=lab&task_name=report&label=team%3Aops&limit=2"
    short = [SHORT | {"state": "failed", "error": FAILURE}, SHORT, SHORT]
    fake.answers[f"GET /api/runs?{filters}"] = page(*short, next_cursor="x")
    outcome = run("runs", "--state", "failed", "--task", "lab/report", "--label", "team=ops", "-n", "2")
    head, first, *rest = outcome.out.splitlines()
    assert head.split() == ["CID", "TASK", "STATE", "ACCEPTED", "TOOK", "REASON"]
    assert first.startswith("0123456789ab  lab/report  failed     20")
    assert first.endswith("2.5 s  step ping: OSError: no disk (a.py:3)")
    assert len(rest) == 1


@pytest.mark.parametrize(("argv", "count"), [([], 20), (["-n", "3"], 3), (["--all"], 25)], ids=["20", "n", "all"])
def test_runs_are_as_many_as_wanted(run: Aura, fake: FakeServer, argv: list[str], count: int) -> None:
    fake.answers["GET *"] = page(*[SHORT] * 25)
    assert len(run("runs", *argv).out.splitlines()) == 1 + count


@pytest.mark.parametrize(
    ("argv", "path", "answer"),
    [
        pytest.param(["ps"], "/api/runs/active", page(SHORT), id="ps"),
        pytest.param(["runs"], "/api/runs?limit=20", page(SHORT), id="runs"),
        pytest.param(["show", CID], f"/api/runs/{CID}", RUN, id="show"),
        pytest.param(["status"], "/api/system/status", STATUS, id="status"),
        pytest.param(["plans"], "/api/plans", page(PLAN), id="plans"),
        pytest.param(["tasks", "lab"], "/api/plans/lab/tasks", page(), id="tasks"),
    ],
)
def test_json_is_what_the_server_said(run: Aura, fake: FakeServer, argv: list[str], path: str, answer: Any) -> None:
    fake.answers |= {WAITING: page(), PREEMPTED: page(), f"GET {path}": answer}
    outcome = run(*argv, "--json")
    said = {key: value for key, value in answer.items() if key != "next_cursor"}
    assert (outcome.code, outcome.json) == (0, said)


def test_show_tells_the_whole_run(run: Aura, fake: FakeServer) -> None:
    failed_step = RUN["steps"][0] | {"state": "failed", "error": FAILURE}
    fake.answers[f"GET /api/runs/{CID}"] = FAILED | {"steps": [failed_step]}
    out = run("show", CID).out
    facts = dict(line.split(maxsplit=1) for line in out.split("\n\n")[0].splitlines())
    assert (facts["cid"], facts["state"], facts["took"], facts["labels"]) == (CID, "failed", "2.5 s", "team=ops")
    assert facts["error"] == "step ping: OSError: no disk (a.py:3)"
    assert out.splitlines()[-1].split(maxsplit=3)[:3] == ["ping", "failed", "1"]


def test_show_tells_the_sub_tasks_of_a_step_below_it(run: Aura, fake: FakeServer) -> None:
    below = {"cid": "0" * 24 + "abcdef123456", "plan_name": "lab", "task_name": "c", "state": "failed", "step": "ping"}
    sub_tasks = [below | {"index": 3}, below | {"index": None, "state": "running"}]
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"sub_tasks": sub_tasks}
    lines = [line.strip() for line in run("show", CID).out.splitlines()[-2:]]
    assert lines == ["├─ [3] lab/c abcdef123456 failed", "└─ lab/c abcdef123456 running"]


def looped(*failed: int, error_of: int | None = None, **keys: Any) -> dict[str, Any]:
    """A step that loops over ten items, of which these failed."""
    item = {"attempt": 1, "started_at": None, "finished_at": None}
    items = [
        item | {"index": n, "item": f"host{n}", "state": "failed", "error": FAILURE | {"step": None, "item": n}}
        for n in failed
    ]
    error = None if error_of is None else FAILURE | {"item": error_of}
    counts = {"items": items, "items_total": 10, "items_ended": 10, "items_failed": len(failed), "error": error}
    return {**RUN["steps"][0], **counts, **keys}


@pytest.mark.parametrize(
    ("step", "what", "below"),
    [
        pytest.param(looped(), "10/10", [], id="none failed"),
        pytest.param(
            looped(3, 5),
            "10/10, 2 failed",
            ["├─ [3] host3: OSError: no disk (a.py:3)", "└─ [5] host5: OSError: no disk (a.py:3)"],
            id="some failed",
        ),
        pytest.param(
            looped(3, error_of=3), "10/10, 1 failed; OSError: no disk (a.py:3)", [], id="the one that failed the step"
        ),
        pytest.param(
            looped(*range(7)),
            "10/10, 7 failed",
            [f"├─ [{n}] host{n}: OSError: no disk (a.py:3)" for n in range(5)] + ["└─ … and 2 more that failed"],
            id="many failed",
        ),
        pytest.param(looped(finished_at=None, state="running"), "10 so far", [], id="rounds go on"),
    ],
)
def test_show_tells_how_far_a_loop_is_and_what_failed(
    run: Aura, fake: FakeServer, step: dict[str, Any], what: str, below: list[str]
) -> None:
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"steps": [step]}
    line, *found = run("show", CID).out.split("WHAT\n")[1].splitlines()
    assert line.split("2.5 s")[-1].strip() == what
    assert [text.strip() for text in found] == below


def test_ps_lists_sub_tasks_below_their_parents(run: Aura, fake: FakeServer) -> None:
    found = [("d", "c"), ("other", None), ("c", CID), (CID, None)]
    runs = [SHORT | {"cid": cid, "parent_cid": parent, "task_name": cid[-3:]} for cid, parent in found]
    fake.answers |= {WAITING: page(), PREEMPTED: page(), "GET /api/runs/active": page(*runs)}
    tasks = [re.findall(r" ((?:└─ )?lab/\w+)", line)[0] for line in run("ps").out.splitlines()[1:]]
    assert tasks == ["lab/her", f"lab/{CID[-3:]}", "└─ lab/c", "└─ lab/d"]


def test_plans_show_what_is_wrong_on_stderr(run: Aura, fake: FakeServer) -> None:
    error = {"file": "lab/plan.yaml", "line": 3, "column": 1, "message": "unknown key"}
    fake.answers["GET /api/plans"] = page(PLAN | {"status": "stale", "errors": [error]})
    outcome = run("plans")
    assert outcome.out.splitlines()[1].split() == ["lab", "stale", "2", "g", "Lab"]
    assert outcome.err == "lab/plan.yaml:3:1: unknown key\n"


def test_plans_say_whose_tests_are_running(run: Aura, fake: FakeServer) -> None:
    fake.answers["GET /api/plans"] = page(PLAN | {"testing": "3f2a91c04b7d55"})
    said = "lab: the tests of version 3f2a91c04b7d are running; it is served once they pass\n"
    assert run("plans").err == said


def test_reload_waits_for_tests_that_are_running(run: Aura, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.cli.system.LOOK_EVERY", 0.0)
    plan = {"name": "lab", "status": "ready", "generation": "g", "errors": [], "testing": "h"}
    fake.answers["POST /api/system/reload"] = {"plans": [plan]}
    fake.answers["GET /api/plans"] = [page(PLAN | {"testing": "h"}), page(PLAN | {"status": "stale"})]
    assert run("reload").code == 1
    assert [asked.path.partition("?")[0] for asked in fake.asked] == ["/api/system/reload", *["/api/plans"] * 2]


def test_tasks_of_all_plans_are_listed_with_their_inputs(run: Aura, fake: FakeServer) -> None:
    fake.answers["GET /api/plans"] = page(PLAN, PLAN | {"name": "bad", "status": "broken"})
    secret = {"writeOnly": True}
    inputs = {"properties": {"day": {}, "hosts": {}, "key": secret, "pin": secret}, "required": ["day", "key"]}
    fake.answers["GET /api/plans/lab/tasks"] = page(task("a/b", inputs))
    assert run("tasks").out.splitlines()[1].split() == ["lab/a/b", "main", "day", "[hosts]", "key*", "[pin*]"]


def test_status_shows_the_lanes(run: Aura, fake: FakeServer) -> None:
    services = {
        "http": {"state": "running", "failures": 2, "last_error": "OSError: no"},
        "console": {"state": "running", "failures": 0, "last_error": None},
    }
    degraded = STATUS | {"state": "degraded", "reasons": ["slow"], "services": services}
    fake.answers["GET /api/system/status"] = degraded
    out = run("status").out
    for line in ("state       degraded", "up for      2 h 05 min", "plans       2 ready, 1 stale", "reason      slow"):
        assert line in out.splitlines()
    said = [line for line in out.splitlines() if line.startswith("service")]
    assert said == ["service     http is running, has failed 2 times, the last time with OSError: no"]
    assert ["main", "1", "4", "7"] in [line.split() for line in out.splitlines()]
    assert out.splitlines()[-1].split() == ["lab/screen", "1", "2", "3"]


LANE = {
    "lane": "main", "limit": 4, "running": 4, "queued": 3, "delayed": 1, "stuck": 0, "oldest_age_s": 7500.0,
    "wait_p50_s": 0.25, "wait_p95_s": 12.0, "started_per_min": 3.0, "ended_per_min": 2.5,
}  # fmt: skip
KNOWS_NOTHING = dict.fromkeys(("oldest_age_s", "wait_p50_s", "wait_p95_s", "started_per_min", "ended_per_min"))
EVENT = LANE | KNOWS_NOTHING | {"lane": "event", "queued": 0}
OVERVIEW = {"lanes": [LANE, EVENT], "plans": [], "window_s": 60.0}
QUEUED = {
    "cid": CID, "plan_name": "lab", "task_name": "report", "lane": "main", "priority": 5,
    "state": "queued", "accepted_at": "2026-11-22T05:00:00Z", "not_before": None, "waiting_for": None,
}  # fmt: skip


def queue_at(fake: FakeServer, query: str, *items: dict[str, Any]) -> None:
    fake.answers["GET /api/queue/overview"] = OVERVIEW
    fake.answers[f"GET /api/queue/list?{query}"] = {"items": items, "next_cursor": None}


def test_queue_shows_lanes_and_the_order(run: Aura, fake: FakeServer) -> None:
    queue_at(fake, "limit=20", QUEUED, QUEUED | {"cid": OTHER, "priority": 0, "not_before": "2100-01-01T00:00:00Z"})
    found = run("queue")
    lines = [line.split() for line in found.out.splitlines()]
    assert lines[0] == ["LANE", "RUNNING", "LIMIT", "QUEUED", "OLDEST", "P50", "P95", "ENDED/MIN"]
    assert lines[1] == ["main", "4", "4", "3", "2", "h", "05", "min", "0.25", "s", "12.0", "s", "2.5"]
    assert lines[2] == ["event", "4", "4", "0"]
    assert lines[4] == ["#", "CID", "TASK", "LANE", "PRIORITY", "AGE", "NOT", "BEFORE", "WAITS", "FOR"]
    assert lines[5][:5] == ["1", CID[-12:], "lab/report", "main", "5"]
    assert lines[6][:5] == ["2", OTHER[-12:], "lab/report", "main", "0"]
    assert lines[6][-2] == local_time(datetime.fromisoformat("2100-01-01T00:00:00Z")).split()[0]
    assert (found.code, found.err) == (0, "and 1 more\n")


def test_queue_of_one_lane_asks_for_that_lane(run: Aura, fake: FakeServer) -> None:
    queue_at(fake, "lane=event&limit=5")
    found = run("queue", "--lane", "event", "-n", "5")
    assert [line.split()[0] for line in found.out.splitlines()] == ["LANE", "event"]


def test_queue_as_json_has_overview_and_items(run: Aura, fake: FakeServer) -> None:
    queue_at(fake, "limit=20", QUEUED)
    assert run("queue", "--json").json == {"overview": OVERVIEW, "items": [QUEUED]}


def test_queue_names_the_lanes_when_there_is_none_of_that_name(run: Aura, fake: FakeServer) -> None:
    queue_at(fake, "limit=20")
    found = run("queue", "--lane", "fast")
    assert (found.code, found.out) == (64, "")
    assert "there is no lane 'fast'; say main or event" in found.err


# -- naming a run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0123456789ab", "89AB", CID])
def test_run_is_found_by_a_part_of_its_id(run: Aura, fake: FakeServer, text: str) -> None:
    fake.answers["GET /api/runs/active"] = page(SHORT)
    fake.answers["GET /api/runs?limit=1000"] = page(SHORT, SHORT | {"cid": OTHER})
    fake.answers[f"POST /api/tasks/{CID}/cancel"] = Answer(202, {"cid": CID, "state": "stopping"})
    outcome = run("cancel", text, "--reason", "no need")
    assert (outcome.code, outcome.err) == (0, f"{CID} is stopping\n")
    assert fake.bodies(f"/api/tasks/{CID}/cancel") == [{"reason": "no need"}]


def test_last_run_is_found(run: Aura, fake: FakeServer) -> None:
    below = SHORT | {"cid": OTHER, "parent_cid": CID}
    fake.answers["GET /api/runs?limit=20"] = page(below, SHORT, next_cursor="x")
    fake.answers[f"GET /api/runs/{CID}"] = RUN
    assert run("show", "@last", "--json").json == RUN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0198", "'0198' fits 2 runs, such as 0123456789ab, ba9876543210"),
        ("zz", "no run's id begins or ends with 'zz'"),
    ],
)
def test_run_that_is_not_the_only_one_is_refused(run: Aura, fake: FakeServer, text: str, message: str) -> None:
    fake.answers["GET /api/runs/active"] = page()
    fake.answers["GET /api/runs?limit=1000"] = page(SHORT, SHORT | {"cid": OTHER})
    outcome = run("show", text)
    assert (outcome.code, message in outcome.err) == (64, True)


def test_cancel_of_an_ended_run_is_1(run: Aura, fake: FakeServer) -> None:
    fake.answers[f"POST /api/tasks/{CID}/cancel"] = problem(409, "ended", "the run has ended: failed", state="failed")
    outcome = run("cancel", CID)
    assert (outcome.code, outcome.err) == (1, "aura: the run has ended: failed\n")


# -- logs -------------------------------------------------------------------------------------------------------------


def test_logs_of_a_run_are_printed(run: Aura, fake: FakeServer) -> None:
    trace = log("bad", level="error", fields={"n": 1, "exception": "Traceback\n  x"})
    fake.answers[f"GET /api/runs/{CID}/logs?level=info&limit=1000"] = page(log("one"), trace)
    lines = run("logs", CID, "--level", "info").out.splitlines()
    assert [line[9:] for line in lines[:2]] == ["info    ping: one", "error   ping: bad n=1"]
    assert lines[2:] == ["Traceback", "  x"]


def test_logs_of_a_run_are_followed_to_its_end(run: Aura, fake: FakeServer) -> None:
    serve_run(fake, RUN, step("ping", "started"), log("one"), log("two", level="debug"))
    outcome = run("logs", CID, "-f", "--json", "--level", "info")
    assert (outcome.code, outcome.json["message"]) == (0, "one")


def test_logs_of_all_runs_are_followed_and_gaps_are_said(run: Aura, fake: FakeServer) -> None:
    ours = log("one", plan_name="lab", task_name="report", cid=CID)
    records = sse(("gap", "4", {"from": "2", "to": "4"}), ("", "5", ours), ("end", "6", event("run.succeeded")))
    fake.answers["GET /api/logs/stream?level=info"] = stream(records)
    outcome = run("logs", "-f", "--level", "info")
    assert outcome.out[9:] == "info    lab/report ping 0123456789ab: one\n"
    assert outcome.err == "aura: records 2 to 4 are missing here: they came faster than they were read\n"


# -- what steers the server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        pytest.param([], {"mode": "drain"}, id="drain-is-the-default"),
        pytest.param(["--drain"], {"mode": "drain"}, id="drain"),
        pytest.param(["--cancel", "--grace", "2s"], {"mode": "cancel", "grace_s": 2.0}, id="cancel"),
    ],
)
def test_stop_says_that_the_server_still_answers(run: Aura, fake: FakeServer, argv: list[str], body: Any) -> None:
    fake.answers["POST /api/system/stop"] = Answer(202, {"state": "stopping"})
    outcome = run("stop", *argv)
    assert (outcome.code, outcome.out) == (0, "stopping\n")
    assert "the server still answers" in outcome.err
    assert fake.bodies("/api/system/stop") == [body]


def test_start_says_the_state(run: Aura, fake: FakeServer) -> None:
    fake.answers["POST /api/system/start"] = {"state": "running"}
    assert run("start").out == "running\n"
    assert run("start", "--json").json == {"state": "running"}


def test_reload_of_a_broken_plan_is_1(run: Aura, fake: FakeServer) -> None:
    error = {"file": "lab/a.yaml", "line": 1, "column": 2, "message": "bad"}
    plans = [{"name": "lab", "status": "broken", "generation": None, "errors": [error]}]
    fake.answers["POST /api/system/reload"] = {"plans": plans}
    outcome = run("reload")
    assert (outcome.code, outcome.err) == (1, "lab/a.yaml:1:2: bad\n")


def test_token_is_that_of_the_data_folder(run: Aura, tmp_path: Path) -> None:
    outcome = run("token")
    assert (outcome.code, "no server has run with it" in outcome.err) == (69, True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "token").write_text("abc\n")
    assert run("token").out == run("token", "show").out == "abc\n"
    assert run("token", "show", "--json").json == {"token": "abc"}


def test_token_is_sent(run: Aura, fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "token").write_text("abc\n")
    fake.answers["GET *"] = page()
    run("ps")
    assert fake.asked[0].headers["Authorization"] == "Bearer abc"


# -- what is printed --------------------------------------------------------------------------------------------------


def record(message: str) -> LogRecord:
    return msgspec.convert(log(message), LogRecord)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b]0;owned\x07", "\\x1b]0;owned\\x07", id="title"),
        pytest.param("\x1b[31mred\x1b[0m", "red", id="colour"),
        pytest.param("a\nb\tc\rd", "a\\nb c\\x0dd", id="lines"),
        pytest.param("\x9b2J", "\\x9b2J", id="c1"),
        pytest.param("a\u202eb", "a\\x202eb", id="bidi"),
        pytest.param("grün ✓", "grün ✓", id="unicode-stays"),
    ],
)
def test_text_of_the_server_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert log_line(record(text), text).count("\x1b") == log_line(record(""), "").count("\x1b")


def test_json_cannot_steer_the_terminal(run: Aura, fake: FakeServer) -> None:
    name = "\x1b[2J\x9b\u202e\x7fü"
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"task_name": name}
    outcome = run("show", CID, "--json")
    assert outcome.json["task_name"] == name
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", outcome.out)
    assert "ü" in outcome.out


@pytest.mark.parametrize(
    ("number", "text"), [(0.05, "0.05 s"), (12.34, "12.3 s"), (125, "2 min 05 s"), (3900, "1 h 05 min")]
)
def test_durations_are_for_people(number: float, text: str) -> None:
    assert seconds(number) == text


@pytest.mark.parametrize(
    ("begin", "end", "text"),
    [
        pytest.param("2026-11-22T05:00:00Z", "2026-11-22T05:00:01.5Z", "1.5 s", id="ordinary"),
        pytest.param("2026-11-22T05:00:00Z", "2025-11-22T05:00:00Z", "0.00 s", id="set back a year"),
        pytest.param("1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "70389527 h 59 min", id="all of the calendar"),
        pytest.param("2026-11-22T05:00:00Z", None, "", id="not ended"),
    ],
)
def test_time_between_is_never_negative(begin: str, end: str | None, text: str) -> None:
    assert took(datetime.fromisoformat(begin), None if end is None else datetime.fromisoformat(end)) == text


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("stamp", ["1970-01-01T00:00:00Z", "2038-01-19T03:14:08Z", "9999-12-31T23:59:59Z"])
def test_any_time_can_be_shown(stamp: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert local_time(datetime.fromisoformat(stamp))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    context = aura.make_context("aura", ["version"])
    with context:
        aura.invoke(context)
    assert context.color is False


def test_file_that_is_saved_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError("cut off")

    (tmp_path / "x").write_text("former")
    with pytest.raises(OSError, match="cut off"):
        _save(pieces(), tmp_path / "x")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "former")]
    _save([b"wh", b"ole"], tmp_path / "x")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "whole")]
    _save([b"nothing"], Path("/dev/null"))


def test_file_on_a_terminal_cannot_steer_it() -> None:
    pieces = [b"a\xc3", b"\xa4\x1b[2J", b"\x1b]0;title\x07\xff\xc3"]
    assert b"".join(_readable(pieces)).decode() == "aä\\x1b[2J\\x1b]0;title\\x07\ufffd\ufffd"
