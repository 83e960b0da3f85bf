"""The why-ledger as it is kept."""

from collections.abc import Sequence

import msgspec

from aura.store import Execute, Unit
from aura.why import Why

_COLUMNS = "reason, detail, plan_name, item, rule, task_name, count, at, first_at, id"
_PUT = f"""INSERT INTO why ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)
 ON CONFLICT (id) DO UPDATE SET detail=excluded.detail, count=excluded.count, at=excluded.at"""  # noqa: S608 - our words


class WhyFilter(msgspec.Struct, frozen=True):
    """Which lines are wanted; what is None does not restrict. Times are Unix seconds, of the last time of a line."""

    plan_name: str | None = None
    item: str | None = None
    rule: str | None = None
    task_name: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None


_NAMES = ("plan_name", "item", "rule", "task_name", "reason")


def fits(line: Why, wanted: WhyFilter) -> bool:
    """Whether a line is wanted."""
    at = line.at or 0.0
    return (
        all(getattr(wanted, name) in (None, getattr(line, name)) for name in _NAMES)
        and (wanted.since is None or at >= wanted.since)
        and (wanted.until is None or at < wanted.until)
    )


def put_why(lines: Sequence[Why]) -> Unit:
    """The unit that writes lines with their ids and times; one that is there is written anew."""
    rows = [msgspec.structs.astuple(line) for line in lines]

    def unit(execute: Execute) -> None:
        for row in rows:
            execute(_PUT, row)

    return unit


def last_why(execute: Execute) -> int:
    """The id of the last line; 0 if there is none."""
    last: int | None = execute("SELECT max(id) FROM why").fetchone()[0]
    return last or 0


def list_why(execute: Execute, wanted: WhyFilter, limit: int, before: tuple[float, int] | None = None) -> list[Why]:
    """The newest lines first, at most ``limit``, all older than the one with this time and id."""
    times = {"at >= ?": wanted.since, "at < ?": wanted.until}
    given = {f"{name} = ?": getattr(wanted, name) for name in _NAMES} | times
    conditions = {sql: value for sql, value in given.items() if value is not None}
    values = list(conditions.values())
    place = ["(at, id) < (?, ?)"] if before is not None else []
    where = " AND ".join([*conditions, *place]) or "1"
    sql = f"SELECT {_COLUMNS} FROM why WHERE {where} ORDER BY at DESC, id DESC LIMIT ?"  # noqa: S608 - our own words
    return [Why(*row) for row in execute(sql, (*values, *(before or ()), limit))]
