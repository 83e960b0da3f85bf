"""What ``aura doctor`` says of bounds: how much there may be of what would otherwise grow, from where each is kept.

Each has a stated policy when it is full: docs/reference has it where the thing itself is described.
"""

from collections.abc import Iterator

from aura.cli.findings import Finding, ok, warn
from aura.settings import Settings


def check_bounds(settings: Settings) -> Iterator[Finding]:
    """All bounds in force, a line for each kind of thing."""
    for name, lane in settings.lanes.items():
        wait = f"{lane.queue} more wait, with up to {_size(lane.queue_bytes)} of inputs and events"
        yield ok("bounds", f"lane {name}: {lane.limit} runs have a place, {wait}")
    yield from (ok("bounds", text) for text in (*_of_requests(settings), *_of_outputs(), *_of_history(settings)))
    yield from _check_files()


def _of_requests(settings: Settings) -> Iterator[str]:
    from aura.web.app import MAX_STREAMS
    from aura.web.grants import MAX_IN_FLIGHT
    from aura.web.routes.tasks import MAX_BATCH
    from aura.web.sessions import MAX_SESSIONS
    from aura.web.tokens import MAX_TOKENS

    body = f"a body of {_size(settings.server.body_limit)}, {MAX_BATCH} runs in a batch"
    yield f"requests: {body}, {MAX_IN_FLIGHT} at once of a token"
    yield f"streams: {MAX_STREAMS}, each {settings.logs.ring} records behind at most"
    yield f"tokens: {MAX_TOKENS}, and {MAX_SESSIONS} sessions of browsers"


def _of_outputs() -> Iterator[str]:
    from aura.actions import MAX_OUTPUT
    from aura.bus import MAX_BYTES_ON_THE_WAY, MAX_ON_THE_WAY, MAX_PAYLOAD
    from aura.events import MAX_LINE
    from aura.processes.floods import LOG_CAP
    from aura.processes.process import MAX_PROCESSES
    from aura.runs.keepable import MAX_VALUE
    from aura.runs.planstate import MAX_BYTES, MAX_KEYS

    lines = f"{_size(LOG_CAP)} of what a process says, {_size(MAX_LINE)} in a line"
    yield f"outputs: {_size(MAX_OUTPUT)} of a step, {lines}"
    yield f"processes: {MAX_PROCESSES} at once"
    waiting = f"{MAX_ON_THE_WAY} or {_size(MAX_BYTES_ON_THE_WAY)} on their way to the store"
    yield f"events: {_size(MAX_PAYLOAD)} each, {waiting}"
    yield f"state of a plan: {MAX_KEYS} keys, {_size(MAX_VALUE)} each, {_size(MAX_BYTES)} in all"


def _of_history(settings: Settings) -> Iterator[str]:
    from aura.ledger import MAX_OPEN
    from aura.logs import INBOX_BYTES, INBOX_LINES
    from aura.records.ageing import MOST_EVENTS, MOST_LINES, MOST_WHY
    from aura.records.deliveries import KEEP_DELIVERIES, MAX_DELIVERIES
    from aura.records.files import MAX_WATCHES
    from aura.records.keys import KEEP_KEYS
    from aura.scheduling.filesets import MAX_FILES

    kept = settings.store.retention
    yield f"history: ended runs for {kept.days} days, {kept.runs} at most; idempotency keys for {KEEP_KEYS / 3600:g} h"
    yield f"history of no run: {MOST_LINES} log lines, {MOST_EVENTS} events"
    yield f"why-ledger: {MOST_WHY} lines, {MAX_OPEN} told apart in a minute"
    yield f"webhooks: delivery ids for {KEEP_DELIVERIES / 86400:g} days, {MAX_DELIVERIES} at most"
    yield f"file triggers: {MAX_FILES} files of a folder, {MAX_WATCHES} folders kept in mind"
    yield f"log lines on their way to the store: {INBOX_LINES}, {_size(INBOX_BYTES)}"


def _check_files() -> Iterator[Finding]:
    from aura.web.server import MAX_CONNECTIONS, connection_limit

    limit = connection_limit()
    if limit < MAX_CONNECTIONS:
        detail = f"{limit} connections, not {MAX_CONNECTIONS}, since a process may open few files here"
        yield warn("bounds", detail, "raise it if you need more: ulimit -n, or LimitNOFILE= of its unit")
    else:
        yield ok("bounds", f"connections: {limit}")


def _size(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"
