"""Cases of the task language as data: what a plan says, what is asked of it, and what has to come of it.

A case is a mapping in one of the ``*.yaml`` files beside this one:

    case       its name, unique in its file
    task       the task ``t`` of plan ``p``, as in its file; ``tasks`` are further ones by name
    interrupts interrupts.yaml
    plan       plan.yaml; ``python`` is more code beside ``actions.py``; ``plans`` are others by name
    inputs     what the run is asked for with; further ``wishes`` of the request, such as ``labels``
    do         instead of one run of ``t``: what is done one after the other, see below
    resources  those of the settings; ``secrets``: by name, null is one that is nowhere, what is not said is random
    values     instead of a task: pairs of an expression and its value; ``wrong``: of one and a part of its error

and what has to come of it, all of it exact and nothing needed:

    state, reason, result
    error      members of the run's error that are compared; ``message`` is a part of it
    cleanup    the same of its ``cleanup_error``
    steps      the states of all its steps; one that never began or ended is not among them
    outputs    of some steps; ``errors``: the same as ``error``, of some steps
    because    of some steps: members of what explains why they were skipped
    record     further members of the run's record
    said       what the action ``say`` wrote, in order; a list in the list holds what may come in any order
    logged     parts of messages that stand in the log
    takes      virtual seconds from first to last
    runs       with ``do``: these keys by the name of the run
    all        by task: the states of all its runs, in the order of their acceptance
    refused    the code of the refusal, and its fields: {code, errors: {path: part of the message}}
    check      instead of a run: the problems that loading finds, each ``line:column: part of the message``

``do`` is a list of: ``start`` a task, with the request's wishes, named by ``as``; ``together``, a list of starts;
``find`` the last run of a task and name it; ``wait`` so many seconds; wait ``until`` a run, or a ``step`` of it, is
in a ``state``; ``cancel pause resume`` a run, set its ``priority``, ``rerun`` it; ``emit`` an event with a
``payload``; ``fire`` a rule, whose handler has its name, or that of ``as``; ``answer`` a ``step`` of a run, with its
``index``, ``values`` and ``approved: false``; ``crash`` or ``restart`` the server; ``stop`` or ``start`` its
``engine``. ``pause`` waits until it rests, unless ``rests`` is
false. With ``refused`` it has to be refused with this code.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from aura.loading.yamlfile import load

FOLDER = Path(__file__).parent
ACTIONS = (FOLDER / "actions.py").read_text()
KEYS = frozenset(
    {"case", "task", "tasks", "interrupts", "plan", "python", "plans", "inputs", "wishes", "do", "resources", "secrets"}
    | {"state", "reason", "result", "error", "cleanup", "steps", "outputs", "errors", "said", "takes", "runs"}
    | {"because", "record", "logged", "all", "refused", "check", "values", "wrong"}
)


class Case(msgspec.Struct, frozen=True):
    """One case, and where it stands."""

    file: str
    name: str
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.file}: {self.name}"

    def files(self) -> Iterator[tuple[str, str]]:
        """The plan files that it needs, by path below the plans folder."""
        yield from self._plan("p", self.data)
        for name, plan in self.data.get("plans", {}).items():
            yield from self._plan(name, plan)

    def tasks(self) -> Iterator[tuple[str, Any]]:
        """All its tasks by name, those of its other plans too."""
        for plan in (self.data, *self.data.get("plans", {}).values()):
            yield from _tasks_of(plan)

    def _plan(self, name: str, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield f"{name}/actions/given.py", ACTIONS
        if "python" in data:
            yield f"{name}/actions/more.py", data["python"]
        if "plan" in data:
            yield f"{name}/plan.yaml", as_yaml(data["plan"])
        if "interrupts" in data:
            yield f"{name}/interrupts.yaml", as_yaml(data["interrupts"])
        for task, content in _tasks_of(data):
            yield f"{name}/tasks/{task}.yaml", as_yaml(content)


def _tasks_of(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if "task" in data:
        yield "t", data["task"]
    yield from _of_values(data).items()
    yield from data.get("tasks", {}).items()


def _of_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The task of a case of expressions: it returns the values, and a step fails for each that is wrong."""
    if not data.keys() & {"values", "wrong"}:
        return {}
    wrong = {
        f"w{index}": {"action": "give", "params": {"value": expression}, "continue_on_failure": True}
        for index, (expression, _) in enumerate(data.get("wrong", ()))
    }
    returns = [expression for expression, _ in data.get("values", ())]
    return {"t": {"steps": {"s": {"action": "give"}, **wrong}, "returns": returns}}


def as_yaml(content: Any) -> str:
    """A file's text: as it is, or as JSON, which is YAML."""
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()


def read_cases() -> list[Case]:
    """All cases of all files.

    Raises:
        AssertionError: two have the same name, or one has a key that means nothing.
    """
    found = []
    for file in sorted(FOLDER.glob("*.yaml")):
        document = load(file.read_text(), file.name)
        names = set()
        for data in document.value:
            name = data["case"]
            assert name not in names, f"{file.name}: {name} is there twice"
            assert data.keys() <= KEYS, f"{file.name}: {name}: {data.keys() - KEYS} means nothing"
            names.add(name)
            found.append(Case(file.stem, name, data))
    return found
