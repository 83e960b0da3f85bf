"""Walks a folder without following links: each entry once, in a fixed order, whatever changes meanwhile."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """One entry. ``name`` is its path below the root, which is itself ``.``; ``problem`` says why it cannot be read."""

    name: str
    status: os.stat_result | None
    problem: str | None = None


def walk(root: Path) -> Iterator[Found]:
    """Give all entries below a folder, each folder before what is in it. What went meanwhile is given as a problem."""
    todo = ["."]
    while todo:
        name = todo.pop()
        found = _look(root, name)
        if found.status is not None and stat.S_ISDIR(found.status.st_mode):
            try:
                inside = sorted(os.listdir(root / name), reverse=True)
            except OSError as error:
                found = Found(name, None, reason(error))
            else:
                todo.extend(inner if name == "." else f"{name}/{inner}" for inner in inside)
        yield found


def _look(root: Path, name: str) -> Found:
    try:
        return Found(name, os.lstat(root / name))
    except OSError as error:
        return Found(name, None, reason(error))


def reason(error: OSError) -> str:
    """Say in a few words why something could not be read."""
    return "not there any more" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
