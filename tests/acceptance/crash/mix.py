"""What the clients of the crash tests ask for: one plan whose every step leaves a mark in a file when it has begun.

A mark is one line, ``cid step attempt pid time``, appended in one write and synced: whatever kills the server later,
the mark says that the step's body has run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PLAN = "mix"


class Mark(NamedTuple):
    """One beginning of the body of one step, or of one item of it: ``step[index]``. ``at`` is in Unix seconds."""

    cid: str
    step: str
    attempt: int
    pid: int
    at: float


#: task → how often it is asked for, among all others.
WEIGHTS: Mapping[str, int] = {
    "nothing": 6,
    "chain": 6,
    "wide": 3,
    "shell": 2,
    "again": 3,
    "tidy": 3,
    "slow": 3,
    "orphan": 1,
    "stubborn": 1,
    "tree": 3,
    "loop": 3,
}
#: What a client cancels a little later. All others end by themselves, soon.
CANCELLED = frozenset({"slow", "orphan", "stubborn"})
#: The steps of each task that leave a mark when they run.
MARKED: Mapping[str, frozenset[str]] = {
    "nothing": frozenset(),
    "chain": frozenset({"a", "b", "c"}),
    "wide": frozenset({"a", "b", "c", "d"}),
    "shell": frozenset({"a"}),
    "again": frozenset({"a", "b"}),
    "tidy": frozenset({"a", "tidy"}),
    "slow": frozenset({"a"}),
    "orphan": frozenset({"a"}),
    "stubborn": frozenset({"a"}),
    "tree": frozenset({"a", "c"}),
    "leaf": frozenset({"x", "y"}),
    "loop": frozenset({"a[0]", "a[1]", "a[2]", "a[3]", "b"}),
}

_SHELL = 'echo "$AURA_CID $AURA_STEP $AURA_ATTEMPT $$ $(date +%s.%N)" >> {{ vars.marks }}'

_TASKS: Mapping[str, str] = {
    "nothing": "steps:\n  a: {action: log, params: {message: nothing}}\n",
    "chain": """
steps:
  a: {action: mark}
  b: {action: mark, depends_on: a}
  c: {action: mark, depends_on: b}
""",
    "wide": """
steps:
  a: {action: mark_in_thread}
  b: {action: mark}
  c: {action: mark, params: {seconds: 0.02}}
  d: {action: mark}
""",
    "shell": f"steps:\n  a: {{action: shell.run, params: {{shell: '{_SHELL}'}}}}\n",
    "again": """
recovery: restart
steps:
  a: {action: mark, params: {seconds: 0.05}}
  b: {action: mark, params: {seconds: 0.05}, depends_on: a}
""",
    "tidy": """
steps:
  a: {action: mark, params: {seconds: 0.03}}
finally:
  tidy: {action: mark, params: {seconds: 0.01}}
""",
    "slow": "steps:\n  a: {action: mark, params: {seconds: 20}}\n",
    "orphan": f"steps:\n  a: {{action: shell.run, params: {{shell: '{_SHELL}; exec sleep 20'}}}}\n",
    "stubborn": "cleanup_timeout: 50ms\nsteps:\n  a: {action: mark_stubborn}\n",
    "tree": """
steps:
  a: {action: mark}
  b: {action: task.run, params: {task: leaf}, depends_on: a}
  c: {action: mark, depends_on: b}
""",
    "leaf": """
recovery: restart
steps:
  x: {action: mark, params: {seconds: 0.05}}
  y: {action: mark, params: {seconds: 0.02}, depends_on: x}
""",
    "loop": """
steps:
  a: {action: mark, params: {seconds: 0.02, item: "{{ loop.index }}"}, loop: {times: 4, parallelism: 2}}
  b: {action: mark, depends_on: a}
""",
}

_ACTIONS = """
import os
import time
import anyio
from aura import Context, action

def leave_mark(ctx: Context, item: str = "") -> None:
    line = f"{ctx.cid} {ctx.step}{item} {ctx.attempt} {os.getpid()} {time.time():.6f}\\n"
    file = os.open(ctx.vars["marks"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.fsync(file)
    os.close(file)

@action
async def mark(ctx: Context, seconds: float = 0.0, item: int | None = None) -> None:
    leave_mark(ctx, "" if item is None else f"[{item}]")
    await anyio.sleep(seconds)

@action
def mark_in_thread(ctx: Context) -> None:
    leave_mark(ctx)

@action
async def mark_stubborn(ctx: Context) -> None:
    leave_mark(ctx)
    try:
        await anyio.sleep(20)
    finally:
        with anyio.CancelScope(shield=True):  # longer than the task's time for clean-up
            await anyio.sleep(0.2)
"""


def marks_file(folder: Path) -> Path:
    """Where the marks are; outside of everything that the server owns."""
    return folder / "marks"


def plan_files(folder: Path) -> dict[str, str]:
    """The plan as files below the plans folder."""
    tasks = {f"{PLAN}/tasks/{name}.yaml": text for name, text in _TASKS.items()}
    settings = f"vars: {{marks: '{marks_file(folder)}'}}\n"
    return tasks | {f"{PLAN}/actions.py": _ACTIONS, f"{PLAN}/plan.yaml": settings}


def read_marks(folder: Path) -> list[Mark]:
    """All marks, in the order in which they were left."""
    file = marks_file(folder)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [Mark(cid, step, int(attempt), int(pid), float(at)) for cid, step, attempt, pid, at in map(str.split, lines)]
