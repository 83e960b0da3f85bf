"""``http.request`` against real servers on loopback: what it sends, what it gives, how it fails, and its bounds."""

import gzip
import json
import zlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from tests.fakes.answering import Heard, answer, open_answering
from tests.fakes.context import Bench

from aura.actions import MAX_OUTPUT
from aura.builtin import shipped
from aura.builtin.exchange import SHOWN_URL
from aura.builtin.http import SHOWN_TEXT
from aura.errors import HttpFailed, ParamsInvalid
from aura.redaction import Redactor

LIMIT = 20


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, shipped())


async def ask(bench: Bench, says: bytes | Callable[[ByteStream, Heard], Awaitable[None]], **params: Any) -> Any:
    """Ask a server that answers so, and give what the action gives."""
    async with open_answering({"/": says}) as server:
        with anyio.fail_after(LIMIT):
            return await bench.call("http.request", url=server.url(), **params)


# -- what is sent


@pytest.mark.parametrize(
    ("params", "target"),
    [
        pytest.param({}, "/?q=1", id="none"),
        pytest.param({"a": "x y&z"}, "/?q=1&a=x+y%26z", id="text is quoted"),
        pytest.param({"a": [1, 2.5, True]}, "/?q=1&a=1&a=2.5&a=true", id="a list repeats the name"),
        pytest.param({"a": None, "b": []}, "/?q=1", id="null and an empty list are left out"),
        pytest.param({"a": "ü{{7*7}}"}, "/?q=1&a=%C3%BC%7B%7B7%2A7%7D%7D", id="data stays data"),
        pytest.param({"a": ""}, "/?q=1&a=", id="empty"),
    ],
)
async def test_params_are_added_to_the_query(bench: Bench, params: dict[str, Any], target: str) -> None:
    async with open_answering({"/": answer()}) as server:
        await bench.call("http.request", url=server.url("/?q=1#part"), params=params)
        assert [heard.target for heard in server.heard] == [target]


@pytest.mark.parametrize(
    ("given", "body", "kind", "length"),
    [
        pytest.param({}, b"", None, None, id="nothing"),
        pytest.param({"method": "POST"}, b"", None, "0", id="a POST of nothing"),
        pytest.param({"method": "POST", "json": {"a": "é"}}, '{"a":"é"}'.encode(), "application/json", "10", id="json"),
        pytest.param({"method": "PUT", "json": False}, b"false", "application/json", "5", id="false is JSON"),
        pytest.param({"method": "PATCH", "body": "é"}, "é".encode(), None, "2", id="text"),
        pytest.param({"method": "POST", "body": ""}, b"", None, "0", id="empty text"),
        pytest.param({"json": 1, "headers": {"content-TYPE": "a/b"}}, b"1", "a/b", "1", id="a type of one's own"),
    ],
)  # fmt: skip
async def test_body_and_its_type_are_sent(
    bench: Bench, given: dict[str, Any], body: bytes, kind: str | None, length: str | None
) -> None:
    async with open_answering({"/": answer()}) as server:
        await bench.call("http.request", url=server.url(), **given)
        (heard,) = server.heard
        assert (heard.method, heard.body) == (given.get("method", "GET"), body)
        assert (heard.headers.get("content-type"), heard.headers.get("content-length")) == (kind, length)


async def test_headers_are_those_of_the_plan_and_few_of_our_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AURA_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/secret")
    async with open_answering({"/": answer()}) as server:
        await bench.call("http.request", url=server.url(), headers={"X-Number": 3, "x-text": " ä ", "Accept": "a/b"})
        (heard,) = server.heard
        assert heard.headers.pop("user-agent").startswith("aura/")
        assert heard.headers.pop("x-text").encode("latin-1").decode() == "ä"
        own = {"host": f"127.0.0.1:{server.port}", "accept-encoding": "gzip, deflate"}
        assert heard.headers == {**own, "x-number": "3", "accept": "a/b"}


async def test_user_and_password_of_the_url_are_a_header_and_in_no_message(bench: Bench) -> None:
    async with open_answering({"/x": answer(500)}) as server:
        url = f"http://me:s%40fe@127.0.0.1:{server.port}/x?token=hidden"
        with pytest.raises(HttpFailed) as caught:
            await bench.call("http.request", url=url)
        assert server.heard[0].headers["authorization"] == "Basic bWU6c0BmZQ=="
        assert str(caught.value) == f"GET http://127.0.0.1:{server.port}/x: 500 Said"


