"""What steps and clients do with the event bus: emit an event, and return once it is on record.

A client is refused while too much is on its way to the store, a step waits. The rules of names and payloads are the
bus's own.
"""

from typing import Any

from aura.bus import Emitted
from aura.errors import EventRefused, RequestError
from aura.kernel.admission import Admission, refusal
from aura.runs.attempt import Attempt
from aura.runs.runtime import Runtime


class Emitting:
    """Emits events for whoever asks."""

    def __init__(self, runtime: Runtime, admission: Admission) -> None:
        self._runtime = runtime
        self._admission = admission

    async def for_client(self, name: str, payload: Any) -> Emitted:
        """Emit an event from outside.

        Raises:
            RequestError: ``reserved_event``, ``invalid``, ``events_full``, or it could not be stored; nothing was.
        """
        self._admission.check_open()
        self._admission.check_space()
        await self._runtime.bus.pace.turn()
        emitted = self._runtime.bus.emit(name, payload)
        try:
            await emitted.ticket.wait()
        except Exception as error:
            raise refusal(error) from error
        return emitted

    async def for_step(self, attempt: Attempt, name: str, payload: Any) -> str:
        """Emit an event of an attempt, and give its id. Raises as ``Context.emit`` does."""
        try:
            origin = attempt.run.emitter(attempt.step.name)
            emitted = await self._runtime.bus.emit_when_room(name, payload, origin=origin)
        except RequestError as refused:
            said = "; ".join(f"{error.path} {error.message}" for error in refused.errors)
            raise EventRefused(f"{refused.detail}: {said}" if refused.code == "invalid" else refused.detail) from None
        try:
            await emitted.ticket.wait()
        except Exception as error:
            raise EventRefused(f"event {name} could not be stored: {refusal(error).detail}") from error
        return str(emitted.entry.id)
