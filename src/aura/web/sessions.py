"""Browsers: one-time codes, and the sessions that they are traded for.

A code is made with a token, opens one session within a minute, and is used up by that; codes are in memory and end with
the server. The session may do what the token may, for half a day at most, and ends with it. It is found in memory and
kept in the store, so that a page goes on after a restart: an ``EventSource`` that is refused once does not ask again. A
session is on record before its secret is told, and off it before a logout is answered. A local token that was replaced
is another one: at the start, sessions of tokens that are not there are removed.

A browser sends its secret in a cookie, which carries the server's port in its name, since browsers do not keep the
cookies of two ports apart.
"""

from collections.abc import Sequence
from functools import partial
from itertools import islice

from aura.errors import RequestError
from aura.failpoints import Site
from aura.records.sessions import SessionRecord, delete_sessions, insert_session, read_sessions
from aura.web.grants import Grant, digest_of, find, new_secret
from aura.web.tokens import Tokens

#: Seconds for which a code can be used, and a session.
CODE_TIME = 60.0
SESSION_TIME = 12 * 3600.0
MAX_CODES = 100
#: One more session ends the oldest one.
MAX_SESSIONS = 1000
#: How many of each one token may have, so that nobody keeps the others out: one more ends its oldest one.
CODES_OF_ONE = 20
SESSIONS_OF_ONE = 100
#: How many that have ended are let go of with each new one.
OLD_GRANTS = 10


class Sessions:
    """The codes and the sessions of one server. ``load`` reads those that an earlier start has left.

    Invariant: a session that is on record is in memory as well, or its removal is handed over.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._store = tokens.store
        self._clock = tokens.clock
        self._codes: dict[bytes, Grant] = {}
        self._sessions: dict[bytes, Grant] = {}

    async def load(self) -> None:
        """Read what the store has."""
        gone = []
        for record in await self._store.read(read_sessions):
            token = self._tokens.of_digest(record.token)
            if token is None:
                gone.append(record.digest)
            else:
                self._sessions[record.digest] = _made_from(token, record.digest, record.expires_at)
        self._remove(gone)

    def make_code(self, grant: Grant) -> str:
        """Make a code that opens a session of a token.

        Raises:
            RequestError: ``forbidden``: only tokens make codes, else a session could live for ever.
                ``too_many_requests``: too many are waiting to be used.
        """
        if grant.is_session:
            raise RequestError("forbidden", "a session cannot open another one; make the code with a token")
        self._drop_ended(self._codes)
        self._make_room(self._codes, grant, CODES_OF_ONE)
        if len(self._codes) >= MAX_CODES:
            message = f"{MAX_CODES} codes are waiting to be used; each is good for {CODE_TIME:g} s"
            raise RequestError("too_many_requests", message, retry_after=CODE_TIME)
        return self._make(self._codes, grant, CODE_TIME)

    async def open(self, code: str) -> tuple[Grant, str] | None:
        """Use up a code: the session, on record when this returns, and its secret; None if the code is none any more.

        Raises:
            StoreError: it could not be written; there is no such session, and the code is used up.
        """
        used = find(self._codes, code.encode(), self._clock.wall())
        if used is None:
            return None
        del self._codes[used.digest]
        token = used.token
        used.end()
        gone = [*self._drop_ended(self._sessions), *self._make_room(self._sessions, token, SESSIONS_OF_ONE)]
        if len(self._sessions) >= MAX_SESSIONS:
            gone.append(_end(self._sessions, next(iter(self._sessions.values()))))
        self._remove(gone)
        secret = self._make(self._sessions, token, SESSION_TIME)  # before it is written, so that the bound holds
        session = self._sessions[digest_of(secret.encode())]
        await self._write(session)
        return session, secret

    async def _write(self, session: Grant) -> None:
        record = SessionRecord(digest=session.digest, token=session.token.digest, expires_at=session.expires_at)
        forget = partial(_end, self._sessions, session)
        ticket = self._store.put(insert_session(record), failed=lambda _: forget(), refusable=True, site=Site.SESSION)
        await ticket.wait()

    def find(self, secret: bytes) -> Grant | None:
        """The session that this is the secret of, if it is still good."""
        return find(self._sessions, secret, self._clock.wall())

    async def close(self, session: Grant) -> None:
        """End a session and what it has open at once; it is off the record when this returns.

        Raises:
            StoreError: it could not be written: the session is ended, and off the record as soon as that can be.
        """
        gone = [_end(self._sessions, session)]
        again = partial(self._remove, gone)
        ticket = self._store.put(delete_sessions(gone), failed=lambda _: again(), refusable=True, site=Site.SESSION)
        await ticket.wait()

    def _remove(self, digests: Sequence[bytes]) -> None:
        """Take sessions off the record as soon as that can be written."""
        if digests:
            self._store.put(delete_sessions(digests), site=Site.SESSION)

    def _make(self, grants: dict[bytes, Grant], token: Grant, seconds: float) -> str:
        secret = new_secret()
        digest = digest_of(secret.encode())
        grants[digest] = _made_from(token, digest, min(self._clock.wall() + seconds, token.expires_at))
        return secret

    def _make_room(self, grants: dict[bytes, Grant], token: Grant, most: int) -> list[bytes]:
        """End the oldest one of a token that has as many as it may: its digest."""
        own = [grant for grant in grants.values() if grant.token is token]
        return [_end(grants, own[0])] if len(own) >= most else []

    def _drop_ended(self, grants: dict[bytes, Grant]) -> list[bytes]:
        """Let go of some that have ended: their digests."""
        now = self._clock.wall()
        ended = list(islice((grant for grant in grants.values() if not grant.is_valid(now)), OLD_GRANTS))
        return [_end(grants, grant) for grant in ended]


def _made_from(token: Grant, digest: bytes, expires_at: float) -> Grant:
    return Grant(token.id, token.scopes, digest, expires_at, token)


def _end(grants: dict[bytes, Grant], grant: Grant) -> bytes:
    grants.pop(grant.digest, None)
    grant.end()
    return grant.digest


def cookie_name(port: int | None) -> str:
    """What the cookie of the server on this port is called."""
    return "aura_session" if port is None else f"aura_session_{port}"


def set_cookie(port: int | None, secret: str, *, secure: bool) -> str:
    """The value of ``Set-Cookie`` that gives a browser its secret; an empty secret takes it away."""
    age = SESSION_TIME if secret else 0
    parts = [f"{cookie_name(port)}={secret}", "HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={age:.0f}"]
    return "; ".join([*parts, "Secure"] if secure else parts)


def cookies(header: bytes, port: int | None) -> list[bytes]:
    """All secrets that a ``Cookie`` header has for this server: another port may have set one of our name."""
    wanted = cookie_name(port).encode()
    pairs = [part.partition(b"=") for part in header.split(b";")]
    return [value.strip() for name, _, value in pairs if name.strip() == wanted]
