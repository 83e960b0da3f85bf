"""``aura interrupts``, and what the other commands say of interrupts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.commands import Command, commands_in
from tests.fakes.server import Answer, FakeServer, open_fake_server, problem
from tests.unit.test_cli import CID, OTHER, OVERVIEW, PLAN, PREEMPTED, QUEUED, RUN, SHORT, STATUS, WAITING, page
from tests.unit.test_cli import serve_run as follows

AT = "2026-11-22T05:00:00Z"
RULE: dict[str, Any] = {
    "plan_name": "lab", "rule": "low_battery", "task_name": "save",
    "source": {"file": "lab/interrupts.yaml", "line": 2},
    "enabled": True, "switched_by": None, "switched_at": None, "priority": 100, "then": "resume",
    "handler_starts": "after_cleanup", "grace_s": 5.0, "cooldown_s": 30.0, "cooldown_left_s": 12.0, "max_pending": 10,
    "pending": 0,
    "preempts": {"lanes": ["main"], "plans": ["*"], "tasks": ["*"], "labels": {}, "below_priority": 1001},
    "preempts_others": True, "triggers": ["event battery.low"], "while_running": [], "last_fired_at": AT,
    "last_cid": OTHER, "last_victims": [CID], "last_victim_count": 1, "missed": {}, "last_missed": None,
    "suspended": None, "open": [], "polls": [],
}  # fmt: skip
POLL: dict[str, Any] = {
    "action": "lab.look", "every_s": 2.0, "last_at": AT, "last_state": "ok", "error": None, "failures": 0,
    "next_in_s": 1.0,
}  # fmt: skip
FIRED = {"event_id": "7", "started": [], "interrupts": [{"plan_name": "lab", "rule": "low_battery", "cid": OTHER}]}
HOLD: dict[str, Any] = {
    "lane": "main",
    "plans": ["*"],
    "tasks": ["*"],
    "labels": {},
    "below_priority": 1001,
    "queued": 3,
}
DRY: dict[str, Any] = {"victims": [CID], "spared": [OTHER], "holds": [HOLD]}
BY: dict[str, Any] = {"plan_name": "lab", "rule": "low_battery", "cid": OTHER, "at": AT, "cleanup_s": 0.05}
HELD: dict[str, Any] = {
    "kind": "held",
    "names": ["lab/low_battery"],
    "holders": [OTHER],
    "steps": [],
    "waits": [],
    "waits_total": 0,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def fake(run: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        monkeypatch.setenv("AURA_SERVER", fake.url)
        fake.answers["GET /api/interrupts"] = page(RULE)
        fake.answers["POST /api/interrupts/lab/low_battery/fire"] = Answer(202, FIRED)
        yield fake


# -- the rules


@pytest.mark.parametrize("argv", [[], ["list"]], ids=["alone", "list"])
def test_rules_are_listed(run: Command, fake: FakeServer, argv: list[str]) -> None:
    head, line = run("interrupts", *argv).out.splitlines()
    assert head.split()[:5] == ["RULE", "STATE", "TASK", "PRIORITY", "STOPS"]
    assert line.startswith("lab/low_battery  on     save  100       main of *")
    assert line.endswith("12.0 s    event battery.low")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        pytest.param({"enabled": False}, "  off  ", id="off"),
        pytest.param({"enabled": False, "switched_by": "local"}, "  off (by local)  ", id="switched"),
        pytest.param({"suspended": "a circle"}, "  suspended  ", id="suspended"),
        pytest.param({"polls": [POLL]}, "  on     save", id="poll"),
        pytest.param({"polls": [POLL, POLL | {"last_state": "failed"}]}, "  on (poll failed)  ", id="failed-poll"),
        pytest.param(
            {"polls": [POLL | {"last_state": "stuck"}], "switched_by": "local"},
            "  on (by local, poll stuck)  ",
            id="stuck-poll",
        ),
        pytest.param({"polls": [POLL | {"last_state": "failed"}], "enabled": False}, "  off  ", id="poll-of-no-use"),
        pytest.param({"preempts_others": False}, "  main of lab  ", id="own-plan"),
        pytest.param(
            {"last_fired_at": None, "cooldown_left_s": 0.0, "last_victim_count": 0}, "  main of *  ", id="new"
        ),
        pytest.param(
            {"preempts": RULE["preempts"] | {"tasks": ["scan"], "labels": {"a": "b"}, "below_priority": 5}},
            "  main of */scan a=b below 5  ",
            id="narrow",
        ),
    ],
)
def test_row_says_how_a_rule_stands(run: Command, fake: FakeServer, members: dict[str, Any], said: str) -> None:
    fake.answers["GET /api/interrupts"] = page(RULE | members)
    assert said in run("interrupts").out.splitlines()[1]


def test_rule_with_open_firings_says_how_many(run: Command, fake: FakeServer) -> None:
    firing: dict[str, Any] = {"cid": OTHER, "event_id": "7", "at": AT, "state": "running"}
    firing |= {"victims": [CID], "victim_count": 1, "spared": []}
    fake.answers["GET /api/interrupts"] = page(RULE | {"open": [firing, firing]})
    assert "  open (2)  " in run("interrupts").out.splitlines()[1]


def test_rules_as_json(run: Command, fake: FakeServer) -> None:
    assert run("interrupts", "list", "--json").json == {"items": [RULE]}


# -- firing and switching


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param(["-p", "percent=5", "-p", "who=a"], {"payload": {"percent": 5, "who": "a"}}, id="payload"),
    ],
)
def test_fire_says_who_handles_it(run: Command, fake: FakeServer, argv: list[str], body: dict[str, Any]) -> None:
    said = run("interrupts", "fire", "lab/low_battery", *argv)
    assert fake.asked[-1].body == body
    assert said.err == f"event 7 is on record\nit has fired lab/low_battery, handled by run {OTHER}\n"


def test_fire_as_json(run: Command, fake: FakeServer) -> None:
    assert run("interrupts", "fire", "lab/low_battery", "--json").json == FIRED


def test_dry_run_says_who_would_be_stopped(run: Command, fake: FakeServer) -> None:
    fake.answers["POST /api/interrupts/lab/low_battery/fire"] = DRY
    said = run("interrupts", "fire", "lab/low_battery", "--dry-run")
    assert fake.asked[-1].body == {"dry_run": True}
    assert said.err.splitlines() == [
        f"it would stop {CID[-12:]}",
        f"it would spare {OTHER[-12:]}",
        "until it ends nothing would start in lane main that it covers: 3 of that wait now",
    ]
    assert run("interrupts", "fire", "lab/low_battery", "--dry-run", "--json").json == DRY


def test_dry_run_names_the_first_of_many(run: Command, fake: FakeServer) -> None:
    many = {"victims": [f"{n:036}" for n in range(25)], "spared": [], "holds": []}
    fake.answers["POST /api/interrupts/lab/low_battery/fire"] = many
    said = run("interrupts", "fire", "lab/low_battery", "--dry-run")
    assert said.err.endswith(", 000000000019 and 5 more\n")


@pytest.mark.parametrize(("verb", "enabled", "said"), [("enable", True, "on"), ("disable", False, "off")])
def test_switch_says_how_the_rule_stands(run: Command, fake: FakeServer, verb: str, enabled: bool, said: str) -> None:
    fake.answers[f"POST /api/interrupts/lab/low_battery/{verb}"] = RULE | {"enabled": enabled}
    assert run("interrupts", verb, "lab/low_battery").err == f"lab/low_battery is {said}\n"
    assert run("interrupts", verb, "lab/low_battery", "--json").json["enabled"] is enabled


@pytest.mark.parametrize("name", ["lab", "lab/", "/low_battery"])
def test_what_is_no_rule_is_a_mistake(run: Command, fake: FakeServer, name: str) -> None:
    said = run("interrupts", "fire", name)
    assert said.code == 64
    assert f"{name!r} is not PLAN/RULE" in said.err
    assert fake.asked == []


def test_unknown_rule_is_told(run: Command, fake: FakeServer) -> None:
    refused = problem(404, "unknown_rule", "plan lab has no rule 'x'; it has low_battery")
    fake.answers["POST /api/interrupts/lab/x/fire"] = refused
    said = run("interrupts", "fire", "lab/x")
    assert (said.code, said.err) == (64, "aura: plan lab has no rule 'x'; it has low_battery\n")


# -- runs that an interrupt concerns


def test_ps_lists_what_was_stopped_and_who_holds_it(run: Command, fake: FakeServer) -> None:
    stopped = SHORT | {"state": "preempted", "reason": "interrupted by lab/low_battery", "waiting_for": HELD}
    fake.answers |= {"GET /api/runs/active": page(), WAITING: page(), PREEMPTED: page(stopped)}
    line = run("ps").out.splitlines()[1]
    held = f"waits for the end of interrupt lab/low_battery, handled by {OTHER[-12:]}"
    assert line.endswith(f"interrupted by lab/low_battery; {held}")
    assert "  preempted  " in line


def test_show_says_who_stopped_a_run(run: Command, fake: FakeServer) -> None:
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"preempted_by": BY, "preemptions": 2}
    out = run("show", CID).out
    assert f"pre-empted  by lab/low_battery, handled by {OTHER[-12:]}, cleaned up in 0.05 s at " in out
    assert ", 2 times in all\n" in out


def test_show_says_what_a_handler_has_stopped(run: Command, fake: FakeServer) -> None:
    gone = {"cid": OTHER, "outcome": "preempted", "gone_at": AT}
    cleaning = {"cid": CID, "outcome": None, "gone_at": None}
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"victims": [gone, cleaning], "victim_count": 5}
    said = f"stopped     {OTHER[-12:]} (preempted), {CID[-12:]} (cleaning up) and 3 more\n"
    assert said in run("show", CID).out


def test_show_says_whose_clean_up_a_handler_waits_for(run: Command, fake: FakeServer) -> None:
    waits = HELD | {"kind": "cleanup", "names": [], "holders": [CID]}
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"waiting_for": waits}
    assert f"waits for   the clean-up of {CID[-12:]}\n" in run("show", CID).out


def test_show_says_whose_tests_a_run_waits_for(run: Command, fake: FakeServer) -> None:
    waits = HELD | {"kind": "gate", "names": ["lab"], "holders": []}
    fake.answers[f"GET /api/runs/{CID}"] = RUN | {"state": "queued", "waiting_for": waits}
    assert "waits for   the tests of plan lab\n" in run("show", CID).out


def test_queue_says_what_is_held(run: Command, fake: FakeServer) -> None:
    fake.answers["GET /api/queue/overview"] = OVERVIEW
    items = [QUEUED | {"state": "preempted", "waiting_for": HELD}, QUEUED | {"state": "preempted"}, QUEUED]
    fake.answers["GET /api/queue/list?limit=20"] = {"items": items, "next_cursor": None}
    held, resumed, queued = run("queue").out.splitlines()[5:]
    assert held.endswith(f"the end of interrupt lab/low_battery, handled by {OTHER[-12:]}")
    assert resumed.endswith("to go on")
    assert not queued.endswith("to go on")


def test_plans_say_whose_rules_stop_others(run: Command, fake: FakeServer) -> None:
    fake.answers["GET /api/plans"] = page(PLAN | {"preempts_others": True}, PLAN)
    head, yes, no = run("plans").out.splitlines()
    assert head.split() == ["PLAN", "STATUS", "TASKS", "GENERATION", "STOPS", "USES", "TITLE"]
    assert ("others" in yes, "others" in no) == (True, False)


def test_status_names_the_open_firings(run: Command, fake: FakeServer) -> None:
    firing: dict[str, Any] = {"plan_name": "lab", "rule": "low_battery", "cid": OTHER, "state": "cleanup", "since": AT}
    firing |= {"awaited": [CID], "victims": [CID], "victim_count": 1}
    fake.answers["GET /api/system/status"] = STATUS | {"interrupts": {"open": [firing], "open_total": 1}}
    out = run("status").out
    told = f"cleanup, has stopped 1, waits for {CID[-12:]}, handled by {OTHER[-12:]}\n"
    assert "interrupt   lab/low_battery since " in out
    assert told in out


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        pytest.param({"reason": "x", "by": BY}, f"by lab/low_battery, handled by {OTHER[-12:]}, ", id="interrupt"),
        pytest.param({"reason": "lunch"}, "run: lunch", id="pause"),
    ],
)
def test_run_that_is_followed_says_who_stopped_it(
    run: Command, fake: FakeServer, payload: dict[str, Any], said: str
) -> None:
    event: dict[str, Any] = {
        "kind": "event",
        "id": "2",
        "name": "run.preempted",
        "time": AT,
        "payload": payload,
        "plan_name": "lab",
    }
    event |= {"task_name": "report", "cid": CID, "step": None, "cause": None, "root": CID, "depth": 0}
    follows(fake, RUN, event)
    (line,) = [line for line in run("run", "lab/report").err.splitlines() if " preempted " in line]
    assert said in line
