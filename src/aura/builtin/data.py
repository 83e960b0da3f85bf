"""Shipped actions on JSON data: ``json.parse``, and ``json.query`` by JMESPath (``querying``)."""

from typing import Any

import msgspec

from aura.actions import MAX_OUTPUT_DEPTH, action
from aura.builtin.threads import in_thread


@action(name="json.parse")
async def parse(text: str) -> Any:
    """Read JSON text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"the text is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"the text nests deeper than {MAX_OUTPUT_DEPTH} levels") from None


@action(name="json.query")
async def query(data: Any, path: str) -> Any:
    """Find or reshape something in data by a JMESPath expression; null if it is not there."""
    return await in_thread(_evaluate, data, path)


def _evaluate(data: Any, path: str) -> Any:
    from aura.builtin.querying import evaluate  # the first time it takes some hundredths of a second

    return evaluate(data, path)
