"""A canary: random secrets through every sink of a real server, and then every byte that it left or said is searched.

The secrets come from an environment variable, a file in ``$CREDENTIALS_DIRECTORY`` and a secret input. A task writes
each of them wherever a plan can write, in every form; commands, routes and streams show it. The one place where one
may be found is the column of the database in which a run keeps its secret inputs.
"""

import base64
import json
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2
import pytest
from tests.fakes.served import Done, Served, open_served, write_plans
from websockets.sync.client import connect

PLANS = {
    "lab/plan.yaml": "secrets: [variable, file, nowhere]\n",
    "lab/actions.py": """
import base64, json, logging, shlex, sys, threading, warnings
from pathlib import Path
from urllib.parse import quote, quote_plus

from aura import Context, action


def forms(secret):
    raw = secret.encode()
    yield from (secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret), repr(raw))
    yield from (quote(secret), quote(secret, safe=""), quote_plus(secret), shlex.quote(secret), raw.hex())
    for before in ("", "u", "us"):
        yield base64.b64encode((before + secret).encode()).decode()
        yield base64.urlsafe_b64encode((before + secret).encode()).decode()
    yield json.dumps({"in": json.dumps({"in": secret})})
    yield from secret.splitlines()


def given(ctx, password):
    return [ctx.secrets["variable"], ctx.secrets["file"], password]


@action
async def logged(ctx: Context, password: str) -> None:
    for secret in given(ctx, password):
        for form in forms(secret):
            ctx.log.warning(f"here: {form}!", field=form, inner={"list": [form, {form: 1}]}, thing=Path(form))
            logging.getLogger("canary").error("there: %s", form)
            print("printed:", form)
            print("on stderr:", form[:5], form[5:], sep="", file=sys.stderr)
        ctx.log.info("x" * (64 * 1024 - 12) + secret + " and more")
        ctx.progress(1, 2, f"progress with {secret}")
        thread = threading.Thread(target=lambda: 1 / len(secret[:0]), name=secret)
        thread.start()
        thread.join()


@action
def raised(ctx: Context, password: str) -> None:
    secrets = given(ctx, password)
    try:
        raise KeyError(secrets[0])
    except KeyError as error:
        ctx.log.exception("caught", secret=secrets)
        raise ValueError("; ".join(form for secret in secrets for form in forms(secret))) from error


@action
async def kept(ctx: Context, password: str) -> list:
    return [[form, {form: form}] for secret in given(ctx, password) for form in forms(secret)]


@action
async def checkpointed(ctx: Context, password: str) -> None:
    await ctx.checkpoint({"a": given(ctx, password)})


@action(name="same")
async def is_same(ctx: Context, password: str, kept: list) -> bool:
    return kept[0][0] == ctx.secrets["variable"]
""",
    "lab/tasks/child.yaml": """
inputs: {text: string, hidden: {type: string, secret: true}}
steps: {a: {action: log, params: {message: "{{ inputs.text }} {{ inputs.hidden }}"}}}
returns: "{{ inputs.text }}"
""",
    "lab/tasks/t.yaml": """
inputs: {password: {type: string, secret: true}}
steps:
  log: {action: logged, params: {password: "{{ inputs.password }}"}}
  raise: {action: raised, params: {password: "{{ inputs.password }}"}, continue_on_failure: true}
  keep:
    action: kept
    params: {password: "{{ inputs.password }}"}
    outputs: {first: "{{ result[0][0] }}"}
  same: {action: same, depends_on: [keep], params: {password: "{{ inputs.password }}", kept: "{{ steps.keep.output }}"}}
  loop:
    loop: {for_each: ["{{ secrets.file }}", "{{ inputs.password }}"]}
    action: log
    params: {message: "{{ loop.item }}"}
  skip: {action: log, params: {message: x}, when: "{{ secrets.variable == inputs.password }}"}
  child:
    action: task.run
    params: {task: child, inputs: {text: "{{ secrets.variable }}", hidden: "{{ secrets.file }}"}}
  shell:
    action: shell.run
    params:
      env: {V: "{{ secrets.variable }}", F: "{{ secrets.file }}", P: "{{ inputs.password }}"}
      stdin: "{{ secrets.file }}"
      argv: [sh, -c, 'for s in "$V" "$F" "$P"; do half=${s%%"${s#?????????}"}; printf %s "$half"; sleep 0.05;
        printf "%s\\n" "${s#"$half"}"; printf %s "$s" | base64; printf %s "$s" | od -An -v -tx1 | tr -d " \\n"; echo;
        done;
        cat >&2; for p in /proc/[0-9]*/cmdline; do tr "\\0" " " < "$p"; done 2>/dev/null; exit 3']
    continue_on_failure: true
  argv: {action: shell.run, params: {argv: [echo, "{{ inputs.password }}"]}, continue_on_failure: true}
  missing: {action: log, params: {message: "{{ secrets.nowhere }}"}, continue_on_failure: true}
  emit:
    action: event.emit
    params:
      name: canary.sang
      payload: {song: ["{{ secrets.variable }}", "la {{ secrets.file }} {{ inputs.password }}"]}
  state: {action: state.set, params: {key: kept, value: ["{{ secrets.file }}"]}, continue_on_failure: true}
  state_key: {action: state.set, params: {key: "{{ inputs.password }}", value: 1}, continue_on_failure: true}
  checkpoint: {action: checkpointed, params: {password: "{{ inputs.password }}"}, continue_on_failure: true}
  python:
    action: python.run
    params:
      code: |
        print(inputs["v"][:9], end="", flush=True)
        print(inputs["v"][9:])
        raise ValueError("x" * 4080 + inputs["v"] + inputs["f"] + inputs["p"])
      inputs: {v: "{{ secrets.variable }}", f: "{{ secrets.file }}", p: "{{ inputs.password }}"}
    continue_on_failure: true
  approve:
    action: approval.wait
    params: {message: "{{ secrets.variable }}? {{ secrets.file }} {{ inputs.password }}"}
    timeout: 1s
    continue_on_failure: true
  await:
    action: event.wait
    params: {name: canary.never, when: "{{ event.payload.x == inputs.password }}"}
    timeout: 1s
    continue_on_failure: true
  fail:
    action: fail
    depends_on:
      child: succeeded
      same: succeeded
      shell: failed
      emit: succeeded
      state: failed
      state_key: failed
      checkpoint: failed
      python: failed
      approve: failed
      await: failed
    params: {message: "{{ secrets.file }} {{ inputs.password }}"}
    continue_on_failure: true
returns:
  same: "{{ steps.same.output }}"
  all: ["{{ secrets.variable }}", "{{ inputs.password }}", "{{ steps.keep.outputs.first }}"]
""",
}