@pytest.mark.parametrize("cut", range(8, 16))
async def test_failure_that_is_cut_within_a_secret_does_not_show_its_beginning(bench: Bench, cut: int) -> None:
    redactor = Redactor()
    redactor.learn("p/s", "hunter2-and-more-of-it")
    text = "x" * (SHOWN_TEXT - cut) + "hunter2-and-more-of-it"
    path = "/" + "x" * (SHOWN_URL - cut - len("GET http://127.0.0.1:12345/")) + "hunter2-and-more-of-it"
    async with open_answering({path: answer(422, text)}) as server:
        with pytest.raises(HttpFailed) as caught:
            await bench.call("http.request", url=server.url(path))
    assert "hunter" in str(caught.value)
    assert "hunter" not in redactor.text(str(caught.value))


@pytest.mark.parametrize("password", ["hunter2/rest", "hunter2#rest", "hunter2?rest"])
async def test_password_that_breaks_its_url_is_in_no_message(bench: Bench, password: str) -> None:
    with pytest.raises(ParamsInvalid, match=r"%2F") as caught:
        await bench.call("http.request", url=f"http://me:{password}@127.0.0.1/")
    assert "hunter2" not in str(caught.value)


# -- what is given


JSON = "Content-Type: application/json"


def plain(charset: str) -> str:
    return f"Content-Type: text/plain; charset={charset}"


@pytest.mark.parametrize(
    ("said", "text", "data"),
    [
        pytest.param(answer(200, '{"a": 1}', JSON), '{"a": 1}', {"a": 1}, id="json"),
        pytest.param(answer(200, "[1]", "content-type: application/problem+json; x=1"), "[1]", [1], id="plus json"),
        pytest.param(answer(200, '{"a": 1}'), '{"a": 1}', None, id="json that does not say so"),
        pytest.param(answer(200, "{", JSON), "{", None, id="no json, though it says so"),
        pytest.param(answer(200, "NaN", JSON), "NaN", None, id="NaN"),
        pytest.param(answer(200, "[" * 70 + "]" * 70, JSON), "[" * 70 + "]" * 70, None, id="too deep for a result"),
        pytest.param(answer(200, "[" * 9000, JSON), "[" * 9000, None, id="too deep for a parser"),
        pytest.param(answer(200, "\ufeff[1]", JSON), "\ufeff[1]", [1], id="a byte order mark"),
        pytest.param(answer(200, "", JSON), "", None, id="empty"),
        pytest.param(answer(200, b"\xe4", plain("ISO-8859-1")), "ä", None, id="latin-1"),
        pytest.param(answer(200, "ä".encode("utf-16"), plain("utf-16")), "ä", None, id="utf-16"),
        pytest.param(answer(200, b"\xffa"), "\ufffda", None, id="what is no text is replaced"),
        pytest.param(answer(200, b"xn--a", plain("punycode")), "xn--a", None, id="a slow codec is not used"),
        pytest.param(answer(200, b"a", plain("zip")), "a", None, id="a codec of bytes is not used"),
        pytest.param(answer(204), "", None, id="no content"),
        pytest.param(answer(200, gzip.compress(b"hello"), "Content-Encoding: gzip"), "hello", None, id="gzip"),
        pytest.param(answer(200, zlib.compress(b"hello"), "Content-Encoding: deflate"), "hello", None, id="deflate"),
    ],
)  # fmt: skip
async def test_answer_is_given_as_text_and_json(bench: Bench, said: bytes, text: str, data: Any) -> None:
    found = await ask(bench, said)
    assert (found["text"], found["json"]) == (text, data)


async def test_headers_of_the_answer_have_small_names_and_are_joined(bench: Bench) -> None:
    found = await ask(bench, answer(201, "", "X-One: 1", "x-ONE: 2", "Set-Cookie: a=b"))
    assert found["status"] == 201
    assert found["headers"] == {"content-length": "0", "x-one": "1, 2", "set-cookie": "a=b"}


