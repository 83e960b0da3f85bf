"""Reruns: what runs again, what is kept, and that what is kept stays kept whatever happens to the new run."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, PythonGeneration, PythonGenerations, opened, quiet, step, task, until
from tests.engine.test_undone import fails_when_it_runs
from tests.fakes.invariants import check_idle, check_steps
from tests.fakes.kernel import FaultyBackend, copy_of

from aura.engine.reruns import taken_over
from aura.errors import RequestError
from aura.kernel import admission
from aura.kernel.keys import Key, key_of
from aura.lifecycle import Recovery, RunState, Stop
from aura.loading.taskfile import MAX_STEPS
from aura.records.runs import accept_run
from aura.run import MAX_LABELS, Cause, Request
from aura.stores.memory import MemoryBackend


class Work:
    """Actions that note that they ran. What is in ``broken`` fails, what is in ``slow`` hangs until it is stopped."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.slow: set[str] = set()

    def step(self, name: str, needs: tuple[str, ...] = (), **keys: Any) -> tuple[Any, Any]:
        async def act(x: Any = None) -> Any:
            self.ran[name] += 1
            if name in self.slow:
                await anyio.sleep(3600)
            if name in self.broken:
                raise OSError("no")
            return [name, self.ran[name], x]

        return step(name, act, needs, **keys)

    def chain(self, **keys: Any) -> Any:
        """``a`` → ``b`` → ``c``, each of which is given the output of the one before."""
        given = {"b": "{{ steps.a.output }}", "c": "{{ steps.b.outputs.v }}"}
        return task(
            "t",
            self.step("a"),
            self.step("b", ("a",), params={"x": given["b"]}, outputs={"v": "{{ result }}"}),
            self.step("c", ("b",), params={"x": given["c"]}),
            returns="{{ steps.c.output }}",
            **keys,
        )


async def rerun(kit: Opened, cid: str, from_step: str | None = None) -> str:
    return (await kit.engine.rerun(cid, from_step)).cid


async def refusal(kit: Opened, cid: str, from_step: str | None = None) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await kit.engine.rerun(cid, from_step)
    return refused.value


async def failed_at(kit: Opened, work: Work, name: str) -> str:
    """A run of which this step failed; it works from now on."""
    work.broken = {name}
    record = await kit.record("t")
    assert record.state == "failed"
    work.broken.clear()
    work.ran.clear()
    return record.cid


# -- which steps run


async def test_rerun_is_a_new_run_of_the_same_request(tmp_path: Path) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        first = await kit.record("t", lane="event", priority=7, labels={"team": "ops"})
        cid = await rerun(kit, first.cid)
        again = await kit.ended(cid)
        assert (again.cid != first.cid, again.state, again.result) == (
            True,
            "succeeded",
            ["c", 2, ["b", 2, ["a", 2, None]]],
        )
        for name in ("inputs", "lane", "priority", "labels", "plan_name", "task_name"):
            assert getattr(again, name) == getattr(first, name)
        assert (again.cause["kind"], again.cause["cid"]) == ("rerun", first.cid)
        assert (await kit.engine.history.record(first.cid)) == first


async def test_run_with_all_the_labels_that_it_may_have_runs_again(tmp_path: Path) -> None:
    async with opened(tmp_path, Work().chain(labels={"own": "1", "both": "1"})) as kit:
        many = {f"n{number}": "x" for number in range(MAX_LABELS - 1)} | {"both": "2"}
        first = await kit.record("t", labels=many)
        again = await kit.ended(await rerun(kit, first.cid))
        assert again.labels == first.labels == many | {"own": "1"}


async def test_rerun_of_a_task_that_is_gone_is_refused_and_counted(tmp_path: Path) -> None:
    generations = PythonGenerations(Work().chain())
    async with opened(tmp_path, generations=generations) as kit:
        first = await kit.record("t")
        generations.now = PythonGeneration({})
        for from_step in (None, "b"):
            assert (await refusal(kit, first.cid, from_step)).code == "unknown_task"
        assert kit.engine.measures.refusals.counts == {"unknown_task": 2}


async def test_what_comes_after_a_step_is_found_quickly_in_the_largest_of_tasks(tmp_path: Path) -> None:
    work = Work()
    names = [f"s{number}" for number in range(MAX_STEPS)]
    made, _ = task("t", *[work.step(name, tuple(names[max(0, at - 30) : at])) for at, name in enumerate(names)])
    rows: Any = {name: (1, name, "succeeded", *[None] * 8) for name in names}
    began = time.process_time()
    assert [len(taken_over(made.steps, rows, name)) for name in names[:50]] == [*range(50)]
    assert time.process_time() - began < 10


