"""Specifications of inputs in a task file, from their short words to JSON Schema (2020-12)."""

from collections.abc import Callable, Iterator
from typing import Any

from aura.loading.fields import Fields, Path, Reader, kind_of
from aura.loading.inputs import Check, Schema
from aura.masking import masked
from aura.patterns import compile_pattern
from aura.sandbox import near
from aura.task import Input

TYPES = ("string", "integer", "number", "boolean", "array", "object")

#: Type → the keys that mean something for it alone.
OF_TYPE: dict[str, tuple[str, ...]] = {
    "string": ("min_length", "max_length", "pattern"),
    "array": ("min_length", "max_length", "items"),
    "object": ("properties",),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "boolean": (),
}
_TYPED = frozenset(key for keys in OF_TYPE.values() for key in keys)
KEYS = ("type", "enum", "default", "description", "secret", *sorted(_TYPED))
#: The highest bound of a length.
MAX_LENGTH = 10_000_000


def read_inputs(reader: Reader, path: Path, value: Any) -> dict[str, Input]:
    """Read the ``inputs`` of a task file."""
    mapping = reader.mapping(path, value, "inputs")
    return {
        name: read_input(reader, at, name, spec) for at, name, spec in reader.identifiers(path, mapping, "an input")
    }


def read_input(reader: Reader, path: Path, name: str, spec: Any) -> Input:
    """Read the specification of one input."""
    schema = _read_schema(reader, path, spec)
    secrets = tuple(secrets_of(schema, f"/{name}"))
    return Input(name, schema, "default" in schema, schema.get("default"), secrets)


def secrets_of(schema: Schema, at: str) -> Iterator[str]:
    """The pointers (see ``masking``) to the secrets in a value of this schema that stands ``at`` a pointer."""
    if schema.get("writeOnly"):
        yield at
        return
    for name, inner in schema.get("properties", {}).items():
        yield from secrets_of(inner, f"{at}/{name.replace('~', '~0').replace('/', '~1')}")
    if "items" in schema:
        yield from secrets_of(schema["items"], f"{at}/*")


def _read_schema(reader: Reader, path: Path, spec: Any) -> dict[str, Any]:
    if isinstance(spec, str):
        spec = {"type": spec}
    if not isinstance(spec, dict):
        reader.problem(path, f"an input is a mapping or the name of a type, not {kind_of(spec)}")
        return {}
    fields = Fields(reader, path, spec, "an input", KEYS)
    kind = fields.get("type")
    if kind not in TYPES:
        _report_type(reader, path, fields)
        return {}
    schema: dict[str, Any] = {"type": kind}
    if "description" in fields:
        schema["description"] = fields.text("description")
    for key in OF_TYPE[kind]:
        if key in fields:
            _READERS[key](fields, schema)
    for key in fields.value:
        if key in _TYPED and key not in OF_TYPE[kind]:
            reader.key_problem((*path, key), f"{key} means nothing for type {kind}")
    _check_bounds(fields, schema)
    return _read_values(fields, schema)


def _check_bounds(fields: Fields, schema: Schema) -> None:
    for low, high in (("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems")):
        if low in schema and high in schema and schema[low] > schema[high]:
            name = "minimum" if low == "minimum" else "min_length"
            fields.wrong(name, f"{schema[low]} is above the upper bound, {schema[high]}: nothing could be given")


def _report_type(reader: Reader, path: Path, fields: Fields) -> None:
    kind = fields.get("type")
    hint = near(kind, TYPES) if isinstance(kind, str) else ""
    at = (*path, "type") if "type" in fields else path
    reader.problem(at, f"an input needs a type: {', '.join(TYPES)}{hint}")


