"""`skep completion`: the scripts that let shells ask skep for the words that fit.

Edge: the terminal. The scripts are click's; they run `skep` again with `_SKEP_COMPLETE` in its environment.
"""

import click
from click.shell_completion import get_completion_class

PROGRAM, VARIABLE = "skep", "_SKEP_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete skep's words, and the names of what there is.

    \b
    Examples:
      source <(skep completion bash)
      skep completion bash > /etc/bash_completion.d/skep
      skep completion zsh > ~/.zfunc/_skep
      skep completion fish > ~/.config/fish/completions/skep.fish
    """
    from skep.cli.main import main  # Imported late: it imports this module's siblings by name only.

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 -- click has these three; the choice above allows no other
    click.echo(found(main, {}, PROGRAM, VARIABLE).source())
