"""Loggers, lines of other threads, the standard library's logging, the writer's batches, the console."""

import errno
import io
import logging
import threading
from collections.abc import Sequence

import anyio
import anyio.to_thread
import pytest

from aura import logs as logs_module
from aura.clock import SystemClock
from aura.errors import StoreClosed, StoreReadOnly
from aura.events import Entry, LogEntry, _Held
from aura.journal import Journal, Reader
from aura.logs import Console, Logs, LogWriter, Origin, render, speaking_for


@pytest.fixture
def journal() -> Journal:
    return Journal(1, SystemClock())


def messages(reader: Reader) -> list[str]:
    return [entry.message for entry in reader.take().entries if isinstance(entry, LogEntry)]


async def test_logger_binds_its_origin_and_keeps_fields(journal: Journal) -> None:
    reader = journal.subscribe(("log",))
    log = Logs(journal, SystemClock()).logger_for(cid="c", plan_name="p", task_name="t", step="s", attempt=2)
    log.bind(a=1).warning("hello %s", "you", b=2)
    record = reader.take().entries[0].record()
    assert (record["level"], record["message"], record["fields"]) == ("warning", "hello you", {"a": 1, "b": 2})
    assert (record["cid"], record["plan_name"], record["step"], record["attempt"]) == ("c", "p", "s", 2)


async def test_field_cannot_forge_the_origin(journal: Journal) -> None:
    reader = journal.subscribe(("log",))
    Logs(journal, SystemClock()).logger_for(cid="mine").info("x", cid="other", level="error")
    record = reader.take().entries[0].record()
    assert (record["cid"], record["fields"]["cid"]) == ("mine", "other")


async def test_lines_below_the_level_are_not_made(journal: Journal) -> None:
    reader = journal.subscribe(("log",))
    log = Logs(journal, SystemClock(), level="warning").log
    log.info("no")
    log.error("yes")
    assert messages(reader) == ["yes"]


async def test_exception_brings_its_traceback(journal: Journal) -> None:
    reader = journal.subscribe(("log",))
    try:
        raise ValueError("boom")
    except ValueError:
        Logs(journal, SystemClock()).log.exception("it failed")
    record = reader.take().entries[0].record()
    assert record["level"] == "error"
    assert "ValueError: boom" in record["fields"]["exception"]
    assert "Traceback" in record["fields"]["exception"]


async def test_line_of_a_thread_reaches_the_journal_in_order(journal: Journal) -> None:
    reader = journal.subscribe(("log",))
    log = Logs(journal, SystemClock()).log
    await anyio.to_thread.run_sync(lambda: [log.info(f"line {n}") for n in range(3)])
    await reader.wait()
    assert messages(reader) == ["line 0", "line 1", "line 2"]


async def test_flood_from_a_thread_is_bounded_and_counted(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "INBOX_LINES", 5)
    reader = journal.subscribe(("log",))
    log = Logs(journal, SystemClock()).log
    thread = threading.Thread(target=lambda: [log.info("x") for _ in range(100)])
    thread.start()
    thread.join()  # the loop stands still meanwhile, so nothing is taken over
    await reader.wait()
    assert messages(reader) == ["x"] * 5 + ["95 log lines of threads were dropped: they came too fast"]


async def test_standard_logging_is_routed_with_its_origin(journal: Journal) -> None:
    reader = journal.subscribe(("log",))
    with Logs(journal, SystemClock()).capture_stdlib(), speaking_for(Origin(cid="c", step="s")):
        logging.getLogger("some.library").warning("careful: %d", 3)
        await anyio.to_thread.run_sync(logging.getLogger("other").error, "from a thread")
    logging.getLogger("some.library").error("after the end")
    await anyio.lowlevel.checkpoint()
    entries = [entry.record() for entry in reader.take().entries]
    assert [(e["message"], e["cid"], e["fields"]) for e in entries] == [
        ("careful: 3", "c", {"logger": "some.library"}),
        ("from a thread", "c", {"logger": "other"}),
    ]


async def test_standard_logging_of_others_is_left_alone_by_a_guest(journal: Journal) -> None:
    reader, root = journal.subscribe(("log",)), logging.getLogger()
    inside, over, level = anyio.Event(), anyio.Event(), root.level

    async def guest() -> None:
        with Logs(journal, SystemClock()).capture_stdlib(own_only=True):
            logging.getLogger("plan").warning("mine")
            await anyio.to_thread.run_sync(logging.getLogger("plan").warning, "mine, from a thread")
            inside.set()
            await over.wait()

    async with anyio.create_task_group() as group:  # the guest, which ends when it is told to
        group.start_soon(guest)
        await inside.wait()
        logging.getLogger("host").warning("the host's")
        assert root.level == level
        over.set()
    assert messages(reader) == ["mine", "mine, from a thread"]


