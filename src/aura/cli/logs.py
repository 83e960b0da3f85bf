"""``aura logs``: the log of a run, or of the whole server as it comes."""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from aura import api
from aura.cli.cids import LAST, find_cid
from aura.cli.completing import complete_cid
from aura.cli.options import json_option, open_client, plan_and_task, server_options
from aura.cli.output import log_line, say, short_cid
from aura.events import LEVELS

if TYPE_CHECKING:
    from aura.client import Client, Record


@click.command
@click.argument("cid", required=False, shell_complete=complete_cid)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come: to the run's end, or without CID for ever.")
@click.option("--level", type=click.Choice(list(LEVELS)), help="Only lines of this level or above.")
@click.option("--task", metavar="PLAN[/TASK]", help="Only lines of this plan, or of this task (with -f and no CID).")
@click.option("--step", help="Only lines of this step.")
@server_options
@json_option
def logs(
    cid: str | None, follow: bool, level: api.Level | None, task: str | None, step: str | None, as_json: bool
) -> None:
    """Print the log of a run, or with -f and without CID that of everything.

    Without CID and -f it is the last run's. With --json each line is one record.
    """
    of_all = follow and cid is None
    if task and not of_all:
        raise click.UsageError("--task goes with -f and without CID; a run has one task")
    with open_client() as client:
        found = _of_all(client, level, task) if of_all else _of_run(client, cid or LAST, follow, level)
        for record in found:
            if step not in (None, record.step):
                continue
            if as_json:
                click.echo(json.dumps(msgspec.to_builtins(record)))
            else:
                click.echo(log_line(record, _where(record, whole=of_all)))


def _of_all(client: "Client", level: api.Level | None, task: str | None) -> Iterator[api.LogRecord]:
    plan_name, task_name = plan_and_task(task)
    return _lines(client.follow_logs(level=level, plan_name=plan_name, task_name=task_name))


def _of_run(client: "Client", cid: str, follow: bool, level: api.Level | None) -> Iterator[api.LogRecord]:
    cid = find_cid(client, cid)
    if not follow:
        return client.logs(cid, level=level)
    return (record for record in _lines(client.follow_run(cid)) if LEVELS[record.level] >= LEVELS[level or "debug"])


def _lines(records: "Iterable[Record]") -> Iterator[api.LogRecord]:
    for record in records:
        match record:
            case api.LogRecord():
                yield record
            case api.Gap():
                say_gap(record)


def say_gap(gap: api.Gap) -> None:
    """Tell of records that came too fast to be shown."""
    if gap.first is None:
        say(f"aura: records up to {gap.last} may be missing here: nobody knows which came last")
    else:
        say(f"aura: records {gap.first} to {gap.last} are missing here: they came faster than they were read")


def _where(record: api.LogRecord, whole: bool) -> str:
    """Whom a line comes from: its step, and among the lines of many runs its task and run as well."""
    if not whole:
        return record.step or ""
    task = "/".join(filter(None, (record.plan_name, record.task_name)))
    return " ".join(filter(None, (task, record.step, record.cid and short_cid(record.cid))))
