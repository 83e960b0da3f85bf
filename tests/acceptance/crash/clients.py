"""Clients that submit, steer and look, and that write down what they were told before they ask for the next thing.

A client's journal is what it could prove in court: what it has sent, and what was answered. It is synced line by line.
"""

import http.client
import os
from collections import deque
from contextlib import closing
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

    ``sent``: ``key`` is asked for now. ``told``: so it was answered; ``status`` 0 means that no answer came. ``seen``,
    ``cancel``, ``pause`` and ``resume``: what was answered about ``cid``, with its ``state``.
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
        self._to_resume: deque[str] = deque(maxlen=50)
        #: Tokens that this client was told of, by id, and has not asked to be revoked.
        self.tokens: dict[str, str] = {}
        self.revoked: list[str] = []
        #: Secrets of sessions that were opened, and of those that were ended.
        self.sessions: list[str] = []
        self.logged_out: list[str] = []
        self._out = open(self.file, "ab")  # noqa: SIM115 - closed by ``close``
        #: What it has found wrong by itself.
        self.wrong: list[str] = []
        self.acknowledged = 0
        self.in_flight = False
        #: What is asked for, while nobody knows whether it was accepted, and how often such a thing was asked again.
        self._wanted: _Wanted | None = None
        self.repeated = 0

    def close(self) -> None:
        self._out.close()

    def start(self, where: Where, over: Event, favoured: str | None) -> Thread:
        """Ask until the server no longer answers or ``over`` is set. ``favoured`` is a task to ask for more often."""
        thread = Thread(target=self._live, args=(where, over, favoured), name=f"client {self.number}")
        thread.start()
        return thread

    def _live(self, where: Where, over: Event, favoured: str | None) -> None:
        door = _connect(where)
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
        if self._wanted is not None:
            self._want(door, self._wanted, again=True)
        elif self._to_cancel and dice < 0.4:
            self._tell(door, "cancel", self._to_cancel.popleft())
        elif self._to_resume and dice < 0.43:
            self._tell(door, "resume", self._to_resume.popleft())
        elif self._mine and dice < 0.46:
            self._to_resume.append(self._random.choice([*self._mine][-5:]))
            self._tell(door, "pause", self._to_resume[-1])
        elif self._mine and dice < 0.5:
            self._look(door, self._random.choice(self._mine))
        elif dice < 0.55:
            self._change_tokens(door)
        elif dice < 0.6:
            self._change_sessions(door)
        elif dice < 0.7:
            self._submit_batch(door, [self._pick(favoured) for _ in range(self._random.randint(2, 4))])
        else:
            self._submit(door, self._pick(favoured))

    def _pick(self, favoured: str | None) -> str:
        if favoured and self._random.random() < 0.5:
            return favoured
        return self._random.choices([*mix.WEIGHTS], [*mix.WEIGHTS.values()])[0]

    def _submit(self, door: "_Door", task: str) -> None:
        (key,) = self._send([task])
        self._want(door, _Wanted("/api/tasks/run", _request(task, key), [task], [key]))

    def _submit_batch(self, door: "_Door", tasks: list[str]) -> None:
        keys = self._send(tasks)
        body = {"tasks": [_request(task, key) for task, key in zip(tasks, keys, strict=True)]}
        self._want(door, _Wanted("/api/tasks/batch", body, tasks, keys))

    def _want(self, door: "_Door", wanted: "_Wanted", again: bool = False) -> None:
        """Ask for runs under an idempotency key. What the server died over is asked again of the next one."""
        self._wanted = wanted
        status, answer = self._ask(door, "POST", wanted.path, wanted.body, wanted.keys, wanted.keys[0])
        if again:
            self.repeated += 1
            if status == 503:  # of the first time it is unknown as before
                return
        self._wanted = None
        items = answer.get("items") or [answer] * len(wanted.keys)
        for task, key, item in zip(wanted.tasks, wanted.keys, items, strict=True):
            self._told(task, key, item["error"]["status"] if "error" in item else status, item.get("cid", ""))

    def _tell(self, door: "_Door", what: str, cid: str) -> None:
        """Cancel, pause or resume a run."""
        body: Any = None if what == "resume" else {}
        status, answer = self._ask(door, "POST", f"/api/tasks/{cid}/{what}", body, [])
        self._note(Note(what, status=status, cid=cid, state=answer.get("state", "")))
        if status not in (202, 409, 503):
            self.wrong.append(f"run {cid} was acknowledged, and to {what} it gave {status}")

    def _look(self, door: "_Door", cid: str) -> None:
        status, answer = self._ask(door, "GET", f"/api/runs/{cid}", None, [])
        if status != 200:
            self.wrong.append(f"run {cid} was acknowledged, and asking for it gave {status}")
        elif answer["state"] in _FINAL:
            self._note(Note("seen", status=status, cid=cid, state=answer["state"]))

    def _change_tokens(self, door: "_Door") -> None:
        """Make a token, or, when there are three, revoke the oldest. One that was being revoked may be either."""
        if len(self.tokens) < 3:
            status, answer = self._ask(door, "POST", "/api/tokens", {"scopes": ["read"]}, [])
            if status == 201:
                self.tokens[answer["id"]] = answer["token"]
            return
        id, secret = next(iter(self.tokens.items()))
        del self.tokens[id]
        status, _ = self._ask(door, "DELETE", f"/api/tokens/{id}", None, [])
        if status == 204:
            self.revoked.append(secret)
        elif status != 503:
            self.wrong.append(f"token {id} was acknowledged, and revoking it gave {status}")

    def _change_sessions(self, door: "_Door") -> None:
        """Log in, or, when there are three sessions, out of the oldest. One that was being ended may be either."""
        self.in_flight = True
        if len(self.sessions) < 3:
            status, secret = door.log_in()
            self.sessions += [secret] * (status == 200)
        else:
            secret = self.sessions.pop(0)
            status = door.as_browser("POST", "/api/logout", secret)
            self.logged_out += [secret] * (status == 204)
        self.in_flight = False
        if status not in (200, 204, 503):
            self.wrong.append(f"a session was opened or ended, and it gave {status}")

    def check_sessions(self, where: Where) -> None:
        """Each session whose secret was told is good, and each whose end was acknowledged is not."""
        with closing(_connect(where)) as connection:
            door = _Door(connection, where.token)
            good = [door.as_browser("GET", "/api/plans", secret) for secret in self.sessions]
            ended = [door.as_browser("GET", "/api/plans", secret) for secret in self.logged_out]
        if any(status != 200 for status in good):
            self.wrong.append(f"sessions were opened, and asking with them gave {good}")
        if any(status not in (401, 429) for status in ended):
            self.wrong.append(f"sessions were ended, and asking with them gave {ended}")

    def check_tokens(self, where: Where) -> None:
        """Each token that was acknowledged is good, and each that was acknowledged as revoked is not."""
        good = [_is_good(where, secret) for secret in self.tokens.values()]
        if not all(good):
            self.wrong.append(f"{good.count(False)} tokens were acknowledged, and are refused")
        if any(_is_good(where, secret) for secret in self.revoked):
            self.wrong.append("a token is good whose revocation was acknowledged")

    def _send(self, tasks: list[str]) -> list[str]:
        keys = []
        for task in tasks:
            self._count += 1
            keys.append(f"{self.number}-{self._count}")
            self._note(Note("sent", keys[-1], task))
        return keys

    def _ask(
        self, door: "_Door", method: str, path: str, body: Any, keys: list[str], once: str | None = None
    ) -> tuple[int, Any]:
        self.in_flight = True
        try:
            answer = door.ask(method, path, body, once)
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


