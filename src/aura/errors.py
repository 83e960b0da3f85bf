"""Every error that Aura defines, split by whose fault it is.

``PlanError`` is the plan author's (it has a file, a line and a column), ``RequestError`` the caller's (it has an HTTP
status and a stable code), ``RunError`` an outcome of a step, ``StoreError`` the storage's, ``InternalError`` ours. A
message says what happened, with the value, and what to do about it.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec


class ExitCode:
    """Exit codes of the ``aura`` command (sysexits.h, where it has one)."""

    OK = 0
    FAILED = 1
    USAGE = 64
    CORRUPT = 65
    UNAVAILABLE = 69
    INTERNAL = 70
    CANNOT_CREATE = 73
    IO = 74
    REFUSED = 75
    NEWER_DATA = 76
    NOT_PERMITTED = 77
    UNSAFE = 78
    INTERRUPTED = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to a message about an unknown word: ``; did you mean retry?``, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class AuraError(Exception):
    """Base of all errors that Aura raises on purpose."""


class InternalError(AuraError):
    """A broken rule of Aura's own."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} (this is a bug in Aura)")


# -- the plan author's ------------------------------------------------------------------------------------------------


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong in a plan; ``file`` is relative to the plans folder, line and column count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class PlanError(AuraError):
    """A plan that cannot be served, with everything that was found wrong in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(p) for p in self.problems))


class ConfigError(AuraError):
    """A setting that cannot be used. ``exit_code`` is 64, or 78 where it would be unsafe."""

    def __init__(self, message: str, exit_code: int = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# -- the caller's -----------------------------------------------------------------------------------------------------


class FieldError(msgspec.Struct, frozen=True):
    """One bad field of a request; ``path`` is a JSON pointer (RFC 6901) into its body."""

    path: str
    message: str


#: code → (HTTP status, title). The stable codes that clients may rely on; docs/reference/errors.md lists them.
CODES: dict[str, tuple[int, str]] = {
    "bad_json": (400, "The body is not valid JSON"),
    "body_required": (400, "A JSON body is required"),
    "bad_header": (400, "A header is missing or malformed"),
    "bad_cursor": (400, "The cursor is not one that this server gave out"),
    "unauthorized": (401, "A valid token is required"),
    "forbidden": (403, "The token may not do this"),
    "foreign_origin": (403, "Requests from this origin are refused"),
    "not_found": (404, "There is nothing here"),
    "unknown_plan": (404, "There is no such plan"),
    "unknown_task": (404, "There is no such task"),
    "unknown_rule": (404, "There is no such rule"),
    "unknown_item": (404, "There is no such item"),
    "unknown_run": (404, "There is no such run"),
    "unknown_file": (404, "The run has no such file"),
    "unknown_token": (404, "There is no such token"),
    "method_not_allowed": (405, "This route does not answer to that method"),
    "body_timeout": (408, "The body did not arrive in time"),
    "ended": (409, "The run has already ended"),
    "not_waiting": (409, "Nothing waits for this answer"),
    "answered": (409, "It has been answered already"),
    "conflict": (409, "This is not possible in the present state"),
    "refused_by_mode": (409, "The task runs already, and its mode takes no more"),
    "body_too_large": (413, "The body is too large"),
    "uri_too_long": (414, "The URL is too long"),
    "bad_content_type": (415, "The body must say Content-Type: application/json"),
    "range_not_satisfiable": (416, "The file has no such bytes"),
    "foreign_host": (421, "This server does not answer for that host"),
    "invalid": (422, "The request is not valid"),
    "inputs_invalid": (422, "The inputs are not valid"),
    "reserved_event": (422, "The name belongs to Aura's own events"),
    "key_reused": (422, "The Idempotency-Key belongs to another request"),
    "queue_full": (429, "The lane's queue is full"),
    "events_full": (429, "Too many events are on their way to the store"),
    "too_many_requests": (429, "Too many requests"),
    "upgrade_required": (426, "This path is for WebSockets"),
    "headers_too_large": (431, "The headers are too large"),
    "internal": (500, "An error in Aura"),
    "plan_broken": (503, "The plan cannot be served at present"),
    "shutting_down": (503, "The server is shutting down"),
    "storage_unavailable": (503, "The storage does not accept writes at present"),
    "too_many_streams": (503, "Too many streams are open"),
    "too_many_connections": (503, "Too many connections are open"),
    "bad_http_version": (505, "This server speaks HTTP/1.1 only"),
}


#: Seconds after which to ask again, of a refusal that may pass and does not say when.
RETRY_AFTER = 5.0


class RequestError(AuraError):
    """A request that is refused.

    ``code`` is a key of ``CODES`` and gives the HTTP status; ``errors`` lists every bad field at once; ``retry_after``
    is in seconds, and always there with 429 and 503; ``extra`` holds further members of the problem document
    (RFC 9457), such as ``state``.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = CODES[code]
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after = RETRY_AFTER if retry_after is None and self.status in (429, 503) else retry_after
        self.extra = extra or {}


