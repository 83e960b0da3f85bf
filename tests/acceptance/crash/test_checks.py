"""Each check of the crash tests finds what it is for."""

from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
from tests.acceptance.crash.checks import CHECKS, problems
from tests.acceptance.crash.clients import Client
from tests.acceptance.crash.door import Where
from tests.acceptance.crash.evidence import Emitted, Evidence, Fired, Missed, Run, Step
from tests.acceptance.crash.journal import Note
from tests.acceptance.crash.mix import TIMED, Count, Mark

DONE = Step("a", "succeeded", starts=1, started_at=10.0, finished_at=12.0)
TOLD = ("run.accepted", "run.started", "run.succeeded")
RUN = Run("c1", "slow", "succeeded", None, "fail", False, "0-1", TOLD, (DONE,))
SENT, ACCEPTED = Note("sent", "0-1", "slow"), Note("told", "0-1", "slow", 202, "c1")
MARK = Mark("c1", "a", 1, 7, 11.0)
#: Each item has missed a slot, and had no other.
MISSED = tuple(Missed(item, "misfire", 1, 101.0, 101.0) for item in TIMED)
GOOD = Evidence(
    runs={"c1": RUN},
    notes=(SENT, ACCEPTED),
    marks=(MARK,),
    files=("aura.db", "aura.lock", "token"),
    missed=MISSED,
    anchors=dict.fromkeys(TIMED, 100.0),
)


def run(**changes: Any) -> dict[str, Any]:
    """The evidence with another run in the place of the good one."""
    return {"runs": {"c1": msgspec.structs.replace(RUN, **changes)}}


def notes(*more: Note) -> dict[str, Any]:
    return {"notes": (*GOOD.notes, *more)}


def cancelled(status: int, state: str) -> dict[str, Any]:
    return notes(Note("cancel", "", "", status, "c1", state))


def parts(*parents: str) -> dict[str, Any]:
    """The good run, and sub-tasks that answer its first call."""
    part = msgspec.structs.replace(RUN, steps=(), key="", call="1/a/1/0")
    made = {f"p{n}": msgspec.structs.replace(part, cid=f"p{n}", parent=cid) for n, cid in enumerate(parents)}
    return {"runs": {"c1": RUN} | made}


def heard(kind: str, key: str, event: str = "7") -> dict[str, Any]:
    """The good run, which has waited for an event or an answer; ``event`` is the only one on record."""
    outputs: dict[str, Any] = {"hear": {"payload": {"key": key}}, "ask": {"approved": key == "yes"}}
    done = Step({"hear": "b", "ask": "ask"}[kind], "succeeded", 1, 10.0, 12.0, outputs[kind])
    told = (Note("emit", "0-2", cid="c1"), Note("emitted", "0-2", status=202, cid="c1", state="7"))
    asked = (Note("answer", cid="c1", state="no"), Note("answered", status=202, cid="c1", state="no"))
    emitted = Emitted(event, "call.c1", "0-2", None, None)
    return {**run(task=kind, steps=(done,)), **notes(*told, *asked), "marks": (), "events": (emitted,)}


def resumed(step: str, **changes: Any) -> dict[str, Any]:
    """The good run as one that resumes, with one step."""
    done = Step(step, "succeeded", starts=2, started_at=10.0, finished_at=12.0)
    return run(task="keep", recovery="resume", steps=(msgspec.structs.replace(done, **changes),))


def asked_for(*by: tuple[str, str]) -> dict[str, Any]:
    """The good run, which asks for others, and those that were asked for."""
    good = msgspec.structs.replace(RUN, task="beget", steps=(msgspec.structs.replace(DONE, name="b"),))
    more = {f"s{n}": msgspec.structs.replace(RUN, cid=f"s{n}", key="", steps=(), asked_by=b) for n, b in enumerate(by)}
    return {"runs": {"c1": good} | more, "marks": ()}


FIRED = Fired("alarm", "7", "h1", True, "succeeded", ((1, "preempted"),), 1)


def fired(*firings: Fired, preemptions: int = 1, **changes: Any) -> dict[str, Any]:
    """The good run as what a firing has stopped, and the handler of that."""
    victim = msgspec.structs.replace(RUN, task="hit", seq=1, preemptions=preemptions)
    handler = msgspec.structs.replace(RUN, cid="h1", seq=2, task="handle", key="", handles="alarm", steps=())
    told = Note("fired", "0-2", "", 202, "h1", "alarm")
    runs = {"c1": victim, "h1": msgspec.structs.replace(handler, **changes)}
    return {"runs": runs, "firings": firings or (FIRED,), **notes(told)}


