"""``aura answer``, and what the commands say of a run that waits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.commands import Command, commands_in
from tests.fakes.server import Answer, FakeServer, open_fake_server, problem
from tests.unit.test_cli import CID, OTHER, PREEMPTED, RUN, SHORT, WAITING, page, serve_run, step

from aura.cli import answer, values
from aura.cli.completing import complete_asked, complete_waiting
from aura.cli.main import aura

ASKED = {
    "type": "object",
    "properties": {
        "version": {"type": "string"},
        "note": {"type": ["string", "null"], "default": None},
        "times": {"type": "integer"},
        "hosts": {"type": "array"},
    },
    "required": ["version", "times"],
    "additionalProperties": False,
}
WAIT: dict[str, Any] = {"step": "deploy", "index": None, "kind": "approval", "message": "Go?", "inputs": ASKED}
WAIT |= {"pattern": None, "cid": None, "since": "2026-11-22T05:00:00Z", "until": None}


def waiting(*waits: dict[str, Any], total: int | None = None) -> dict[str, Any]:
    keys = [wait["step"] for wait in waits]
    found = {"kind": waits[0]["kind"], "names": [], "holders": [], "steps": keys, "waits": list(waits)}
    return {"state": "waiting", "finished_at": None, "waiting_for": found | {"waits_total": total or len(waits)}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def fake(run: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        monkeypatch.setenv("AURA_SERVER", fake.url)
        fake.answers[f"GET /api/runs/{CID}"] = RUN | waiting(WAIT, WAIT | {"index": 2})
        fake.answers[f"POST /api/tasks/{CID}/answer"] = Answer(202, {"cid": CID, "state": "waiting"})
        yield fake


# -- answering


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        pytest.param(["deploy"], {"approved": True, "values": {}}, id="yes"),
        pytest.param(["deploy", "--no"], {"approved": False, "values": {}}, id="no"),
        pytest.param(["deploy[2]"], {"approved": True, "values": {}, "index": 2}, id="item"),
        pytest.param(["deploy", "--index", "0", "--no"], {"approved": False, "values": {}, "index": 0}, id="index"),
        pytest.param(["deploy[2]", "--index", "2"], {"approved": True, "values": {}, "index": 2}, id="item-twice"),
        pytest.param(
            ["deploy", "-p", "times=3", "-p", "hosts=[1]"],
            {"approved": True, "values": {"times": 3, "hosts": [1]}},
            id="json",
        ),
        pytest.param(["deploy", "-p", "version=5"], {"approved": True, "values": {"version": "5"}}, id="text-is-asked"),
        pytest.param(["deploy", "-p", 'version="5"'], {"approved": True, "values": {"version": "5"}}, id="quoted"),
        pytest.param(["deploy", "-p", "version=v5"], {"approved": True, "values": {"version": "v5"}}, id="text"),
        pytest.param(["deploy", "-p", "note=null"], {"approved": True, "values": {"note": None}}, id="null"),
        pytest.param(["deploy", "-p", "other=5"], {"approved": True, "values": {"other": 5}}, id="not-asked-for"),
        pytest.param(["deploy", "-p", "times=x"], {"approved": True, "values": {"times": "x"}}, id="does-not-fit"),
        pytest.param(["deploy", "-p", "version=@v.txt"], {"approved": True, "values": {"version": "12"}}, id="file"),
        pytest.param(["deploy", "-p", "times=@v.txt"], {"approved": True, "values": {"times": 12}}, id="file-of-json"),
        pytest.param(
            ["deploy[2]", "-p", "version=1"],
            {"approved": True, "values": {"version": "1"}, "index": 2},
            id="text-is-asked-of-an-item",
        ),
        pytest.param(["other", "-p", "version=1"], {"approved": True, "values": {"version": 1}}, id="asks-nothing"),
    ],
)
def test_answer_is_sent(run: Command, fake: FakeServer, tmp_path: Path, argv: list[str], body: dict[str, Any]) -> None:
    (tmp_path / "v.txt").write_text("12")
    outcome = run("answer", CID, *argv)
    said = "yes" if body["approved"] else "no"
    assert (outcome.code, outcome.out, outcome.err) == (0, "", f"{CID} has its {said} and is waiting\n")
    assert fake.bodies(f"/api/tasks/{CID}/answer") == [{"step": argv[0].partition("[")[0], **body}]


def test_answer_as_json_is_the_servers(run: Command, fake: FakeServer) -> None:
    assert run("answer", CID, "deploy", "--json").json == {"cid": CID, "state": "waiting"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["deploy[x]"], "'deploy[x]' is not STEP or STEP[INDEX]", id="index-is-text"),
        pytest.param([""], "'' is not STEP", id="no-step"),
        pytest.param(["deploy[1]", "--index", "2"], "--index 2 is not deploy[1]", id="two-items"),
        pytest.param(["deploy", "--no", "-p", "a=1"], "-p goes with a yes", id="no-with-values"),
        pytest.param(["deploy", "-p", "a"], "'a' is not of the form key=value", id="no-value"),
        pytest.param(["deploy", "-p", "version=@gone"], "gone: No such file", id="no-file"),
        pytest.param(["deploy", "-p", "version=@big"], "big: it is larger than 1024 KiB", id="large-file"),
        pytest.param(["deploy", "-p", "version=@raw"], "raw: 'utf-8' codec can't decode", id="no-text"),
    ],
)
def test_misuse_is_said_and_nothing_sent(
    run: Command, fake: FakeServer, tmp_path: Path, argv: list[str], message: str
) -> None:
    (tmp_path / "big").write_bytes(b"x" * (values.MAX_FILE + 1))
    (tmp_path / "raw").write_bytes(b"\xff")
    outcome = run("answer", CID, *argv)
    assert (outcome.code, outcome.out) == (64, "")
    assert message in outcome.err
    assert not fake.bodies(f"/api/tasks/{CID}/answer")


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(409, "answered", 1), (409, "ended", 1), (409, "not_waiting", 75), (422, "inputs_invalid", 64)],
)
def test_refusal_says_why(run: Command, fake: FakeServer, status: int, code: str, exit_code: int) -> None:
    fake.answers[f"POST /api/tasks/{CID}/answer"] = problem(status, code, "step deploy waits for no answer")
    outcome = run("answer", CID, "deploy")
    assert (outcome.code, outcome.err) == (exit_code, "aura: step deploy waits for no answer\n")


# -- showing


def lines_of(text: str, word: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if word in line]


def test_show_tells_what_the_steps_wait_for_and_how_to_answer(run: Command, fake: FakeServer) -> None:
    event = WAIT | {"step": "ping", "kind": "event", "pattern": "disk.*", "until": "2026-11-22T06:00:00Z"}
    found = RUN | waiting(WAIT, WAIT | {"index": 2, "inputs": {}}, event) | {"result": None}
    fake.answers[f"GET /api/runs/{CID}"] = found
    out = run("show", CID).out
    assert lines_of(out, "waits for") == [
        "waits for   an answer: Go? (step deploy) and 2 more",
        "└─ waits for the event disk.* until " + lines_of(out, "until")[0].split("until ")[1],
    ]
    assert lines_of(out, "to answer") == [
        f"to answer   aura answer {CID} deploy -p version=… -p times=…",
        f"to answer   aura answer {CID} 'deploy[2]'",
    ]


def test_items_that_wait_are_told_the_first_few_of_them(run: Command, fake: FakeServer) -> None:
    of_item = {"step": "ping", "kind": "sleep"}
    found = RUN | waiting(*[WAIT | of_item | {"index": index} for index in range(7)])
    fake.answers[f"GET /api/runs/{CID}"] = found
    out = run("show", CID).out
    assert lines_of(out, "] waits for")[-1] == "├─ [4] waits for the end of its sleep"
    assert out.splitlines()[-1].strip() == "└─ … and 2 more that wait"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({}, "an answer: Go? (step deploy)"),
        ({"kind": "event", "pattern": "a.**"}, "the event a.** (step deploy)"),
        ({"kind": "task", "cid": OTHER, "index": 1}, f"its sub-task {OTHER[-12:]}, which waits (step deploy[1])"),
        ({"kind": "sleep"}, "the end of its sleep (step deploy)"),
        ({"kind": "retry"}, "its next try (step deploy)"),
        ({"kind": "round"}, "its next round (step deploy)"),
    ],
    ids=["approval", "event", "task", "sleep", "retry", "round"],
)
def test_lists_tell_what_runs_wait_for(run: Command, fake: FakeServer, members: dict[str, Any], text: str) -> None:
    found = page(SHORT | waiting(WAIT | members))
    fake.answers |= {"GET /api/runs?limit=20": found, "GET /api/runs/active": page()}
    fake.answers |= {WAITING: found, PREEMPTED: page()}
    assert run("runs").out.splitlines()[1].endswith(text)
    assert run("ps").out.splitlines()[1].endswith(f"waits for {text}")


def test_ps_lists_a_run_once_and_says_that_there_are_more(run: Command, fake: FakeServer) -> None:
    many = [SHORT | waiting(WAIT) | {"cid": f"{number:036}"} for number in range(101)]
    fake.answers["GET /api/runs/active"] = page(many[0])
    fake.answers |= {WAITING: page(*many), PREEMPTED: page()}
    outcome = run("ps")
    assert len(outcome.out.splitlines()) == 1 + 100
    assert outcome.err == "… and more: aura runs --state waiting --all\n"


def told(**payload: Any) -> dict[str, Any]:
    return step("deploy", "waiting") | {"payload": payload}


def test_run_that_is_followed_says_once_how_to_answer(run: Command, fake: FakeServer) -> None:
    serve_run(fake, RUN, told(kind="approval", message="Go?\x1b[2J", inputs=ASKED, item=3))
    err = run("run", "lab/report").err
    assert lines_of(err, "Go?")[0].endswith("waiting   deploy: for an answer: Go?\\x1b[2J")
    answers = f"aura answer {CID} 'deploy[3]'"
    assert lines_of(err, "aura:") == [f"aura: to say yes: {answers} -p version=… -p times=…; to say no: {answers} --no"]


def test_run_that_is_followed_says_how_to_answer_its_sub_task(run: Command, fake: FakeServer) -> None:
    fake.answers[f"GET /api/runs/{OTHER}"] = RUN | waiting(WAIT | {"inputs": None}) | {"cid": OTHER}
    serve_run(fake, RUN, told(kind="task", cid=OTHER))
    err, answers = run("run", "lab/report").err, f"aura answer {OTHER} deploy"
    assert lines_of(err, "aura:") == [f"aura: to say yes: {answers}; to say no: {answers} --no"]


def test_run_that_is_followed_says_until_when_it_waits(run: Command, fake: FakeServer) -> None:
    serve_run(fake, RUN, told(kind="event", pattern="x", until="2026-11-22T06:00:00Z"))
    err = run("run", "lab/report").err
    assert "waiting   deploy: for the event x until 2026-11-2" in err
    assert not lines_of(err, "aura:")


# -- completing


def completed(complete: Any, incomplete: str, **params: str) -> list[str]:
    with aura.make_context("aura", ["version"]) as context:
        context.params |= params
        return [item.value for item in complete(context, answer.answer.params[0], incomplete)]


def test_completion_offers_runs_and_steps_that_ask(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.cli.completing.PATIENCE", 20.0)
    asking, asleep = SHORT | waiting(WAIT), SHORT | waiting(WAIT | {"kind": "sleep"}) | {"cid": OTHER}
    fake.answers["GET /api/runs?state=waiting&limit=50"] = page(asking, asleep)
    fake.answers["GET /api/runs/active"] = page()
    assert completed(complete_waiting, "") == [CID[-12:]]
    assert completed(complete_asked, "", cid=CID) == ["deploy", "deploy[2]"]
    assert completed(complete_asked, "deploy[", cid=CID) == ["deploy[2]"]
    assert completed(complete_asked, "x", cid=CID) == []
