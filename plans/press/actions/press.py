"""What the press can do. Each act takes its time, and each that may be stopped midway leaves the machine safe."""

import anyio

from aura import Context, action

from .machine import Machine

#: Heating and cooling go in this many stages.
STAGES = 4


class PaperJam(Exception):
    """The paper is stuck in the press."""


@action
async def load_paper(ctx: Context, sheets: int) -> int:
    """Put sheets into the tray."""
    Machine(ctx.workdir).write(f"loaded {sheets} sheets")
    return sheets


@action
async def heat_up(ctx: Context, target: int, pace: float) -> int:
    """Heat the press to a temperature, in stages."""
    return await _go_to(ctx, target, pace, "heating")


@action
async def cool_down(ctx: Context, target: int, pace: float) -> int:
    """Cool the press to a temperature, in stages."""
    return await _go_to(ctx, target, pace, "cooling")


async def _go_to(ctx: Context, target: int, pace: float, doing: str) -> int:
    machine = Machine(ctx.workdir)
    start = machine.temperature
    for stage in range(1, STAGES + 1):
        await anyio.sleep(pace)
        machine.set_temperature(start + (target - start) * stage // STAGES)
        ctx.progress(stage, STAGES, f"{doing}, {machine.temperature} degrees")
    machine.write(f"{doing} done at {machine.temperature}")
    return machine.temperature


@action
async def print_sheets(ctx: Context, sheets: int, pace: float, jam_at: int = 0) -> int:
    """Print sheets one by one; stopped midway, the head is lifted off the paper first. It goes on behind the last."""
    machine = Machine(ctx.workdir)
    machine.write("head down")
    try:
        for sheet in range((ctx.checkpointed or 0) + 1, sheets + 1):
            await anyio.sleep(pace)
            if sheet == jam_at:
                raise PaperJam(f"the paper jammed at sheet {sheet}")
            with ctx.cleanup(timeout=2):  # a sheet that is out is counted, whatever comes
                machine.write(f"printed {sheet}")
                await ctx.checkpoint(sheet)
            ctx.progress(sheet, sheets, f"sheet {sheet}")
    finally:
        ctx.log.info("lifting the head")
        await anyio.sleep(min(pace, 0.5))
        machine.write("head up")
    return sheets


@action
async def trim_edges(ctx: Context, sheets: int, pace: float) -> int:
    """Cut the edges of all sheets at once; what has begun is finished, since half a cut is waste."""
    machine = Machine(ctx.workdir)
    with ctx.cleanup(timeout=pace + 1):
        machine.write("knife down")
        await anyio.sleep(pace)
        machine.write("knife up")
    return sheets


@action
async def park_carriage(ctx: Context) -> None:
    """Move the carriage to where it is safe."""
    Machine(ctx.workdir).write("parked")
    ctx.log.info("the carriage is parked")


@action
async def home_carriage(ctx: Context) -> None:
    """Move the carriage from where it is safe to where it prints."""
    Machine(ctx.workdir).write("homed")
    ctx.log.info("the carriage is back at its place")


@action
async def eject_paper(ctx: Context) -> None:
    """Throw out what is stuck."""
    Machine(ctx.workdir).write("ejected")
    ctx.log.warning("the jammed paper is out")
