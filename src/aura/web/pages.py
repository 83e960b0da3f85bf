"""Aura's own pages: one HTML file each in ``html/``, with its script and style inside, and nothing from elsewhere.

A page holds no data: what it shows it asks the API for, with the session of whoever looks at it. Its Content Security
Policy allows exactly the script and the style that are in the file, by their hashes (CSP Level 3, section 6.7.3), and
requests to this server; nothing that data brings in can run.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response

from aura.web.call import Media

#: What a route says that it answers with.
HTML = Media("text/html", "a page")
_BLOCK = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def page(name: str) -> Response:
    """The answer that shows a page; ``name`` is that of a file in ``html/`` without its ending."""
    content, policy = _read(name)
    return Response(content, headers={"Content-Security-Policy": policy}, media_type="text/html")


@cache
def _read(name: str) -> tuple[bytes, str]:
    text = files("aura.web").joinpath("html", f"{name}.html").read_text(encoding="utf-8")
    return text.encode(), policy_of(text)


def policy_of(text: str) -> str:
    """The policy under which a page's own script and style work, and nothing else."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, block in _BLOCK.findall(text):
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    allowed = [f"{kind}-src {' '.join(found)}" for kind, found in hashes.items() if found]
    closed = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return "; ".join([*closed, *allowed, "connect-src 'self'"])
