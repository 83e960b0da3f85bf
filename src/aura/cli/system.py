"""``aura status start stop reload``: a running server and the engine in it."""

from typing import Any

import click

from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import local_time, one_line, print_facts, print_json, print_table, say, seconds, short_hash
from aura.duration import parse_duration
from aura.errors import ExitCode


@click.command
@server_options
@json_option
def status(as_json: bool) -> None:
    """Show how the server fares: its engine, its lanes, its plans."""
    with open_client() as client:
        found = client.status()
    if as_json:
        print_json(found)
        return
    print_facts(
        [
            ("state", found["state"]),
            ("version", found["version"]),
            ("started", local_time(found["started_at"])),
            ("up for", seconds(found["uptime_s"])),
            ("plans", ", ".join(f"{count} {word}" for word, count in found["plans"].items() if count) or "none"),
            *(("reason", reason) for reason in found["reasons"]),
            *(("service", _said_of(name, child)) for name, child in found["services"].items() if child["failures"]),
        ]
    )
    rows = [(name, lane["running"], lane["limit"], lane["queued"]) for name, lane in found["lanes"].items()]
    print_table(("LANE", "RUNNING", "LIMIT", "QUEUED"), rows)


@click.command
@server_options
@json_option
def start(as_json: bool) -> None:
    """Start the engine of a running server."""
    with open_client() as client:
        answer = client.start()
    _say_state(answer, as_json, "queued runs start now")


@click.command
@click.option("--drain", "mode", flag_value="drain", default="drain", help="Let what runs end until the grace is over.")
@click.option("--cancel", "mode", flag_value="cancel", help="Stop what runs at once.")
@click.option("--grace", metavar="DURATION", help="How long it may take, such as 30s.  [the server's]")
@server_options
@json_option
def stop(mode: str, grace: str | None, as_json: bool) -> None:
    """Stop the engine; the server still answers and accepts runs, which wait until `aura start`."""
    grace_s = None if grace is None else float(duration_of("--grace", grace))
    with open_client() as client:
        answer = client.stop(mode, grace_s)
    _say_state(answer, as_json, "the server still answers and accepts runs; they wait until `aura start`")


@click.command
@server_options
@json_option
def reload(as_json: bool) -> int:
    """Load the plans again; exit 1 if one of them is broken or stale."""
    with open_client() as client:
        plans = client.reload()
    if as_json:
        print_json({"plans": plans})
    else:
        print_table(
            ("PLAN", "STATUS", "GENERATION"), [(p["name"], p["status"], short_hash(p["generation"])) for p in plans]
        )
        for plan in plans:
            say_problems(plan["errors"])
    return ExitCode.OK if all(plan["status"] == "ready" for plan in plans) else ExitCode.FAILED


def duration_of(option: str, text: str) -> float:
    """Read the duration that an option got.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def say_problems(problems: list[dict[str, Any]]) -> None:
    """Each problem of a plan as file:line:column: message."""
    for problem in problems:
        place = ":".join(str(problem[key]) for key in ("file", "line", "column"))
        say(f"{one_line(place)}: {one_line(problem['message'])}")


def _said_of(name: str, child: dict[str, Any]) -> str:
    times = "once" if child["failures"] == 1 else f"{child['failures']} times"
    return f"{name} is {child['state']}, has failed {times}, the last time with {child['last_error']}"


def _say_state(answer: dict[str, Any], as_json: bool, then: str) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(one_line(answer["state"]))
        say(then)
