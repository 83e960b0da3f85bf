"""What happens inside an attempt: parameters are rendered and checked, the action is called, its result is checked.

All of it runs inside the attempt's boundary, so that whatever it raises is a value there.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from anyio import to_thread

from aura.actions import MAX_OUTPUT, Action, Context
from aura.attempt import Attempt
from aura.errors import BadOutput
from aura.expressions import Template
from aura.liverun import LiveRun
from aura.records.columns import encode
from aura.runtime import Runtime
from aura.scope import scope_of

#: (output, the same as JSON, the step's declared outputs)
Produced = tuple[Any, bytes, dict[str, Any] | None]


async def perform(runtime: Runtime, run: LiveRun, attempt: Attempt) -> Produced:
    """Do what a step says and give what it produced. Raises whatever goes wrong."""
    assert run.generation is not None
    step = attempt.step.step
    action = run.generation.action(step.action)
    arguments = action.bind({name: _render(runtime, run, value) for name, value in step.params.items()})
    result = await _call(runtime, run, attempt, action, arguments)
    output, encoded = checked_output(action.check_result(result))
    if not step.outputs:
        return output, encoded, None
    scope = {**scope_of(run, runtime.clock), "result": output}
    outputs = {name: value.render(scope) for name, value in step.outputs.items()}
    checked_output(outputs)
    return output, encoded, outputs


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


def _render(runtime: Runtime, run: LiveRun, value: Template) -> Any:
    return value.render({} if value.constant else scope_of(run, runtime.clock))


async def _call(runtime: Runtime, run: LiveRun, attempt: Attempt, action: Action, arguments: Mapping[str, Any]) -> Any:
    function = action.function
    if action.wants_context:
        function = partial(function, _context(run, attempt))
    if action.is_async:
        return await function(**arguments)
    # Not abandoned: anyio's own shield keeps this child here until the thread is done, so that a result within the
    # grace counts and nothing runs on unseen. When the grace is over the attempt is stuck like any other.
    call = partial(attempt.run_in_thread, partial(function, **arguments))
    result, error = await to_thread.run_sync(call, limiter=runtime.threads)
    if error is not None:
        raise error
    return result


def _context(run: LiveRun, attempt: Attempt) -> Context:
    assert run.generation is not None
    return Context(
        attempt,
        cid=run.cid,
        step=attempt.step.name,
        attempt=attempt.step.attempt,
        variables=run.generation.plan.vars,
        secrets={},
    )
