"""Where a server is and what to say to it: how clients find the address and the token."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from aura.config import Settings, load_settings
from aura.errors import NotPermitted, Unreachable

TOKEN_FILE = "token"  # noqa: S105 - the name of a file, not a secret
UDS_SCHEME = "unix:"


class Target(msgspec.Struct, frozen=True):
    """Where a server is and what to say to it. With ``uds``, ``url`` only gives the host's name."""

    url: str
    token: str | None = None
    uds: Path | None = None
    cafile: Path | None = None

    def __str__(self) -> str:
        return f"{UDS_SCHEME}{self.uds}" if self.uds else self.url


def default_target() -> Target:
    """The server that the commands would ask here: ``AURA_SERVER``, else the settings.

    Raises:
        ConfigError: the settings cannot be used.
        NotPermitted: the token's file cannot be read.
        Unreachable: the address cannot be one.
    """
    return find_target(load_settings({}, os.environ), os.environ)


def find_target(settings: Settings, environ: Mapping[str, str], server: str | None = None) -> Target:
    """Find the server (``server``, else ``AURA_SERVER``, else the settings) and the token.

    Raises:
        NotPermitted: the token's file cannot be read.
        Unreachable: the address cannot be one.
    """
    token = environ.get("AURA_TOKEN") or read_token(settings.data)
    server = server or environ.get("AURA_SERVER")
    if server:
        return _named(server, token)
    here = settings.server
    if here.uds:
        return Target("http://localhost", token, here.uds)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(here.host, here.host)  # noqa: S104 - not bound, asked
    scheme = "https" if here.tls_cert else "http"
    return Target(f"{scheme}://{f'[{host}]' if ':' in host else host}:{here.port}", token, cafile=here.tls_cert)


def read_token(data: Path) -> str | None:
    """The local token that ``aura serve`` left in the data folder; None if no server has run with that folder yet.

    Raises:
        NotPermitted: it is there, and this user may not read it.
    """
    file = data / TOKEN_FILE
    try:
        return file.read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file}: {error}; run this as the server's user, or set AURA_TOKEN"
        raise NotPermitted(message) from error


def _named(server: str, token: str | None) -> Target:
    if server.startswith(UDS_SCHEME):
        return Target("http://localhost", token, Path(server.removeprefix(UDS_SCHEME)))
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unreachable(f"{server!r} is not a server's address; say http://127.0.0.1:8700 or unix:PATH")
    return Target(server.rstrip("/"), token)
