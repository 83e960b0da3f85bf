"""Sessions that outlive their server: what is on record, and what is not there any more after a restart."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.fakes.hands import Hands
from tests.fakes.web import make_settings, open_store

from aura import failpoints
from aura.errors import StoreReadOnly
from aura.store import Store
from aura.stores.failpoints import with_failpoints
from aura.stores.memory import MemoryBackend
from aura.web import sessions
from aura.web.auth import Auth
from aura.web.grants import Grant, digest_of
from aura.web.sessions import MAX_SESSIONS, OLD_GRANTS, SESSION_TIME, Sessions
from aura.web.tokens import LOCAL, SCOPES, Tokens

LOCAL_SECRET = b"sesame"


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


class Door:
    """The tokens and the sessions of one start."""

    def __init__(self, tokens: Tokens, store: Store) -> None:
        self.tokens = tokens
        self.sessions = Sessions(tokens)
        self.store = store

    @property
    def local(self) -> Grant:
        found = self.tokens.find(LOCAL_SECRET)
        assert found
        return found

    async def log_in(self, token: Grant | None = None) -> tuple[Grant, str]:
        opened = await self.sessions.open(self.sessions.make_code(token or self.local))
        assert opened
        return opened

    async def make(self, expires_s: float | None = None) -> Grant:
        _, secret = await self.tokens.make(self.local, ["read"], "", expires_s)
        found = self.tokens.find(secret.encode())
        assert found
        return found

    def knows(self, secret: str) -> str | None:
        """Whose session this is the secret of."""
        found = self.sessions.find(secret.encode())
        return None if found is None else found.id


@asynccontextmanager
async def start(
    backend: MemoryBackend, clock: Hands | None = None, local: str | None = LOCAL_SECRET.decode()
) -> AsyncIterator[Door]:
    """One start of a server on this store, up to its end."""
    async with open_store(backend) as store:
        with anyio.fail_after(20):
            door = Door(await Tokens.open(store, clock or Hands(), local), store)
            await door.sessions.load()
            await store.written()
            yield door


def kept(backend: MemoryBackend) -> list[bytes]:
    return [digest for (digest,) in backend.execute("SELECT digest FROM session ORDER BY seq")]


async def test_session_is_on_record_as_a_hash_before_its_secret_is_told() -> None:
    backend = MemoryBackend()
    async with start(backend) as door:
        session, secret = await door.log_in()
        assert kept(backend) == [session.digest] == [digest_of(secret.encode())]
    assert secret not in "\n".join(backend.connection.iterdump())


async def test_session_goes_on_after_a_restart_with_the_scopes_and_the_end_that_it_had() -> None:
    backend, clock = MemoryBackend(), Hands()
    async with start(backend, clock) as door:
        of_local, secret_of_local = await door.log_in()
        of_other, secret_of_other = await door.log_in(await door.make())
    clock.now += 3600
    async with start(backend, clock) as door:
        for before, secret in ((of_local, secret_of_local), (of_other, secret_of_other)):
            now = door.sessions.find(secret.encode())
            assert now
            assert (now.id, now.scopes, now.expires_at) == (before.id, before.scopes, before.expires_at)
            assert now.is_session
        door.local.end()
        assert door.knows(secret_of_local) is None
    clock.now += SESSION_TIME - 3600
    async with start(backend, clock) as door:
        assert (door.knows(secret_of_local), door.knows(secret_of_other)) == (None, None)


async def test_codes_end_with_their_server() -> None:
    backend = MemoryBackend()
    async with start(backend) as door:
        code = door.sessions.make_code(door.local)
    async with start(backend) as door:
        assert await door.sessions.open(code) is None


async def test_session_that_was_logged_out_is_off_the_record_and_others_are_not() -> None:
    backend = MemoryBackend()
    async with start(backend) as door:
        session, secret = await door.log_in()
        other, secret_of_other = await door.log_in()
        await door.sessions.close(session)
        assert kept(backend) == [other.digest]
    async with start(backend) as door:
        assert (door.knows(secret), door.knows(secret_of_other)) == (None, LOCAL)


async def test_revoking_a_token_takes_its_sessions_off_the_record_in_the_same_unit() -> None:
    backend = MemoryBackend()
    async with start(backend) as door:
        other, _ = await door.log_in()
        token = await door.make()
        _, secret = await door.log_in(token)
        commits = door.store.commits
        await door.tokens.revoke(token.id)
        assert (kept(backend), door.store.commits) == ([other.digest], commits + 1)
        assert door.knows(secret) is None


async def test_token_that_is_revoked_while_its_session_is_written_leaves_none() -> None:
    backend = MemoryBackend()
    async with start(backend) as door:
        token = await door.make()
        code = door.sessions.make_code(token)
        async with anyio.create_task_group() as group:  # both end by themselves, when they are written
            group.start_soon(door.sessions.open, code)
            group.start_soon(door.tokens.revoke, token.id)
        assert kept(backend) == []


@pytest.mark.parametrize("local", ["another", None], ids=["replaced", "no-auth"])
async def test_sessions_of_a_local_token_that_is_not_there_any_more_are_gone_for_good(local: str | None) -> None:
    backend = MemoryBackend()
    async with start(backend) as door:
        _, secret = await door.log_in()
        token = await door.make()
        other, secret_of_other = await door.log_in(token)
    async with start(backend, local=local) as door:
        assert (door.knows(secret), door.knows(secret_of_other)) == (None, token.id)
        assert kept(backend) == [other.digest]
    async with start(backend) as door:  # the old file is back
        assert door.knows(secret) is None


async def test_session_of_nobody_in_particular_ends_with_its_server() -> None:
    backend = MemoryBackend()
    async with start(backend, local=None) as door:
        _, secret = await door.log_in(Grant(LOCAL, SCOPES))
        assert door.knows(secret) == LOCAL
    async with start(backend) as door:
        assert (door.knows(secret), kept(backend)) == (None, [])


async def test_sessions_that_have_ended_go_some_with_each_new_one() -> None:
    backend, clock = MemoryBackend(), Hands()
    async with start(backend, clock) as door:
        for _ in range(OLD_GRANTS + 5):
            await door.log_in()
    clock.now += SESSION_TIME
    async with start(backend, clock) as door:
        for left in (5 + 1, 2, 3):
            await door.log_in()
            assert len(kept(backend)) == len(door.sessions._sessions) == left


@pytest.mark.parametrize("bound", ["MAX_SESSIONS", "SESSIONS_OF_ONE"])
async def test_one_more_ends_the_oldest_one_on_record_as_well(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, bound, 3)
    backend = MemoryBackend()
    async with start(backend) as door:
        first = [await door.log_in() for _ in range(3)]
    async with start(backend) as door:
        new, _ = await door.log_in()
        assert [door.knows(secret) for _, secret in first] == [None, LOCAL, LOCAL]
        assert kept(backend) == [*(session.digest for session, _ in first[1:]), new.digest]


async def test_expired_tokens_that_make_room_take_their_sessions_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.web.tokens.MAX_TOKENS", 1)
    backend, clock = MemoryBackend(), Hands()
    async with start(backend, clock) as door:
        await door.log_in(await door.make(expires_s=5))
        clock.now += 5
        await door.make()
        await door.store.written()
        assert kept(backend) == []


async def test_start_reads_a_store_that_is_full_of_sessions() -> None:
    backend = MemoryBackend()
    rows = [(n.to_bytes(32, "big"), digest_of(LOCAL_SECRET), 1e12) for n in range(MAX_SESSIONS)]
    assert isinstance(backend.connection, sqlite3.Connection)
    backend.connection.executemany("INSERT INTO session (digest, token, expires_at) VALUES (?,?,?)", rows)
    async with start(backend) as door:
        assert len(door.sessions._sessions) == MAX_SESSIONS


# -- storage that cannot be written -----------------------------------------------------------------------------------


@asynccontextmanager
async def start_failing(backend: MemoryBackend, failpoint: str) -> AsyncIterator[Door]:
    failpoints.arm(failpoint)
    async with start(with_failpoints(backend)) as door:  # type: ignore[arg-type]
        yield door


async def test_session_that_could_not_be_written_is_none() -> None:
    backend = MemoryBackend()
    async with start_failing(backend, "session.before:raise@1") as door:
        with pytest.raises(StoreReadOnly):
            await door.log_in()
        assert (door.sessions._sessions, door.local._made_from_it) == ({}, set())
        await door.store.written()
    assert kept(backend) == []


async def test_logout_that_could_not_be_written_counts_and_is_written_as_soon_as_it_can_be() -> None:
    backend = MemoryBackend()
    async with start_failing(backend, "session.before:raise@2") as door:
        session, secret = await door.log_in()
        with pytest.raises(StoreReadOnly):
            await door.sessions.close(session)
        assert (door.knows(secret), session.ended.is_set()) == (None, True)
        await door.store.written()
    assert kept(backend) == []


async def test_door_opens_with_the_sessions_of_its_folder_until_its_token_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    backend, settings = MemoryBackend(), make_settings(tmp_path)
    async with open_store(backend) as store:
        auth = await Auth.open(settings, store, Hands())
        token = auth.tokens.find((tmp_path / "data" / "token").read_bytes().strip())
        assert token
        opened = await auth.sessions.open(auth.sessions.make_code(token))
        assert opened
    for found in (True, False):
        async with open_store(backend) as store:
            auth = await Auth.open(settings, store, Hands())
            assert (auth.sessions.find(opened[1].encode()) is not None) is found
        (tmp_path / "data" / "token").unlink()
