"""Removes the oldest archives of a name."""

from contextlib import suppress
from pathlib import Path

from anyio import to_thread

from aura import Context, action

from .naming import CHECKSUM, archives_of, name_of


@action
async def prune(ctx: Context, archive: str, keep: int) -> list[str]:
    """Keep this archive and the latest others of its name, `keep` in all; give the names of those removed."""
    removed = await to_thread.run_sync(remove_old, Path(archive), keep)
    for name in removed:
        ctx.log.info(f"removed {name}")
    return removed


def remove_old(archive: Path, keep: int) -> list[str]:
    """Remove archives and their checksums, the oldest first."""
    others = [path for path in archives_of(archive.parent, name_of(archive)) if path != archive]
    old = others[: max(0, len(others) - (keep - 1))]
    for path in old:
        path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            path.with_name(path.name + CHECKSUM).unlink()
    return [path.name for path in old]
