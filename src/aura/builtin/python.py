"""The shipped action ``python.run``: a script in a process of its own. ``isolation`` owns that process."""

from typing import Any

from aura.actions import action
from aura.builtin import files
from aura.context import Context
from aura.errors import ParamsInvalid
from aura.isolation.calls import run_code

#: What a script that is no file is called in tracebacks.
NO_FILE = "<code>"


@action(name="python.run")
async def run(
    ctx: Context,
    code: str | None = None,
    file: str | None = None,
    inputs: dict[str, Any] = {},  # noqa: B006 - an action's default is copied
) -> Any:
    """Run a Python script, its text (code) or a file, and give what it leaves in `result`."""
    if (code is None) == (file is None):
        raise ParamsInvalid("python.run needs either code (the text of a script) or file (its path), and not both")
    if code is not None:
        return await run_code(ctx, code, NO_FILE, None, inputs)
    assert file is not None
    path = files.inside(ctx.workdir, file)
    source = await files.read(ctx, file)
    return await run_code(ctx, source.removeprefix("\ufeff"), str(path), str(path.parent), inputs)
