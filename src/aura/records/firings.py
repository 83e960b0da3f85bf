"""Firings of interrupt rules and their victims, as they are kept."""

from collections.abc import Sequence
from typing import Any

import msgspec

from aura.interrupt import Terms
from aura.records.columns import decode, encode
from aura.store import Execute, Unit

_INSERT = "INSERT INTO firing VALUES (?,?,?,?,?,?,?,?,?,NULL,NULL)"
#: One statement for all: each one takes the interpreter's lock from the loop, which is busy with stopping them.
_INSERT_VICTIMS = "INSERT INTO victim SELECT ?, value, NULL, NULL FROM json_each(?)"
_COLUMNS = "id, plan_name, rule, event_id, cid, priority, at, terms, event, ended_at, outcome"


class FiringRow(msgspec.Struct, frozen=True):
    """A firing as it is on record. ``event`` is the event as its handler sees it; times are Unix seconds."""

    id: int
    plan_name: str
    rule: str
    event_id: str
    cid: str
    priority: int
    at: float
    terms: Terms
    event: Any
    ended_at: float | None = None
    outcome: str | None = None


class VictimRow(msgspec.Struct, frozen=True):
    """A run that a firing has stopped."""

    firing: int
    seq: int
    gone_at: float | None
    outcome: str | None


class OpenFiring(msgspec.Struct, frozen=True):
    """A firing that an older boot left open, with its victims."""

    row: FiringRow
    victims: Sequence[VictimRow]


def open_firing(row: FiringRow, victims: Sequence[int]) -> Unit:
    """The unit that keeps a new firing, with the sequences of its victims.

    It fails when it runs if the event has fired the rule before.
    """
    values = (row.id, row.plan_name, row.rule, row.event_id, row.cid, row.priority, row.at)
    kept = (*values, encode(row.terms), encode(row.event))
    stopped = encode(victims).decode()

    def unit(execute: Execute) -> None:
        execute(_INSERT, kept)
        execute(_INSERT_VICTIMS, (row.id, stopped))

    return unit


def victim_gone(firing: int, seq: int, at: float, outcome: str) -> Unit:
    """The unit that says that a victim is gone, and what became of it. Harmless if that is known."""
    sql = "UPDATE victim SET gone_at=?, outcome=? WHERE firing=? AND seq=? AND gone_at IS NULL"

    def unit(execute: Execute) -> None:
        execute(sql, (at, outcome, firing, seq))

    return unit


def end_firing(id: int, at: float, outcome: str) -> Unit:
    """The unit that ends a firing. Harmless if it has ended."""

    def unit(execute: Execute) -> None:
        execute("UPDATE firing SET ended_at=?, outcome=? WHERE id=? AND ended_at IS NULL", (at, outcome, id))

    return unit


def read_open_firings(execute: Execute) -> list[OpenFiring]:
    """All firings that have not ended, in their order."""
    sql = f"SELECT {_COLUMNS} FROM firing WHERE ended_at IS NULL ORDER BY id"  # noqa: S608 - our own words
    rows = [_row(row) for row in execute(sql).fetchall()]
    return [OpenFiring(row, read_victims(execute, row.id)) for row in rows]


def read_victims(execute: Execute, firing: int) -> list[VictimRow]:
    """The victims of a firing."""
    found = execute("SELECT firing, seq, gone_at, outcome FROM victim WHERE firing=? ORDER BY seq", (firing,))
    return [VictimRow(*row) for row in found.fetchall()]


class Stopped(msgspec.Struct, frozen=True):
    """A run that a firing has stopped, as its handler shows it: ``gone_at`` and ``outcome`` are those of its row."""

    cid: str
    outcome: str | None
    gone_at: float | None


class StoppedRuns(msgspec.Struct, frozen=True):
    """The runs that a firing has stopped: how many there are, and the first of them."""

    total: int = 0
    first: Sequence[Stopped] = ()


def read_stopped(execute: Execute, cid: str, limit: int) -> StoppedRuns:
    """What the firing whose handler this is has stopped, at most ``limit`` of it in the order of acceptance."""
    source = "FROM victim JOIN firing ON firing.id = victim.firing WHERE firing.cid=?"
    total = execute(f"SELECT count(*) {source}", (cid,)).fetchone()[0]
    if not total:
        return StoppedRuns()
    source = "FROM victim JOIN firing ON firing.id = victim.firing JOIN run ON run.seq = victim.seq WHERE firing.cid=?"
    sql = f"SELECT run.cid, victim.outcome, victim.gone_at {source} ORDER BY victim.seq LIMIT ?"
    return StoppedRuns(total, [Stopped(*row) for row in execute(sql, (cid, limit)).fetchall()])


class LastFiring(msgspec.Struct, frozen=True):
    """The last firing of a rule, and what it has stopped."""

    row: FiringRow
    stopped: StoppedRuns


def read_last_fired(execute: Execute, limit: int = 100) -> list[LastFiring]:
    """The last firing of each rule, with at most ``limit`` of the runs that it has stopped."""
    sql = f"SELECT {_COLUMNS} FROM firing WHERE id IN (SELECT max(id) FROM firing GROUP BY plan_name, rule)"  # noqa: S608
    rows = [_row(row) for row in execute(sql).fetchall()]
    return [LastFiring(row, read_stopped(execute, row.cid, limit)) for row in rows]


def read_handler_state(execute: Execute, cid: str) -> str | None:
    """The state of a handler as it is on record; None if it is not any more."""
    found = execute("SELECT state FROM run WHERE cid=?", (cid,)).fetchone()
    return found[0] if found else None


def _row(row: Sequence[Any]) -> FiringRow:
    id, plan_name, rule, event_id, cid, priority, at, terms, event, ended_at, outcome = row
    kept = msgspec.json.decode(terms, type=Terms)
    return FiringRow(id, plan_name, rule, event_id, cid, priority, at, kept, decode(event), ended_at, outcome)
