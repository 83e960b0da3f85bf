"""``aura run``: start a task, follow it, print its result."""

from pathlib import Path

import click

from aura.cli.completing import complete_task
from aura.cli.inputs import pairs, read_inputs
from aura.cli.local import open_local
from aura.cli.options import duration_of, open_client, server_options
from aura.errors import ExitCode


def _task_name(_: click.Context, parameter: click.Parameter, value: str) -> tuple[str, str]:
    plan_name, _slash, task_name = value.partition("/")
    if not plan_name or not task_name:
        raise click.BadParameter(f"{value!r} is not PLAN/TASK; `aura tasks` lists them", param=parameter)
    return plan_name, task_name


@click.command
@click.argument("task", metavar="PLAN/TASK", callback=_task_name, shell_complete=complete_task)
@click.option("-i", "given", metavar="K=V", multiple=True, callback=pairs, help="An input, read by its type.")
@click.option("--inputs", "file", metavar="FILE|-", help="Inputs as a JSON object in a file, or on stdin.")
@click.option("--priority", type=click.IntRange(-1000, 1000), help="-1000 to 1000, higher first.  [the task's]")
@click.option("--lane", help="The lane to wait in.  [the task's]")
@click.option("--delay", metavar="DURATION", help="Start it after so long at the earliest, such as 5m.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="A label; may be repeated.")
@click.option("--idempotency-key", "key", metavar="KEY", help="Asked again with the same key, it is the same run.")
@click.option("-d", "--detach", is_flag=True, help="Print the run's id and do not follow it.")
@click.option("--local", is_flag=True, help="Run it in this process, without a server and without a data folder.")
@click.option("--plans", type=click.Path(path_type=Path), metavar="DIR", help="With --local: the folder of the plans.")
@server_options
def run(
    task: tuple[str, str],
    given: list[tuple[str, str]],
    file: str | None,
    priority: int | None,
    lane: str | None,
    delay: str | None,
    labels: list[tuple[str, str]],
    key: str | None,
    detach: bool,
    local: bool,
    plans: Path | None,
) -> int:
    """Run a task: its steps and log on stderr, its result as JSON on stdout.

    Ctrl-C cancels the run and waits for its clean-up; a second one leaves at once. Exit 1 if it does not succeed.
    """
    delay_s = None if delay is None else duration_of("--delay", delay)
    if plans is not None and not local:
        raise click.UsageError("--plans goes with --local: a server has its own")
    with open_local(plans, detach) if local else open_client() as client:
        accepted = client.run_task(
            *task,
            read_inputs(client, task, file, given),
            priority=priority,
            lane=lane,
            delay_s=delay_s,
            labels=dict(labels),
            idempotency_key=key,
        )
        if not detach:
            from aura.cli.follow import follow_to_end

            return follow_to_end(client, accepted.cid, kept=not local)
    click.echo(accepted.cid)
    return ExitCode.OK
