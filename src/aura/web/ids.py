"""The form of run ids in paths: what cannot be one is refused without asking the store."""

import re

from aura.errors import RequestError

_CID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def known_form(cid: str) -> str:
    """Give a run id back if it has the form of one.

    Raises:
        RequestError: ``unknown_run``.
    """
    if not _CID.fullmatch(cid):
        raise RequestError("unknown_run", f"there is no run {cid[:64]!r}: that is not the form of a cid")
    return cid