def other(**changes: Any) -> Fired:
    """The good firing, but for these."""
    return msgspec.structs.replace(FIRED, **changes)


def started(*runs: dict[str, Any]) -> dict[str, Any]:
    """The good run, and others that were started by items."""
    by_item = msgspec.structs.replace(RUN, task="tick", key="", steps=())
    made = {f"s{n}": msgspec.structs.replace(by_item, cid=f"s{n}", **changes) for n, changes in enumerate(runs)}
    return {"runs": {"c1": RUN} | made}


def called(*deliveries: str, cid: str = "s0") -> dict[str, Any]:
    """The good run, and those of a webhook's deliveries; the first is acknowledged, of the second nobody knows."""
    told = (Note("call", "0-3"), Note("called", "0-3", "", 202, cid), Note("call", "0-4"))
    runs = [{"item": "hook", "task": "receive", "delivery": one} for one in deliveries]
    return {**started(*runs), **notes(*told)}


TWICE = (MARK._replace(step="b"), MARK._replace(step="b"))
WHOLE = (Note("sent", "0-1", "slow", batch="0-1"), Note("sent", "0-9", "slow", batch="0-1"))
TOLD_EVENT = Emitted("9", "told", "", "c1", "a")
CRASHED = {"state": "crashed", "reason": "crash", "events": (*TOLD[:2], "run.crashed")}
CANCELLED = {"state": "cancelled", "events": (*TOLD[:2], "run.cancelled"), "task": "nothing"}


