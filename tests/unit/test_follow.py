"""Following a run: what is shown of its progress, whatever order the answers come in."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest

from aura.cli import follow
from aura.cli.follow import Follower
from aura.client import Client, Message


def event(name: str, step: str | None = None) -> Message:
    return Message(
        name="message", data={"kind": "event", "name": name, "step": step, "time": None, "payload": None}, id="1"
    )


class OldNews:
    """A client whose every answer still says that step ``a`` is half done."""

    def follow_run(self, cid: str) -> Iterator[Message]:
        yield event("step.started", "a")
        yield event("step.succeeded", "a")
        yield event("step.started", "b")
        yield Message(name="end", data=event("run.succeeded").data, id="2")

    def get_run(self, cid: str) -> dict[str, Any]:
        return {"state": "succeeded", "progress": {"a": {"done": 1, "total": 2, "message": ""}}}


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
    assert follower.follow()["state"] == "succeeded"
    assert {"a"} not in view.seen[1:]
    assert view.bars == set()
