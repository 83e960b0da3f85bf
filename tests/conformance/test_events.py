"""Events that are kept: read back as they were, in their order, page by page, over both stores."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.test_stores import MAKERS, Kept, accepted, serving

from aura.events import Chain, EventEntry
from aura.records.events import EventFilter, EventPage, insert_event, read_events
from aura.records.reading import read_run_stream
from aura.records.runs import accept_run
from aura.run import Cause

END = 2**62


@pytest.fixture(params=list(MAKERS))
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    async with serving(MAKERS[request.param](tmp_path)) as made:
        yield made


def event(id: int, name: str = "x", **columns: Any) -> EventEntry:
    given: dict[str, Any] = {
        "time": 1.5,
        "cid": None,
        "plan_name": None,
        "task_name": None,
        "step": None,
        "payload": None,
    }
    given |= {"cause": None, "root": str(id), "depth": 0}
    return EventEntry(id=id, name=name, **{**given, **columns})


async def keep(kept: Kept, *events: EventEntry) -> None:
    for one in events:
        await kept.store.put(insert_event(one)).wait()


async def read(kept: Kept, wanted: EventFilter, after: int = 0, until: int = END, limit: int = 100) -> EventPage:
    return await kept.store.read(lambda execute: read_events(execute, wanted, after, until, limit))


def ids(page: EventPage) -> list[int]:
    return [one.id for one in page.events]


async def test_event_is_read_back_as_it_was(kept: Kept) -> None:
    chain = Chain("3", "1", 4, ("p/t/a", "p/t/b"))
    full = event(
        7, "a.b", cid="c1", plan_name="p", task_name="t", step="s", payload={"ä": [1, None, 2.5]}, cause="3",
        root="1", depth=5, chain=chain,
    )  # fmt: skip
    await keep(kept, full, event(8, payload=False))
    first, second = (await read(kept, EventFilter())).events
    assert isinstance(first, EventEntry)
    assert isinstance(second, EventEntry)
    assert (first.record(), first.via, first.hops) == (full.record(), chain.via, 5)
    assert (second.payload, second.via) == (False, ())


async def test_runs_events_and_others_come_in_one_order(kept: Kept) -> None:
    cause = Cause("event", event_id="4")
    await keep(kept, event(4), event(9, cid="c1"))
    await kept.store.put(accept_run(accepted(1, cause=cause), (6, 1, "run.accepted", None, 2.0, None))).wait()
    page = await read(kept, EventFilter())
    assert (ids(page), page.next) == ([4, 6, 9], None)
    assert page.events[1].record()["cause"] == "4"
    stream = await kept.store.read(lambda execute: read_run_stream(execute, "c1", 0, 10))
    assert [(one.id, one.record()["cause"]) for one in stream] == [(6, "4"), (9, None)]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param(EventFilter(), [1, 2, 3, 4], id="all"),
        pytest.param(EventFilter(name="a.*"), [1, 3], id="pattern"),
        pytest.param(EventFilter(name="a.one"), [1], id="name"),
        pytest.param(EventFilter(name="**"), [1, 2, 3], id="not-auras-own"),
        pytest.param(EventFilter(name="engine.*"), [4], id="auras-own"),
        pytest.param(EventFilter(plan_name="p"), [1, 2], id="plan"),
        pytest.param(EventFilter(plan_name="p", task_name="t"), [1], id="task"),
        pytest.param(EventFilter(cid="c2"), [2], id="run"),
        pytest.param(EventFilter(name="a.*", cid="c2"), [], id="none"),
    ],
)
async def test_filter(kept: Kept, wanted: EventFilter, found: list[int]) -> None:
    await keep(
        kept,
        event(1, "a.one", plan_name="p", task_name="t", cid="c1"),
        event(2, "b", plan_name="p", task_name="u", cid="c2"),
        event(3, "a.two", plan_name="q"),
        event(4, "engine.started"),
    )
    page = await read(kept, wanted)
    assert ids(page) == found
    assert all(wanted.fits(one) for one in page.events)


async def test_pages_go_on_where_they_ended_whatever_fits(kept: Kept) -> None:
    await keep(kept, *(event(n, "a" if n % 10 == 0 else "b") for n in range(1, 41)))
    found, after = [], 0
    pages = 0
    while after is not None:
        page = await read(kept, EventFilter("a"), after, until=36, limit=7)
        found += ids(page)
        pages += 1
        assert page.next is None or page.next > after
        after = page.next  # type: ignore[assignment]
    assert (found, pages) == ([10, 20, 30], 6)
