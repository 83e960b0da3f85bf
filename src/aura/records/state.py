"""What plans remember, as it is kept: a row for each key."""

from collections.abc import Collection

from aura.errors import Lost
from aura.store import Execute, Unit

_PUT = """INSERT INTO state VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE SET value=excluded.value,
 changed_at=excluded.changed_at, expires_at=excluded.expires_at"""
_DROP = "DELETE FROM state WHERE plan_name=? AND key=?"
_GET = "SELECT value, expires_at FROM state WHERE plan_name=? AND key=?"

#: (value as JSON, when it expires or None)
Kept = tuple[bytes, float | None]
#: (plan_name, key, value, expires_at)
StateRow = tuple[str, str, bytes, float | None]


def put_state(plan_name: str, key: str, kept: Kept, at: float) -> Unit:
    """The unit that gives a key a value."""
    value, expires_at = kept
    row = (plan_name, key, value, at, expires_at)

    def unit(execute: Execute) -> None:
        execute(_PUT, row)

    return unit


def drop_state(plan_name: str, keys: Collection[str]) -> Unit:
    """The unit that forgets keys."""

    def unit(execute: Execute) -> None:
        for key in keys:
            execute(_DROP, (plan_name, key))

    return unit


def expect_state(plan_name: str, key: str, former: Kept | None) -> Unit:
    """The unit that changes nothing and fails if a key is not as it was when its change was decided.

    Raises (when it runs):
        Lost: it is not.
    """

    def unit(execute: Execute) -> None:
        if execute(_GET, (plan_name, key)).fetchone() != former:
            raise Lost(f"the key {key} of plan {plan_name} was not what it was to be compared with")

    return unit


def read_states(execute: Execute) -> list[StateRow]:
    """All that all plans remember, what has expired included."""
    return execute("SELECT plan_name, key, value, expires_at FROM state").fetchall()
