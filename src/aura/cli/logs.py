"""``aura logs``: the log of a run, or of the whole server as it comes."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from aura.cli.cids import LAST, find_cid
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import log_line, say, short_cid
from aura.events import LEVELS

if TYPE_CHECKING:
    from aura.client import Client, Message

Record = dict[str, Any]


@click.command
@click.argument("cid", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come: to the run's end, or without CID for ever.")
@click.option("--level", type=click.Choice(list(LEVELS)), help="Only lines of this level or above.")
@server_options
@json_option
def logs(cid: str | None, follow: bool, level: str | None, as_json: bool) -> None:
    """Print the log of a run, or with -f and without CID that of everything.

    Without CID and -f it is the last run's. With --json each line is one record.
    """
    with open_client() as client:
        for record in _records(client, cid, follow, level):
            if as_json:
                click.echo(json.dumps(record))
            else:
                click.echo(log_line(record, _where(record, whole=cid is None and follow)))


def _records(client: "Client", cid: str | None, follow: bool, level: str | None) -> Iterator[Record]:
    if follow and cid is None:
        yield from _logs_of(client.follow_logs(level=level))
    elif follow:
        followed = _logs_of(client.follow_run(find_cid(client, cid or LAST)))
        yield from (record for record in followed if LEVELS[record["level"]] >= LEVELS[level or "debug"])
    else:
        yield from client.logs(find_cid(client, cid or LAST), level)


def _logs_of(messages: "Iterator[Message]") -> Iterator[Record]:
    for message in messages:
        if message.name == "gap":
            say_gap(message.data)
        elif message.data.get("kind") == "log":
            yield message.data


def say_gap(gap: Record) -> None:
    """Tell of records that came too fast to be shown."""
    say(f"aura: records {gap.get('from')} to {gap.get('to')} are missing here: they came faster than they were read")


def _where(record: Record, whole: bool) -> str:
    """Whom a line comes from: its step, and among the lines of many runs its task and run as well."""
    if not whole:
        return record.get("step") or ""
    task = "/".join(record[key] for key in ("plan_name", "task_name") if record.get(key))
    cid = record.get("cid")
    return " ".join(part for part in (task, record.get("step"), short_cid(cid) if cid else "") if part)
