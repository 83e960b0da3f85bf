"""The seam of a run's stream: what happens while it is being opened is neither lost nor told twice."""

from typing import Any

import anyio
from starlette.types import Message
from tests.fakes.engine import Detail, FakeEngine

from aura.web.feeds import RunFeed
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
