"""What happens inside an attempt: parameters are rendered and checked, the action is called, its result is checked.

All of it runs inside the attempt's boundary, so that whatever it raises is a value there.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from anyio import to_thread

from aura.actions import MAX_OUTPUT, Action, too_large
from aura.context import Context
from aura.errors import BadOutput, EndRun, NoRun, ParamsInvalid, WaitFor
from aura.graph import Progress
from aura.isolation.calls import run_action
from aura.loading.approvals import secrets_of_answer
from aura.loading.generation import Generation
from aura.loading.usecheck import COMMAND_LINES, ON_COMMAND_LINE
from aura.masking import masked
from aura.records.columns import encode
from aura.redaction import Redactor
from aura.runs.attempt import Attempt
from aura.runs.liverun import LiveRun, Phase
from aura.runs.retries import wait_before_next
from aura.runs.runtime import Runtime
from aura.runs.scope import scope_for
from aura.runs.waits import Waits


class Produced(NamedTuple):
    """What an attempt produced: its output, the same as JSON, and the step's declared outputs.

    ``again`` is None if that counts; else there is another try after so many seconds, or nobody can say whether.
    """

    output: Any
    output_json: bytes
    outputs: dict[str, Any] | None = None
    again: float | Exception | None = None


async def perform(runtime: Runtime, waits: Waits, run: LiveRun, attempt: Attempt) -> Produced:
    """Do what a step says and give what it produced. Raises whatever goes wrong, and ``WaitFor`` if it is to wait."""
    assert run.generation is not None
    step = attempt.step.step
    home = run.generation.home_of(step.action)  # held here, with its modules, as long as its code runs
    action = runtime.action(home, step.action)
    call = _prepare(runtime, home, attempt, action, _parameters(runtime, run, attempt))
    try:
        if not action.services:
            result = await _call(runtime, attempt, action, call)
        else:
            async with runtime.services.lent(home, action.services) as lent:
                result = await _call(runtime, attempt, action, partial(call, **lent))
    except WaitFor as waits_for:
        if run.phase is Phase.MAIN:  # it waits on record, and this attempt is over
            raise
        result = await waits.wait_here(run, attempt, waits_for.wait)
        return produced(runtime, run, attempt.step, result, secrets_of_answer(waits_for.wait.inputs))
    return produced(runtime, run, attempt.step, action.check_result(result))


async def ask(runtime: Runtime, home: Generation, attempt: Attempt, scope: Mapping[str, Any]) -> Any:
    """Call the action of an attempt that is part of no run, and give its result as plain JSON data.

    ``home`` is the action's; ``scope`` has the names that its parameters may use. Raises whatever goes wrong, and
    ``NoRun`` where it needs a run.
    """
    action = runtime.action(home, attempt.step.step.action)
    params = {name: value.render(scope) for name, value in attempt.step.step.params.items()}
    _check_secrets(runtime, action.name, params)
    call = _prepare(runtime, home, attempt, action, params)
    attempt.calls = attempt.checkpoints = _RUNLESS
    try:
        async with runtime.services.lent(home, action.services) as lent:
            return action.check_result(await _call(runtime, attempt, action, partial(call, **lent)))
    except (WaitFor, EndRun):
        raise NoRun(f"{action.name}: {_NO_RUN}") from None


class _Runless:
    """What stands behind the ``ctx`` of an attempt that is part of no run, where that would need one."""

    async def run(self, *_: Any, **__: Any) -> Any:
        raise NoRun(f"ctx.run: {_NO_RUN}")

    async def start(self, *_: Any, **__: Any) -> str:
        raise NoRun(f"ctx.start: {_NO_RUN}")

    async def put(self, *_: Any, **__: Any) -> None:
        raise NoRun(f"ctx.checkpoint: {_NO_RUN}")

    def last(self, *_: Any, **__: Any) -> Any:
        return None


_NO_RUN = "a poll is part of no run, and only answers; what needs a run belongs into a task"
_RUNLESS = _Runless()


def produced(
    runtime: Runtime, run: LiveRun, progress: Progress, result: Any, secrets: Collection[str] = ()
) -> Produced:
    """What a step has produced with a result: whether that counts, and if so its outputs.

    ``secrets`` are the pointers to what of the result is not kept on record.

    Raises:
        BadOutput, ExpressionError: it cannot be kept, or the outputs have no value.
    """
    output, encoded = checked_output(result)
    if secrets:
        encoded = encode(masked(output, secrets))
    try:
        again = wait_before_next(run, progress, runtime.clock, result=output)
    except Exception as error:
        return Produced(output, encoded, again=error)
    step = progress.step
    if again is not None or not step.outputs:
        return Produced(output, encoded, again=again)
    scope = {**scope_for(run, progress, runtime.clock), "result": output}
    outputs = {name: value.render(scope) for name, value in step.outputs.items()}
    checked_output(outputs)
    return Produced(output, encoded, outputs)


def checked_output(output: Any) -> tuple[Any, bytes]:
    """Encode plain JSON data.

    Raises:
        BadOutput: it is larger than an output may be, or has no JSON text.
    """
    try:
        encoded = encode(output)
    except Exception as error:
        raise BadOutput(f"the result has no JSON text: {error}") from None
    if len(encoded) > MAX_OUTPUT:
        raise too_large(len(encoded))
    return output, encoded


def _parameters(runtime: Runtime, run: LiveRun, attempt: Attempt) -> dict[str, Any]:
    given = attempt.step.step.params
    if not given:
        return {}
    constant = all(value.constant for value in given.values())
    scope = {} if constant else scope_for(run, attempt.step, runtime.clock)
    params = {name: value.render(scope) for name, value in given.items()}
    _check_secrets(runtime, attempt.step.step.action, params)
    return params


def _check_secrets(runtime: Runtime, action: str, params: Mapping[str, Any]) -> None:
    if runtime.redactor.knows and action in COMMAND_LINES:
        _check_command_line(runtime.redactor, action, params)


def _check_command_line(redactor: Redactor, action: str, params: Mapping[str, Any]) -> None:
    for key in COMMAND_LINES[action]:
        if redactor.plain(params.get(key)) is not params.get(key):
            raise ParamsInvalid(f"{action}: {key}: {ON_COMMAND_LINE}")


def _prepare(
    runtime: Runtime, home: Generation, attempt: Attempt, action: Action, params: Mapping[str, Any]
) -> Callable[..., Any]:
    """Check the parameters and give what calls the action with them, here or in a process of its own."""
    arguments = action.bind(params)
    if action.isolated:
        return partial(run_action, _context(runtime, home, attempt), home, action, params)
    given = (_context(runtime, home, attempt),) if action.wants_context else ()
    return partial(action.function, *given, **arguments)


async def _call(runtime: Runtime, attempt: Attempt, action: Action, call: Callable[[], Any]) -> Any:
    if action.is_async or action.isolated:
        return await call()
    attempt.wants_thread = True
    # Not abandoned: anyio's own shield keeps this child here until the thread is done, so that a result within the
    # grace counts and nothing runs on unseen. When the grace is over the attempt is stuck like any other.
    result, error = await to_thread.run_sync(partial(attempt.run_in_thread, call), limiter=runtime.threads)
    if error is not None:
        raise error
    return result


def _context(runtime: Runtime, home: Generation, attempt: Attempt) -> Context:
    attempt.calls, attempt.emits, attempt.home = runtime.calls, runtime.emits, home.plan
    attempt.states, attempt.checkpoints = runtime.plan_states, runtime.checkpoints
    return Context(
        attempt,
        cid=attempt.run.cid,
        step=attempt.step.name,
        attempt=attempt.step.attempt,
        variables=home.plan.vars,
        secrets=runtime.secrets.of(home.plan),
    )
