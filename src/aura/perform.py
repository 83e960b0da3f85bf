"""What happens inside an attempt: parameters are rendered and checked, the action is called, its result is checked.

All of it runs inside the attempt's boundary, so that whatever it raises is a value there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from anyio import to_thread

from aura.actions import MAX_OUTPUT, Action, Context
from aura.attempt import Attempt
from aura.errors import BadOutput
from aura.generation import Generation
from aura.liverun import LiveRun
from aura.records.columns import encode
from aura.retries import wait_before_next
from aura.runtime import Runtime
from aura.scope import scope_for


class Produced(NamedTuple):
    """What an attempt produced: its output, the same as JSON, and the step's declared outputs.

    ``again`` is None if that counts; else there is another try after so many seconds, or nobody can say whether.
    """

    output: Any
    output_json: bytes
    outputs: dict[str, Any] | None = None
    again: float | Exception | None = None


async def perform(runtime: Runtime, run: LiveRun, attempt: Attempt) -> Produced:
    """Do what a step says and give what it produced. Raises whatever goes wrong."""
    assert run.generation is not None
    step = attempt.step.step
    home = run.generation.home_of(step.action)  # held here, with its modules, as long as its code runs
    action = home.action(step.action)
    arguments = action.bind(_parameters(runtime, run, attempt))
    given = (_context(runtime, run, home, attempt),) if action.wants_context else ()
    result = await _call(runtime, attempt, action, partial(action.function, *given, **arguments))
    output, encoded = checked_output(action.check_result(result))
    try:
        again = wait_before_next(run, attempt.step, runtime.clock, result=output)
    except Exception as error:
        return Produced(output, encoded, again=error)
    if again is not None or not step.outputs:
        return Produced(output, encoded, again=again)
    scope = {**scope_for(run, attempt.step, runtime.clock), "result": output}
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
        raise BadOutput(
            f"the result is {len(encoded)} bytes of JSON; at most {MAX_OUTPUT} are kept: write it to a file"
        )
    return output, encoded


def _parameters(runtime: Runtime, run: LiveRun, attempt: Attempt) -> dict[str, Any]:
    given = attempt.step.step.params
    constant = all(value.constant for value in given.values())
    scope = {} if constant else scope_for(run, attempt.step, runtime.clock)
    return {name: value.render(scope) for name, value in given.items()}


async def _call(runtime: Runtime, attempt: Attempt, action: Action, call: Callable[[], Any]) -> Any:
    if action.is_async:
        return await call()
    attempt.wants_thread = True
    # Not abandoned: anyio's own shield keeps this child here until the thread is done, so that a result within the
    # grace counts and nothing runs on unseen. When the grace is over the attempt is stuck like any other.
    result, error = await to_thread.run_sync(partial(attempt.run_in_thread, call), limiter=runtime.threads)
    if error is not None:
        raise error
    return result


def _context(runtime: Runtime, run: LiveRun, home: Generation, attempt: Attempt) -> Context:
    attempt.calls, attempt.home = runtime.calls, home.plan
    return Context(
        attempt,
        cid=run.cid,
        step=attempt.step.name,
        attempt=attempt.step.attempt,
        variables=home.plan.vars,
        secrets={},
    )
