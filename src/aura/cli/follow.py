"""Following a run to its end: its steps and log lines on stderr, its progress live on a terminal.

The stream is read by a thread of its own, so that Ctrl-C is heard at once. The thread ends with the stream or,
being a daemon, with the process; what it reads waits in a queue that it alone fills.
The first Ctrl-C cancels the run and goes on following its clean-up, a second one leaves at once.
"""

import os
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Protocol

import click
import msgspec

from aura import api
from aura.cli.answer import command_for, step_word
from aura.cli.logs import say_gap
from aura.cli.output import (
    coloured,
    failure_text,
    local_time,
    log_line,
    one_line,
    preempted_text,
    print_json,
    progress_text,
    say,
    wait_text,
)
from aura.errors import ClientError, ExitCode, Refused, Unreachable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aura.client import Client, Record

#: For how long something new is waited for at a time, in seconds: so Ctrl-C is heard at once wherever this runs.
LOOK_EVERY = 0.5
#: What is said of a step that asks, of a run that nobody else can get at.
ALONE = "nobody can answer a run of --local; Ctrl-C cancels it"
#: How many waits of sub-tasks are looked at, for those that somebody can answer.
ASKING_SHOWN = 100


class View(Protocol):
    """Where a followed run is shown."""

    def print(self, line: str) -> None:
        """Show a line for good."""
        ...

    def progress(self, how_far: api.StepProgress) -> None:
        """Show how far a step, or an item of one, is."""
        ...

    def ended(self, step: str) -> None:
        """Forget the progress of a step that has ended, and of its items."""
        ...


class PlainView:
    """Lines alone; of a step's progress one line for each tenth."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def print(self, line: str) -> None:
        click.echo(line, err=True)

    def progress(self, how_far: api.StepProgress) -> None:
        step = how_far.step
        tenth = int(10 * how_far.done / how_far.total) if how_far.total else 0
        if tenth > self._tenths.get(step, 0):
            self._tenths[step] = tenth
            self.print(f"{time.strftime('%H:%M:%S')} {one_line(progress_text(step, how_far))}")

    def ended(self, step: str) -> None:
        for key in [key for key in self._tenths if _is_of(key, step)]:
            del self._tenths[key]


class LiveView:
    """A bar for each running step below the lines that scroll by, drawn by rich."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def print(self, line: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text.from_ansi(line), soft_wrap=True)

    def progress(self, how_far: api.StepProgress) -> None:
        step = how_far.step
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(one_line(step), message="")
        message = one_line(how_far.message)
        self._bars.update(self._tasks[step], completed=how_far.done, total=how_far.total, message=message)

    def ended(self, step: str) -> None:
        for key in [key for key in self._tasks if _is_of(key, step)]:
            self._bars.remove_task(self._tasks.pop(key))


def _is_of(key: str, step: str) -> bool:
    """Whether a key of progress is that of a step, or of an item of it."""
    return key == step or key.startswith(f"{step}[")


