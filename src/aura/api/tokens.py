"""Tokens, and the sessions of browsers."""

from typing import Literal

from aura.api.common import Shape, Time

TokenScope = Literal["read", "logs", "run", "manage", "admin"]


class Token(Shape, frozen=True, kw_only=True):
    """A token, without its secret. ``made_by`` is the id of the one that it was made with, or ``local``."""

    id: str
    name: str
    scopes: list[TokenScope]
    made_by: str
    created_at: Time
    expires_at: Time | None


class NewToken(Token, frozen=True, kw_only=True):
    """A token that was just made. ``token`` is its secret, which nobody is shown again."""

    token: str


class LoginCode(Shape, frozen=True, kw_only=True):
    """A code that opens one browser session within ``expires_in_s``; ``path`` is the page that does it."""

    code: str
    path: str
    expires_in_s: float


class Session(Shape, frozen=True, kw_only=True):
    """What a browser may do, and until when."""

    scopes: list[TokenScope]
    expires_at: Time