async def test_standard_record_with_wrong_arguments_is_kept(journal: Journal) -> None:
    reader = journal.subscribe(("log",))
    record = logging.makeLogRecord({"msg": "%d apples", "args": ("many",), "levelno": logging.WARNING})
    logs_module._StdlibHandler(Logs(journal, SystemClock())).handle(record)
    assert "'%d apples' (its arguments do not fit" in messages(reader)[0]


# -- the writer -------------------------------------------------------------------------------------------------------


class Shelf:
    """A place to store lines; ``refuse`` is raised instead, once."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.refuse: Exception | None = None

    async def write(self, batch: Sequence[LogEntry]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            raise error
        self.batches.append([entry.message for entry in batch])


async def test_flush_returns_once_everything_is_stored(journal: Journal) -> None:
    shelf = Shelf()
    writer = LogWriter(journal, shelf.write, interval=60)
    journal.add_sink(writer.put)
    async with anyio.create_task_group() as group:  # the writer, which ends by its close
        group.start_soon(writer.serve)
        await anyio.wait_all_tasks_blocked()
        for n in range(3):
            journal.log("info", str(n))
        with anyio.fail_after(5):
            await writer.flush()
        assert shelf.batches == [["0", "1", "2"]]
        writer.close()


async def test_close_stores_the_rest(journal: Journal) -> None:
    shelf = Shelf()
    writer = LogWriter(journal, shelf.write, interval=60)
    journal.add_sink(writer.put)
    journal.log("info", "last")
    writer.close()
    with anyio.fail_after(5):
        await writer.serve()
    assert shelf.batches == [["last"]]


async def test_lines_are_stored_after_the_interval_without_a_flush(journal: Journal) -> None:
    shelf = Shelf()
    writer = LogWriter(journal, shelf.write, interval=0.01)
    journal.add_sink(writer.put)
    async with anyio.create_task_group() as group:  # the writer, which ends by its close
        group.start_soon(writer.serve)
        journal.log("info", "x")
        with anyio.fail_after(5):
            while not shelf.batches:
                await anyio.lowlevel.checkpoint()
        writer.close()


async def test_overflow_drops_the_oldest_and_says_how_many(journal: Journal) -> None:
    shelf = Shelf()
    writer = LogWriter(journal, shelf.write, limit=2)
    journal.add_sink(writer.put)
    for n in range(5):
        journal.log("info", str(n))
    async with anyio.create_task_group() as group:  # the writer, which ends by its close
        group.start_soon(writer.serve)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(2):
            await writer.flush()
            await writer.flush()
        writer.close()
    stored = [line for batch in shelf.batches for line in batch]
    assert stored[-1] == "3 log lines were not stored: the storage could not keep up"
    assert "4" in stored


async def test_full_disk_drops_lines_and_goes_on(journal: Journal) -> None:
    shelf = Shelf()
    shelf.refuse = StoreReadOnly("full")
    writer = LogWriter(journal, shelf.write)
    journal.add_sink(writer.put)
    async with anyio.create_task_group() as group:  # the writer, which ends by its close
        group.start_soon(writer.serve)
        await anyio.wait_all_tasks_blocked()
        journal.log("info", "lost")
        await writer.flush()
        journal.log("info", "kept")
        await writer.flush()
        writer.close()
    stored = [line for batch in shelf.batches for line in batch]
    assert "lost" not in stored
    assert "kept" in stored


async def test_broken_storage_ends_the_writer(journal: Journal) -> None:
    shelf = Shelf()
    shelf.refuse = StoreClosed("closed")
    writer = LogWriter(journal, shelf.write)
    journal.add_sink(writer.put)
    journal.log("info", "x")
    writer.close()
    with pytest.raises(StoreClosed):
        await writer.serve()
    with anyio.fail_after(1):
        await writer.flush()


async def test_lines_of_a_pause_are_kept_up_to_the_bound_and_stored_afterwards(journal: Journal) -> None:
    shelf = Shelf()
    shelf.refuse = RuntimeError("broken")

    async def write(batch: Sequence[LogEntry]) -> None:
        if shelf.refuse:
            for n in range(2):
                journal.log("info", str(n))
        await shelf.write(batch)

    writer = LogWriter(journal, write, limit=2, interval=0)
    journal.add_sink(writer.put)
    journal.log("info", "in hand")
    with pytest.raises(RuntimeError, match="broken"):
        await writer.serve()
    writer.close()
    with anyio.fail_after(5):
        await writer.serve()
    assert shelf.batches == [["0", "1"]]


async def test_batch_that_failed_is_stored_once_with_what_came_since(journal: Journal) -> None:
    shelf = Shelf()
    shelf.refuse = RuntimeError("broken")
    writer = LogWriter(journal, shelf.write, interval=0)
    journal.add_sink(writer.put)
    journal.log("info", "in hand")
    with pytest.raises(RuntimeError, match="broken"):
        await writer.serve()
    journal.log("info", "since")
    async with anyio.create_task_group() as group:  # the writer, which ends by its close
        group.start_soon(writer.serve)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            await writer.flush()
        assert shelf.batches == [["in hand", "since"]]
        writer.close()


async def test_batch_that_fails_twice_is_dropped_and_counted(journal: Journal) -> None:
    shelf = Shelf()
    writer = LogWriter(journal, shelf.write, interval=0)
    journal.add_sink(writer.put)
    journal.log("info", "poison")
    for _ in range(2):
        shelf.refuse = RuntimeError("broken")
        with pytest.raises(RuntimeError, match="broken"):
            await writer.serve()
    async with anyio.create_task_group() as group:  # the writer, which ends by its close
        group.start_soon(writer.serve)
        journal.log("info", "good")
        while not shelf.batches or "good" not in shelf.batches[-1]:
            await anyio.lowlevel.checkpoint()
        writer.close()
    assert shelf.batches == [["good", "1 log lines were not stored: the storage could not keep up"]]


async def test_flush_after_a_cancelled_write_does_not_wait_for_its_lines(journal: Journal) -> None:
    begun = anyio.Event()

    async def write(batch: Sequence[LogEntry]) -> None:
        begun.set()
        await anyio.sleep_forever()

    writer = LogWriter(journal, write, interval=0)
    journal.add_sink(writer.put)
    journal.log("info", "x")
    async with anyio.create_task_group() as group:  # the writer, cancelled while it writes, and again at the end
        group.start_soon(writer.serve)
        await begun.wait()
        group.cancel_scope.cancel()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(1):
            await writer.flush()
        group.cancel_scope.cancel()


async def test_flush_of_a_closed_writer_waits_for_who_serves_what_is_left(journal: Journal) -> None:
    shelf = Shelf()
    writer = LogWriter(journal, shelf.write)
    journal.add_sink(writer.put)
    journal.log("info", "last")
    writer.close()
    async with anyio.create_task_group() as group:  # the writer, which ends because it is closed
        group.start_soon(writer.serve)
        await writer.flush()  # before the writer has had a turn
        assert shelf.batches == [["last"]]
        journal.log("info", "too late")
        with anyio.fail_after(1):
            await writer.flush()


# -- the console ------------------------------------------------------------------------------------------------------


def line(message: str, **fields: str) -> Entry:
    return Journal(1, SystemClock()).log("info", message, plan_name="p", task_name="a/b", fields=fields)


def test_rendered_line_cannot_steer_a_terminal() -> None:
    entry = line("\x1b[2Jhi\x9b", key="\x07")
    assert isinstance(entry, LogEntry)
    text = render(entry)
    assert "p/a/b" in text
    assert "\\x1b[2Jhi\\x9b key=\\x07" in text


def test_rendered_traceback_stands_below_its_line() -> None:
    entry = line("failed", exception="Traceback …\nValueError: x")
    assert isinstance(entry, LogEntry)
    assert render(entry).endswith("failed\nTraceback …\nValueError: x")


@pytest.mark.parametrize(
    ("bounds", "text"),
    [({"limit": 2}, ""), ({"limit_bytes": 50_000}, "x" * 10_000)],
    ids=["too many lines", "too many bytes"],
)
async def test_console_writes_lines_and_says_what_it_did_not_show(
    journal: Journal, bounds: dict[str, int], text: str
) -> None:
    stream = io.StringIO()
    console = Console(stream, **bounds)
    journal.add_sink(console.put)
    for n in range(3):
        journal.log("info", f"line {n}{text}")
    async with anyio.create_task_group() as group:  # the console, cancelled once it has written
        group.start_soon(console.serve)
        with anyio.fail_after(5):
            while "line 2" not in stream.getvalue():
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert stream.getvalue().splitlines()[0] == "… 1 log lines not shown"
    assert "line 0" not in stream.getvalue()


def test_console_survives_a_closed_stream(journal: Journal) -> None:
    stream = io.StringIO()
    console = Console(stream)
    journal.add_sink(console.put)
    stream.close()
    journal.log("info", "x")
    console.flush()


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "EIO")], ids=["pipe", "terminal"])
async def test_console_without_a_reader_neither_spins_nor_tells_of_it(journal: Journal, error: OSError) -> None:
    stream = Gone(error)
    console = Console(stream)
    journal.add_sink(console.put)
    reader = journal.subscribe(("log",))
    async with anyio.create_task_group() as group:  # the console, cancelled at the end
        group.start_soon(console.serve)
        for n in range(3):
            journal.log("info", str(n))
            while stream.writes <= n:
                await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert (stream.writes, messages(reader)) == (3, ["0", "1", "2"])


async def test_line_that_cannot_be_shown_is_not_tried_again(journal: Journal) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.put(_Held())  # type: ignore[arg-type]  # what no rendering can stand
    with pytest.raises(AttributeError):
        await console.serve()
    journal.add_sink(console.put)
    journal.log("info", "good")
    console.flush()
    assert stream.getvalue().endswith("good\n")
