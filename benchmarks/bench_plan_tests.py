"""How long the tests of plans take: 200 of them, of ten plans, by ``pytest -n 2``.

The plans have three tasks, a rule and an item each. Their tests are of eight kinds: a run that succeeds, a retry, a
skip, a cancellation, a week of a schedule, a pre-emption, a crash, a loop. The time is the whole one, from the start of
pytest to its end.

    python benchmarks/bench_plan_tests.py [TESTS [WORKERS]]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLANS = 10
FILES = {
    "actions.py": """\
import anyio
from aura import Context, action


@action
async def measure(ctx: Context, host: str = "a") -> int:
    await anyio.sleep(5)
    ctx.log.info(f"measured {host}")
    return len(host)


@action
async def ask(host: str) -> dict[str, int]:
    raise ConnectionError("this would ask the network")
""",
    "tasks/report.yaml": """\
inputs: {hosts: {type: array, items: string, default: [a, bb]}}
steps:
  measure: {action: measure, params: {host: "{{ loop.item }}"}, loop: {for_each: "{{ inputs.hosts }}", parallelism: 2}}
  ask: {action: ask, params: {host: a}, retry: {attempts: 3, delay: 1m}, depends_on: measure}
  tell: {action: event.emit, params: {name: reported}, when: "{{ steps.ask.output.ms > 5 }}", depends_on: ask}
finally: {tidy: {action: file.write, params: {path: done, content: x}}}
returns: "{{ steps.ask.output.ms }}"
""",
    "tasks/long.yaml": """\
recovery: resume
steps:
  a: {action: sleep, params: {duration: 900ms}, loop: {times: 50}, idempotent: true}
""",
    "tasks/save.yaml": "steps: {a: {action: log, params: {message: saved}}}\n",
    "interrupts.yaml": "rules: {low: {triggers: [{event: low}], task: save}}\n",
    "schedule.yaml": 'items: {daily: {task: save, triggers: [{cron: "0 6 * * *"}]}}\n',
}
KINDS = [
    """\
async def test_succeeds_{n}(world):
    world.fake("ask", returns={"ms": 3})
    run = await world.run("report")
    assert run.result == 3
""",
    """\
async def test_retries_{n}(world):
    world.fake("ask", sequence=[ConnectionError(), ConnectionError(), {"ms": 9}])
    run = await world.run("report")
    run.assert_succeeded()
    world.assert_emitted("reported")
""",
    """\
async def test_skips_{n}(world):
    world.fake("ask", returns={"ms": 3})
    run = await world.run("report", inputs={"hosts": []})
    run.assert_steps(tell="skipped", tidy="succeeded")
""",
    """\
async def test_cancelled_{n}(world):
    run = await world.start("long")
    await world.advance(10)
    await run.cancel()
    await world.settle()
    run.assert_state("cancelled")
""",
    """\
async def test_week_{n}(world):
    await world.advance(days=7)
    world.assert_started("save", times=7)
""",
    """\
async def test_preempted_{n}(world):
    run = await world.start("long")
    await world.advance(10)
    await world.emit("low")
    await world.settle()
    run.assert_succeeded()
    assert run.preemptions == 1
""",
    """\
async def test_crash_{n}(world):
    run = await world.start("long")
    await world.advance(10)
    await world.crash_and_restart(down="1m")
    await world.settle()
    run.assert_succeeded()
""",
    """\
async def test_loop_{n}(world):
    world.fake("ask", returns={"ms": 3})
    measure = world.fake("measure", does=lambda host: len(host), takes="1s")
    run = await world.run("report", inputs={"hosts": ["a"] * 20})
    run.assert_succeeded()
    assert len(measure.calls) == 20
""",
]


def write(folder: Path, tests: int) -> None:
    """Write the plans with their tests."""
    for number in range(PLANS):
        plan = folder / f"plan{number}"
        mine = [KINDS[n % len(KINDS)].replace("{n}", str(n)) for n in range(number, tests, PLANS)]
        for name, text in {**FILES, "tests/test_plan.py": "\n\n".join(mine)}.items():
            (plan / name).parent.mkdir(parents=True, exist_ok=True)
            (plan / name).write_text(text)


def main() -> int:
    """Run the benchmark; the result is pytest's exit code."""
    given = [int(word) for word in sys.argv[1:]]
    tests, workers = [*given, *(200, 2)[len(given) :]]
    with tempfile.TemporaryDirectory(prefix="aura-bench-") as scratch:
        folder = Path(scratch) / "plans"
        write(folder, tests)
        before, begin = os.times(), time.perf_counter()
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(workers), str(folder)]
        done = subprocess.run(argv, cwd=scratch, capture_output=True, text=True, check=False)
        took, after = time.perf_counter() - begin, os.times()
    print(done.stdout.splitlines()[-1] if done.stdout else done.stderr)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{tests} tests on {workers} workers: {took:.1f} s, {cpu:.1f} s of processor time")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