class _Wanted(NamedTuple):
    """A request for runs; its first key is that of the whole."""

    path: str
    body: Any
    tasks: list[str]
    keys: list[str]


class _Door(NamedTuple):
    """A connection with the token."""

    connection: http.client.HTTPConnection
    token: str

    def ask(self, method: str, path: str, body: Any = None, once: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if once is not None:
            headers["Idempotency-Key"] = once
        data = None if body is None else msgspec.json.encode(body)
        self.connection.request(method, path, data, headers)
        answer = self.connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read() or b"null")

    def log_in(self) -> tuple[int, str]:
        """Trade a one-time code; the status and the secret of the session."""
        _, made = self.ask("POST", "/api/login/codes")
        data = msgspec.json.encode({"code": made["code"]})
        self.connection.request("POST", "/api/login", data, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Set-Cookie", "").partition(";")[0].partition("=")[2]

    def as_browser(self, method: str, path: str, secret: str) -> int:
        """Ask by the cookie of a session; the status. Its name has the port, which each life has its own of."""
        host, port = self.connection.host, self.connection.port
        headers = {"Cookie": f"aura_session_{port}={secret}", "Origin": f"http://{host}:{port}"}
        self.connection.request(method, path, None, headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


def _connect(where: Where) -> http.client.HTTPConnection:
    address = urlsplit(where.address)
    assert address.hostname
    return http.client.HTTPConnection(address.hostname, address.port, timeout=ANSWER_TIME)


def ask(where: Where, method: str, path: str, body: Any = None) -> Any:
    """Ask one thing on a connection of its own and give the answer's body."""
    with closing(_connect(where)) as connection:
        return _Door(connection, where.token).ask(method, path, body)[1]


def _is_good(where: Where, secret: str) -> bool:
    answer = ask(where._replace(token=secret), "GET", "/api/plans")
    return "items" in answer


def read_journals(folder: Path) -> list[Note]:
    """What all clients have written down."""
    lines = [line for file in sorted(folder.glob("journal.*")) for line in file.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Note) for line in lines]


def _request(task: str, key: str) -> dict[str, Any]:
    return {"plan_name": mix.PLAN, "task_name": task, "labels": {LABEL: key}}
