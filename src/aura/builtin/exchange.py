"""One HTTP exchange on httpx2: a connection to a checked address, redirects, an answer of bounded size.

It owns what goes over the wire; ``http`` owns what the action takes and gives. There is a new connection for each
request: a plan that asks once a minute has nothing of a pool, and nothing can be left in one.

httpx2's client is not used, its parts are: the client writes each URL with all that is in it to a log, and what is sent
on to another origin has to be said here. Imported at the first request, since httpx2 takes its time.
"""

import base64
import os
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from functools import cache, partial

import anyio
import httpcore2
import httpx2
import msgspec

import aura
from aura.builtin.addresses import addresses_of
from aura.errors import HttpFailed, ParamsInvalid
from aura.events import clean_text

#: How many redirects are followed.
MAX_REDIRECTS = 10
#: Seconds that an address may take to accept a connection while there is another one to try.
CONNECT_TIME = 5.0
MAX_URL = 8192
#: The longest part of a URL in a message, in bytes.
SHOWN_URL = 300
#: Headers of a plan that may be sent on to another origin; the others may hold what is not meant for that.
_SENT_ON = frozenset({"accept", "accept-language", "content-language", "content-type", "user-agent"})
_OF_BODY = frozenset({"content-type", "content-language", "content-length"})
_PORTS = {"http": 80, "https": 443}
_NO_CONNECTION = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError)

Header = tuple[bytes, bytes]

#: What certificates are checked by, if not by the system's; tests put another in its place.
TRUST: ContextVar[ssl.SSLContext | None] = ContextVar("aura.trust", default=None)


class Asked(msgspec.Struct, frozen=True):
    """What is asked. The URL has neither user nor password."""

    method: str
    url: httpx2.URL
    headers: tuple[Header, ...]
    content: bytes | None

    @property
    def shown(self) -> str:
        """How a message names it: without the query, which may hold secrets."""
        port = f":{self.url.port}" if self.url.port is not None else ""
        host = f"[{self.url.host}]" if ":" in self.url.host else self.url.host
        return clean_text(f"{self.method} {self.url.scheme}://{host}{port}{self.url.path}", SHOWN_URL)


class Answer(msgspec.Struct, frozen=True):
    """What came back, its body decompressed."""

    asked: Asked
    status: int
    reason: str
    headers: httpx2.Headers
    body: bytes


@cache
def trusted() -> ssl.SSLContext:
    """What the system trusts, or ``SSL_CERT_FILE``. Reading it takes a tenth of a second: once, and in a thread."""
    return httpx2.create_ssl_context()


def parse_url(text: str, params: Iterable[tuple[str, str]] = ()) -> httpx2.URL:
    """Read a URL and add parameters to its query.

    Raises:
        ParamsInvalid: it is no URL of a web server.
    """
    if len(text) > MAX_URL:
        raise ParamsInvalid(f"http.request: the url has {len(text)} characters; at most {MAX_URL} are sent")
    try:
        url = httpx2.URL(text)
        given = tuple(params)
        url = url.copy_merge_params(httpx2.QueryParams(given)) if given else url
    except (httpx2.InvalidURL, ValueError) as error:
        quoting = "its user and password must have %2F for / and so on"  # the error may have the beginning of one
        raise ParamsInvalid(f"http.request: this url cannot be used: {quoting if '@' in text else error}") from None
    if not _is_web(url):
        raise ParamsInvalid("http.request: the url must begin with http:// or https:// and name a host")
    return url


def _is_web(url: httpx2.URL) -> bool:
    return url.scheme in _PORTS and bool(url.raw_host) and (url.port is None or 0 < url.port < 65536)


def asked_for(method: str, url: httpx2.URL, headers: Sequence[Header], content: bytes | None) -> Asked:
    """Make a request of its parts; user and password in the URL become a header, unless there is one already."""
    names = {name.lower() for name, _ in headers}
    made = list(headers)
    if url.userinfo and b"authorization" not in names:
        made.append((b"Authorization", b"Basic " + base64.b64encode(f"{url.username}:{url.password}".encode())))
    return Asked(method, url.copy_with(userinfo=b""), tuple(made), content)


async def exchange(asked: Asked, limit: int) -> Answer:
    """Ask, follow redirects, and read the answer, ``limit`` bytes at most.

    Raises:
        AddressRefused: it leads, or a redirect does, to an address that may not be used.
        ConnectionError: no connection, no trust in its certificate, or no HTTP on it.
        HttpFailed: the answer is too large or cannot be decompressed, or redirects lead nowhere.

    Cancellation: the connection is closed.
    """
    context = TRUST.get() or trusted()
    for _ in range(MAX_REDIRECTS + 1):
        answer = await _ask(asked, context, limit)
        if isinstance(answer, Answer):
            return answer
        asked, status = answer
    raise HttpFailed(f"{asked.shown}: there were more than {MAX_REDIRECTS} redirects", status)


