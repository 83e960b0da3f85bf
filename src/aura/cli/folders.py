"""What ``aura doctor`` looks at on the disk: the data folder and its lock, the plans folder.

Nothing is changed and nothing is locked: whether a server holds the folder is read from ``/proc/locks``.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aura.cli.findings import Finding, fail, ok, warn
from aura.errors import AuraError, ConfigError
from aura.settings import Settings
from aura.stores.disk import FolderDisk
from aura.stores.folder import LOCK_NAME, NETWORK, file_system
from aura.stores.space import MIN_FILES

if TYPE_CHECKING:
    from aura.plan import Plan

LOCKS = Path("/proc/locks")
#: Kinds of file systems that do not keep what is on them: when it is lost, and what to do.
PASSING = {
    "tmpfs": ("is lost at the next restart of this machine", "choose a folder on a disk with --data"),
    "ramfs": ("is lost at the next restart of this machine", "choose a folder on a disk with --data"),
    "overlay": ("is lost with the container that this is, if it is one", "put the data folder on a volume"),
}


def check_data(settings: Settings) -> Iterator[Finding]:
    """The data folder and what is in it."""
    folder = settings.data
    if not folder.exists():
        yield ok("data folder", f"{folder} is not there yet; the first `aura serve` makes it")
        return
    try:
        yield from _check_folder(folder)
        yield from _check_room(folder, settings.store.min_free)
    except OSError as error:
        yield fail("data folder", f"{folder}: {error.strerror}", "run this as the server's user")


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of a data folder; false where the system does not tell."""
    try:
        inode = str((folder / LOCK_NAME).stat().st_ino)
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return False
    found = [line.split() for line in lines if " FLOCK " in line]
    return any(fields[5].rpartition(":")[2] == inode for fields in found if len(fields) > 5)


def _check_folder(folder: Path) -> Iterator[Finding]:
    status, kind = folder.stat(), file_system(folder)
    if not stat.S_ISDIR(status.st_mode):
        yield fail("data folder", f"{folder} is no folder", "name another with --data")
        return
    if kind in NETWORK:
        yield fail("data folder", f"{folder} is on a network file system ({kind})", "choose a folder on a local disk")
    if kind in PASSING:
        when, advice = PASSING[kind]
        yield warn("data folder", f"{folder} is on {kind}, and so {when}", advice)
    if status.st_uid != os.geteuid():
        yield fail("data folder", f"{folder} belongs to uid {status.st_uid}", "run `aura` as that user, or move it")
    if status.st_mode & 0o077:
        yield warn("data folder", f"{folder} has mode {status.st_mode & 0o777:04o}", f"chmod 0700 {folder}")
    held = "a server holds it" if is_held(folder) else "no server holds it"
    yield ok("data folder", f"{folder} on {kind or 'a file system of an unknown kind'}, {held}")
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if (mode := file.stat().st_mode) & 0o077:
            yield warn("data folder", f"{file} has mode {mode & 0o777:04o}", f"chmod 0600 {file}")


def _check_room(folder: Path, least: int) -> Iterator[Finding]:
    free = FolderDisk(folder).free()
    detail = f"{free.bytes // 2**20} MiB free, at least {least // 2**20} MiB wanted (store.min_free)"
    advice = "make room; till then new work is refused"
    yield ok("disk", detail) if free.bytes >= least else fail("disk", detail, advice)
    if free.files is not None:
        detail = f"{free.files} more files can be made, at least {MIN_FILES} wanted"
        yield ok("disk", detail) if free.files >= MIN_FILES else fail("disk", detail, advice)


# -- the plans --------------------------------------------------------------------------------------------------------


def check_plans_folder(settings: Settings) -> Iterator[Finding]:
    """Who may write to the plans folder, and whether what is in it can be loaded."""
    from aura.builtin import shipped
    from aura.loading.loader import check_plans
    from aura.loading.snapshot import check_folder_safe

    try:
        check_folder_safe(settings.plans)
    except ConfigError as error:
        what, _, advice = str(error).partition("; ")
        yield fail("plans folder", what, advice)
        if not settings.plans.is_dir():
            return
    try:
        plans = check_plans(settings.plans, shipped(), settings.server.timezone, settings.resources)
    except (AuraError, OSError) as error:
        yield fail("plans folder", str(error), "see docs/reference/plan-files.md")
        return
    wrong = [plan.name for plan in plans if plan.problems]
    if wrong:
        yield warn(
            "plans", f"{len(wrong)} of {len(plans)} cannot be loaded: {', '.join(wrong)}", "`aura check` says why"
        )
    else:
        yield ok("plans", f"{len(plans)} in {settings.plans}, no problems")
    for checked in plans:
        yield from _check_secrets(checked.plan)


def _check_secrets(plan: "Plan | None") -> Iterator[Finding]:
    from aura.secrets import default_providers, secret_warnings

    if plan is not None:
        for warning in secret_warnings(default_providers(os.environ), plan):
            yield warn(f"plan {plan.name}", warning, "of the server's own environment `aura plans` knows more")
