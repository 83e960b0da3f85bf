"""``aura why``: what it asks for, what it shows, and what it says to do."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from tests.fakes.commands import Command, commands_in
from tests.fakes.server import FakeServer, open_fake_server
from tests.unit.test_cli import page

from aura.cli.why import ADVICE
from aura.why import REASONS

LINE: dict[str, Any] = {
    "time": "2026-11-22T05:00:00Z", "reason": "cooldown", "plan_name": "lab", "item": "nightly", "rule": None,
    "task_name": "report", "detail": "its cooldown ends in 3 s", "count": 4, "first_time": "2026-11-22T04:59:58Z",
}  # fmt: skip

#: A time with a zone, as a server in this machine's zone is asked for it.
SINCE = datetime.fromisoformat("2026-11-22T05:00Z").astimezone().isoformat()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def fake(run: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        monkeypatch.setenv("AURA_SERVER", fake.url)
        fake.answers["GET *"] = page(LINE)
        yield fake


def test_lines_are_shown_with_what_to_do(run: Command, fake: FakeServer) -> None:
    told = run("why")
    head, line = told.out.splitlines()
    assert head.split() == ["TIME", "WHAT", "REASON", "TIMES", "WHY"]
    assert line.split()[2:5] == ["lab/nightly", "cooldown", "4"]
    assert line.endswith("its cooldown ends in 3 s")
    assert told.err == f"cooldown: {ADVICE['cooldown']}\n"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        pytest.param({"item": None, "rule": "low"}, "lab/low", id="rule"),
        pytest.param({"item": None}, "lab/report", id="task"),
        pytest.param({"plan_name": None, "item": None, "task_name": None}, "cooldown", id="nothing"),
    ],
)
def test_what_did_not_start_is_named(run: Command, fake: FakeServer, names: dict[str, Any], shown: str) -> None:
    fake.answers["GET *"] = page(LINE | names)
    assert run("why").out.splitlines()[1].split()[2] == shown


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        pytest.param(["lab/nightly"], {"plan_name": "lab", "item": "nightly", "limit": "20"}, id="item"),
        pytest.param(["lab", "--rule", "low"], {"plan_name": "lab", "rule": "low", "limit": "20"}, id="rule"),
        pytest.param(
            ["lab", "--task", "report"], {"plan_name": "lab", "task_name": "report", "limit": "20"}, id="task"
        ),
        pytest.param(["--reason", "mode", "-n", "5"], {"reason": "mode", "limit": "5"}, id="reason"),
        pytest.param(["--all"], {"limit": "1000"}, id="all"),
        pytest.param(["--since", "2026-11-22T05:00Z"], {"since": SINCE, "limit": "20"}, id="since"),
    ],
)
def test_what_is_wanted_is_asked_for(run: Command, fake: FakeServer, argv: list[str], asked: dict[str, str]) -> None:
    assert run("why", *argv).code == 0
    assert query_of(fake) == asked


def query_of(fake: FakeServer) -> dict[str, str]:
    """The query of the last request, which is one for lines."""
    path, _, query = fake.asked[-1].path.partition("?")
    assert path == "/api/why"
    return dict(parse_qsl(query))


@pytest.mark.parametrize(("word", "days"), [("today", 0), ("yesterday", 1)])
def test_day_begins_at_midnight_here(run: Command, fake: FakeServer, word: str, days: int) -> None:
    before = datetime.now().date()
    assert run("why", "--since", word).code == 0
    since = datetime.fromisoformat(query_of(fake)["since"])
    assert (since.hour, since.minute, since.second, since.microsecond) == (0, 0, 0, 0)
    assert since.date() in {before - timedelta(days=days), datetime.now().date() - timedelta(days=days)}


def test_json_is_what_the_server_said(run: Command, fake: FakeServer) -> None:
    assert run("why", "--json").json == {"items": [LINE]}


def test_nothing_is_said_to_be_nothing(run: Command, fake: FakeServer) -> None:
    fake.answers["GET *"] = page()
    told = run("why")
    assert (told.code, told.out, told.err) == (0, "", "nothing is on record that did not start\n")


def test_every_reason_has_advice() -> None:
    assert set(ADVICE) == set(REASONS)
