"""The tokens, by the SHA-256 of their secrets."""

from collections.abc import Sequence

import msgspec

from aura.records.columns import decode, encode
from aura.store import Execute, Unit


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is kept; ``digest`` is the SHA-256 of its secret. Times are Unix seconds; None: it does not end."""

    seq: int
    id: str
    name: str
    scopes: tuple[str, ...]
    digest: bytes
    made_by: str
    created_at: float
    expires_at: float | None


def insert_token(token: TokenRecord) -> Unit:
    """The unit that keeps a token."""
    row = (token.seq, token.id, token.name, encode(token.scopes).decode(), token.digest)
    values = (*row, token.made_by, token.created_at, token.expires_at)

    def unit(execute: Execute) -> None:
        execute("INSERT INTO token VALUES (?,?,?,?,?,?,?,?)", values)

    return unit


def delete_tokens(seqs: Sequence[int]) -> Unit:
    """The unit that removes tokens, with their sessions; those that are gone already are no error."""

    def unit(execute: Execute) -> None:
        for seq in seqs:
            execute("DELETE FROM session WHERE token=(SELECT digest FROM token WHERE seq=?)", (seq,))
            execute("DELETE FROM token WHERE seq=?", (seq,))

    return unit


def read_tokens(execute: Execute) -> list[TokenRecord]:
    """All tokens, in the order in which they were made."""
    rows = execute("SELECT seq, id, name, scopes, digest, made_by, created_at, expires_at FROM token ORDER BY seq")
    fields = TokenRecord.__struct_fields__
    records = [dict(zip(fields, row, strict=True)) for row in rows]
    return [TokenRecord(**record | {"scopes": tuple(decode(record["scopes"]))}) for record in records]
