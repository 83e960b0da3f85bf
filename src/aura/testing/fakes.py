"""Fakes: what a test puts in place of actions and services, checked so that none can do what the real one could not.

A fake of an action takes the parameters that the real one takes, checked as for a real call, and gives a result that
the real one's annotation allows. What is wrong with a fake when it is made is raised there; what turns out only when it
is called, such as a result of ``does``, is raised in the step, and again at the end of the test (``World.check``), so
that no plan that survives a failing step hides it.

Parameters are shown as plain JSON data, with the defaults of those that the step leaves out.
"""

import copy
import inspect
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import anyio
import msgspec

from aura.actions import Action, decode_result, plain_json
from aura.duration import parse_duration
from aura.errors import BadOutput
from aura.sandbox import near
from aura.servicedef import Service

#: Stands for what was not given.
_NOTHING: Any = object()
_WORDS = ("returns", "raises", "does", "sequence", "takes")
_ONE = "give one of returns=…, raises=…, does=…, sequence=[…], and takes=… if a call lasts"

#: What a fake does when it is called, with the parameters that it was called with.
_Answer = Callable[[Mapping[str, Any]], Any]


class FakeError(AssertionError):
    """A fake that could not be real, or that is called more often than it has answers."""


class Fake:
    """Stands for an action. ``calls`` has the parameters of each call, in their order."""

    def __init__(self, action: Action, answer: _Answer, takes: float) -> None:
        self.name = action.name
        self.calls: list[dict[str, Any]] = []
        #: What it was asked and could not be real about.
        self.errors: list[FakeError] = []
        self._real = action
        self._answer = answer
        self._takes = takes

    def __repr__(self) -> str:
        times = len(self.calls)
        return f"<Fake {self.name}, {'called once' if times == 1 else f'called {times} times'}>"

    @property
    def action(self) -> Action:
        """The action that the engine calls."""
        return msgspec.structs.replace(
            self._real, function=self._call, is_async=True, wants_context=False, isolated=False, services=()
        )

    async def _call(self, **params: Any) -> Any:
        given = {name: _plain(value) for name, value in params.items()}
        self.calls.append(given)
        if self._takes:
            await anyio.sleep(self._takes)
        try:
            answer = self._answer(given)
            if inspect.isawaitable(answer):
                answer = await answer
            return _checked(self._real, answer)
        except FakeError as error:
            self.errors.append(error)
            raise


def make_fake(
    action: Action,
    returns: Any = _NOTHING,
    raises: Any = None,
    does: Callable[..., Any] | None = None,
    takes: float | str = 0.0,
    sequence: Sequence[Any] | None = None,
    **unknown: Any,
) -> Fake:
    """Make a fake of an action, with at most one of ``returns``, ``raises``, ``does``, ``sequence``.

    ``returns``: the result of each call. ``raises``: an exception, or a class of one. ``does``: called with the
    parameters by name, those of which it takes; it may be async. ``sequence``: for each call a result or an exception,
    in their order. ``takes``: for how long each call lasts before that, in seconds or as text.

    Raises:
        FakeError: no action like this one could do so; the message says why.
    """
    for word in unknown:
        raise FakeError(f"the fake of {action.name} has {word!r}{near(word, _WORDS)}: {_ONE}")
    said = {"returns": returns is not _NOTHING, "raises": raises is not None}
    said |= {"does": does is not None, "sequence": sequence is not None}
    if sum(said.values()) > 1:
        both = " and ".join(name for name, there in said.items() if there)
        raise FakeError(f"the fake of {action.name} has {both}: {_ONE}")
    if does is not None:
        answer = _doing(action, does)
    elif sequence is not None:
        answer = _in_turn(action, sequence)
    elif raises is not None:
        answer = _raising(action, raises)
    else:
        answer = _always(action, None if returns is _NOTHING else returns)
    return Fake(action, answer, _lasting(action, takes))


def _lasting(action: Action, takes: float | str) -> float:
    try:
        seconds = takes if isinstance(takes, int | float) else float(parse_duration(takes))
    except ValueError as error:
        raise FakeError(f"the fake of {action.name}: takes={takes!r}: {error}") from None
    if not (0 <= seconds < math.inf):  # also what is no number
        raise FakeError(f"the fake of {action.name}: takes={takes!r} is no time that a call can last")
    return seconds


def _always(action: Action, outcome: Any) -> _Answer:
    kept = _kept(action, outcome)
    return lambda _: _come_out(kept)


def _raising(action: Action, error: Any) -> _Answer:
    if not _is_error(error):
        raise _no_failure(action, error)
    return lambda _: _come_out(error)


