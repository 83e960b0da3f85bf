"""What can be run: plans, their tasks, the actions that they are made of."""

from collections.abc import Iterator
from contextlib import suppress

from starlette.responses import Response

from aura import api
from aura.actions import Action
from aura.errors import RequestError
from aura.servicedef import Service
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.facade import Engine, Generation
from aura.web.query import PageQuery, page_by_name


async def list_plans(call: Call) -> Response:
    """List the plans by name, with what is wrong with those that cannot be served."""
    plans = sorted(call.engine.generations.statuses(), key=lambda plan: plan.name)
    found, cursor = page_by_name(plans, [p.name for p in plans], call.query(PageQuery), "plans")
    preempting = call.engine.plans_that_preempt_others()
    return json_response(shapes.page([shapes.plan(plan, plan.name in preempting) for plan in found], cursor))


async def list_tasks(call: Call) -> Response:
    """List the tasks of a plan by name."""
    tasks = call.engine.generations.current(call.path["plan"]).plan.tasks
    names = sorted(tasks)
    found, cursor = page_by_name([tasks[name] for name in names], names, call.query(PageQuery), "tasks")
    starting = call.engine.schedules.starting(call.path["plan"])
    return json_response(shapes.page([shapes.task(task, starting.get(task.name, ())) for task in found], cursor))


async def get_task(call: Call) -> Response:
    """Show one task, with the JSON Schema of its inputs."""
    _, task = call.engine.generations.task(call.path["plan"], call.path["task"])
    return json_response(shapes.task(task, call.engine.schedules.starting(call.path["plan"]).get(task.name, ())))


async def list_actions(call: Call) -> Response:
    """List the actions by name: those that Aura ships and those of plans, with the services of those."""
    named: dict[str, Action | Service] = {action.name: action for action in _all_actions(call.engine)}
    named |= {service.full_name: service for service in _all_services(call.engine)}
    names = sorted(named)
    found, cursor = page_by_name([named[name] for name in names], names, call.query(PageQuery), "actions")
    return json_response(shapes.page([_shown(call.engine, one) for one in found], cursor))


def _shown(engine: Engine, one: Action | Service) -> api.Action:
    if isinstance(one, Action):
        return shapes.action(one)
    return shapes.service(one, engine.is_service_open(one.plan_name, one.name))


def _all_actions(engine: Engine) -> Iterator[Action]:
    yield from engine.generations.shipped().values()
    for generation in _all_served(engine):
        yield from generation.actions.values()


def _all_services(engine: Engine) -> Iterator[Service]:
    for generation in _all_served(engine):
        yield from generation.services.values()


def _all_served(engine: Engine) -> Iterator[Generation]:
    for plan in engine.generations.statuses():
        with suppress(RequestError):  # a plan that cannot be served has no actions
            yield engine.generations.current(plan.name)


ROUTES = [
    ApiRoute("GET", "/api/plans", list_plans, Access.READ, query=PageQuery, answers={200: api.Page[api.Plan]}),
    ApiRoute(
        "GET",
        "/api/plans/{plan}/tasks",
        list_tasks,
        Access.READ,
        query=PageQuery,
        answers={200: api.Page[api.Task]},
    ),
    ApiRoute("GET", "/api/plans/{plan}/tasks/{task:path}", get_task, Access.READ, answers={200: api.Task}),
    ApiRoute("GET", "/api/actions", list_actions, Access.READ, query=PageQuery, answers={200: api.Page[api.Action]}),
]
