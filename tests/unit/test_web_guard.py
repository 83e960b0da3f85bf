"""Hosts, origins, sizes and paths, without a port."""

from typing import Any

import pytest

from aura.errors import RequestError
from aura.web.guard import MAX_HEADER_BYTES, MAX_URL, Guard, is_plain_path, security_headers, split_host


def scope(
    method: str = "GET", path: str = "/api/runs", headers: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    pairs = {"host": "127.0.0.1:8700"} | (headers or {})
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 8700),
        "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
    } | more


def refused(given: dict[str, Any], guard: Guard | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        (guard or Guard()).check(given)
    return caught.value.code


@pytest.mark.parametrize(
    ("host", "split"),
    [
        ("localhost:8700", ("localhost", 8700)),
        ("LOCALHOST", ("localhost", None)),
        ("[::1]:8700", ("[::1]", 8700)),
        ("[::1]", ("[::1]", None)),
        ("127.0.0.1:", ("", None)),
        ("a:99999999", ("", None)),
        ("a:١", ("", None)),
        ("a:-1", ("", None)),
        ("", ("", None)),
    ],
)
def test_split_host(host: str, split: tuple[str, int | None]) -> None:
    assert split_host(host) == split


def test_default_port_may_be_left_out() -> None:
    Guard().check(scope(headers={"host": "localhost"}, server=("127.0.0.1", 80)))
    Guard().check(scope(headers={"host": "localhost"}, server=("127.0.0.1", 443), scheme="https"))


def test_own_address_and_configured_name_are_answered_for() -> None:
    guard = Guard(frozenset({"box.example"}))
    Guard.check(guard, scope(headers={"host": "box.example:8700"}))
    Guard.check(guard, scope(headers={"host": "192.0.2.7:8700"}, server=("192.0.2.7", 8700)))
    Guard.check(guard, scope(headers={"host": "[2001:db8::1]:8700"}, server=("2001:db8::1", 8700)))
    assert refused(scope(headers={"host": "192.0.2.8:8700"}, server=("192.0.2.7", 8700)), guard) == "foreign_host"


def test_any_host_is_answered_for_on_a_unix_socket() -> None:
    Guard(any_host=True).check(scope(headers={"host": "whatever"}, server=None))
    assert refused(scope(headers={"host": ""}, server=None), Guard(any_host=True)) == "foreign_host"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"raw_path": b"/" + b"x" * MAX_URL}, "uri_too_long"),
        ({"query_string": b"x" * MAX_URL}, "uri_too_long"),
        ({"headers": [(b"x", b"1")] * 101}, "headers_too_large"),
        ({"headers": [(b"x", b"1" * MAX_HEADER_BYTES)]}, "headers_too_large"),
        ({"http_version": "1.0"}, "bad_header"),
        ({"http_version": "2"}, "bad_header"),
        ({"headers": []}, "bad_header"),
        ({"headers": [(b"host", b"127.0.0.1:8700")] * 2}, "bad_header"),
        ({"method": "TRACE"}, "method_not_allowed"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals(changed: dict[str, Any], code: str) -> None:
    assert refused(scope() | changed) == code


@pytest.mark.parametrize("path", ["/livez", "/docs"])
def test_link_from_another_site_may_lead_to_a_page_outside_the_api(path: str) -> None:
    Guard().check(scope(path=path, headers={"sec-fetch-site": "cross-site"}))
    assert refused(scope("POST", path=path, headers={"sec-fetch-site": "cross-site"})) == "foreign_origin"


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/api/plans/lab/tasks/a/b", "/api/plans/%C3%9Cn/tasks", "/a.b", "/a..b", "/%61"]
)
def test_plain_paths(path: str) -> None:
    assert is_plain_path(path.encode())


@pytest.mark.parametrize(
    "path", ["", "x", "//", "/a//b", "/a/", "/./a", "/..", "/a/../b", "/%2e", "/%2E%2e/a", "/a%2Fb", "/a%5cb", "/a\\b",
             "/a;b", "/a%3Bb", "/a%00", "/a%0a", "/a%7f", "*", "http://x/"]
)  # fmt: skip
def test_paths_with_a_trick(path: str) -> None:
    assert not is_plain_path(path.encode())


def test_header_of_an_answer_is_left_alone() -> None:
    names = [name for name, _ in security_headers([(b"Cache-Control", b"max-age=5")])]
    assert b"cache-control" not in names
    assert b"x-content-type-options" in names
