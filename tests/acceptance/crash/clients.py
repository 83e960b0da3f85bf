"""Clients that submit, steer and look, and that write down what they were told before they ask for the next thing."""

from collections import deque
from contextlib import closing
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any, NamedTuple

from tests.acceptance.crash import mix
from tests.acceptance.crash.credentials import Credentials
from tests.acceptance.crash.door import CUT_OFF, Door, Where, connect
from tests.acceptance.crash.journal import Journal, Note

from aura.lifecycle import FINAL

#: The name of the label by which a run is known as the one that was asked for.
LABEL = "key"
#: A task that there is not: one of its kind spoils a batch.
NOWHERE = "nowhere"
#: The highest priority.
FIRST = 1000
_FINAL = frozenset(state.value for state in FINAL)


class Wanted(NamedTuple):
    """A request for runs; its first key is that of the whole."""

    path: str
    body: Any
    tasks: list[str]
    keys: list[str]


class Client:
    """One client with its own journal; lives through many lives of the server."""

    def __init__(self, number: int, folder: Path, seed: int) -> None:
        self.number = number
        #: What it has found wrong by itself.
        self.wrong: list[str] = []
        self.credentials = Credentials(self.wrong)
        self.acknowledged = 0
        #: What was being asked when the server died; None if nothing was.
        self.in_flight: str | None = None
        #: How often a thing was asked again of which nobody knew whether it was accepted.
        self.repeated = 0
        self._random = Random(f"{seed}/{number}")
        self._journal = Journal(folder / f"journal.{number}")
        self._count = 0
        self._wanted: Wanted | None = None
        #: The delivery with which the webhook was called, until it is known to be on record.
        self._delivery: str | None = None
        self._mine: deque[str] = deque(maxlen=50)
        self._to_cancel: deque[str] = deque(maxlen=50)
        self._to_resume: deque[str] = deque(maxlen=50)
        self._to_wake: deque[tuple[str, str]] = deque()  # runs that wait for this client, with their tasks

    def close(self) -> None:
        self._journal.close()

    def start(self, where: Where, over: Event, favoured: str | None) -> Thread:
        """Ask until the server no longer answers or ``over`` is set. ``favoured`` is a task to ask for more often."""
        thread = Thread(target=self._live, args=(where, over, favoured), name=f"client {self.number}")
        thread.start()
        return thread

    def _live(self, where: Where, over: Event, favoured: str | None) -> None:
        door = connect(where)
        with closing(door.connection):
            try:
                while not over.is_set():
                    self._act(door, favoured)
                    over.wait(self._random.uniform(0.001, 0.02))  # what people call thinking
            except CUT_OFF:
                pass  # the server is dead: what was in flight has been noted as not answered
            except Exception as error:  # of a thread nobody else would hear of it
                self.wrong.append(f"client {self.number} could not go on: {error!r}")

    def _act(self, door: Door, favoured: str | None) -> None:
        dice = self._random.random()
        if self._wanted is not None:
            self._want(door, self._wanted, again=True)
        elif self._to_cancel and dice < 0.35:
            self._tell(door, "cancel", self._to_cancel.popleft())
        elif self._to_wake and dice < 0.45:
            self._wake(door)
        elif self._to_resume and dice < 0.48:
            self._tell(door, "resume", self._to_resume.popleft())
        elif self._mine and dice < 0.52:
            self._to_resume.append(self._random.choice([*self._mine][-5:]))
            self._tell(door, "pause", self._to_resume[-1])
        elif self._mine and dice < 0.55:
            self._look(door, self._random.choice(self._mine))
        elif dice < (0.65 if favoured in mix.RULE_OF else 0.58):
            self._fire(door, mix.RULE_OF.get(favoured or "", self._random.choice([*mix.RULE_OF.values()])))
        elif dice < 0.66:
            self._switch(door)
        elif dice < 0.72:
            self._change_credentials(door, dice < 0.69)
        elif dice < 0.79:
            self._submit_batch(door, [self._pick(favoured) for _ in range(self._random.randint(2, 4))])
        elif dice < 0.83:
            self._call(door)
        else:
            self._submit(door, self._pick(favoured), favoured)

    # -- asking for runs

    def _pick(self, favoured: str | None) -> str:
        if favoured and self._random.random() < 0.5:
            return favoured
        return self._random.choices([*mix.WEIGHTS], [*mix.WEIGHTS.values()])[0]

    def _submit(self, door: Door, task: str, favoured: str | None) -> None:
        """Ask for one run; a favoured one goes before what has piled up, since the life waits for what it passes."""
        (key,) = self._send([task])
        first = {"priority": FIRST} if task == favoured else {}
        self._want(door, Wanted("/api/tasks/run", request(task, key) | first, [task], [key]))

    def _submit_batch(self, door: Door, tasks: list[str]) -> None:
        """Ask for several runs at once; of the atomic ones some have a task in them that there is not."""
        atomic = self._random.random() < 0.5
        if atomic and self._random.random() < 0.2:
            tasks[-1] = NOWHERE
        keys = self._send(tasks)
        body = {"tasks": [request(task, key) for task, key in zip(tasks, keys, strict=True)], "atomic": atomic}
        self._want(door, Wanted("/api/tasks/batch", body, tasks, keys))

    def _want(self, door: Door, wanted: Wanted, again: bool = False) -> None:
        """Ask for runs under an idempotency key. What the server died over is asked again of the next one."""
        self._wanted = wanted
        try:
            status, answer = self._ask(door, "accept", wanted.path, wanted.body, wanted.keys[0])
        except CUT_OFF:
            for key in wanted.keys:
                self._journal.note(Note("told", key))
            raise
        if again:
            self.repeated += 1
            if status == 503:  # of the first time it is unknown as before
                return
        self._wanted = None
        items = answer.get("items") or [answer] * len(wanted.keys)
        for task, key, item in zip(wanted.tasks, wanted.keys, items, strict=True):
            told = item.get("error", item)
            self._told(task, key, told.get("status", status), told, NOWHERE in wanted.tasks)

    def _told(self, task: str, key: str, status: int, told: dict[str, Any], spoiled: bool) -> None:
        cid = told.get("cid", "")
        self._journal.note(Note("told", key, task, status, cid))
        if status not in ((422, 503) if spoiled else (202, 503)):
            self.wrong.append(f"request {key} for {task} was answered with {status} {told}")
        if status != 202:
            return
        self.acknowledged += 1
        self._mine.append(cid)
        if task in mix.CANCELLED:
            self._to_cancel.append(cid)
        if task in mix.WOKEN:
            self._to_wake.append((cid, task))

    def _send(self, tasks: list[str]) -> list[str]:
        keys = [self._new_key() for _ in tasks]
        for task, key in zip(tasks, keys, strict=True):
            self._journal.note(Note("sent", key, task, batch=keys[0]))
        return keys

    def _new_key(self) -> str:
        self._count += 1
        return f"{self.number}-{self._count}"

    # -- steering and looking

    def _tell(self, door: Door, what: str, cid: str) -> None:
        """Cancel, pause or resume a run."""
        status, answer = self._ask(door, what, f"/api/tasks/{cid}/{what}", None if what == "resume" else {})
        self._journal.note(Note(what, status=status, cid=cid, state=answer.get("state", "")))
        if status not in (202, 409, 503):
            self.wrong.append(f"run {cid} was acknowledged, and to {what} it gave {status}")

    def _look(self, door: Door, cid: str) -> dict[str, Any]:
        status, answer = door.ask("GET", f"/api/runs/{cid}")
        if status != 200:
            self.wrong.append(f"run {cid} was acknowledged, and asking for it gave {status}")
        elif answer["state"] in _FINAL:
            self._journal.note(Note("seen", status=status, cid=cid, state=answer["state"]))
        return dict(answer)

    def _fire(self, door: Door, rule: str) -> None:
        """Emit the event of a rule; what it fires is acknowledged with it."""
        key = self._new_key()
        self._journal.note(Note("fire", key, state=rule))
        status, answer = self._ask(door, "fire", "/api/events", {"name": rule, "payload": {"key": key}})
        handlers = [fired["cid"] for fired in answer.get("interrupts") or ()]
        self._journal.note(Note("fired", key, "", status, "".join(handlers[:1]), rule))
        if status not in (202, 503) or len(handlers) > 1:
            self.wrong.append(f"event {rule} was answered with {status} {answer}")

    def _call(self, door: Door) -> None:
        """Call the webhook; with the same delivery again if nobody knows whether that was received."""
        again, self._delivery = self._delivery is not None, self._delivery or self._new_key()
        self.repeated += again
        path, key = f"/api/hooks/{mix.PLAN}/{mix.HOOK}", self._delivery
        self._journal.note(Note("call", key))
        self.in_flight = "call"
        status, answer = door.ask("POST", path, {"key": key}, key, mix.SECRET)
        self.in_flight = None
        self._journal.note(Note("called", key, "", status, "".join(answer.get("started") or ())))
        if status not in ((202, 200, 503) if again else (202, 503)):
            self.wrong.append(f"delivery {key} was answered with {status} {answer}")
        if status != 503:
            self._delivery = None

    def _switch(self, door: Door) -> None:
        """Switch a rule on or off, and see that it is."""
        wanted = self._random.choice(["enable", "disable"])
        status, answer = self._ask(door, "switch", f"/api/interrupts/{mix.PLAN}/{mix.SWITCHED}/{wanted}", None)
        if status not in (200, 503):
            self.wrong.append(f"to {wanted} a rule was answered with {status} {answer}")

    def _change_credentials(self, door: Door, tokens: bool) -> None:
        self.in_flight = "credentials"
        (self.credentials.change_tokens if tokens else self.credentials.change_sessions)(door)
        self.in_flight = None

    def _ask(self, door: Door, what: str, path: str, body: Any, once: str | None = None) -> tuple[int, Any]:
        """Ask for ``what``, which stays in flight if the server dies over it."""
        self.in_flight = what
        answer = door.ask("POST", path, body, once)
        self.in_flight = None
        return answer

    def ask_again(self, where: Where) -> None:
        """Ask again for what the last server died over; from then on it is known."""
        door = connect(where)
        with closing(door.connection):
            if self._wanted is not None:
                self._want(door, self._wanted, again=True)
            if self._delivery is not None:
                self._call(door)

    # -- what waits for this client

    def wake_all(self, where: Where) -> bool:
        """Give each run that waits for this client what it waits for; say whether none is left."""
        door = connect(where)
        with closing(door.connection):
            for _ in range(len(self._to_wake)):
                self._wake(door)
        return not self._to_wake

    def _wake(self, door: Door) -> None:
        """Emit the event, or answer the question, of the run that waits longest; until that is acknowledged."""
        waiting = self._to_wake[0]
        self._to_wake.rotate(-1)
        if self._wake_one(door, *waiting):
            self._to_wake.remove(waiting)

    def _wake_one(self, door: Door, cid: str, task: str) -> bool:
        run = self._look(door, cid)
        if run.get("state") in _FINAL:
            return True
        waits = (run.get("waiting_for") or {}).get("waits") or ()
        if not any(wait["kind"] in ("event", "approval") for wait in waits):
            return False
        return self._emit(door, cid) if task == mix.HEARS else self._answer(door, cid)

    def _emit(self, door: Door, cid: str) -> bool:
        key = self._new_key()
        self._journal.note(Note("emit", key, cid=cid))
        body = {"name": f"{mix.CALL}.{cid}", "payload": {"key": key}}
        status, answer = self._ask(door, "emit", "/api/events", body)
        self._journal.note(Note("emitted", key, status=status, cid=cid, state=answer.get("event_id", "")))
        return status == 202

    def _answer(self, door: Door, cid: str) -> bool:
        """Answer yes or no; of two answers, one after the other, the second is refused."""
        yes = self._random.random() < 0.5
        word = "yes" if yes else "no"
        self._journal.note(Note("answer", cid=cid, state=word))
        body = {"step": mix.ASKED, "approved": yes}
        status, answer = self._ask(door, "answer", f"/api/tasks/{cid}/answer", body)
        self._journal.note(Note("answered", status=status, cid=cid, state=word))
        if status == 202:
            again, _ = self._ask(door, "answer", f"/api/tasks/{cid}/answer", body | {"approved": not yes})
            if again not in (409, 503):
                self.wrong.append(f"the question of run {cid} was answered, and a second answer gave {again}")
        elif status not in (409, 503):
            self.wrong.append(f"run {cid} waited for an answer, and that gave {status}")
        return status == 202 or answer.get("code") == "answered"


def request(task: str, key: str) -> dict[str, Any]:
    """The body that asks for a run which is known by its label."""
    return {"plan_name": mix.PLAN, "task_name": task, "labels": {LABEL: key}}