# -- outcomes of steps ------------------------------------------------------------------------------------------------


class RunError(AuraError):
    """A step that failed in a way that Aura itself names. ``type`` is what plans and clients see as ``error.type``."""

    type: ClassVar[str] = "RunError"


class EndRun(RunError):
    """Raised by the action ``stop``: the run ends here, succeeded, with ``result``."""

    type = "EndRun"

    def __init__(self, result: Any = None) -> None:
        super().__init__("the run was ended by a step")
        self.result = result


class WaitFor(RunError):
    """Raised by an action that waits: its step waits for what ``wait`` says, and no code of it runs meanwhile."""

    type = "WaitFor"

    def __init__(self, wait: Any) -> None:
        super().__init__("the step waits")
        self.wait = wait


class LoopDetected(RunError):
    """Events went round in a circle through a step that waits for them: it waits no longer."""

    type = "LoopDetected"


class StrayCancellation(RunError):
    """A ``CancelledError`` that nobody of ours sent: the action cancelled itself, or something it awaited was."""

    type = "stray_cancellation"


class BadOutput(RunError):
    """An action returned something that is not JSON, or too much of it."""

    type = "bad_output"


class LoopInvalid(RunError):
    """What a step was to go over is no list, mapping or number of times, or has too many items."""

    type = "loop_invalid"


class LoopLimit(RunError):
    """A loop was not over after as many rounds as it may have."""

    type = "LoopLimit"


class ParamsInvalid(RunError):
    """The rendered parameters do not fit the action's signature."""

    type = "params_invalid"


class ExpressionError(RunError):
    """An expression that could not be evaluated; the message names the file and line."""

    type = "expression_error"


class ActionMissing(RunError):
    """The action of a step is not there: the plan that had it, or the one that it was of, has changed since."""

    type = "action_missing"


class ContextClosed(RunError):
    """``ctx`` was used after its attempt had ended or was given up as stuck."""

    type = "context_closed"


class SecretUnknown(RunError):
    """A secret was asked for that the plan does not declare."""

    type = "SecretUnknown"


class SecretMissing(RunError):
    """A secret that the plan declares is in none of the places where secrets are, or cannot be read there."""

    type = "SecretMissing"


class StateInvalid(RunError):
    """A key, a value or a time to live that the state of a plan cannot have."""

    type = "StateInvalid"


class StateFull(RunError):
    """The state of a plan has as many keys, or as many bytes, as it may have."""

    type = "StateFull"


class CheckpointInvalid(RunError):
    """A checkpoint that cannot be kept: it is no JSON, too large, or has a secret in it."""

    type = "CheckpointInvalid"


class ServiceFailed(RunError):
    """A service that cannot be given: it does not yield exactly once, it was closed meanwhile, or the server stops."""

    type = "ServiceFailed"


class NoRun(RunError):
    """A service, or what a poll asks, was to do what only a run can."""

    type = "no_run"


class NotAllowed(RunError):
    """In a test, a plan wanted to leave its process, and the test has not allowed it."""

    type = "not_allowed"


class ActionFailed(RunError):
    """What the action ``fail`` raises."""

    type = "ActionFailed"


class AssertionFailed(RunError):
    """What the action ``assert`` raises."""

    type = "AssertionFailed"


class ShellFailed(RunError):
    """A command of ``shell.run`` that could not be run, or ended with an exit code that is not ok."""

    type = "ShellFailed"


class ProcessDied(RunError):
    """A process of its own, of an action or of ``python.run``, that could not start, or ended without an answer."""

    type = "ProcessDied"


class RaisedElsewhere(AuraError):
    """What plan code raised in a process of its own. ``failure`` is its record (``run.Failure``), made over there."""

    def __init__(self, failure: Any) -> None:
        super().__init__(f"{failure.type}: {failure.message}")
        self.failure = failure


