"""``aura queue``: how full the lanes are, and what waits in them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import click

from aura import api
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import local_time, print_json, print_table, say, seconds, short_cid, took, waiting_text


@click.command
@click.option("--lane", metavar="LANE", help="Only this lane.")
@click.option("-n", "limit", type=click.IntRange(1), default=20, show_default=True, help="How many runs at most.")
@server_options
@json_option
def queue(lane: str | None, limit: int, as_json: bool) -> None:
    """Show how full the lanes are, and the queued runs in the order in which they would start."""
    with open_client() as client:
        overview = client.queue_overview()
        lanes = _lanes(overview, lane)
        found = list(islice(client.queue(lane=lane, page_size=min(limit, 1000)), limit))
    if as_json:
        print_json({"overview": overview, "items": found})
        return
    print_table(("LANE", "RUNNING", "LIMIT", "QUEUED", "OLDEST", "P50", "P95", "ENDED/MIN"), map(_lane_row, lanes))
    if found:
        click.echo()
        print_table(("#", "CID", "TASK", "LANE", "PRIORITY", "AGE", "NOT BEFORE", "WAITS FOR"), _rows(found))
    more = sum(lane.queued for lane in lanes) - len(found)
    if more > 0:
        say(f"and {more} more")


def _lanes(overview: api.QueueOverview, wanted: str | None) -> list[api.LaneFlow]:
    """The lanes to show.

    Raises:
        click.BadParameter: there is none of that name.
    """
    names = [lane.lane for lane in overview.lanes]
    if wanted is not None and wanted not in names:
        raise click.BadParameter(f"there is no lane {wanted!r}; say {' or '.join(names)}", param_hint="--lane")
    return [lane for lane in overview.lanes if wanted in (None, lane.lane)]


def _lane_row(lane: api.LaneFlow) -> tuple[Any, ...]:
    counts = (lane.lane, lane.running, lane.limit, lane.queued)
    times = map(_seconds, (lane.oldest_age_s, lane.wait_p50_s, lane.wait_p95_s))
    return (*counts, *times, "" if lane.ended_per_min is None else f"{lane.ended_per_min:.1f}")


def _seconds(number: float | None) -> str:
    return "" if number is None else seconds(number)


def _rows(found: Iterable[api.QueuedRun]) -> Iterator[tuple[Any, ...]]:
    """A line for each queued run; its position is the one in its lane."""
    now = datetime.now(UTC)
    positions: Counter[str] = Counter()
    for run in found:
        positions[run.lane] += 1
        what = (short_cid(run.cid), f"{run.plan_name}/{run.task_name}", run.lane, run.priority)
        waits = waiting_text(run.waiting_for) or ("to go on" if run.state == "preempted" else "")
        yield (positions[run.lane], *what, took(run.accepted_at, now), local_time(run.not_before), waits)
