"""Following a run: what is shown of its progress, whatever order the answers come in."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from aura.api import EventRecord, Progress, Run
from aura.cli import follow
from aura.cli.follow import Follower
from aura.client import Client, Record

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def event(name: str, step: str | None = None) -> EventRecord:
    whose = dict.fromkeys(("payload", "plan_name", "task_name", "cid", "cause", "root"))
    return EventRecord(id="1", name=name, time=NOW, step=step, depth=0, **whose)


def run(**members: Any) -> Run:
    """A run of which only a few members matter."""
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in msgspec.structs.fields(Run))
    return Run(**nothing | members)


class OldNews:
    """A client whose every answer still says that step ``a`` is half done."""

    def follow_run(self, cid: str) -> Iterator[Record]:
        yield event("step.started", "a")
        yield event("step.succeeded", "a")
        yield event("step.started", "b")
        yield event("run.succeeded")

    def get_run(self, cid: str) -> Run:
        return run(state="succeeded", progress={"a": Progress(done=1, total=2, message="")})


class Noted:
    """A view that keeps which bars stand after each change."""

    def __init__(self) -> None:
        self.bars: set[str] = set()
        self.seen: list[set[str]] = []

    def print(self, line: str) -> None:
        self.seen.append(set(self.bars))

    def progress(self, steps: Mapping[str, Any]) -> None:
        self.bars |= set(steps)

    def ended(self, step: str) -> None:
        self.bars.discard(step)


def test_progress_of_a_step_that_has_ended_is_not_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PROGRESS_EVERY", 0.0)
    monkeypatch.setattr(follow, "PROGRESS_SHARE", 0.0)
    view = Noted()
    follower = Follower(cast(Client, OldNews()), "c", view)
    assert follower.follow().state == "succeeded"
    assert {"a"} not in view.seen[1:]
    assert view.bars == set()
