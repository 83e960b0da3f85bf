"""Parts of which the JSON Schemas of plan files are made: see ``fileschema`` and ``triggerschema``."""

from collections.abc import Collection, Mapping
from typing import Any

from aura.loading import modefile
from aura.task import IDENTIFIER_PATTERN

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Digits with a unit somewhere behind them, or ISO 8601. What it means is for ``duration`` to say.
DURATION = {
    "type": "string",
    "pattern": r"^\s*(P[0-9.,WDTHMSwdthms]+|[0-9][0-9A-Za-z.,\s]*[A-Za-z][0-9A-Za-z.,\s]*)\s*$",
}
TEXT = {"type": "string"}
WHOLE_EXPRESSION = {"type": "string", "pattern": r"^\s*\{\{[\s\S]*\}\}\s*$"}
NAMES = {"pattern": f"^{IDENTIFIER_PATTERN}$"}
MODE_SAYS = "What happens when the task is asked for while it runs: refuse it, replace the run, wait, or run beside it"


def mapping(keys: Collection[str], shapes: Mapping[str, Schema], required: Collection[str] = ()) -> Schema:
    """A mapping with exactly these keys.

    Raises:
        KeyError: a key has no shape.
    """
    return {
        "type": "object",
        "properties": {key: shapes[key] for key in keys},
        "required": list(required),
        "additionalProperties": False,
    }


def described(shape: Schema, description: str) -> Schema:
    return {"description": description, **shape}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def mode() -> Schema:
    unbounded = [kind for kind in modefile.KINDS if kind not in modefile.BOUNDED]
    shapes = {
        "kind": described({"enum": list(modefile.KINDS)}, MODE_SAYS),
        "max": described(whole(1, modefile.MAX_RUNS), "queued: how many wait at most; parallel: how many run at once"),
        "key": described({"type": "string", "minLength": 1}, "Runs for which this text differs do not count together"),
    }
    told = {"if": {"properties": {"kind": {"enum": unbounded}}}, "then": {"properties": {"max": False}}}
    return {"anyOf": [{"enum": list(modefile.KINDS)}, {**mapping(modefile.KEYS, shapes, ["kind"]), **told}]}


def or_zero(name: str) -> Schema:
    return {"anyOf": [ref(name), {"enum": [0, "0"]}]}


def whole(minimum: int, maximum: int) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}
