"""The unit that keeps log lines."""

from collections.abc import Sequence

from aura.events import LogEntry
from aura.records.columns import encoded
from aura.store import Execute, Unit

#: (id, cid, level, at, plan_name, task_name, step, attempt, message, fields)
LogRow = tuple[int, str | None, int, float, str | None, str | None, str | None, int | None, str, bytes | None]
_INSERT_LOG = "INSERT INTO log VALUES (?,?,?,?,?,?,?,?,?,?)"


def insert_logs(rows: Sequence[LogRow]) -> Unit:
    """The unit that keeps a batch of log lines."""

    def unit(execute: Execute) -> None:
        for row in rows:
            execute(_INSERT_LOG, row)

    return unit


def log_row(line: LogEntry) -> LogRow:
    """A log line as the store keeps it."""
    fields = encoded(line.fields or None)
    names = (line.plan_name, line.task_name, line.step)
    return (line.id, line.cid, line.level, line.time, *names, line.attempt, line.message, fields)
