"""The local token's file, and who a request is taken for."""

import hmac
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.types import Scope
from tests.fakes.hands import Hands
from tests.fakes.web import make_store, open_store

from aura.errors import RequestError, StoreCannotCreate
from aura.web.auth import TOKEN_BYTES, Access, Auth, ensure_token
from aura.web.failures import Failures
from aura.web.grants import Grant, digest_of, find
from aura.web.tokens import SCOPES, Tokens

SESAME = "Bearer sesame"
Headers = list[tuple[str, str]]


def make_auth(clock: Hands | None = None, *, required: bool = True) -> Auth:
    return Auth(Tokens(make_store(), clock or Hands(), "sesame"), required=required)


def asked(*headers: tuple[str, str], method: str = "GET", kind: str = "http", client: str = "10.0.0.1") -> Scope:
    """A request, or a handshake, as the guard has let it pass."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return {
        "type": kind,
        "method": method,
        "scheme": "http",
        "headers": raw,
        "server": ("127.0.0.1", 8700),
        "client": (client, 5000),
    }


def refused(auth: Auth, scope: Scope, needed: Access = Access.READ) -> RequestError:
    with pytest.raises(RequestError) as caught:
        auth.check(scope, needed)
    return caught.value


def test_token_is_made_once_and_private(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        token = ensure_token(tmp_path)
    finally:
        os.umask(former)
    assert ensure_token(tmp_path) == token
    assert len(token) >= TOKEN_BYTES
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_each_folder_has_a_token_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert ensure_token(tmp_path / "a") != ensure_token(tmp_path / "b")


def test_symlink_in_the_place_of_the_token_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("x" * 50)
    (tmp_path / "token").symlink_to(target)
    with pytest.raises(StoreCannotCreate, match="token"):
        ensure_token(tmp_path)
    assert target.read_text() == "x" * 50


def test_fifo_in_the_place_of_the_token_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    with pytest.raises(StoreCannotCreate):
        ensure_token(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 50], ids=["empty", "short", "binary"])
def test_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(StoreCannotCreate, match="remove it"):
        ensure_token(tmp_path)


@pytest.mark.parametrize("moment", ["fsync", "fchmod", "rename"])
def test_kill_while_the_token_is_made_leaves_none(tmp_path: Path, moment: str) -> None:
    lines = [
        "import os, pathlib, signal, aura.web.auth",
        f"os.{moment} = lambda *given: os.kill(os.getpid(), signal.SIGKILL)",
        f"aura.web.auth.ensure_token(pathlib.Path({str(tmp_path)!r}))",
    ]
    killed = subprocess.run([sys.executable, "-c", "\n".join(lines)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(ensure_token(tmp_path)) >= TOKEN_BYTES
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreCannotCreate, match="cannot write"):
        ensure_token(tmp_path / "missing")


# -- who a request is taken for ---------------------------------------------------------------------------------------


def test_scopes_are_what_routes_ask_for() -> None:
    assert frozenset(Access) - {Access.OPEN, Access.ANY} == SCOPES


@pytest.mark.parametrize("access", [access for access in Access if access is not Access.OPEN])
def test_local_token_may_do_everything_and_nobody_else_anything(access: Access) -> None:
    auth = make_auth()
    assert auth.check(asked(("Authorization", SESAME)), access).id == "local"
    assert refused(auth, asked(), access).code == "unauthorized"


def test_token_may_do_what_its_scopes_say_and_admin_is_only_one_of_them() -> None:
    auth = make_auth()
    auth.tokens._add(Grant("a", {"admin"}, digest_of(b"open")))
    scope = asked(("Authorization", "Bearer open"))
    assert auth.check(scope, Access.ADMIN).id == auth.check(scope, Access.ANY).id == "a"
    assert {refused(auth, scope, Access(needed)).code for needed in SCOPES - {"admin"}} == {"forbidden"}


def test_open_routes_ask_for_nothing_and_know_who_asks() -> None:
    auth = make_auth()
    assert auth.check(asked(), Access.OPEN).scopes == frozenset()
    assert auth.check(asked(("Authorization", SESAME)), Access.OPEN).id == "local"


def test_without_authorization_everyone_may_do_everything() -> None:
    assert make_auth(required=False).check(asked(), Access.ADMIN).scopes == SCOPES


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer Sesame")],
        [("Authorization", "Bearer sesam")],
        [("Authorization", "sesame")],
        [("Authorization", "Basic sesame")],
        [("Authorization", "Bearer " + "x" * 10_000)],
        [("Authorization", "Bearer s\xe9same")],
        [("Authorization", "Bearer \xff")],
        [("Authorization", "Bearer ")],
        [("Authorization", "")],
        [("Cookie", "sesame")],
        [("Cookie", "aura_session_8700=sesame")],
        [("Authorization", SESAME), ("Authorization", SESAME)],
        [("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")],
    ],
    ids=str,
)
def test_what_is_no_token(headers: Headers) -> None:
    assert refused(make_auth(), asked(*headers)).status == 401


def test_scheme_is_read_in_any_case() -> None:
    make_auth().check(asked(("authorization", "bearer sesame")), Access.READ)


@pytest.mark.parametrize("gone", ["ended", "expired", "unknown"])
def test_refusals_are_alike_and_compare_as_many_hashes(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes time, the hash and its comparison, is done once for each secret, whatever is wrong with it."""
    clock, compared = Hands(), []
    auth = make_auth(clock)
    token = Grant("t", {"read"}, digest_of(b"open"), expires_at=clock.now + 5)
    auth.tokens._add(token)
    if gone == "ended":
        token.end()
    clock.now += 10 if gone == "expired" else 0
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b))  # type: ignore[func-returns-value]
    error = refused(auth, asked(("Authorization", "Bearer none" if gone == "unknown" else "Bearer open")))
    assert (error.code, error.detail) == ("unauthorized", refused(make_auth(), asked()).detail)
    assert len(compared) == 1