async def _ask(asked: Asked, context: ssl.SSLContext, limit: int) -> Answer | tuple[Asked, int]:
    """Ask once, and give the answer, or what to ask instead and the status that said so."""
    network = _Checked()
    try:
        async with httpcore2.AsyncConnectionPool(context, network_backend=network) as pool:
            raw = await pool.handle_async_request(_raw_request(asked))
            response = httpx2.Response(raw.status, headers=raw.headers, stream=_Stream(raw), extensions=raw.extensions)
            try:
                following = _redirected(asked, response)
                return (following, raw.status) if following else await _read(asked, response, limit)
            finally:
                await response.aclose()
    except _NO_CONNECTION as error:
        raise ConnectionError(f"{asked.shown}: {_words(error)}") from None
    except httpx2.DecodingError as error:
        raise HttpFailed(f"{asked.shown}: the answer cannot be decompressed: {error}", response.status_code) from None
    finally:
        await network.aclose()


def _raw_request(asked: Asked) -> httpcore2.Request:
    url = asked.url
    own = {
        b"Host": url.netloc,
        b"Accept": b"*/*",
        b"Accept-Encoding": b"gzip, deflate",
        b"User-Agent": f"aura/{aura.__version__}".encode(),
    }
    if asked.content is not None or asked.method in ("POST", "PUT", "PATCH"):
        own[b"Content-Length"] = str(len(asked.content or b"")).encode()
    given = {name.lower() for name, _ in asked.headers}
    headers = [(name, value) for name, value in own.items() if name.lower() not in given]
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    return httpcore2.Request(asked.method, target, headers=[*headers, *asked.headers], content=asked.content or b"")


async def _read(asked: Asked, response: httpx2.Response, limit: int) -> Answer:
    """Read the body. What is counted is what it is when decompressed, and no more than a piece beyond is made."""
    body = bytearray()
    async with aclosing(response.aiter_bytes()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > limit:
                raise HttpFailed(
                    f"{asked.shown}: the answer is larger than {limit} bytes, which is the most that a step can give; "
                    "ask for less of it, or fetch it to a file with `shell.run`",
                    response.status_code,
                )
    return Answer(asked, response.status_code, response.reason_phrase, response.headers, bytes(body))


class _Stream(httpx2.AsyncByteStream):
    """The body of an answer of httpcore2 as httpx2 wants it."""

    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._answer.aiter_stream()) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Checked(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that have been looked at, one after the other until one answers."""

    def __init__(self) -> None:
        self._opened: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await addresses_of(host, port)
        connect = partial(
            httpcore2.AnyIOBackend().connect_tcp, port=port, local_address=local_address, socket_options=socket_options
        )
        for address in addresses[:-1]:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                self._opened = await connect(address, timeout=CONNECT_TIME)
                return self._opened
        self._opened = await connect(addresses[-1], timeout=timeout)
        return self._opened

    async def aclose(self) -> None:
        """Close the connection if nobody has: httpcore2 lets go of one whose TLS handshake is cut off."""
        if self._opened is not None:
            with anyio.CancelScope(shield=True):  # cannot hang: it waits for one turn of the loop
                await self._opened.aclose()


def _words(error: BaseException) -> str:
    """What the system said, which stands at the end of a chain of causes; httpcore2 puts them into its arguments."""
    while inner := error.__cause__ or next((part for part in error.args if isinstance(part, Exception)), None):
        error = inner
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return str(error) or "the connection broke off"


# -- redirects --------------------------------------------------------------------------------------------------------


def _redirected(asked: Asked, response: httpx2.Response) -> Asked | None:
    """What an answer says to ask instead; None if it is an answer itself."""
    status, location = response.status_code, response.headers.get("location")
    if status not in (301, 302, 303, 307, 308) or not location:
        return None
    try:
        url = asked.url.join(location).copy_with(userinfo=b"")
    except (httpx2.InvalidURL, ValueError):
        raise HttpFailed(f"{asked.shown}: it redirects to what is no url", status) from None
    if not _is_web(url) or len(location) > MAX_URL:
        raise HttpFailed(f"{asked.shown}: it redirects to what is no url of a web server", status)
    method, content = asked.method, asked.content
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        method, content = "GET", None
    return Asked(method, url, tuple(_sent_on(asked, url, content is None)), content)


def _sent_on(asked: Asked, url: httpx2.URL, no_body: bool) -> Iterator[Header]:
    """The headers that go where a redirect leads: all of them to the same origin, or to the same host by TLS."""
    before, after = _origin(asked.url), _origin(url)
    same = before == after or (before[1:] == (asked.url.host, 80) and after == ("https", asked.url.host, 443))
    for name, value in asked.headers:
        lower = name.lower().decode()
        if no_body and lower in _OF_BODY:
            continue
        if same or lower in _SENT_ON:
            yield name, value


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or _PORTS[url.scheme]
