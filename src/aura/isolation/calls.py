"""Jobs for processes of their own: an action of a plan, or a script. Gives what comes of one, or raises it.

One call owns one interpreter from the moment it has it until nothing of it is left. ``aura.isolation`` has the theory.
"""

import math
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from anyio import CancelScope, create_task_group, get_cancelled_exc_class

from aura.actions import Action, plain_json
from aura.context import Context
from aura.errors import ContextClosed, ParamsInvalid, ProcessDied, RaisedElsewhere
from aura.isolation.interpreter import Interpreter
from aura.isolation.messages import (
    About,
    Asked,
    Begin,
    Begun,
    Ended,
    FromChild,
    Progressed,
    Reply,
    RunAction,
    RunCode,
    Said,
    Stop,
    Withdrawn,
)
from aura.isolation.warm import take_warm
from aura.loading.generation import Generation
from aura.processes.leftovers import BOOT
from aura.processes.loglines import OutputLog
from aura.processes.process import child_environment
from aura.run import failure_of

#: How long the process may take to end once its job has, in seconds: its threads, what it does at its exit.
EXIT_TIME = 2.0
#: How many requests of a child may be open; more fail.
MAX_OPEN = 1000
_LEVELS = frozenset({"debug", "info", "warning", "error"})


async def run_code(ctx: Context, source: str, file: str, folder: str | None, inputs: Mapping[str, Any]) -> Any:
    """Run a script in a process of its own and give what it leaves in ``result``.

    ``file`` is its name in tracebacks, ``folder`` where its imports may come from.

    Raises:
        RaisedElsewhere: what it raised. BadOutput: its result is not JSON, or too large. ProcessDied.

    **Cancellation**: ends the process and all that it started.
    """
    return await _run(ctx, RunCode(source, file, folder, dict(inputs)))


async def run_action(ctx: Context, home: Generation, action: Action, params: Mapping[str, Any]) -> Any:
    """Call an action of a plan in a process of its own; ``params`` have been checked. Raises as ``run_code`` does."""
    package, _, module = action.function.__module__.partition(".")
    assert package.endswith(home.name), "an action is of the package of its plan"
    sources = {path: text for path, text in home.files.items() if path.endswith(".py")}
    work = RunAction(home.name, home.plan.directory, home.hash, sources, module, action.name, dict(params))
    return await _run(ctx, work)


async def _run(ctx: Context, work: RunCode | RunAction) -> Any:
    call = _Call(ctx, _begin(ctx, work))
    if (warm := take_warm(ctx.process_environment[BOOT])) is not None:
        await call.run(warm)
    if call.is_to_begin:
        call.forget()
        await call.run(await Interpreter.start(child_environment(ctx.process_environment, {})))
    return call.outcome()


def _begin(ctx: Context, work: RunCode | RunAction) -> Begin:
    left = ctx.time_left()
    has_ctx = isinstance(work, RunAction)
    about = About(
        plan_name=ctx.plan_name,
        cid=ctx.cid,
        step=ctx.step,
        attempt=ctx.attempt,
        workdir=str(ctx.workdir),
        time_left=None if left == math.inf else left,
        variables=dict(ctx.vars) if has_ctx else {},
        secrets=list(ctx.secrets) if has_ctx else [],
        checkpointed=ctx.checkpointed if has_ctx else None,
    )
    return Begin(work, about, dict(ctx.process_environment), list(sys.path))