async def test_head_gives_headers_alone(bench: Bench) -> None:
    found = await ask(bench, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", method="HEAD")
    assert (found["headers"]["content-length"], found["text"]) == ("1000", "")


async def test_chunked_answer_is_put_together(bench: Bench) -> None:
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert (await ask(bench, said))["text"] == "abcde"


# -- statuses


@pytest.mark.parametrize(
    ("status", "ok", "fine"),
    [
        (200, ["200..399"], True),
        (399, ["200..399"], True),
        (400, ["200..399"], False),
        (404, ["200..399", 404], True),
        (200, [404], False),
        (503, ["500..599"], True),
        (200, [], False),
        (304, ["200..399"], True),
    ],
)
async def test_ok_status_is_numbers_and_ranges(bench: Bench, status: int, ok: list[Any], fine: bool) -> None:
    if fine:
        assert (await ask(bench, answer(status), ok_status=ok))["status"] == status
    else:
        with pytest.raises(HttpFailed) as caught:
            await ask(bench, answer(status), ok_status=ok)
        assert caught.value.status == status


async def test_failure_has_the_beginning_of_the_text_and_no_header(bench: Bench) -> None:
    text = "what went wrong: " + "x" * 2000
    with pytest.raises(HttpFailed) as caught:
        await ask(bench, answer(422, text, "X-Secret: hidden"), headers={"X-Key": "mine"})
    dropped = len(text) - SHOWN_TEXT
    assert str(caught.value).endswith(f": 422 Said: {text[:SHOWN_TEXT]} … {dropped} bytes dropped")
    assert "hidden" not in str(caught.value)
    assert "mine" not in str(caught.value)


DATE = "Date: Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param([], None, id="none"),
        pytest.param(["Retry-After: 7"], 7.0, id="seconds"),
        pytest.param([DATE, "Retry-After: Sun, 06 Nov 1994 08:50:37 GMT"], 60.0, id="a date"),
        pytest.param([DATE, "Retry-After: Sunday, 06-Nov-94 08:49:38 GMT"], 1.0, id="an old kind of date"),
        pytest.param([DATE, "Retry-After: Sun, 06 Nov 1994 08:00:00 GMT"], 0.0, id="a date that is over"),
        pytest.param(["Retry-After: Sun, 06 Nov 1994 08:00:00 GMT"], 0.0, id="a date beside none"),
        pytest.param(["Retry-After: soon"], None, id="words"),
        pytest.param(["Retry-After: -5"], None, id="less than nothing"),
        pytest.param(["Retry-After: 9" + "9" * 5000], 999999999999.0, id="more than a lifetime"),
        pytest.param(["Retry-After: ٣"], None, id="another kind of digit"),
    ],
)
async def test_failure_says_how_long_to_wait(bench: Bench, headers: list[str], seconds: float | None) -> None:
    with pytest.raises(HttpFailed) as caught:
        await ask(bench, answer(503, "", *headers))
    assert caught.value.retry_after == seconds


# -- bounds


async def endless(stream: ByteStream, heard: Heard) -> None:
    """Send without end, as fast as it is read."""
    await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send(b"x" * 65536)


BOMB = gzip.compress(b"\0" * 300_000_000, compresslevel=9)
DOUBLE_BOMB = gzip.compress(BOMB, compresslevel=9)


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(answer(200, b"x" * (MAX_OUTPUT + 1)), id="a byte too much"),
        pytest.param(endless, id="without end"),
        pytest.param(answer(200, BOMB, "Content-Encoding: gzip"), id="compressed"),
        pytest.param(answer(200, DOUBLE_BOMB, "Content-Encoding: gzip, gzip"), id="compressed twice"),
        pytest.param(answer(500, b"x" * (MAX_OUTPUT + 1)), id="of a failure"),
    ],
)
async def test_too_large_an_answer_fails_soon(bench: Bench, says: Any) -> None:
    with pytest.raises(HttpFailed, match=rf"larger than {MAX_OUTPUT} bytes"):
        await ask(bench, says, timeout=LIMIT)


async def test_answer_that_fits_only_once_fails(bench: Bench) -> None:
    text = json.dumps(["x" * 1000] * 700)
    with pytest.raises(HttpFailed, match="bytes as text and JSON"):
        await ask(bench, answer(200, text, JSON))
    assert len((await ask(bench, answer(200, text)))["text"]) == len(text)


