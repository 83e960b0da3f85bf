"""What may stand between the engine and the code of plans: in a test, the fakes, the guard and whoever counts awaits.

A server has none. Whatever stands here sees each action just before it is called, each service just before it is
opened, and each attempt as the coroutine that the engine is about to await; the engine goes on with what it gives.
"""

from collections.abc import Coroutine
from typing import Any, Protocol

from aura.actions import Action
from aura.runs.attempt import Attempt
from aura.servicedef import Service


class Interceptor(Protocol):
    """Asked by the work layer, on the loop; what it raises is the attempt's error, or that of who needs the service."""

    def action(self, action: Action) -> Action:
        """The action that is called in place of this one; this one itself if nothing stands for it."""
        ...

    def service(self, service: Service) -> Service:
        """The service that is opened in place of this one."""
        ...

    def attempt(self, attempt: Attempt, coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """What is awaited in place of an attempt's coroutine. It hears each send and throw and ends likewise."""
        ...
