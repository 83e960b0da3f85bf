"""What cannot be written down: text that is not Unicode, values that are not JSON, errors that cannot be said.

Whatever an action or a client brings, its run ends on record, no fault is the engine's, and the next run works.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.engine.kit import Opened, opened, step, task
from tests.fakes.kernel import begun, forever, works

from aura.errors import RequestError


async def not_unicode() -> None:
    raise ValueError("cannot read \udcff.txt")


async def deep_group() -> None:
    error: Exception = ValueError("x")
    for _ in range(3000):
        error = ExceptionGroup("g", [error])
    raise error


class Rude(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


async def rude() -> None:
    raise Rude


async def next_run_works(kit: Opened) -> bool:
    return (await kit.run("next")).state == "succeeded" and not kit.engine.runtime.faults


NEXT = task("next", step("n", works))


@pytest.mark.parametrize("parallel", [False, True], ids=["inline", "child"])
@pytest.mark.parametrize("act", [not_unicode, deep_group, rude], ids=lambda f: f.__name__)
async def test_error_that_cannot_be_said_fails_its_run_alone(tmp_path: Path, act: Any, parallel: bool) -> None:
    beside = [step("beside", works)] if parallel else []
    async with opened(tmp_path, task("t", step("a", act), *beside), NEXT) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert (record.state, record.error["step"]) == ("failed", "a")
        assert await next_run_works(kit)


@pytest.mark.parametrize(
    ("expression", "state"),
    [
        ("{{ now }}", "failed"),
        ("{{ now() }}", "succeeded"),
        ("{{ '\ud800' }}", "failed"),
        ("{{ [1, 2] | map('string') }}", "succeeded"),
        ("{{ 10 ** 400 }}", "succeeded"),
        ("{{ 1e308 * 10 }}", "failed"),
    ],
    ids=["function", "time", "lone surrogate", "generator", "huge integer", "infinity"],
)
async def test_outputs_that_may_not_be_json_end_the_run(tmp_path: Path, expression: str, state: str) -> None:
    async with opened(tmp_path, task("t", step("a", works, outputs={"x": expression})), NEXT) as kit:
        assert (await kit.run("t")).state == state
        assert await next_run_works(kit)


async def test_outputs_are_bounded_as_results_are(tmp_path: Path) -> None:
    async def big() -> str:
        return "x" * 900_000

    made = task("t", step("a", big, outputs={"x": "{{ result ~ result ~ result }}"}))
    async with opened(tmp_path, made, NEXT) as kit:
        assert (await kit.run("t")).state == "failed"
        assert await next_run_works(kit)


async def test_label_that_is_not_unicode_is_refused_and_blocks_no_stream(tmp_path: Path) -> None:
    async with opened(tmp_path, NEXT) as kit:
        reader = kit.engine.journal.subscribe({"event"})
        with pytest.raises(RequestError):
            await kit.begin_run("next", labels={"a": "\ud800"})
        assert await next_run_works(kit)
        assert [entry.record()["name"] for entry in reader.take().entries][-1] == "run.succeeded"
        reader.close()


async def test_reason_that_is_not_unicode_ends_the_run_all_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever)), NEXT) as kit:
        run = await begun(kit)
        assert await kit.engine.cancel(run.cid, "because \ud800") == "stopping"
        record = await kit.ended(run)
        assert record.reason is not None
        assert (record.state, record.reason.startswith("because ")) == ("cancelled", True)
        assert await next_run_works(kit)
