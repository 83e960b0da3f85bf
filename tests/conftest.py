"""What all tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Aura runs on asyncio alone."""
    return "asyncio"
