"""The one place that answers with an error document, for everything that goes wrong: RFC 9457 problem documents.

A ``RequestError`` says itself what the client may know. Of anything else the client learns an error id and nothing
more; the log has the traceback under the same id.
"""

import math
import secrets
import traceback

import msgspec
from starlette.responses import Response

from aura.errors import RequestError, StoreError
from aura.journal import Journal
from aura.web.shapes import document

MEDIA_TYPE = "application/problem+json"


def problem(error: RequestError) -> Response:
    """The answer to a refused request, with the headers that belong to its status."""
    return Response(
        msgspec.json.encode(document(error)), status_code=error.status, headers=headers(error), media_type=MEDIA_TYPE
    )


def headers(error: RequestError) -> dict[str, str]:
    """The headers that belong to a refusal, content type and length apart."""
    found = {}
    if error.retry_after is not None:
        found["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        found["WWW-Authenticate"] = 'Bearer realm="aura"'
    if error.status == 405:
        found["Allow"] = ", ".join(error.extra.get("allow", ()))
    if "bytes" in error.extra:  # of a 416: how long the file is
        found["Content-Range"] = f"bytes */{error.extra['bytes']}"
    if error.status == 426:
        found |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    if error.code == "shutting_down":
        found["Connection"] = "close"
    return found


def unexpected(error: BaseException, journal: Journal, where: str) -> RequestError:
    """Log an error that nobody expected, with its traceback, and give what the client may know of it.

    ``where`` is the method and path of the request.
    """
    error_id = secrets.token_hex(8)
    trace = "".join(traceback.format_exception(error))
    journal.log("error", f"{where} failed", fields={"error_id": error_id, "exception": trace})
    if isinstance(error, StoreError):
        return RequestError(
            "storage_unavailable", f"the storage did not take part; see the log for error id {error_id}", retry_after=5
        )
    return RequestError("internal", f"an error in Aura; its log has the details under error id {error_id}")


def refusal(status: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body for what is refused before it is a request at all: bytes that are not HTTP/1.1."""
    code = {400: "bad_header", 431: "headers_too_large", 505: "bad_http_version"}.get(status, "bad_header")
    error = RequestError(code, _REFUSALS.get(status, "this is not a well-formed HTTP/1.1 request"))
    body = msgspec.json.encode(document(error))
    return [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))], body


_REFUSALS = {
    431: "the request line and the headers are larger than this server takes; send fewer or shorter ones",
    505: "HTTP/2 is not spoken here; use HTTP/1.1",
}
