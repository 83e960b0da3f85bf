"""How a run is named on the command line: its whole id, the beginning or the end of it, or ``@last``."""

from itertools import chain, islice
from typing import TYPE_CHECKING

from aura.cli.output import short_cid
from aura.errors import UnknownRun

if TYPE_CHECKING:
    from aura.client import Client

LAST = "@last"
CID_LENGTH = 36
#: How many runs are asked for at a time, to find the last one that is no part of another.
LAST_PAGE = 20
#: How many of the newest runs a shortened id is sought among.
SOUGHT = 5000


def find_cid(client: "Client", text: str) -> str:
    """The id that ``text`` stands for. A whole one is not looked up: the server knows whether there is such a run.

    Raises:
        UnknownRun: no run fits, or more than one does.
    """
    if text == LAST:
        return _last(client)
    if len(text) >= CID_LENGTH:
        return text
    wanted = text.lower()
    runs = chain(client.active_runs(), islice(client.runs(page_size=1000), SOUGHT))
    found = sorted({run.cid for run in runs if _fits(run.cid, wanted)})
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(map(short_cid, found[:4]))
        raise UnknownRun(f"{text!r} fits {len(found)} runs, such as {some}; say more of the id")
    raise UnknownRun(f"no run's id begins or ends with {text!r} among the newest {SOUGHT}; `aura runs` lists them")


def _fits(cid: str, wanted: str) -> bool:
    return bool(wanted) and (cid.startswith(wanted) or cid.endswith(wanted))


def _last(client: "Client") -> str:
    for run in client.runs(page_size=LAST_PAGE):
        if run.parent_cid is None:
            return run.cid
    raise UnknownRun("there is no run yet; start one with `aura run PLAN/TASK`")