def test_secret_is_found_by_its_hash_alone() -> None:
    grant = Grant("t", {"read"}, digest_of(b"open"))
    assert find({grant.digest: grant}, b"open", 0.0) is grant
    assert find({digest_of(b"other"): grant}, b"other", 0.0) is None  # a hash that only looks right


# -- cookies ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def logged_in() -> AsyncIterator[tuple[Auth, Grant, str]]:
    """A session of the local token, and its cookie."""
    async with open_store() as store:
        auth = Auth(Tokens(store, Hands(), "sesame"))
        code = auth.sessions.make_code(auth.check(asked(("Authorization", SESAME)), Access.ANY))
        opened = await auth.sessions.open(code)
        assert opened
        yield auth, opened[0], f"aura_session_8700={opened[1]}"


async def test_cookie_counts_where_the_header_does() -> None:
    async with logged_in() as (auth, session, cookie):
        assert auth.check(asked(("Cookie", f"a=b; {cookie}; c")), Access.ADMIN) is session
        assert auth.check(asked(("Cookie", "aura_session_8700=x"), ("Cookie", cookie)), Access.READ) is session


async def test_header_wins_over_the_cookie() -> None:
    async with logged_in() as (auth, _, cookie):
        assert refused(auth, asked(("Cookie", cookie), ("Authorization", "Bearer wrong"))).status == 401
        assert not auth.check(asked(("Cookie", cookie), ("Authorization", SESAME)), Access.READ).is_session


async def test_cookie_of_another_port_is_not_ours() -> None:
    async with logged_in() as (auth, _, cookie):
        assert refused(auth, asked(("Cookie", cookie.replace("8700", "8701")))).status == 401


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([], False),
        ([("Sec-Fetch-Site", "none")], False),
        ([("Sec-Fetch-Site", "same-origin")], True),
        ([("Origin", "http://127.0.0.1:8700")], True),
    ],
    ids=["neither", "typed in", "same-origin", "origin"],
)
@pytest.mark.parametrize(("method", "kind"), [("POST", "http"), ("DELETE", "http"), ("GET", "websocket")])
async def test_cookie_that_changes_something_has_to_come_from_our_page(
    method: str, kind: str, headers: Headers, passes: bool
) -> None:
    async with logged_in() as (auth, session, cookie):
        scope = asked(("Cookie", cookie), *headers, method=method, kind=kind)
        if passes:
            assert auth.check(scope, Access.READ) is session
        else:
            assert refused(auth, scope).code == "foreign_origin"


# -- failures ---------------------------------------------------------------------------------------------------------


def test_eleventh_failure_within_a_minute_is_429_and_the_next_minute_begins_anew() -> None:
    clock = Hands()
    auth = make_auth(clock)
    assert [refused(auth, asked()).status for _ in range(12)] == [401] * 10 + [429] * 2
    clock.now += 20
    late = refused(auth, asked())
    assert (late.code, late.retry_after) == ("too_many_requests", 40)
    clock.now += 40
    assert refused(auth, asked()).status == 401


def test_failures_of_one_address_are_no_others_and_keep_out_no_good_token() -> None:
    auth = make_auth()
    for _ in range(20):
        refused(auth, asked(client="10.0.0.2"))
    assert refused(auth, asked()).status == 401
    assert auth.check(asked(("Authorization", SESAME), client="10.0.0.2"), Access.READ).id == "local"


def test_addresses_that_are_remembered_are_bounded() -> None:
    clock = Hands()
    failures = Failures(clock.monotonic, 1)
    for number in range(10_000):
        failures.refuse(f"2001:db8::{number:x}")
    assert len(failures._seen) == 4096
    assert failures.refuse("2001:db8::270f").status == 429
    assert failures.refuse("2001:db8::0").status == 401
