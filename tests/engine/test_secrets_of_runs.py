"""How long the secret inputs of a run are hidden, and what of a world's secrets a plan sees."""

from pathlib import Path

from aura.masking import MASK
from aura.redaction import KEPT_RUNS
from aura.testing.world import open_world

PIN = "sesame-open"
TASK = """
inputs: {pin: {type: string, secret: true}}
steps: {a: {action: log, params: {message: "{{ inputs.pin }}"}}}
"""
WAITS = """
inputs: {pin: {type: string, secret: true}}
steps: {a: {action: sleep, params: {duration: 5s}}}
"""
EVERYWHERE = """
inputs: {pin: {type: string, secret: true}, open: string}
steps:
  a:
    loop: {for_each: ["{{ secrets.token }}", "{{ inputs.pin }}"]}
    action: log
    params: {message: "{{ loop.item }}"}
    outputs: {said: "{{ loop.item }}"}
  b: {action: json.parse, params: {text: '["{{ secrets.token }}", "{{ inputs.pin }}"]'}}
  c: {action: log, params: {message: x}, when: "{{ inputs.pin == secrets.token }}"}
  d: {action: fail, depends_on: [a, b], params: {message: "{{ secrets.token }} {{ inputs.pin }}"}}
on_failure:
  e: {action: json.parse, params: {text: '"{{ error.message }}"'}}
"""


def write(folder: Path) -> Path:
    (folder / "p/tasks").mkdir(parents=True)
    (folder / "p/tasks/t.yaml").write_text(TASK)
    (folder / "p/tasks/waits.yaml").write_text(WAITS)
    (folder / "p/plan.yaml").write_text("secrets: [token]\n")
    (folder / "p/tasks/s.yaml").write_text('steps: {a: {action: log, params: {message: "{{ secrets.token }}"}}}\n')
    return folder / "p"


async def test_secret_input_is_hidden_until_its_run_and_some_more_have_ended(tmp_path: Path) -> None:
    async with open_world(write(tmp_path)) as world:
        redactor = world.engine.runtime.redactor
        run = await world.start("waits", inputs={"pin": PIN}, delay_s=10)
        await world.advance(5)
        assert redactor.text(PIN) == PIN  # nothing can have said it before its first start
        await world.until(run, step="a", state="waiting")
        for _ in range(KEPT_RUNS + 1):
            await world.run("t", inputs={"pin": "another-one"})
        assert redactor.text(PIN) == MASK
        await world.settle()
        assert redactor.text(PIN) == MASK
        for _ in range(KEPT_RUNS):
            await world.run("t", inputs={"pin": "another-one"})
        assert redactor.text(PIN) == PIN
        assert redactor.text("another-one") == MASK


async def test_secret_of_a_world_is_what_was_set_or_random(tmp_path: Path) -> None:
    async with open_world(write(tmp_path), secrets={"token": "first-token"}) as world:
        runs = [await world.run("s")]
        world.secrets(token="second-token")
        runs.append(await world.run("s"))
        world.secrets(token=None)
        runs.append(await world.run("s"))
        assert [run.state for run in runs] == ["succeeded", "succeeded", "failed"]
        assert world.engine.runtime.redactor.text("first-token second-token") == "*** ***"
    async with open_world(tmp_path / "p") as world:
        assert (await world.run("s")).state == "succeeded"


async def test_plan_says_what_it_lacks_at_each_load(tmp_path: Path) -> None:
    async with open_world(write(tmp_path), secrets={"token": None}) as world:
        for _ in range(2):
            (status,) = await world.engine.reload()
            (warning,) = status.warnings
            assert "the secret token is nowhere yet" in warning.message
            assert status.status == "ready"
        world.secrets(token="there")
        (status,) = await world.engine.reload()
        assert status.warnings == ()


async def test_no_row_has_a_secret_but_in_secret_inputs(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "p/tasks/all.yaml").write_text(EVERYWHERE)
    async with open_world(tmp_path / "p", secrets={"token": "first-token"}) as world:
        await world.run("s")  # from here on it is known
        run = await world.run("all", inputs={"pin": PIN, "open": f"with {PIN}"}, labels={"l": "first-token"})
        assert run.state == "failed"
        await world.run("all", inputs={"pin": "another", "open": f"with first-token and {PIN}"}, labels={"l": PIN})
        tables = world.backend.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = [repr(row) for (name,) in tables for row in world.backend.execute(f"SELECT * FROM {name}").fetchall()]
        leaks = [row[:700] for row in rows if "first-token" in row]
        assert leaks == []
        (kept,) = [row for row in rows if PIN in row]
        assert kept.count(PIN) == 2  # the secret input, and an open one that came before it was known
        assert sum(row.count(MASK) for row in rows) > 20
