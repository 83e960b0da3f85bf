"""Listening sockets and the runner: connections as children of one call that always ends.

The sockets are our own, so that the port is known before anything is served, and so that each has TCP_NODELAY (without
it every answer waits 40 ms). They listen from the start to the end: while the child that accepts is away after a
failure, the connections that are open live on, and new ones wait in the kernel's backlog until it is back. The stop is
bounded: no new connection, idle ones close, the others get the grace, then they are cancelled, and cut if even that
does not end them.
"""

import asyncio
import logging
import os
import resource
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio.abc import TaskStatus
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from aura.builtin.addresses import listening
from aura.clock import SystemClock
from aura.config import ServerSettings, Settings
from aura.engine.supervisor import Supervisor
from aura.errors import ConfigError, ExitCode
from aura.web.connection import Connection
from aura.web.guard import MAX_HEADER_BYTES
from aura.web.upgrade import MAX_MESSAGE, PING_INTERVAL

BACKLOG = 512
#: Seconds without a request after which a connection is closed; also how long its first headers may take.
KEEP_ALIVE = 5.0
MAX_CONNECTIONS = 6000
#: Open files that connections leave for the store, the plans and the processes of actions.
RESERVED_FILES = 256
#: Seconds that cancelled connections get before they are cut, and then to be gone.
CANCEL_TIME = 0.25
CUT_TIME = 0.25
#: What a connection is told that is one too many.
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
#: The longest pause of a failed child that accepts, in seconds: the door is how people see what is wrong.
ACCEPT_PAUSE = 5.0

log = logging.getLogger(__name__)


class Listener(NamedTuple):
    """A bound socket; ``tls`` is None where it speaks in the clear."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None


def open_sockets(settings: Settings) -> tuple[list[Listener], str]:
    """Bind where the settings say, and give the address as ``aura serve`` prints it.

    Raises:
        ConfigError: it cannot be bound; exit code 73.
    """
    server = settings.server
    if server.uds is not None:
        return [Listener(_bind_unix(server.uds))], f"unix:{server.uds}"
    tls = _tls_context(server)
    sockets = _bind_tcp(server.host, server.port)
    port = sockets[0].getsockname()[1]
    host = f"[{server.host}]" if ":" in server.host else server.host
    return [Listener(bound, tls) for bound in sockets], f"{'https' if tls else 'http'}://{host}:{port}"


def _tls_context(server: ServerSettings) -> ssl.SSLContext | None:
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use {server.tls_cert} with {server.tls_key}: {error}") from error
    return context


def _bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host; a free port (0) is the same for all of them."""
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            own = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            bound.append(own)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            own.bind((address[0], port or address[1], *address[2:]))
            port = port or own.getsockname()[1]
            own.setblocking(False)
    except OSError as error:
        for own in bound:
            own.close()
        raise _cannot_listen(f"{host}:{port}", error) from error
    return bound


def _bind_unix(path: Path) -> socket.socket:
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    former = os.umask(0o177)  # the file is 0600 from its first moment
    try:
        _remove_stale(path)
        own.bind(os.fspath(path))
        own.setblocking(False)
    except OSError as error:
        own.close()
        raise _cannot_listen(f"unix:{path}", error) from error
    finally:
        os.umask(former)
    return own


