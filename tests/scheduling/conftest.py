"""Tests of schedules run in virtual time: nothing in them sleeps for real, and a deadlock fails them at once."""

import pytest

from aura.testing.virtual_time import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run a test on the virtual loop."""
    return "asyncio", {"loop_factory": VirtualLoop}
