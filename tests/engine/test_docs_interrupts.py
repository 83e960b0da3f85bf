"""The test that ``docs/how-to/let-urgent-work-take-over.md`` shows, run as it stands there on the plan of that page."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plans import write_files

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs/how-to/let-urgent-work-take-over.md").read_text(encoding="utf-8")


async def test_example_of_the_page_passes(tmp_path: Path) -> None:
    files = dict(re.findall(r"^```yaml (plans/\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    assert len(files) == 4
    write_files(tmp_path, files)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__file__": str(tmp_path / "plans/stage/tests/test_stage.py")}
    exec(example, names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    await test()
