"""The gate of plans that say ``reload: {gate: tests}``: their tests run beside the server, one plan after the other.

Theory of operation. A load that meets a version which has not passed asks (``ask``) and goes on without it, so no lock
is held while tests run. There is one *case* for each plan, that of its newest version: it waits, in the order of the
asking, is tried by the one child that serves, and has passed or failed. Then the child asks for a load, with a reading
that gives the snapshot which was tested and leaves the other plans as they are, but for those that do not fit and may
fit now. Under the lock of that load the version is found among those that have passed, or its problems are.

A newer version takes the place of its plan's case: one that waits is not tried at all, and the trial of one that runs
is cancelled, with its processes. So it is with a case that is forgotten: what is in the folder now needs no trial. What
runs or has run for a case that is gone changes nothing: whoever has an outcome looks whether its case is still there,
and the reading looks again under the lock.

What has passed is kept on record by its hash. What has failed is known in memory alone, until the plan, its tests or a
plan that it uses are others, or somebody asks for a load. Bounds: one case a plan, one trial at a time, each with a
time-out, ``MAX_PASSED`` versions that have passed.

A crash loses a trial, and nothing else: the next start finds in the folder what has not passed, and tries it anew.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Protocol

import anyio
import msgspec

from aura.errors import AuraError, Problem, StoreError
from aura.failpoints import Site
from aura.loading.gating import SHOWN_HASH, Trial
from aura.loading.generations import Found, Reading
from aura.loading.snapshot import TESTS, is_test_file, plan_names
from aura.records.gate import MAX_PASSED, put_passed
from aura.runs.runtime import Runtime

#: Seconds between two tries to load what was tried, if the plans folder cannot be read meanwhile.
AGAIN = 1.0
NO_TESTS = f"the gate is closed: there are no tests; write {TESTS}/test_….py or remove reload.gate"


class Runner(Protocol):
    """Runs the tests of a version."""

    async def clear(self) -> None:
        """Remove what an older start may have left; nothing runs yet."""

    async def run(self, trial: Trial) -> tuple[Problem, ...]:
        """Give what went wrong; nothing if all tests have passed.

        **Cancellation**: ends all that it has started.
        """


class _Case(msgspec.Struct, eq=False):
    """What has become of the newest version of a plan. ``over``: its outcome has been told, or it is gone."""

    trial: Trial
    problems: tuple[Problem, ...] = ()
    ended: bool = False
    over: anyio.Event = msgspec.field(default_factory=anyio.Event)
    #: Its trial alone, while it runs.
    scope: anyio.CancelScope | None = None

    def drop(self) -> None:
        """It is not wanted any more."""
        self.over.set()
        if self.scope is not None:
            self.scope.cancel("a newer version of the plan is there, or none is needed")


class Gate:
    """Has versions tried, one for a server. ``serve`` is its child; without a ``runner`` everything passes, untried."""

    def __init__(
        self,
        runtime: Runtime,
        reload: Callable[[Reading], Awaitable[object]],
        changing: Callable[[], Collection[str]],
    ) -> None:
        """``reload`` loads plans, and tells everyone of them; ``changing`` are those that are still being written."""
        self._runtime = runtime
        self._reload = reload
        self._changing = changing
        self.runner: Runner | None = None
        self._cases: dict[str, _Case] = {}
        #: What has passed, the newest last: (plan, hash).
        self._passed: dict[tuple[str, str], None] = {}
        self._bell = anyio.Event()
        self._closed = False
        self._taken_over = anyio.Event()

    def take_over(self, passed: Iterable[tuple[str, str]]) -> None:
        """Know what has passed before this start, the oldest first; nothing of an older start runs any more."""
        self._passed = dict.fromkeys(passed)
        self._taken_over.set()

    # -- asked by loads: see ``gating.Gatekeeper``

    def lets(self, plan_name: str, hash: str) -> bool:
        """Say whether a version may be served."""
        return self.runner is None or (plan_name, hash) in self._passed

    def ask(self, trial: Trial, *, again: bool) -> tuple[Problem, ...]:
        """Have a version tried, if it has not been; give what went wrong."""
        case = self._cases.get(trial.name)
        if case is None or case.trial.key != trial.key or (again and case.problems):
            self.forget(trial.name)  # behind those that wait already
            case = self._cases[trial.name] = _Case(trial)
            if not has_tests(trial):
                case.problems, case.ended = (trial.problem(NO_TESTS),), True
                case.over.set()
            self._bell.set()
        return case.problems

    def forget(self, plan_name: str) -> None:
        """Nothing of a plan is to be tried any more."""
        case = self._cases.pop(plan_name, None)
        if case is not None:
            case.drop()

    def testing(self, plan_name: str) -> str | None:
        """The hash of the version whose tests run, or are to be run."""
        case = self._cases.get(plan_name)
        return None if case is None or case.ended else case.trial.snapshot.hash

    def asked(self) -> Collection[str]:
        """The plans that have a case."""
        return tuple(self._cases)

    async def wait_settled(self) -> None:
        """Return once all that is to be tried now has been, and its outcome is told, or is not wanted any more."""
        for case in list(self._cases.values()):
            await case.over.wait()

    # -- trying

    def close(self) -> None:
        """End what runs, and try nothing more: the server stops."""
        self._closed = True
        for case in self._cases.values():
            case.drop()

    async def serve(self) -> None:
        """Try what is asked for, one after the other, until cancelled.

        **Cancellation**: ends the trial that runs, with its processes.
        """
        assert self.runner is not None
        await self._taken_over.wait()  # what an older start left still runs until then, and writes what is removed here
        await self.runner.clear()
        while True:
            self._bell = anyio.Event()
            case = next((one for one in self._cases.values() if not one.over.is_set()), None)
            if case is None or self._closed:
                await self._bell.wait()
            else:
                await self._try(case)

    async def _try(self, case: _Case) -> None:
        if not case.ended:
            # one trial; cancelled when its case is dropped. What the runner shields has a bound of its own
            with anyio.CancelScope() as case.scope:
                case.problems = await self._outcome(case.trial)
                case.ended = self._is_wanted(case)
            case.scope = None
            if case.ended and not case.problems:
                await self._note_passed(case.trial)
        if self._is_wanted(case):
            await self._tell(case)

    async def _outcome(self, trial: Trial) -> tuple[Problem, ...]:
        assert self.runner is not None
        try:
            return await self.runner.run(trial)
        except (AuraError, OSError) as error:
            message = f"the tests could not be run: {error}; put that right and `aura reload`"
            return (trial.problem(message),)

    def _is_wanted(self, case: _Case) -> bool:
        return self._cases.get(case.trial.name) is case and not case.over.is_set()

    async def _note_passed(self, trial: Trial) -> None:
        key = trial.name, trial.snapshot.hash
        self._passed[key] = None
        while len(self._passed) > MAX_PASSED:
            del self._passed[next(iter(self._passed))]
        try:
            unit = put_passed(*key, self._runtime.clock.wall())
            await self._runtime.store.put(unit, refusable=True, site=Site.ITEM).wait()
        except StoreError as error:
            said = f"that the tests of plan {trial.name}, version {key[1][:SHOWN_HASH]}, have passed is not on record"
            self._runtime.log.warning(f"{said}, they run again at the next start: {error}", plan=trial.name)

    async def _tell(self, case: _Case) -> None:
        """Have the plan loaded as it was tried; told again while the plans folder cannot be read."""
        while self._is_wanted(case):
            try:
                await self._reload(partial(self._read, case))
                case.over.set()
            except AuraError as error:
                self._runtime.log.error(f"what the tests of plan {case.trial.name} say has to wait: {error}")
                await anyio.sleep(AGAIN)

    def _read(self, case: _Case) -> Iterator[Found]:
        """Give what was tried, in a thread; all else stays, but what did not fit it may fit now."""
        generations, wanted = self._runtime.generations, case.trial.name
        shown = {status.name for status in generations.statuses()}
        again = (generations.unfit & set(plan_names(self._runtime.settings.plans))) - set(self._changing())
        is_wanted = self._is_wanted(case)
        for name in sorted(shown | {wanted} if is_wanted else shown):
            if name == wanted and is_wanted:
                yield Found(name, case.trial.snapshot)
            else:
                yield Found(name, generations.read(name) if name in again else None)


def has_tests(trial: Trial) -> bool:
    """Say whether there is a file that pytest looks for tests in."""
    return any(is_test_file(path.rpartition("/")[2]) for path in trial.snapshot.tests)
