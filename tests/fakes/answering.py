"""A web server on loopback that answers as a test says, byte by byte if need be, and remembers what it was asked."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSStream


@dataclass
class Heard:
    """One request as it came. Names of headers are in small letters."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Says = bytes | Callable[[ByteStream, Heard], Awaitable[None]]


def answer(status: int = 200, body: bytes | str = b"", *headers: str) -> bytes:
    """A whole answer as it goes over the wire."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


@dataclass
class Answering:
    """The server: ``says`` is what each path answers, ``heard`` what was asked, in order."""

    says: Mapping[str, Says]
    port: int = 0
    heard: list[Heard] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve_one(self, stream: ByteStream) -> None:
        """Answer one request and hang up."""
        try:
            request = await _read(stream)
            self.heard.append(request)
            says = self.says[request.target.partition("?")[0]]
            if isinstance(says, bytes):
                await stream.send(says)
            else:
                await says(stream, request)
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            pass  # who asked has hung up
        finally:
            with anyio.move_on_after(1, shield=True):  # a moment at most: there is nothing to wait for
                await stream.aclose()


async def _read(stream: ByteStream) -> Heard:
    source = BufferedByteReceiveStream(stream)
    head = (await source.receive_until(b"\r\n\r\n", 100_000)).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = int(headers.get("content-length", 0))
    return Heard(method, target, headers, await source.receive_exactly(length) if length else b"")


@asynccontextmanager
async def open_answering(says: Mapping[str, Says], tls: ssl.SSLContext | None = None) -> AsyncIterator[Answering]:
    """Serve on a free port of loopback until the end of the block."""
    server = Answering(says)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            if tls is None:
                await server.serve_one(stream)
                return
            with suppress(ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):  # who asked does not trust us
                wrapped = await TLSStream.wrap(stream, server_side=True, ssl_context=tls, standard_compatible=False)
                await server.serve_one(wrapped)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        server.port = listener.extra(SocketAttribute.local_port)
        failed: Exception | None = None
        # the listener and its connections; cancelled below
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            try:
                yield server
            except Exception as error:  # the test's own, which no group should wrap
                failed = error
            group.cancel_scope.cancel("the test has ended")
        if failed is not None:
            raise failed
