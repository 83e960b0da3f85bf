"""``aura emit``: what it sends and what it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.commands import Command, commands_in
from tests.fakes.server import Answer, FakeServer, open_fake_server, problem

ANSWER: dict[str, Any] = {"event_id": "7696581394433", "started": ["c1"], "interrupts": []}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def fake(run: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        monkeypatch.setenv("AURA_SERVER", fake.url)
        fake.answers["POST /api/events"] = Answer(202, ANSWER)
        yield fake


@pytest.mark.parametrize(
    ("argv", "payload"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param(["-p", "free=9", "-p", "disk=a"], {"free": 9, "disk": "a"}, id="values"),
        pytest.param(["-p", 'disks=["a"]'], {"disks": ["a"]}, id="json"),
        pytest.param(["-p", "note=@n.txt"], {"note": "hello"}, id="file"),
    ],
)
def test_what_is_sent(run: Command, fake: FakeServer, tmp_path: Path, argv: list[str], payload: Any) -> None:
    (tmp_path / "n.txt").write_text("hello")
    assert run("emit", "disk.full", *argv).code == 0
    assert fake.asked[-1].body == {"name": "disk.full"} | ({} if payload is None else {"payload": payload})


def test_what_is_said(run: Command, fake: FakeServer) -> None:
    said = run("emit", "disk.full")
    assert (said.out, said.err) == ("", "event 7696581394433 is on record\nit has started run c1\n")


def test_json(run: Command, fake: FakeServer) -> None:
    assert json.loads(run("emit", "disk.full", "--json").out) == ANSWER


def test_refusal_is_told_with_its_field(run: Command, fake: FakeServer) -> None:
    errors = [{"path": "/name", "message": "is reserved"}]
    fake.answers["POST /api/events"] = problem(422, "reserved_event", "run.x is Aura's own", errors=errors)
    said = run("emit", "run.x")
    assert said.code == 64
    assert "run.x is Aura's own" in said.err
    assert "/name: is reserved" in said.err
