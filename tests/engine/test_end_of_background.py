"""What a stopped run has left in the background is ended within what is left of the run's grace."""

from pathlib import Path

import anyio
import pytest
from tests.engine.kit import opened, step, task
from tests.fakes.kernel import begun, forever

from aura.kernel import executor
from aura.runs.stops import HANDLER_GRACE


@pytest.mark.parametrize(
    ("grace", "left"), [(2.0, 2.0 - HANDLER_GRACE), (0.2, executor.MIN_SWEEP)], ids=["the rest of it", "a little"]
)
async def test_ending_what_a_run_left_gets_what_is_left_of_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float, left: float
) -> None:
    given: list[float] = []

    async def note(tag: str, cid: str) -> list[int]:
        given.append(anyio.current_effective_deadline() - anyio.current_time())
        return []

    monkeypatch.setattr(executor, "end_run_leftovers", note)
    async with opened(tmp_path, task("t", step("a", forever)), grace=grace) as kit:
        (await begun(kit)).used_processes = True
    assert given == pytest.approx([left])
