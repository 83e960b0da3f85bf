"""Which names an expression may use where it stands, so that a misspelt one is found when a plan is loaded."""

from collections.abc import Collection, Iterator, Mapping

from aura.expressions import Condition, Template
from aura.fields import Path, Reader, members
from aura.sandbox import near

#: Names of the language that nothing provides yet.
_LATER = frozenset({"state", "loop"})
_ELSEWHERE = {
    "result": "is there only in a step's outputs",
    "error": "is there only in on_failure and finally",
    "due": "is there only in a schedule; in a task it is run.due",
}
_EVERYWHERE = frozenset({"inputs", "vars", "plan", "run", "steps", "event", "now"})
_KEYS_OF_PLAN = ("name", "dir")
_KEYS_OF_RUN = ("cid", "plan_name", "task_name", "attempt", "workdir", "due", "labels", "state", "reason")


class Names:
    """The names that expressions of one task may use: of its inputs, of its plan's vars, of its steps."""

    def __init__(
        self,
        reader: Reader,
        inputs: Collection[str],
        variables: Collection[str],
        steps: Collection[str],
    ) -> None:
        self._reader = reader
        self._members: Mapping[str, tuple[Collection[str], str]] = {
            "inputs": (inputs, "the task has no input"),
            "vars": (variables, "plan.yaml has no variable"),
            "steps": (steps, "the task has no step"),
            "plan": (_KEYS_OF_PLAN, "plan has no"),
            "run": (_KEYS_OF_RUN, "run has no"),
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

    def _messages(
        self, used: Template | Condition, extra: Collection[str], after: Collection[str] | None
    ) -> Iterator[str]:
        for name in sorted(used.names):
            if name in _LATER:
                yield f"`{name}` is not supported yet"
            elif name in _ELSEWHERE and name not in extra:
                yield f"`{name}` {_ELSEWHERE[name]}"
            elif name not in _EVERYWHERE and name not in extra:
                yield f"unknown name {name!r}{near(name, (*_EVERYWHERE, *extra))}"
        for root, key in sorted(used.members):
            if root in self._members:
                yield from self._of_member(root, key, after)

    def _of_member(self, root: str, key: str, after: Collection[str] | None) -> Iterator[str]:
        known, message = self._members[root]
        if key not in known:
            yield f"{message} {key!r}{near(key, known)}"
        elif root == "steps" and after is not None and key not in after:
            yield f"steps.{key} is named here, but this step does not come after {key}; add it to depends_on"


def after_each(graph: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Give for each step all that end before it starts; ``graph`` is in an order that respects its dependencies."""
    found: dict[str, frozenset[str]] = {}
    for name, needs in graph.items():
        found[name] = frozenset(needs).union(*(found[need] for need in needs))
    return found
