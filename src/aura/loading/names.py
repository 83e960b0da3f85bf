"""Which names an expression may use where it stands, so that a misspelt one is found when a plan is loaded."""

from collections.abc import Collection, Iterator, Mapping

from aura import eventnames
from aura.expressions import Condition, Keys, Template
from aura.loading.fields import Path, Reader, members
from aura.sandbox import near
from aura.task import Step

_ELSEWHERE = {
    "loop": "is there only in a step that loops: in its params, outputs, retry.when, while and until",
    "result": "is there only in a step's outputs and retry.when",
    "error": "is there only in a step's retry.when, in on_failure and in finally",
    "due": "is there only in a schedule; in a task it is run.due",
}
_EVERYWHERE = frozenset({"inputs", "vars", "secrets", "state", "plan", "run", "steps", "event", "now"})
#: What is known when a run is asked for, and so is there in the key of a mode.
_AT_REQUEST = frozenset({"inputs", "vars", "plan", "run", "now"})
_KEYS_OF_RUN_AT_REQUEST = ("labels",)
_KEYS_OF_PLAN = ("name", "dir")
_KEYS_OF_RUN = ("cid", "plan_name", "task_name", "attempt", "workdir", "due", "labels", "state", "reason")
_KEYS_OF_LOOP = ("item", "index", "last")
_KEYS_OF_STEP = ("state", "output", "outputs", "error", "attempt")
#: Further ones of a step that loops.
_KEYS_OF_LOOPING = ("each", "failed")
_KEYS_OF_ITEM = ("item", "state", "output", "error")
_KEYS_OF_ERROR = ("type", "message", "step", "item", "file", "line", "cause")


class Names:
    """The names that expressions of one task may use: of its inputs, of its plan's vars and secrets, of its steps."""

    def __init__(
        self,
        reader: Reader,
        inputs: Collection[str],
        variables: Collection[str],
        secrets: Collection[str],
        steps: Mapping[str, Step],
    ) -> None:
        self._reader = reader
        self._steps = steps
        self._members: Mapping[str, tuple[Collection[str], str]] = {
            "inputs": (inputs, "the task has no input"),
            "vars": (variables, "plan.yaml has no variable"),
            "secrets": (secrets, "plan.yaml does not declare the secret"),
            "steps": (steps, "the task has no step"),
            "plan": (_KEYS_OF_PLAN, "plan has no"),
            "run": (_KEYS_OF_RUN, "run has no"),
            "loop": (_KEYS_OF_LOOP, "loop has no"),
            "error": (_KEYS_OF_ERROR, "error has no"),
            "event": (eventnames.KEYS, "an event has no"),
        }

    def check(
        self, path: Path, used: Template | Condition, extra: Collection[str] = (), after: Collection[str] | None = None
    ) -> None:
        """Note each unknown name; ``extra`` are the names of this place, ``after`` the steps that have ended by then.

        ``after`` is None where all steps may be named.
        """
        if used.constant:
            return
        messages = list(self._messages(used, extra, after))
        if not messages:
            return
        value = used.value
        if isinstance(value, dict | list):
            for key, item in members(value):
                self.check((*path, key), Template(item, used.at), extra, after)
        else:
            for message in messages:
                self._reader.problem(path, message)

    def check_mode_key(self, path: Path, used: Template) -> None:
        """Note each name in the key of a mode that is unknown, or not known yet when a run is asked for."""
        early = [name for name in sorted(used.names & _EVERYWHERE) if name not in _AT_REQUEST]
        early += sorted(f"run.{keys[1]}" for keys in used.paths if _is_of_later_run(keys))
        for name in early:
            self._reader.problem(path, f"`{name}` is not there in the key of a mode, which is made with the request")
        if not early:
            self.check(path, used)

    def _messages(
        self, used: Template | Condition, extra: Collection[str], after: Collection[str] | None
    ) -> Iterator[str]:
        for name in sorted(used.names):
            if name in _ELSEWHERE and name not in extra:
                yield f"`{name}` {_ELSEWHERE[name]}"
            elif name not in _EVERYWHERE and name not in extra:
                yield f"unknown name {name!r}{self._meant(name) or near(name, (*_EVERYWHERE, *extra))}"
        for keys in sorted(used.paths, key=repr):
            if keys[0] not in _ELSEWHERE or keys[0] in extra:
                yield from self._of_keys(keys, after)

    def _meant(self, name: str) -> str:
        """A hint for a name that stands alone where it has to be asked of something; else nothing."""
        roots = [root for root in ("steps", "inputs", "vars", "secrets") if name in self._members[root][0]]
        return f"; did you mean '{roots[0]}.{name}'?" if roots else ""

    def _of_keys(self, keys: Keys, after: Collection[str] | None) -> Iterator[str]:
        """Check the last of some keys; those before it are checked by themselves."""
        match keys:
            case (str(root), key) if root in self._members:
                yield from self._of_member(root, str(key), after)
            case ("steps", name, key) if name in self._steps:
                yield from self._of_step(self._steps[str(name)], str(key))
            case ("steps", name, "outputs", key) if name in self._steps:
                yield from _unknown(key, self._steps[str(name)].outputs, f"step {name} has no output")
            case ("steps", name, "error", key) if name in self._steps:
                yield from _unknown(key, _KEYS_OF_ERROR, f"steps.{name}.error has no")
            case ("steps", name, "each" | "failed" as items, int(), key) if name in self._steps:
                yield from _unknown(key, _KEYS_OF_ITEM, f"an element of steps.{name}.{items} has no")

    def _of_member(self, root: str, key: str, after: Collection[str] | None) -> Iterator[str]:
        known, message = self._members[root]
        yield from _unknown(key, known, message)
        if root == "steps" and key in known and after is not None and key not in after:
            yield f"steps.{key} is named here, but this step does not come after {key}; add it to depends_on"

    def _of_step(self, step: Step, key: str) -> Iterator[str]:
        if key in _KEYS_OF_LOOPING and step.loop is None:
            yield f"steps.{step.name}.{key} is there only of a step that loops, and {step.name} does not"
        elif key not in _KEYS_OF_STEP and key not in _KEYS_OF_LOOPING:
            yield f"steps.{step.name} has no {key!r}{near(key, (*_KEYS_OF_STEP, *_KEYS_OF_LOOPING))}"


def _unknown(key: str | int, known: Collection[str], message: str) -> Iterator[str]:
    if key not in known:
        yield f"{message} {str(key)!r}{near(str(key), known)}"


def _is_of_later_run(keys: Keys) -> bool:
    """Say whether this is ``run.x`` of which the value is not known when the run is asked for."""
    return len(keys) == 2 and keys[0] == "run" and keys[1] in _KEYS_OF_RUN and keys[1] not in _KEYS_OF_RUN_AT_REQUEST


def after_each(graph: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Give for each step all that end before it starts; ``graph`` is in an order that respects its dependencies."""
    found: dict[str, frozenset[str]] = {}
    for name, needs in graph.items():
        found[name] = frozenset(needs).union(*(found[need] for need in needs))
    return found
