"""What ``docs/how-to/run-something-on-a-schedule.md`` shows: its test, run as it stands there, and its triggers."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plans import LOG, problems_of, write_files

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs/how-to/run-something-on-a-schedule.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```yaml (plans/\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


async def test_example_of_the_page_passes(tmp_path: Path) -> None:
    assert len(FILES) == 2
    write_files(tmp_path, FILES)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__file__": str(tmp_path / "plans/garden/tests/test_garden.py")}
    exec(example, names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    await test()


def test_triggers_of_the_page_are_right(tmp_path: Path) -> None:
    loose = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(loose) == 2
    listed = "".join(text.removeprefix("triggers:\n") for text in loose)
    triggers = "".join(f"      {line.strip()}\n" for line in listed.splitlines())
    files = {
        "garden/plan.yaml": "secrets: [hook]\n",
        "garden/tasks/water.yaml": f"steps: {{a: {LOG}}}\n",
        "garden/actions.py": "from aura import action\n@action\nasync def queue_length() -> int: return 0\n",
        "garden/schedule.yaml": f"items:\n  it:\n    task: water\n    triggers:\n{triggers}",
    }
    assert problems_of(tmp_path, files) == []
    assert triggers.count("      - {") == 6
