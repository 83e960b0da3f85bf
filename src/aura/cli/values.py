"""What was given as ``-p k=v``, which goes by no declared type: JSON if it parses, else text, ``k=@file`` a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

#: The largest file that is read for a value, in bytes.
MAX_FILE = 1024 * 1024


def values_of(given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values by name; of a name that is given twice the last one counts.

    Raises:
        click.BadParameter: a file cannot be read.
    """
    return {name: value_of(text) for name, text in given}


def value_of(text: str) -> Any:
    """One value: ``5`` is a number, ``"5"`` and ``five`` are text, ``@notes.txt`` is what stands in that file.

    Raises:
        click.BadParameter: the file cannot be read.
    """
    text = text_of(text)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def text_of(text: str) -> str:
    """The text that was given, or that of the file behind ``@``.

    Raises:
        click.BadParameter: the file cannot be read.
    """
    if not text.startswith("@"):
        return text
    try:
        with Path(text[1:]).open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise ValueError(f"it is larger than {MAX_FILE // 1024} KiB")
        return content.decode()
    except (OSError, ValueError) as error:
        message = f"{text[1:]}: {getattr(error, 'strerror', None) or error}; text that begins with @ is '\"@…\"'"
        raise click.BadParameter(message, param_hint="-p") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
