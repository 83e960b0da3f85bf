"""Records and their frames: shapes, and text that must not break what carries it."""

import json
import math
from typing import Any

import pytest

from aura.clock import SystemClock, rfc3339
from aura.events import MAX_LINE, RUN_ENDS, clean_text, encode, plain, printable
from aura.journal import Journal


def test_log_record_has_the_public_shape() -> None:
    entry = Journal(1, SystemClock()).log("warning", "m", cid="c", plan_name="p", task_name="t", step="s", attempt=2)
    record = entry.record() | {"time": "T"}
    assert record == {
        "kind": "log", "id": str((1 << 40) + 1), "time": "T", "level": "warning", "message": "m", "plan_name": "p",
        "task_name": "t", "cid": "c", "step": "s", "attempt": 2, "fields": {},
    }  # fmt: skip


def test_event_record_has_the_public_shape() -> None:
    entry = Journal(1, SystemClock()).stage("run.failed", cid="c", payload={"a": 1}, cause="e1", root="e0", depth=2)
    record = entry.record() | {"time": "T"}
    assert record == {
        "kind": "event", "id": str((1 << 40) + 1), "name": "run.failed", "time": "T", "payload": {"a": 1},
        "plan_name": None, "task_name": None, "cid": "c", "step": None, "cause": "e1", "root": "e0", "depth": 2,
    }  # fmt: skip
    assert entry.ends_run


def test_final_states_end_the_stream_of_a_run() -> None:
    assert {"run.succeeded", "run.failed", "run.cancelled", "run.timed_out", "run.crashed"} == RUN_ENDS


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0.0, "1970-01-01T00:00:00.000000Z", id="epoch"),
        pytest.param(1795314600.25, "2026-11-22T02:30:00.250000Z", id="microseconds"),
        pytest.param(-5.0, "1970-01-01T00:00:00.000000Z", id="before the epoch"),
        pytest.param(1e15, "9999-12-31T23:59:59.000000Z", id="after all years"),
    ],
)
def test_rfc3339(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        pytest.param({"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}, id="plain data"),
        pytest.param({1: 2}, {"1": 2}, id="key that is not text"),
        pytest.param(math.nan, "nan", id="nan"),
        pytest.param(10**40, str(10**40), id="huge number"),
        pytest.param("\ud800", "?", id="lone surrogate"),
        pytest.param({1, 2}, "{1, 2}", id="set"),
        pytest.param(Broken(), "<Broken, whose repr raised ValueError>", id="broken repr"),
    ],
)
def test_plain(value: Any, wanted: Any) -> None:
    assert plain(value) == wanted


def test_plain_ends_on_data_that_contains_itself() -> None:
    circle: dict[str, Any] = {}
    circle["again"] = circle
    assert len(json.dumps(plain(circle))) < 1000


@pytest.mark.parametrize("value", ["\ud800", {1, 2}, 10**400, {"a": {"b": object}}], ids=repr)
def test_encode_never_fails(value: Any) -> None:
    assert json.loads(encode({"value": value}))


@pytest.mark.parametrize("text", ["x" * (MAX_LINE + 1000), "ä" * MAX_LINE], ids=["ascii", "two bytes each"])
def test_long_text_is_cut_with_a_marker(text: str) -> None:
    cut = clean_text(text)
    assert cut.endswith(" bytes dropped")
    assert len(cut.encode()) < MAX_LINE + 40


@pytest.mark.parametrize("code", ["\x1b]0;x\x07", "\x9b2J", "\u202e", "\x00", "\r"], ids=ascii)
def test_printable_leaves_nothing_that_steers_a_terminal(code: str) -> None:
    text = printable(f"a{code}b\tc\nd")
    assert not set(code) & set(text) - set("]0;x2J")
    assert text.endswith("b\tc\nd")
