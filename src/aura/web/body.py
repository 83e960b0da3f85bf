"""Reads the body of a request: bounded in bytes and in time, JSON only, with an outcome for everything that is not.

What the JSON must be: UTF-8 without a byte order mark, no key twice in one object, no NaN or Infinity, at most 64
levels, integers of at most 2^53, no lone surrogates; text has no NUL. The bytes are counted here, whatever
Content-Length says.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any, NoReturn

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from aura.errors import FieldError, RequestError
from aura.web.validate import invalid, pointer

JSON = "application/json"
#: Seconds in which the whole body has to arrive.
BODY_TIMEOUT = 30.0
MAX_DEPTH = 64
#: JSON readers that keep numbers as doubles change larger integers silently (RFC 8259, section 6).
MAX_INTEGER = 2**53
#: Larger bodies are parsed in a worker thread, so that nobody waits for them.
PARSE_INLINE = 32 * 1024
#: How many bytes of larger bodies of strangers there may be at a time, and how many such bodies at the least.
STRANGERS_BYTES = 64 * 1024 * 1024
LEAST_STRANGERS = 4


class Strangers:
    """The places of larger bodies whose senders nobody knows yet: all of them together do not fill the memory.

    ``limit`` is the largest body, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._free = max(LEAST_STRANGERS, STRANGERS_BYTES // limit)

    @contextmanager
    def place(self, scope: Scope) -> Iterator[None]:
        """Have a place while a body is read; one that says that it is small needs none.

        Raises:
            RequestError: ``too_many_connections``: none is free.
        """
        announced = _announced_length(dict(scope["headers"]))
        if announced is not None and announced <= PARSE_INLINE:
            yield
            return
        if self._free == 0:
            message = "too many large bodies are on their way; call again later"
            raise RequestError("too_many_connections", message, retry_after=5)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def read_json(scope: Scope, receive: Receive, limit: int) -> Any:
    """Read the body as plain JSON data; ``limit`` is in bytes.

    Raises:
        RequestError: there is no body, or it is not acceptable JSON.
        ClientDisconnect: the client went away before it had sent all.
    """
    return await parse_aside(await read_raw(scope, receive, limit))


async def read_raw(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the bytes of a body that says that it is JSON; ``limit`` is how many there may be. Raises as ``read_json``.

    Nobody has looked yet whether it is.
    """
    headers = dict(scope["headers"])
    announced = _announced_length(headers)
    if announced is not None and announced > limit:
        raise _too_large(limit)
    if announced == 0 or not has_body(headers):
        raise RequestError("body_required", "the body is empty; send a JSON object")
    check_content_type(headers)
    raw = await _read(receive, limit)
    if not raw:
        raise RequestError("body_required", "the body is empty; send a JSON object")
    return raw


async def parse_aside(raw: bytes) -> Any:
    """Read JSON strictly, as ``parse``, and keep nobody waiting."""
    if len(raw) > PARSE_INLINE:
        return await anyio.to_thread.run_sync(parse, raw)
    return parse(raw)


def has_body(headers: dict[bytes, bytes]) -> bool:
    """Say whether the headers announce a body; one of length 0 is none."""
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0 ") != b""


def _announced_length(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(b"content-length")
    return int(text) if text is not None and text.isdigit() and len(text) < 20 else None


def check_content_type(headers: dict[bytes, bytes]) -> None:
    """Refuse everything but JSON in UTF-8: a form or plain text is what a foreign page could send unasked.

    Raises:
        RequestError: ``bad_content_type``.
    """
    text = headers.get(b"content-type", b"").decode("latin-1")
    if text != JSON:
        _check_other_spelling(text)
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if encoding.lower() != "identity":
        raise RequestError("bad_content_type", f"Content-Encoding {encoding[:40]!r} is not taken; send it uncompressed")


def _check_other_spelling(text: str) -> None:
    message = Message()
    message["content-type"] = text
    if not text or message.get_content_type() != JSON:
        got = f"not {text[:100]!r}" if text else "and it is missing"
        raise RequestError("bad_content_type", f"the header Content-Type must say {JSON}, {got}")
    if (message.get_param("charset") or "utf-8") not in ("utf-8", "UTF-8"):
        raise RequestError("bad_content_type", "JSON is UTF-8; leave the charset away in Content-Type")


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise _too_large(limit)
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError:
        raise RequestError("body_timeout", f"the body did not arrive within {BODY_TIMEOUT:g} s") from None


def _too_large(limit: int) -> RequestError:
    return RequestError("body_too_large", f"the body is larger than {limit} bytes, which is this server's limit")


def parse(raw: bytes) -> Any:
    """Read JSON strictly.

    Raises:
        RequestError: ``bad_json`` with the place; ``invalid`` for text that contains NUL.
    """
    try:
        text = raw.decode("utf-8")
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise _bad(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg} at character {error.pos} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _too_deep() from None
    _check(data, "", 1)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _bad(f"the key {twice[:100]!r} comes twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _bad(f"{name} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
        raise _bad(f"an integer of {len(digits)} digits is beyond 2^53; send it as text")  # it may be a secret
    return int(digits)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check(value: Any, at: str, depth: int) -> None:
    """Walk what was read: depth, numbers that became infinite, text that nobody could store."""
    match value:
        case str():
            _check_text(value, at)
        case float() if not math.isfinite(value):
            raise _bad(f"a number at {at or 'the top'} is too large")
        case dict() | list() if depth > MAX_DEPTH:
            raise _too_deep()
        case dict():
            for key, item in value.items():
                _check_text(key, at)
                _check(item, pointer(at, key), depth + 1)
        case list():
            for index, item in enumerate(value):
                _check(item, f"{at}/{index}", depth + 1)


def _check_text(text: str, at: str) -> None:
    if text.isascii():
        if "\0" in text:
            raise invalid([FieldError(at, "contains the character NUL, which nothing can store")])
    elif _SURROGATE.search(text):
        raise _bad(f"the text at {at or 'the top'} has half a character (a lone surrogate)")
    elif "\0" in text:
        raise invalid([FieldError(at, "contains the character NUL, which nothing can store")])


def _too_deep() -> RequestError:
    return _bad(f"it nests deeper than {MAX_DEPTH} levels")


def _bad(message: str) -> RequestError:
    return RequestError("bad_json", f"the body is not acceptable JSON: {message}")
