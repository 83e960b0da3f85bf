"""The plan that the clients of the crash tests ask for, as text: what its tasks do is what ``mix`` says of them."""

_SHELL = 'echo "$AURA_CID $AURA_STEP $AURA_ATTEMPT $$ $(date +%s.%N)" >> {{ vars.marks }}'

TASKS = {
    "nothing": "steps:\n  a: {action: log, params: {message: nothing}}\n",
    "chain": """
steps:
  a: {action: mark}
  b: {action: mark, depends_on: a}
  c: {action: mark, depends_on: b}
""",
    "wide": """
steps:
  a: {action: mark_in_thread}
  b: {action: mark}
  c: {action: mark, params: {seconds: 0.02}}
  d: {action: mark_with_service}
""",
    "shell": f"steps:\n  a: {{action: shell.run, params: {{shell: '{_SHELL}'}}}}\n",
    "again": """
recovery: restart
steps:
  a: {action: mark, params: {seconds: 0.05}}
  b: {action: mark, params: {seconds: 0.05}, depends_on: a}
""",
    "patient": "recovery: restart\nsteps:\n  a: {action: mark, params: {seconds: 2}}\n",
    "tidy": """
steps:
  a: {action: mark, params: {seconds: 0.03}}
finally:
  tidy: {action: mark, params: {seconds: 0.03}}
""",
    "slow": "steps:\n  a: {action: mark, params: {seconds: 20}}\n",
    "orphan": f"steps:\n  a: {{action: shell.run, params: {{shell: '{_SHELL}; exec sleep 20'}}}}\n",
    "stubborn": "cleanup_timeout: 50ms\nsteps:\n  a: {action: mark_stubborn}\n",
    "tree": """
steps:
  a: {action: mark}
  b: {action: task.run, params: {task: leaf}, depends_on: a}
  c: {action: mark, depends_on: b}
""",
    "leaf": """
recovery: restart
steps:
  x: {action: mark, params: {seconds: 0.05}}
  y: {action: mark, params: {seconds: 0.02}, depends_on: x}
""",
    "loop": """
steps:
  a: {action: mark, params: {seconds: 0.02, item: "{{ loop.index }}"}, loop: {times: 4, parallelism: 2}}
  b: {action: mark, depends_on: a}
""",
    "keep": """
recovery: resume
steps:
  a: {action: mark}
  b: {action: mark, params: {seconds: 0.05}, depends_on: a, idempotent: true}
  c:
    action: mark
    params: {seconds: 0.02, item: "{{ loop.index }}"}
    loop: {times: 4, parallelism: 2}
    depends_on: b
    idempotent: true
  d: {action: mark, depends_on: c}
on_preempt:
  rest: {action: mark, params: {seconds: 0.05}}
on_resume:
  wake: {action: mark, params: {seconds: 0.1}}
""",
    "once": """
recovery: resume
steps:
  a: {action: mark, params: {seconds: 0.05}}
  b: {action: mark, params: {seconds: 0.05}, depends_on: a}
""",
    "count": "recovery: resume\nsteps:\n  a: {action: count_up, idempotent: true}\n",
    "tree_kept": """
recovery: resume
steps:
  a: {action: mark, idempotent: true}
  b: {action: task.run, params: {task: leaf_kept}, depends_on: a}
  c: {action: mark, depends_on: b, idempotent: true}
""",
    "leaf_kept": """
recovery: resume
steps:
  x: {action: mark, params: {seconds: 0.05}, idempotent: true}
  y: {action: mark, params: {seconds: 0.02}, depends_on: x}
""",
    "nap": """
steps:
  a: {action: mark}
  b: {action: sleep, params: {duration: 1s}, depends_on: a}
  c: {action: mark, depends_on: b}
""",
    "hear": """
steps:
  a: {action: mark}
  b: {action: event.wait, params: {name: "call.{{ run.cid }}"}, depends_on: a}
  c: {action: mark, depends_on: b}
""",
    "ask": """
steps:
  ask: {action: approval.wait, params: {message: "Go on?"}}
  c: {action: mark, depends_on: ask}
""",
    "flaky": """
recovery: resume
steps:
  a: {action: mark_at_last, params: {tries: 3}, retry: {attempts: 20, delay: 60ms}, idempotent: true}
  b: {action: mark_at_last, params: {tries: 2}, retry: {attempts: 20, delay: 1s}, idempotent: true}
""",
    "hit": """
recovery: resume
steps:
  a: {action: mark, params: {seconds: 0.1}, idempotent: true}
  b: {action: mark, params: {seconds: 0.1}, idempotent: true, depends_on: a}
on_preempt:
  rest: {action: mark, params: {seconds: 0.02}}
""",
    "hit_anew": "recovery: restart\nsteps:\n  a: {action: mark, params: {seconds: 0.1}}\n",
    "handle": """
recovery: resume
steps:
  h: {action: mark, params: {seconds: 0.05}, idempotent: true}
  i: {action: mark, depends_on: h, idempotent: true}
""",
    "tick": "recovery: restart\nsteps:\n  a: {action: log, params: {message: tick}}\n",
    "take": "recovery: restart\nsteps:\n  a: {action: log, params: {message: a file}}\n",
    "receive": "recovery: restart\nsteps:\n  a: {action: log, params: {message: a call}}\n",
    "tally": "steps:\n  a: {action: count_in_state}\n",
    "tell": "steps:\n  a: {action: mark_and_emit}\n",
    "beget": """
steps:
  a: {action: mark}
  b: {action: task.start, params: {task: nothing}, depends_on: a}
""",
    "apart": """
steps:
  a: {action: mark_apart}
  b: {action: python.run, params: {inputs: {marks: "{{ vars.marks }}"}, code: "@SCRIPT@"}}
""",
}