def _remove_stale(path: Path) -> None:
    """Remove the socket that a server left which was killed; one that still answers stays."""
    if not path.exists() or not stat.S_ISSOCK(path.lstat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with suppress(ConnectionRefusedError):
            probe.connect(os.fspath(path))
            return
    path.unlink()


def _cannot_listen(where: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot listen on {where}: {error.strerror}; is another server there? --port 0 takes a free port",
        ExitCode.CANNOT_CREATE,
    )


def connection_limit() -> int:
    """How many connections there may be, so that files are left for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(min(MAX_CONNECTIONS, soft - RESERVED_FILES), soft // 4)


async def serve_http(
    app: ASGIApp,
    listeners: Sequence[Listener],
    supervisor: Supervisor | None = None,
    *,
    stop: anyio.Event,
    grace: float,
    limit: int | None = None,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then let connections end within ``grace`` seconds, and cut the rest.

    ``supervisor`` brings back what accepts, as the children ``http``, ``http 2`` and so on, one for each listener.

    Raises:
        OSError: a socket cannot listen.

    **Cancellation**: the same end. It takes ``grace`` and half a second at most, and leaves no child.
    """
    supervisor = supervisor or Supervisor(SystemClock())
    doors = _Doors(app, limit or connection_limit())
    paths = [sock.getsockname() for sock, _ in listeners if sock.family == socket.AF_UNIX]
    try:
        for listener in listeners:
            listener.socket.listen(BACKLOG)
        with listening(sock for sock, _ in listeners):
            # what accepts; cancelled by the body as soon as the server stops
            async with anyio.create_task_group() as accepting:
                for number, listener in enumerate(listeners, 1):
                    name = "http" if number == 1 else f"http {number}"
                    accept = partial(supervisor.serve, name, partial(doors.accept, listener), longest=ACCEPT_PAUSE)
                    accepting.start_soon(accept, name=name)
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel("the server stops")
    finally:
        for listener in listeners:
            listener.socket.close()
        # The shield cannot hang: each of its waits has a bound.
        with anyio.CancelScope(shield=True):
            await doors.close(grace)
        for path in paths:
            with suppress(OSError):  # somebody was quicker, which is as good
                os.unlink(path)


class _Doors:
    """The open connections: a child of the event loop each, cancelled by ``close`` at the latest.

    They belong to no child that accepts, so that they outlive one that fails.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = wrap_app(app, 0, "asgi")  # type: ignore[arg-type]  # two descriptions of the same protocol
        self._limit = limit
        self._config = _config()
        self._context = WorkerContext(None)
        #: Each connection's way out; None while it is being set up.
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter | None] = {}

    async def accept(self, listener: Listener) -> None:
        """Accept connections until cancelled. Nothing is awaited while one is in hand, so that none is lost.

        Raises:
            OSError: nothing can be accepted, as when too many files are open.
        """
        while True:
            await anyio.wait_readable(listener.socket)
            self._accept_waiting(listener)

    def _accept_waiting(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(BACKLOG):  # then it is others' turn
            try:
                accepted, _ = listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            accepted.setblocking(False)
            serve = self._turn_away if len(self._open) >= self._limit else self._serve
            child = loop.create_task(self._connected(accepted, listener.tls, serve), name="http connection")
            self._open[child] = None

    async def _connected(
        self,
        accepted: socket.socket,
        tls: ssl.SSLContext | None,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    ) -> None:
        child = asyncio.current_task()
        assert child is not None
        try:
            with suppress(OSError):  # the client has gone, or its handshake failed: nobody is left to tell
                reader, writer = await _open_streams(accepted, tls)
                self._open[child] = writer
                await serve(reader, writer)
        except asyncio.CancelledError:
            return  # our own end of it, and nobody waits for it
        except Exception:
            log.exception("a connection failed")
        finally:
            del self._open[child]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        await Connection(self._app, loop, self._config, self._context, {}, reader, writer)

    async def _turn_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell a client that there are too many, without keeping it."""
        writer.write(TOO_MANY)
        try:
            with anyio.move_on_after(CUT_TIME):  # to close over an unread request would take the answer back
                await reader.read(1)
        finally:
            writer.close()

    async def close(self, grace: float) -> None:
        """End all connections within ``grace`` and half a second."""
        await self._context.terminated.set()  # idle ones close now, busy ones after their answer
        await self._wait_all(grace)
        for child in list(self._open):
            child.cancel()
        await self._wait_all(CANCEL_TIME)
        for writer in self._open.values():
            if writer is not None:
                writer.transport.abort()
        await self._wait_all(CUT_TIME)
        if self._open:
            log.error("%d connections did not end", len(self._open))

    async def _wait_all(self, seconds: float) -> None:
        if self._open:
            await asyncio.wait(list(self._open), timeout=seconds)


async def _open_streams(
    accepted: socket.socket, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Make an accepted socket the streams of a connection; under TLS its handshake has as long as the first headers."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    limit = KEEP_ALIVE if tls else None
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=limit)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _config() -> Config:
    config = Config()
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE
    config.keep_alive_max_requests = 1_000_000
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.websocket_max_message_size = MAX_MESSAGE
    config.websocket_ping_interval = PING_INTERVAL
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
