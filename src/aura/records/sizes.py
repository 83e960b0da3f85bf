"""How large the database is, and how far back it goes."""

from typing import NamedTuple

from aura.store import Execute


class Sizes(NamedTuple):
    """``bytes`` of the database, ``reusable_bytes`` of these in pages that wait to be used again.

    ``oldest_at``: when the oldest run that is kept was accepted, in Unix seconds. None is not known, or not there.
    """

    bytes: int | None
    reusable_bytes: int | None
    oldest_at: float | None


def read_sizes(execute: Execute) -> Sizes:
    """Look at the database; the write-ahead log is not part of it."""
    names = ("page_count", "page_size", "freelist_count")
    pages, page, free = (execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    oldest = execute("SELECT accepted_at FROM run ORDER BY seq LIMIT 1").fetchone()
    return Sizes(pages * page, free * page, oldest[0] if oldest else None)