def step(**changes: Any) -> dict[str, Any]:
    return run(steps=(msgspec.structs.replace(DONE, **changes),))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="all-well"),
        pytest.param({"notes": (SENT, Note("told", "0-1", status=0))}, id="no-answer-and-a-run"),
        pytest.param(cancelled(202, "stopping"), id="cancel-after-its-last-step"),
        pytest.param(cancelled(409, "succeeded"), id="cancel-too-late"),
        pytest.param(run(**CRASHED, steps=()), id="crashed"),
        pytest.param(run(**CANCELLED, reason="shutdown"), id="cancelled-by-a-shutdown"),
        pytest.param(parts("c1"), id="sub-task"),
        pytest.param(heard("hear", "0-2"), id="heard"),
        pytest.param(heard("ask", "no"), id="answered"),
        pytest.param({**resumed("b"), "marks": TWICE}, id="repeated-after-a-crash"),
        pytest.param({**resumed("wake", finishes=2), "marks": (MARK._replace(step="wake"),)}, id="greeted-twice"),
        pytest.param({"counts": (Count("c1", 0), Count("c1", 1), Count("c1", 1), Count("c1", 2))}, id="counted-on"),
        pytest.param(asked_for(("c1", "b")), id="asked-for-another"),
        pytest.param(called("0-3"), id="called"),
        pytest.param(called("0-3", "0-4"), id="called-and-killed"),
        pytest.param(fired(), id="fired"),
        pytest.param(fired(other(victims=((1, None),)), preemptions=0), id="fired-and-killed"),
    ],
)
def test_what_may_be_is_not_reported(changes: dict[str, Any]) -> None:
    evidence = msgspec.structs.replace(GOOD, **changes)
    task = evidence.runs["c1"].task
    told = [msgspec.structs.replace(note, task=note.task and task) for note in evidence.notes]
    evidence = msgspec.structs.replace(evidence, notes=told)
    if not evidence.runs["c1"].steps:
        evidence = msgspec.structs.replace(evidence, marks=())
    assert problems(evidence) == []


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        pytest.param(
            "pauses_were_told_the_truth",
            notes(Note("pause", "", "", 202, "c1", "preempted")),
            id="pause-that-never-was",
        ),
        pytest.param("acknowledged_runs_are_there", {"runs": {}, "marks": ()}, id="lost"),
        pytest.param("acknowledged_runs_are_there", run(task="chain"), id="another-run"),
        pytest.param("every_run_was_asked_for_once", {"notes": ()}, id="nobody-asked"),
        pytest.param("every_run_was_asked_for_once", notes(Note("told", "0-1", status=429)), id="refused-and-run"),
        pytest.param(
            "every_run_was_asked_for_once",
            {"runs": {"c1": RUN, "c2": msgspec.structs.replace(RUN, cid="c2", steps=())}},
            id="run-twice",
        ),
        pytest.param("each_run_ends_once", run(state="running", events=TOLD[:2]), id="open"),
        pytest.param("each_run_ends_once", run(events=(*TOLD, "run.succeeded")), id="ended-twice"),
        pytest.param("each_run_ends_once", run(events=TOLD[1:]), id="never-accepted"),
        pytest.param("each_run_ends_once", run(events=(*TOLD, "run.started")), id="started-after-its-end"),
        pytest.param("each_run_ends_once", step(name="b", state="running"), id="step-is-open"),
        pytest.param("nothing_failed_by_itself", run(state="failed", events=(*TOLD[:2], "run.failed")), id="failed"),
        pytest.param("nothing_failed_by_itself", run(reason="fault"), id="fault"),
        pytest.param("nothing_failed_by_itself", run(**CRASHED, recovery="restart"), id="not-started-again"),
        *(
            pytest.param(
                "only_what_ran_crashed", run(**CRASHED | {"events": ("run.accepted", *then, "run.crashed")}), id=id
            )
            for id, then in {
                "queued-and-crashed": (),
                "waiting-and-crashed": ("run.started", "run.waiting"),
                "paused-and-crashed": ("run.started", "run.preempted"),
            }.items()
        ),
        pytest.param("only_what_was_told_to_stop_is_cancelled", run(**CANCELLED), id="cancelled-by-nobody"),
        pytest.param(
            "only_what_was_told_to_stop_is_cancelled",
            run(**CANCELLED, reason="shutdown", recovery="resume"),
            id="to-go-on-and-cancelled",
        ),
        pytest.param("calls_have_one_answer", parts("c1", "c1"), id="answered-twice"),
        pytest.param("calls_have_one_answer", parts("c9"), id="part-of-nothing"),
        pytest.param("cancels_were_told_the_truth", cancelled(202, "cancelled"), id="not-cancelled"),
        pytest.param("cancels_were_told_the_truth", cancelled(409, "cancelled"), id="told-another-end"),
        pytest.param("cancels_were_told_the_truth", cancelled(404, ""), id="unknown"),
        pytest.param(
            "cancels_were_told_the_truth", {**run(**CRASHED, steps=(DONE,)), **cancelled(202, "stopping")}, id="crashed"
        ),
        pytest.param(
            "ends_that_were_shown_stay", notes(Note("seen", "", "", 200, "c1", "crashed")), id="shown-another-end"
        ),
        pytest.param("steps_ran_as_often_as_recorded", {"marks": (MARK, MARK)}, id="ran-unrecorded"),
        pytest.param("steps_ran_as_often_as_recorded", {**step(starts=2), "marks": (MARK, MARK)}, id="ran-twice"),
        pytest.param("steps_ran_as_often_as_recorded", run(steps=()), id="ran-before-its-start"),
        pytest.param("finishes_follow_their_marks", {"marks": ()}, id="never-ran"),
        pytest.param("finishes_follow_their_marks", step(finished_at=10.5), id="finished-before-it-ran"),
        pytest.param("steps_ran_as_often_as_recorded", {**resumed("d"), "marks": TWICE}, id="not-to-be-repeated"),
        pytest.param("finished_work_is_kept", resumed("d", finishes=2), id="finished-twice"),
        pytest.param("checkpoints_are_kept", {"counts": (Count("c1", 0), Count("c1", 1), Count("c1", 0))}, id="back"),
        pytest.param("checkpoints_are_kept", {"counts": (Count("c1", 1),)}, id="left-out"),
        pytest.param(
            "crashes_say_what_is_unknown",
            {**resumed("b"), **run(**CRASHED, recovery="resume", task="keep", error="while step b was running")},
            id="crashed-for-nothing",
        ),
        pytest.param(
            "runs_that_go_on_are_greeted",
            {**run(task="keep", events=(*TOLD[:2], "run.resumed", TOLD[2])), "marks": TWICE},
            id="not-greeted",
        ),
        pytest.param("clean_up_ran", run(task="tidy"), id="no-clean-up"),
        pytest.param("state_counts_each_run_once", {"tallies": (Count("c1", 1), Count("c1", 1))}, id="same-tally"),
        pytest.param("state_counts_each_run_once", {"tally": 1}, id="tally-of-nobody"),
        pytest.param("state_counts_each_run_once", {**run(task="tally"), "tallies": (Count("c1", 1),)}, id="forgotten"),
        pytest.param("steps_emit_once", run(task="tell"), id="emitted-nothing"),
        pytest.param("steps_emit_once", {**run(task="tell"), "events": (TOLD_EVENT, TOLD_EVENT)}, id="emitted-twice"),
        pytest.param("starts_ask_once", asked_for(), id="asked-for-nothing"),
        pytest.param("starts_ask_once", asked_for(("c1", "b"), ("c1", "b")), id="asked-twice"),
        pytest.param("starts_ask_once", asked_for(("c1", "b"), ("c9", "b")), id="asked-for-by-nobody"),
        pytest.param("batches_are_whole", {"notes": (*WHOLE, ACCEPTED)}, id="half-a-batch"),
        pytest.param("events_are_on_record_once", {**heard("hear", "0-2"), "events": ()}, id="event-lost"),
        pytest.param("events_are_on_record_once", heard("hear", "0-2", event="8"), id="another-event"),
        pytest.param("waits_were_woken_by_what_came", heard("hear", "0-3"), id="heard-what-was-not-said"),
        pytest.param("answers_count", heard("ask", "yes"), id="another-answer"),
        pytest.param("firings_were_told_the_truth", fired(other(cid="h2")), id="another-handler"),
        pytest.param("firings_were_told_the_truth", fired(FIRED, other(cid="h2")), id="fired-twice"),
        pytest.param("each_firing_has_its_handler", fired(other(cid="h2")), id="firing-without-a-handler"),
        pytest.param("each_firing_has_its_handler", fired(state="crashed", reason="crash"), id="handler-that-crashed"),
        pytest.param("firings_end_with_their_handlers", fired(other(ended=False, outcome=None)), id="left-open"),
        pytest.param("firings_end_with_their_handlers", fired(other(outcome="failed")), id="another-end"),
        pytest.param("firings_end_with_their_handlers", fired(other(told=2)), id="end-told-twice"),
        pytest.param("victims_are_counted", fired(preemptions=2), id="preempted-by-nobody"),
        pytest.param("victims_are_counted", fired(other(rule="drill")), id="stopped-by-another-rule"),
        pytest.param("slots_start_once", started(*[{"item": "tick", "due": 102.0}] * 2), id="slot-twice"),
        pytest.param("slots_start_once", started({"item": "beat", "due": 101.0}), id="slot-started-and-missed"),
        pytest.param("slots_have_no_gap", started({"item": "tick", "due": 103.0}), id="slot-without-a-word"),
        pytest.param("slots_have_no_gap", {"missed": MISSED[1:]}, id="item-without-a-slot"),
        pytest.param("items_that_are_off_start_nothing", started({"item": "deaf"}), id="item-that-is-deaf"),
        pytest.param("events_start_their_item_once", {"events": (TOLD_EVENT,)}, id="event-without-a-run"),
        pytest.param(
            "events_start_their_item_once",
            {**started(*[{"item": "echo", "event_id": "9"}] * 2), "events": (TOLD_EVENT,)},
            id="event-with-two-runs",
        ),
        pytest.param("events_start_their_item_once", started({"item": "echo", "event_id": "9"}), id="run-of-no-event"),
        pytest.param("files_start_their_item_once", {"inbox": ("c1",)}, id="file-without-a-run"),
        pytest.param("calls_start_their_item_once", called(), id="delivery-without-a-run"),
        pytest.param("calls_start_their_item_once", called("0-3", "0-3"), id="delivery-with-two-runs"),
        pytest.param("calls_start_their_item_once", called("0-3", cid="c9"), id="another-run-of-a-delivery"),
        pytest.param("calls_start_their_item_once", called("0-3", "0-5"), id="run-of-no-delivery"),
        pytest.param("nothing_is_left", {"processes": ("7 sleep",)}, id="process"),
        pytest.param("nothing_is_left", {"files": ("aura.db-wal",)}, id="file"),
        pytest.param("nothing_is_left", {"lock_is_free": False}, id="lock"),
        pytest.param("database_is_whole", {"database": ("row 7 missing from index",)}, id="database"),
    ],
)
def test_check_finds_what_it_is_for(check: str, changes: dict[str, Any]) -> None:
    found = problems(msgspec.structs.replace(GOOD, **changes))
    assert check in {text.partition(":")[0] for text in found}


def test_every_check_is_run() -> None:
    assert len(set(CHECKS)) == len(CHECKS) == 36


def test_client_that_cannot_go_on_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("an answer that makes no sense")

    client = Client(3, tmp_path, seed=1)
    monkeypatch.setattr(client, "_act", fails)
    client.start(Where("http://127.0.0.1:1", ""), Event(), None).join(20)
    client.close()
    assert client.wrong == ["client 3 could not go on: ValueError('an answer that makes no sense')"]