@pytest.mark.parametrize(("from_step", "ran"), [("a", "abc"), ("b", "bc"), ("c", "c")], ids=["first", "middle", "last"])
async def test_step_and_what_comes_after_it_run_again(tmp_path: Path, from_step: str, ran: str) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        first = (await kit.record("t")).cid
        before = await kit.steps(first)
        work.ran.clear()
        cid = await rerun(kit, first, from_step)
        assert (await kit.ended(cid)).state == "succeeded"
        assert work.ran == Counter(ran)
        steps = await kit.steps(cid)
        assert {name for name in steps if steps[name] == before[name]} >= set("abc") - set(ran)
        check_steps(kit.backend.execute, kit.runs()[1].record.seq, Counter(ran))


async def test_failed_run_goes_on_from_its_failed_step_with_what_it_had(tmp_path: Path) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        first = await failed_at(kit, work, "c")
        record = await kit.ended(await rerun(kit, first, "c"))
        assert (record.state, record.result) == ("succeeded", ["c", 1, ["b", 1, ["a", 1, None]]])
        assert work.ran == Counter("c")


async def test_other_branches_are_kept_if_they_succeeded_and_run_again_if_not(tmp_path: Path) -> None:
    work = Work()
    made = task("t", work.step("a"), work.step("b"), work.step("c"), work.step("d", ("c",)), work.step("e", ("a", "d")))
    async with opened(tmp_path, made) as kit:
        first = await failed_at(kit, work, "c")
        record = await kit.ended(await rerun(kit, first, "a"))
        assert (record.state, work.ran) == ("succeeded", Counter("acde"))


@pytest.mark.parametrize("from_step", ["b", "c"])
async def test_step_that_its_when_has_skipped_is_kept(tmp_path: Path, from_step: str) -> None:
    work = Work()
    made = task("t", work.step("a", when=False), work.step("b"), work.step("c", depends_on=()), work.step("d", ("b",)))
    async with opened(tmp_path, made) as kit:
        first = (await kit.record("t")).cid
        cid = await rerun(kit, first, from_step)
        await kit.ended(cid)
        steps = await kit.steps(cid)
        assert (steps["a"].state, steps["a"].skipped_because) == ("skipped", "when is false: false (test.yaml:1)")
        assert steps["a"] == (await kit.steps(first))["a"]


async def test_rerun_of_a_rerun_keeps_what_that_one_kept(tmp_path: Path) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        first = await failed_at(kit, work, "c")
        work.broken = {"c"}
        second = (await kit.ended(await rerun(kit, first, "b"))).cid
        work.broken.clear()
        third = await kit.ended(await rerun(kit, second, "c"))
        assert (third.state, work.ran) == ("succeeded", Counter({"b": 1, "c": 2}))
        assert third.result == ["c", 2, ["b", 1, ["a", 1, None]]]


# -- what is refused


async def test_run_that_has_not_ended_is_not_run_again(tmp_path: Path) -> None:
    work = Work()
    work.slow = {"a"}
    async with opened(tmp_path, work.chain()) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.state is RunState.RUNNING)
        refused = await refusal(kit, run.cid)
        assert (refused.code, refused.extra["state"] in ("queued", "running")) == ("conflict", True)
        await kit.engine.cancel(run.cid)


async def test_run_that_is_not_there_is_not_run_again(tmp_path: Path) -> None:
    async with opened(tmp_path, Work().chain()) as kit:
        assert (await refusal(kit, "nobody")).code == "unknown_run"


@pytest.mark.parametrize(("given", "near"), [("bb", "did you mean b?"), ("zzz", "no step 'zzz'"), ("", "no step ''")])
async def test_step_that_is_not_there_is_refused(tmp_path: Path, given: str, near: str) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        refused = await refusal(kit, (await kit.record("t")).cid, given)
        assert (refused.code, refused.status, [e.path for e in refused.errors]) == ("invalid", 422, ["/from_step"])
        assert near in refused.errors[0].message


@pytest.mark.parametrize("broken", ["a", "b"])
async def test_step_before_it_that_did_not_succeed_is_named(tmp_path: Path, broken: str) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        first = await failed_at(kit, work, broken)
        refused = await refusal(kit, first, "c")
        assert (refused.code, refused.status, refused.extra["step"]) == ("conflict", 409, "b")
        assert "step b, which comes before c, has not succeeded" in refused.detail
        assert (await kit.engine.runtime.store.read(lambda x: x("SELECT count(*) FROM run").fetchone())) == (1,)


