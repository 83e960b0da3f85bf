"""The description of the interface, and the interface held to it: by a validator, and by a fuzzer over a real server.

schemathesis makes requests from ``GET /openapi.json``, good ones and bad ones, and compares each answer with what the
document says. ``tests/acceptance/schemathesis.toml`` says which routes it leaves out, and why.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate
from tests.fakes.served import open_served, write_plans

from aura.web.app import ROUTES
from aura.web.openapi import document

CONFIG = Path(__file__).parent / "schemathesis.toml"
FUZZER = Path(sys.executable).with_name("schemathesis")
RULES = "rules:\n  urgent: {triggers: [{event: door.opened}], task: hello}\n"
CASES = 1500
ITEMS = "items:\n  nightly: {task: hello, triggers: [{cron: '30 2 * * *', timezone: Europe/Berlin}]}\n"
PLAN = "steps:\n  say: {action: log, params: {message: hello}}\n"
OPERATIONS = [
    (path, method) for path, item in document(ROUTES)["paths"].items() for method in item if method != "parameters"
]


@pytest.fixture(scope="module")
def described() -> Any:
    return json.loads(msgspec.json.encode(document(ROUTES)))


def test_document_is_valid_openapi(described: Any) -> None:
    assert described["openapi"].startswith("3.1")
    validate(described)


def test_document_has_every_route_and_its_scope(described: Any) -> None:
    found = {
        (path, method): op.get("x-scope") for path, item in described["paths"].items() for method, op in item.items()
    }
    wanted = {
        (route.path.replace(":path}", "}"), method.lower()): None if route.access == "open" else route.access.value
        for route in ROUTES
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert found == wanted


def test_each_reference_leads_somewhere(described: Any) -> None:
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert wanted <= set(described["components"]["schemas"])


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_each_operation_says_what_it_does_and_answers(described: Any, path: str, method: str) -> None:
    operation = described["paths"][path][method]
    assert operation["summary"].endswith((".", "."))
    assert "default" in operation["responses"]
    assert set(operation["responses"]) - {"default"}
    assert {p["name"] for p in operation["parameters"] if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path))


def test_operation_ids_are_unique(described: Any) -> None:
    names = [op["operationId"] for item in described["paths"].values() for op in item.values()]
    assert len(names) == len(set(names))


def test_server_answers_as_it_is_described(tmp_path: Path) -> None:
    plan = {"tasks/hello.yaml": PLAN, "interrupts.yaml": RULES, "schedule.yaml": ITEMS}
    write_plans(tmp_path, {f"fuzz/{path}": text for path, text in plan.items()})
    with open_served(tmp_path) as served:
        token = (tmp_path / "data/token").read_text().strip()
        assert served.aura("run", "fuzz/hello").code == 0
        cid = served.aura("runs", "--json").json["items"][0]["cid"]
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.read_text().replace("A-RUN", cid))
        command = [
            str(FUZZER),
            "--config-file",
            str(config),
            "run",
            f"{served.address}/openapi.json",
            "--no-color",
            "--seed",
            "1",
        ]
        done = subprocess.run(
            [*command, "-H", f"Authorization: Bearer {token}"],
            cwd=tmp_path,
            stdout=-1,
            stderr=-2,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stdout[-20_000:]
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases, done.stdout[-2000:]
    assert int(cases[1]) >= CASES
