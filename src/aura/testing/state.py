"""What a plan of a world remembers, as its test sees it: what is on record, and what was there before the beginning."""

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from aura.errors import StateInvalid
from aura.records.columns import decode
from aura.records.state import drop_state, put_state, read_states
from aura.redaction import Redactor
from aura.runs.keepable import kept_json
from aura.runs.planstate import check_key

if TYPE_CHECKING:
    from aura.testing.world import World


_NO_SECRETS = Redactor()


class WorldState(MutableMapping[str, Any]):
    """The plan's state by key, as plain data. It may be changed until the world begins; then actions change it."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def _all(self) -> dict[str, Any]:
        now = self._world.now
        rows = [row for row in read_states(self._world.backend.execute) if row[0] == self._world.plan_name]
        return {key: decode(value) for _, key, value, expires_at in rows if expires_at is None or expires_at > now}

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __setitem__(self, key: str, value: Any) -> None:
        self._world.check_not_begun("state")
        try:
            check_key(key)
            data = kept_json(value, _NO_SECRETS, StateInvalid)
        except StateInvalid as error:
            raise ValueError(f"world.state[{key!r:.60}]: {error}") from None
        put_state(self._world.plan_name, key, (data, None), self._world.now)(self._world.backend.execute)

    def __delitem__(self, key: str) -> None:
        self._world.check_not_begun("state")
        self[key]  # it has to be there
        drop_state(self._world.plan_name, [key])(self._world.backend.execute)

    def __repr__(self) -> str:
        return repr(self._all())
