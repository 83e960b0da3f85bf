"""What can be run: plans, their tasks, the actions that they are made of."""

from starlette.responses import Response

from aura import api
from aura.actions import Action
from aura.errors import RequestError
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.facade import Engine
from aura.web.query import PageQuery, page_by_name


async def list_plans(call: Call) -> Response:
    """List the plans by name, with what is wrong with those that cannot be served."""
    plans = sorted(call.engine.generations.statuses(), key=lambda plan: plan.name)
    found, cursor = page_by_name(plans, [p.name for p in plans], call.query(PageQuery), "plans")
    return json_response(shapes.page([shapes.plan(plan) for plan in found], cursor))


async def list_tasks(call: Call) -> Response:
    """List the tasks of a plan by name."""
    tasks = call.engine.generations.current(call.path["plan"]).plan.tasks
    names = sorted(tasks)
    found, cursor = page_by_name([tasks[name] for name in names], names, call.query(PageQuery), "tasks")
    return json_response(shapes.page([shapes.task(task) for task in found], cursor))


async def get_task(call: Call) -> Response:
    """Show one task, with the JSON Schema of its inputs."""
    _, task = call.engine.generations.task(call.path["plan"], call.path["task"])
    return json_response(shapes.task(task))


async def list_actions(call: Call) -> Response:
    """List the actions by name: those that Aura ships and those of plans."""
    actions = sorted(_all_actions(call.engine), key=lambda action: action.name)
    found, cursor = page_by_name(actions, [a.name for a in actions], call.query(PageQuery), "actions")
    return json_response(shapes.page([shapes.action(action) for action in found], cursor))


def _all_actions(engine: Engine) -> list[Action]:
    found = list(engine.generations.shipped().values())
    for plan in engine.generations.statuses():
        try:
            found += engine.generations.current(plan.name).actions.values()
        except RequestError:  # a plan that cannot be served has no actions
            continue
    return found


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
