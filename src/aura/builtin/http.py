"""The shipped action ``http.request``: what it takes and gives, and how it fails. ``exchange`` talks to the server.

Not here: proxies of the environment, ``.netrc`` and cookies. Nothing of the server's own goes along, its token least of
all. A time-out of the step or the run cuts the request off as any stop does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import msgspec

from aura.actions import MAX_OUTPUT, action, plain_json
from aura.builtin.threads import in_thread
from aura.duration import Duration
from aura.errors import BadOutput, HttpFailed, ParamsInvalid
from aura.events import clean_text

if TYPE_CHECKING:
    from aura.builtin.exchange import Answer

#: How much of an answer's text a message has, in bytes.
SHOWN_TEXT = 500

Word = str | int | float | bool
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
#: A status, or a range of them such as ``200..399``.
Status = (
    Annotated[int, msgspec.Meta(ge=100, le=599)] | Annotated[str, msgspec.Meta(pattern=r"^[1-5]\d\d\.\.[1-5]\d\d$")]
)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: Made from the body and the connection; a plan that says another would only break the exchange.
_NOT_GIVEN = frozenset({"content-length", "transfer-encoding", "connection", "upgrade"})
_JSON_TYPE = re.compile(r"\s*(application/([\w.!#$&^-]+\+)?json|text/json)\s*(;|$)", re.IGNORECASE)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([\w.:-]{1,40})", re.IGNORECASE)
#: Encodings of text, decoded in linear time; Python has others under such names that are neither.
_ENCODINGS = re.compile(
    r"utf-?(8|16|32)(-?[bl]e)?|(us-)?ascii|latin-?1|iso-?8859-\d+|(windows-|cp)12\d\d|koi8-[rut]"
    r"|gb(k|2312|18030)|big5|shift-jis|euc-(jp|kr)|iso-2022-(jp|kr)"
)


class HttpResult(msgspec.Struct, frozen=True):
    """An answer. Names of headers are in small letters; ``json`` is null where the answer is none."""

    status: int
    headers: dict[str, str]
    text: str
    json: Any


@action(name="http.request")
async def request(
    url: str,
    method: Method = "GET",
    headers: dict[str, Word] = {},  # noqa: B006 - an action's default is copied
    params: dict[str, Word | list[Word] | None] = {},  # noqa: B006
    json: Any = None,
    body: str | None = None,
    timeout: Duration = Duration(30.0),  # noqa: B008 - it is a number
    ok_status: list[Status] = ["200..399"],  # noqa: B006
) -> HttpResult:
    """Ask a web server, and give its answer."""
    if timeout <= 0:
        raise ParamsInvalid("http.request: the timeout must be more than 0")
    wanted = [_range(status) for status in ok_status]
    content, kind = _content(json, body)
    fields = list(_header_fields(headers, kind))
    await in_thread(_prepare)
    from aura.builtin.exchange import asked_for, exchange, parse_url  # in memory by now

    asked = asked_for(method, parse_url(url, _pairs(params)), fields, content)
    with anyio.move_on_after(timeout):  # the whole exchange, however slowly it trickles in; its time is what ends it
        return _result(await exchange(asked, MAX_OUTPUT), wanted)
    raise TimeoutError(f"{asked.shown}: there was no whole answer within {timeout:g} s")


def _prepare() -> None:
    """Import the client and read the certificates: the first time, that takes some tenths of a second."""
    from aura.builtin.exchange import trusted

    trusted()


# -- what is asked ----------------------------------------------------------------------------------------------------


def _range(status: int | str) -> range:
    first, _, last = str(status).partition("..")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise ParamsInvalid(f"http.request: ok_status: {status} is no range; write the lower number first")
    return found


def _content(json: Any, body: str | None) -> tuple[bytes | None, bytes | None]:
    """The bytes to send and their type."""
    if json is not None and body is not None:
        raise ParamsInvalid("http.request takes json or body, not both")
    if json is not None:
        return msgspec.json.encode(json), b"application/json"
    return (None, None) if body is None else (_bytes(body, "the body"), None)


def _bytes(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ParamsInvalid(f"http.request: {what} has half a character (a lone surrogate)") from None


def _header_fields(headers: Mapping[str, Word], kind: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """Headers as bytes. A value that would begin a header of its own is refused; its text is in no message."""
    if kind is not None and not any(name.lower() == "content-type" for name in headers):
        yield b"Content-Type", kind
    for name, word in headers.items():
        value = _text(word).strip(" \t")
        if not _HEADER_NAME.fullmatch(name):
            raise ParamsInvalid(f"http.request: {name!r:.60} is no name of a header")
        if name.lower() in _NOT_GIVEN:
            raise ParamsInvalid(f"http.request: the header {name} is made from the request; leave it out")
        if _CONTROL.search(value):
            raise ParamsInvalid(f"http.request: the header {name} has a line break, NUL or another control character")
        yield name.encode(), _bytes(value, f"the header {name}")


def _pairs(params: Mapping[str, Word | Sequence[Word] | None]) -> Iterator[tuple[str, str]]:
    """Parameters of the query: a list is one name again and again, null leaves it out."""
    for name, value in params.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        for word in values:
            yield name, _text(word)  # type: ignore[arg-type]  # text is a sequence too, and no list


def _text(word: Word) -> str:
    return word if isinstance(word, str) else msgspec.json.encode(word).decode()


# -- what came back ---------------------------------------------------------------------------------------------------


def _result(answer: "Answer", wanted: Sequence[range]) -> HttpResult:
    kind = answer.headers.get("content-type", "")
    text = _decoded(answer.body, kind)
    if not any(answer.status in ok for ok in wanted):
        said = f": {clean_text(text.strip(), SHOWN_TEXT)}" if text.strip() else ""
        message = f"{answer.asked.shown}: {answer.status} {answer.reason}".rstrip() + said
        raise HttpFailed(message, answer.status, _retry_after(answer.headers))
    result = HttpResult(answer.status, dict(answer.headers), text, _parsed(text) if _JSON_TYPE.match(kind) else None)
    size = len(msgspec.json.encode(result))
    if size > MAX_OUTPUT:
        message = f"the answer is {size} bytes as text and JSON; a step can give {MAX_OUTPUT}: ask for less of it"
        raise HttpFailed(f"{answer.asked.shown}: {message}", answer.status)
    return result


def _decoded(body: bytes, kind: str) -> str:
    """The body as text. What its encoding does not have is replaced; without a known one it is UTF-8."""
    found = _CHARSET.search(kind)
    name = found.group(1).lower().replace("_", "-") if found else "utf-8"
    return body.decode(name if _ENCODINGS.fullmatch(name) else "utf-8", "replace")


def _parsed(text: str) -> Any:
    """The JSON of a text; null if it is none, or none that a step can give."""
    try:
        return plain_json(msgspec.json.decode(text.removeprefix("\ufeff")), depth=1)
    except (msgspec.DecodeError, RecursionError, BadOutput):
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """How many seconds ``Retry-After`` says (RFC 9110, 10.2.3); a date counts from the date of the answer."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said[:12])
    until, now = _date(said), _date(headers.get("date", "")) or datetime.now(UTC)
    return None if until is None else max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
