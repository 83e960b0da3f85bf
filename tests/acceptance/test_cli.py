"""The commands against a real ``aura serve``: what a user at a shell sees, and the exit codes."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.served import Served, aura, open_served, write_plans

PLANS = {
    "lab/plan.yaml": "title: Lab\n",
    "lab/tasks/greet.yaml": """
title: Greet
inputs:
  who: {type: string, default: you}
  times: {type: integer, default: 1}
steps:
  say: {action: log, params: {message: "hello {{ inputs.who }}"}}
  count: {action: shell.run, params: {argv: [echo, "{{ inputs.times }}"]}, depends_on: say}
returns: {out: "{{ steps.count.output.stdout }}"}
""",
    "lab/tasks/make.yaml": """
steps:
  write: {action: file.write, params: {path: out/greeting.txt, content: "hello\\n"}}
""",
    "lab/tasks/fail.yaml": "steps: {bad: {action: fail, params: {message: no luck}}}\n",
    "lab/tasks/wait.yaml": """
steps:
  nap: {action: sleep, params: {duration: 60s}}
finally:
  tidy: {action: log, params: {message: tidied}}
""",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    write_plans(folder, PLANS)
    with open_served(folder) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, PLANS)
    return tmp_path


# -- running ----------------------------------------------------------------------------------------------------------


def test_run_follows_on_stderr_and_prints_the_result(served: Served) -> None:
    done = served.aura("run", "lab/greet", "-i", "who=ann", "-i", "times=3")
    assert (done.code, done.json) == (0, {"out": "3\n"})
    for said in ("say: hello ann", "succeeded say", "count: 3", "succeeded run"):
        assert said in done.err


def test_run_reads_inputs_from_stdin(served: Served) -> None:
    done = served.aura("run", "lab/greet", "--inputs", "-", stdin='{"times": 9}')
    assert done.json == {"out": "9\n"}


def test_run_that_fails_is_1_and_says_why(served: Served) -> None:
    done = served.aura("run", "lab/fail")
    assert (done.code, done.out) == (1, "")
    assert "aura: lab/fail failed: step bad: ActionFailed: no luck" in done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param(["run", "lab/gret"], "greet", id="unknown-task"),
        pytest.param(["run", "lba/greet"], "lab", id="unknown-plan"),
        pytest.param(["run", "lab/greet", "-i", "whom=x"], "/inputs/whom", id="unknown-input"),
        pytest.param(["run", "lab/greet", "--inputs", "in.json"], "/inputs/times", id="wrong-type"),
        pytest.param(["run", "lab/greet", "--lane", "mian"], "lane", id="unknown-lane"),
        pytest.param(["show", "ffffffff"], "no run's id begins or ends with", id="unknown-run"),
        pytest.param(["show", "f" * 36], "run", id="unknown-whole-id"),
        pytest.param(["runs", "--state", "done"], "state", id="unknown-state"),
    ],
)
def test_bad_requests_are_64_and_say_what_is_wrong(served: Served, argv: list[str], said: str) -> None:
    (served.folder / "in.json").write_text('{"times": "1"}')
    done = served.aura(*argv)
    assert (done.code, done.out) == (64, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_ctrl_c_cancels_the_run(served: Served) -> None:
    with served.following("run", "lab/wait") as process:
        assert process.stderr
        assert any("started   nap" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "tidy: tidied" in err
    run = served.aura("show", "@last", "--json").json
    assert (run["state"], run["reason"], run["cause"]["kind"]) == ("cancelled", "Ctrl-C", "cli")


def test_detached_run_is_listed_shown_followed_and_cancelled(served: Served) -> None:
    cid = served.aura("run", "lab/wait", "--detach", "--label", "team=ops").out.strip()
    assert cid[-12:] in served.aura("runs", "--label", "team=ops", "--task", "lab/wait").out
    with served.following("logs", cid, "-f") as following:
        done = served.aura("cancel", cid[-12:], "--reason", "no need")
        assert (done.code, f"{cid} is " in done.err) == (0, True)
        out, _ = following.communicate(timeout=30)
    assert "tidy: tidied" in out
    assert served.aura("cancel", cid).code == 1
    shown = served.aura("show", cid).out
    assert "no need" in shown
    assert served.aura("logs", cid).out == out


def test_files_of_a_run_are_listed_and_fetched(served: Served) -> None:
    cid = served.aura("run", "lab/make", "--detach").out.strip()
    served.aura("logs", cid, "-f")
    listed = served.aura("files", cid)
    assert [line.split()[-1] for line in listed.out.splitlines()] == ["PATH", "out/greeting.txt"]
    assert [item["bytes"] for item in served.aura("files", cid, "--json").json["items"]] == [6]
    assert served.aura("files", cid, "out/greeting.txt").out == "hello\n"
    assert served.aura("files", cid, "out/greeting.txt", "-o", "here.txt").code == 0
    assert (served.folder / "here.txt").read_text() == "hello\n"
    missing = served.aura("files", cid, "no", "-o", "no.txt")
    assert (missing.code, "has no file 'no'" in missing.err) == (64, True), missing
    assert not [name for name in os.listdir(served.folder) if name.startswith("no.txt")]


def test_run_is_paused_resumed_cancelled_and_run_again(served: Served) -> None:
    cid = served.aura("run", "lab/wait", "--detach", "--label", "who=me").out.strip()
    assert served.aura("pause", cid[-12:], "--reason", "later").code == 0
    with served.following("logs", cid, "-f") as following:
        assert served.aura("priority", cid, "-5").code == 0
        assert served.aura("resume", "@last").code == 0
        done = served.aura("cancel", "--label", "who=me", "--task", "lab/wait")
        assert (done.code, done.out, done.err) == (0, f"{cid}\n", "1 run told to cancel\n")
        following.communicate(timeout=30)
    assert (served.aura("resume", cid).code, served.aura("priority", cid, "1").code) == (1, 1)
    again = served.aura("run", "lab/greet", "-i", "times=2", "-d").out.strip()
    served.aura("logs", again, "-f")
    done = served.aura("rerun", again, "--from", "count", "--follow")
    assert (done.code, done.json, "say: hello" in done.err) == (0, {"out": "2\n"}, False)


def test_ps_lists_what_runs(served: Served) -> None:
    with served.following("run", "lab/wait") as process:
        assert process.stderr
        assert any("started   nap" in line for line in process.stderr)
        assert [run["task_name"] for run in served.aura("ps", "--json").json["items"]] == ["wait"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


# -- the server -------------------------------------------------------------------------------------------------------


def test_plans_and_tasks_are_listed(served: Served) -> None:
    assert [plan["status"] for plan in served.aura("plans", "--json").json["items"]] == ["ready"]
    rows = [line.split()[0] for line in served.aura("tasks", "lab").out.splitlines()]
    assert rows == ["TASK", "lab/fail", "lab/greet", "lab/make", "lab/wait"]


def test_wrong_token_is_77(served: Served) -> None:
    done = aura("ps", cwd=served.folder, env=served.env | {"AURA_TOKEN": "x" * 43})
    assert (done.code, "`aura token` prints the local one" in done.err) == (77, True)


def test_token_lets_others_in(served: Served) -> None:
    token = served.aura("token").out.strip()
    done = aura("status", "--json", cwd=served.folder, env={"AURA_SERVER": served.address, "AURA_TOKEN": token})
    assert done.json["state"] == "running"


def test_stopped_engine_queues_until_it_is_started(folder: Path) -> None:
    with open_served(folder) as served:
        assert served.aura("stop", "--cancel").code == 0
        with served.following("run", "lab/greet") as process:
            assert process.stderr
            assert any("accepted" in line for line in process.stderr)
            assert served.aura("start").out == "running\n"
            out, _ = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out)) == (0, {"out": "1\n"})


def test_broken_edit_keeps_the_plan_and_is_said(folder: Path) -> None:
    with open_served(folder) as served:
        write_plans(folder, {"lab/tasks/fail.yaml": "steps: {bad: {acton: fail}}\n"})
        done = served.aura("reload")
        assert (done.code, "stale" in done.out) == (1, True)
        assert "lab/tasks/fail.yaml:1:" in done.err
        assert "did you mean" in done.err
        assert served.aura("check").code == 1
        assert served.aura("run", "lab/greet").code == 0


def test_serve_ends_with_0_on_sigterm(folder: Path) -> None:
    with open_served(folder) as served:
        assert served.stop() == 0
        assert served.aura("ps").code == 69


def test_serve_on_a_unix_socket(folder: Path) -> None:
    with open_served(folder, "--uds", "a.sock") as served:
        assert served.address == f"unix:{folder}/a.sock"
        assert os.stat(folder / "a.sock").st_mode & 0o777 == 0o600
        assert served.aura("run", "lab/greet").json == {"out": "1\n"}


def test_serve_without_auth_asks_for_no_token(folder: Path) -> None:
    with open_served(folder, "--port", "0", "--no-auth") as served:
        done = aura("status", "--json", cwd=folder, env={"AURA_SERVER": served.address, "AURA_DATA": "/nonexistent"})
        assert done.json["state"] == "running"
    assert "every user of this machine can run commands here" in (folder / "server.log").read_text()


# -- serving that cannot begin ----------------------------------------------------------------------------------------


def test_second_instance_is_75_and_names_the_holder(folder: Path) -> None:
    with open_served(folder) as served:
        done = aura("serve", "--data", "data", "--port", "0", cwd=folder, env={})
        assert (done.code, done.out) == (75, "")
        assert str(served.process.pid) in done.err
        assert served.aura("status").code == 0


def test_stale_lock_file_is_no_instance(folder: Path) -> None:
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "aura.lock").write_text('{"pid": 1}')
    with open_served(folder) as served:
        assert served.aura("status").code == 0


def test_data_folder_is_made_with_its_parents(folder: Path) -> None:
    with open_served(folder, "--port", "0", env={"AURA_DATA": "x"}):  # the flag beats it
        assert (folder / "data").stat().st_mode & 0o777 == 0o700
        assert not (folder / "x").exists()


def test_port_in_use_is_73_and_gives_the_data_folder_back(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = aura("serve", "--data", "data", "--port", port, cwd=folder, env={})
    assert (done.code, done.out) == (73, "")
    assert port in done.err
    assert "Traceback" not in done.err
    with open_served(folder) as served:
        assert served.aura("status").code == 0


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(["--host", "0.0.0.0", "--no-auth"], 78, "--no-auth with host 0.0.0.0", id="no-auth-for-all"),
        pytest.param(["--data", "lab.txt"], 73, "lab.txt", id="data-is-a-file"),
        pytest.param(["--plans", "nowhere"], 64, "nowhere", id="no-plans"),
        pytest.param(["--port", "65536"], 64, "server.port", id="port"),
        pytest.param(["--host", "192.0.2.1"], 73, "192.0.2.1", id="not-our-address"),
    ],
)
def test_serve_that_cannot_begin_says_why(folder: Path, argv: list[str], code: int, said: str) -> None:
    (folder / "lab.txt").write_text("")
    done = aura("serve", "--port", "0", *argv, cwd=folder, env={"AURA_DATA": "data"})
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
