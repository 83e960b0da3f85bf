"""Completion: what Tab offers in a shell, and that a server which is not there or not quick offers nothing."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.shell_completion import BashComplete
from tests.fakes.commands import Command, commands_in
from tests.fakes.served import environment
from tests.fakes.server import Answer, FakeServer, open_fake_server

from aura import api
from aura.cli import completing
from aura.cli.completion import VARIABLE
from aura.cli.main import COMMANDS, aura

AURA = Path(sys.executable).with_name("aura")
CID = "0198a1b2-0000-7000-8000-0123456789ab"
TASKS = {"lab": ["a/b", "report"], "late": ["x"], "broken": []}


def plan(name: str) -> dict[str, Any]:
    status = "broken" if name == "broken" else "ready"
    known: dict[str, Any] = {"title": "", "description": "", "generation": None, "errors": [], "uses": []}
    known["preempts_others"] = False
    return {"name": name, "status": status, "task_count": len(TASKS[name]), **known}


def task(name: str) -> dict[str, Any]:
    known: dict[str, Any] = {
        "description": "",
        "inputs": {},
        "lane": "main",
        "priority": 0,
        "mode": "parallel",
        "steps": [],
    }
    return {"name": name, "title": f"Do: {name}", **known, "handlers": {}, "source": {"file": "f", "line": 1}}


def run_short() -> dict[str, Any]:
    """A run as lists have it; what it does not say is null."""
    said: dict[str, Any] = {"cid": CID, "plan_name": "lab", "task_name": "report", "state": "failed", "lane": "main"}
    said |= {"labels": {}, "priority": 0, "attempt": 1, "stuck": False, "preemptions": 0, "cause": {"kind": "api"}}
    said |= {"accepted_at": "2026-11-22T05:00:00Z"}
    return {**dict.fromkeys(field.name for field in msgspec.structs.fields(api.RunShort)), **said}


def page(*items: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(items), "next_cursor": None}


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        fake.answers["GET /api/plans"] = page(*map(plan, TASKS))
        for name, names in TASKS.items():
            fake.answers[f"GET /api/plans/{name}/tasks"] = page(*map(task, names))
        fake.answers["GET /api/runs?limit=50"] = page(run_short())
        yield fake


@pytest.fixture
def offered(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """What is offered for the last of some words; the server has time, since the machine may be busy."""
    monkeypatch.setenv("AURA_SERVER", fake.url)
    monkeypatch.setenv("AURA_DATA", str(tmp_path))
    monkeypatch.setattr(completing, "PATIENCE", 30.0)

    def offered(words: str) -> list[str]:
        _, *before, last = words.split(" ")
        return [item.value for item in BashComplete(aura, {}, "aura", VARIABLE).get_completions(before, last)]

    return offered


Offered = Callable[[str], list[str]]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("aura sta", ["status", "start"]),
        ("aura run --prio", ["--priority"]),
        ("aura run l", ["lab/a/b", "lab/report", "late/x"]),
        ("aura run lab/", ["lab/a/b", "lab/report"]),
        ("aura run la/", []),
        ("aura graph lab/a", ["lab/a/b"]),
        ("aura show ", ["@last", "0123456789ab"]),
        ("aura cancel 0198", [CID]),
        ("aura logs @", ["@last"]),
        ("aura completion z", ["zsh"]),
        ("aura schema ", ["task", "plan", "schedule", "interrupts"]),
    ],
)
def test_what_fits_is_offered(offered: Offered, words: str, found: list[str]) -> None:
    assert sorted(offered(words)) == sorted(found)


def test_server_option_says_who_is_asked(offered: Offered, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_SERVER", "http://127.0.0.1:1")
    assert offered("aura run lab/") == []
    assert offered(f"aura --server {fake.url} run lab/") == ["lab/a/b", "lab/report"]


@pytest.mark.parametrize("answer", [Answer(401, {"code": "unauthorized"}), Answer(200, [1]), {"items": [{}]}])
def test_server_that_answers_oddly_offers_nothing(offered: Offered, fake: FakeServer, answer: object) -> None:
    fake.answers["GET /api/plans"] = answer
    assert offered("aura run l") == []


def test_server_that_is_not_quick_is_not_waited_for(
    offered: Offered, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing, "PATIENCE", 0.05)
    fake.answers["GET /api/plans"] = Answer(hold=True)  # until it is over
    began = time.monotonic()
    assert offered("aura run l") == []
    assert time.monotonic() - began < 8
    fake.over.set()
    for thread in threading.enumerate():
        if thread.name == "completion":
            thread.join(20)


def test_command_ends_while_the_server_still_hangs(fake: FakeServer, tmp_path: Path) -> None:
    fake.answers["GET /api/plans"] = Answer(hold=True)  # ten seconds at most
    ask = {"_AURA_COMPLETE": "bash_complete", "COMP_WORDS": "aura run l", "COMP_CWORD": "2"}
    env = environment({**ask, "AURA_SERVER": fake.url, "AURA_DATA": str(tmp_path)})
    began = time.monotonic()
    done = subprocess.run([AURA], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ((done.stdout + done.stderr).strip(), time.monotonic() - began < 9) == ("", True)


def test_patience_is_short() -> None:
    assert completing.PATIENCE == 0.3


def test_bad_setting_offers_nothing(offered: Offered) -> None:
    assert offered("aura --config /none run l") == []


def test_shell_s_question_is_answered_and_nothing_else_is_printed(tmp_path: Path) -> None:
    ask = {"_AURA_COMPLETE": "bash_complete", "COMP_WORDS": "aura sta", "COMP_CWORD": "1", "AURA_DATA": str(tmp_path)}
    done = subprocess.run([AURA], env=environment(ask), capture_output=True, text=True, timeout=60, check=False)
    assert (sorted(done.stdout.split()), done.stderr) == (["plain,start", "plain,status"], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_names_what_the_command_hears(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Command = commands_in(tmp_path, monkeypatch, capsys)
    found = run("completion", shell)
    assert (found.code, found.err) == (0, "")
    assert f"_AURA_COMPLETE={shell}_complete" in found.out


def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    script = f'source <("{AURA}" completion bash); COMP_WORDS=(aura relo); COMP_CWORD=1; _aura_completion "{AURA}"'
    command = ["bash", "-c", f'PATH="{AURA.parent}:$PATH"; {script}; echo "${{COMPREPLY[@]}}"']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "reload\n"


def test_every_task_and_every_run_that_a_command_asks_for_is_completed() -> None:
    """A new command takes ``shell_complete=complete_cid`` or ``complete_task`` for these arguments."""
    context = click.Context(aura)
    missing = []
    for name in COMMANDS:
        command = aura.get_command(context, name)
        assert command is not None
        wanted = [
            param for param in command.params if param.name in ("cid", "task") and isinstance(param, click.Argument)
        ]
        missing += [f"{name} {param.name}" for param in wanted if param._custom_shell_complete is None]
    assert missing == []
