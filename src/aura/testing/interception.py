"""What stands between a world's engine and its plans: fakes in place of actions and services, the guard,
and whoever follows the attempts.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from aura.actions import Action
from aura.runs.attempt import Attempt
from aura.servicedef import Service
from aura.testing.fakes import Fake, FakeError, fake_service
from aura.testing.guarding.guard import Guard
from aura.testing.plancode import Marked, marked_service

Around = Callable[[Attempt, Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


class Interception:
    """An ``Interceptor``: what a world has put in place of what."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.fakes: dict[str, Fake] = {}
        self.services: dict[str, Any] = {}
        #: Gives what is awaited in place of an attempt's coroutine, by somebody who follows it (``following``).
        self.around_attempt: Around | None = None
        #: Whether ``plancode.RUNNING`` says whose code runs; set before the run that it is asked about.
        self.marks = not guard.everything
        #: Told of each attempt, and each service, that is about to begin.
        self.on_begin: Callable[[], object] = bool
        #: Told when an attempt has ended; None for nobody.
        self.on_end: Callable[[], object] | None = None
        self._made: list[Fake] = []

    def put(self, fake: Fake) -> None:
        """Put a fake in place of its action; what was there before is asked no more."""
        self._made.append(fake)
        self.fakes[fake.name] = fake

    def action(self, action: Action) -> Action:
        fake = self.fakes.get(action.name)
        self.guard.begin(action, is_fake=fake is not None)
        return action if fake is None else fake.action

    def service(self, service: Service) -> Service:
        if service.full_name not in self.services:
            self.on_begin()
            return marked_service(self.guard.watched(service)) if self.marks else service
        return fake_service(service, self.services[service.full_name])

    def attempt(self, attempt: Attempt, coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        self.on_begin()
        if self.on_end is not None:
            coroutine = _told_of_its_end(coroutine, self.on_end)
        if self.marks:
            coroutine = Marked(attempt, coroutine)
        return coroutine if self.around_attempt is None else self.around_attempt(attempt, coroutine)

    @property
    def errors(self) -> list[FakeError]:
        """What fakes could not be real about, those that were replaced since as well."""
        return [error for fake in self._made for error in fake.errors]


async def _told_of_its_end(coroutine: Coroutine[Any, Any, Any], tell: Callable[[], object]) -> Any:
    try:
        return await coroutine
    finally:
        tell()
