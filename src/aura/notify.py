"""Telling systemd, or whoever else speaks its protocol, how the server stands (``sd_notify(3)``).

A service of ``Type=notify`` gets the path of a datagram socket in ``NOTIFY_SOCKET``, and with ``WatchdogSec`` in
``WATCHDOG_USEC`` how often it wants to hear that the service lives. Without them nothing is told to anybody.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import anyio

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
#: For how many seconds ``READY`` may wait for room: it is told once, and who never hears it ends the service.
PATIENCE = 1.0


class Notifier:
    """What is told to the service manager. ``every``: how often it wants to hear ``ALIVE``, in seconds; 0: never."""

    def __init__(self, environ: Mapping[str, str] = {}) -> None:
        """``environ``: where the manager has said all this; what in it is not for this process is not heard."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.every = int(usec) / 1e6 if self._address and usec.isdecimal() and ours else 0.0

    def tell(self, state: str) -> None:
        """Send a state. That nobody takes it changes nothing."""
        with suppress(OSError):
            self._send(state, PATIENCE if state == READY else 0.0)

    def _send(self, state: str, patience: float = 0.0) -> None:
        if not self._address:
            return
        # an abstract socket, which has no file, is written with @
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience)
            sender.sendto(state.encode(), address)

    async def serve_alive(self) -> None:
        """Tell that the event loop goes on, twice as often as the manager wants to hear it, until cancelled.

        Raises:
            OSError: nobody takes it.
        """
        while True:
            with suppress(BlockingIOError):  # it has not read what was sent before: there is always a next time
                self._send(ALIVE)
            await anyio.sleep(self.every / 2)
