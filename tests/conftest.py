"""What all tests share."""

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest

# Where bytecode is not to be written, each of the many servers and commands of the suite would compile all of Aura.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A suite that a script starts in the background inherits an ignored SIGINT, and with it every command that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the collector what stays to the end: the tests themselves, 400,000 objects in each process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture
def anyio_backend() -> str:
    """Aura runs on asyncio alone."""
    return "asyncio"


@pytest.fixture
def sigint_is_handled() -> Iterator[None]:
    """As in a server, which has a handler of its own: a KeyboardInterrupt is then nobody's Ctrl-C."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)
