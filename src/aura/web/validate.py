"""Checks data from outside against msgspec structs and names everything that is wrong with it at once.

msgspec stops at the first error; here each field is converted by itself, so that a caller sees all bad fields, with
JSON pointers (RFC 6901), and all unknown and missing keys. Numbers: ``7.0`` is the integer 7, as in JSON Schema;
nothing else is coerced.
"""

import re
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

from aura.errors import FieldError, RequestError, did_you_mean

S = TypeVar("S", bound=msgspec.Struct)

_PLACE = re.compile(r"(?P<message>.*) - at `\$?(?P<path>.*)`", re.DOTALL)
_PART = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")


def convert(data: Any, kind: type[S], at: str = "") -> S:
    """Make a struct of plain JSON data. ``at`` is the pointer of ``data`` in the body.

    Raises:
        RequestError: ``invalid``, with an error for each field that is wrong.
    """
    if not isinstance(data, dict):
        raise invalid([FieldError(at, f"must be an object, not {name_of(data)}")])
    return _build(kind, data, at, strict=True)


def convert_text(given: Mapping[str, list[str]], kind: type[S]) -> S:
    """Make a struct of query parameters: text becomes numbers; a field that is a list takes repeated parameters.

    Raises:
        RequestError: ``invalid``, with an error for each parameter that is wrong.
    """
    lists = _lists_of(kind)
    repeated = [FieldError(f"/{k}", "must be given once") for k, v in given.items() if len(v) > 1 and k not in lists]
    if repeated:
        raise invalid(repeated)
    return _build(kind, {k: v if k in lists else v[0] for k, v in given.items()}, "", strict=False)


@cache
def _fields_of(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


@cache
def _lists_of(kind: type[msgspec.Struct]) -> frozenset[str]:
    kinds = {name: msgspec.inspect.type_info(field.type) for name, field in _fields_of(kind).items()}
    return frozenset(name for name, found in kinds.items() if isinstance(found, msgspec.inspect.ListType))


def _build(kind: type[S], data: Mapping[str, Any], at: str, *, strict: bool) -> S:
    fields = _fields_of(kind)
    errors = [
        FieldError(pointer(at, key), f"is not a known key{did_you_mean(key, fields)}")
        for key in data
        if key not in fields
    ]
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key not in data:
            if field.required:
                errors.append(FieldError(pointer(at, key), "is required"))
            continue
        try:
            values[field.name] = _converted(data[key], field.type) if strict else _read_text(data[key], field.type)
        except msgspec.ValidationError as error:
            errors.append(_field_error(pointer(at, key), error))
    if errors:
        raise invalid(errors)
    return kind(**values)


def _read_text(value: Any, kind: Any) -> Any:
    """Read a query parameter: text becomes a number or a boolean where one is wanted, and nothing else."""
    kind, is_number = _spoken(kind)
    return msgspec.convert(value, kind, strict=not is_number)


@cache
def _spoken(kind: Any) -> tuple[Any, bool]:
    """A type without None, since in a query string ``null`` is a word like any other; and whether it is a number."""
    if get_origin(kind) in (Union, UnionType):
        kind = Union[tuple(option for option in get_args(kind) if option is not type(None))]  # noqa: UP007 - made
    numbers = (msgspec.inspect.IntType, msgspec.inspect.FloatType, msgspec.inspect.BoolType)
    return kind, isinstance(_bare(msgspec.inspect.type_info(kind)), numbers)


def _bare(info: msgspec.inspect.Type) -> msgspec.inspect.Type:
    return info.type if isinstance(info, msgspec.inspect.Metadata) else info


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        if isinstance(value, float) and value.is_integer():
            return msgspec.convert(int(value), kind)
        raise


def _field_error(at: str, error: msgspec.ValidationError) -> FieldError:
    """Turn msgspec's ``Expected `int`, got `str` - at `$.a[0]``` into a pointer and a sentence."""
    found = _PLACE.fullmatch(str(error))
    message = found["message"] if found else str(error)
    for part in _PART.finditer(found["path"] if found else ""):
        if part["index"] != "...":
            at = pointer(at, part["name"] or part["index"])
    return FieldError(at, message.replace("`", ""))


def invalid(errors: list[FieldError]) -> RequestError:
    """The refusal that lists these errors."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return RequestError("invalid", f"{first.path or 'the body'} {first.message}{more}", errors=errors)


def pointer(at: str, key: str) -> str:
    """Go one step down in a JSON pointer."""
    return f"{at}/{key.replace('~', '~0').replace('/', '~1')}"


def name_of(value: Any) -> str:
    """What JSON calls a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "an array"
    return "an object"
