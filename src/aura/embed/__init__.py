"""Aura inside another program, without a process of its own: what ``docs/reference/embed.md`` describes.

``open_server`` runs a server in the event loop that is there (``hosted``), ``start`` in a thread of its own
(``portal``). Only the names are here.
"""

from aura.embed.hosted import EmbeddedServer, open_server
from aura.embed.portal import BlockingServer, start

__all__ = ["BlockingServer", "EmbeddedServer", "open_server", "start"]
