"""What the watchdog writes down: a page in the run's workdir."""

from typing import Any

from aura import Context, action

from .machine import Disk, Load, Memory

NAME = "report.md"


@action
def write_report(
    ctx: Context, disk: Disk, memory: Memory, load: Load, because: dict[str, Any] | None
) -> dict[str, Any]:
    """Write how the machine stands, and why somebody asks; the same as data."""
    why = because["name"] if because else "asked for by hand"
    lines = [
        "# This machine is in trouble" if because else "# How this machine stands",
        "",
        f"Because of: {why}",
        "",
        "| what | there is | left | of a hundred |",
        "|---|---|---|---|",
        _row(f"disk at {disk['path']}", disk["total_bytes"], disk["free_bytes"], disk["free_percent"]),
        _row("memory", memory["total_bytes"], memory["available_bytes"], memory["available_percent"]),
        "",
        f"Load: {load['load']} on {load['cores']} cores, {load['per_core']} for each.",
    ]
    (ctx.workdir / NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    ctx.log.warning(f"report written because of {why}")
    return {"because": why, "disk": disk, "memory": memory, "load": load, "file": NAME}


def _row(what: str, total: int, left: int, percent: float) -> str:
    return f"| {what} | {_size(total)} | {_size(left)} | {percent} |"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
