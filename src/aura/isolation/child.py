"""The child's side of a process of its own: wait for a job, do it, say what came of it, end.

The job runs in the main thread, where a signal can break it off. Started by ``interpreter``, in a session of its own.
"""

import asyncio
import ctypes
import importlib
import inspect
import linecache
import os
import signal
import sys
import types
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from aura.actions import MAX_OUTPUT, Action, is_action, plain_json, too_large
from aura.context import Context
from aura.errors import ActionMissing, BadOutput, RunError
from aura.events import clean_text
from aura.isolation.childctx import context_of
from aura.isolation.childlink import Link
from aura.isolation.messages import UNMARKED, Begin, Begun, Ended, Ready, RunAction, RunCode
from aura.loading.importing import Package
from aura.processes.leftovers import CID
from aura.run import Failure, failure_of


def main(handle: int) -> None:
    """Do one job and return; the interpreter then ends as any does."""
    link = Link(handle)
    mark = ShownMark(CID)
    link.send(Ready(mark.show(UNMARKED)))
    begin = link.first()
    if begin is None:
        os._exit(0)  # nobody needed it
    mark.show(begin.marks[CID])
    link.start()
    link.send(Begun())
    ended = _outcome(begin, link)
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    link.end(ended)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _outcome(begin: Begin, link: Link) -> Ended:
    work = begin.work
    plan_files = (work.file,) if isinstance(work, RunCode) else (f"{work.plan_name}@",)
    try:
        _prepare(begin)
        signal.signal(signal.SIGTERM, link.on_term)
        value = _run_code(work) if isinstance(work, RunCode) else _run_action(work, begin, link)
        return Ended(_checked(value))
    except BaseException as error:
        if link.is_stop(error):
            return Ended(stopped=True)
        return Ended(failure=_failure(error, plan_files))


def _prepare(begin: Begin) -> None:
    os.environ.update(begin.marks)
    sys.path[:] = begin.path
    os.chdir(begin.about.workdir)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


class ShownMark:
    """A variable as ``/proc/<pid>/environ`` shows it: in the memory in which this process was given its variables.

    It is found before anybody sets the variable anew, which would put it elsewhere. Another value of the same length
    can be written over it there; processes that this one forks show the same.
    """

    def __init__(self, name: str) -> None:
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_void_p
        self._name = name
        self._address: int | None = getenv(name.encode())

    def show(self, value: str) -> bool:
        """Write a value over what is shown, if that is as long; say whether it is shown now."""
        data = value.encode()
        if self._address and len(ctypes.string_at(self._address)) == len(data):
            ctypes.memmove(self._address, data, len(data))
        try:
            shown = Path("/proc/self/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"{self._name}={value}".encode() in shown


# -- jobs -------------------------------------------------------------------------------------------------------------


def _run_code(work: RunCode) -> Any:
    """Run a script as ``__main__``; what it leaves in ``result`` is its result, also if it says ``sys.exit()``."""
    module = types.ModuleType("__main__")
    module.__dict__.update(inputs=work.inputs, result=None)
    if work.folder is not None:
        module.__file__ = work.file
        sys.path.insert(0, work.folder)
    sys.argv[:] = [work.file]
    sys.modules["__main__"] = module
    lines = work.source.splitlines(keepends=True)
    linecache.cache[work.file] = (len(work.source), None, lines, work.file)  # for tracebacks
    try:
        exec(compile(work.source, work.file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - it is the job
    except SystemExit as ended:
        if ended.code not in (None, 0):
            raise
    return module.__dict__.get("result")


def _run_action(work: RunAction, begin: Begin, link: Link) -> Any:
    package = Package(work.plan_name, work.directory, work.generation, work.sources)
    action = _find(package, work)
    ctx = context_of(begin.about, link, begin.marks)
    given: tuple[Context, ...] = (ctx,) if action.wants_context else ()
    arguments = action.bind(work.params)
    if action.is_async:
        return asyncio.run(_attend(link, lambda: action.function(*given, **arguments)))
    return action.function(*given, **arguments)


def _find(package: Package, work: RunAction) -> Action:
    """Import what defines the action, and that alone if it can be found there."""
    importlib.import_module(package.name)
    if found := _action_in([importlib.import_module(f"{package.name}.{work.module}")], work):
        return found
    if found := _action_in(package.import_actions(), work):
        return found
    raise ActionMissing(f"there is no action {work.action!r} in {work.module} of plan {work.plan_name}")


def _action_in(modules: list[types.ModuleType], work: RunAction) -> Action | None:
    for function in [value for module in modules for value in vars(module).values() if is_action(value)]:
        if inspect.isfunction(inspect.unwrap(function)):
            action = Action.of(function, work.plan_name)
            if action.name == work.action:
                return action
    return None


async def _attend(link: Link, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Await an ``async def`` action; TERM cancels it once."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, link.cancel_once, task)
    return await call()


# -- what came of it --------------------------------------------------------------------------------------------------


def _checked(value: Any) -> Any:
    """Give plain JSON data that is small enough. Raises BadOutput."""
    plain = plain_json(value)
    try:
        size = len(msgspec.json.encode(plain))
    except Exception as error:
        raise BadOutput(f"the result has no JSON text: {error}") from None
    if size > MAX_OUTPUT:
        raise too_large(size)
    return plain


def _failure(error: BaseException, plan_files: tuple[str, ...]) -> Failure:
    """Record an error as the server would; what lies above the plan's own code is left out of the traceback."""
    error.__traceback__ = _below_this_file(error.__traceback__)
    failure = failure_of(error, plan_files=plan_files)
    if isinstance(error, RunError):  # it explains itself
        return msgspec.structs.replace(failure, trace="")
    if isinstance(error, SyntaxError) and str(error.filename).startswith(plan_files):
        return msgspec.structs.replace(failure, file=error.filename, line=error.lineno)
    if isinstance(error, SystemExit):
        return msgspec.structs.replace(failure, message=clean_text(f"the code called sys.exit({error.code!r})", 500))
    return failure


def _below_this_file(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:  # the job has closed it, or put something else in its place
        return
