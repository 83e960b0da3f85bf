"""The interface described: as an OpenAPI document for programs, and as a page for people."""

from starlette.responses import Response

from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, Media, json_response
from aura.web.openapi import document
from aura.web.pages import HTML, page

OPENAPI = Media("application/json", "this document")


async def openapi(call: Call) -> Response:
    """Describe every route as OpenAPI 3.1."""
    return json_response(document(call.routes))


async def docs(_call: Call) -> Response:
    """Show the interface as a page to browse and to try; it loads nothing from outside."""
    return page("docs")


ROUTES = [
    ApiRoute("GET", "/openapi.json", openapi, Access.READ, answers={200: OPENAPI}),
    ApiRoute("GET", "/docs", docs, Access.OPEN, answers={200: HTML}),
]
