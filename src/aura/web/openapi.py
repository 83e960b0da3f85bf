"""The OpenAPI 3.1 document, made of the route table and the types that the routes name: nothing is said twice.

What a route takes and gives comes from its ``query``, ``body`` and ``answers``; its text is its endpoint's docstring.
Every route can also refuse; since which codes it may use depends on more than the route, refusals are described once,
as the answer ``default``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aura import __version__, api
from aura.web.auth import Access
from aura.web.body import MAX_INTEGER
from aura.web.call import EVENT_STREAM, ApiRoute, Media

REF = "#/components/schemas/{name}"
PROBLEM = "application/problem+json"
#: Headers of requests that mean something to some routes, as a route names them.
HEADERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Last-Event-ID": ("The id of the last record that the client has; the stream goes on behind it.", {}),
    "Idempotency-Key": (
        "Ask again with the same key and body, and get the same answer instead of a second run. Kept for a day.",
        {"minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    ),
    "Prefer": ("`wait=N`: answer with the ended run if it ends within N seconds.", {}),
    "X-Aura-Id": ("Scheme `aura`: what the caller calls this delivery.", {"maxLength": 255}),
    "X-Aura-Timestamp": ("Scheme `aura`: when it was signed, in Unix seconds; five minutes off at most.", {}),
    "X-Aura-Signature": ("Scheme `aura`: `sha256=` and the HMAC of `id.timestamp.body` in hexadecimal digits.", {}),
    "X-Hub-Signature-256": ("Scheme `github`: `sha256=` and the HMAC of the body in hexadecimal digits.", {}),
    "X-GitHub-Delivery": ("Scheme `github`: what GitHub calls this delivery.", {"maxLength": 255}),
    "X-Gitlab-Token": ("Scheme `gitlab`: the secret.", {}),
    "Range": ("`bytes=…`: a part of the file.", {}),
    "If-Range": ("The `ETag` of the file of which `Range` is a part; of another one all is sent.", {}),
}
#: What streams hold.
RECORDS = (api.LogRecord, api.EventRecord)
#: What can stand in a path; a task's name may hold slashes, which a client leaves as they are.
PATHS: Mapping[str, Mapping[str, Any]] = {
    "cid": {"minLength": 1, "maxLength": 36},
    "plan": {"pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"},
    "rule": {"pattern": "^[a-z_][a-z0-9_]{0,63}$"},
    "item": {"pattern": "^[a-z_][a-z0-9_]{0,63}$"},
    "task": {"minLength": 1},
}
_INTRODUCTION = """Ask for runs of tasks, watch and steer them. Every route but those without a scope asks for
`Authorization: Bearer TOKEN`, or the cookie of a browser's session; the scope that a route asks for stands with it.
Times are RFC 3339 in UTC, durations are seconds. Refusals are problem documents (RFC 9457) with a stable `code`."""


def document(routes: Sequence[ApiRoute]) -> dict[str, Any]:
    """Describe these routes."""
    types = list(_types_of(routes))
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    made = _Schemas(types, schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in sorted(route.methods or ()):
            if method != "HEAD":
                paths.setdefault(_path_of(route), {})[method.lower()] = _operation(route, made)
    return {
        "openapi": "3.1.1",
        "info": {"title": "Aura", "version": __version__, "description": _INTRODUCTION, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": _exact(components, made, routes),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "aura_session"},
            },
        },
    }


class _Schemas(NamedTuple):
    """The schema of each type that some route names, in the order of ``types``."""

    types: list[Any]
    schemas: tuple[dict[str, Any], ...]

    def of(self, kind: Any) -> dict[str, Any]:
        return self.schemas[self.types.index(kind)]


def _types_of(routes: Sequence[ApiRoute]) -> Iterator[Any]:
    yield from (api.ProblemDocument, *RECORDS)
    for route in routes:
        if route.body is not None:
            yield route.body
        yield from (field.type for field in msgspec.structs.fields(route.query))
        yield from (kind for kind in route.answers.values() if _is_json(kind))


def _is_json(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, Media)


def _path_of(route: ApiRoute) -> str:
    return route.path.replace(":path}", "}")


def _operation(route: ApiRoute, made: _Schemas) -> dict[str, Any]:
    summary, _, more = route.summary.partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": _text(summary),
        "tags": [_tag(route)],
        "parameters": [*_path_parameters(route), *_query_parameters(route, made), *_header_parameters(route)],
        "responses": {
            str(status): _answer(kind, made) | _links(kind) for status, kind in sorted(route.answers.items())
        },
    }
    operation["responses"]["default"] = _json("A refusal.", made.of(api.ProblemDocument), PROBLEM)
    if more.strip():
        operation["description"] = _text(more.strip())
    if route.body is not None:
        operation["requestBody"] = {"required": route.body_required} | _json("", made.of(route.body))
    if route.any_body:
        operation["requestBody"] = {"required": True} | _json("", _ANY)
    operation["security"] = [] if route.access is Access.OPEN else [{"token": []}, {"session": []}]
    if route.access is not Access.OPEN:
        operation["x-scope"] = route.access.value
    return operation


def _text(text: str) -> str:
    """A docstring as Markdown."""
    return text.replace("``", "`")


def _tag(route: ApiRoute) -> str:
    """The part of the path that groups it: ``runs`` of ``/api/runs/{cid}``."""
    first, _, rest = route.path.strip("/").partition("/")
    return rest.partition("/")[0] if first == "api" else "server"


def _answer(kind: Any, made: _Schemas) -> dict[str, Any]:
    if kind is None:
        return {"description": "Done; nothing to say."}
    if isinstance(kind, Media):
        schema = _event(made) if kind == EVENT_STREAM else {"type": "string"}
        return {"description": kind.holds.capitalize() + ".", "content": {kind.type: {"schema": schema}}}
    return _json(_first_sentence(kind), made.of(kind))


def _event(made: _Schemas) -> dict[str, Any]:
    """One server-sent event of a stream, as a browser's EventSource gives it."""
    record = {"anyOf": [made.of(kind) for kind in RECORDS]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": record}
    name = {"enum": ["message", "gap", "end", "progress", "shutdown"], "default": "message"}
    return {
        "type": "object",
        "properties": {"id": {"type": "string"}, "event": name, "data": data},
        "required": ["data"],
    }


def _first_sentence(kind: Any) -> str:
    text = (getattr(kind, "__origin__", kind).__doc__ or "").partition("\n")[0]
    return _text(text) or "The answer."


def _json(description: str, schema: Mapping[str, Any], media: str = "application/json") -> dict[str, Any]:
    content = {"content": {media: {"schema": schema}}}
    return {"description": description} | content if description else content


#: What can be asked next about a run, whose ``cid`` an answer has.
_NEXT = ("get_run", "get_logs", "stream_run", "cancel")


def _links(kind: Any) -> dict[str, Any]:
    if kind not in (api.Accepted, api.RunAnswer):
        return {}
    return {"links": {name: {"operationId": name, "parameters": {"cid": "$response.body#/cid"}} for name in _NEXT}}


# -- parameters -------------------------------------------------------------------------------------------------------


def _path_parameters(route: ApiRoute) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", **PATHS.get(name, {})}}
        for name in route.param_convertors
    ]


