"""The shipped actions: what every plan can use without writing Python. ``docs/reference/actions.md`` describes them."""

from functools import cache

from aura.actions import Action, is_action


def shipped() -> dict[str, Action]:
    """Give all shipped actions by their full names. The modules are imported here, when they are first asked for."""
    return {action.name: action for action in _made()}


@cache  # they never change, and to read their signatures takes some milliseconds: a sweep opens a thousand worlds
def _made() -> tuple[Action, ...]:
    from aura.builtin import data, events, files, flow, http, python, shell, state, tasks, text, waiting

    modules = (state, flow, shell, http, files, text, data, tasks, events, waiting, python)
    candidates = [value for module in modules for value in vars(module).values() if is_action(value)]
    made = [Action.of(function) for function in candidates]
    return tuple(sorted(made, key=lambda action: action.name))
