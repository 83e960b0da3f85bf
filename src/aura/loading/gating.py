"""What a gate is to the plans that are loaded: who says whether a new version may be served.

A plan with ``reload: {gate: tests}`` has a version served only once its own tests have passed on it. A load does not
wait for that: it asks, leaves the version out (it is *kept back*), and is asked for again when the answer is there. Who
runs the tests, and when, is for ``watching.gate``.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from aura.errors import Problem
from aura.loading.loader import CheckedPlan
from aura.loading.snapshot import Snapshot

#: How many characters of a version's hash people are shown.
SHOWN_HASH = 12


class Used(msgspec.Struct, frozen=True):
    """The version of another plan that the tests of one meet beside it."""

    hash: str
    files: Mapping[str, bytes]


class Trial(msgspec.Struct, frozen=True):
    """A version of a plan whose tests are to be run, and the plans that it uses, by name.

    ``timeout`` is in seconds. Two trials with the same ``key`` come to the same.
    """

    snapshot: Snapshot
    used: Mapping[str, Used]
    timeout: float

    @property
    def name(self) -> str:
        """The plan's name."""
        return self.snapshot.name

    @property
    def key(self) -> tuple[object, ...]:
        """All that its outcome depends on."""
        used = sorted((name, one.hash) for name, one in self.used.items())
        return self.snapshot.hash, self.snapshot.tests_hash, tuple(used), self.timeout

    def problem(self, message: str) -> Problem:
        """Something that is wrong with all of it."""
        return Problem(f"{self.name}/plan.yaml", 1, 1, message)


class Gatekeeper(Protocol):
    """Says which versions of plans with a gate may be served. No call waits for anything."""

    def lets(self, plan_name: str, hash: str) -> bool:
        """Say whether a version may be served."""

    def ask(self, trial: Trial, *, again: bool) -> tuple[Problem, ...]:
        """Have a version tried that may not be served yet; it is the newest of its plan.

        Give what went wrong if that has been tried already, else nothing. ``again``: what has failed is tried anew.
        """

    def forget(self, plan_name: str) -> None:
        """Nothing of a plan is to be tried any more: what is in its folder is served, or needs no trial."""

    def testing(self, plan_name: str) -> str | None:
        """The hash of the version whose tests run, or are to be run."""

    def asked(self) -> Collection[str]:
        """The plans of which it has been asked, and not told to forget."""


class OpenGate:
    """Lets everything pass, untried."""

    def lets(self, _plan_name: str, _hash: str) -> bool:
        return True

    def ask(self, _trial: Trial, *, again: bool) -> tuple[Problem, ...]:  # noqa: ARG002 - part of the protocol
        return ()

    def forget(self, plan_name: str) -> None:
        """There is nothing to forget."""

    def testing(self, _plan_name: str) -> str | None:
        return None

    def asked(self) -> Collection[str]:
        return ()


def remark(plan_name: str, hash: str) -> Problem:
    """Why a plan is not served of which there is no older version."""
    message = f"the tests of version {hash[:SHOWN_HASH]} are running; it is served once they pass"
    return Problem(f"{plan_name}/plan.yaml", 1, 1, message)


def trial_of(kept_back: CheckedPlan, versions: Mapping[str, tuple[Used, Collection[str]]]) -> Trial:
    """What is to be tried of a version.

    ``versions`` has the plans that it may use, each with the names of those that it uses in its turn.
    """
    assert kept_back.plan is not None
    used: dict[str, Used] = {}
    names = list(kept_back.plan.uses)
    while names:
        name = names.pop()
        if name not in used and name != kept_back.name and name in versions:
            used[name], more = versions[name]
            names += more
    return Trial(kept_back.snapshot, used, kept_back.plan.gate_timeout)