@contextmanager
def open_view() -> Iterator[View]:
    """Bars if stderr is a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield PlainView()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")), markup=False, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[message]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield LiveView(bars)


class Follower:
    """Follows one run. ``interrupted`` says whether Ctrl-C came."""

    def __init__(self, client: "Client", cid: str, view: View, *, kept: bool = True) -> None:
        """``kept``: the server is there for others as well."""
        self._client = client
        self._kept = kept
        self._cid = cid
        self._view = view
        #: What the stream gave, in the end None or why it broke.
        self._arrived: queue.Queue[Record | Exception | None] = queue.Queue(maxsize=1000)
        self.interrupted = False

    def follow(self) -> api.Run:
        """Show everything until the run has ended; its final record.

        Raises:
            Unreachable: the server went away and did not come back.
            KeyboardInterrupt: Ctrl-C came a second time.
        """
        Thread(target=self._read, name="aura-follow", daemon=True).start()
        is_over = False
        while not is_over:
            try:
                is_over = self._step()
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self._cancel()
        return self._client.get_run(self._cid)

    def _read(self) -> None:
        try:
            for record in self._client.follow_run(self._cid):
                self._arrived.put(record)
            self._arrived.put(None)
        except Exception as error:
            self._arrived.put(error)

    def _step(self) -> bool:
        """Show what has come, or wait for it a little; say whether that was the end."""
        try:
            arrived = self._arrived.get(timeout=LOOK_EVERY)
        except queue.Empty:
            return False
        if isinstance(arrived, Unreachable):
            raise Unreachable(f"{arrived}; the run goes on, see `aura show {self._cid}`") from arrived
        if isinstance(arrived, Exception):
            raise arrived
        if arrived is not None:
            self._show(arrived)
        return arrived is None

    def _show(self, record: "Record") -> None:
        match record:
            case api.LogRecord():
                self._view.print(log_line(record, record.step or ""))
            case api.EventRecord():
                self._show_event(record)
            case api.Gap():
                say_gap(record)
            case api.StepProgress():
                self._view.progress(record)
            case api.Shutdown():
                self._view.print("aura: the server is shutting down; waiting for it to come back")

    def _show_event(self, event: api.EventRecord) -> None:
        subject, _, happened = event.name.rpartition(".")
        if subject not in ("run", "step"):
            self._view.print(_other_event(event))
            return
        if event.step and happened not in ("started", "retrying"):
            self._view.ended(event.step)
        who = one_line(event.step) if event.step else subject
        wait = _wait_of(event)
        why = failure_text(_error_of(event), of_step=bool(event.step)) or _skipped_because(event)
        why = f"for {one_line(wait_text(wait))}" if wait else why or _preempted_by(event)
        line = f"{local_time(event.time, '%H:%M:%S')} {coloured(f'{one_line(happened):<9}')} {who}"
        self._view.print(f"{line}: {why}" if why else line)
        if wait is not None:
            self._say_who_answers(wait)

    def _say_who_answers(self, wait: api.Wait) -> None:
        """Say how to answer a step that waits for it, or those of its sub-task that do."""
        asking = [(self._cid, wait)]
        if wait.kind == "task" and wait.cid is not None:
            with suppress(ClientError):  # the stream says what is wrong with the server
                asking = _asking(self._client, wait.cid)
        for cid, one in asking:
            if one.kind == "approval":
                self._view.print(f"aura: {_how_to_answer(cid, one) if self._kept else ALONE}")

    def _cancel(self) -> None:
        self.interrupted = True
        self._view.print("aura: cancelling the run; Ctrl-C again does not wait for it")
        try:
            self._client.cancel(self._cid, "Ctrl-C")
        except Refused as error:
            if error.code != "ended":
                raise


def _other_event(event: api.EventRecord) -> str:
    """The line of an event that is not of how the run or a step fares: a plan may give it any name and payload."""
    line = f"{local_time(event.time, '%H:%M:%S')} {'event':<9} {one_line(event.name)}"
    return f"{line} of {one_line(event.step)}" if event.step else line


def _error_of(event: api.EventRecord) -> api.Error | None:
    """The error that an event tells of, if it does."""
    error = event.payload.get("error") if isinstance(event.payload, dict) else None
    return None if error is None else msgspec.convert(error, api.Error)


def _preempted_by(event: api.EventRecord) -> str:
    """Which interrupt has stopped the run, or why else it rests, if an event tells of that."""
    if event.name != "run.preempted" or not isinstance(event.payload, dict):
        return ""
    by = event.payload.get("by")
    if by is None:
        return one_line(event.payload.get("reason"))
    return preempted_text(msgspec.convert({**by, "at": event.time}, api.PreemptedBy))


def _skipped_because(event: api.EventRecord) -> str:
    """Why a step was skipped, if an event tells of that."""
    skipped = event.name == "step.skipped" and isinstance(event.payload, dict)
    return one_line(event.payload.get("because")) if skipped else ""


def _wait_of(event: api.EventRecord) -> api.Wait | None:
    """What a step waits for from now on, if an event tells of that."""
    if event.name != "step.waiting" or not isinstance(event.payload, dict):
        return None
    told = {"index": event.payload.get("item"), "until": None, **event.payload, "step": event.step, "since": event.time}
    return msgspec.convert(told, api.Wait)


def _how_to_answer(cid: str, wait: api.Wait) -> str:
    return f"to say yes: {one_line(command_for(cid, wait))}; to say no: aura answer {cid} {step_word(wait)} --no"


def _asking(client: "Client", cid: str) -> list[tuple[str, api.Wait]]:
    """What a run, and the sub-tasks that it waits for, wait for."""
    found: list[tuple[str, api.Wait]] = []
    runs = [cid]
    while runs and len(found) < ASKING_SHOWN:
        cid = runs.pop()
        waiting = client.get_run(cid).waiting_for
        waits = waiting.waits if waiting else []
        found += [(cid, wait) for wait in waits]
        runs += [wait.cid for wait in waits if wait.cid is not None]
    return found[:ASKING_SHOWN]


def follow_to_end(client: "Client", cid: str, *, kept: bool = True) -> int:
    """Follow a run, print its result or say how it ended, and give the exit code.

    ``kept``: the run can be looked at afterwards.
    """
    with open_view() as view:
        follower = Follower(client, cid, view, kept=kept)
        view.print(f"run {cid}")
        final = follower.follow()
    if final.state == "succeeded":
        print_json(final.result)
    else:
        _say_outcome(final, kept)
    if follower.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.OK if final.state == "succeeded" else ExitCode.FAILED


def _say_outcome(run: api.Run, kept: bool) -> None:
    """Say in one line how a run ended that did not succeed, and where to look, if it is ``kept`` anywhere."""
    why = failure_text(run.error) or one_line(run.reason)
    say(f"aura: {run.plan_name}/{run.task_name} {run.state}{f': {why}' if why else ''}")
    if kept:
        say(f"see: aura show {run.cid}")
