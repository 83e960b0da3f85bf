"""A crash at every turn of the loop of a tree of three runs with ``recovery: resume``: it goes on as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tests.engine.kit import Opened
from tests.engine.test_stop_at_every_turn import TOO_MANY, accepted, stop_in
from tests.fakes.invariants import check_history, check_idle
from tests.fakes.kernel import copy_of

from aura.stores.memory import MemoryBackend
from aura.testing.world import World, open_world

#: There are more moments than these at which a crash leaves something else.
MOMENTS = 10
CALL = "{action: task.run, params: {task: %s}}"
PARENT = "recovery: resume\nsteps: {a: %s, b: {action: log, idempotent: true, params: {message: b}, depends_on: a}}\n"
REST = "{action: sleep, params: {duration: 300ms}, idempotent: true}"
LEAF = f"recovery: resume\nsteps: {{x: {REST}, y: {{action: sleep, params: {{duration: 2s}}, idempotent: true}}}}\n"
TREE: Mapping[str, str] = {
    "t": PARENT % (CALL % "u"),
    "u": PARENT % (CALL % "v") + f"finally: {{f: {REST}}}\n",
    "v": LEAF + f"finally: {{f: {REST}}}\n",
}


def write(folder: Path, tasks: Mapping[str, str]) -> Path:
    plan = folder / "p"
    (plan / "tasks").mkdir(parents=True)
    (plan / "plan.yaml").write_text("description: trees\n")
    for name, text in tasks.items():
        (plan / "tasks" / f"{name}.yaml").write_text(text)
    return plan


def shape_of(backend: MemoryBackend) -> str:
    """What is on record of the last tree, but for times and ids."""
    top = "(SELECT max(seq) FROM run WHERE parent_cid IS NULL)"
    runs = f"SELECT task_name, state, ending FROM run WHERE seq >= {top} ORDER BY seq"
    steps = f"SELECT name, state FROM step WHERE seq >= {top} ORDER BY seq, name"
    waits = f"SELECT step, kind FROM wait WHERE seq >= {top} ORDER BY seq, step"
    return str([backend.execute(sql).fetchall() for sql in (runs, steps, waits)])


async def crashes(world: World) -> list[MemoryBackend]:
    """What a crash in each turn of such a tree leaves; of turns that leave the same, the first."""
    left: dict[str, MemoryBackend] = {}

    def crash() -> str:
        assert isinstance(world.backend, MemoryBackend)
        left.setdefault(shape_of(world.backend), copy_of(world.backend))
        return ""

    kit = cast(Opened, world)  # as far as these look
    for turn in range(TOO_MANY):
        run = accepted(kit)
        gone = await stop_in(kit, run, turn, crash, True) is None
        await world.loop.wait_until(lambda: not world.engine.runtime.open)
        if gone:
            return list(left.values())
    raise AssertionError("it takes too many turns")


def check(world: World) -> None:
    """Whatever was begun has ended well, and no parent has asked for its sub-task twice."""
    runs = world.runs()
    for run in runs:
        check_history(world.backend.execute, run.record.seq, run.state)
    assert {run.state for run in runs} <= {"succeeded"}, [run.explain() for run in runs]
    calls = [(run.record.parent_cid, run.record.call) for run in runs if run.record.call]
    assert len(calls) == len(set(calls))
    check_idle(cast(Opened, world))


async def test_crash_at_every_turn_of_a_tree(tmp_path: Path) -> None:
    plan = write(tmp_path, TREE)
    async with open_world(plan, backend=MemoryBackend()) as world:
        left = await crashes(world)
    assert len(left) > MOMENTS
    for backend in left:
        async with open_world(plan, backend=backend) as world:
            await world.settle()
            check(world)
