"""One reading of a plans folder: the content of every file that a plan is made of, read once and never again.

What is checked, hashed and imported is this snapshot, so that all three see the same bytes whatever happens to the
folder meanwhile. Only regular files are read, at most 1 MiB each and 2,000 in a plan; a link that leads out of the
plans folder is not followed; what cannot be read is a problem of its plan and of nobody else.

The plan's own tests are no part of what is served, and not of its hash. They are read too where plan.yaml may ask for
them (``reload.gate``), so that what is tested is the same snapshot.

A *look* is the same without reading: a stamp of every file that a reading would read, tests included, and which folders
they lie in. Two looks that are equal saw the same content.
"""

import grp
import hashlib
import itertools
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from aura.errors import ConfigError, ExitCode, Problem
from aura.loading.yamlfile import MAX_BYTES

MAX_FILES = 2000
MAX_LEVELS = 16
#: YAML files at the top of a plan; everything else in YAML is a task.
TOP_FILES = ("plan.yaml", "schedule.yaml", "interrupts.yaml")
#: The folder of a plan's own tests; every file in it may be needed by one.
TESTS = "tests"
_YAML = (".yaml", ".yml")


class Snapshot(msgspec.Struct, frozen=True):
    """The files of one plan by their path below its folder, and what could not be read.

    ``hash`` is the SHA-256 of names and contents, in hex. ``directory`` is the absolute path of the plan's folder.
    ``tests`` are the files of its tests, with a hash of their own; there are none if plan.yaml does not ask for them.
    """

    name: str
    directory: str
    files: Mapping[str, bytes]
    hash: str
    problems: tuple[Problem, ...] = ()
    tests: Mapping[str, bytes] = {}
    tests_hash: str = ""


#: Device, inode, size, and the times of the last change of content and of anything, in nanoseconds.
Stamp = tuple[int, int, int, int, int]


class Look(msgspec.Struct, frozen=True):
    """What a plan's files are like: the stamp of each by path, None where it cannot be had, and their folders.

    ``folders`` has the device and the inode of each folder that was listed, with an absolute path to it.
    """

    stamps: Mapping[str, Stamp | None]
    folders: Mapping[tuple[int, int], str]


def read_folder(root: Path, *, guarded: bool = False) -> list[Snapshot]:
    """Read all plans of a folder, in the order of their names. A folder in it is a plan, unless its name is hidden.

    ``guarded``: what somebody else may write to is a problem of its plan, as in ``check_folder_safe``.

    Raises:
        ConfigError: the plans folder itself is not there or cannot be read.
    """
    return [read_plan(root, name, guarded=guarded) for name in plan_names(root)]


def read_plan(root: Path, name: str, *, guarded: bool = False) -> Snapshot:
    """Read one plan of a folder, as ``read_folder`` does."""
    return _PlanReader(Path(os.path.abspath(root)), name, guarded=guarded).read()


def look_at_plan(root: Path, name: str) -> Look:
    """Look at one plan of a folder."""
    return _PlanReader(Path(os.path.abspath(root)), name).look()


def plan_names(root: Path) -> list[str]:
    """The names of a folder's plans, in their order. Raises as ``read_folder`` does."""
    root = Path(os.path.abspath(root))
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if _may_be_plan(entry))
    except OSError as error:
        message = f"the plans folder {root} cannot be read: {error.strerror}; make it, or name another with --plans"
        raise ConfigError(message) from None


def is_test_file(name: str) -> bool:
    """Say whether pytest looks for tests in a file of that name, unless its settings say otherwise."""
    return name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))


def has_test_file(plan: Path) -> bool:
    """Whether a plan, given by its folder, has tests of its own."""
    return any(is_test_file(path.name) for path in (plan / TESTS).rglob("*.py"))


