"""The seam of a run's stream: what happens while it is being opened is neither lost nor told twice."""

from typing import Any

import anyio
import anyio.lowlevel
import msgspec
from starlette.types import Message
from tests.fakes.engine import Detail, FakeEngine

from aura.web.feeds import PROGRESS_TOLD, RunFeed
from aura.web.sse import Stream


class EndsWhileLookedAt(FakeEngine):
    """A run's last step and the run itself end after the reader has been opened, before the record is read."""

    async def get_run(self, cid: str) -> Detail:
        run = self.records[cid]
        if run.state == "running":
            self.tell(run, "step.succeeded", step="ping")
            self.end(run)
        return await super().get_run(cid)


async def written(feed: RunFeed) -> str:
    chunks: list[bytes] = []

    async def send(message: Message) -> None:
        chunks.append(message.get("body", b""))

    with anyio.fail_after(5):
        await feed.run(Stream(send, anyio.Event()))
    return b"".join(chunks).decode()


async def test_run_that_ends_while_its_stream_is_opened_is_told_to_its_end() -> None:
    engine: Any = EndsWhileLookedAt()
    run = engine.add_run(state="running")
    engine.tell(run, "step.started", step="ping")
    feed = await RunFeed.open(engine, run.cid, 0)
    assert feed
    text = await written(feed)
    names = [name for name in ("step.started", "step.succeeded", "event: end", "run.succeeded") if name in text]
    assert names == ["step.started", "step.succeeded", "event: end", "run.succeeded"]
    assert text.count("event: end") == 1


class Following:
    """A stream of a run, followed while the test goes on; ``told`` are the progress events so far."""

    def __init__(self, feed: RunFeed) -> None:
        self._feed = feed
        self.told: list[Any] = []

    async def _send(self, message: Message) -> None:
        for frame in message.get("body", b"").decode().split("\n\n"):
            if frame.startswith("event: progress\ndata: "):
                self.told.append(msgspec.json.decode(frame.removeprefix("event: progress\ndata: ")))

    async def run(self) -> None:
        await self._feed.run(Stream(self._send, anyio.Event()))

    async def until(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self.told) < count:
                await anyio.lowlevel.checkpoint()


def how_far(done: int) -> dict[str, Any]:
    return {"done": done, "total": 9, "message": ""}


async def test_progress_is_told_at_first_and_then_what_is_new_of_it() -> None:
    engine: Any = FakeEngine()
    run = engine.add_run(state="running")
    engine.progress[run.cid] = {"a": how_far(1), "b": how_far(1)}
    feed = await RunFeed.open(engine, run.cid, 0)
    assert feed
    following = Following(feed)
    # the stream alone; ends with the end of its run
    async with anyio.create_task_group() as group:
        group.start_soon(following.run)
        await following.until(2)
        engine.progress[run.cid] = {"a": how_far(1), "b": how_far(2)}
        engine.journal.nudge(run.cid)
        await following.until(3)
        engine.journal.nudge(run.cid)  # there is nothing new
        engine.tell(run, "step.succeeded", step="a")
        engine.end(run)
    assert following.told == [{"step": "a", **how_far(1)}, {"step": "b", **how_far(1)}, {"step": "b", **how_far(2)}]


async def test_progress_of_very_many_items_is_told_in_part() -> None:
    engine: Any = FakeEngine()
    run = engine.add_run(state="running")
    engine.progress[run.cid] = {f"a[{n}]": how_far(1) for n in range(1000)}
    feed = await RunFeed.open(engine, run.cid, 0)
    assert feed
    following = Following(feed)
    # the stream alone; ends with the end of its run
    async with anyio.create_task_group() as group:
        group.start_soon(following.run)
        await following.until(1)
        engine.end(run)
    assert len(following.told) == PROGRESS_TOLD
