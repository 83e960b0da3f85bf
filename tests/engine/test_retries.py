"""Retries: which failures and results are worth another try, how long is waited, and when there is no time for one."""

import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task, until
from tests.fakes.kernel import fails, works

from aura.context import Context
from aura.lifecycle import Stop
from aura.run import MAX_DELAY
from aura.runs.retries import delay_before
from aura.task import Retry
from aura.testing.virtual_time import ThreadGate


class Tries:
    """An action that fails, or gives a number, as told; it notes when it began."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors = errors
        self.at: list[float] = []

    def act(self) -> Any:
        async def act(ctx: Context) -> int:
            self.at.append(anyio.current_time())
            error = self.errors[len(self.at) - 1] if len(self.at) <= len(self.errors) else None
            if error is not None:
                raise error
            return len(self.at)

        return act

    @property
    def waits(self) -> list[float]:
        return [round(after - before, 3) for before, after in itertools.pairwise(self.at)]


# -- how long


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        ({"delay": 2.0}, [2, 2, 2]),
        ({}, [0, 0, 0]),
        ({"delay": 1.0, "backoff": 2.0}, [1, 2, 4]),
        ({"delay": 1.0, "backoff": 10.0, "max_delay": 20.0}, [1, 10, 20]),
        ({"delay": 30.0, "max_delay": 20.0}, [20, 20, 20]),
    ],
    ids=["the same", "none", "growing", "up to a bound", "bound below"],
)
async def test_waits_between_tries(tmp_path: Path, retry: Any, waits: list[float]) -> None:
    tries = Tries(OSError(), OSError(), OSError())
    async with opened(tmp_path, task("t", step("a", tries.act(), retry={"attempts": 4, **retry}))) as kit:
        assert (await kit.record("t")).state == "succeeded"
        assert tries.waits == waits


@pytest.mark.parametrize("attempt", [2, 3, 5])
def test_jitter_is_from_half_of_the_wait_to_all_of_it(attempt: int) -> None:
    retry = Retry(attempts=9, delay=4.0, backoff=2.0, jitter=True)
    whole = 4.0 * 2 ** (attempt - 2)
    found = [delay_before(retry, attempt) for _ in range(1000)]
    assert whole / 2 <= min(found) < whole * 0.6
    assert whole * 0.9 < max(found) <= whole


def test_wait_that_has_grown_beyond_all_bounds_is_bounded() -> None:
    assert delay_before(Retry(attempts=10**6, delay=1.0, backoff=10.0), 10**5) == MAX_DELAY


# -- which failures


@pytest.mark.parametrize(
    ("error", "names", "count"),
    [
        (ConnectionResetError("x"), {"ConnectionResetError"}, 2),
        (ConnectionResetError("x"), {"OSError"}, 2),
        (ConnectionResetError("x"), {"KeyError", "Exception"}, 2),
        (ConnectionResetError("x"), {"KeyError"}, 1),
        (ExceptionGroup("many", [OSError("x")]), {"OSError"}, 2),
        (KeyError("x"), set(), 2),
    ],
    ids=["its type", "a base", "any of several", "another", "in a group", "none named"],
)
async def test_errors_that_are_worth_another_try(tmp_path: Path, error: Exception, names: set[str], count: int) -> None:
    tries = Tries(error)
    made = step("a", tries.act(), retry={"attempts": 2, "errors": frozenset(names)})
    async with opened(tmp_path, task("t", made)) as kit:
        assert (await kit.record("t")).state == ("succeeded" if count == 2 else "failed")
        assert len(tries.at) == count


@pytest.mark.parametrize(("names", "count"), [(set(), 2), ({"TimeoutError"}, 2), ({"OSError"}, 2), ({"KeyError"}, 1)])
async def test_timeout_of_an_attempt_is_an_error_like_any_other(tmp_path: Path, names: set[str], count: int) -> None:
    tries: list[int] = []

    async def hangs() -> None:
        tries.append(1)
        await anyio.sleep(3600)

    made = step("a", hangs, timeout=1.0, retry={"attempts": 2, "errors": frozenset(names)})
    async with opened(tmp_path, task("t", made)) as kit:
        run = await kit.begin_run("t")
        assert (await kit.ended(run)).state == "failed"
        assert ((await kit.steps(run))["a"].state, len(tries)) == ("timed_out", count)


# -- when


@pytest.mark.parametrize(
    ("when", "errors", "state", "count"),
    [
        pytest.param("{{ error.message == 'x' }}", [OSError("x"), OSError("y")], "failed", 2, id="by the error"),
        pytest.param("{{ error is none and result < 3 }}", [], "succeeded", 3, id="by the result"),
        pytest.param("{{ result is none }}", [OSError("x"), OSError("y")], "succeeded", 3, id="one is null"),
        pytest.param("{{ false }}", [OSError("x")], "failed", 1, id="never"),
        pytest.param("{{ true }}", [], "succeeded", 4, id="always, the last result"),
        pytest.param("{{ true }}", [OSError(str(n)) for n in range(9)], "failed", 4, id="always, the last error"),
        pytest.param("{{ result > 0 }}", [OSError("x")], "failed", 1, id="that fails over an error"),
        pytest.param("{{ result.no.such }}", [], "failed", 1, id="that fails over a result"),
    ],
)  # fmt: skip
async def test_when_alone_decides(tmp_path: Path, when: str, errors: Any, state: str, count: int) -> None:
    tries = Tries(*errors)
    retry = {"attempts": 4, "when": when, "errors": frozenset({"KeyError"})}
    async with opened(tmp_path, task("t", step("a", tries.act(), retry=retry), returns="{{ steps.a.output }}")) as kit:
        record = await kit.record("t")
        assert (record.state, len(tries.at)) == (state, count)
        assert record.result == (count if state == "succeeded" else None)


@pytest.mark.parametrize("error", [None, OSError("x")], ids=["over a result", "over an error"])
async def test_when_that_cannot_be_told_fails_the_step_as_an_expression(tmp_path: Path, error: Any) -> None:
    tries = Tries(error)
    made = step("a", tries.act(), retry={"attempts": 4, "when": "{{ unknown }}"})
    async with opened(tmp_path, task("t", made)) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert (record.error["type"], record.error["step"], len(tries.at)) == ("expression_error", "a", 1)
        assert "unknown name 'unknown'" in record.error["message"]


async def test_outputs_are_of_the_result_that_counts(tmp_path: Path) -> None:
    """Those of a result that is not taken are not asked for: they could fail."""

    async def act(ctx: Context) -> dict[str, int]:
        return {"value": ctx.attempt} if ctx.attempt == 3 else {}

    made = step("a", act, outputs={"v": "{{ result.value }}"}, retry={"attempts": 9, "when": "{{ not result }}"})
    async with opened(tmp_path, task("t", made, returns="{{ steps.a.outputs.v }}")) as kit:
        assert (await kit.record("t")).result == 3


async def test_retry_of_a_result_is_told_without_an_error(tmp_path: Path) -> None:
    retry = {"attempts": 2, "when": "{{ true }}", "delay": 1.5}
    async with opened(tmp_path, task("t", step("a", Tries().act(), retry=retry))) as kit:
        run = await kit.begin_run("t")
        await kit.ended(run)
        entries = await kit.engine.history.run_entries(run.cid, 0, 100)
        told = [e.record()["payload"] for e in entries if e.kind == "event" and e.record()["name"] == "step.retrying"]
        assert told == [{"attempt": 1, "delay_s": 1.5, "error": None}]


# -- no time left


async def no_time(kit: Opened, cid: str) -> list[str]:
    entries = await kit.engine.history.run_entries(cid, 0, 1000)
    lines = [e.record()["message"] for e in entries if e.kind == "log"]
    return [line for line in lines if "is not tried again" in line]


@pytest.mark.parametrize(
    ("timeout", "state", "takes"),
    [(2.0, "failed", 1.5), (1.5, "failed", 0.75), (0.75, "failed", 0), (None, "succeeded", 2.25)],
    ids=["two fit", "one fits, the next would begin as it ends", "none", "no time-out"],
)
async def test_try_that_cannot_fit_is_not_begun(tmp_path: Path, timeout: float, state: str, takes: float) -> None:
    tries = Tries(*[OSError("last")] * 3)
    async with opened(
        tmp_path, task("t", step("a", tries.act(), retry={"attempts": 9, "delay": 0.75}), timeout=timeout)
    ) as kit:
        began = anyio.current_time()
        run = await kit.begin_run("t")
        record = await kit.ended(run)
        assert (record.state, (record.error or {}).get("message")) == (state, "last" if state == "failed" else None)
        assert anyio.current_time() - began == pytest.approx(takes)
        said = await no_time(kit, run.cid)
        assert len(said) == (state == "failed")
        assert all("the next try would begin in 0.75 s" in line for line in said)


async def test_result_counts_if_there_is_no_time_for_another_try(tmp_path: Path) -> None:
    retry = {"attempts": 9, "delay": 0.8, "when": "{{ result < 5 }}"}
    made = step("a", Tries().act(), retry=retry, outputs={"o": "{{ result }}"})
    async with opened(tmp_path, task("t", made, timeout=2.0, returns="{{ steps.a.outputs.o }}")) as kit:
        assert (await kit.record("t")).result == 3


async def test_try_of_a_handler_that_cannot_fit_is_not_begun(tmp_path: Path) -> None:
    tidy = step("z", fails, retry={"attempts": 9, "delay": 4.0})
    async with opened(tmp_path, task("t", step("a", works), finally_=[tidy], cleanup_timeout=5.0)) as kit:
        began = anyio.current_time()
        run = await kit.begin_run("t")
        record = await kit.ended(run)
        assert anyio.current_time() - began == pytest.approx(4)
        assert record.cleanup_error is not None
        assert record.cleanup_error["type"] == "OSError"
        assert (await kit.steps(run))["z"].attempt == 2


async def test_failure_behind_the_time_out_of_the_run_does_not_make_it_fail(tmp_path: Path) -> None:
    """The thread fails by itself after the run's time is over: its next try is withheld, and the run is timed out."""
    gate = ThreadGate()

    def fails_late() -> None:
        gate.wait()
        raise OSError("late")

    made = step("a", fails_late, retry={"attempts": 2, "delay": 1.0})
    async with opened(tmp_path, task("t", made, timeout=2.0, cleanup_timeout=30.0)) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.stop is Stop.TIMEOUT)
        gate.open()
        assert (await kit.ended(run)).state == "timed_out"
        assert (await kit.steps(run))["a"].state == "cancelled"


@pytest.mark.parametrize("kind", [Stop.INTERRUPT, Stop.CANCEL], ids=lambda kind: kind.label)
async def test_stop_in_the_wait_for_a_try_of_a_result(tmp_path: Path, kind: Stop) -> None:
    tries = Tries()
    made = step("a", tries.act(), retry={"attempts": 3, "delay": 0.9, "when": "{{ result < 2 }}"})
    async with opened(tmp_path, task("t", made, returns="{{ steps.a.output }}")) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.backoffs)
        kit.stop(run, kind)
        if kind is Stop.INTERRUPT:
            await until(lambda: run.state == "preempted")
            kit.engine.dispatcher.enter(run)
        record = await kit.ended(run)
        expected = ("succeeded", 2, 2) if kind is Stop.INTERRUPT else ("cancelled", None, 1)
        assert (record.state, record.result, len(tries.at)) == expected