#: Of each the event is its name. What the first stops goes on, what the second stops starts over; the third is switched
#: on and off.
RULES = """
rules:
  alarm: {triggers: [{event: alarm}], task: handle, grace: 2s, preempts: {tasks: [hit]}}
  drill: {triggers: [{event: drill}], task: handle, then: restart, preempts: {tasks: [hit_anew]}, priority: 5}
  idle: {triggers: [{event: idle}], task: handle, enabled: false}
"""

#: What starts by itself. The first two have a slot each second; ``off`` never starts, ``deaf`` never wants to.
ITEMS = """
items:
  tick: {task: tick, mode: parallel, triggers: [{every: 1s, misfire: run_all}]}
  beat: {task: tick, mode: parallel, triggers: [{cron: "* * * * * *", misfire: run_once, misfire_grace: 1h}]}
  off: {task: tick, enabled: false, triggers: [{every: 1s}]}
  deaf: {task: tick, triggers: [{event: run.started, when: "{{ false }}"}]}
  echo: {task: tick, triggers: [{event: told}]}
  files: {task: take, triggers: [{file: {path: "{{ vars.inbox }}", each: true}}]}
  hook: {task: receive, triggers: [{webhook: {secret: hook, scheme: bearer}}]}
"""

_SCRIPT = r"""
import os, time
mark = ' '.join([os.environ['AURA_CID'], os.environ['AURA_STEP'], os.environ['AURA_ATTEMPT'], str(os.getpid())])
file = os.open(inputs['marks'], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(file, f'{mark} {time.time():.6f}\n'.encode())
os.fsync(file)
"""
TASKS["apart"] = TASKS["apart"].replace("@SCRIPT@", _SCRIPT.replace("\\", "\\\\").replace("\n", "\\n"))

ACTIONS = """
import os
import time
import anyio
from aura import Context, action, service

def write_line(path: str, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{line}\\n".encode())
    os.fsync(file)
    os.close(file)

def leave_mark(ctx: Context, item: str = "") -> None:
    write_line(ctx.vars["marks"], f"{ctx.cid} {ctx.step}{item} {ctx.attempt} {os.getpid()} {time.time():.6f}")

@service
async def pen():
    yield leave_mark

@action
async def mark(ctx: Context, seconds: float = 0.0, item: int | None = None) -> None:
    leave_mark(ctx, "" if item is None else f"[{item}]")
    await anyio.sleep(seconds)

@action
async def mark_with_service(ctx: Context, pen) -> None:
    pen(ctx)

@action
def mark_in_thread(ctx: Context) -> None:
    leave_mark(ctx)

@action(isolation="process")
def mark_apart(ctx: Context) -> None:
    leave_mark(ctx)

@action
async def mark_at_last(ctx: Context, tries: int) -> None:
    leave_mark(ctx)
    if ctx.attempt < tries:
        raise ConnectionError("not yet")

@action
async def mark_stubborn(ctx: Context) -> None:
    leave_mark(ctx)
    try:
        await anyio.sleep(20)
    finally:
        with anyio.CancelScope(shield=True):  # longer than the task's time for clean-up
            await anyio.sleep(0.2)

@action
async def count_up(ctx: Context) -> None:
    leave_mark(ctx)
    for number in range(ctx.checkpointed or 0, 6):
        write_line(ctx.vars["counts"], f"{ctx.cid} {number}")
        await anyio.sleep(0.02)
        await ctx.checkpoint(number + 1)

@action
async def count_in_state(ctx: Context) -> None:
    leave_mark(ctx)
    while True:
        found = await ctx.state.get("tally")
        if await ctx.state.compare_and_set("tally", found, (found or 0) + 1):
            break
    write_line(ctx.vars["tallies"], f"{ctx.cid} {(found or 0) + 1}")

@action
async def mark_and_emit(ctx: Context) -> None:
    leave_mark(ctx)
    write_line(f"{ctx.vars['inbox']}/{ctx.cid}", "a file")
    await ctx.emit("told", {"attempt": ctx.attempt})
"""
