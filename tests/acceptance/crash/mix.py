"""What the clients of the crash tests ask for: one plan whose every step leaves a mark in a file when it has begun.

A mark is one line, ``cid step attempt pid time``, appended in one write and synced: whatever kills the server later,
the mark says that the step's body has run. Two more files are of the same kind: ``counts`` (``cid number``) has each
number that a step with checkpoints began, ``tallies`` each value that a step has given the plan's state.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.crash.mixplan import ACTIONS, ITEMS, RULES, TASKS

PLAN = "mix"
#: The first part of the name of the event that a run waits for; the other part is its cid.
CALL = "call"
#: The name of the event that each run of ``tell`` emits once.
TOLD = "told"
#: The key under which the plan counts.
TALLY = "tally"


class Mark(NamedTuple):
    """One beginning of the body of one step, or of one item of it: ``step[index]``. ``at`` is in Unix seconds."""

    cid: str
    step: str
    attempt: int
    pid: int
    at: float


class Count(NamedTuple):
    """A number that the run has come to."""

    cid: str
    number: int


#: task → how often it is asked for, among all others.
WEIGHTS: Mapping[str, int] = {
    "nothing": 5,
    "chain": 5,
    "wide": 3,
    "shell": 2,
    "again": 3,
    "patient": 1,
    "tidy": 4,
    "slow": 3,
    "orphan": 1,
    "stubborn": 1,
    "tree": 3,
    "loop": 3,
    "keep": 8,
    "once": 2,
    "count": 4,
    "tree_kept": 3,
    "nap": 3,
    "hear": 3,
    "ask": 3,
    "flaky": 4,
    "tally": 3,
    "tell": 3,
    "beget": 2,
    "apart": 1,
    "hit": 6,
    "hit_anew": 4,
}
#: What a client cancels a little later. All others end by themselves, soon.
CANCELLED = frozenset({"slow", "orphan", "stubborn"})
#: What waits for a client: the first for an event, the second for an answer to the step ``ASKED``.
HEARS, ASKS = "hear", "ask"
ASKED = "ask"
WOKEN = frozenset({HEARS, ASKS})
#: What goes on by itself, with a handler that runs before it does.
GREETED = "keep"
#: The steps of each task that leave a mark when they run.
MARKED: Mapping[str, frozenset[str]] = {
    "nothing": frozenset(),
    "chain": frozenset({"a", "b", "c"}),
    "wide": frozenset({"a", "b", "c", "d"}),
    "shell": frozenset({"a"}),
    "again": frozenset({"a", "b"}),
    "patient": frozenset({"a"}),
    "tidy": frozenset({"a", "tidy"}),
    "slow": frozenset({"a"}),
    "orphan": frozenset({"a"}),
    "stubborn": frozenset({"a"}),
    "tree": frozenset({"a", "c"}),
    "leaf": frozenset({"x", "y"}),
    "loop": frozenset({"a[0]", "a[1]", "a[2]", "a[3]", "b"}),
    "keep": frozenset({"a", "b", "c[0]", "c[1]", "c[2]", "c[3]", "d", "rest", "wake"}),
    "once": frozenset({"a", "b"}),
    "count": frozenset({"a"}),
    "tree_kept": frozenset({"a", "c"}),
    "leaf_kept": frozenset({"x", "y"}),
    "nap": frozenset({"a", "c"}),
    "hear": frozenset({"a", "c"}),
    "ask": frozenset({"c"}),
    "flaky": frozenset({"a", "b"}),
    "tally": frozenset({"a"}),
    "tell": frozenset({"a"}),
    "beget": frozenset({"a"}),
    "apart": frozenset({"a", "b"}),
    "hit": frozenset({"a", "b", "rest"}),
    "hit_anew": frozenset({"a"}),
    "handle": frozenset({"h", "i"}),
    "tick": frozenset(),
    "take": frozenset(),
    "receive": frozenset(),
}
#: Those of them that may be repeated after a crash in their middle, where the task resumes.
REPEATABLE: Mapping[str, frozenset[str]] = {
    "keep": frozenset({"b", "c[0]", "c[1]", "c[2]", "c[3]", "rest", "wake"}),
    "count": frozenset({"a"}),
    "tree_kept": frozenset({"a", "c"}),
    "leaf_kept": frozenset({"x"}),
    "flaky": frozenset({"a", "b"}),
    "hit": frozenset({"a", "b", "rest"}),
    "handle": frozenset({"h", "i"}),
}
#: What handles the firings of rules, which are by the names of their events; and the rule that is switched.
HANDLES = "handle"
RULE_OF: Mapping[str, str] = {"hit": "alarm", "hit_anew": "drill"}
SWITCHED = "idle"
#: What starts by itself: items with times of their own, that which hears ``TOLD``, that which takes files, its task.
TIMED = ("tick", "beat", "off")
ECHO, FILES, TAKES = "echo", "files", "take"
#: The item that clients call without a token, who know its secret.
HOOK, SECRET = "hook", "knock knock knock"


def files_of_marks(folder: Path) -> Mapping[str, Path]:
    """Where the marks, the counts and the tallies are; outside of everything that the server owns."""
    return {name: folder / name for name in ("marks", "counts", "tallies")}


def inbox(folder: Path) -> Path:
    """Where each run of ``tell`` puts a file."""
    return folder / "inbox"


def plan_files(folder: Path) -> dict[str, str]:
    """The plan as files below the plans folder; its inbox is made too."""
    inbox(folder).mkdir(exist_ok=True)
    tasks = {f"{PLAN}/tasks/{name}.yaml": text for name, text in TASKS.items()}
    told = "".join(f"  {name}: '{file}'\n" for name, file in files_of_marks(folder).items())
    return tasks | {
        f"{PLAN}/interrupts.yaml": RULES,
        f"{PLAN}/schedule.yaml": ITEMS,
        f"{PLAN}/actions.py": ACTIONS,
        f"{PLAN}/plan.yaml": f"secrets: [hook]\nvars:\n{told}  inbox: '{inbox(folder)}'\n",
    }


def read_marks(folder: Path) -> list[Mark]:
    """All marks, in the order in which they were left."""
    lines = _lines(folder, "marks")
    return [Mark(cid, step, int(attempt), int(pid), float(at)) for cid, step, attempt, pid, at in lines]


def read_counts(folder: Path, name: str) -> list[Count]:
    """The counts, or the tallies, in the order in which they were written."""
    return [Count(cid, int(number)) for cid, number in _lines(folder, name)]


def _lines(folder: Path, name: str) -> list[list[str]]:
    file = files_of_marks(folder)[name]
    return [line.split() for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
