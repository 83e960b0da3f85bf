"""``aura cancel pause resume priority rerun``: what is told to runs."""

import click

from aura.cli.cids import find_cid
from aura.cli.completing import complete_cid
from aura.cli.inputs import pairs
from aura.cli.options import RUN_STATES, json_option, open_client, plan_and_task, server_options
from aura.cli.output import one_line, print_json, say
from aura.errors import ExitCode

_CID = click.argument("cid", shell_complete=complete_cid)


@click.command
@click.argument("cid", required=False, shell_complete=complete_cid)
@click.option("--state", type=RUN_STATES, metavar="STATE", help="All runs in this state.")
@click.option("--task", metavar="PLAN[/TASK]", help="All runs of this plan, or of this task.")
@click.option("--lane", help="All runs of this lane.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="All runs with this label.")
@click.option("--reason", help="Why; it is kept with the run.")
@server_options
@json_option
def cancel(
    cid: str | None,
    state: str | None,
    task: str | None,
    lane: str | None,
    labels: list[tuple[str, str]],
    reason: str | None,
    as_json: bool,
) -> None:
    """Cancel a run that has not ended, or all that fit the filters. CID may be shortened, or @last."""
    if (cid is None) == (not any((state, task, lane, labels))):
        raise click.UsageError("say which: a CID, or one at least of --state --task --lane --label")
    if cid is not None:
        _cancel_one(cid, reason, as_json)
        return
    if reason is not None:
        raise click.UsageError("--reason goes with a CID")
    plan_name, task_name = plan_and_task(task)
    with open_client() as client:
        found = client.cancel_where(
            state=state, plan_name=plan_name, task_name=task_name, lane=lane, labels=dict(labels)
        )
    if as_json:
        print_json({"cancelled": found})
    else:
        for one in found:
            click.echo(one)
        say(f"{len(found) or 'no'} run{'' if len(found) == 1 else 's'} told to cancel")


def _cancel_one(cid: str, reason: str | None, as_json: bool) -> None:
    with open_client() as client:
        answer = client.cancel(find_cid(client, cid), reason)
    _say_state(answer.cid, answer.state, answer, as_json)


@click.command
@_CID
@click.option("--reason", help="Why; it is kept with the run.")
@server_options
@json_option
def pause(cid: str, reason: str | None, as_json: bool) -> None:
    """Stop a run so that it can go on later: it keeps what it has done and gives its place back."""
    with open_client() as client:
        answer = client.pause(find_cid(client, cid), reason)
    _say_state(answer.cid, answer.state, answer, as_json)


@click.command
@_CID
@server_options
@json_option
def resume(cid: str, as_json: bool) -> None:
    """Let a paused run go on, as soon as there is a place."""
    with open_client() as client:
        answer = client.resume(find_cid(client, cid))
    _say_state(answer.cid, answer.state, answer, as_json)


@click.command(context_settings={"ignore_unknown_options": True})  # -5 is a number here
@_CID
@click.argument("number", metavar="N", type=click.IntRange(-1000, 1000))
@server_options
@json_option
def priority(cid: str, number: int, as_json: bool) -> None:
    """Change the priority of a run, -1000 to 1000, higher first; a queued one moves at once."""
    with open_client() as client:
        answer = client.set_priority(find_cid(client, cid), number)
    if as_json:
        print_json(answer)
    else:
        say(f"{answer.cid} has priority {answer.priority} and is {one_line(answer.state)}")


@click.command
@_CID
@click.option("--from", "step", metavar="STEP", help="Keep the results of the steps before this one.")
@click.option("-f", "--follow", is_flag=True, help="Follow the new run and print its result, as `aura run` does.")
@server_options
@json_option
def rerun(cid: str, step: str | None, follow: bool, as_json: bool) -> int:
    """Run again what an ended run did, with the same inputs, and print the new run's id."""
    with open_client() as client:
        accepted = client.rerun(find_cid(client, cid), step)
        if follow:
            from aura.cli.follow import follow_to_end

            return follow_to_end(client, accepted.cid)
    if as_json:
        print_json(accepted)
    else:
        click.echo(accepted.cid)
    return ExitCode.OK


def _say_state(cid: str, state: str, answer: object, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(f"{cid} is {one_line(state)}")
