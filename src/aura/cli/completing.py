"""What a shell is offered while PLAN/TASK or CID is typed: asked of the server, and nothing if it is not quick.

A completion must never hold up typing and never print: whatever goes wrong, there is nothing to offer.
"""

import threading
from collections.abc import Callable
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from aura import api
from aura.cli.cids import LAST, find_cid
from aura.cli.output import one_line, short_cid, step_text

if TYPE_CHECKING:
    from aura.client import Client

#: Seconds for the answer; after that a person waits for the shell.
PATIENCE = 0.3
OFFERED = 50

Ask = Callable[["Client"], list[CompletionItem]]


def complete_task(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The tasks whose PLAN/TASK begins with what is there."""

    def ask(client: "Client") -> list[CompletionItem]:
        wanted, slash, _ = incomplete.partition("/")
        plans = [plan.name for plan in client.plans() if plan.status != "broken"]
        names = [name for name in plans if (name == wanted if slash else name.startswith(wanted))]
        found = [(f"{name}/{task.name}", task.title) for name in names for task in client.tasks(name)]
        return [CompletionItem(name, help=one_line(title)) for name, title in found if name.startswith(incomplete)]

    return _asked(context, ask)


def complete_cid(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest runs, by the end of their ids as tables show it, or by the beginning if that is what is there."""

    def ask(client: "Client") -> list[CompletionItem]:
        runs = list(islice(client.runs(page_size=OFFERED), OFFERED))
        offered = [CompletionItem(short_cid(run.cid), help=_said(run)) for run in runs]
        if incomplete:
            offered += [CompletionItem(run.cid, help=_said(run)) for run in runs]
        last = CompletionItem(LAST, help="the run accepted last")
        return [item for item in (last, *offered) if item.value.startswith(incomplete)]

    return _asked(context, ask)


def complete_rule(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The interrupt rules whose PLAN/RULE begins with what is there."""

    def ask(client: "Client") -> list[CompletionItem]:
        found = [(f"{rule.plan_name}/{rule.rule}", rule.task_name) for rule in client.interrupts()]
        return [CompletionItem(name, help=one_line(task)) for name, task in found if name.startswith(incomplete)]

    return _asked(context, ask)


def complete_item(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The items of schedules whose PLAN/ITEM begins with what is there."""

    def ask(client: "Client") -> list[CompletionItem]:
        found = [(f"{item.plan_name}/{item.item}", item.task_name) for item in client.schedule()]
        return [CompletionItem(name, help=one_line(task)) for name, task in found if name.startswith(incomplete)]

    return _asked(context, ask)


def complete_waiting(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest runs with a step that waits for an answer, by the end of their ids."""

    def ask(client: "Client") -> list[CompletionItem]:
        runs = islice(client.runs(state="waiting", page_size=OFFERED), OFFERED)
        offered = [
            CompletionItem(short_cid(run.cid), help=_said(run)) for run in (*runs, *client.active_runs()) if _asks(run)
        ]
        return [item for item in offered if item.value.startswith(incomplete)]

    return _asked(context, ask)


def complete_asked(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The steps of the run that was named before which wait for an answer."""

    def ask(client: "Client") -> list[CompletionItem]:
        run = client.get_run(find_cid(client, context.params["cid"]))
        offered = [CompletionItem(step_text(wait), help=one_line(wait.message)) for wait in _asks(run)]
        return [item for item in offered if item.value.startswith(incomplete)]

    return _asked(context, ask)


def _asks(run: api.RunShort) -> list[api.Wait]:
    return [wait for wait in (run.waiting_for.waits if run.waiting_for else ()) if wait.kind == "approval"]


def _said(run: api.RunShort) -> str:
    return one_line(f"{run.plan_name}/{run.task_name} {run.state}")


def _asked(context: click.Context, ask: Ask) -> list[CompletionItem]:
    """Ask in a thread of its own, so that a server that hangs is left behind when the time is over."""
    from aura.cli.options import open_client

    found: list[CompletionItem] = []

    def work() -> None:
        try:
            with context.scope(cleanup=False), open_client() as client:
                found.extend(ask(client))
        except Exception:
            found.clear()  # no server, no token, a bad setting: what is typed next will be told so

    for module in ("httpx2", "aura.client"):
        import_module(module)  # this machine's time, not the server's

    thread = threading.Thread(target=work, name="completion", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return [] if thread.is_alive() else found
