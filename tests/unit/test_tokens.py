"""Tokens and their store, codes and sessions: who may make what, what is kept, and what ends with what."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf

import anyio
import anyio.lowlevel
import pytest
from tests.fakes.hands import Hands
from tests.fakes.kernel import FaultyBackend
from tests.fakes.web import open_store

from aura import failpoints
from aura.errors import RequestError, StoreReadOnly
from aura.stores.failpoints import with_failpoints
from aura.stores.memory import MemoryBackend
from aura.web import grants, sessions, tokens
from aura.web.grants import MAX_IN_FLIGHT, Grant, digest_of
from aura.web.leases import StreamLimit
from aura.web.sessions import Sessions, cookies, set_cookie
from aura.web.tokens import LOCAL, SCOPES, Tokens

MAKER = Grant(LOCAL, SCOPES)


@asynccontextmanager
async def open_tokens(backend: MemoryBackend | None = None, clock: Hands | None = None) -> AsyncIterator[Tokens]:
    async with open_store(backend) as store:
        with anyio.fail_after(20):
            yield await Tokens.open(store, clock or Hands(), "sesame")


def found(made: Tokens, secret: str) -> str | None:
    grant = made.find(secret.encode())
    return None if grant is None else grant.id


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(RequestError) as caught:
        act()
    return caught.value.code


async def refusal(made: Tokens, maker: Grant, *scopes: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await made.make(maker, scopes, "", None)
    return caught.value


# -- tokens -----------------------------------------------------------------------------------------------------------


async def test_token_is_found_by_its_secret_over_a_restart_and_kept_as_a_hash() -> None:
    backend = MemoryBackend()
    async with open_tokens(backend) as made:
        record, secret = await made.make(MAKER, ["run", "read", "run"], "robot", 60)
        assert (record.scopes, record.name, record.made_by) == (("read", "run"), "robot", LOCAL)
        assert found(made, secret) == record.id
    kept = str(list(backend.execute("SELECT * FROM token")))
    assert secret not in kept
    assert str(digest_of(secret.encode())) in kept
    async with open_tokens(backend) as made:
        assert made.newest_first() == [record]
        assert (found(made, secret), found(made, "sesame")) == (record.id, LOCAL)


async def test_revoked_token_is_none_at_once_and_after_a_restart() -> None:
    backend = MemoryBackend()
    async with open_tokens(backend) as made:
        record, secret = await made.make(MAKER, ["run"], "", None)
        grant = made.find(secret.encode())
        assert grant
        async with anyio.create_task_group() as group:
            group.start_soon(made.revoke, record.id)
            await grant.ended.wait()
            assert found(made, secret) is None  # it is not waited for the disk
        assert made.newest_first() == []
        with pytest.raises(RequestError, match="there is no token"):
            await made.revoke(record.id)
    async with open_tokens(backend) as made:
        assert found(made, secret) is None


async def test_token_expires_by_the_wall_clock() -> None:
    clock = Hands()
    async with open_tokens(clock=clock) as made:
        record, secret = await made.make(MAKER, ["run"], "", 60)
        clock.now += 59.9
        assert found(made, secret) == record.id
        clock.now += 0.1
        assert found(made, secret) is None


async def test_token_gives_no_scope_that_it_has_not_and_lives_no_longer() -> None:
    clock = Hands()
    maker = Grant("m", {"admin", "run"}, expires_at=clock.now + 100)
    async with open_tokens(clock=clock) as made:
        refused = await refusal(made, maker, "run", "read", "logs")
        assert (refused.code, refused.detail.endswith(": logs read")) == ("forbidden", True)
        ends = [(await made.make(maker, ["run"], "", expires))[0].expires_at for expires in (None, 10, 1000)]
        assert ends == [clock.now + 100, clock.now + 10, clock.now + 100]
        session = Grant("m", {"admin"}, expires_at=clock.now + 1, token=maker)
        record, _ = await made.make(session, ["admin"], "", None)
        assert (record.expires_at, record.made_by) == (clock.now + 100, "m")


async def test_tokens_are_bounded_and_expired_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 3)
    clock, backend = Hands(), MemoryBackend()
    async with open_tokens(backend, clock) as made:
        old = [(await made.make(MAKER, ["run"], "", 10))[0] for _ in range(2)]
        kept, _ = await made.make(MAKER, ["run"], "", None)
        assert (await refusal(made, MAKER, "run")).code == "conflict"
        clock.now += 10
        assert made.newest_first() == [kept, *old[::-1]]
        new, _ = await made.make(MAKER, ["run"], "", None)
        assert made.newest_first() == [new, kept]
    assert [row[0] for row in backend.execute("SELECT id FROM token ORDER BY seq")] == [kept.id, new.id]


async def test_bound_holds_while_tokens_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 3)
    made_or_not: list[bool] = []
    async with open_tokens() as made:

        async def make() -> None:
            try:
                await made.make(MAKER, ["run"], "", None)
                made_or_not.append(True)
            except RequestError:
                made_or_not.append(False)

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(make)
    assert sorted(made_or_not) == [False] * 3 + [True] * 3


async def test_token_is_listed_once_it_is_on_record_also_if_its_maker_has_gone() -> None:
    backend = FaultyBackend()
    async with open_tokens(backend) as made, anyio.create_task_group() as group:
        backend.gate = anyio.Event()
        group.start_soon(made.make, MAKER, ["run"], "", None)
        await anyio.wait_all_tasks_blocked()
        assert (len(made._records), made.newest_first()) == (1, [])
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.fail_after(10):
            backend.gate.set()
            await made.store.written()
        assert len(made.newest_first()) == 1


async def test_token_that_could_not_be_written_is_none() -> None:
    failpoints.arm("token.before:raise@1")
    try:
        async with open_store(with_failpoints(MemoryBackend())) as store:  # type: ignore[arg-type]
            made = await Tokens.open(store, Hands(), "sesame")
            with pytest.raises(StoreReadOnly):
                await made.make(MAKER, ["run"], "", None)
            assert made.newest_first() == []
            assert len(made._grants) == 1
    finally:
        failpoints.arm("")


async def test_revocation_that_could_not_be_written_counts_and_can_be_said_again() -> None:
    failpoints.arm("token.before:raise@2")
    try:
        async with open_store(with_failpoints(MemoryBackend())) as store:  # type: ignore[arg-type]
            made = await Tokens.open(store, Hands(), "sesame")
            record, secret = await made.make(MAKER, ["run"], "", None)
            with pytest.raises(StoreReadOnly):
                await made.revoke(record.id)
            assert (found(made, secret), made.newest_first()) == (None, [record])
            await made.revoke(record.id)
            assert made.newest_first() == []
    finally:
        failpoints.arm("")


# -- what is under way, and what is open ------------------------------------------------------------------------------


def test_requests_of_a_token_and_its_sessions_count_together() -> None:
    token = Grant("t", SCOPES)
    session = Grant("t", SCOPES, token=token)
    for number in range(MAX_IN_FLIGHT):
        (token if number % 2 else session).begin_request()
    assert code_of(session.begin_request) == "too_many_requests"
    assert code_of(token.begin_request) == "too_many_requests"
    Grant("other", SCOPES).begin_request()
    session.end_request()
    token.begin_request()


def test_one_token_has_a_quarter_of_the_streams_and_the_local_one_all() -> None:
    limit = StreamLimit(8, Hands())
    token = Grant("t", SCOPES)
    leases = [limit.take(token), limit.take(Grant("t", SCOPES, token=token))]
    assert code_of(lambda: limit.take(token)) == "too_many_streams"
    with leases.pop():
        pass
    leases.append(limit.take(token))
    leases += [limit.take(MAKER) for _ in range(6)]
    assert code_of(lambda: limit.take(MAKER)) == "too_many_streams"
    for lease in leases:
        with lease:
            pass
    assert (limit.open, token.streams, MAKER.streams) == (0, 0, 0)


async def test_lease_ends_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    token = Grant("t", SCOPES)
    lease = StreamLimit(8, Hands()).take(Grant("t", SCOPES, token=token))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(lease.wait_ended)
            await anyio.lowlevel.checkpoint()
            token.end()


async def test_lease_ends_when_the_clock_has_jumped_over_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "LOOK_AGAIN", 0.01)
    clock = Hands()
    lease = StreamLimit(8, clock).take(Grant("t", SCOPES, expires_at=clock.now + 3600))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(lease.wait_ended)
            await anyio.lowlevel.checkpoint()
            clock.now += 3600


# -- codes and sessions -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_sessions(clock: Hands | None = None) -> AsyncIterator[Sessions]:
    async with open_tokens(clock=clock) as tokens:
        yield Sessions(tokens)


async def opened(of: Sessions, code: str) -> tuple[Grant, str]:
    both = await of.open(code)
    assert both
    return both


async def test_code_opens_one_session_that_may_what_the_token_may() -> None:
    async with open_sessions() as made:
        token = Grant("t", {"read"})
        code = made.make_code(token)
        session, secret = await opened(made, code)
        assert await made.open(code) is None
        assert made.find(secret.encode()) is session
        assert (session.id, session.scopes, session.is_session) == ("t", frozenset({"read"}), True)
        assert (made.find(code.encode()), await made.open(secret)) == (None, None)  # neither is taken for the other


async def test_code_is_good_for_a_minute_and_a_session_for_half_a_day() -> None:
    clock = Hands()
    async with open_sessions(clock) as made:
        token = Grant("t", SCOPES)
        codes = [made.make_code(token) for _ in range(2)]
        clock.now += 59.9
        _, secret = await opened(made, codes[0])
        clock.now += 0.1
        assert await made.open(codes[1]) is None
        clock.now += 12 * 3600 - 0.2
        assert made.find(secret.encode())
        clock.now += 0.2
        assert made.find(secret.encode()) is None


@pytest.mark.parametrize("how", ["ended", "expired"])
async def test_sessions_and_codes_end_with_their_token(how: str) -> None:
    clock = Hands()
    async with open_sessions(clock) as made:
        token = Grant("t", SCOPES, expires_at=clock.now + 30)
        code = made.make_code(token)
        session, secret = await opened(made, made.make_code(token))
        assert session.expires_at == token.expires_at
        if how == "ended":
            token.end()
            assert session.ended.is_set()
        else:
            clock.now += 30
        assert (made.find(secret.encode()), await made.open(code)) == (None, None)


async def test_session_makes_no_codes_and_ends_alone() -> None:
    async with open_sessions() as made:
        token = Grant("t", SCOPES)
        session, secret = await opened(made, made.make_code(token))
        assert code_of(lambda: made.make_code(session)) == "forbidden"
        await made.close(session)
        assert made.find(secret.encode()) is None
        assert (session.ended.is_set(), token.ended.is_set(), token._made_from_it) == (True, False, set())


async def test_codes_and_sessions_are_bounded_and_nothing_is_kept_of_old_ones() -> None:
    clock = Hands()
    async with open_sessions(clock) as made:
        count = sessions.MAX_SESSIONS // sessions.SESSIONS_OF_ONE + 1
        holders = [Grant(str(number), SCOPES) for number in range(count)]
        for number in range(sessions.MAX_CODES):
            made.make_code(holders[number % len(holders)])
        assert code_of(lambda: made.make_code(Grant("t", SCOPES))) == "too_many_requests"
        clock.now += 60
        first, _ = await opened(made, made.make_code(holders[0]))
        for token in holders * sessions.SESSIONS_OF_ONE:
            await opened(made, made.make_code(token))
        assert first.ended.is_set()
        assert len(made._sessions) == sessions.MAX_SESSIONS
        assert sum(len(token._made_from_it) for token in holders) == sessions.MAX_SESSIONS
        clock.now += 13 * 3600
        new = sessions.MAX_SESSIONS // sessions.OLD_GRANTS
        for _ in range(new):  # each lets go of some
            await opened(made, made.make_code(holders[0]))
        assert [len(token._made_from_it) for token in holders] == [new] + [0] * (len(holders) - 1)


async def test_token_that_logs_in_again_and_again_ends_no_session_and_no_code_of_others() -> None:
    async with open_sessions() as made:
        other, busy = Grant("o", SCOPES), Grant("b", {"read"})
        code = made.make_code(other)
        session, _ = await opened(made, made.make_code(other))
        for _ in range(sessions.MAX_CODES + 1):
            made.make_code(busy)
        sessions_of_busy = [(await opened(made, made.make_code(busy)))[0] for _ in range(sessions.MAX_SESSIONS + 1)]
        assert not session.ended.is_set()
        assert (await opened(made, code))[0].token is other
        assert [one.ended.is_set() for one in sessions_of_busy].count(False) == sessions.SESSIONS_OF_ONE
        assert not sessions_of_busy[-1].ended.is_set()


def test_cookie_says_what_it_has_to() -> None:
    assert set_cookie(8700, "s", secure=False) == (
        "aura_session_8700=s; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"
    )
    assert set_cookie(443, "s", secure=True).endswith("; Secure")
    assert "=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0" in set_cookie(8700, "", secure=False)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"aura_session_8700=a", [b"a"]),
        (b"x=1;aura_session_8700=a ; aura_session_8700=b", [b"a", b"b"]),
        (b"aura_session_870=a; aura_session=a; aura_session_87000=a; AURA_SESSION_8700=a", []),
        (b"", []),
        (b";;=;aura_session_8700", [b""]),
    ],
)
def test_cookies_are_read_by_the_port(header: bytes, found: list[bytes]) -> None:
    assert cookies(header, 8700) == found


def test_stranger_has_nothing_and_no_end() -> None:
    assert (grants.STRANGER.scopes, grants.STRANGER.expires_at) == (frozenset(), inf)
