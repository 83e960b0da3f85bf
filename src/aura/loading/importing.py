"""A plan's Python imported from a snapshot into a private package of its own, one for each generation.

Theory of operation. ``sys.meta_path`` has one finder of ours; it knows the live packages by name, weakly. A package
(``_aura_plan_7_lab``) holds the sources of one generation; its modules are compiled from those bytes, never from the
folder, and never from or to a ``.pyc`` file. An import inside a function therefore finds, at any later time, the same
version as the function that makes it. File names in tracebacks carry the generation (``lab@3f2a91c04b7d/actions.py``)
and ``linecache`` has the source that really ran; ``__file__`` is the path in the plan's folder, for data files beside.

When the last reference to a package is gone (its generation is replaced and the last run on it has ended), its entries
in ``sys.modules`` and ``linecache`` go with it: they hold its modules, but nothing in them holds the package.

An import runs code of the plan's author, which may hang. It runs in a daemon thread, which neither the event loop nor
the end of the process waits for; when its time is over it is abandoned, and an exception is thrown into it
asynchronously, so that a loop in Python ends. What blocks in C for ever stays, blocked.
"""

import asyncio
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import linecache
import math
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Generic, TypeVar

from aura.errors import Problem

T = TypeVar("T")
#: What the names of plans' modules begin with.
PACKAGE = "_aura_plan_"
#: A file name of code and a line.
Place = tuple[str, int]


def code_of(plan_name: str) -> str:
    """What the file names of a plan's code begin with, whatever its version."""
    return f"{plan_name}@"


def is_plan_code(frame: FrameType) -> bool:
    """Whether a frame is in a module of a plan, whosever and of whatever version."""
    return str(frame.f_globals.get("__name__", "")).startswith(PACKAGE)


class ImportTimeout(Exception):
    """An import that took too long and was abandoned; ``stack`` is where it was, the innermost place last."""

    def __init__(self, message: str, stack: Sequence[Place] = ()) -> None:
        super().__init__(message)
        self.stack = stack


class Package:
    """The private package of one generation of one plan.

    ``code_prefix`` is what the file names of its code begin with.
    """

    _numbers = itertools.count(1)

    def __init__(self, plan_name: str, directory: str, generation: str, files: Mapping[str, bytes]) -> None:
        self.name = f"{PACKAGE}{next(self._numbers)}_{plan_name}"
        self.plan_name = plan_name
        self.directory = directory
        self.code_prefix = f"{code_of(plan_name)}{generation[:12]}/"
        self.sources = {path: source for path, source in files.items() if path.endswith(".py")}
        folders = {str(parent) for path in self.sources for parent in Path(path).parents}
        self._folders = folders - {"."} | {""}
        _FINDER.packages[self.name] = self
        self._forget = weakref.finalize(self, _forget, self.name, self.code_prefix)

    def close(self) -> None:
        """Take its modules out of ``sys.modules`` now, as otherwise happens with its last reference."""
        self._forget()

    def find(self, name: str) -> importlib.machinery.ModuleSpec | None:
        """Find a module of this package by its full name."""
        path = name.removeprefix(self.name).removeprefix(".").replace(".", "/")
        if path in self._folders:
            return self._spec(name, f"{path}/__init__.py".removeprefix("/"), is_package=True)
        if f"{path}.py" in self.sources:
            return self._spec(name, f"{path}.py", is_package=False)
        return None

    def _spec(self, name: str, path: str, *, is_package: bool) -> importlib.machinery.ModuleSpec | None:
        loader = _Loader(self.sources.get(path, b""), self.code_prefix + path, f"{self.directory}/{path}")
        return importlib.util.spec_from_loader(name, loader, is_package=is_package)

    def import_actions(self) -> list[ModuleType]:
        """Import every module in which actions are defined, ``actions.py`` or all of ``actions/``."""
        paths = [path for path in self.sources if path == "actions.py" or path.startswith("actions/")]
        names = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sorted(paths)]
        return [importlib.import_module(f"{self.name}.{name}") for name in names]

    def problem(self, error: BaseException) -> Problem:
        """Say what an import failed with, at the innermost line of the plan's own code."""
        file, line = self._place(error)
        if isinstance(error, ImportTimeout):
            message = f"the import hangs: {error}"
        elif isinstance(error, SystemExit):
            message = f"the import called sys.exit({error.code!r}); a module of a plan only defines things"
        else:
            message = f"the import failed: {_text_of(error)}"
        return Problem(file, line, 1, message + self._hint(error))

    def _place(self, error: BaseException) -> Place:
        stack = error.stack if isinstance(error, ImportTimeout) else _places(traceback.walk_tb(error.__traceback__))
        own = [place for place in stack if place[0].startswith(self.code_prefix)]
        if not own:
            return f"{self.plan_name}/actions", 1
        file, line = own[-1]
        return self.shown_file(file), line

    def shown_file(self, code_file: str) -> str:
        """The path below the plans folder of a file name in this package's code."""
        return f"{self.plan_name}/{code_file.removeprefix(self.code_prefix)}"

    def _hint(self, error: BaseException) -> str:
        if isinstance(error, ModuleNotFoundError) and error.name:
            wanted = error.name.partition(".")[0]
            if f"{wanted}.py" in self.sources or f"actions/{wanted}.py" in self.sources or wanted in self._folders:
                return "; imports inside a plan are relative, such as `from . import …`"
        return ""


