"""The plans of a world: those that a test is about and those that they use, out of a folder that may have many more.

``find_action`` and ``find_service`` say which of them a test means by a name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from aura.actions import Action
from aura.errors import RequestError
from aura.loading.generation import Generation
from aura.loading.generations import Found, Generations, PlanStatus, Reading
from aura.loading.yamlfile import load
from aura.sandbox import near
from aura.servicedef import Service
from aura.testing.fakes import FakeError

T = TypeVar("T")


class PlansOf(Generations):
    """Some plans of a folder, and those that they use; whatever else lies there is not even read."""

    def __init__(self, wanted: Collection[str], *given: Any, **keys: Any) -> None:
        super().__init__(*given, **keys)
        self._wanted = tuple(wanted)

    async def reload(self, read: Reading | None = None) -> list[PlanStatus]:
        return await super().reload(read or self._read_wanted)

    def _read_wanted(self) -> Iterable[Found]:
        waiting, found = list(self._wanted), dict[str, Found]()
        while waiting:
            name = waiting.pop()
            if name not in found:
                snapshot = self.read(name)
                found[name] = Found(name, snapshot)
                waiting += _uses(snapshot.files.get("plan.yaml"))
        return [found[name] for name in sorted(found)]


def _uses(plan_yaml: bytes | None) -> list[str]:
    """The plans that one uses; of a file that is wrong the loader will say so."""
    try:
        said = load(plan_yaml or b"{}", "plan.yaml").value
        return [name for name in said.get("uses", ()) if isinstance(name, str)]
    except Exception:
        return []


# -- what a test means by a name


def find_action(generations: Generations, plan_name: str, name: str) -> Action:
    """The action that a name means in a test of a plan: ``ping``, ``lab.ping``, ``shell.run``, ``notify.mail``.

    Raises:
        FakeError: there is none; with a near name.
    """
    shipped = generations.shipped()
    if name in shipped:
        return shipped[name]
    actions = {f"{home.name}.{bare}": action for home in _served(generations) for bare, action in home.actions.items()}
    if found := _meant(actions, plan_name, name):
        return found
    known = _sayable(actions, plan_name) | set(shipped)
    raise FakeError(f"there is no action {name!r} to fake{near(name, sorted(known))}; `aura actions` shows all")


def find_service(generations: Generations, plan_name: str, name: str) -> Service:
    """The service that a name means in a test of a plan: ``camera``, or ``notify.smtp`` of another plan.

    Raises:
        FakeError: there is none; with a near name.
    """
    services = {f"{home.name}.{bare}": one for home in _served(generations) for bare, one in home.services.items()}
    if found := _meant(services, plan_name, name):
        return found
    known = sorted(_sayable(services, plan_name))
    raise FakeError(f"there is no service {name!r} to fake{near(name, known)}; there are: {', '.join(known) or 'none'}")


def _meant(known: Mapping[str, T], plan_name: str, name: str) -> T | None:
    return known.get(f"{plan_name}.{name}") or known.get(name)


def _sayable(known: Iterable[str], plan_name: str) -> set[str]:
    """The full names, and of the plan's own the bare ones."""
    full = set(known)
    return full | {name.removeprefix(f"{plan_name}.") for name in full}


def _served(generations: Generations) -> Iterator[Generation]:
    for status in generations.statuses():
        try:
            yield generations.current(status.name)
        except RequestError:  # a plan beside it that is broken has nothing to fake
            continue
