"""The completion script of a shell, made from the options of every subcommand by shtab.

What a value is called in the help says how it is completed: `a|b|c` by its choices, FILE and DIR by what is there.
"""

from argparse import Action, ArgumentParser, _SubParsersAction
from typing import Any

from flows.cli.options import COMMANDS, make_parser
from flows.terminal import say

FOLDERS, FILES = "DIR", ("FILE", "MANIFEST", "VIDEO")


def completion_command(options: dict[str, Any]) -> int:
    """Print the completion script of bash, zsh or fish."""
    say(completion_script(options["shell"]).rstrip("\n"))
    return 0


def completion_script(shell: str) -> str:
    """Make the completion script of a shell.

    Args:
        shell: bash, zsh or fish.
    """
    import shtab

    parser = make_parser(*COMMANDS)
    for command in _subparsers(parser):
        for action in command._actions:
            _describe(action)
    return shtab.complete(parser, shell)


def _subparsers(parser: ArgumentParser) -> list[ArgumentParser]:
    return [
        sub for action in parser._actions if isinstance(action, _SubParsersAction) for sub in action.choices.values()
    ]


def _describe(action: Action) -> None:
    """Tell shtab how the values of an option are completed."""
    import shtab

    values = str(action.metavar or "").split("|")
    names = [value for value in values if value.islower() or value in ("True", "False")]
    if FOLDERS in values:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif set(values) & set(FILES):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif len(names) > 1 and action.choices is None:
        action.choices = names
