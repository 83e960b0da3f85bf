"""The sessions of browsers, by the SHA-256 of their secrets."""

from collections.abc import Sequence

import msgspec

from aura.store import Execute, Unit


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session as it is kept: the SHA-256 of its secret and of its token's, and its end in Unix seconds."""

    digest: bytes
    token: bytes
    expires_at: float


def insert_session(session: SessionRecord) -> Unit:
    """The unit that keeps a session."""
    values = (session.digest, session.token, session.expires_at)

    def unit(execute: Execute) -> None:
        execute("INSERT INTO session (digest, token, expires_at) VALUES (?,?,?)", values)

    return unit


def delete_sessions(digests: Sequence[bytes]) -> Unit:
    """The unit that removes sessions; those that are gone already are no error."""

    def unit(execute: Execute) -> None:
        for digest in digests:
            execute("DELETE FROM session WHERE digest=?", (digest,))

    return unit


def read_sessions(execute: Execute) -> list[SessionRecord]:
    """All sessions, in the order in which they were opened."""
    rows = execute("SELECT digest, token, expires_at FROM session ORDER BY seq")
    return [SessionRecord(digest=digest, token=token, expires_at=end) for digest, token, end in rows]
