"""``aura graph`` in all its forms, and what ``aura show`` and ``aura run`` say of steps that were skipped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.fakes.commands import Command, commands_in
from tests.fakes.server import FakeServer, open_fake_server
from tests.unit.test_cli import CID, RUN, serve_run, step, task

TASK = """\
inputs: {hosts: {type: array, items: string, default: []}}
steps:
  ping:
    action: shell.run
    loop: {for_each: "{{ inputs.hosts }}", parallelism: 3}
    retry: {attempts: 2}
    params: {argv: [ping, "{{ loop.item }}"]}
  tell: {action: log, when: "{{ inputs.hosts != [] }}", depends_on: {ping: failed}, params: {message: x}}
on_cancel: {undo: {action: log, params: {message: undo}}}
"""
EXPLAINED = {
    "because": "when",
    "file": "lab/tasks/t.yaml",
    "line": 8,
    "expression": "{{ inputs.n > 3 }}",
    "values": {"inputs.n": 2},
}
NEEDS = {
    "because": "dependency",
    "file": "lab/tasks/t.yaml",
    "line": 9,
    "step": "b",
    "state": "skipped",
    "wanted": ["succeeded"],
    "root": "a",
    "root_state": "failed",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    (tmp_path / "plans/lab/tasks").mkdir(parents=True)
    (tmp_path / "plans/lab/tasks/t.yaml").write_text(TASK)
    return commands_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def fake(run: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        monkeypatch.setenv("AURA_SERVER", fake.url)
        yield fake


def test_graph_of_files_has_loops_tries_and_conditions(run: Command) -> None:
    assert run("graph", "lab/t", "--plans", "plans").out.splitlines() == [
        "○  ping  shell.run  for each of inputs.hosts, 3 at once; up to 2 tries",
        "│",
        "○  tell  log        if ping failed; when inputs.hosts != []",
        "",
        "on_cancel",
        "○  undo  log",
    ]


@pytest.mark.parametrize(("form", "begin"), [("text", "○  ping"), ("mermaid", "flowchart TD\n"), ("svg", "<svg ")])
def test_output_is_the_same_in_a_file(run: Command, tmp_path: Path, form: str, begin: str) -> None:
    shown = run("graph", "lab/t", "--plans", "plans", "--format", form).out
    assert shown.startswith(begin)
    done = run("graph", "lab/t", "--plans", "plans", "--format", form, "-o", "picture")
    assert (done.code, done.out) == (0, "")
    assert (tmp_path / "picture").read_text(encoding="utf-8") == shown


def test_file_that_cannot_be_written_is_73(run: Command) -> None:
    done = run("graph", "lab/t", "--plans", "plans", "-o", "no/such/folder")
    assert (done.code, "no/such/folder cannot be written: No such file" in done.err) == (73, True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "it takes PLAN/TASK, or --run CID"),
        (["lab/t", "--run", CID], "it takes PLAN/TASK, or --run CID"),
        (["--run", CID, "--plans", "plans"], "--run asks the server, and --plans asks none"),
        (["lab/t", "--format", "png"], "png"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(run: Command, argv: list[str], said: str) -> None:
    done = run("graph", *argv)
    assert (done.code, said in done.err) == (64, True)


def a_run(*steps: dict[str, Any]) -> dict[str, Any]:
    return RUN | {"steps": [RUN["steps"][0] | step for step in steps]}


def test_graph_of_a_run_has_its_states(run: Command, fake: FakeServer) -> None:
    of_plan: dict[str, Any] = {
        "action": "log",
        "depends_on": {},
        "when": None,
        "loop": None,
        "attempts": 1,
        "task": None,
    }
    steps = [of_plan | {"name": "ping"}, of_plan | {"name": "new", "depends_on": {"ping": ["succeeded"]}}]
    fake.answers[f"GET /api/runs/{CID}"] = a_run({"name": "ping", "state": "timed_out"}, {"name": "gone"})
    fake.answers["GET /api/plans/lab/tasks/report"] = task("report", {}) | {"steps": steps}
    assert run("graph", "--run", CID).out.splitlines() == ["○  ping  timed_out  log", "│", "○  new              log"]
    assert "class step_ping timed_out" in run("graph", "--run", CID, "--format", "mermaid").out
    picture = ElementTree.fromstring(run("graph", "--run", CID, "--format", "svg").out)
    assert picture.findtext("{http://www.w3.org/2000/svg}title") == "lab/report"
    assert "step stated timed_out" in {element.get("class") for element in picture.iter()}


def test_show_says_below_a_step_why_it_was_skipped(run: Command, fake: FakeServer) -> None:
    skipped = {
        "state": "skipped",
        "attempt": 0,
        "started_at": None,
        "duration_s": None,
        "skipped_because": "long words",
    }
    fake.answers[f"GET /api/runs/{CID}"] = a_run(
        skipped | {"name": "b", "explained": EXPLAINED},
        skipped | {"name": "c", "explained": NEEDS},
        skipped | {"name": "d", "skipped_because": "c failed"},
    )
    lines = run("show", CID).out.splitlines()
    assert lines[-8:] == [
        "STEP  STATE    TRY  TOOK  WHAT",
        "b     skipped             when is false",
        "  ├─ {{ inputs.n > 3 }} (lab/tasks/t.yaml:8)",
        "  └─ inputs.n = 2",
        "c     skipped             b was skipped",
        "  ├─ wants b succeeded (lab/tasks/t.yaml:9)",
        "  └─ in the end because a failed",
        "d     skipped             c failed",
    ]
    assert run("show", CID, "--json").json["steps"][0]["explained"] == EXPLAINED


def test_run_that_is_followed_says_why_a_step_was_skipped(run: Command, fake: FakeServer) -> None:
    serve_run(fake, RUN, step("b", "skipped", {"because": "when is\x1b[2J false", "explained": EXPLAINED}))
    lines = run("run", "lab/report").err.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if "skipped" in line] == ["skipped   b: when is\\x1b[2J false"]
