"""The nearest time-out of a run and of those that it is part of."""

import asyncio
import math

import pytest

from aura.runs.deadline import deadline_of


class FakeRun:
    """What is asked of a run. ``timeout`` is when its own time-out strikes; a gone one has been cancelled."""

    def __init__(
        self,
        timeout: float | None = None,
        parent: "FakeRun | None" = None,
        *,
        awaited_until: float = math.inf,
        cleanup: float | None = None,
        gone: bool = False,
    ) -> None:
        self.timer = None if timeout is None else asyncio.get_running_loop().call_at(timeout, lambda: None)
        if self.timer is not None and gone:
            self.timer.cancel()
        self.parent = parent
        self.awaited_until = awaited_until
        self.bounded = cleanup is not None
        self.cleanup_deadline = math.inf if cleanup is None else cleanup


NO_RUN_SAYS = math.inf


@pytest.mark.parametrize(
    ("chain", "nearest"),
    [
        ([{}], NO_RUN_SAYS),
        ([{"timeout": 1e9}], 1e9),
        ([{"timeout": 1e9, "gone": True}], NO_RUN_SAYS),
        ([{"timeout": 1e9, "cleanup": 2e9}], 2e9),
        ([{"timeout": 1e9}, {"timeout": 2e9}], 1e9),
        ([{"timeout": 2e9}, {"timeout": 1e9}], 1e9),
        ([{"timeout": 2e9}, {}, {"timeout": 1e9}], 1e9),
        ([{"awaited_until": 1e9}, {"timeout": 2e9}], 1e9),
        ([{}, {"awaited_until": 1e9}, {}], 1e9),
        ([{}, {"timeout": 1e9, "cleanup": 3e9}], 3e9),
    ],
    ids=["none", "own", "own is gone", "own clean-up", "own first", "parent's first", "that of the topmost",
         "parent's step", "step above the parent", "parent's clean-up"],
)  # fmt: skip
async def test_deadline_is_the_nearest(chain: list[dict[str, float]], nearest: float) -> None:
    run: FakeRun | None = None
    for keys in reversed(chain):
        run = FakeRun(parent=run, **keys)  # type: ignore[arg-type]
    assert run is not None
    assert deadline_of(run) == nearest
