"""A secret input through every door of a real server: nothing shows it but the database, and steps get it.

The secret is random text; what each command and route answers, each stream, log and file is searched for it.
"""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest
from tests.fakes.served import Served, open_served, write_plans

PLANS = {
    "lab/tasks/unlock.yaml": """
inputs:
  user: string
  password: {type: string, secret: true, max_length: 40, pattern: '^[a-z]'}
  pin: {type: integer, secret: true, default: null}
  keys: {type: array, items: {type: string, secret: true, max_length: 40}, default: []}
  login: {type: object, default: {}, properties: {token: {type: string, secret: true, default: null}}}
steps:
  look:
    action: shell.run
    params: {argv: [sh, -c, 'printf %s "$PASSWORD" | sha256sum'], env: {PASSWORD: "{{ inputs.password }}"}}
    outputs: {same: "{{ result.stdout[:64] == (inputs.password | sha256) }}"}
  never:
    action: log
    params: {message: "{{ inputs.user }}"}
    when: "{{ inputs.password == 'x' and inputs.keys | length > 99 }}"
returns: {same: "{{ steps.look.outputs.same }}", keys: "{{ inputs.keys | length }}"}
""",
    "lab/tasks/parent.yaml": """
inputs: {password: {type: string, secret: true}}
steps:
  child: {action: task.run, params: {task: unlock, inputs: {user: ann, password: "{{ inputs.password }}"}}}
  bad:
    action: task.run
    params: {task: unlock, inputs: {user: ann, password: "{{ inputs.password | upper }}"}}
    continue_on_failure: true
returns: "{{ steps.child.output }}"
""",
}


