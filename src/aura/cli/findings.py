"""What ``aura doctor`` says: findings, each of one thing, with what to do about it."""

from collections.abc import Iterable
from typing import Literal

import click
import msgspec

from aura.cli.output import one_line, print_json

Level = Literal["ok", "warn", "fail"]
_COLOURS: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``advice`` is what to do, empty where there is nothing to do."""

    level: Level
    what: str
    detail: str
    advice: str = ""


def ok(what: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what, detail)


def warn(what: str, detail: str, advice: str) -> Finding:
    """It works, but an operator should know."""
    return Finding("warn", what, detail, advice)


def fail(what: str, detail: str, advice: str) -> Finding:
    """A server does not start with it, or does not do what it is for."""
    return Finding("fail", what, detail, advice)


def show(findings: Iterable[Finding], as_json: bool) -> bool:
    """Print the findings as they come, or all as JSON; true if none is a failure."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            click.echo(f"{click.style(f'{finding.level:<4}', fg=_COLOURS[finding.level])}  {_line(finding)}")
    sound = all(finding.level != "fail" for finding in seen)
    if as_json:
        print_json({"ok": sound, "items": msgspec.to_builtins(seen)})
    return sound


def _line(finding: Finding) -> str:
    advice = f"; {finding.advice}" if finding.advice else ""
    return one_line(f"{finding.what}: {finding.detail}{advice}")
