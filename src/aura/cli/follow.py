"""Following a run to its end: its steps and log lines on stderr, its progress live on a terminal.

The stream is read by a thread of its own, so that Ctrl-C is heard at once and progress can be asked for in between. The
thread ends with the stream or, being a daemon, with the process; what it reads waits in a queue that it alone fills.
The first Ctrl-C cancels the run and goes on following its clean-up, a second one leaves at once.
"""

import os
import queue
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Protocol

import click
import msgspec

from aura import api
from aura.cli.logs import say_gap
from aura.cli.output import (
    coloured,
    failure_text,
    local_time,
    log_line,
    one_line,
    print_json,
    progress_text,
    say,
)
from aura.errors import ClientError, ExitCode, Refused, Unreachable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aura.client import Client, Record

#: Seconds between two questions how far the steps are, and how much longer than an answer took at the least.
PROGRESS_EVERY = 0.5
PROGRESS_SHARE = 20


class View(Protocol):
    """Where a followed run is shown."""

    def print(self, line: str) -> None:
        """Show a line for good."""
        ...

    def progress(self, steps: Mapping[str, api.Progress]) -> None:
        """Show how far each running step is: ``{step: {done, total, message}}``."""
        ...

    def ended(self, step: str) -> None:
        """Forget the progress of a step that has ended."""
        ...


class PlainView:
    """Lines alone; of a step's progress one line for each tenth."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def print(self, line: str) -> None:
        click.echo(line, err=True)

    def progress(self, steps: Mapping[str, api.Progress]) -> None:
        for step, how_far in steps.items():
            tenth = int(10 * how_far.done / how_far.total) if how_far.total else 0
            if tenth > self._tenths.get(step, 0):
                self._tenths[step] = tenth
                self.print(f"{time.strftime('%H:%M:%S')} {one_line(progress_text(step, how_far))}")

    def ended(self, step: str) -> None:
        self._tenths.pop(step, None)


class LiveView:
    """A bar for each running step below the lines that scroll by, drawn by rich."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def print(self, line: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text.from_ansi(line), soft_wrap=True)

    def progress(self, steps: Mapping[str, api.Progress]) -> None:
        for step, how_far in steps.items():
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(one_line(step), message="")
            message = one_line(how_far.message)
            self._bars.update(self._tasks[step], completed=how_far.done, total=how_far.total, message=message)

    def ended(self, step: str) -> None:
        if step in self._tasks:
            self._bars.remove_task(self._tasks.pop(step))


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

    def __init__(self, client: "Client", cid: str, view: View) -> None:
        self._client = client
        self._cid = cid
        self._view = view
        #: What the stream gave, in the end None or why it broke.
        self._arrived: queue.Queue[Record | Exception | None] = queue.Queue(maxsize=1000)
        self._ask_at = time.monotonic() + PROGRESS_EVERY
        #: Steps that have ended by what the stream has said so far; an answer about progress may be older than that.
        self._ended: set[str] = set()
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
            arrived = self._arrived.get(timeout=PROGRESS_EVERY)
        except queue.Empty:
            self._ask_progress()
            return False
        if isinstance(arrived, Unreachable):
            raise Unreachable(f"{arrived}; the run goes on, see `aura show {self._cid}`") from arrived
        if isinstance(arrived, Exception):
            raise arrived
        if arrived is not None:
            self._ask_progress()
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
            case api.Shutdown():
                self._view.print("aura: the server is shutting down; waiting for it to come back")

    def _show_event(self, event: api.EventRecord) -> None:
        subject, _, happened = event.name.rpartition(".")
        if event.step and happened in ("started", "retrying"):
            self._ended.discard(event.step)
        elif event.step:
            self._ended.add(event.step)
            self._view.ended(event.step)
        who = one_line(event.step) if event.step else subject
        why = failure_text(_error_of(event), of_step=bool(event.step)) or _skipped_because(event)
        line = f"{local_time(event.time, '%H:%M:%S')} {coloured(f'{one_line(happened):<9}')} {who}"
        self._view.print(f"{line}: {why}" if why else line)

    def _ask_progress(self) -> None:
        began = time.monotonic()
        if began < self._ask_at:
            return
        with suppress(ClientError):  # the stream says what is wrong with the server
            found = self._client.get_run(self._cid).progress or {}
            self._view.progress({step: how_far for step, how_far in found.items() if step not in self._ended})
        now = time.monotonic()
        self._ask_at = now + max(PROGRESS_EVERY, PROGRESS_SHARE * (now - began))

    def _cancel(self) -> None:
        self.interrupted = True
        self._view.print("aura: cancelling the run; Ctrl-C again does not wait for it")
        try:
            self._client.cancel(self._cid, "Ctrl-C")
        except Refused as error:
            if error.code != "ended":
                raise


def _error_of(event: api.EventRecord) -> api.Error | None:
    """The error that an event tells of, if it does."""
    error = event.payload.get("error") if isinstance(event.payload, dict) else None
    return None if error is None else msgspec.convert(error, api.Error)


def _skipped_because(event: api.EventRecord) -> str:
    """Why a step was skipped, if an event tells of that."""
    skipped = event.name == "step.skipped" and isinstance(event.payload, dict)
    return one_line(event.payload.get("because")) if skipped else ""


def follow_to_end(client: "Client", cid: str, *, kept: bool = True) -> int:
    """Follow a run, print its result or say how it ended, and give the exit code.

    ``kept``: the run can be looked at afterwards.
    """
    with open_view() as view:
        follower = Follower(client, cid, view)
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
