"""Checkpoints: what a step, or an item of a loop, has put by, so that it need not begin anew when it is run again.

Theory of operation. There is one of each step and item, the last: ``run.checkpoints``, by key, made with the first. It
is *there* when it is on record, and then whoever put it by goes on. It is kept over stops, tries and restarts, and goes
when its step or item has ended, in the unit that says so; so does what is left of them when the run ends or starts over
(``LiveRun.drop_checkpoints``). A run that has none costs nothing.

The ties. A checkpoint that is on its way while its step ends is of a place that its run has forgotten: it is stored and
dropped again by the unit behind it. A unit that drops some and is lost has the next one do so (``runtime``).

What a crash does: rows of runs that rest are taken over with them; the boot drops those of runs that it moves.
"""

from typing import Any

from aura.errors import CheckpointInvalid
from aura.failpoints import Site
from aura.records.checkpoints import Checkpoint, put_checkpoint
from aura.records.columns import decode
from aura.redaction import Redactor
from aura.runs.attempt import Attempt
from aura.runs.keepable import kept_json
from aura.runs.liverun import LiveRun
from aura.store import Store


class Checkpoints:
    """What stands behind ``ctx.checkpoint`` and ``ctx.checkpointed``."""

    def __init__(self, store: Store, redactor: Redactor) -> None:
        self._store = store
        self._redactor = redactor

    async def put(self, attempt: Attempt, value: Any) -> None:
        """Put a value by in place of the last one; returns once it is stored.

        Raises:
            CheckpointInvalid: it cannot be kept.
        """
        run, step = _run_of(attempt), attempt.step
        data = kept_json(value, self._redactor, CheckpointInvalid)
        if run.checkpoints is None:
            run.checkpoints = {}
        checkpoint = run.checkpoints.setdefault(step.key, Checkpoint(step.name, step.index))

        def stored() -> None:
            checkpoint.value = data

        unit = put_checkpoint(run.seq, checkpoint, data)
        await self._store.put(unit, stored, site=Site.HOP, owner=run).wait()

    def last(self, attempt: Attempt) -> Any:
        """What was put by last; None if there is nothing."""
        found = (_run_of(attempt).checkpoints or {}).get(attempt.step.key)
        return None if found is None or found.value is None else decode(found.value)


def _run_of(attempt: Attempt) -> LiveRun:
    assert isinstance(attempt.run, LiveRun)
    return attempt.run