class HttpFailed(RunError):
    """A server answered ``http.request`` with a status that is not ok, or with what cannot be used.

    ``retry_after`` is how many seconds it asks to be left alone, None if it does not say.
    """

    type = "HttpFailed"

    def __init__(self, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class AddressRefused(RunError):
    """``http.request`` was to connect where it must not: to Aura itself, or where clouds keep secrets."""

    type = "AddressRefused"


class EventRefused(RunError):
    """An event that a step was to emit: its name or payload is none that it may have, or it could not be stored."""

    type = "EventRefused"


class TaskFailed(RunError):
    """A run that a step asked for was refused, or did not succeed.

    ``cause`` is its ``{cid, type, message}``; of one that was refused ``cid`` is None and ``type`` the refusal's code.
    """

    type = "TaskFailed"

    def __init__(self, message: str, cause: dict[str, Any]) -> None:
        super().__init__(message)
        self.cause = cause


class TaskRecursion(RunError):
    """A task that would run in the place of a run of its own."""

    type = "TaskRecursion"


class ResourceMissing(RunError):
    """A resource that nobody has declared, or more of one than there is."""

    type = "ResourceMissing"


class ResourceCircle(RunError):
    """A step that would wait for ever for a resource: who holds it waits for what this run holds."""

    type = "ResourceCircle"


class ProcessNotEnded(RunError):
    """A child process that is still there after KILL; it hangs in the kernel."""

    type = "process_not_ended"


# -- the storage's ----------------------------------------------------------------------------------------------------


class StoreError(AuraError):
    """The storage cannot go on. ``exit_code`` is what the process ends with."""

    exit_code: ClassVar[int] = ExitCode.IO


class Lost(StoreError):
    """A compare-and-set found another state than the one it was to change; its unit was rolled back alone."""


class KeyTaken(StoreError):
    """Another request is already on record under this idempotency key; the unit was rolled back alone."""


class StoreClosed(StoreError):
    """A unit was handed over after the store's intake had been closed."""


class StoreReadOnly(StoreError):
    """The storage cannot be written for now: it takes no new work until it can."""


class StoreFull(StoreReadOnly):
    """The disk has no room, or too little for new work."""


class StoreLocked(StoreReadOnly):
    """Another process holds the database's lock; for some seconds that is nothing to speak of."""


class StoreIOError(StoreError):
    """The disk failed; what was being written is of unknown fate and nobody is told otherwise."""


class StoreCorrupt(StoreError):
    """The database is damaged. Nothing is started on it, and it is never replaced by an empty one."""

    exit_code = ExitCode.CORRUPT


class StoreNewer(StoreError):
    """The database was written by a newer Aura; it is left untouched."""

    exit_code = ExitCode.NEWER_DATA


class StoreInUse(StoreError):
    """Another process owns the data folder."""

    exit_code = ExitCode.REFUSED


class StoreCannotCreate(StoreError):
    """The data folder or a file in it cannot be made."""

    exit_code = ExitCode.CANNOT_CREATE


class StoreNotPermitted(StoreCannotCreate):
    """The data folder or a file in it is not ours to use."""

    exit_code = ExitCode.NOT_PERMITTED


# -- a host's ---------------------------------------------------------------------------------------------------------


class EmbedError(AuraError):
    """What a program meets that runs a server inside itself (``embed``)."""


class ServerEnded(EmbedError):
    """The embedded server has ended, so that nobody can answer this call."""


class WorkLeft(EmbedError):
    """The embedded server has stopped, and plan code that does not end is still there. ``cids`` are its runs."""

    def __init__(self, message: str, cids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.cids = tuple(cids)


# -- a client's -------------------------------------------------------------------------------------------------------


class ClientError(AuraError):
    """What a client of a server meets. ``exit_code`` is what a command ends with."""

    exit_code: int = ExitCode.UNAVAILABLE


class Unreachable(ClientError):
    """No server answers at that address, or it stopped answering."""


class NotPermitted(ClientError):
    """The token's file is there and cannot be read."""

    exit_code = ExitCode.NOT_PERMITTED


class UnknownRun(ClientError):
    """A run's id, as a user shortened it, fits no run or more than one."""

    exit_code = ExitCode.USAGE


class BadInputs(ClientError):
    """Inputs, as a user typed them, that do not fit their task; ``errors`` has each of them."""

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, errors: Iterable[FieldError]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class UnknownTask(ClientError):
    """A plans folder has no such plan or task."""

    exit_code = ExitCode.USAGE


class CannotCreate(ClientError):
    """A file or folder that a command was to make: something is in the way, or it cannot be written there."""

    exit_code = ExitCode.CANNOT_CREATE


_EXIT_OF_STATUS = {
    401: ExitCode.NOT_PERMITTED,
    403: ExitCode.NOT_PERMITTED,
    409: ExitCode.REFUSED,
    429: ExitCode.REFUSED,
    503: ExitCode.REFUSED,
}


class Refused(ClientError):
    """The server's answer was a problem document (RFC 9457), or no answer of Aura's at all (code ``unknown``).

    ``errors`` lists every bad field; ``extra`` holds the document's further members, such as ``state``;
    ``retry_after`` is in seconds, None where the server named none.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        extra: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.extra = extra or {}
        self.retry_after = retry_after

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # of a class it is a constant, of a refusal it depends
        """77 for a bad token, 75 for what may succeed later, 64 for what will not, 70 for the server's own errors."""
        if self.code in ("ended", "answered"):
            return ExitCode.FAILED
        fallback = ExitCode.INTERNAL if self.status >= 500 else ExitCode.USAGE
        return _EXIT_OF_STATUS.get(self.status, fallback)