async def drips(stream: ByteStream, heard: Heard) -> None:
    """Send a byte now and then: each read is quick, the whole never ends."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000:
        await stream.send(bytes([byte]))
        await anyio.sleep(0.02)


async def silent(stream: ByteStream, heard: Heard) -> None:
    await stream.receive()


@pytest.mark.parametrize("says", [drips, silent])
async def test_timeout_is_that_of_the_whole_exchange(bench: Bench, says: Any) -> None:
    began = anyio.current_time()
    with pytest.raises(TimeoutError, match=r"GET http://127.0.0.1:\d+/: there was no whole answer within 0.3 s"):
        await ask(bench, says, timeout="300ms")
    assert anyio.current_time() - began < 5


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"], ids=["before", "within"])
async def test_stop_closes_the_connection(bench: Bench, begun: bytes) -> None:
    closed = anyio.Event()

    async def watched(stream: ByteStream, heard: Heard) -> None:
        await stream.send(begun)
        scope.cancel()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        closed.set()

    async with open_answering({"/": watched}) as server:
        with anyio.CancelScope() as scope:
            await bench.call("http.request", url=server.url())
        assert scope.cancelled_caught
        with anyio.fail_after(LIMIT):
            await closed.wait()


# -- what goes wrong on the way


@pytest.mark.parametrize(
    ("said", "message"),
    [
        pytest.param(b"", "Server disconnected", id="hangs up"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "", id="half an answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "", id="bad chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n", "", id="endless headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "", id="two lengths"),
    ],
)
async def test_no_http_is_a_connection_error(bench: Bench, said: bytes, message: str) -> None:
    with pytest.raises(ConnectionError, match=rf"GET http://127.0.0.1:\d+/: .*{message}"):
        await ask(bench, said)


async def test_nobody_there_is_a_connection_error(bench: Bench) -> None:
    async with open_answering({}) as server:
        url = server.url()
    with pytest.raises(ConnectionError, match=rf"GET {url}: Connection refused"):
        await bench.call("http.request", url=url)


async def test_what_cannot_be_decompressed_fails(bench: Bench) -> None:
    with pytest.raises(HttpFailed, match="cannot be decompressed"):
        await ask(bench, answer(200, b"no gzip", "Content-Encoding: gzip"))


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "no scheme": ({"url": "example.org/x"}, "must begin with http"),
    "another scheme": ({"url": "file:///etc/passwd"}, "must begin with http"),
    "no host": ({"url": "http:///x"}, "must begin with http"),
    "empty": ({"url": ""}, "must begin with http"),
    "a line break in the url": ({"url": "http://a/\r\nX: y"}, "cannot be used"),
    "a port that is none": ({"url": "http://a:99999/"}, "name a host"),
    "port 0": ({"url": "http://127.0.0.1:0/"}, "name a host"),
    "a bad host": ({"url": "http://[::1/"}, "cannot be used"),
    "a long url": ({"url": "http://a/" + "x" * 9000}, "at most 8192"),
    "no url": ({}, "url"),
    "both bodies": ({"json": 1, "body": "x"}, "not both"),
    "an unknown method": ({"method": "BREW"}, "BREW"),
    "a method in small letters": ({"method": "get"}, "get"),
    "CONNECT": ({"method": "CONNECT"}, "CONNECT"),
    "CR LF in a header": ({"headers": {"X": "a\r\nY: b"}}, "control character"),
    "NUL in a header": ({"headers": {"X": "a\0"}}, "control character"),
    "a header's name with a blank": ({"headers": {"X Y": "a"}}, "no name of a header"),
    "a header's name with a break": ({"headers": {"X\r\nY": "a"}}, "no name of a header"),
    "an empty name": ({"headers": {"": "a"}}, "no name of a header"),
    "a length of one's own": ({"headers": {"Content-Length": 3}}, "leave it out"),
    "a framing of one's own": ({"headers": {"transfer-encoding": "chunked"}}, "leave it out"),
    "half a character": ({"body": "\ud800"}, "half a character"),
    "a header that is a list": ({"headers": {"X": [1]}}, "headers"),
    "a status that is none": ({"ok_status": [99]}, "100"),
    "a range that is none": ({"ok_status": ["2xx"]}, "ok_status"),
    "a range with a dash": ({"ok_status": ["200-299"]}, "ok_status"),
    "a range the wrong way round": ({"ok_status": ["399..200"]}, "lower number first"),
    "no time": ({"timeout": 0}, "more than 0"),
    "a number as time-out": ({"timeout": "30"}, "unit"),
    "an unknown parameter": ({"verify": False}, "verify"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_parameters_say_what_is_wrong(bench: Bench, name: str) -> None:
    params, message = BAD[name]
    given = params if "url" in params or name == "no url" else {"url": "http://127.0.0.1:1/", **params}
    with pytest.raises(ParamsInvalid, match=message):
        await bench.call("http.request", **given)
