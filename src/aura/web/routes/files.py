"""What is in the workdir of a run: the list, and each file's bytes."""

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import anyio.to_thread
from starlette.responses import Response

from aura import api
from aura.clock import utc
from aura.errors import RequestError
from aura.runs.workfiles import OpenFile, WorkFile, list_files, open_file
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, Media, json_response
from aura.web.download import OCTETS, limiter, send_file, wanted_part
from aura.web.ids import known_form
from aura.web.query import PageQuery, make_cursor

BYTES = Media(OCTETS, "the bytes of the file")


async def list_run_files(call: Call) -> Response:
    """List what is in a run's workdir, by path."""
    query = call.query(PageQuery)
    workdir = await _workdir(call)
    after = os.fsdecode(unquote_to_bytes(query.position("files") or ""))
    page = await anyio.to_thread.run_sync(list_files, workdir, after, query.limit, limiter=limiter())
    cursor = None if page.last is None else make_cursor("files", quote_from_bytes(os.fsencode(page.last)))
    return json_response(api.Page(items=[_shape(file) for file in page.files], next_cursor=cursor))


def _shape(file: WorkFile) -> api.RunFile:
    path = os.fsencode(file.path).decode(errors="replace")
    return api.RunFile(path=path, bytes=file.bytes, modified_at=utc(file.modified))


async def get_run_file(call: Call) -> None:
    """Give the bytes of one file of a run's workdir; ``Range`` asks for a part of them."""
    workdir = await _workdir(call)
    file = await _opened(workdir, call.path["path"])
    try:
        asked = None if call.is_head else call.headers.get(b"range")
        part = wanted_part(asked, call.headers.get(b"if-range"), file)
        name = call.path["path"].rpartition("/")[2]
        await send_file(file, name, part, call.receive, call.send, head_only=call.is_head)
    finally:
        os.close(file.handle)


async def _workdir(call: Call) -> Path:
    cid = known_form(call.path["cid"])
    await call.engine.history.get_run(cid)
    return call.engine.workdirs / cid


async def _opened(workdir: Path, path: str) -> OpenFile:
    try:
        return await anyio.to_thread.run_sync(open_file, workdir, path, limiter=limiter())
    except FileNotFoundError as error:
        raise RequestError("unknown_file", f"the run has no file {path[:200]!r}: {error}") from None


ROUTES = [
    ApiRoute(
        "GET",
        "/api/runs/{cid}/files",
        list_run_files,
        Access.READ,
        query=PageQuery,
        answers={200: api.Page[api.RunFile]},
    ),
    ApiRoute(
        "GET",
        "/api/runs/{cid}/files/{path:path}",
        get_run_file,
        Access.READ,
        answers={200: BYTES, 206: BYTES},
        headers=["Range", "If-Range"],
    ),
]
