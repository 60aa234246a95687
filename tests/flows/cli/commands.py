"""The command line called from a test."""

import pytest

from flows import cli

RATE = 16_000  # samples a second of the sounds here


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command; give its exit code, output and errors."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