def _places(frames: Iterable[tuple[FrameType, int]]) -> list[Place]:
    return [(frame.f_code.co_filename, line) for frame, line in frames]


def _text_of(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__


def _forget(name: str, code_prefix: str) -> None:
    for module in [m for m in list(sys.modules) if m == name or m.startswith(f"{name}.")]:
        sys.modules.pop(module, None)
    _FINDER.packages.pop(name, None)  # it may have been closed while references to it are left
    if any(package.code_prefix == code_prefix for package in _FINDER.packages.values()):
        return  # the same content has been loaded again since
    for file in [f for f in list(linecache.cache) if f.startswith(code_prefix)]:
        linecache.cache.pop(file, None)


class _Loader(importlib.abc.InspectLoader):
    """Runs one module from its source."""

    def __init__(self, source: bytes, file: str, path: str) -> None:
        self._source = source
        self._file = file
        self._path = path

    def get_source(self, _fullname: str) -> str:
        return importlib.util.decode_source(self._source)

    def get_code(self, _fullname: str) -> CodeType:
        return compile(self._source, self._file, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        text = self.get_source(module.__name__)
        # no time of change: never compared with a file on the disk
        linecache.cache[self._file] = (len(text), None, text.splitlines(keepends=True), self._file)
        module.__file__ = self._path
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102 - it is what importing means


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of live packages. Invariant: it holds no package alive."""

    def __init__(self) -> None:
        self.packages: weakref.WeakValueDictionary[str, Package] = weakref.WeakValueDictionary()

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package = self.packages.get(fullname.partition(".")[0])
        return package.find(fullname) if package else None


_FINDER = _Finder()
sys.meta_path.insert(0, _FINDER)


# -- a thread that may hang -------------------------------------------------------------------------------------------


class Outcome(Generic[T]):
    """What a call in a thread came to: a value, or an error of any kind, which is data here and is not raised."""

    __slots__ = ("error", "value")

    def __init__(self, value: T | None = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


#: What the calls that go on will come to.
_awaited: "weakref.WeakSet[asyncio.Future[Any]]" = weakref.WeakSet()


def is_awaited_on(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether somebody on a loop waits for such a call, which goes on; not for one that was abandoned."""
    if not _awaited:
        return False
    return any(done.get_loop() is loop and not done.done() for done in list(_awaited))  # a copy: loops share it


class Abandonable(Generic[T]):
    """A call in a daemon thread, which begins when this is made, and is given up ``timeout`` seconds later.

    ``cut``: it is code that may run for ever, so an exception is thrown into it when it is given up; code of ours ends
    by itself. No child waits for it but whoever calls ``wait``; it may be waited for again.
    """

    def __init__(self, function: Callable[[], T], timeout: float, name: str, *, cut: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._done: asyncio.Future[Outcome[T]] = loop.create_future()
        self._timeout, self._until, self._cut = timeout, loop.time() + timeout, cut
        self._thread = threading.Thread(target=_call, args=(function, loop, self._done), name=name, daemon=True)
        self._thread.start()
        _awaited.add(self._done)

    async def wait(self, seconds: float = math.inf) -> Outcome[T] | None:
        """Give what it came to; None if it still has time, and has not ended ``seconds`` from now.

        The error of what took longer than its time is ``ImportTimeout``. **Cancellation** ends the waiting alone.
        """
        left = max(0.0, self._until - self._loop.time())
        await asyncio.wait((self._done,), timeout=min(left, seconds))
        if self._done.done():
            return self._done.result()
        if seconds < left:
            return None
        frame = sys._current_frames().get(self._thread.ident or 0)
        stack = _places(traceback.walk_stack(frame))[::-1] if frame else []
        self.give_up()
        return Outcome(error=ImportTimeout(f"it took longer than {self._timeout:g}s and was given up", stack))

    def give_up(self) -> None:
        """Wait for it no more: its thread is abandoned. Harmless if it has ended."""
        if self._done.cancel() and self._cut:
            throw_exit_into(self._thread)


async def call_abandonable(function: Callable[[], T], timeout: float, name: str, *, cut: bool = True) -> Outcome[T]:
    """Call a function in a daemon thread and wait for it, ``timeout`` seconds at most (``Abandonable``).

    **Cancellation** abandons it as well.
    """
    call = Abandonable(function, timeout, name, cut=cut)
    try:
        outcome = await call.wait()
    finally:
        call.give_up()
    assert outcome is not None
    return outcome


def _call(function: Callable[[], T], loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Outcome[T]]") -> None:
    outcome = Outcome[T]()
    try:
        outcome.value = function()
    except BaseException as error:
        outcome.error = error
    # when the loop has been closed nobody waits any more
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, done, outcome)
    # an error's traceback holds this frame: with these in it there would be a circle that keeps the plan's modules
    del outcome, done


def _settle(done: "asyncio.Future[Any]", outcome: Any) -> None:
    if not done.done():
        done.set_result(outcome)


def throw_exit_into(thread: threading.Thread) -> None:
    """Throw SystemExit into a thread at its next step in Python; there is no other way to stop one.

    Harmless if it has ended: another thread may have its number by then.
    """
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def new_threads(before: Sequence[threading.Thread]) -> Iterator[threading.Thread]:
    """The threads that are alive now and were not before, but for those of Aura and of anyio."""
    for thread in threading.enumerate():
        if thread not in before and not thread.name.startswith(("AnyIO worker", "aura", "asyncio_")):
            yield thread
