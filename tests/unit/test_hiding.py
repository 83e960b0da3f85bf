"""What leaves the engine without secrets: records of the journal, rows of the store, what is printed."""

import io
import sys
from typing import Any

import msgspec
import pytest

from aura.clock import SystemClock
from aura.covering import covered_streams
from aura.events import EventEntry, LogEntry
from aura.journal import Journal
from aura.masking import secret_values, uncovered
from aura.records.runs import Accepted, RunColumns
from aura.redaction import Redactor
from aura.run import Cause
from aura.runs.hiding import hidden_columns, hidden_request, hidden_step, hidden_wait, secrets_in
from aura.wait import OpenWait, Wait, WaitKind

SECRET = "open-sesame"


@pytest.fixture
def redactor() -> Redactor:
    redactor = Redactor()
    redactor.learn("p/s", SECRET)
    return redactor


def test_log_line_is_hidden_before_anybody_sees_it(redactor: Redactor) -> None:
    journal = Journal(1, SystemClock(), redactor=redactor)
    seen: list[LogEntry] = []
    journal.add_sink(seen.append)
    reader = journal.subscribe({"log"})
    journal.log("info", f"<{SECRET}>", fields={"a": [SECRET], SECRET: 1, "o": {SECRET}})
    (shown,) = reader.take().entries
    assert seen == [shown]
    assert shown.record()["message"] == "<***>"
    assert shown.record()["fields"] == {"a": ["***"], "***": 1, "o": "{'***'}"}
    assert SECRET.encode() not in shown.frame


def test_event_is_hidden_before_it_is_handed_over(redactor: Redactor) -> None:
    journal = Journal(1, SystemClock(), redactor=redactor)
    event = journal.stage(f"door.{SECRET}", payload={"word": SECRET})
    assert isinstance(event, EventEntry)
    assert (event.name, event.payload) == ("door.***", {"word": "***"})


def test_name_of_an_event_of_auras_own_is_never_hidden() -> None:
    redactor = Redactor()
    redactor.learn("p/s", "run.failed")
    assert Journal(1, SystemClock(), redactor=redactor).stage("run.failed").name == "run.failed"


def test_row_of_a_step_keeps_what_is_auras_own(redactor: Redactor) -> None:
    redactor.learn("p/t", "succeeded")
    data = msgspec.json.encode({"a": SECRET})
    row = (1, "step", "succeeded", 1, 1, 1.0, 2.0, data, data, data, f"because {SECRET}", None)
    hidden = b'{"a":"***"}'
    assert hidden_step(redactor, row) == (*row[:7], hidden, hidden, hidden, "because ***", None)


def test_columns_of_a_run_are_hidden(redactor: Redactor) -> None:
    values: dict[str, Any] = dict.fromkeys(RunColumns.__struct_fields__)
    text = msgspec.json.encode(SECRET)
    columns = RunColumns(**values | {"reason": SECRET, "result": text, "error": text, "cleanup_error": text})
    shown = hidden_columns(redactor, columns)
    assert (shown.reason, shown.result, shown.error, shown.cleanup_error) == ("***", *[b'"***"'] * 3)
    assert hidden_columns(redactor, RunColumns(**values)) == RunColumns(**values)


def test_what_is_asked_of_somebody_is_hidden(redactor: Redactor) -> None:
    wait = Wait(WaitKind.APPROVAL, message=f"is {SECRET} right?", inputs={"a": {"default": SECRET}})
    opened = OpenWait("a", "a", None, wait, 0.0)
    shown = hidden_wait(redactor, opened).wait
    assert (shown.message, shown.inputs) == ("is *** right?", {"a": {"default": "***"}})
    assert opened.wait is wait


def accepted(inputs: dict[str, Any], *secret: str) -> Accepted:
    names = {field.name: None for field in msgspec.structs.fields(Accepted) if field.required}
    given: dict[str, Any] = {
        **names,
        "labels": {"l": SECRET},
        "inputs": msgspec.json.encode(inputs),
        "cause": Cause(),
        "secret_inputs": secret,
    }
    return Accepted(**given)


def test_request_keeps_its_secret_inputs_alone(redactor: Redactor) -> None:
    inputs = {"open": SECRET, "pin": SECRET, "list": [{"key": SECRET, "name": SECRET}, {"key": None, "name": "n"}]}
    shown = hidden_request(redactor, accepted(inputs, "/pin", "/list/*/key"))
    assert msgspec.json.decode(shown.inputs) == {
        "open": "***",
        "pin": SECRET,
        "list": [{"key": SECRET, "name": "***"}, {"key": None, "name": "n"}],
    }
    assert shown.labels == {"l": "***"}


def test_request_without_secrets_keeps_its_bytes(redactor: Redactor) -> None:
    given = accepted({"open": "x"}, "/pin")
    assert hidden_request(redactor, given).inputs is given.inputs


def test_pointers_that_lead_nowhere_uncover_nothing() -> None:
    assert uncovered({"a": "***"}, {"a": 1}, ["/b", "/a/b", "/a/*"]) == {"a": "***"}
    assert secret_values({"a": [{"b": 1}, {"c": 2}]}, ["/a/*/b", "/x", "/a/b"]) == [1]


def test_every_text_and_number_in_a_secret_value_is_secret() -> None:
    assert secrets_in({"a": ["x", 12345678, None, True], "b": {"c": 1.5}}) == ["x", "12345678", "1.5"]


def test_what_is_printed_is_hidden_however_it_is_cut(redactor: Redactor, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with covered_streams(redactor):
        print("now", SECRET[:4], SECRET[4:], sep="", flush=True)
        sys.stderr.writelines([SECRET, "\n"])
        assert not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert (out.getvalue(), err.getvalue()) == ("now***\n", "***\n")
