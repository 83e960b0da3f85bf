"""A server as a process of its own: its signals, what it sets for the whole process, and its exit code.

``server`` is the tree of scopes, whoever runs it; here it is run alone, by ``aura serve``. The first SIGINT or SIGTERM
begins its stop, a second one hurries that, a third ends the process at once. SIGHUP has the plans loaded again.
"""

import gc
import itertools
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial

import anyio
from anyio import create_task_group
from anyio.abc import TaskGroup

from aura import failpoints
from aura.config import Settings
from aura.covering import covered_streams
from aura.errors import AuraError, ConfigError, ExitCode
from aura.eventloop import StayingLoop
from aura.notify import READY, Notifier
from aura.run import leaves_of
from aura.server import Server, leave_hard, say
from aura.stores.folder import cannot_use, is_known

#: The longest pause of a failed listener to signals, in seconds: a signal that comes meanwhile must not wait for long.
SIGNALS_PAUSE = 1.0
#: How long a busy worker thread keeps the interpreter before it must offer it: commits stay quick beside one.
SWITCH_INTERVAL = 0.0005
#: Allocations between two looks of the garbage collector. A run makes some hundred objects and hardly ever a cycle:
#: with Python's own 700 the looks cost a tenth of all time. A batch of 500 runs at lane limit 500 keeps 50,000 objects
#: alive; a look at those that will soon go by themselves costs a sixth (``benchmarks/profile_runs.py``).
GC_THRESHOLDS = (100_000, 20, 20)
#: Files that a server must be able to open: with fewer it would not get as far as saying so.
LEAST_FILES = 64


async def _listen_for_signals(
    server: Server, signals: AsyncIterator[signal.Signals], numbers: Iterator[int], group: TaskGroup
) -> None:
    """Turn the first signal into a stop, a second one into a quicker one, a third into an end at once.

    SIGHUP is none of these: it has the plans loaded again, beside whatever else is heard.
    """
    async for number in signals:
        if number == signal.SIGHUP:
            # in the group of signals; ends by itself, for a load has a time limit, or with the server
            group.start_soon(server.reload, name="reload")
            continue
        if next(numbers) > 2:
            leave_hard(ExitCode.INTERNAL)
        server.request_stop()


async def serve_until_signal(server: Server) -> int:
    """Run a server until SIGINT or SIGTERM stops it, and give its exit code. SIGHUP reloads the plans."""
    # The handlers stay while the listener is in a pause: what comes then is kept, and heard after it.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        # the server and the signals that stop it; the listener is cancelled when the server has ended
        async with create_task_group() as group:
            listen = partial(_listen_for_signals, server, signals, itertools.count(1), group)
            supervised = partial(server.supervisor.serve, "signals", listen, longest=SIGNALS_PAUSE)
            group.start_soon(supervised, name="signals")
            async with create_task_group() as serving:
                address = await serving.start(server.serve, name="serve")
                say(f"ready on {address}", sys.stdout)
                server.notifier.tell(READY)
            group.cancel_scope.cancel("the server has ended")
    return server.exit_code


async def _run(settings: Settings) -> int:
    """Serve, and leave: of Aura nothing is left then; a thread that still reads, or what plan code has left, is cut."""
    server = Server(settings, console=True, notifier=Notifier(os.environ))
    with covered_streams(server.redactor):
        leave_hard(await serve_until_signal(server))
    raise AssertionError("the process has ended")


def run_server(settings: Settings) -> int:
    """Run a server in this process until a signal stops it; the process ends with its exit code.

    Raises:
        ConfigError, StoreError: it could not start.
    """
    _check_open_files()
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)
    os.umask(0o077)
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    try:
        return anyio.run(_run, settings, backend_options={"loop_factory": StayingLoop})
    except BaseExceptionGroup as group:
        for error in leaves_of(group):
            if isinstance(error, AuraError):
                raise error from None
            if isinstance(error, OSError) and is_known(error):
                raise cannot_use(f"the server cannot go on ({error.filename or 'no file'})", error, "") from None
        raise


def _check_open_files() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        said = f"a process may open {soft} files here, and a server needs {LEAST_FILES}"
        raise ConfigError(f"{said}; raise it: ulimit -n, or LimitNOFILE= of its unit", ExitCode.CANNOT_CREATE)
