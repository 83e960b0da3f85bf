"""The report: what was found, as Markdown that shows names as they are, whatever is in them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aura import action

Json = Mapping[str, Any]
_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass
class Report:
    """The report's text, the parts that are not in it, and the mounts whose sizes are unknown."""

    text: str
    missing: list[str]
    unread_mounts: list[str]


@action
async def render(found: dict[str, Any], failed: dict[str, Any], at: str) -> Report:
    """Write the report; ``found`` is by part, and ``failed`` has the error of each that is null there."""
    host = (found.get("system") or {}).get("host") or "this machine"
    parts = [f"# Inventory of {escaped(host)}", f"Taken at {escaped(at)}."]
    missing = [part for part in _PARTS if found.get(part) is None]
    for part, (title, write) in _PARTS.items():
        parts.append(f"## {title}")
        value = found.get(part)
        parts.append(_absent(failed.get(part)) if value is None else write(value))
    unread = [mount["path"] for mount in found.get("mounts") or [] if mount["problem"]]
    return Report("\n\n".join(parts) + "\n", missing, unread)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; a column whose head begins with ``>`` is aligned to the right. Without rows, a line that says so."""
    if not rows:
        return "None found."
    rule = ["---:" if title.startswith(">") else "---" for title in head]
    lines = [[escaped(title.lstrip(">")) for title in head], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(value: Any) -> str:
    """Text for a cell: on one line, and nothing in it is taken for Markdown or HTML."""
    text = "".join(c if c.isprintable() else " " for c in str("" if value is None else value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def size(number: int | None) -> str:
    """Bytes for people: ``512 B``, ``1.5 GiB``."""
    if number is None:
        return ""
    value, unit = float(number), 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{number} B"


def span(seconds: float) -> str:
    """A time for people: ``3 d 04 h 05 min``."""
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours:02} h {minutes % 60:02} min" if days else f"{hours} h {minutes % 60:02} min"


def share(part: int | None, whole: int | None) -> str:
    """A part of a whole in per cent; empty of nothing."""
    return f"{100 * part / whole:.0f} %" if part is not None and whole else ""


def _absent(error: Json | None) -> str:
    said = f"{error.get('type')}: {error.get('message')}" if error else "nothing was found"
    return f"Could not be read: {escaped(said)}"


def _system(it: Json) -> str:
    rows = [("Name", it["host"]), ("System", it["name"]), ("Kernel", f"{it['kernel']} ({it['architecture']})")]
    return table(("", ""), [*rows, ("Up for", span(it["uptime_s"]))])


def _cores(it: Json) -> str:
    load = " ".join(f"{number:.2f}" for number in it["load"])
    counts = [(what.title(), it[what]) for what in ("sockets", "cores", "threads")]
    rows = [("Model", it["model"]), *counts, ("Usable by Aura", it["usable"]), ("Load (1, 5, 15 min)", load)]
    return table(("", ""), rows)


def _memory(it: Json) -> str:
    used, swapped = it["total"] - it["available"], it["swap_total"] - it["swap_free"]
    rows = [
        ("Memory", size(it["total"]), size(used), size(it["available"]), share(used, it["total"])),
        ("Swap", size(it["swap_total"]), size(swapped), size(it["swap_free"]), share(swapped, it["swap_total"])),
    ]
    return table(("", ">Total", ">Used", ">Available", ">Full"), rows)


def _disks(them: Sequence[Json]) -> str:
    kinds = {True: "rotating", False: "solid state", None: "unknown"}
    rows = [(it["name"], it["model"], size(it["bytes"]), kinds[it["rotational"]], _yes(it["removable"])) for it in them]
    return table(("Disk", "Model", ">Size", "Kind", "Removable"), rows)


def _mounts(them: Sequence[Json]) -> str:
    rows = [
        (it["path"], it["source"], it["kind"], *map(size, (it["total"], it["used"], it["free"])), *_note(it))
        for it in them
    ]
    return table(("Mount", "Source", "Kind", ">Size", ">Used", ">Free", ">Full", "Note"), rows)


def _note(it: Json) -> tuple[str, str]:
    return share(it["used"], it["total"]), it["problem"] or ("read-only" if it["read_only"] else "")


def _processes(it: Json) -> str:
    def rows(them: Sequence[Json]) -> list[Sequence[Any]]:
        return [(p["pid"], p["name"], p["state"], size(p["memory"]), f"{p['cpu_s']:.1f} s") for p in them]

    head = (">PID", "Name", "State", ">Memory", ">Processor time")
    by_memory, by_cpu = table(head, rows(it["by_memory"])), table(head, rows(it["by_cpu"]))
    return f"{it['count']} in all. By memory:\n\n{by_memory}\n\nBy processor time:\n\n{by_cpu}"


def _interfaces(them: Sequence[Json]) -> str:
    rows = [
        (it["name"], it["state"], it["address"], it["mtu"], it["speed_mbit"], size(it["received"]), size(it["sent"]))
        for it in them
    ]
    return table(("Interface", "State", "Address", ">MTU", ">Mbit/s", ">Received", ">Sent"), rows)


def _yes(value: bool) -> str:
    return "yes" if value else ""


_PARTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "system": ("System", _system),
    "cores": ("Cores", _cores),
    "memory": ("Memory", _memory),
    "disks": ("Disks", _disks),
    "mounts": ("Mounts", _mounts),
    "processes": ("Processes", _processes),
    "interfaces": ("Network interfaces", _interfaces),
}