def _may_be_plan(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith((".", "__")):
        return False
    try:
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True  # such as a loop of links: reading it will say so


def content_hash(files: Mapping[str, bytes]) -> str:
    """Give the SHA-256 of names and contents, in hex."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode("utf-8", "surrogateescape"))
        digest.update(files[name])
    return digest.hexdigest()


class _PlanReader:
    """Reads one plan's folder, or looks at it."""

    def __init__(self, root: Path, name: str, *, guarded: bool = False) -> None:
        self._root = os.path.realpath(root)
        self._folder = root / name
        self._name = name
        self._guarded = guarded
        self._folders: dict[tuple[int, int], str] = {}
        self._problems: list[Problem] = []

    def read(self) -> Snapshot:
        files = self._read_files(self._paths)
        tests = self._read_files(self._test_paths) if _may_ask_for_tests(files) else {}
        problems = tuple(self._problems)
        hash, tests_hash = content_hash(files), content_hash(tests)
        return Snapshot(self._name, str(self._folder), files, hash, problems, tests, tests_hash)

    def _read_files(self, paths: Callable[[], Iterator[str]]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        try:
            for path in paths():
                if len(files) >= MAX_FILES:
                    self._problem(path, f"the plan has more than {MAX_FILES} files")
                    break
                content = self._read_file(path)
                if content is not None:
                    files[path] = content
        except OSError as error:
            self._problem("", f"the folder cannot be read: {error.strerror}")
        return dict(sorted(files.items()))

    def look(self) -> Look:
        stamps: dict[str, Stamp | None] = {}
        with suppress(OSError):  # it is gone, or is no folder: there is nothing to be seen in it
            for path in itertools.islice(itertools.chain(self._paths(), self._test_paths()), 2 * MAX_FILES + 1):
                stamps[path] = _stamp(str(self._folder / path))
        return Look(stamps, self._folders)

    def _problem(self, path: str, message: str) -> None:
        shown = f"{self._name}/{path}".rstrip("/").encode("utf-8", "replace").decode()
        self._problems.append(Problem(shown, 1, 1, message))

    def _paths(self) -> Iterator[str]:
        """The files that make up the plan: YAML at the top and in tasks, Python where it can be imported."""
        for entry in self._entries(""):
            name = entry.name
            if name.endswith((*_YAML, ".py")) and not _is_folder(entry):
                yield name
            elif name == "tasks":
                yield from self._walk(name, _YAML, 1)
            elif name == "actions" or (name != TESTS and _is_package(entry)):
                yield from self._walk(name, (".py",), 1)

    def _test_paths(self) -> Iterator[str]:
        """The files of the plan's own tests, whatever they are."""
        if os.path.isdir(self._folder / TESTS):
            yield from self._walk(TESTS, "", 1)

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        folder = self._folder / path
        if not self._inside(str(folder)):
            self._problem(path, "this link leads out of the plans folder and is not followed")
            return []
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__pycache__"]
        status = os.stat(folder)
        self._folders[status.st_dev, status.st_ino] = str(folder)
        self._guard(path, status)
        return sorted(visible, key=lambda entry: entry.name)

    def _walk(self, path: str, suffixes: str | tuple[str, ...], level: int) -> Iterator[str]:
        if level > MAX_LEVELS:
            self._problem(path, f"folders nest deeper than {MAX_LEVELS} levels here; is this a loop of links?")
            return
        try:
            entries = self._entries(path)
        except OSError as error:
            self._problem(path, f"the folder cannot be read: {error.strerror}")
            return
        for entry in entries:
            inner = f"{path}/{entry.name}"
            if _is_folder(entry):
                yield from self._walk(inner, suffixes, level + 1)
            elif entry.name.endswith(suffixes):
                yield inner

    def _inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self._root or real.startswith(self._root + os.sep)

    def _read_file(self, path: str) -> bytes | None:
        full = str(self._folder / path)
        if not self._inside(full):
            self._problem(path, "this link leads out of the plans folder and is not followed")
            return None
        try:
            content, status = _read_regular(os.path.realpath(full, strict=True))
            self._guard(path, status)
            return content
        except OSError as error:
            self._problem(path, f"the file cannot be read: {error.strerror}")
        except _NotRegular as error:
            self._problem(path, str(error))
        return None

    def _guard(self, path: str, status: os.stat_result) -> None:
        if self._guarded and (why := _unsafe(str(self._folder / path).rstrip("/"), status)):
            self._problem(path, why)


def _may_ask_for_tests(files: Mapping[str, bytes]) -> bool:
    """Whether plan.yaml may say ``gate``; it is not parsed for this, and most plans' tests are never read."""
    return b"gate" in files.get("plan.yaml", b"")


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_package(entry: os.DirEntry[str]) -> bool:
    return _is_folder(entry) and os.path.exists(os.path.join(entry.path, "__init__.py"))


class _NotRegular(Exception):
    """What has a plan file's name is something else than a plan file can be."""


def _read_regular(path: str) -> tuple[bytes, os.stat_result]:
    """Read a file that is looked at only after it was opened; without O_NONBLOCK opening a FIFO would wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _NotRegular("this is not a regular file; it is not read")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _NotRegular(f"the file is larger than {MAX_BYTES // 1024} KiB")
    return content, status


def check_folder_safe(root: Path) -> None:
    """Refuse a plans folder that somebody else may write to: who can write plans can run code as this user.

    The folder and its parents must belong to this user or to root, and nobody else may write to them; a sticky parent,
    such as /tmp, is allowed, since nobody can rename what is not theirs in it. The files in it are checked alike.

    Raises:
        ConfigError: it is not safe, with exit code 78, or it is not there.
    """
    check_root_safe(root)
    path = os.path.realpath(root)
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *(file for file in files if file.endswith((*_YAML, ".py")))):
            _check_owner_and_mode(os.path.join(folder, name), sticky_allowed=False)


def check_root_safe(root: Path) -> None:
    """The same for the folder itself and its parents, without what is in it. Raises as ``check_folder_safe`` does."""
    path = os.path.realpath(root)
    if not os.path.isdir(path):
        raise ConfigError(f"the plans folder {root} is not there; make it, or name another with --plans")
    _check_owner_and_mode(path, sticky_allowed=False)
    for parent in Path(path).parents:
        _check_owner_and_mode(str(parent), sticky_allowed=True)


def _check_owner_and_mode(path: str, *, sticky_allowed: bool) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return  # gone since the folder was listed
    if stat.S_ISLNK(status.st_mode):
        return  # a link has no mode of its own, and one that leads out is not followed
    if why := _unsafe(path, status, sticky_allowed=sticky_allowed):
        raise ConfigError(why, ExitCode.UNSAFE)


def _unsafe(path: str, status: os.stat_result, *, sticky_allowed: bool = False) -> str | None:
    """Say why somebody else may write to what has this status, or None."""
    if status.st_uid not in (0, os.geteuid()):
        message = f"{path} belongs to another user (uid {status.st_uid}), who could change what runs here"
        return f"{message}; plans must belong to the user who runs them"
    if sticky_allowed and status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH:
        return f"{path} can be written by everybody; `chmod go-w {path}`"
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
        return f"{path} can be written by its group; `chmod g-w {path}`"
    return None


def _is_private_group(gid: int) -> bool:
    """Say whether a group is this user's own: named like the user, with nobody else in it.

    Systems that give each user such a group create files writable by it, so every clone of a repository has them.
    """
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return user.pw_uid != 0 and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
