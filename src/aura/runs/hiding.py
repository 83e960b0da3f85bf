"""What is kept of runs and steps, with the secrets in it hidden: the rows as the store gets them.

In memory a value stays as it is, so that the next step can use it; what is on record, and so what every door shows and
what a restart finds, has ``***`` in its place. Only the secret inputs of a run are kept as they are: it could not begin
without them.
"""

from typing import Any

import msgspec

from aura.masking import uncovered
from aura.records.columns import decode, encode
from aura.records.runs import Accepted, ItemRow, RunColumns, StepRow
from aura.redaction import Redactor
from aura.wait import OpenWait


def hidden_step(redactor: Redactor, row: StepRow) -> StepRow:
    """The row of a step without secrets."""
    seq, name, state, attempt, starts, began, ended, output, outputs, error, because, explained = row
    values = (_json(redactor, output), _json(redactor, outputs), _json(redactor, error))
    reasons = (because and redactor.text(because), _json(redactor, explained))
    return (seq, name, state, attempt, starts, began, ended, *values, *reasons)


def hidden_item(redactor: Redactor, row: ItemRow) -> ItemRow:
    """The row of an item without secrets."""
    seq, name, index, state, attempt, starts, began, ended, output, outputs, error = row
    values = (_json(redactor, output), _json(redactor, outputs), _json(redactor, error))
    return (seq, name, index, state, attempt, starts, began, ended, *values)


def hidden_columns(redactor: Redactor, columns: RunColumns) -> RunColumns:
    """The columns of a run without secrets."""
    return msgspec.structs.replace(
        columns,
        reason=columns.reason and redactor.text(columns.reason),
        result=_json(redactor, columns.result),
        error=_json(redactor, columns.error),
        cleanup_error=_json(redactor, columns.cleanup_error),
    )


def hidden_wait(redactor: Redactor, waits: OpenWait) -> OpenWait:
    """A wait without secrets in what is asked."""
    wait = waits.wait
    shown = msgspec.structs.replace(
        wait,
        pattern=wait.pattern and redactor.text(wait.pattern),
        message=wait.message and redactor.text(wait.message),
        inputs=redactor.plain(wait.inputs),
    )
    return msgspec.structs.replace(waits, wait=shown)


def hidden_request(redactor: Redactor, accepted: Accepted) -> Accepted:
    """An accepted request without secrets, but for its secret inputs."""
    shown = redactor.encoded(accepted.inputs)
    if shown is not accepted.inputs and accepted.secret_inputs:
        shown = encode(uncovered(decode(shown), decode(accepted.inputs), accepted.secret_inputs))
    labels = redactor.plain(dict(accepted.labels))
    return msgspec.structs.replace(accepted, inputs=shown, labels=labels)


def _json(redactor: Redactor, data: bytes | None) -> bytes | None:
    return None if data is None else redactor.encoded(data)


def secrets_in(value: Any) -> list[str]:
    """Every text, and number as text, in a value that is secret as a whole."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for item in value.values() for text in secrets_in(item)]
        case list():
            return [text for item in value for text in secrets_in(item)]
        case int() | float() if not isinstance(value, bool):
            return [str(value)]
    return []
