"""Reading a body: JSON that is taken, JSON that is not, and the headers before it."""

import json
import time
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from aura.errors import RequestError
from aura.web import body
from aura.web.body import check_content_type, has_body, parse, read_json


def codes(raw: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        parse(raw)
    return caught.value.code


@pytest.mark.parametrize(
    "value",
    [
        {}, [], 0, -1, 1.5, "x", True, None, {"a": [{"b": None}]}, "ünï \U0001f600", {"": ""}, 2**53, -(2**53),
        "a/b~c", ["\u0001"], 1e308,
    ],
)  # fmt: skip
def test_parse_takes_any_json(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize("depth", [1, 63, 64])
def test_parse_takes_64_levels(depth: int) -> None:
    assert parse(b"[" * depth + b"]" * depth) is not None


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"[" * 65 + b"]" * 65, "bad_json"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "bad_json"),
        (b"[" * 500_000, "bad_json"),
        (b'{"a":' * 500_000, "bad_json"),
        (b"1" * 100_000, "bad_json"),
        (b"-" + b"9" * 17, "bad_json"),
        (b"1e400", "bad_json"),
        (b'"\\uD83D"', "bad_json"),
        (b'["ok", "\\uDE00\\uD83D"]', "bad_json"),
        (b"{'a': 1}", "bad_json"),
        (b'{"a": 1} x', "bad_json"),
        (b'{"a": 1,}', "bad_json"),
        (b"nul", "bad_json"),
        (b'"\x01"', "bad_json"),
        (b'{"a": {"\\u0000": 1}}', "invalid"),
        (b'["\\u0000"]', "invalid"),
        ("ü\0".join('""').encode(), "bad_json"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else value,
)
def test_parse_refuses(raw: bytes, code: str) -> None:
    assert codes(raw) == code


def test_pair_of_surrogates_is_one_character() -> None:
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_nul_is_refused_with_its_pointer() -> None:
    with pytest.raises(RequestError) as caught:
        parse(b'{"a/b": [0, "x\\u0000"]}')
    assert caught.value.errors[0].path == "/a~1b/1"


def test_deep_json_is_refused_quickly() -> None:
    began = time.perf_counter()
    codes(b'[{"a":' * 150_000)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({b"content-length": b"0"}, False),
        ({b"content-length": b"00"}, False),
        ({b"content-length": b"7"}, True),
        ({b"content-length": b"10"}, True),
        ({b"transfer-encoding": b"chunked"}, True),
    ],
)
def test_has_body(headers: dict[bytes, bytes], expected: bool) -> None:
    assert has_body(headers) is expected


@pytest.mark.parametrize(
    "value",
    [b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b'application/json;charset="UTF-8"'],
)
def test_content_type_of_json_passes(value: bytes) -> None:
    check_content_type({b"content-type": value})


@pytest.mark.parametrize(
    "value",
    [
        b"", b"text/plain", b"text/json", b"application/jsonx", b"application/json-patch+json",
        b"application/problem+json", b"application/json; charset=utf-16",
        b"*/*", b"application", b"\xff", b"text/plain; application/json",
    ],
)  # fmt: skip
def test_other_content_types_are_refused(value: bytes) -> None:
    with pytest.raises(RequestError, match="Content-Type"):
        check_content_type({b"content-type": value})


async def read(messages: list[Message], limit: int = 100, **headers: str) -> Any:
    async def receive() -> Message:
        return messages.pop(0)

    named = {"content-type": "application/json", "transfer-encoding": "chunked"} | headers
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    return await read_json({"type": "http", "headers": pairs}, receive, limit)


def part(data: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_parts_are_joined() -> None:
    assert await read([part(b'{"a"', True), part(b"", True), part(b": 1}")]) == {"a": 1}


async def test_parts_beyond_the_limit_are_refused_whatever_the_header_says() -> None:
    with pytest.raises(RequestError) as caught:
        await read([part(b"[" * 60, True), part(b"[" * 60, True)], content_length="5")
    assert caught.value.code == "body_too_large"


async def test_announced_size_is_refused_before_reading() -> None:
    with pytest.raises(RequestError) as caught:
        await read([], content_length="101")
    assert caught.value.code == "body_too_large"


async def test_client_that_goes_is_not_answered() -> None:
    with pytest.raises(ClientDisconnect):
        await read([part(b"{", True), {"type": "http.disconnect"}])


async def test_body_of_no_bytes_is_required() -> None:
    with pytest.raises(RequestError) as caught:
        await read([part(b"")])
    assert caught.value.code == "body_required"


async def test_large_body_is_parsed_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "PARSE_INLINE", 5)
    assert await read([part(b'{"a": [1, 2, 3]}')]) == {"a": [1, 2, 3]}
