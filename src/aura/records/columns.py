"""How values stand in columns: JSON as msgspec writes it."""

from typing import Any

import msgspec

from aura.lifecycle import FINAL, RunState

#: The states of runs as SQL lists them: those that are final, and those that are not.
FINAL_STATES = ", ".join(f"'{state}'" for state in sorted(FINAL))
OPEN_STATES = ", ".join(f"'{state}'" for state in RunState if state not in FINAL)

encode = msgspec.json.encode
decode = msgspec.json.decode


def encoded(value: Any) -> bytes | None:
    """JSON of a value; None stays NULL."""
    return None if value is None else encode(value)


def decoded(data: bytes | str | None) -> Any:
    return None if data is None else decode(data)
