"""The stories of this folder are told in virtual time."""

import pytest

from aura.testing.virtual_time import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run a test on the virtual loop."""
    return "asyncio", {"loop_factory": VirtualLoop}
