"""The metrics, for Prometheus."""

from starlette.responses import Response

from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, Media


async def metrics(call: Call) -> Response:
    """Show what the server has counted and measured since it started, as Prometheus reads it."""
    accept = call.headers.get(b"accept", b"").decode("latin-1")
    shown = call.door.metrics.expose(accept)
    return Response(shown.text, headers={"content-type": shown.content_type})


METRICS = Media("text/plain", "the metrics in the text format of Prometheus, or as OpenMetrics")
ROUTES = [ApiRoute("GET", "/metrics", metrics, Access.READ, answers={200: METRICS})]
