"""Clients that submit, cancel and look, and that write down what they were told before they ask for the next thing.

A client's journal is what it could prove in court: what it has sent, and what was answered. It is synced line by line.
"""

import http.client
import os
from collections import deque
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from tests.acceptance.crash import mix

from aura.lifecycle import FINAL

#: Seconds within which an answer comes, or the server is dead.
ANSWER_TIME = 20.0
#: The name of the label by which a run is known as the one that was asked for.
LABEL = "key"
_FINAL = frozenset(state.value for state in FINAL)


class Note(msgspec.Struct, frozen=True):
    """One line of a journal.

    ``sent``: ``key`` is asked for now. ``told``: so it was answered; ``status`` 0 means that no answer came. ``cancel``
    and ``seen``: what was answered about ``cid``, with its ``state``.
    """

    kind: str
    key: str = ""
    task: str = ""
    status: int = 0
    cid: str = ""
    state: str = ""


class Where(NamedTuple):
    """A server that is ready, and how to be let in."""

    address: str
    token: str


class Client:
    """One client with its own journal; lives through many lives of the server."""

    def __init__(self, number: int, folder: Path, seed: int) -> None:
        self.number = number
        self.file = folder / f"journal.{number}"
        self._random = Random(f"{seed}/{number}")
        self._count = 0
        self._mine: deque[str] = deque(maxlen=50)
        self._to_cancel: deque[str] = deque(maxlen=50)
        self._out = open(self.file, "ab")  # noqa: SIM115 - closed by ``close``
        #: What it has found wrong by itself.
        self.wrong: list[str] = []
        self.acknowledged = 0
        self.in_flight = False

    def close(self) -> None:
        self._out.close()

    def start(self, where: Where, over: Event, favoured: str | None) -> Thread:
        """Ask until the server no longer answers or ``over`` is set. ``favoured`` is a task to ask for more often."""
        thread = Thread(target=self._live, args=(where, over, favoured), name=f"client {self.number}")
        thread.start()
        return thread

    def _live(self, where: Where, over: Event, favoured: str | None) -> None:
        address = urlsplit(where.address)
        assert address.hostname
        door = http.client.HTTPConnection(address.hostname, address.port, timeout=ANSWER_TIME)
        try:
            while not over.is_set():
                self._act(_Door(door, where.token), favoured)
                over.wait(self._random.uniform(0.001, 0.02))  # what people call thinking
        except (OSError, http.client.HTTPException):
            pass  # the server is dead: what was in flight has been noted as not answered
        finally:
            door.close()

    def _act(self, door: "_Door", favoured: str | None) -> None:
        dice = self._random.random()
        if self._to_cancel and dice < 0.4:
            self._cancel(door, self._to_cancel.popleft())
        elif self._mine and dice < 0.5:
            self._look(door, self._random.choice(self._mine))
        elif dice < 0.65:
            self._submit_batch(door, [self._pick(favoured) for _ in range(self._random.randint(2, 4))])
        else:
            self._submit(door, self._pick(favoured))

    def _pick(self, favoured: str | None) -> str:
        if favoured and self._random.random() < 0.5:
            return favoured
        return self._random.choices([*mix.WEIGHTS], [*mix.WEIGHTS.values()])[0]

    def _submit(self, door: "_Door", task: str) -> None:
        (key,) = self._send([task])
        status, answer = self._ask(door, "POST", "/api/tasks/run", _request(task, key), [key])
        self._told(task, key, status, answer.get("cid", ""))

    def _submit_batch(self, door: "_Door", tasks: list[str]) -> None:
        keys = self._send(tasks)
        body = {"tasks": [_request(task, key) for task, key in zip(tasks, keys, strict=True)]}
        status, answer = self._ask(door, "POST", "/api/tasks/batch", body, keys)
        for task, key, item in zip(tasks, keys, answer["items"], strict=True):
            self._told(task, key, status if "cid" in item else item["error"]["status"], item.get("cid", ""))

    def _cancel(self, door: "_Door", cid: str) -> None:
        status, answer = self._ask(door, "POST", f"/api/tasks/{cid}/cancel", {}, [])
        self._note(Note("cancel", status=status, cid=cid, state=answer.get("state", "")))

    def _look(self, door: "_Door", cid: str) -> None:
        status, answer = self._ask(door, "GET", f"/api/runs/{cid}", None, [])
        if status != 200:
            self.wrong.append(f"run {cid} was acknowledged, and asking for it gave {status}")
        elif answer["state"] in _FINAL:
            self._note(Note("seen", status=status, cid=cid, state=answer["state"]))

    def _send(self, tasks: list[str]) -> list[str]:
        keys = []
        for task in tasks:
            self._count += 1
            keys.append(f"{self.number}-{self._count}")
            self._note(Note("sent", keys[-1], task))
        return keys

    def _ask(self, door: "_Door", method: str, path: str, body: Any, keys: list[str]) -> tuple[int, Any]:
        self.in_flight = True
        try:
            answer = door.ask(method, path, body)
        except (OSError, http.client.HTTPException):
            for key in keys:
                self._note(Note("told", key))
            raise
        self.in_flight = False
        return answer

    def _told(self, task: str, key: str, status: int, cid: str) -> None:
        self._note(Note("told", key, task, status, cid))
        if status == 202:
            self.acknowledged += 1
            self._mine.append(cid)
            if task in mix.CANCELLED:
                self._to_cancel.append(cid)
        elif status != 503:
            self.wrong.append(f"request {key} for {task} was answered with {status}")

    def _note(self, note: Note) -> None:
        self._out.write(msgspec.json.encode(note) + b"\n")
        self._out.flush()
        os.fsync(self._out.fileno())


class _Door(NamedTuple):
    """A connection with the token."""

    connection: http.client.HTTPConnection
    token: str

    def ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else msgspec.json.encode(body)
        self.connection.request(method, path, data, headers)
        answer = self.connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read())


def ask(where: Where, method: str, path: str, body: Any = None) -> Any:
    """Ask one thing on a connection of its own and give the answer's body."""
    address = urlsplit(where.address)
    assert address.hostname
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=ANSWER_TIME)
    try:
        return _Door(connection, where.token).ask(method, path, body)[1]
    finally:
        connection.close()


def read_journals(folder: Path) -> list[Note]:
    """What all clients have written down."""
    lines = [line for file in sorted(folder.glob("journal.*")) for line in file.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Note) for line in lines]


def _request(task: str, key: str) -> dict[str, Any]:
    return {"plan_name": mix.PLAN, "task_name": task, "labels": {LABEL: key}}
