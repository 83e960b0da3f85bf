"""A process that has imported all of Aura and turns copies of itself into ``aura`` commands (see ``forked.py``).

Run as ``python forkserver.py FD``: ``FD`` is its end of a socket. Each message there is one command to start: JSON, and
the open files that it is to have: stdin, stdout, stderr, and a socket on which its process id is told, and at its end
its status as ``waitpid(2)`` gives it. It ends when nobody has the other end of its socket any more.

A copy has the arguments, the environment, the folder, the limits and the open files of its command, and nothing else of
this process; then it is what the ``aura`` script is after its imports. No thread runs here, so a fork is safe.
"""

import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

import aura
from aura.cli.main import main

#: What commands import only when they come to it.
LATE = ("hypercorn.asyncio", "hypercorn.protocol.h2", "rich.live", "rich.table", "encodings.idna")
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
MOST = 1 << 20
#: The commands that have not ended: by its pidfd the process id of each, and where its end is told.
Running = dict[int, tuple[int, socket.socket]]


def import_all() -> None:
    """Import what any command might; but for what is the main program of another process."""
    for name in (*(found.name for found in pkgutil.walk_packages(aura.__path__, "aura.")), *LATE):
        if not name.endswith("__main__"):
            importlib.import_module(name)


def become(order: dict[str, Any], files: list[int]) -> None:
    """Be the process of one command, as far as that is not done by its main function."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    for limit, (soft, hard) in zip(LIMITS, order["limits"], strict=True):
        resource.setrlimit(limit, (soft, hard))
    time.tzset()
    sys.argv[:] = order["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open to the end, as are these:
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def tell_end(running: Running, handle: int) -> None:
    pid, report = running.pop(handle)
    os.close(handle)
    _, status = os.waitpid(pid, 0)
    with report:
        try:
            report.send(str(status).encode())
        except BrokenPipeError:  # nobody waits for it any more
            return


def serve(control: socket.socket) -> bool:
    """Start one command after another; True in a copy, which is to be a command now, False at the end."""
    running: Running = {}
    while True:
        ready, _, _ = select.select([control.fileno(), *running], [], [])
        for handle in set(ready) & set(running):
            tell_end(running, handle)
        if control.fileno() not in ready:
            continue
        data, files, _, _ = socket.recv_fds(control, MOST, 4)
        if not data:
            return False
        report = socket.socket(fileno=files.pop())
        if not (pid := os.fork()):
            _let_go(control, report, running)
            become(json.loads(data), files)
            return True
        for file in files:
            os.close(file)
        running[os.pidfd_open(pid)] = pid, report
        report.send(str(pid).encode())


def _let_go(control: socket.socket, report: socket.socket, running: Running) -> None:
    """In a copy: close what is the fork server's own."""
    for handle, (_, other) in running.items():
        os.close(handle)
        other.close()
    report.close()
    control.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import_all()
    gc.collect()
    gc.freeze()
    if serve(socket.socket(fileno=int(sys.argv[1]))):
        sys.exit(main())
