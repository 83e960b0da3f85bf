"""Interrupt rules: which there are and how they stand, firing them by hand, switching them on and off."""

from typing import Any

import msgspec
from starlette.responses import Response

from aura import api
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.query import PageQuery, page_by_name


class FireBody(msgspec.Struct, frozen=True):
    """What the event that fires the rule says: any JSON; ``dry_run``: say what would happen, and do nothing."""

    payload: Any = None
    dry_run: bool = False


async def list_rules(call: Call) -> Response:
    """List the interrupt rules by plan and name, with when they fired last and what they stopped then."""
    rules = call.engine.rules()
    names = [f"{rule['plan_name']}/{rule['rule']}" for rule in rules]
    found, cursor = page_by_name(rules, names, call.query(PageQuery), "rules")
    return json_response(shapes.page([shapes.rule(rule) for rule in found], cursor))


async def fire(call: Call) -> Response:
    """Fire a rule, whether or not it is switched on. Answered once that is on record.

    With ``dry_run`` nothing is done, and the answer says what would be.
    """
    plan_name, rule_name = call.path["plan"], call.path["rule"]
    body = await call.body(FireBody)
    if body.dry_run:
        return json_response(shapes.dry_run(call.engine.dry_run(plan_name, rule_name)))
    return json_response(shapes.emitted(await call.engine.fire(plan_name, rule_name, body.payload)), 202)


async def enable(call: Call) -> Response:
    """Switch a rule on, until its file says something else. Answered once that is on record."""
    return await _switch(call, True)


async def disable(call: Call) -> Response:
    """Switch a rule off, until its file says something else: its triggers fire it no more."""
    return await _switch(call, False)


async def _switch(call: Call, enabled: bool) -> Response:
    plan_name, rule_name = call.path["plan"], call.path["rule"]
    by = call.door.auth.tokens.name_of(call.grant)
    await call.engine.switch_rule(plan_name, rule_name, enabled, by)
    return json_response(shapes.rule(call.engine.rule(plan_name, rule_name)))


ROUTES = [
    ApiRoute("GET", "/api/interrupts", list_rules, Access.READ, query=PageQuery, answers={200: api.Page[api.Rule]}),
    ApiRoute(
        "POST",
        "/api/interrupts/{plan}/{rule}/fire",
        fire,
        Access.RUN,
        body=FireBody,
        answers={200: api.DryRun, 202: api.EmittedEvent},
    ),
    ApiRoute("POST", "/api/interrupts/{plan}/{rule}/enable", enable, Access.MANAGE, answers={200: api.Rule}),
    ApiRoute("POST", "/api/interrupts/{plan}/{rule}/disable", disable, Access.MANAGE, answers={200: api.Rule}),
]