def _in_turn(action: Action, outcomes: Sequence[Any]) -> _Answer:
    if not isinstance(outcomes, list | tuple):
        raise FakeError(f"the fake of {action.name}: sequence is a list, an outcome for each call, not {outcomes!r}")
    left = [_kept(action, outcome) for outcome in outcomes]

    def answer(_: Mapping[str, Any]) -> Any:
        if not left:
            raise FakeError(f"the fake of {action.name} was called once more than its sequence of {len(outcomes)} has")
        return _come_out(left.pop(0))

    return answer


def _doing(action: Action, does: Callable[..., Any]) -> _Answer:
    if not callable(does):
        raise FakeError(f"the fake of {action.name}: does={does!r} cannot be called; for a result say returns=…")
    taken = _taken_by(action, does)
    return lambda params: does(**{name: value for name, value in params.items() if taken is None or name in taken})


def _taken_by(action: Action, does: Callable[..., Any]) -> set[str] | None:
    """The parameters that a function takes by name; None for all.

    Raises:
        FakeError: it has no place for one that every call has.
    """
    fields = msgspec.structs.fields(action.params)
    try:
        signature = inspect.signature(does)
    except (TypeError, ValueError):  # some built-in functions have none
        return None
    if any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
        return None
    taken = {name for name in signature.parameters if name in action.params.__struct_fields__}
    try:
        signature.bind(**dict.fromkeys(taken | {one.name for one in fields if one.required}))
    except TypeError as error:
        names = ", ".join(action.params.__struct_fields__) or "none"
        raise FakeError(f"does of the fake of {action.name}: {error}; the action's parameters are: {names}") from None
    return taken


def _kept(action: Action, outcome: Any) -> Any:
    """An outcome as it is given later, whatever the test does with its objects meanwhile: plain data, or an error."""
    if _is_error(outcome):
        return outcome
    if isinstance(outcome, BaseException) or (isinstance(outcome, type) and issubclass(outcome, BaseException)):
        raise _no_failure(action, outcome)
    return copy.deepcopy(_checked(action, outcome))


def _no_failure(action: Action, outcome: Any) -> FakeError:
    return FakeError(f"the fake of {action.name}: {outcome!r} is no failure; raise a subclass of Exception")


def _checked(action: Action, result: Any) -> Any:
    """What a fake gives, as plain data, with the defaults of what is left out, as the real action gives it.

    Raises:
        FakeError: the action could not have given it.
    """
    try:
        data = action.check_result(result)
        if action.result is Any:
            return data
        return _filled(msgspec.convert(data, action.result, dec_hook=decode_result), data)
    except (BadOutput, msgspec.ValidationError) as error:
        raise FakeError(f"the fake of {action.name} cannot give {result!r:.200}: {error}") from None


def _filled(made: Any, given: Any) -> Any:
    """The plain data of which an object was made, with what else the object has: the defaults of its class.

    Raises:
        BadOutput: there is a key that the object's class does not have.
    """
    match made, given:
        case list() | tuple(), list():
            return [_filled(*both) for both in zip(made, given, strict=True)]
        case dict(), dict():
            return {name: _filled(made[name], value) if name in made else value for name, value in given.items()}
        case _, dict():
            known, shown = _fields_of(made), plain_json(made)
            if not isinstance(made, msgspec.Struct):  # msgspec leaves the defaults of a dataclass to its class
                shown |= plain_json(known)
            for name in given.keys() - known.keys() - shown.keys():
                raise BadOutput(f"{type(made).__name__} has no {name!r}{near(name, known)}")
            return shown | {name: _filled(known.get(name, value), value) for name, value in given.items()}
    return given


def _fields_of(made: Any) -> dict[str, Any]:
    """The fields of an object by the names under which they appear."""
    if isinstance(made, msgspec.Struct):
        names = zip(made.__struct_encode_fields__, made.__struct_fields__, strict=True)
        return {shown: getattr(made, name) for shown, name in names}
    return {name: getattr(made, name) for name in getattr(made, "__dataclass_fields__", ())}


def _come_out(outcome: Any) -> Any:
    if not _is_error(outcome):
        return copy.deepcopy(outcome)
    raise outcome if isinstance(outcome, type) else outcome.with_traceback(None)


def _is_error(outcome: Any) -> bool:
    return isinstance(outcome, Exception) or (isinstance(outcome, type) and issubclass(outcome, Exception))


def _plain(value: Any) -> Any:
    try:
        return plain_json(value)
    except BadOutput:
        return value


def fake_service(service: Service, value: Any) -> Service:
    """A service that opens at once and is this value; nothing of the real one's code runs."""

    async def opened() -> AsyncIterator[Any]:
        yield value

    return msgspec.structs.replace(service, function=opened, wants_context=False, needs=())