def _read_values(fields: Fields, schema: dict[str, Any]) -> dict[str, Any]:
    """Read ``enum`` and ``default``, whose values must fit the rest; a default of null lets null be given as well."""
    if fields.boolean("secret"):
        return _read_secret(fields, schema)
    if "enum" in fields:
        enum = fields.get("enum")
        if isinstance(enum, list) and enum:
            for index, value in enumerate(enum):
                _report_misfit(fields, ("enum", index), schema, value)
            schema["enum"] = enum
        else:
            fields.wrong("enum", "a list of the allowed values is needed")
    if "default" not in fields:
        return schema
    default = fields.get("default")
    if default is None:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    else:
        default = _report_misfit(fields, ("default",), schema, default)
    if not fields.reader.is_data and _has_expression(default):
        fields.wrong("default", "a default is plain data; no {{ … }} is evaluated in it")
    schema["default"] = default
    return schema


def _read_secret(fields: Fields, schema: dict[str, Any]) -> dict[str, Any]:
    """A secret: whoever reads the file must not read its value, so the file can give none but null."""
    schema["writeOnly"] = True
    if schema["type"] == "string":
        schema["format"] = "password"
    if "enum" in fields:
        fields.wrong("enum", "a secret has no values in a file; give a pattern")
    if fields.get("default") is not None:
        fields.wrong("default", "a secret has no default in a file, but for null")
    elif "default" in fields:
        schema["type"] = [schema["type"], "null"]
        schema["default"] = None
    return schema


def _report_misfit(fields: Fields, key: Path, schema: Schema, value: Any) -> Any:
    """Check a value that the file gives, and give it as a run would get it."""
    check = Check()
    checked = check.value("", schema, value)
    for error in check.errors:
        fields.reader.problem((*fields.path, *key), f"{key[0]}: {error.path} {error.message}".replace(":  ", ": "))
    pointers = list(secrets_of(schema, "/value"))
    if pointers and masked({"value": checked}, pointers) != {"value": checked}:
        fields.reader.problem(
            (*fields.path, *key), f"{key[0]}: there is a secret in it, and a secret has no value in a file"
        )
    return checked


def _has_expression(value: Any) -> bool:
    match value:
        case str():
            return "{{" in value
        case list():
            return any(map(_has_expression, value))
        case dict():
            return any(map(_has_expression, value.values()))
    return False


def _read_bound(key: str, name: str) -> Callable[[Fields, dict[str, Any]], None]:
    def read(fields: Fields, schema: dict[str, Any]) -> None:
        value = fields.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            schema[name] = value
        else:
            fields.wrong(key, f"a number is needed, not {kind_of(value)}")

    return read


def _read_length(key: str, of_text: str, of_array: str) -> Callable[[Fields, dict[str, Any]], None]:
    def read(fields: Fields, schema: dict[str, Any]) -> None:
        name = of_text if schema["type"] == "string" else of_array
        schema[name] = fields.integer(key, 0, 0, MAX_LENGTH)

    return read


def _read_pattern(fields: Fields, schema: dict[str, Any]) -> None:
    try:
        compile_pattern(fields.text("pattern"))
        schema["pattern"] = fields.text("pattern")
    except ValueError as error:
        fields.wrong("pattern", str(error))


def _read_items(fields: Fields, schema: dict[str, Any]) -> None:
    path = fields.at("items")
    schema["items"] = items = _read_schema(fields.reader, path, fields.get("items"))
    if items.get("default") is not None:
        fields.reader.problem((*path, "default"), "default: an element has none; null lets elements be null")


def _read_properties(fields: Fields, schema: dict[str, Any]) -> None:
    path = fields.at("properties")
    mapping = fields.reader.mapping(path, fields.get("properties"), "properties")
    schema["properties"] = {key: _read_schema(fields.reader, (*path, key), spec) for key, spec in mapping.items()}
    schema["required"] = [key for key, spec in schema["properties"].items() if "default" not in spec]
    schema["additionalProperties"] = False


_READERS: dict[str, Callable[[Fields, dict[str, Any]], None]] = {
    "minimum": _read_bound("minimum", "minimum"),
    "maximum": _read_bound("maximum", "maximum"),
    "min_length": _read_length("min_length", "minLength", "minItems"),
    "max_length": _read_length("max_length", "maxLength", "maxItems"),
    "pattern": _read_pattern,
    "items": _read_items,
    "properties": _read_properties,
}
