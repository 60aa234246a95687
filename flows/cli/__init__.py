"""The `liveavatar` command: reads options, calls one flow or one engine function, turns errors into exit codes.

Nothing heavy is imported before the subcommand is known. Dashes and underscores in option names mean the same.
Exit codes: 0 done and passed, 1 quality failed, 2 bad input, 3 does not fit this machine, 4 interrupted, 5 a mistake
of ours.
"""

import atexit
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import traceback
from types import TracebackType
from typing import Any, NoReturn

from flows import streams
from flows.cli.options import make_parser, normalise
from flows.serving import environment
from liveavatar import paths
from liveavatar.errors import INTERNAL, InputError, Interrupted, LiveAvatarError, printable, without_passwords
from liveavatar.files import disk_errors
from tasks.cluster.interruption import Interruption, comes_from_interrupt

RUN_COMMANDS = ("render", "sweep", "batch", "regress", "serve", "stop")  # in run.py, the others in ask.py


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    streams.complete()
    sys.excepthook = _unexpected
    stripped = argv is None and sys.flags.optimize > 0 and "PYTHONOPTIMIZE" in os.environ
    environment.ignore_python_settings()
    if stripped:  # libraries that we need take docstrings apart
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    interruption, codes, options = Interruption(), list[int](), dict[str, Any]()
    if argv is None:
        atexit.register(_leave, codes)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know the letters of a name
    arguments = normalise(sys.argv[1:] if argv is None else argv)
    command = next((a for a in arguments if not a.startswith("-")), "")
    try:
        signal.signal(signal.SIGTERM, interruption.on_signal)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # until here the script `liveavatar` has its own
        options = vars(make_parser(command).parse_args(arguments))
        name = options.pop("command").replace("-", "_")
        _require_folder()
        if name != "doctor":  # which looks at the environment as it is
            environment.prepare()
        paths.log_format()
        # one function a subcommand, in the file that holds its kind
        run = getattr(importlib.import_module(_home(name)), name)
        with disk_errors(paths.home()):
            return int(run(options))
    except BrokenPipeError:
        streams.lose("stdout")  # the reader of our output has gone
        return 0
    except BaseException as e:
        if isinstance(e, Interrupted) or interruption.pressed or comes_from_interrupt(e):
            resuming = ", or with --resume" if "resume" in options else ""
            way_out = f"`liveavatar {command}` was interrupted; run it again{resuming}"
            codes.append(_refused(e if isinstance(e, Interrupted) else Interrupted(way_out)))
            return codes[0]
        if isinstance(e, LiveAvatarError):
            return _refused(e)
        raise


def _require_folder() -> None:
    """Refuse to work in a folder that was deleted: libraries find their own files no more (MKL ends the process)."""
    try:
        os.getcwd()
    except FileNotFoundError as e:
        raise InputError("the folder that this command was started in is gone; go to another one with `cd`") from e


def _home(name: str) -> str:
    return "flows.cli.run" if name in RUN_COMMANDS else "flows.cli.ask"


def _refused(error: LiveAvatarError) -> int:
    from flows.terminal import complain

    if paths.debugging():
        traceback.print_exception(error)
    complain(f"liveavatar: {error}")
    return error.exit_code


def _leave(codes: list[int]) -> None:
    """End an interrupted process as its last exit handler: Python would take seconds to take all modules apart."""
    for code in codes:
        logging.shutdown()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _unexpected(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> NoReturn:
    """End with one line for an internal error; write the traceback to a file, or to the terminal when debugging."""
    story = without_passwords("".join(traceback.format_exception(kind, error, tb)))
    if paths.debugging():
        sys.stderr.write(story)
        sys.exit(INTERNAL)
    path = paths.last_error()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(story)
        where = f"the traceback is in {path}"
    except OSError:
        where = "set LIVEAVATAR_DEBUG=1 to see the traceback"
    line = printable(" ".join(f"{kind.__name__}: {error}".split()))[:300]
    with contextlib.suppress(OSError):
        sys.stderr.write(f"liveavatar: this should not happen: {line}; {where}\n")
    sys.exit(INTERNAL)  # Python's own code for this, 1, is that of a failed quality
