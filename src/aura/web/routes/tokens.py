"""Tokens for others, and the way of a browser from a one-time code to its cookie."""

from typing import Annotated, Any, get_args

import msgspec
from starlette.responses import Response

from aura import api
from aura.clock import utc
from aura.records.tokens import TokenRecord
from aura.web.auth import Access, address_of, port_of
from aura.web.call import ApiRoute, Call, json_response
from aura.web.pages import HTML, page
from aura.web.query import PageQuery, first_page, make_cursor
from aura.web.sessions import CODE_TIME, set_cookie

#: The longest life of a token that ends, in seconds: ten years.
MAX_EXPIRES = 10 * 366 * 86400.0


class TokenBody(msgspec.Struct, frozen=True):
    """The token that is wanted. Without ``expires_s`` it ends with the one that it is made with, if that ends."""

    scopes: Annotated[list[api.TokenScope], msgspec.Meta(min_length=1, max_length=20)]
    expires_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_EXPIRES)] | None = None
    name: Annotated[str, msgspec.Meta(max_length=100)] = ""


class LoginBody(msgspec.Struct, frozen=True):
    """The one-time code of a link."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


async def list_tokens(call: Call) -> Response:
    """List the tokens, newest first, without their secrets; the local one is not among them."""
    query = call.query(PageQuery)
    before = query.number("tokens")
    found = [r for r in call.door.auth.tokens.newest_first() if before is None or r.seq < before]
    records, last = first_page(found, query.limit)
    cursor = make_cursor("tokens", last.seq) if last else None
    return json_response(api.Page(items=[api.Token(**_public(record)) for record in records], next_cursor=cursor))


async def make_token(call: Call) -> Response:
    """Make a token, with scopes that the asking one has; its secret is in this answer and never again."""
    body = await call.body(TokenBody)
    record, secret = await call.door.auth.tokens.make(call.grant, body.scopes, body.name, body.expires_s)
    call.note(f"token {record.id} was made by {record.made_by} with {' '.join(record.scopes)}")
    return json_response(api.NewToken(**_public(record), token=secret), 201)


def _public(record: TokenRecord) -> dict[str, Any]:
    kept = {name: getattr(record, name) for name in ("id", "name", "scopes", "made_by")}
    end = None if record.expires_at is None else utc(record.expires_at)
    return kept | {"created_at": utc(record.created_at), "expires_at": end}


async def revoke_token(call: Call) -> Response:
    """Revoke a token; its sessions, and the streams that it has open, end at once."""
    id = call.path["id"]
    await call.door.auth.tokens.revoke(id)
    call.note(f"token {id} was revoked by {call.grant.token.id}")
    return Response(status_code=204)


async def make_code(call: Call) -> Response:
    """Make a one-time code that opens a browser session of the asking token."""
    code = call.door.auth.sessions.make_code(call.grant)
    return json_response(api.LoginCode(code=code, path=f"/login#code={code}", expires_in_s=CODE_TIME), 201)


async def login(call: Call) -> Response:
    """Trade a one-time code for the cookie of a session."""
    body = await call.body(LoginBody)
    opened = await call.door.auth.sessions.open(body.code)
    if opened is None:
        raise call.door.auth.failures.refuse(
            address_of(call.scope), "the code is used, too old, or none; `aura open` makes a new one"
        )
    session, secret = opened
    call.note(f"a browser logged in with token {session.token.id}")
    scopes = [scope for scope in get_args(api.TokenScope) if scope in session.scopes]
    answer = api.Session(scopes=scopes, expires_at=utc(session.expires_at))
    return json_response(answer, headers={"Set-Cookie": _cookie(call, secret)})


async def logout(call: Call) -> Response:
    """End the session that asks, with what it has open; a token is not ended by this."""
    if call.grant.is_session:
        await call.door.auth.sessions.close(call.grant)
    return Response(status_code=204, headers={"Set-Cookie": _cookie(call, "")})


def _cookie(call: Call, secret: str) -> str:
    return set_cookie(port_of(call.scope), secret, secure=call.scope["scheme"] == "https")


async def show_login(_call: Call) -> Response:
    """Show the page that trades the code in its address for a session."""
    return page("login")


ROUTES = [
    ApiRoute("GET", "/api/tokens", list_tokens, Access.ADMIN, query=PageQuery, answers={200: api.Page[api.Token]}),
    ApiRoute(
        "POST",
        "/api/tokens",
        make_token,
        Access.ADMIN,
        body=TokenBody,
        body_required=True,
        answers={201: api.NewToken},
    ),
    ApiRoute("DELETE", "/api/tokens/{id}", revoke_token, Access.ADMIN, answers={204: None}),
    ApiRoute("POST", "/api/login/codes", make_code, Access.ANY, answers={201: api.LoginCode}),
    ApiRoute(
        "POST",
        "/api/login",
        login,
        Access.OPEN,
        body=LoginBody,
        body_required=True,
        answers={200: api.Session},
    ),
    ApiRoute("POST", "/api/logout", logout, Access.ANY, answers={204: None}),
    ApiRoute("GET", "/login", show_login, Access.OPEN, answers={200: HTML}),
]
