"""Following a run: what is shown of its progress, and for how long."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console
from rich.progress import Progress as rich_progress

from aura.api import EventRecord, Run, StepProgress
from aura.cli.follow import Follower, LiveView, PlainView
from aura.client import Client, Record

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def event(name: str, step: str | None = None) -> EventRecord:
    whose = dict.fromkeys(("payload", "plan_name", "task_name", "cid", "cause", "root"))
    return EventRecord(id="1", name=name, time=NOW, step=step, depth=0, **whose)


def run(**members: Any) -> Run:
    """A run of which only a few members matter."""
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in msgspec.structs.fields(Run))
    return Run(**nothing | members)


class Half:
    """A client whose run tells of progress of a step and of an item, each before its step has ended."""

    def follow_run(self, cid: str) -> Iterator[Record]:
        yield event("step.started", "a")
        yield StepProgress(step="a", done=1, total=2, message="")
        yield event("step.started", "b")
        yield StepProgress(step="b[0]", done=1, total=2, message="")
        yield event("step.succeeded", "b")
        yield event("step.succeeded", "a")
        yield event("run.succeeded")

    def get_run(self, cid: str) -> Run:
        return run(state="succeeded")


class Noted:
    """A view that keeps which bars stand at each line."""

    def __init__(self) -> None:
        self.bars: set[str] = set()
        self.seen: list[set[str]] = []

    def print(self, line: str) -> None:
        self.seen.append(set(self.bars))

    def progress(self, how_far: StepProgress) -> None:
        self.bars.add(how_far.step)

    def ended(self, step: str) -> None:
        self.bars = {bar for bar in self.bars if bar.partition("[")[0] != step}


def test_progress_is_shown_from_when_it_comes_until_its_step_ends() -> None:
    view = Noted()
    follower = Follower(cast(Client, Half()), "c", view)
    assert follower.follow().state == "succeeded"
    assert view.seen == [set(), {"a"}, {"a"}, set(), set()]


class Emitting(Half):
    """A client whose run emits an event that looks like a failure, and changes its state."""

    def follow_run(self, cid: str) -> Iterator[Record]:
        yield msgspec.structs.replace(event("disk.failed", "a"), payload={"error": "full"})
        yield StepProgress(step="a", done=1, total=2, message="")
        yield event("state.changed", "a")
        yield event("run.succeeded")


def test_emitted_event_is_shown_by_its_name_and_ends_no_step(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    assert Follower(cast(Client, Emitting()), "c", view).follow().state == "succeeded"
    lines = [line.split()[1:] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == ["event", "disk.failed", "of", "a"]
    assert lines[2:] == [["event", "state.changed", "of", "a"], ["succeeded", "run"]]


def test_emitted_event_leaves_the_bar_of_its_step() -> None:
    view = Noted()
    Follower(cast(Client, Emitting()), "c", view).follow()
    assert view.seen == [set(), {"a"}, {"a"}]


def test_plain_view_says_each_tenth_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    for done in (0, 5, 10, 11, 12, 20, 99, 100, 100):
        view.progress(StepProgress(step="a", done=done, total=100, message=""))
    view.ended("b")
    view.progress(StepProgress(step="a", done=100, total=100, message=""))
    assert [line.split()[1:3] for line in capsys.readouterr().err.splitlines()] == [
        ["a", "10/100"], ["a", "20/100"], ["a", "99/100"], ["a", "100/100"],
    ]  # fmt: skip


def test_bars_of_a_step_and_of_its_items_go_with_it() -> None:
    console = Console(file=io.StringIO())
    with rich_progress(console=console) as bars:
        view = LiveView(bars)
        for step in ("a", "a[0]", "ab", "a[11]"):
            view.progress(StepProgress(step=step, done=1, total=2, message="m"))
        view.ended("a")
        assert [task.description for task in bars.tasks] == ["ab"]
