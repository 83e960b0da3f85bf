"""What a caller may do and until when: a grant, found by the secret that a request carries.

Tokens are grants, so are the sessions of browsers and the codes that open them; a grant that was made from a token ends
with it. Of a secret only its SHA-256 is kept. This module knows neither where secrets come from nor where they are kept
(``tokens``, ``sessions``).
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf

import anyio

from aura.clock import Clock
from aura.errors import RequestError

SECRET_BYTES = 32
#: Requests of one token that may be under way at once, those of its sessions included; streams do not count.
MAX_IN_FLIGHT = 64
#: Seconds after which the wall clock is asked again, should it have jumped while somebody waits for an expiry.
LOOK_AGAIN = 60.0


class Grant:
    """What one caller may do. ``expires_at`` is in Unix seconds.

    ``token`` is the grant whose limits count: itself, or the token that a session was made from.
    Invariant: ``ended`` is set for good, by ``end`` alone, and with it that of everything made from this grant.
    """

    def __init__(
        self, id: str, scopes: Iterable[str], digest: bytes = b"", expires_at: float = inf, token: "Grant | None" = None
    ) -> None:
        self.id = id
        self.scopes = frozenset(scopes)
        self.digest = digest
        self.expires_at = expires_at
        self.token = token or self
        self.ended = anyio.Event()
        self.in_flight = 0
        self.streams = 0
        self._made_from_it: set[Grant] = set()
        if token is not None:
            token._made_from_it.add(self)

    @property
    def is_session(self) -> bool:
        return self.token is not self

    def is_valid(self, now: float) -> bool:
        """Say whether it still counts. ``now`` is in Unix seconds."""
        return not self.ended.is_set() and now < self.expires_at

    def end(self) -> None:
        """End it, and all that was made from it. Harmless the second time."""
        self.ended.set()
        self.token._made_from_it.discard(self)
        for grant in tuple(self._made_from_it):
            grant.end()

    async def wait_ended(self, clock: Clock) -> None:
        """Return when it has been ended or has expired."""
        while self.is_valid(clock.wall()):
            left = self.expires_at - clock.wall()
            with anyio.move_on_after(left if left == inf else min(left, LOOK_AGAIN)):
                await self.ended.wait()

    def begin_request(self) -> None:
        """Count a request; ``end_request`` must follow.

        Raises:
            RequestError: ``too_many_requests``.
        """
        if self.token.in_flight >= MAX_IN_FLIGHT:
            message = f"{MAX_IN_FLIGHT} requests of this token are under way; wait for one of them"
            raise RequestError("too_many_requests", message, retry_after=1)
        self.token.in_flight += 1

    def end_request(self) -> None:
        self.token.in_flight -= 1

    @contextmanager
    def resting_request(self) -> Iterator[None]:
        """Do not count a request while it only waits, as a stream does."""
        self.token.in_flight -= 1
        try:
            yield
        finally:
            self.token.in_flight += 1


#: A caller without a token, where none is asked for.
STRANGER = Grant("stranger", ())
#: What an unknown secret is compared with, so that it takes as long as a known one.
_NOBODY = Grant("nobody", (), bytes(hashlib.sha256().digest_size))


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret).digest()


def new_secret() -> str:
    """Text that nobody guesses."""
    return secrets.token_urlsafe(SECRET_BYTES)


def find(grants: Mapping[bytes, Grant], secret: bytes, now: float) -> Grant | None:
    """The valid grant that a secret is the secret of. Unknown, ended and expired take the same way."""
    digest = digest_of(secret)
    grant = grants.get(digest, _NOBODY)
    is_known = hmac.compare_digest(grant.digest, digest)
    is_valid = grant.is_valid(now)
    return grant if is_known and is_valid else None