class World:
    """A server, a secret, and all that was answered so far."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.secret = "s" + secrets.token_hex(16)
        self.pin = 10**15 + secrets.randbelow(10**15)
        self.heard: dict[str, str] = {}
        token = (served.folder / "data/token").read_text().strip()
        self.http = httpx2.Client(base_url=served.address, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            "user": "ann",
            "password": self.secret,
            "pin": self.pin,
            "keys": [self.secret, self.secret],
            "login": {"token": self.secret},
        }

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self.http.request(method, path, **options)
        self.heard[f"{method} {path} {len(self.heard)}"] = f"{answer.headers}{answer.text}"
        return answer

    def run(self, inputs: dict[str, Any], task: str = "unlock") -> Any:
        body = {"plan_name": "lab", "task_name": task, "inputs": inputs}
        headers = {"Idempotency-Key": secrets.token_hex(8), "Prefer": "wait=30"}
        return self.ask("POST", "/api/tasks/run", json=body, headers=headers)

    def aura(self, *argv: str, stdin: str | None = None) -> str:
        done = self.served.aura(*argv, stdin=stdin)
        self.heard[" ".join(argv)] = done.out + done.err
        return done.out

    def leaks(self) -> list[str]:
        """Where the secret was seen."""
        files = [file for file in self.served.folder.rglob("*") if file.is_file() and file.name[:7] != "aura.db"]
        said = self.heard | {str(file): file.read_text("utf-8", "replace") for file in files}
        return [where for where, text in said.items() if self.secret in text.lower() or str(self.pin) in text]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    write_plans(folder, PLANS)
    with open_served(folder, "--port", "0", env={"AURA_LOGS__LEVEL": "debug"}) as served:
        yield served


@pytest.fixture
def world(served: Served) -> Iterator[World]:
    world = World(served)
    with world.http:
        yield world


HIDDEN = {"user": "ann", "password": "***", "pin": "***", "keys": ["***", "***"], "login": {"token": "***"}}


def test_run_by_the_api_shows_it_nowhere_and_its_steps_get_it(world: World) -> None:
    ended = world.run(world.inputs).json()
    assert (ended["state"], ended["result"], ended["inputs"]) == ("succeeded", {"same": True, "keys": 2}, HIDDEN)
    cid = ended["cid"]
    for path in (
        f"/api/runs/{cid}",
        "/api/runs",
        "/api/runs/active",
        f"/api/runs/{cid}/logs",
        f"/api/runs/{cid}/events",
    ):
        assert world.ask("GET", path).status_code == 200
    for path in ("/api/queue/list", "/api/plans/lab/tasks/unlock", "/openapi.json", "/metrics", "/api/system/status"):
        assert world.ask("GET", path).status_code == 200
    assert world.leaks() == []


def test_sub_tasks_show_it_nowhere_and_get_it(world: World) -> None:
    ended = world.run({"password": world.secret}, "parent").json()
    assert (ended["state"], ended["result"], ended["inputs"]) == (
        "succeeded",
        {"same": True, "keys": 0},
        {"password": "***"},
    )
    world.ask("GET", f"/api/runs/{ended['cid']}/events")
    newest = world.ask("GET", "/api/runs", params={"task_name": "unlock", "limit": 1}).json()["items"][0]["cid"]
    assert world.ask("GET", f"/api/runs/{newest}").json()["inputs"]["password"] == "***"
    assert world.leaks() == []


def test_batch_and_rerun_show_it_nowhere_and_the_rerun_gets_it(world: World) -> None:
    one = {"plan_name": "lab", "task_name": "unlock", "inputs": world.inputs}
    bad = one | {"inputs": world.inputs | {"password": world.secret * 2}}
    answer = world.ask("POST", "/api/tasks/batch", json={"tasks": [one, bad], "atomic": False}).json()
    assert (answer["accepted"], answer["refused"]) == (1, 1)
    assert world.ask("POST", "/api/tasks/batch", json={"tasks": [one, bad], "atomic": True}).status_code == 422
    cid = answer["items"][0]["cid"]
    world.ask("GET", f"/api/runs/{cid}/events")
    again = world.ask("POST", f"/api/tasks/{cid}/rerun", headers={"Prefer": "wait=30"}).json()
    world.ask("GET", f"/api/runs/{again['cid']}/events")
    ended = world.ask("GET", f"/api/runs/{again['cid']}").json()
    assert (ended["inputs"], ended["result"]) == (HIDDEN, {"same": True, "keys": 2})
    assert world.leaks() == []


def test_bad_inputs_are_refused_without_them(world: World) -> None:
    inputs = world.inputs
    bad = [
        inputs | {"password": world.secret.upper()},
        inputs | {"password": [world.secret]},
        inputs | {"password": {world.secret: 1}},
        inputs | {"pin": world.pin + 0.5},
        inputs | {"pin": world.secret},
        inputs | {"keys": [world.secret * 3, {world.secret: 1}]},
        inputs | {"login": {"token": world.pin}},
    ]
    for given in bad:
        answer = world.run(given)
        assert (answer.status_code, answer.json()["code"]) == (422, "inputs_invalid")
    assert world.run(inputs | {"pin": world.pin * 10**6}).json()["code"] == "bad_json"
    assert world.leaks() == []


def test_commands_show_it_nowhere(world: World) -> None:
    given = json.dumps(world.inputs)
    assert json.loads(world.aura("run", "lab/unlock", "--inputs", "-", stdin=given)) == {"same": True, "keys": 2}
    assert "***" in world.aura("show", "@last")
    assert json.loads(world.aura("show", "@last", "--json"))["inputs"] == HIDDEN
    for argv in (["runs"], ["runs", "--json"], ["logs", "@last"], ["ps"], ["queue"], ["status"], ["doctor"]):
        world.aura(*argv)
    assert "password*" in world.aura("tasks")
    world.aura("rerun", "@last")
    assert world.leaks() == []


def test_commands_refuse_bad_ones_without_them(world: World) -> None:
    world.aura("run", "lab/unlock", "-i", f"pin={world.secret}")
    assert "/inputs/pin: is not a whole number" in world.heard[f"run lab/unlock -i pin={world.secret}"]
    world.aura("run", "lab/unlock", "--inputs", "-", stdin=json.dumps(world.inputs | {"password": world.secret * 2}))
    assert "/inputs/password: must have at most 40 characters" in world.heard["run lab/unlock --inputs -"]
    assert world.leaks() == []


@pytest.mark.parametrize("stream", ["events", "logs"])
def test_live_stream_shows_it_nowhere(world: World, stream: str) -> None:
    last = {"events": "run.succeeded", "logs": hashlib.sha256(world.secret.encode()).hexdigest()}[stream]
    with world.http.stream("GET", f"/api/{stream}/stream") as answer:
        assert world.run(world.inputs).json()["state"] == "succeeded"
        deadline = time.monotonic() + 60
        for line in answer.iter_lines():
            assert time.monotonic() < deadline
            world.heard[f"{stream} {len(world.heard)}"] = line
            if last in line:
                break
    assert world.leaks() == []


def test_only_the_database_has_it_for_its_owner_alone(world: World) -> None:
    cid = world.run(world.inputs).json()["cid"]
    data = world.served.folder / "data"
    with closing(sqlite3.connect(f"file:{data / 'aura.db'}?mode=ro", uri=True)) as reading:
        (stored,) = reading.execute("SELECT inputs FROM run WHERE cid=?", (cid,)).fetchone()
    assert world.secret.encode() in stored
    assert [file.name for file in (data, *data.iterdir()) if file.stat().st_mode & 0o077] == []
