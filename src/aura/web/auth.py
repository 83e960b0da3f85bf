"""Who may do what: who a request comes from, and the scope that each route asks for.

The local token is random text in ``<data>/token``, readable by its owner alone; the others are made over the API
(``tokens``). A secret is taken from the ``Authorization`` header, or else from a browser's cookie (``sessions``), and
from nowhere else: a URL ends up in logs and histories. A cookie is sent by the browser whoever asks it to, so what
changes something by it, or opens a WebSocket, has to say that it comes from a page of ours.
"""

import os
import secrets
from enum import StrEnum
from pathlib import Path

from starlette.types import Scope

from aura.clock import Clock
from aura.config import Settings
from aura.errors import RequestError, StoreCannotCreate
from aura.store import Store
from aura.stores.folder import cannot_use, sync_folder
from aura.web.failures import Failures
from aura.web.grants import STRANGER, Grant
from aura.web.guard import SAFE_METHODS
from aura.web.sessions import Sessions, cookies
from aura.web.tokens import LOCAL, SCOPES, Tokens

TOKEN_FILE = "token"  # noqa: S105 - a file's name
TOKEN_BYTES = 32
#: A longer header is not even hashed.
MAX_HEADER = 1024


class Access(StrEnum):
    """What a route asks for. ``OPEN`` is for those that tell a stranger nothing; for ``ANY`` each token will do."""

    OPEN = "open"
    ANY = "any"
    READ = "read"
    LOGS = "logs"
    RUN = "run"
    MANAGE = "manage"
    ADMIN = "admin"


class Auth:
    """Knows who may do what. ``required`` False (``--no-auth``): everyone may do everything."""

    def __init__(self, tokens: Tokens, failures: Failures | None = None, *, required: bool = True) -> None:
        self.tokens = tokens
        self.sessions = Sessions(tokens)
        self.failures = failures or Failures(tokens.clock.monotonic)
        self._everyone = None if required else Grant(LOCAL, SCOPES)

    @classmethod
    async def open(cls, settings: Settings, store: Store, clock: Clock) -> "Auth":
        """Read the tokens and sessions of the store, and the local token, made at the first start.

        With ``--no-auth`` there is no local token, and so no session of it.

        Raises:
            StoreCannotCreate: the local token's file cannot be used.
        """
        local = None if settings.no_auth else ensure_token(settings.data)
        auth = cls(await Tokens.open(store, clock, local), required=not settings.no_auth)
        await auth.sessions.load()
        return auth

    def check(self, scope: Scope, needed: Access) -> Grant:
        """Let a request, or a WebSocket's handshake, pass and say whose it is, or refuse it.

        No secret at all, a wrong one, one that has ended and nonsense are told apart by nobody.

        Raises:
            RequestError: ``unauthorized``; ``forbidden`` if the token is good for other things; ``too_many_requests``
                after many failures; ``foreign_origin`` for a cookie that a page of others may have sent.
        """
        grant = self._everyone or self._find(scope)
        if needed is Access.OPEN:
            return grant or STRANGER
        if grant is None:
            raise self.failures.refuse(address_of(scope))
        if grant.is_session and not _is_safe(scope) and not _is_ours(dict(scope["headers"])):
            message = "a request by cookie must say Origin, or Sec-Fetch-Site: same-origin, as browsers do"
            raise RequestError("foreign_origin", message)
        if needed is not Access.ANY and needed not in grant.scopes:
            raise RequestError("forbidden", f"the token has no scope {needed}")
        return grant

    def check_still(self, scope: Scope, grant: Grant) -> None:
        """Refuse a request whose grant has ended since it was let pass.

        Raises:
            RequestError: ``unauthorized`` or ``too_many_requests``, as ``check``.
        """
        if not grant.is_valid(self.tokens.clock.wall()):
            raise self.failures.refuse(address_of(scope))

    def _find(self, scope: Scope) -> Grant | None:
        headers = scope["headers"]
        given = [value for name, value in headers if name == b"authorization"]
        if given:
            return self._of_header(given)
        found = [value for name, value in headers if name == b"cookie"]
        return self._of_cookies(scope, b"; ".join(found)) if found else None

    def _of_header(self, given: list[bytes]) -> Grant | None:
        scheme, _, token = given[0].partition(b" ")
        if len(given) > 1 or scheme.lower() != b"bearer" or len(token) > MAX_HEADER:
            return None
        return self.tokens.find(token.strip())

    def _of_cookies(self, scope: Scope, header: bytes) -> Grant | None:
        found = [self.sessions.find(secret) for secret in cookies(header, port_of(scope))]
        return next((grant for grant in found if grant is not None), None)


def port_of(scope: Scope) -> int | None:
    """The port that was asked; None on a Unix socket."""
    server: tuple[str, int | None] | None = scope.get("server")
    return server[1] if server else None


def address_of(scope: Scope) -> str:
    """The address that a connection comes from; empty on a Unix socket."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else ""


def _is_safe(scope: Scope) -> bool:
    return scope["type"] != "websocket" and scope["method"] in SAFE_METHODS


def _is_ours(headers: dict[bytes, bytes]) -> bool:
    """Say whether a page of ours sent this. What the headers say was checked before (``guard``); here they must be."""
    return b"origin" in headers or headers.get(b"sec-fetch-site") == b"same-origin"


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
        raise cannot_use(f"cannot write {path}", error, "make its folder writable") from error
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
    sync_folder(path.parent)


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
