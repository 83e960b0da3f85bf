"""``aura schedule``, and what the other commands say of schedules."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.commands import Command, commands_in
from tests.fakes.server import Answer, FakeServer, open_fake_server, problem
from tests.unit.test_cli import ACCEPTED, CID, OTHER, RUN, STATUS, page, serve_run

from aura.cli.output import soon

AT = "2026-11-22T05:00:00Z"
TRIGGER: dict[str, Any] = {"kind": "cron", "text": "cron 30 2 * * *", "spec": {"cron": "30 2 * * *"}, "when": None}
ITEM: dict[str, Any] = {
    "plan_name": "lab", "item": "nightly", "task_plan": "lab", "task_name": "report",
    "source": {"file": "lab/schedule.yaml", "line": 2}, "enabled": True, "switched_by": None, "switched_at": None,
    "mode": "single", "cooldown_s": 0.0, "cooldown_left_s": 0.0, "triggers": [TRIGGER], "polls": [], "folders": [],
    "next_due": "2126-11-22T02:30:00Z", "last_due": AT, "last_started_at": AT, "last_cid": OTHER, "missed": {},
    "last_missed": None, "suspended": None, "reason": None,
}  # fmt: skip
SLOTS: list[dict[str, Any]] = [
    {"due": "2027-03-28T01:00:00Z", "local": "2027-03-28T03:00:00+02:00", "dst": "gap"},
    {"due": "2027-03-29T00:30:00Z", "local": "2027-03-29T02:30:00+02:00", "dst": None},
]
PREVIEW = "GET /api/schedule/lab/nightly/preview"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield commands_in(tmp_path, monkeypatch, capsys)
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def fake(run: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        monkeypatch.setenv("AURA_SERVER", fake.url)
        fake.answers["GET /api/schedule"] = page(ITEM)
        fake.answers["GET /api/schedule/lab/nightly"] = ITEM
        fake.answers[PREVIEW] = {"items": SLOTS, "cut": False}
        yield fake


# -- the items


@pytest.mark.parametrize("argv", [[], ["list"]], ids=["alone", "list"])
def test_items_are_listed(run: Command, fake: FakeServer, argv: list[str]) -> None:
    head, line = run("schedule", *argv).out.splitlines()
    assert head.split()[:4] == ["ITEM", "STATE", "TASK", "NEXT"]
    assert line.startswith("lab/nightly  on     report  2126-11-22 02:30  2026-11-22 05:00:00  ")
    assert line.endswith(f"{OTHER[-12:]}  cron 30 2 * * *")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        pytest.param({"enabled": False}, "  off  ", id="off"),
        pytest.param({"enabled": False, "switched_by": "local"}, "  off (by local)  ", id="switched"),
        pytest.param({"suspended": "a circle"}, "  suspended  ", id="suspended"),
        pytest.param({"task_plan": "other"}, "  other/report  ", id="other-plan"),
        pytest.param({"triggers": []}, "  by hand", id="by-hand"),
        pytest.param({"triggers": [TRIGGER, TRIGGER]}, "  cron 30 2 * * *; cron 30 2 * * *", id="two"),
    ],
)
def test_row_says_how_an_item_stands(run: Command, fake: FakeServer, members: dict[str, Any], said: str) -> None:
    fake.answers["GET /api/schedule"] = page(ITEM | members)
    assert said in run("schedule").out.splitlines()[1]


def test_reason_stands_below_its_item(run: Command, fake: FakeServer) -> None:
    fake.answers["GET /api/schedule"] = page(ITEM | {"reason": "it is switched off in its file"}, ITEM)
    assert [line[:11] for line in run("schedule").out.splitlines()[1:]] == ["lab/nightly", "  it is swi", "lab/nightly"]


def test_items_as_json(run: Command, fake: FakeServer) -> None:
    assert run("schedule", "list", "--json").json == {"items": [ITEM]}


@pytest.mark.parametrize(
    ("due", "text"),
    [
        ("2026-11-23T14:30:00Z", "today 14:30"),
        ("2026-11-24T02:30:05Z", "tomorrow 02:30:05"),
        ("2026-11-22T23:00:00Z", "yesterday 23:00"),
        ("2026-11-30T06:00:00Z", "Mon 30 Nov 06:00"),
        ("2028-02-29T06:00:00Z", "2028-02-29 06:00"),
        ("2026-11-01T06:00:00Z", "2026-11-01 06:00"),
    ],
)
@pytest.mark.usefixtures("run")
def test_time_to_come_is_said_as_people_do(due: str, text: str) -> None:
    assert soon(datetime.fromisoformat(due), datetime(2026, 11, 23, 12, tzinfo=UTC)) == text


# -- the preview


def test_preview_marks_the_changes_of_the_clocks(run: Command, fake: FakeServer) -> None:
    lines = run("schedule", "preview", "lab/nightly").out.splitlines()
    assert lines[0].split() == ["DUE", "UTC", "CLOCKS"]
    assert lines[1] == "2027-03-28T03:00:00+02:00  2027-03-28T01:00:00Z  clocks go forward"
    assert lines[2] == "2027-03-29T02:30:00+02:00  2027-03-29T00:30:00Z"
    assert run("schedule", "preview", "lab/nightly", "--json").json == {"items": SLOTS, "cut": False}


def test_preview_that_is_cut_says_so(run: Command, fake: FakeServer) -> None:
    fake.answers[PREVIEW] = {"items": SLOTS, "cut": True}
    assert run("schedule", "preview", "lab/nightly").err == "… and more after these 2: say a later --from\n"


def test_preview_asks_for_a_span(run: Command, fake: FakeServer) -> None:
    span = "from=2027-03-27T00%3A00%3A00%2B00%3A00&to=2027-03-30T00%3A00%3A00%2B02%3A00"
    fake.answers[f"{PREVIEW}?{span}"] = {"items": [], "cut": False}
    argv = ("--from", "2027-03-27", "--to", "2027-03-30T00:00:00+02:00")
    run("schedule", "preview", "lab/nightly", *argv)
    begin, end = [one.partition("=")[2] for one in fake.asked[-1].path.partition("?")[2].split("&")]
    assert begin.startswith("2027-03-27T00")
    assert "2027-03-29T22" in end


def test_preview_takes_a_time_from_now(run: Command, fake: FakeServer) -> None:
    fake.answers["GET *"] = {"items": [], "cut": False}
    before = datetime.now(UTC)
    assert run("schedule", "preview", "lab/nightly", "--to", "30d").code == 0
    asked = fake.asked[-1].path.partition("to=")[2].replace("%3A", ":").replace("%2B", "+")
    assert timedelta(0) <= datetime.fromisoformat(asked) - before - timedelta(days=30) < timedelta(minutes=1)


# -- starting and switching


def test_run_follows_the_run(run: Command, fake: FakeServer) -> None:
    serve_run(fake, RUN | {"result": 7})
    fake.answers["POST /api/schedule/lab/nightly/run"] = Answer(202, ACCEPTED)
    said = run("schedule", "run", "lab/nightly")
    assert (said.code, said.json) == (0, 7)
    asked = next(one for one in fake.asked if one.method == "POST")
    assert asked.body == {"inputs": {}}
    assert asked.headers["Idempotency-Key"]


def test_run_detached_reads_inputs_by_the_types_of_the_task(run: Command, fake: FakeServer) -> None:
    properties = {"day": {"type": "string"}, "n": {"type": "integer"}}
    task = {
        "name": "report", "title": "", "description": "", "lane": "main", "priority": 0, "mode": "parallel",
        "steps": [], "handlers": {}, "source": {"file": "f", "line": 1},
        "inputs": {"type": "object", "properties": properties},
    }  # fmt: skip
    fake.answers["GET /api/plans/lab/tasks/report"] = task
    fake.answers["POST /api/schedule/lab/nightly/run"] = Answer(202, ACCEPTED)
    argv = ("-i", "day=5", "-i", "n=5", "-d", "--idempotency-key", "k")
    assert run("schedule", "run", "lab/nightly", *argv).out == f"{CID}\n"
    assert fake.asked[-1].body == {"inputs": {"day": "5", "n": 5}}
    assert fake.asked[-1].headers["Idempotency-Key"] == "k"


@pytest.mark.parametrize(
    ("verb", "enabled", "said"),
    [("enable", True, "is on; due 2126-11-22 02:30"), ("disable", False, "is off")],
)
def test_switch_says_how_the_item_stands(run: Command, fake: FakeServer, verb: str, enabled: bool, said: str) -> None:
    fake.answers[f"POST /api/schedule/lab/nightly/{verb}"] = ITEM | {"enabled": enabled}
    assert run("schedule", verb, "lab/nightly").err == f"lab/nightly {said}\n"
    assert run("schedule", verb, "lab/nightly", "--json").json["enabled"] is enabled


@pytest.mark.parametrize("verb", ["preview", "run", "enable", "disable"])
@pytest.mark.parametrize("name", ["lab", "lab/", "/nightly"])
def test_what_is_no_item_is_a_mistake(run: Command, fake: FakeServer, verb: str, name: str) -> None:
    said = run("schedule", verb, name)
    assert (said.code, fake.asked) == (64, [])
    assert f"{name!r} is not PLAN/ITEM" in said.err


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        pytest.param(problem(404, "unknown_item", "plan lab has no item 'x'; it has nightly"), 64, id="unknown"),
        pytest.param(problem(409, "refused_by_mode", "it runs already"), 75, id="mode"),
    ],
)
def test_refusal_is_told(run: Command, fake: FakeServer, refused: Answer, code: int) -> None:
    fake.answers["POST /api/schedule/lab/x/run"] = refused
    said = run("schedule", "run", "lab/x")
    assert (said.code, said.err) == (code, f"aura: {refused.body['detail']}\n")


@pytest.mark.parametrize("text", ["soon", "2027-13-01", "5"])
def test_what_is_no_time_is_a_mistake(run: Command, fake: FakeServer, text: str) -> None:
    said = run("schedule", "preview", "lab/nightly", "--from", text)
    assert (said.code, fake.asked) == (64, [])
    assert f"{text!r} is neither a time" in said.err


# -- the status


@pytest.mark.parametrize(
    ("members", "said"),
    [
        pytest.param({}, "schedule    1 item; next lab/nightly 2126-11-22 02:30\n", id="one"),
        pytest.param({"items": 3, "suspended": 1}, "schedule    3 items, 2 off, 1 suspended; next ", id="three"),
        pytest.param({"next": None}, "schedule    1 item\n", id="nothing-to-come"),
    ],
)
def test_status_says_what_is_next(run: Command, fake: FakeServer, members: dict[str, Any], said: str) -> None:
    following = {"plan_name": "lab", "item": "nightly", "due": ITEM["next_due"]}
    schedule = {"items": 1, "enabled": 1, "suspended": 0, "next": following} | members
    fake.answers["GET /api/system/status"] = STATUS | {"schedule": schedule}
    assert said in run("status").out


def test_status_without_items_says_nothing_of_them(run: Command, fake: FakeServer) -> None:
    fake.answers["GET /api/system/status"] = STATUS
    assert "schedule" not in run("status").out
