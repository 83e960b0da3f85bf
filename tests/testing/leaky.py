"""A plan whose actions leave behind what they should not, and one for each of those that clean up."""

import re

#: A line that ends with ``# LEAK name`` is where the leak of that action is made.
ACTIONS = """\
import asyncio, contextlib, gc, os, socket, subprocess, tempfile, threading, time
import anyio
from aura import action, service

undo = []
stop = threading.Event()


def start_thread(name):
    thread = threading.Thread(target=stop.wait, args=(30,), name=name)
    undo.append(lambda: (stop.set(), thread.join()))
    return thread


async def sleeper():
    await asyncio.sleep(1000)


@service
async def gate():
    yield None


@service
async def busy():
    start_thread("of a service").start()
    kept, ears, (_, name) = open("/etc/passwd"), socket.socket(), tempfile.mkstemp()
    process = subprocess.Popen(["sleep", "61"])
    child = asyncio.create_task(sleeper())
    yield None
    child.cancel()
    process.kill(), process.wait(), kept.close(), ears.close(), os.close(_), os.unlink(name)
    stop.set()


@action
async def process():
    child = subprocess.Popen(["sleep", "60"])  # LEAK process
    undo.append(child.wait)


@action
def process_of_a_shell():
    child = subprocess.Popen("sleep 60; true", shell=True)  # LEAK process_of_a_shell
    undo.append(child.wait)


@action
def process_that_became_another():
    child = subprocess.Popen("exec sleep 60", shell=True)  # LEAK process_that_became_another
    undo.append(child.wait)


@action
async def thread():
    start_thread("poller").start()  # LEAK thread


@action
def thread_of_a_def():
    start_thread("poller").start()  # LEAK thread_of_a_def


@action
def hang(gate):
    gate.wait()  # LEAK hang


@action
async def temporary_file():
    with tempfile.NamedTemporaryFile(suffix=".scan", delete=False) as file:  # LEAK temporary_file
        file.write(b"abc")


@action
def temporary_folder():
    with open(os.path.join(tempfile.mkdtemp(prefix="scan"), "a"), "w") as file:  # LEAK temporary_folder
        file.write("abcd")


@action
async def file():
    undo.append(open("/etc/passwd").close)  # LEAK file


@action
async def open_socket():
    ears = socket.socket()  # LEAK open_socket
    undo.append(ears.close)
    ears.bind(("127.0.0.1", 0))


@action
async def pipe():
    ends = os.pipe()
    undo.append(lambda: [os.close(end) for end in ends])


@action
async def child():
    waiting = asyncio.create_task(sleeper())  # LEAK child
    undo.append(waiting.cancel)


@action
async def grandchild():
    async def middle():
        waiting = asyncio.create_task(sleeper())  # LEAK grandchild
        undo.append(waiting.cancel)
    await asyncio.create_task(middle())


@action
async def tidy():
    for one in undo:
        one()
    await anyio.sleep(0)


@action
async def nothing():
    waiting = asyncio.create_task(sleeper())
    await anyio.sleep(2)
    waiting.cancel()


@action
async def processes_that_end():
    subprocess.run(["true"], check=True)
    await (await asyncio.create_subprocess_exec("true")).wait()
    child = subprocess.Popen(["sleep", "60"])
    child.kill()
    undo.append(child.wait)


@action
async def threads_that_end():
    short = threading.Thread(target=time.sleep, args=(0.02,))
    short.start()
    undo.append(short.join)
    await anyio.to_thread.run_sync(time.sleep, 0)
    await asyncio.to_thread(time.sleep, 0)


@action
async def files_that_are_closed():
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory(), open(file.name):
        await anyio.sleep(1)
    with contextlib.closing(socket.socket()):
        await anyio.sleep(1)


@action
async def pipe_that_the_collector_closes():
    class Circle:
        def __init__(self):
            self.me, self.ends = self, os.pipe()

        def __del__(self):
            for end in self.ends:
                os.close(end)

    Circle()


@action
async def children_that_end():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)
    waiting = asyncio.create_task(sleeper())
    await anyio.sleep(0)
    waiting.cancel()


@action
async def child_that_ends_a_little_later():
    async def few_turns():
        for _ in range(20):
            await asyncio.sleep(0)

    undo.append(asyncio.create_task(few_turns()).cancel)


@action
async def uses_a_service(busy):
    await anyio.sleep(1)


@action
def works_with_a_service(busy):
    return 1
"""
LINES = {
    words[-1]: f"lab/actions.py:{number}"
    for number, line in enumerate(ACTIONS.splitlines(), 1)
    if "# LEAK" in line and (words := line.split())
}
#: The names of the actions.
NAMES = re.findall(r"@action\n(?:async )?def (\w+)", ACTIONS)