class _Call:
    """One job, from its beginning to what comes of it. ``stop`` is the cancellation that met it."""

    def __init__(self, ctx: Context, begin: Begin) -> None:
        self._ctx = ctx
        self._begin = begin
        self.stop: BaseException | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew, with another interpreter."""
        self.begun = False
        self._ended: Ended | None = None
        self._error: Exception | None = None
        self._returncode: int | None = None
        self._known = anyio.Event()
        self._open: dict[int, CancelScope] = {}

    @property
    def is_to_begin(self) -> bool:
        """Whether it has met no interpreter yet, or only one that was gone before it had the job."""
        return not (self.begun or self.stop or self._error)

    async def run(self, interpreter: Interpreter) -> None:
        """Give it the job, and return when nothing of it is left. Errors, and a cancellation, are kept."""
        self._interpreter = interpreter
        # answering: one child for each request of the job, and one that waits for the end of the process. A stop
        # cancels those that are there; what the clean-up asks comes after it. All are cancelled here, when it is gone.
        async with create_task_group() as self._answering:
            try:
                await self._attend()
            except get_cancelled_exc_class() as stop:
                self.stop = stop
            except Exception as error:
                self._error = error
            self._answering.cancel_scope.cancel("the process has ended")

    async def _attend(self) -> None:
        interpreter = self._interpreter
        try:
            self._connect()
            self._send_job()
            self._answering.start_soon(self._watch, name=f"{self._ctx.cid} process {interpreter.child.pid}")
            try:
                await self._known.wait()
            except BaseException:
                self._tell_stop()
                raise
            with anyio.move_on_after(EXIT_TIME):  # this wait alone
                await interpreter.child.wait()
        finally:
            await self._end()

    def _connect(self) -> None:
        ctx, interpreter = self._ctx, self._interpreter
        self._said = OutputLog(ctx)
        interpreter.on_stdout, interpreter.on_stderr = self._said.stdout.feed, self._said.stderr.feed
        interpreter.on_message, interpreter.on_error = self._hear, self._break_off
        interpreter.grace_left = self._grace_left

    def _send_job(self) -> None:
        try:
            self._interpreter.send(self._begin)
        except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
            raise ParamsInvalid(f"what the job is given has no JSON text: {error}") from None

    async def _watch(self) -> None:
        """Wait for the end of the process, which may come before any answer."""
        with suppress(Exception):  # of a log that takes no more lines: the attempt is over
            await self._interpreter.child.wait()
        self._known.set()

    async def _end(self) -> None:
        interpreter = self._interpreter
        try:
            await interpreter.close()
        finally:
            self._returncode = interpreter.child.returncode
        with suppress(ContextClosed):  # it was given up as stuck meanwhile: nobody is told anything more
            self._said.finish()
            for seen in interpreter.child.left_running():
                self._ctx.log.warning(f"left running in the background: {seen.name} (process {seen.pid})")

    # -- the stop

    def _grace_left(self) -> float:
        try:
            return self._ctx.grace_left()
        except ContextClosed:
            return 0.0

    def _tell_stop(self) -> None:
        """Tell the job why it will be ended now."""
        grace = self._grace_left()
        with suppress(ContextClosed):
            self._interpreter.send(Stop(self._ctx.stopping_because, None if grace == math.inf else grace))

    # -- what it says

    def _hear(self, message: FromChild) -> None:
        match message:
            case Begun():
                self.begun = True
            case Said(level, text, fields) if level in _LEVELS:
                getattr(self._ctx.log, level)(text, **fields)
            case Progressed(done, total, text):
                self._ctx.progress(done, total, text)
            case Asked():
                self._answering.start_soon(self._answer, message, name=f"{self._ctx.cid} asks {message.call}")
            case Withdrawn(number) if number in self._open:
                self._open[number].cancel("nobody waits for it any more")
            case Ended():
                self._ended = message
                self._known.set()

    def _break_off(self, error: Exception) -> None:
        self._error = error
        self._known.set()

    # -- what it asks

    async def _answer(self, asked: Asked) -> None:
        """Do what the job asks of its ``ctx``, and tell it what came of that."""
        # this request alone: cancelled when nobody waits for it any more, or by the stop, as an await there would be
        with CancelScope() as self._open[asked.number]:
            reply = Reply(asked.number, failure=failure_of(ContextClosed(f"ctx.{asked.call} was broken off")))
            try:
                reply = await self._reply(asked)
            finally:
                del self._open[asked.number]
                self._interpreter.send(reply)

    async def _reply(self, asked: Asked) -> Reply:
        try:
            if len(self._open) > MAX_OPEN:
                raise ContextClosed(f"more than {MAX_OPEN} calls of ctx at a time")
            return Reply(asked.number, plain_json(await _do(self._ctx, asked)))
        except Exception as error:
            return Reply(asked.number, failure=failure_of(error))

    # -- what came of it

    def outcome(self) -> Any:
        """Give the result, or raise what came instead of one."""
        ended = self._ended
        if self._error is not None:
            raise self._error
        if ended is not None and ended.failure is not None:
            raise RaisedElsewhere(ended.failure)
        if ended is not None and not ended.stopped:
            return ended.value
        if self.stop is not None:
            raise self.stop
        raise ProcessDied(_how_it_ended(self._returncode if ended is None else -signal.SIGTERM))


async def _secret(ctx: Context, name: str) -> str:
    return ctx.secrets[name]


#: What a job may ask of its ``ctx``; the rest of it the job knows by itself.
_CALLS: Mapping[str, Callable[[Context], Callable[..., Awaitable[Any]]]] = {
    "run": lambda ctx: ctx.run,
    "start": lambda ctx: ctx.start,
    "emit": lambda ctx: ctx.emit,
    "checkpoint": lambda ctx: ctx.checkpoint,
    "secret": lambda ctx: partial(_secret, ctx),
    "state.get": lambda ctx: ctx.state.get,
    "state.set": lambda ctx: ctx.state.set,
    "state.delete": lambda ctx: ctx.state.delete,
    "state.compare_and_set": lambda ctx: ctx.state.compare_and_set,
    "state.keys": lambda ctx: ctx.state.keys,
}


async def _do(ctx: Context, asked: Asked) -> Any:
    if asked.call not in _CALLS:
        raise ContextClosed(f"ctx.{asked.call} is not to be had in a process of its own")
    return await _CALLS[asked.call](ctx)(*asked.args)


def _how_it_ended(returncode: int | None) -> str:
    if returncode is None or returncode >= 0:
        return f"the process ended with exit code {returncode} before it gave a result"
    hint = "; perhaps the system had no memory left" if returncode == -signal.SIGKILL else ""
    return f"the process was killed by {_name_of(-returncode)} before it gave a result, and not by Aura{hint}"


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
