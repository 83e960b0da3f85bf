"""``aura files``: what is in a run's workdir, and one file of it."""

import codecs
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from aura import api
from aura.cli.cids import find_cid
from aura.cli.completing import complete_cid
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import local_time, print_json, print_table, shown


@click.command
@click.argument("cid", shell_complete=complete_cid)
@click.argument("path", required=False)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write the bytes there."
)
@server_options
@json_option
def files(cid: str, path: str | None, output: Path | None, as_json: bool) -> None:
    """List the files of a run's workdir, or with PATH print the bytes of one.

    CID may be shortened, or @last. With -o the file appears whole or not at all.
    """
    if output and path is None:
        raise click.UsageError("-o needs the PATH of a file")
    with open_client() as client:
        whole_cid = find_cid(client, cid)
        if path is None:
            _list(list(client.files(whole_cid)), as_json)
        elif output:
            _save(client.download(whole_cid, path), output)
        else:
            _print(client.download(whole_cid, path))


def _list(found: list[api.RunFile], as_json: bool) -> None:
    if as_json:
        print_json({"items": found})
    else:
        rows = [(local_time(file.modified_at), file.bytes, file.path) for file in found]
        print_table(("MODIFIED", "BYTES", "PATH"), rows)


def _save(pieces: Iterable[bytes], target: Path) -> None:
    """Write under another name first; what is no ordinary file, such as a pipe, is written as it is."""
    if target.exists() and not target.is_file():
        _write(pieces, target)
        return
    part = target.with_name(f"{target.name}.part")
    try:
        _write(pieces, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write(pieces: Iterable[bytes], target: Path) -> None:
    with open(target, "wb") as file:
        for piece in pieces:
            file.write(piece)


def _print(pieces: Iterable[bytes]) -> None:
    """The bytes as they are, but to a terminal as text that cannot steer it."""
    stdout = sys.stdout.buffer
    stdout.writelines(_readable(pieces) if stdout.isatty() else pieces)
    stdout.flush()


def _readable(pieces: Iterable[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield shown(decoder.decode(piece)).encode()
    yield shown(decoder.decode(b"", final=True)).encode()
