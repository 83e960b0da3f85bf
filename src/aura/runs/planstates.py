"""What all plans remember, and what of it an attempt is given. ``planstate`` is one plan's, and tells how it works."""

from collections.abc import Callable
from typing import Any

from anyio.lowlevel import checkpoint

from aura.events import Emitter
from aura.records.columns import decode
from aura.records.state import StateRow
from aura.runs.planstate import Ground, PlanState


class StateAccess:
    """What stands behind ``ctx.state`` of one attempt (``actions.StateHost``)."""

    __slots__ = ("_origin", "_state")

    def __init__(self, state: PlanState, origin: Callable[[], Emitter]) -> None:
        self._state = state
        self._origin = origin

    async def get(self, key: str, default: Any) -> Any:
        self._state.checked_key(key)
        await checkpoint()  # who asks again and again lets others go on, and can be stopped
        data = self._state.get(key)
        return default if data is None else decode(data)

    async def set(self, key: str, value: Any, ttl: float | str | None) -> None:
        await self._state.set(key, value, ttl, self._origin())

    async def delete(self, key: str) -> bool:
        return await self._state.delete(key, self._origin())

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | str | None) -> bool:
        return await self._state.compare_and_set(key, expected, value, ttl, self._origin())

    async def keys(self, prefix: str) -> list[str]:
        await checkpoint()
        return [key for key in self._state.list_keys() if key.startswith(prefix)]


class PlanStates:
    """What all plans remember."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._states: dict[str, PlanState] = {}

    def of(self, plan_name: str) -> PlanState:
        """The state of a plan, which may be empty."""
        state = self._states.get(plan_name)
        if state is None:
            state = self._states[plan_name] = PlanState(plan_name, self._ground)
        return state

    def access(self, plan_name: str, origin: Callable[[], Emitter]) -> StateAccess:
        """What an attempt has as the state of a plan; ``origin`` says who makes its changes."""
        return StateAccess(self.of(plan_name), origin)

    def take_over(self, rows: list[StateRow]) -> None:
        """Take what older starts have left, and let go of what has expired since."""
        for plan_name, key, value, expires_at in rows:
            self.of(plan_name).load(key, (value, expires_at))
        for state in self._states.values():
            state.forget_expired()
