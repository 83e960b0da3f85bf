"""Who may do what: the local token, and the scope that each route asks for.

The token is random text in ``<data>/token``, readable by its owner alone. Only its hash is compared, in constant time.
It is taken from the ``Authorization`` header and from nowhere else: a URL ends up in logs and histories.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from aura.config import Settings
from aura.errors import RequestError, StoreCannotCreate

TOKEN_FILE = "token"  # noqa: S105 - a file's name
TOKEN_BYTES = 32
#: A longer header is not even hashed.
MAX_HEADER = 1024


class Access(StrEnum):
    """What a route asks for. ``OPEN`` is for those that tell a stranger nothing."""

    OPEN = "open"
    READ = "read"
    LOGS = "logs"
    RUN = "run"
    MANAGE = "manage"
    ADMIN = "admin"


EVERYTHING = frozenset(Access)


class Auth:
    """Knows the tokens and what each may do. With ``token`` None (``--no-auth``) everyone may do everything."""

    def __init__(self, token: str | None) -> None:
        self._hash = _digest(token) if token is not None else None

    @classmethod
    def open(cls, settings: Settings) -> "Auth":
        """Read the local token, made at the first start; with ``--no-auth`` there is none.

        Raises:
            StoreCannotCreate: the token's file cannot be used.
        """
        return cls(None if settings.no_auth else ensure_token(settings.data))

    def check(self, headers: Iterable[tuple[bytes, bytes]], needed: Access) -> None:
        """Let a request pass, or refuse it. No header at all, a wrong token and nonsense are told apart by nobody.

        Raises:
            RequestError: ``unauthorized``, or ``forbidden`` if the token is good for other things.
        """
        if needed is Access.OPEN or self._hash is None:
            return
        if needed not in self.granted(headers):
            raise RequestError("forbidden", f"the token has no scope {needed}")

    def granted(self, headers: Iterable[tuple[bytes, bytes]]) -> frozenset[Access]:
        """The scopes of the token that the headers carry.

        Raises:
            RequestError: ``unauthorized``.
        """
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() == b"bearer" and len(token) <= MAX_HEADER and self._is_known(token.strip()):
            return EVERYTHING
        raise RequestError(
            "unauthorized", "send the header Authorization: Bearer TOKEN; `aura token` prints the local one"
        )

    def _is_known(self, token: bytes) -> bool:
        return self._hash is not None and hmac.compare_digest(hashlib.sha256(token).digest(), self._hash)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def ensure_token(data: Path) -> str:
    """Read the local token; at the first start make it, in a file that only its owner can read.

    Raises:
        StoreCannotCreate: the file cannot be made or read, or is no regular file of ours.
    """
    path = data / TOKEN_FILE
    try:
        if not os.path.lexists(path):  # nobody else makes it meanwhile: the folder is locked
            _create(path)
    except OSError as error:
        raise StoreCannotCreate(f"cannot write {path}: {error.strerror}; make its folder writable") from error
    return _read(path)


def _create(path: Path) -> None:
    """Make the file whole or not at all: after a crash in between, the next start would refuse an empty one."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        file.flush()
        os.fsync(descriptor)
    os.rename(new, path)


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="ascii") as file:
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreCannotCreate(f"cannot read {path}: {error}; remove it to get a new token") from error
    if len(token) < TOKEN_BYTES:
        raise StoreCannotCreate(f"{path} holds no token; remove it to get a new one")
    return token
