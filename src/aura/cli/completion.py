"""``aura completion``: what a shell has to read so that Tab completes commands, options, tasks and runs."""

import click
from click.shell_completion import get_completion_class

from aura.errors import InternalError

VARIABLE = "_AURA_COMPLETE"


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes Tab complete in a shell.

    Let the shell read it at its start:

    \b
    bash, in ~/.bashrc:   eval "$(aura completion bash)"
    zsh, in ~/.zshrc:     eval "$(aura completion zsh)"
    fish:                 aura completion fish > ~/.config/fish/completions/aura.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise InternalError(f"click has no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "aura", VARIABLE).source())