class Canary:
    """A server, its secrets, and all that was heard of it."""

    def __init__(self, served: Served, found: dict[str, str]) -> None:
        self.served = served
        self.secrets = found
        self.heard: dict[str, bytes] = {}
        token = (served.folder / "data/token").read_text().strip()
        self.http = httpx2.Client(base_url=served.address, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def hear(self, where: str, said: bytes) -> None:
        self.heard[f"{where} ({len(self.heard)})"] = said

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self.http.request(method, path, **options)
        self.hear(f"{method} {path}", answer.content)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.headers["content-type"].startswith("application/json") else answer.text

    def aura(self, *argv: str, stdin: str | None = None) -> Done:
        done = self.served.aura(*argv, stdin=stdin)
        self.hear("aura " + " ".join(argv), (done.out + done.err).encode())
        return done

    def needles(self) -> dict[bytes, str]:
        """What nothing may hold, and what it is: each secret in each form, without what base64 shares with others."""
        return {form: f"{name}: {form!r:.60}" for name, secret in self.secrets.items() for form in forms_of(secret)}

    def leaks(self) -> list[str]:
        """Where any of them was found: in what was heard, or in a file."""
        files = {str(file): file.read_bytes() for file in self.served.folder.rglob("*") if is_searched(file)}
        found = self.needles()
        return [
            f"{what} in {where}"
            for where, said in (self.heard | files).items()
            for form, what in found.items()
            if form in said
        ]


def is_searched(file: Path) -> bool:
    """Not where a secret is kept for the server, and not the database, which is searched without its inputs."""
    return file.is_file() and file.parent.name != "credentials" and not file.name.startswith("aura.db")


def forms_of(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    for text in (secret, *secret.splitlines()):
        if len(text) >= 6:
            yield text.encode()
            yield json.dumps(text)[1:-1].encode()
            yield quote(text, safe="").encode()
            yield quote_plus(text).encode()
            yield repr(text)[1:-1].encode()
    yield from (raw.hex().encode(), raw.hex().upper().encode())
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"x" * before + raw)[4:-4]


def random_secret() -> str:
    return f"""{secrets.token_hex(6)}+/"'\\ü&{secrets.token_hex(6)}"""


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    found = {
        "variable": random_secret(),
        "file": f"{random_secret()}\n{random_secret()}\nend",
        "input": random_secret(),
    }
    write_plans(tmp_path, PLANS)
    (tmp_path / "credentials").mkdir(mode=0o700)
    (tmp_path / "credentials/file").write_text(found["file"] + "\n")
    env = {"AURA_SECRET_VARIABLE": found["variable"], "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    with open_served(tmp_path, "--port", "0", env={**env, "AURA_LOGS__LEVEL": "debug"}) as served:
        made = Canary(served, found)
        with made.http:
            yield made
            assert served.stop() == 0
            assert served.process.stdout
            made.hear("stdout of the server", served.process.stdout.read().encode())
        assert made.leaks() == []
        assert_database_is_clean(made)


def assert_database_is_clean(canary: Canary) -> None:
    """Search all of the database, when all has been written, but the secret inputs."""
    copy = canary.served.folder / "copy.sqlite"
    shutil.copy(canary.served.folder / "data/aura.db", copy)
    assert not (canary.served.folder / "data/aura.db-wal").exists()
    with closing(sqlite3.connect(copy)) as database:
        rows = database.execute("SELECT cid, inputs FROM run WHERE secret_inputs IS NOT NULL").fetchall()
        assert any(canary.secrets["input"] in json.loads(inputs).values() for _, inputs in rows)
        database.execute("DROP TRIGGER IF EXISTS run_final")
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for cid, inputs in rows:
            shown = {
                name: "-" if name in ("password", "hidden") else value for name, value in json.loads(inputs).items()
            }
            database.execute("UPDATE run SET inputs = ? WHERE cid = ?", (json.dumps(shown).encode(), cid))
        database.commit()
        database.execute("VACUUM")
    said = copy.read_bytes()
    assert [what for form, what in canary.needles().items() if form in said] == []


def test_no_secret_is_anywhere(canary: Canary) -> None:
    last = {"/api/logs/stream": "step fail failed", "/api/events/stream": '"step":"fail"'}
    streams = [threading.Thread(target=listen, args=(canary, path, line)) for path, line in last.items()]
    streams.append(threading.Thread(target=listen_to_socket, args=(canary, last["/api/logs/stream"])))
    for stream in streams:
        stream.start()
    given = json.dumps({"password": canary.secrets["input"]})
    ran = canary.aura("run", "lab/t", "--inputs", "-", stdin=given)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"same": True, "all": ["***", "***", "***"]}
    runs = canary.ask("GET", "/api/runs")["items"]
    assert {run["task_name"] for run in runs} == {"t", "child"}
    for run in runs:
        for path in ("", "/events", "/logs"):
            canary.ask("GET", f"/api/runs/{run['cid']}{path}")
    for path in (
        "/api/queue/list",
        "/api/plans",
        "/api/plans/lab/tasks/t",
        "/api/system/status",
        "/metrics",
        "/api/queue/overview",
    ):
        canary.ask("GET", path)
    for argv in (("show", "@last"), ("show", "@last", "--json"), ("logs", "@last"), ("runs",), ("status",), ("plans",)):
        canary.aura(*argv)
    canary.aura("rerun", "@last")
    for stream in streams:
        stream.join(30)
        assert not stream.is_alive()
    check_steps(canary, next(run["cid"] for run in runs if run["task_name"] == "t"))


def check_steps(canary: Canary, cid: str) -> None:
    """Each step has done what it was to do, so that there was something to find."""
    steps = {step["name"]: step for step in canary.ask("GET", f"/api/runs/{cid}")["steps"]}
    assert {name for name, step in steps.items() if step["state"] == "failed"} == {
        "raise",
        "shell",
        "argv",
        "missing",
        "fail",
        "state",
        "state_key",
        "checkpoint",
        "python",
    }
    assert {name for name, step in steps.items() if step["state"] == "timed_out"} == {"approve", "await"}
    assert steps["python"]["error"]["type"] == "ValueError"
    assert steps["skip"]["state"] == "skipped"
    assert steps["missing"]["error"]["type"] == "SecretMissing"
    assert steps["argv"]["error"]["type"] == "params_invalid"
    assert steps["child"]["output"] == "***"
    assert steps["raise"]["error"]["message"].count("***") > 20
    log = (canary.served.folder / "server.log").read_text()
    assert log.count("***") > 200
    assert "here: ***!" in log
    assert "on stderr:" in log


def listen(canary: Canary, path: str, last: str) -> None:
    """Hear a stream up to the line that has ``last`` in it."""
    said: list[str] = []
    with canary.http.stream("GET", path) as answer:
        for line in answer.iter_lines():
            said.append(line)
            if last in line:
                break
    canary.hear(path, "\n".join(said).encode())


def listen_to_socket(canary: Canary, last: str) -> None:
    """The same of the log's WebSocket."""
    address = canary.served.address.replace("http", "ws", 1) + "/ws/logs"
    said: list[str] = []
    headers = {"Authorization": canary.http.headers["Authorization"]}
    with connect(address, additional_headers=headers, proxy=None, max_size=None) as socket:
        for message in socket:
            said.append(str(message))
            if last in said[-1]:
                break
    canary.hear("/ws/logs", "\n".join(said).encode())
