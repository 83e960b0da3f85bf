"""The clean-up proof, small: what ``make cleanup N=200`` shows of a hundred victims, two hundred times over.

``AURA_TEST_CLEANUP_ROUNDS`` and ``AURA_TEST_CLEANUP_VICTIMS`` make it larger.
"""

import os
from pathlib import Path

import pytest
from tests.acceptance import cleanup

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("AURA_TEST_CLEANUP_ROUNDS", "1"))
VICTIMS = int(os.environ.get("AURA_TEST_CLEANUP_VICTIMS", "25"))


async def test_nothing_of_a_victim_is_left_when_the_handler_begins(tmp_path: Path) -> None:
    rounds = await cleanup.prove(tmp_path, ROUNDS, VICTIMS)
    assert [one.left for one in rounds] == [cleanup.NOTHING] * ROUNDS
    assert max(one.seconds for one in rounds) <= cleanup.GRACE + cleanup.LATE
