"""Tests of worlds run in virtual time, on a plan that each of them may write anew."""

from pathlib import Path

import pytest
from tests.testing.kit import LAB_ACTIONS, happened, write_plan

from aura.testing.virtual_time import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run a test on the virtual loop."""
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A plan with actions of each kind and no tasks."""
    happened.clear()
    return write_plan(tmp_path / "plans" / "lab", {"actions.py": LAB_ACTIONS})
