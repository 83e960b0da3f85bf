"""Sends a file of a run: whole or one range of it, piece by piece, each write bounded in time.

The length is said before the first piece, so a file that has become shorter meanwhile, or cannot be read to its end,
cuts the connection: a client sees that something is missing. What was added since it was opened is not sent.
"""

import os
import re
from urllib.parse import quote

import anyio
import anyio.lowlevel
import anyio.to_thread
from starlette.types import Message, Receive, Send

from aura.errors import RequestError
from aura.runs.workfiles import OpenFile
from aura.web.sse import WRITE_TIMEOUT

#: Bytes that are read and written at a time: a client has to take as much in ``WRITE_TIMEOUT`` seconds.
PIECE = 64 * 1024
#: Threads that look at files, of all requests together.
THREADS = 8
OCTETS = "application/octet-stream"

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("aura.web.files.limiter")
_RANGE = re.compile(rb"bytes=([0-9]{0,40})-([0-9]{0,40})")


def limiter() -> anyio.CapacityLimiter:
    """The threads in which workdirs are looked at and files are read."""
    found = _limiter.get(None)
    if found is None:
        found = anyio.CapacityLimiter(THREADS)
        _limiter.set(found)
    return found


def etag(file: OpenFile) -> str:
    """What changes when a file does: its time and its size."""
    return f'"{file.modified_ns:x}-{file.bytes:x}"'


def wanted_part(asked: bytes | None, condition: bytes | None, file: OpenFile) -> range | None:
    """The bytes that ``Range`` asks for; None for the whole file.

    What is no single range of bytes is no range, as RFC 9110 (14.2) allows, and neither is one whose ``If-Range`` names
    another state of the file.

    Raises:
        RequestError: ``range_not_satisfiable``: it begins behind the file's end.
    """
    found = _RANGE.fullmatch(asked or b"")
    if not found or not file.bytes or condition not in (None, etag(file).encode()):
        return None
    first, last = (int(text) if text else None for text in found.groups())
    if first is None and last is None:
        return None
    if first is None:
        first, last = max(file.bytes - (last or 0), 0), file.bytes - 1
    elif last is None:
        last = file.bytes - 1
    elif last < first:
        return None
    if first >= file.bytes:
        raise RequestError("range_not_satisfiable", f"the file has {file.bytes} bytes", extra={"bytes": file.bytes})
    return range(first, min(last or 0, file.bytes - 1) + 1)


def file_headers(file: OpenFile, name: str, part: range | None) -> dict[str, str]:
    """The headers of an answer with this file. It is offered to be saved, never shown: its bytes may be anything."""
    length = file.bytes if part is None else len(part)
    found = {
        "content-type": OCTETS,
        "content-length": str(length),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(os.fsencode(name), safe='')}",
        "accept-ranges": "bytes",
        "etag": etag(file),
    }
    if part is not None:
        found["content-range"] = f"bytes {part.start}-{part.stop - 1}/{file.bytes}"
    return found


async def send_file(
    file: OpenFile, name: str, part: range | None, receive: Receive, send: Send, *, head_only: bool = False
) -> None:
    """Send head and bytes. **Cancellation**: cuts the connection."""
    headers = [(key.encode(), value.encode()) for key, value in file_headers(file, name, part).items()]
    status = 200 if part is None else 206
    await _write(send, {"type": "http.response.start", "status": status, "headers": headers})
    if head_only:
        await _write(send, {"type": "http.response.body", "body": b"", "more_body": False})
        return

    async def watch_client() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel("the client has gone")

    # In the group: the watcher, and the sending in its body, at whose end it is cancelled.
    async with anyio.create_task_group() as group:
        group.start_soon(watch_client, name="download client watcher")
        await _send_bytes(file, part or range(file.bytes), send)
        group.cancel_scope.cancel("it is sent")


async def _send_bytes(file: OpenFile, part: range, send: Send) -> None:
    at = part.start
    while at < part.stop:
        try:
            piece = await anyio.to_thread.run_sync(
                os.pread, file.handle, min(PIECE, part.stop - at), at, limiter=limiter()
            )
            if not piece or not await _write(send, {"type": "http.response.body", "body": piece, "more_body": True}):
                return  # an answer that is not brought to its end cuts the connection
        except OSError:
            return
        at += len(piece)
    await _write(send, {"type": "http.response.body", "body": b"", "more_body": False})


async def _write(send: Send, message: Message) -> bool:
    """Write, and say whether the client took it in time."""
    with anyio.move_on_after(WRITE_TIMEOUT) as scope:
        await send(message)
    return not scope.cancelled_caught
