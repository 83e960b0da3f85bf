"""One reading of a plans folder: the content of every file that a plan is made of, read once and never again.

What is checked, hashed and imported is this snapshot, so that all three see the same bytes whatever happens to the
folder meanwhile. Only regular files are read, at most 1 MiB each and 2,000 in a plan; a link that leads out of the
plans folder is not followed; what cannot be read is a problem of its plan and of nobody else.
"""

import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from aura.errors import ConfigError, ExitCode, Problem
from aura.loading.yamlfile import MAX_BYTES

MAX_FILES = 2000
MAX_LEVELS = 16
#: YAML files at the top of a plan; everything else in YAML is a task.
TOP_FILES = ("plan.yaml", "schedule.yaml", "interrupts.yaml")
_YAML = (".yaml", ".yml")


class Snapshot(msgspec.Struct, frozen=True):
    """The files of one plan by their path below its folder, and what could not be read.

    ``hash`` is the SHA-256 of names and contents, in hex. ``directory`` is the absolute path of the plan's folder.
    """

    name: str
    directory: str
    files: Mapping[str, bytes]
    hash: str
    problems: tuple[Problem, ...] = ()


def read_folder(root: Path) -> list[Snapshot]:
    """Read all plans of a folder, in the order of their names. A folder in it is a plan, unless its name is hidden.

    Raises:
        ConfigError: the plans folder itself is not there or cannot be read.
    """
    root = Path(os.path.abspath(root))
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        message = f"the plans folder {root} cannot be read: {error.strerror}; make it, or name another with --plans"
        raise ConfigError(message) from None
    return [_PlanReader(root, entry.name).read() for entry in entries if _may_be_plan(entry)]


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
    """Reads one plan's folder."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = os.path.realpath(root)
        self._folder = root / name
        self._name = name
        self._files: dict[str, bytes] = {}
        self._problems: list[Problem] = []

    def read(self) -> Snapshot:
        try:
            for path in self._paths():
                if len(self._files) >= MAX_FILES:
                    self._problem(path, f"the plan has more than {MAX_FILES} files")
                    break
                self._read_file(path)
        except OSError as error:
            self._problem("", f"the folder cannot be read: {error.strerror}")
        files = dict(sorted(self._files.items()))
        return Snapshot(self._name, str(self._folder), files, content_hash(files), tuple(self._problems))

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
            elif name == "actions" or (name != "tests" and _is_package(entry)):
                yield from self._walk(name, (".py",), 1)

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        folder = self._folder / path
        if not self._inside(str(folder)):
            self._problem(path, "this link leads out of the plans folder and is not followed")
            return []
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__pycache__"]
        return sorted(visible, key=lambda entry: entry.name)

    def _walk(self, path: str, suffixes: tuple[str, ...], level: int) -> Iterator[str]:
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

    def _read_file(self, path: str) -> None:
        full = str(self._folder / path)
        if not self._inside(full):
            self._problem(path, "this link leads out of the plans folder and is not followed")
            return
        try:
            self._files[path] = _read_regular(os.path.realpath(full, strict=True))
        except OSError as error:
            self._problem(path, f"the file cannot be read: {error.strerror}")
        except _NotRegular as error:
            self._problem(path, str(error))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_package(entry: os.DirEntry[str]) -> bool:
    return _is_folder(entry) and os.path.exists(os.path.join(entry.path, "__init__.py"))


class _NotRegular(Exception):
    """What has a plan file's name is something else than a plan file can be."""


def _read_regular(path: str) -> bytes:
    """Read a file that is looked at only after it was opened; without O_NONBLOCK opening a FIFO would wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _NotRegular("this is not a regular file; it is not read")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _NotRegular(f"the file is larger than {MAX_BYTES // 1024} KiB")
    return content


def check_folder_safe(root: Path) -> None:
    """Refuse a plans folder that somebody else may write to: who can write plans can run code as this user.

    The folder and its parents must belong to this user or to root, and nobody else may write to them; a sticky parent,
    such as /tmp, is allowed, since nobody can rename what is not theirs in it. The files in it are checked alike.

    Raises:
        ConfigError: it is not safe, with exit code 78, or it is not there.
    """
    path = os.path.realpath(root)
    if not os.path.isdir(path):
        raise ConfigError(f"the plans folder {root} is not there; make it, or name another with --plans")
    _check_owner_and_mode(path, sticky_allowed=False)
    for parent in Path(path).parents:
        _check_owner_and_mode(str(parent), sticky_allowed=True)
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *(file for file in files if file.endswith((*_YAML, ".py")))):
            _check_owner_and_mode(os.path.join(folder, name), sticky_allowed=False)


def _check_owner_and_mode(path: str, *, sticky_allowed: bool) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return  # gone since the folder was listed
    if stat.S_ISLNK(status.st_mode):
        return  # a link has no mode of its own, and one that leads out is not followed
    if status.st_uid not in (0, os.geteuid()):
        message = f"{path} belongs to another user (uid {status.st_uid}), who could change what runs here"
        raise ConfigError(f"{message}; plans must belong to the user who runs them", ExitCode.UNSAFE)
    if sticky_allowed and status.st_mode & stat.S_ISVTX:
        return
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{path} can be written by everybody; `chmod go-w {path}`", ExitCode.UNSAFE)
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
        raise ConfigError(f"{path} can be written by its group; `chmod g-w {path}`", ExitCode.UNSAFE)


def _is_private_group(gid: int) -> bool:
    """Say whether a group is this user's own: named like the user, with nobody else in it.

    Systems that give each user such a group create files writable by it, so every clone of a repository has them.
    """
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return user.pw_uid != 0 and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
