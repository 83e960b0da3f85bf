"""Typed clients of a running server: ``AsyncClient`` for programs on an event loop, ``Client`` for those that block.

Both have one method for each route and answer with the structs of ``aura.api``. Lists come page by page, streams go on
where they broke, and what is safe to ask twice is asked again when the connection is lost. ``docs/reference/client.md``
has examples.
"""

from aura.client.blocking import BlockingStream, Client
from aura.client.download import Download
from aura.client.pages import Pages
from aura.client.routes import AsyncClient
from aura.client.source import Source
from aura.client.streams import Record, Stream
from aura.client.target import Target, default_target, find_target, read_token
from aura.run import Request

__all__ = [
    "AsyncClient",
    "BlockingStream",
    "Client",
    "Download",
    "Pages",
    "Record",
    "Request",
    "Source",
    "Stream",
    "Target",
    "default_target",
    "find_target",
    "read_token",
]
