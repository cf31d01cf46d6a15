"""`s3lustrefs completion`: what a shell needs to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, get_completion_class

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_S3LUSTREFS_COMPLETE"
"""How the shell asks: the command itself answers when this is set."""


class _BashOfAnyone(BashComplete):
    """The script may be for another host's bash: whether the one here is new enough (4.4) decides nothing."""

    @staticmethod
    def _check_version() -> None:
        return


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script with which SHELL completes commands and options of s3lustrefs.

    \b
    Example:  s3lustrefs completion bash > /etc/bash_completion.d/s3lustrefs
              s3lustrefs completion zsh > ~/.zfunc/_s3lustrefs
              s3lustrefs completion fish > ~/.config/fish/completions/s3lustrefs.fish
    """
    kind = _BashOfAnyone if shell == "bash" else get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "s3lustrefs", _VARIABLE).source())