def _query_parameters(route: ApiRoute, made: _Schemas) -> list[dict[str, Any]]:
    return [
        {
            "name": field.encode_name,
            "in": "query",
            "required": field.required,
            "schema": _storable(_not_null(made.of(field.type))) | _default(field.default),
        }
        for field in msgspec.structs.fields(route.query)
    ]


def _not_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """In a query string there is no null: what may be missing is just left out."""
    some = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    return dict(some[0]) if len(some) == 1 else dict(schema)


def _default(value: Any) -> dict[str, Any]:
    return {} if value in (None, msgspec.NODEFAULT) else {"default": msgspec.to_builtins(value)}


def _header_parameters(route: ApiRoute) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": HEADERS[name][0],
            "schema": {"type": "string", **HEADERS[name][1]},
        }
        for name in route.headers
    ]


# -- what comes in is known whole -------------------------------------------------------------------------------------


def _exact(components: dict[str, Any], made: _Schemas, routes: Sequence[ApiRoute]) -> dict[str, Any]:
    """Say of each body what ``body`` and ``validate`` refuse; answers may grow, so nothing is said of theirs."""
    bodies = {made.of(route.body)["$ref"].rpartition("/")[2] for route in routes if route.body is not None}
    for name, schema in components.items():
        schema["description"] = _text(schema.get("description", name))
        if name in bodies:
            schema["additionalProperties"] = False
            schema["properties"] = {key: _storable(inner) for key, inner in schema["properties"].items()}
    return components | {"Json": _JSON}


#: Text without NUL, integers that every reader of JSON keeps.
_TEXT: Mapping[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$"}
_KEYS: Mapping[str, Any] = {"propertyNames": {"pattern": _TEXT["pattern"]}}
_INTEGER: Mapping[str, Any] = {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
_ANY = {"$ref": REF.format(name="Json")}
_JSON: Mapping[str, Any] = {
    "description": "Any JSON that can be kept: no NUL in text, no integer beyond 2^53.",
    "anyOf": [
        {"type": ["null", "boolean"]},
        _TEXT,
        _INTEGER,
        {"type": "number", "not": {"type": "integer"}},
        {"type": "array", "items": _ANY},
        {"type": "object", "additionalProperties": _ANY, **_KEYS},
    ],
}


def _storable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema, without what no body may hold."""
    if not schema.keys() - {"default"}:
        return {**_ANY, **schema}
    if "anyOf" in schema:
        return {**schema, "anyOf": [_storable(option) for option in schema["anyOf"]]}
    match schema.get("type"):
        case "string" if "enum" not in schema and "format" not in schema:
            return {**_TEXT, **schema}
        case "integer":
            return {**_INTEGER, **schema}
        case "array":
            return {**schema, "items": _storable(schema.get("items", {}))}
        case "object" if "properties" not in schema:
            names = {"propertyNames": _KEYS["propertyNames"] | schema.get("propertyNames", {})}
            return {**schema, "additionalProperties": _storable(schema.get("additionalProperties", {})), **names}
    return dict(schema)