async def test_plan_that_is_gone_is_not_run_again(tmp_path: Path) -> None:
    generations = PythonGenerations(Work().chain())
    async with opened(tmp_path, generations=generations) as kit:
        first = (await kit.record("t")).cid
        generations.now = None
        assert {(await refusal(kit, first, name)).code for name in (None, "b")} == {"unknown_plan"}


async def test_rerun_that_cannot_be_stored_leaves_no_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        first = (await kit.record("t")).cid
        with monkeypatch.context() as patch:
            patch.setattr(admission, "accept_run", fails_when_it_runs(accept_run))
            assert (await refusal(kit, first, "c")).code == "internal"
        assert kit.backend.execute("SELECT DISTINCT seq FROM step").fetchall() == [(1,)]
        await quiet()
        check_idle(kit)


# -- with another generation


async def test_rerun_takes_the_current_generation(tmp_path: Path) -> None:
    work = Work()
    generations = PythonGenerations(work.chain())
    async with opened(tmp_path, generations=generations) as kit:
        first = (await kit.record("t")).cid
        work.ran.clear()
        changed = task("t", work.step("b"), work.step("c", ("b",)), work.step("new"))
        generations.now = PythonGeneration({"t": changed}, "g2")
        cid = await rerun(kit, first, "c")
        record = await kit.ended(cid)
        assert (record.state, record.generation, work.ran) == ("succeeded", "g2", Counter(["c", "new"]))
        assert set(await kit.steps(cid)) == {"b", "c", "new"}


# -- what is kept stays kept


async def test_kept_steps_survive_a_crash_while_it_is_queued(tmp_path: Path) -> None:
    work = Work()
    backend = MemoryBackend()
    async with opened(tmp_path / "one", work.chain(), backend=backend) as kit:
        first = await failed_at(kit, work, "c")
        await kit.engine.stop("cancel", 0.1)
        cid = await rerun(kit, first, "c")
        left = copy_of(backend)
        work.broken = {"c"}  # so that this server's own end of it cannot be taken for the next one's
        await kit.engine.start()
        await kit.ended(cid)
    work.broken.clear()
    work.ran.clear()
    async with opened(tmp_path / "two", work.chain(), backend=left) as kit:
        assert (await kit.ended(cid)).state == "succeeded"
        assert work.ran == Counter("c")


@pytest.mark.parametrize("end", ["crash", "stop", "shutdown"])
async def test_kept_steps_survive_that_the_run_starts_over(tmp_path: Path, end: str) -> None:
    work = Work()
    backend = MemoryBackend()
    made = work.chain(recovery=Recovery.RESTART)
    async with opened(tmp_path / "one", made, backend=backend) as kit:
        first = await failed_at(kit, work, "c")
        work.slow = {"c"}
        cid = await rerun(kit, first, "b")
        await until(lambda: work.ran["c"])
        await kit.engine.runtime.store.written()
        left = copy_of(backend)
        if end == "stop":
            await kit.engine.stop("cancel", 0.1)
            work.slow.clear()
            await kit.engine.start()
            assert (await kit.ended(cid)).state == "succeeded"
            assert work.ran == Counter({"b": 2, "c": 2})
            return
    work.slow.clear()
    async with opened(tmp_path / "two", made, backend=left if end == "crash" else backend) as kit:
        assert (await kit.ended(cid)).state == "succeeded"
        assert work.ran == Counter({"b": 2, "c": 2})
        assert (await kit.steps(cid))["a"] == (await kit.steps(first))["a"]


async def test_step_that_the_rerun_itself_has_skipped_is_asked_again_when_it_starts_over(tmp_path: Path) -> None:
    work = Work()
    backend = MemoryBackend()
    skip = {"n": 0}

    async def count() -> int:
        skip["n"] += 1
        return skip["n"]

    made = task(
        "t",
        work.step("a", when="{{ run.attempt > 1 }}"),  # it would run now, were it asked again
        step("n", count),
        work.step("b", ("n",), when="{{ steps.n.output > 2 }}"),
        work.step("c", depends_on=work.step("x", ("n",))[0].depends_on),
        recovery=Recovery.RESTART,
    )
    async with opened(tmp_path / "one", made, backend=backend) as kit:
        first = (await kit.record("t")).cid
        await kit.advance(1)
        work.slow = {"c"}
        work.ran.clear()
        cid = await rerun(kit, first, "n")
        await until(lambda: work.ran["c"])
        await kit.engine.runtime.store.written()
        left = copy_of(backend)
    work.slow.clear()
    async with opened(tmp_path / "two", made, backend=left) as kit:
        assert (await kit.ended(cid)).state == "succeeded"
        assert (work.ran["a"], work.ran["b"], (await kit.steps(cid))["a"].state) == (0, 1, "skipped")


