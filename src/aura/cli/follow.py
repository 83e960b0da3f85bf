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
from typing import TYPE_CHECKING, Any, Protocol

import click

from aura.cli.logs import say_gap
from aura.cli.output import coloured, failure_text, local_time, log_line, one_line, say
from aura.cli.runs import progress_text
from aura.errors import ClientError, Refused, Unreachable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aura.client import Client, Message

Record = dict[str, Any]
#: Seconds between two questions how far the steps are, and how much longer than an answer took at the least.
PROGRESS_EVERY = 0.5
PROGRESS_SHARE = 20


class View(Protocol):
    """Where a followed run is shown."""

    def print(self, line: str) -> None:
        """Show a line for good."""
        ...

    def progress(self, steps: Mapping[str, Record]) -> None:
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

    def progress(self, steps: Mapping[str, Record]) -> None:
        for step, how_far in steps.items():
            tenth = int(10 * how_far["done"] / how_far["total"]) if how_far.get("total") else 0
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

    def progress(self, steps: Mapping[str, Record]) -> None:
        for step, how_far in steps.items():
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(one_line(step), message="")
            message = one_line(how_far.get("message"))
            self._bars.update(self._tasks[step], completed=how_far["done"], total=how_far.get("total"), message=message)

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
        self._arrived: queue.Queue[Message | Exception] = queue.Queue(maxsize=1000)
        self._ask_at = time.monotonic() + PROGRESS_EVERY
        #: Steps that have ended by what the stream has said so far; an answer about progress may be older than that.
        self._ended: set[str] = set()
        self.interrupted = False

    def follow(self) -> Record:
        """Show everything until the run has ended; its final record.

        Raises:
            Unreachable: the server went away and did not come back.
            KeyboardInterrupt: Ctrl-C came a second time.
        """
        Thread(target=self._read, name="aura-follow", daemon=True).start()
        while True:
            try:
                final = self._step()
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self._cancel()
            else:
                if final is not None:
                    return final

    def _read(self) -> None:
        try:
            for message in self._client.follow_run(self._cid):
                self._arrived.put(message)
            self._arrived.put(Unreachable("the stream ended without the run's end"))
        except Exception as error:
            self._arrived.put(error)

    def _step(self) -> Record | None:
        try:
            arrived = self._arrived.get(timeout=PROGRESS_EVERY)
        except queue.Empty:
            arrived = None
        if isinstance(arrived, Unreachable):
            raise Unreachable(f"{arrived}; the run goes on, see `aura show {self._cid}`") from arrived
        if isinstance(arrived, Exception):
            raise arrived
        self._ask_progress()
        return self._take(arrived) if arrived else None

    def _take(self, message: "Message") -> Record | None:
        match message.name:
            case "end":
                self._show_event(message.data)
                return self._client.get_run(self._cid)
            case "gap":
                say_gap(message.data)
            case "shutdown":
                self._view.print("aura: the server is shutting down; waiting for it to come back")
            case _ if message.data.get("kind") == "log":
                self._view.print(log_line(message.data, message.data.get("step") or ""))
            case _:
                self._show_event(message.data)
        return None

    def _show_event(self, event: Record) -> None:
        name, step = str(event.get("name")), event.get("step")
        subject, _, happened = name.rpartition(".")
        if step and happened in ("started", "retrying"):
            self._ended.discard(step)
        elif step:
            self._ended.add(step)
            self._view.ended(step)
        who = one_line(step) if step else subject
        why = failure_text((event.get("payload") or {}).get("error"), of_step=bool(step))
        line = f"{local_time(event.get('time'), '%H:%M:%S')} {coloured(f'{one_line(happened):<9}')} {who}"
        self._view.print(f"{line}: {why}" if why else line)

    def _ask_progress(self) -> None:
        began = time.monotonic()
        if began < self._ask_at:
            return
        with suppress(ClientError):  # the stream says what is wrong with the server
            found = self._client.get_run(self._cid).get("progress") or {}
            self._view.progress({step: how_far for step, how_far in found.items() if step not in self._ended})
        now = time.monotonic()
        self._ask_at = now + max(PROGRESS_EVERY, PROGRESS_SHARE * (now - began))

    def _cancel(self) -> None:
        self.interrupted = True
        self._view.print("aura: cancelling the run; Ctrl-C again leaves it to itself")
        try:
            self._client.cancel(self._cid, "Ctrl-C")
        except Refused as error:
            if error.code != "ended":
                raise


def show_outcome(run: Record) -> None:
    """Say in one line how a run ended that did not succeed, and where to look."""
    why = failure_text(run.get("error")) or one_line(run.get("reason"))
    say(f"aura: {run['plan_name']}/{run['task_name']} {run['state']}{f': {why}' if why else ''}")
    say(f"see: aura show {run['cid']}")
