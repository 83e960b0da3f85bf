"""``aura init``: a plans folder with a small plan that works, and its tests, to be changed into one's own."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import click

from aura.cli.output import one_line, print_json, say
from aura.cli.schema import schema_of
from aura.errors import CannotCreate

NAME = "hello"
#: The plan's files. They teach: every line has been there for somebody who has never seen one.
FILES = {
    "plan.yaml": """\
# yaml-language-server: $schema=.schema/plan.json
# A plan is a folder below the plans folder, and its name is the folder's. This file is optional.
title: Hello
description: A first plan, made by `aura init`. Change it, or take it as a pattern and remove it.
""",
    "tasks/greet.yaml": """\
# yaml-language-server: $schema=../.schema/task.json
# The line above tells an editor what may stand here; `aura schema task` prints the file that it names.
#
# A task is a file in tasks/; this one is hello/greet. Try it:
#   aura run hello/greet
#   aura run hello/greet -i who=Ann -i times=3
title: Greet someone

# What may be given. An input without a default is required. What is given is checked before the run is accepted.
inputs:
  who: {type: string, default: world, max_length: 100, description: Whom to greet}
  times: {type: integer, minimum: 1, maximum: 10, default: 1}

# A step calls an action: one that Aura ships, such as log or shell.run, or one of this plan's own Python functions.
# Steps that depend on nothing start together; depends_on makes one wait for others.
steps:
  make:
    action: greeting            # the function in actions/greetings.py
    params:                     # {{ … }} is an expression; put quotes around it
      who: "{{ inputs.who }}"
      times: "{{ inputs.times }}"
  say:
    action: log                 # writes a line to the run's log
    params: {message: "{{ steps.make.output }}"}
    depends_on: make

# The result of the run: `aura run` prints it.
returns: {greeting: "{{ steps.make.output }}"}
""",
    "actions/greetings.py": '''\
"""Actions of the plan: what its tasks can do beyond what Aura ships."""

from aura import Context, action


@action
async def greeting(ctx: Context, who: str, times: int = 1) -> str:
    """Make a greeting.

    Parameters and result are checked against the annotations. `ctx` is what Aura hands to an action: its log, its
    progress, its own folder `ctx.workdir`. An action that needs none of it may leave it out.
    """
    for number in range(times):
        ctx.progress(number + 1, times)
    return ", ".join(["Hello"] * times) + f" {who}!"
''',
    "tests/test_hello.py": '''\
"""The plan's tests. `aura test hello` runs them, and so does `pytest`.

A test that asks for `world` has a server of its own, in memory and in virtual time: an hour passes at once. Nothing in
it touches the machine unless the test allows that.
"""


async def test_greeting_is_the_result(world):
    run = await world.run("greet", inputs={"who": "Ann", "times": 2})
    assert run.state == "succeeded", run.explain()  # explain() is the run as a tree, with what failed where
    assert run.result == {"greeting": "Hello, Hello Ann!"}


async def test_greeting_is_said(world):
    # A fake stands in for an action. It is held to what the real one could take and give.
    greeting = world.fake("greeting", returns="Good morning!")
    run = await world.run("greet")
    run.assert_succeeded()
    assert greeting.calls == [{"who": "world", "times": 1}]
    assert [line["message"] for line in run.logs("info")] == ["Good morning!"]


async def test_nothing_is_said_when_the_greeting_fails(world):
    world.fake("greeting", raises=ConnectionError("nobody is there"))
    run = await world.run("greet")
    run.assert_state("failed")
    run.assert_steps(make="failed", say="skipped")


async def test_greeting_may_take_an_hour(world):
    world.fake("greeting", returns="At last!", takes="1h")
    run = await world.start("greet")  # returns as soon as it is accepted; run() waits for its end
    await world.until(run, step="make", state="running")
    await world.advance(minutes=59)
    run.assert_state("running")
    await world.settle()  # until everything has ended
    assert run.result == {"greeting": "At last!"}


def test_greet_may_be_stopped_anywhere(sweep):
    # One run for each place at which it can be stopped, cancelled there, and a look at what is left of it.
    sweep("greet").assert_clean()
''',
}


def files() -> dict[str, str]:
    """All files of the plan, by their names in it: those above, and for editors the schemas that they name."""
    schemas = {kind: json.dumps(schema_of(kind), ensure_ascii=False, indent=1) + "\n" for kind in ("plan", "task")}
    return FILES | {f".schema/{kind}.json": text for kind, text in schemas.items()}


@click.command
@click.argument("folder", metavar="[DIR]", default="plans", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def init(folder: Path, as_json: bool) -> None:
    """Write a plans folder with a small working plan and its tests in it.

    It is `plans` unless DIR names another. A folder that is there already gets the plan added; nothing is overwritten.
    """
    plan = folder / NAME
    _make_folder(folder)
    _write_plan(folder, plan)
    if as_json:
        print_json({"plans": str(folder), "plan": NAME, "files": [str(plan / name) for name in files()]})
        return
    for name in files():
        click.echo(one_line(str(plan / name)))
    say(one_line(f"now: aura test --plans {folder}"))
    say(one_line(f"and: aura serve --plans {folder}; then, in a second terminal: aura run {NAME}/greet"))


def _make_folder(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise CannotCreate(f"{folder} is there and is not a folder; name another folder")
    if os.path.lexists(folder / NAME):
        raise CannotCreate(f"{folder / NAME} is there already and is left as it is; name another folder, or move it")
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreate(f"{folder} cannot be made: {error.strerror}; name another folder") from error


def _write_plan(folder: Path, plan: Path) -> None:
    """Write the plan beside its place and give it its name when it is whole; a server never sees a part of it."""
    try:
        partial = Path(tempfile.mkdtemp(prefix=".aura-init-", dir=folder))
    except OSError as error:
        raise CannotCreate(f"{folder} cannot be written: {error.strerror}; name another folder") from error
    try:
        partial.chmod(0o755)
        for name, text in files().items():
            _write(partial / name, text)
        partial.rename(plan)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CannotCreate(f"{plan} cannot be made: {error.strerror}; nothing was left behind") from error


def _write(file: Path, text: str) -> None:
    """Not writable by others, whatever the umask says: who can write a plan can run code."""
    file.parent.mkdir(exist_ok=True)
    file.parent.chmod(0o755)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o644)
