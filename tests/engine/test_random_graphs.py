"""Graphs made up by chance, against a model: every step ends, in an order that respects the graph, in the right state.

The model knows nothing of time: what a step comes to follows from what it depends on and from what its action does.
Then the same graphs are stopped, paused and resumed at any time, and nothing of them may be left.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.kit import Opened, opened, step, task
from tests.fakes.children import running_of
from tests.fakes.invariants import check_forgotten, check_idle

from aura.builtin import shell
from aura.context import Context
from aura.errors import RequestError
from aura.lifecycle import FINAL, STEP_FINAL, RunState, StepState
from aura.resources import Semaphore
from aura.run import Cause, Request, StepRecord
from aura.runs.liverun import LiveRun
from aura.task import Dependency, Step
from aura.testing.virtual_time import VirtualLoop

MAX_STEPS = 40
P = StepState
#: What a dependency may want, by the word of the language.
WANTED = {
    "succeeded": frozenset({P.SUCCEEDED}),
    "failed": frozenset({P.FAILED, P.TIMED_OUT}),
    "timed_out": frozenset({P.TIMED_OUT}),
    "skipped": frozenset({P.SKIPPED}),
    "ended": STEP_FINAL,
}
BAD = WANTED["failed"]
#: Seconds (of virtual time) that an action hangs: longer than any graph takes.
HANGS = 10_000.0


class Made(NamedTuple):
    """One step of a made-up graph; ``needs`` are earlier steps by number, each with the word for what is wanted."""

    needs: dict[int, str]
    any_of: bool
    when: bool | None
    #: What the action does: it fails so many attempts, and hangs instead of failing if there is a time-out.
    fails: int
    attempts: int
    timeout: float | None
    seconds: float
    forgiven: bool
    #: The items of a loop and which of them fail for good; None for a step that does not loop.
    items: int | None
    bad: frozenset[int]
    parallelism: int
    stops: bool
    #: What its body does beside waiting: it runs a sub-task, or a process; and whether each attempt needs a resource.
    kind: str
    needs_one: bool


@st.composite
def graphs(draw: st.DrawFn, most: int = MAX_STEPS) -> list[Made]:
    made: list[Made] = []
    for number in range(draw(st.integers(1, most))):
        # near ones first, so that long chains come about as well as wide graphs
        earlier = st.integers(max(0, number - 4), max(0, number - 1)) | st.integers(0, max(0, number - 1))
        needs = draw(st.dictionaries(earlier, st.sampled_from(list(WANTED)), max_size=3)) if number else {}
        any_of = draw(st.booleans()) and bool(needs)
        loops = draw(st.integers(0, 4)) == 0
        items = draw(st.integers(0, 4)) if loops else None
        made.append(
            Made(
                needs=dict.fromkeys(needs, "succeeded") if any_of else needs,
                any_of=any_of,
                when=draw(st.sampled_from([None, None, None, True, False])),
                fails=draw(st.sampled_from([0, 0, 0, 1, 2])),
                attempts=draw(st.integers(1, 3)),
                timeout=draw(st.sampled_from([None, None, 2.0])),
                seconds=draw(st.sampled_from([0.0, 0.5, 1.0])),
                forgiven=draw(st.booleans()),
                items=items,
                bad=frozenset(draw(st.sets(st.integers(0, 3), max_size=1))) if items else frozenset(),
                parallelism=draw(st.integers(1, 3)),
                stops=draw(st.booleans()),
                kind=draw(st.sampled_from(["waits"] * 6 + ["sub-task"] * 2 + ["process"])),
                needs_one=draw(st.integers(0, 2)) == 0,
            )
        )
    return made


# -- the model ----------------------------------------------------------------------------------------------------


def expected_states(graph: list[Made]) -> list[StepState]:
    states: list[StepState] = []
    for made in graph:
        met = [states[number] in WANTED[word] for number, word in made.needs.items()]
        runs = (any(met) if made.any_of else all(met)) if met else True
        states.append(expected_of_a_run(made) if runs and made.when is not False else P.SKIPPED)
    return states


def expected_of_a_run(made: Made) -> StepState:
    if made.items is None:
        return P.SUCCEEDED if made.fails < made.attempts else P.TIMED_OUT if made.timeout else P.FAILED
    if not made.items or not made.stops:
        return P.SUCCEEDED
    some_fail = made.fails >= made.attempts or any(number < made.items for number in made.bad)
    return P.FAILED if some_fail else P.SUCCEEDED


def expected_outcome(graph: list[Made], states: list[StepState]) -> RunState:
    failed = any(s in BAD and not made.forgiven for made, s in zip(graph, states, strict=True))
    return RunState.FAILED if failed else RunState.SUCCEEDED


# -- the same for the engine ---------------------------------------------------------------------------------------


class Bodies:
    """The actions of a graph; counts those that are inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.began: Counter[str] = Counter()

    def action(self, made: Made, name: str) -> Any:
        async def act(ctx: Context, index: int = -1) -> str:
            self.began[name] += 1
            self.inside += 1
            try:
                await anyio.sleep(made.seconds)
                if made.kind == "sub-task":
                    await ctx.run("below")
                elif made.kind == "process":
                    await shell.run(ctx, argv=["sleep", "0.01"])
                if ctx.attempt <= made.fails or index in made.bad:
                    await anyio.sleep(HANGS if made.timeout else 0.0)
                    raise ValueError(f"attempt {ctx.attempt}")
                return name
            finally:
                self.inside -= 1

        return act


