"""What the commands print and how: results to stdout, everything else to stderr, and nothing that steers a terminal.

Whatever comes from a server, a plan or a file passes ``shown`` before it is printed as text, or ``print_json``, which
escapes what JSON itself would let through. Tables are plain aligned columns, so that they can be cut and grepped.
"""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import click
import msgspec

from aura.api import Error, LogRecord, PreemptedBy, Progress, Wait, WaitingFor
from aura.events import printable

#: Colours and other graphic sequences, as commands write them when they believe to be on a terminal: noise here.
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_STATE_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "crashed": "red",
    "timed_out": "red",
    "broken": "red",
    "cancelled": "yellow",
    "stopping": "yellow",
    "preempted": "yellow",
    "stale": "yellow",
    "warning": "yellow",
    "error": "red",
    "running": "cyan",
}
SHORT_CID = 12


def shown(value: Any) -> str:
    """Text for a terminal: no colours of others, control characters as escapes, lists and mappings as JSON."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return printable(_COLOURS.sub("", text))


def one_line(value: Any) -> str:
    """As ``shown``, with line ends made visible."""
    return shown(value).replace("\n", "\\n").replace("\t", " ")


def coloured(word: str) -> str:
    """A state or a level in its colour; click leaves the colour out where it cannot be seen."""
    colour = _STATE_COLOURS.get(word.strip())
    return word if colour is None else click.style(word, fg=colour)


def print_json(value: Any) -> None:
    """One JSON document on stdout; structs as the server sends them."""
    text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, indent=2)
    click.echo(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def say(message: str) -> None:
    """A line for the user on stderr; that nobody can read it changes nothing, the exit code least of all."""
    with suppress(OSError):
        click.echo(message, err=True)


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]], below: Sequence[Sequence[str]] = ()) -> None:
    """Aligned columns under a head; the last one is as long as it likes. States are in colour.

    ``below`` has lines to print below each row, if any.
    """
    cells = [list(head), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head) - 1)]
    for number, row in enumerate(cells):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + row[-1:]
        click.echo("  ".join(padded if number == 0 else map(coloured, padded)).rstrip())
        for line in below[number - 1] if number and below else ():
            click.echo(f"  {one_line(line)}")


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    for name, value in facts:
        if value not in (None, "", {}, []):
            click.echo(f"{name:<11} {coloured(one_line(value))}")


def short_cid(cid: Any) -> str:
    """The part of an id that tells runs apart: its end is random, its beginning the time."""
    return str(cid)[-SHORT_CID:]


def short_hash(generation: str | None) -> str:
    """As much of a generation's hash as tells two apart."""
    return (generation or "")[:SHORT_CID]


