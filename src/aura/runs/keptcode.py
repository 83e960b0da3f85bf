"""The code of runs that go on: kept in the store with them, and loaded again after a restart if it is not served then.

While the server lives a run holds its generation itself. What is kept is the plan's files, in the unit that makes the
run ``preempted`` or ``waiting``, or, of one with ``recovery: resume``, in that of its first start; a run that does
neither costs nothing here. With the files stands which steps may run again (``records.generations``). Loading them
checks and imports them as any load does, and serves them to nobody but the runs that began with them. Of plans that it
uses nothing is kept: their actions are taken as they are then, as every attempt takes them.
"""

from functools import partial
from weakref import WeakValueDictionary

from aura.errors import RequestError, StoreError
from aura.lifecycle import Recovery
from aura.loading.generation import Generation
from aura.plan import Plan
from aura.records.generations import Rule, TaskRules, keep_generation, read_generation
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.store import Unit
from aura.task import Step, Task

#: A plan whose files are larger than this together, in bytes, is not kept: it can be resumed as long as it is served.
MAX_KEPT = 64 * 1024 * 1024
#: Shipped actions that change nothing, so that a crash in the middle of one has left nothing half done. ``event.wait``
#: is none of them: begun anew it would not hear of what came before the crash.
HARMLESS = frozenset({"assert", "fail", "log", "sleep", "stop", "approval.wait", "state.get"}) | {
    *("file.checksum", "file.glob", "file.read", "json.parse", "json.query"),
    *("text.replace", "text.search", "text.split"),
}


def keeping_code(run: LiveRun) -> Unit | None:
    """The unit that keeps the code of a run that is to rest; None if it has not begun, or its plan is too large."""
    generation = run.generation
    if generation is None or generation.size > MAX_KEPT:
        return None
    again = partial(_rules_of, generation.plan)  # of each start it would be the dearest part
    return keep_generation(run.plan_name, generation.hash, generation.files, again)


def _rules_of(plan: Plan) -> TaskRules:
    """What may be done after a crash with each step, of the tasks that go on where they were."""
    resumed = {name: task for name, task in plan.tasks.items() if task.recovery is Recovery.RESUME}
    return {name: {step.name: _rule_of(step) for step in task.steps.values()} for name, task in resumed.items()}


def _rule_of(step: Step) -> Rule:
    if step.idempotent or step.action in HARMLESS:
        return Rule.AGAIN
    return Rule.CALL if step.action == "task.run" else Rule.NEVER


class KeptCode:
    """Finds the code that a run began with."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: By plan and hash. The runs hold them; a generation goes with the last run on it.
        self._loaded: WeakValueDictionary[tuple[str, str], Generation] = WeakValueDictionary()
        #: What could not be loaded is not tried again for the next run: it may take as long as an import may.
        self._failed: set[tuple[str, str]] = set()

    def find(self, run: LiveRun) -> tuple[Generation, Task] | None:
        """Give the generation that a run began with, and its task, if they are served or loaded; else None."""
        key = run.plan_name, run.accepted.generation
        generation = self._loaded.get(key)
        if generation is not None and run.task_name in generation.plan.tasks:
            return generation, generation.plan.tasks[run.task_name]
        try:
            generation, task = self._runtime.generations.task(run.plan_name, run.task_name)
        except RequestError:
            return None
        return (generation, task) if generation.hash == run.accepted.generation else None

    async def load(self, run: LiveRun) -> Generation | None:
        """Load what a run began with from what is kept, if it is not to be had without; whoever calls holds it."""
        key = run.plan_name, run.accepted.generation
        if self.find(run) is not None or key in self._failed:
            return None
        try:
            files = await self._runtime.store.read(partial(read_generation, plan_name=key[0], hash=key[1]))
            if files is not None:
                generation = self._loaded[key] = await self._runtime.generations.load_kept(*key, files)
                return generation
        except StoreError:
            raise
        except Exception as error:  # whatever is wrong with old code, the server starts
            kept = f"the version {key[1][:12]} of plan {key[0]} that run {run.cid} began with cannot be loaded"
            self._runtime.log.warning(f"{kept}: {(str(error).splitlines() or [repr(error)])[0]}")
        self._failed.add(key)
        return None
