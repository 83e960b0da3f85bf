"""A small disk of its own for a test: a tmpfs in a user namespace, which a server inside and the test outside can use.

Nothing outside the namespace is mounted or changed, and all of it is gone with the process that holds it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE

import pytest

_MOUNT = 'mount -t tmpfs -o "$1" none "$2" && chmod 700 "$2" && echo mounted && exec cat'
_PROBE = ("unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt")


def needs_namespaces() -> None:
    """Skip the test where a user may not mount anything, not even for himself."""
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        pytest.skip("unshare and nsenter (util-linux) are not here")
    if subprocess.run(_PROBE, capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("this system lets nobody mount in a user namespace")


class SmallDisk:
    """The disk, mounted at ``folder/data`` for whoever is run by ``within``."""

    def __init__(self, folder: Path, holder: "subprocess.Popen[str]") -> None:
        self._holder = holder
        #: What runs another command where the disk is mounted.
        self.within = ("nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials", f"--wd={folder}")
        #: Where the test finds it.
        self.path = Path(f"/proc/{holder.pid}/root{folder}/data")

    @property
    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all room but so many bytes; more of it if that has been done before."""
        descriptor = os.open(self.path / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            while (wanted := self.free - leave) > 0:
                with suppress(OSError):  # the server took some of it meanwhile: there is less to take
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, wanted)
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Give it back."""
        (self.path / "filler").unlink()

    def run(self, *command: str) -> None:
        """Run a command where it is mounted."""
        subprocess.run([*self.within, *command], check=True, timeout=10)


@contextmanager
def open_small_disk(folder: Path, options: str) -> Iterator[SmallDisk]:
    """Mount a tmpfs with these options (``size=16m``) at ``folder/data``."""
    needs_namespaces()
    data = folder / "data"
    data.mkdir()
    command = ["unshare", "-Urm", "sh", "-c", _MOUNT, "sh", options, str(data)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == "mounted\n"
        try:
            yield SmallDisk(folder, holder)
        finally:
            holder.stdin.close()  # ``cat`` ends, and the namespace with it