async def test_start_that_is_stopped_before_its_first_step_keeps_them(tmp_path: Path) -> None:
    work = Work()
    backend = FaultyBackend()
    async with opened(tmp_path, work.chain(), backend=backend) as kit:
        first = await failed_at(kit, work, "c")
        run = (await kit.engine.reruns.request(first, "c")).run
        backend.gate = gate = anyio.Event()
        await until(lambda: run.state is RunState.RUNNING)
        await quiet()
        kit.stop(run, Stop.SHUTDOWN)
        backend.gate = None
        gate.set()
        assert (await kit.ended(run)).state == "succeeded"
        assert work.ran == Counter("c")
        assert "run.requeued" in await kit.history(run.cid)


@pytest.mark.parametrize("restarted", [False, True], ids=["in its own boot", "in the next one"])
async def test_kept_steps_stay_on_record_of_a_rerun_that_is_cancelled(tmp_path: Path, restarted: bool) -> None:
    work = Work()
    backend = MemoryBackend()
    async with opened(tmp_path / "one", work.chain(), backend=backend) as kit:
        first = await failed_at(kit, work, "c")
        receipt = await kit.engine.submit(Request("p", "t", delay_s=1e6), Cause("api"))  # something else in the lane
        await kit.engine.stop("cancel", 0.1)
        cid = await rerun(kit, first, "c")
        left = copy_of(backend)
        if not restarted:
            assert await kit.engine.cancel(cid) == "cancelled"
            steps = await kit.steps(cid)
        await kit.engine.cancel(receipt.cid)
        await quiet()
    if restarted:
        made = work.chain()
        generations = PythonGenerations(made)
        generations.now = None  # so that it ends before anything of it begins
        async with opened(tmp_path / "two", generations=generations, backend=left, lanes={"main": 1}) as kit:
            await kit.ended(cid)
            steps = await kit.steps(cid)
            await kit.engine.cancel(receipt.cid)
    assert {name: found.state for name, found in steps.items()} == {"a": "succeeded", "b": "succeeded"}
    assert steps["b"].output == ["b", 1, ["a", 1, None]]


# -- asked for under a key


def rerun_key(cid: str, from_step: str | None = None) -> Key:
    return key_of("rerun", "k", {"cid": cid, "from_step": from_step})


@pytest.mark.parametrize("from_step", [None, "b"])
async def test_rerun_that_is_asked_for_again_under_its_key_is_one_run(tmp_path: Path, from_step: str | None) -> None:
    work = Work()
    async with opened(tmp_path, work.chain()) as kit:
        cid = (await kit.record("t")).cid
        receipts = []

        async def ask() -> None:
            receipts.append(await kit.engine.rerun(cid, from_step, rerun_key(cid, from_step)))

        async with anyio.create_task_group() as clients:  # two at once; each ends with its answer
            clients.start_soon(ask)
            clients.start_soon(ask)
        await kit.settle()
        await ask()
        assert sorted(receipt.replayed for receipt in receipts) == [False, True, True]
        assert len({receipt.cid for receipt in receipts}) == 1
        assert work.ran == {"a": 1 if from_step else 2, "b": 2, "c": 2}


async def test_key_of_another_rerun_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, Work().chain()) as kit:
        first, second = [(await kit.record("t")).cid for _ in range(2)]
        await kit.engine.rerun(first, None, rerun_key(first))
        with pytest.raises(RequestError) as refused:
            await kit.engine.rerun(second, None, rerun_key(second))
        assert refused.value.code == "key_reused"


async def test_refused_rerun_leaves_no_key(tmp_path: Path) -> None:
    work = Work()
    work.broken.add("a")
    async with opened(tmp_path, work.chain()) as kit:
        cid = (await kit.record("t")).cid
        with pytest.raises(RequestError):
            await kit.engine.rerun(cid, "b", rerun_key(cid))
        work.broken.clear()
        assert not (await kit.engine.rerun(cid, None, rerun_key(cid))).replayed