def as_step(bodies: Bodies, graph: list[Made], number: int) -> tuple[Step, Any]:
    made, name = graph[number], f"s{number}"
    keys: dict[str, Any] = {
        "depends_on": tuple(Dependency(f"s{need}", WANTED[word]) for need, word in made.needs.items()),
        "any_of": made.any_of,
        "retry": {"attempts": made.attempts, "delay": 0.5},
        # what a sub-task waits for its resource counts, and others may have it for long: the model knows nothing of it
        "timeout": HANGS / 2 if made.timeout and made.kind == "sub-task" else made.timeout,
        "continue_on_failure": made.forgiven,
        "resources": {"one": 1} if made.needs_one else {},
    }
    if made.when is not None:
        keys["when"] = f"{{{{ {str(made.when).lower()} }}}}"
    if made.items is not None:
        keys["params"] = {"index": "{{ loop.index }}"}
        keys["loop"] = {"times": made.items, "parallelism": made.parallelism, "stop_on_failure": made.stops}
    return step(name, bodies.action(made, name), **keys)


#: Two steps at a time, or sub-tasks; who holds one lends it to its own.
RESOURCES = {"one": Semaphore(2)}


def tasks(bodies: Bodies, graph: list[Made]) -> list[Any]:
    """The task of the graph, and the one that its steps run."""

    async def lasts() -> None:
        await anyio.sleep(0.2)

    below = task("below", step("x", lasts), resources={"one": 1})
    return [task("t", *(as_step(bodies, graph, n) for n in range(len(graph))), cleanup_timeout=5.0), below]


def in_virtual_time(story: Any) -> None:
    """Tell one example on a loop of its own."""
    with TemporaryDirectory() as folder:
        anyio.run(story, Path(folder), backend_options={"loop_factory": VirtualLoop})


quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quickly
@given(graph=graphs())
def test_every_step_ends_as_the_graph_says_and_in_its_order(graph: list[Made]) -> None:
    in_virtual_time(partial(tell_whole, graph))


async def tell_whole(graph: list[Made], folder: Path) -> None:
    bodies = Bodies()
    async with opened(folder, *tasks(bodies, graph), resources=RESOURCES) as kit:
        run = kit.engine.admission.request(Request("p", "t"), Cause()).run
        record = await kit.ended(run)
        steps = await kit.steps(run)
        states = expected_states(graph)
        assert [steps[f"s{number}"].state for number in range(len(graph))] == states
        assert record.state == expected_outcome(graph, states)
        for number, made_step in enumerate(graph):
            check_order(steps, made_step, f"s{number}")
        check_nothing_left(kit, bodies, run)


def check_nothing_left(kit: Opened, bodies: Bodies, run: LiveRun) -> None:
    """No body is inside, no sub-task open, no process there, nothing held or waited for, no place taken."""
    assert bodies.inside == 0
    assert not running_of(run.cid)
    states = kit.backend.execute("SELECT state FROM run").fetchall()
    assert all(state in FINAL for (state,) in states), states
    check_forgotten(kit, run)
    check_idle(kit)


def check_order(steps: dict[str, StepRecord], made: Made, name: str) -> None:
    """A step that ran began when what it depends on had ended as it wants."""
    started = steps[name].started_at
    if started is None:
        return
    needs = {f"s{need}": WANTED[word] for need, word in made.needs.items()}
    done = [
        (steps[need].finished_at or 0.0) <= started and steps[need].state in wanted for need, wanted in needs.items()
    ]
    assert (any(done) if made.any_of else all(done)) or not done, name


#: What may be done to a run, and how long to wait before it.
stories = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.75, 2.0]), st.sampled_from(["pause", "resume", "cancel", "stop"])),
    min_size=1,
    max_size=5,
)


@quickly
@given(graph=graphs(12), story=stories, grace=st.sampled_from([0.0, 1.0]))
def test_whatever_stops_it_nothing_of_a_graph_is_left(
    graph: list[Made], story: list[tuple[float, str]], grace: float
) -> None:
    in_virtual_time(partial(tell_stopped, graph, story, grace))


async def tell_stopped(graph: list[Made], story: list[tuple[float, str]], grace: float, folder: Path) -> None:
    bodies = Bodies()
    async with opened(folder, *tasks(bodies, graph), resources=RESOURCES) as kit:
        run = kit.engine.admission.request(Request("p", "t"), Cause()).run
        for seconds, what in story:
            await kit.advance(seconds)
            await do(kit, run.cid, what, grace)
        await kit.engine.start()
        await do(kit, run.cid, "resume", grace)
        record = await kit.ended(run)
        assert record.state in FINAL
        assert all(s.state in STEP_FINAL for s in (await kit.steps(run)).values())
        if record.state in (RunState.SUCCEEDED, RunState.FAILED):  # whatever it met on its way
            states = expected_states(graph)
            found = await kit.steps(run)
            assert [found[f"s{number}"].state for number in range(len(graph))] == states
        check_nothing_left(kit, bodies, run)


async def do(kit: Opened, cid: str, what: str, grace: float) -> None:
    """Do it, if it can be done to the run as it is now."""
    try:
        if what == "stop":
            await kit.engine.stop("cancel", grace)
            await kit.engine.start()
        else:
            await getattr(kit.engine, what)(cid)
    except RequestError:
        return
