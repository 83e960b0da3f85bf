"""The tokens: made, listed, revoked; kept in the store by the SHA-256 of their secrets, and found in memory.

The local token (``auth``), with all scopes and no end, is one of them here and not in the store: it has its file. A
token cannot do more, nor live longer, than the one that it was made with, but is not revoked with it.
"""

import secrets
from collections.abc import Collection
from functools import partial
from math import inf
from typing import get_args

from aura.api import TokenScope
from aura.clock import Clock
from aura.errors import RequestError
from aura.failpoints import Site
from aura.records.tokens import TokenRecord, delete_tokens, insert_token, read_tokens
from aura.store import Store, Unit
from aura.web.grants import Grant, digest_of, find, new_secret

SCOPES: frozenset[str] = frozenset(get_args(TokenScope))
LOCAL = "local"
#: How many tokens there may be besides the local one; expired ones make room.
MAX_TOKENS = 1000


class Tokens:
    """All tokens of one server. ``open`` reads them."""

    def __init__(self, store: Store, clock: Clock, local: str | None = None) -> None:
        """``local`` is the secret of the local token, if there is one."""
        self.store = store
        self.clock = clock
        self._records: dict[str, TokenRecord] = {}
        self._grants: dict[bytes, Grant] = {}
        #: The ids of those that are being written: nobody is told of them before they are on record.
        self._unwritten: set[str] = set()
        self._last_seq = 0
        if local is not None:
            self._add(Grant(LOCAL, SCOPES, digest_of(local.encode())))

    @classmethod
    async def open(cls, store: Store, clock: Clock, local: str | None = None) -> "Tokens":
        """Read what the store has."""
        tokens = cls(store, clock, local)
        for record in await store.read(read_tokens):
            tokens._keep(record)
        return tokens

    def _add(self, grant: Grant) -> None:
        self._grants[grant.digest] = grant

    def _keep(self, record: TokenRecord) -> None:
        self._records[record.id] = record
        self._last_seq = max(self._last_seq, record.seq)
        end = inf if record.expires_at is None else record.expires_at
        self._add(Grant(record.id, record.scopes, record.digest, end))

    def find(self, secret: bytes) -> Grant | None:
        """The token that this is the secret of, if it is still good."""
        return find(self._grants, secret, self.clock.wall())

    def of_digest(self, digest: bytes) -> Grant | None:
        """The token whose secret has this SHA-256, good or not; None if there is none."""
        return self._grants.get(digest)

    def name_of(self, grant: Grant) -> str:
        """What people call whoever has a grant: the token's name, or its id if it has none, or ``local``."""
        record = self._records.get(grant.token.id)
        return record.name or record.id if record is not None else grant.token.id

    def newest_first(self) -> list[TokenRecord]:
        """All tokens but the local one; those that have expired are there until somebody needs their room."""
        written = [record for record in self._records.values() if record.id not in self._unwritten]
        return sorted(written, key=lambda record: -record.seq)

    async def make(
        self, maker: Grant, scopes: Collection[str], name: str, expires_s: float | None
    ) -> tuple[TokenRecord, str]:
        """Make a token, on record when this returns: what is kept of it, and its secret, which nobody sees again.

        Raises:
            RequestError: ``forbidden``: the maker has not all of the scopes. ``conflict``: there are too many.
            StoreError: it could not be written; there is no such token.
        """
        missing = sorted(set(scopes) - maker.scopes)
        if missing:
            raise RequestError("forbidden", f"a token cannot give what it has not: {' '.join(missing)}")
        self._make_room()
        secret = new_secret()
        record = self._record(maker, scopes, name, expires_s, digest_of(secret.encode()))
        self._keep(record)  # before it is written, so that the bound holds; nobody can have its secret yet
        self._unwritten.add(record.id)
        await self._write(insert_token(record), record)
        return record, secret

    def _record(
        self, maker: Grant, scopes: Collection[str], name: str, expires_s: float | None, digest: bytes
    ) -> TokenRecord:
        now = self.clock.wall()
        end = min(inf if expires_s is None else now + expires_s, maker.token.expires_at)
        id = next(new for new in iter(partial(secrets.token_hex, 4), None) if new not in self._records)
        return TokenRecord(
            seq=self._last_seq + 1,
            id=id,
            name=name,
            scopes=tuple(sorted(set(scopes))),
            digest=digest,
            made_by=maker.token.id,
            created_at=now,
            expires_at=None if end == inf else end,
        )

    def _make_room(self) -> None:
        now = self.clock.wall()
        expired = [r for r in self._records.values() if not self._grants[r.digest].is_valid(now)]
        if len(self._records) - len(expired) >= MAX_TOKENS:
            raise RequestError("conflict", f"there are {MAX_TOKENS} tokens; revoke some")
        if expired and len(self._records) >= MAX_TOKENS:
            for record in expired:
                self._forget(record)
            self.store.put(delete_tokens([record.seq for record in expired]), site=Site.TOKEN)

    async def _write(self, unit: Unit, record: TokenRecord) -> None:
        forget, told = partial(self._forget, record), partial(self._unwritten.discard, record.id)
        await self.store.put(unit, told, lambda _: forget(), refusable=True, site=Site.TOKEN).wait()

    async def revoke(self, id: str) -> None:
        """End a token, its sessions and what they have open at once; it is off the record when this returns.

        Raises:
            RequestError: ``unknown_token``.
            StoreError: it could not be written: it is ended until the server is, and can be revoked once more.
        """
        record = self._records.get(id)
        if record is None:
            raise RequestError("unknown_token", f"there is no token {id!r}")
        self._grants[record.digest].end()
        unit = delete_tokens([record.seq])
        await self.store.put(unit, partial(self._forget, record), refusable=True, site=Site.TOKEN).wait()

    def _forget(self, record: TokenRecord) -> None:
        self._unwritten.discard(record.id)
        if self._records.pop(record.id, None) is not None:
            self._grants.pop(record.digest).end()