def local_time(time: datetime | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time of the server's in this machine's zone; in UTC if it has none there."""
    if time is None:
        return ""
    try:
        return time.astimezone().strftime(form)
    except OverflowError:  # such as the last hour of the calendar, east of Greenwich
        return time.isoformat()


def soon(due: datetime | None, now: datetime | None = None) -> str:
    """A time to come in this machine's zone, as people say it: ``today 14:30``, ``tomorrow 02:30:05``."""
    if due is None:
        return ""
    try:
        local, today = due.astimezone(), (now or datetime.now()).astimezone().date()
    except OverflowError:
        return due.isoformat()
    days = (local.date() - today).days
    day = {0: "today", 1: "tomorrow", -1: "yesterday"}.get(days)
    if day is None:
        day = local.strftime("%a %d %b") if 1 < days < 300 else local.strftime("%Y-%m-%d")
    return f"{day} {local.strftime('%H:%M:%S' if local.second else '%H:%M')}"


def took(begin: datetime | None, end: datetime | None) -> str:
    """How long it took, by two times of the server's; empty if one is missing, 0 if its clock was set back between."""
    if not (begin and end):
        return ""
    return seconds(max((end - begin).total_seconds(), 0.0))


def seconds(number: float) -> str:
    """A duration for people: ``0.05 s``, ``12.3 s``, ``2 h 05 min``."""
    if number < 60:
        return f"{number:.2f} s" if number < 1 else f"{number:.1f} s"
    minutes, hours = int(number) // 60, int(number) // 3600
    return f"{hours} h {minutes % 60:02} min" if hours else f"{minutes} min {int(number) % 60:02} s"


def progress_text(step: str, how_far: Progress) -> str:
    """How far a step is: ``archive 4000/10000 (40 %) copying``."""
    done, total = how_far.done, how_far.total
    number = f"{done:g}/{total:g} ({done / total:.0%})" if total else f"{done:g}"
    return f"{step} {number} {how_far.message}".rstrip()


def step_text(wait: Wait) -> str:
    """The step that waits, or the item of one: ``deploy``, ``deploy[3]``."""
    return wait.step if wait.index is None else f"{wait.step}[{wait.index}]"


def wait_text(wait: Wait) -> str:
    """What a step waits for: ``an answer: Deploy it? until 14:05:00``."""
    match wait.kind:
        case "approval":
            what = f"an answer: {wait.message}"
        case "event":
            what = f"the event {wait.pattern}"
        case "task":
            what = f"its sub-task {short_cid(wait.cid)}, which waits"
        case other:
            what = _TIMES.get(other, other)
    return what if wait.until is None else f"{what} until {local_time(wait.until)}"


_TIMES = {"sleep": "the end of its sleep", "retry": "its next try", "round": "its next round"}


def waiting_text(waits: WaitingFor | None) -> str:
    """What a run waits for, the first of it: ``lab/screen, api, held by 4kqz (step scan)``; empty if for nothing."""
    if waits is None:
        return ""
    if waits.kind in _TO_START:
        return _TO_START[waits.kind].format(", ".join(waits.names), ", ".join(map(short_cid, waits.holders)))
    if waits.waits and waits.kind not in ("resource", "mode"):
        more = f" and {waits.waits_total - 1} more" if waits.waits_total > 1 else ""
        return f"{wait_text(waits.waits[0])} (step {step_text(waits.waits[0])}){more}"
    what = ", ".join(waits.names) or "its mode"
    held = f", held by {', '.join(map(short_cid, waits.holders))}" if waits.holders else ""
    steps = f" (step {', '.join(waits.steps)})" if waits.steps else ""
    return what + held + steps


#: What a run waits for before it starts: by its kind, of the names and the holders.
_TO_START = {
    "held": "the end of interrupt {0}, handled by {1}",
    "cleanup": "the clean-up of {1}",
    "gate": "the tests of plan {0}",
}


def preempted_text(by: PreemptedBy) -> str:
    """Who has stopped a run: ``by lab/low_battery, handled by 4kqz, cleaned up in 0.05 s``."""
    name = one_line(f"{by.plan_name}/{by.rule}")
    return f"by {name}, handled by {short_cid(by.cid)}, cleaned up in {seconds(by.cleanup_s)}"


def log_line(record: LogRecord, where: str) -> str:
    """A log record as a line, with its fields; those of several lines, such as a traceback, stand below it."""
    fields = {key: shown(value).strip("\n") for key, value in record.fields.items()}
    if fields.get("stream") == "stdout":  # what a command says is said in the ordinary way
        del fields["stream"]
    blocks = [value for value in fields.values() if "\n" in value]
    short = [f"{one_line(key)}={value}" for key, value in fields.items() if "\n" not in value]
    said = [shown(record.message), *short]
    begin = f"{local_time(record.time, '%H:%M:%S')} {coloured(f'{record.level:<7}')}"
    line = " ".join([begin, *([f"{one_line(where)}:"] if where else []), *said])
    return "\n".join([line, *blocks])


def failure_text(error: Error | None, of_step: bool = False) -> str:
    """A failure in one line: ``step archive: FileNotFoundError: … (actions.py:12)``; of a step, without its name."""
    if error is None:
        return ""
    place = f" ({error.file}:{error.line})" if error.file else ""
    step = f"step {error.step}: " if error.step and not of_step else ""
    return one_line(f"{step}{error.type}: {error.message}{place}")
