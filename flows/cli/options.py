"""Subcommands of `liveavatar` and their options."""

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

from liveavatar import __version__
from liveavatar.errors import InputError
from liveavatar.paths import PAGE_PORT

BENCHMARKS = ("cpu", "gpu", "quality", "prompts", "faults", "sound", "batch")
REQUIRED = ("audio", "image", "prompt")
JOB_COMMANDS = {
    "render": "audio + portrait + prompt to video + report",
    "plan": "will this job fit, and how fast will it be",
    "sweep": "one job, or the evaluation split, over sampling steps or sizes, compared",
    "batch": "a table of jobs (csv, parquet, jsonl), one render each",
}
COMMANDS = {
    **JOB_COMMANDS,
    "preprocess": "clean a recording and compute its driving features",
    "check-prompt": "score a prompt and say what is missing",
    "regress": "render the golden jobs and compare with the stored baselines",
    "models": "list, fetch and verify models; print their state-dict keys",
    "parity": "check the engine against a set of reference tensors",
    "evaluate": "measure a finished video",
    "why": "name what made each stage of a run run again",
    "store": "list, tidy, verify and remove cached results of stages",
    "runs": "list published runs, or write them to a Parquet file",
    "lineage": "trace a video back to the inputs, options, model and code that made it",
    "bench": "measure speed or quality on this machine",
    "doctor": "check the installation",
    "serve": "Prefect server with the deployments, until Ctrl-C",
    "completion": "print the completion script of a shell",
    "stop": "end everything that runs here, leaving renders resumable",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, exit code 2."""

    sub: "Parser | None" = None  # of the subcommand that is given, when there is one

    def error(self, message: str) -> NoReturn:
        """Raise the error as an `InputError`; what is misspelt is answered with what may be meant."""
        known = COMMANDS if self.sub is None else self.sub._option_string_actions
        wrong = re.match(r"unrecognized arguments: (\S+)|argument COMMAND: invalid choice: '([^']*)'", message)
        near = get_close_matches((wrong[1] or wrong[2]).partition("=")[0], known, 1) if wrong else []
        if wrong and near:
            raise InputError(f"{wrong[0]}: did you mean {near[0]}?")
        raise InputError(f"{message}; see `{(self.sub or self).prog} --help`")


def normalise(argv: list[str]) -> list[str]:
    """Spell option names with underscores, the name of the subcommand with dashes, and a value as one of its option.

    The value of an option may begin with a dash, as names of files do.
    """
    out: list[str] = []
    seen_command = False
    for i, token in enumerate(argv):
        if token == "--":
            return out + argv[i:]
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            token = "--" + name[2:].replace("-", "_") + equals + value
        elif re.fullmatch(r"-[^-h].*|-h.+", token):
            if out and out[-1].startswith("--") and "=" not in out[-1]:
                token = f"{out.pop()}={token}"
            elif seen_command:
                token = f"./{token}"  # a file
        elif not seen_command and not token.startswith("-"):
            token, seen_command = token.replace("_", "-"), True
        out.append(token)
    return out


def make_parser(*commands: str) -> Parser:
    """Make the parser with the options of these subcommands only, so that help stays quick."""
    parser = Parser(prog="liveavatar", description="A talking avatar from sound, a portrait and a prompt.",
                    allow_abbrev=False)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"liveavatar {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text.capitalize() + ".", allow_abbrev=False)
        if name in commands:
            _OPTIONS[name](sub)
            parser.sub = sub if len(commands) == 1 else None
    return parser


def _render(sub: Parser) -> None:
    _job_options(sub)
    sub.add_argument(
        "--from",
        dest="from_manifest",
        metavar="MANIFEST",
        default=argparse.SUPPRESS,
        help="manifest.json of a run: render it again and say whether the bits are the same",
    )
    sub.add_argument(
        "--demo", action="store_true", default=argparse.SUPPRESS, help="take sound, portrait and prompt of the sample"
    )


def _plan(sub: Parser) -> None:
    _job_options(sub)
    sub.add_argument(
        "--gpus", metavar="NxGB", help='plan for other hardware, such as "4x24GB", "1xH100,2xA100", or "cpu"'
    )
    sub.add_argument("--table", action="store_true", help="the article's sizes by 3 to 6 steps, on the 14B")
    sub.add_argument("--seconds", type=float, metavar="SECONDS", help="length of the sound, when no --audio is given")
    _json(sub)


def _sweep(sub: Parser) -> None:
    from flows.parameters import SWEPT_STEPS

    _job_options(sub)
    steps = ",".join(map(str, SWEPT_STEPS))
    sub.add_argument(
        "--steps", default=steps, metavar="N,N", help=f"numbers of sampling steps, 1 to 8, comma separated ({steps})"
    )
    sub.add_argument("--sizes", metavar="W*H,W*H", help="sizes of the video in pixels, comma separated")
    sub.add_argument("--split", choices=("evaluation",), help="judge the evaluation split instead of one job")
    sub.add_argument("--clips", type=int, metavar="N", help="clips of the split; all when empty")
    _json(sub)


def _batch(sub: Parser) -> None:
    sub.add_argument("manifest", metavar="MANIFEST", help="csv, parquet or jsonl with a column for each option")
    _job_options(sub)
    _json(sub)


def _preprocess(sub: Parser) -> None:
    sub.add_argument("--input", metavar="FILE", required=True, help="any audio or video file")
    sub.add_argument(
        "--output", metavar="DIR", required=True, help="folder for cleaned.wav, words.json and features.pt"
    )
    sub.add_argument("--denoise", metavar=_values("denoise"), default="auto", help="noise removal (auto)")
    sub.add_argument("--whisper", metavar=_values("whisper"), default="tiny.en", help="transcriber (tiny.en)")
    sub.add_argument("--model", metavar=_values("model"), default="mini", help="model whose features are wanted (mini)")


def _check_prompt(sub: Parser) -> None:
    sub.add_argument("text", help="the prompt")
    _json(sub)


def _regress(sub: Parser) -> None:
    sub.add_argument("--update", action="store_true", help="store what is rendered now as the baseline")
    sub.add_argument("--reason", default="", metavar="TEXT", help="why; filed beside the baselines (with --update)")
    sub.add_argument(
        "--only", default="", metavar="NAMES", help="names of golden jobs, comma separated; all when empty"
    )
    sub.add_argument("--junit", metavar="FILE", help="write a JUnit XML report there")
    sub.add_argument("--golden", metavar="DIR", help="folder of golden jobs (data/golden)")
    _json(sub)


def _models(sub: Parser) -> None:
    sub.add_argument("action", choices=("list", "keys", "verify", "fetch"), help="what to do")
    sub.add_argument("preset", nargs="?", help="mini, live-avatar-14b, or a model directory")
    _json(sub)


def _parity(sub: Parser) -> None:
    sub.add_argument("folder", metavar="DIR", help="reference tensors and configs")
    _json(sub)


def _evaluate(sub: Parser) -> None:
    sub.add_argument("video", metavar="VIDEO", nargs="+", help="the videos to measure")
    sub.add_argument(
        "--image",
        metavar="FILE",
        required=True,
        action="append",
        help="the portrait they should show; or one --image for each video",
    )
    sub.add_argument("--table", metavar="FILE", help="write a row for each video there, .csv or .parquet")
    sub.add_argument("--audio", metavar="FILE", help="the sound that drove it; the video's own track when empty")
    sub.add_argument("--against", metavar="TRUTH", help="the true video of the same speech, to be compared with")
    sub.add_argument(
        "--face", type=int, default=0, metavar="N", help="which face of a video with several, the largest first"
    )
    sub.add_argument("--limits", metavar="FILE", help="limits of the verdict, a copy of data/limits.json with changes")
    sub.add_argument("--docs", metavar="DIR", help="write the data docs of Great Expectations there")
    sub.add_argument(
        "--allow_unjudged", action="store_true", help="warn instead of fail where a measure cannot be taken"
    )
    _json(sub)


def _why(sub: Parser) -> None:
    sub.add_argument("out", metavar="OUT", help="output folder of a render")
    _json(sub)


def _store(sub: Parser) -> None:
    sub.add_argument("action", choices=("ls", "gc", "verify", "rm"), help="list; delete by age and size; check; remove")
    sub.add_argument("name", nargs="?", help="key of an entry, or folder or id of a published run (rm)")
    sub.add_argument("--stage", metavar="NAME", help="only entries of this stage (ls)")
    sub.add_argument("--days", type=float, metavar="DAYS", help="delete entries unused for so many days (gc; 60)")
    sub.add_argument("--gb", type=float, metavar="GB", help="delete the longest unused until so many GB stay (gc; 20)")
    sub.add_argument("--yes", action="store_true", help="delete; without it gc only says what it would delete (gc)")
    _json(sub)


def _runs(sub: Parser) -> None:
    sub.add_argument("--status", choices=("passed", "warned", "failed"), help="only runs with this verdict")
    sub.add_argument(
        "--name", metavar="TEXT", help="only runs with this text in the name of their sound, picture or folder"
    )
    sub.add_argument("--most", type=int, metavar="N", help="newest runs that are listed (20)")
    sub.add_argument("--parquet", metavar="FILE", help="write all runs there, for DuckDB or pandas")
    _json(sub)


def _lineage(sub: Parser) -> None:
    sub.add_argument("video", metavar="VIDEO", help="a video that was rendered here")
    _json(sub)


def _bench(sub: Parser) -> None:
    sub.add_argument("what", choices=BENCHMARKS, help="what to measure")
    sub.add_argument("--model", metavar="NAME|DIR", default="mini", help="mini or a model directory")
    sub.add_argument("--blocks", type=int, metavar="N", default=0, help="blocks to time; 0 for the default (cpu)")
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the numbers (gpu; out/bench), for videos and a report (quality; none), "
        "for a report (faults, sound), for videos and a report (batch; out/bench)",
    )
    sub.add_argument(
        "--quick",
        action="store_true",
        help="fewer blocks, no grid of memory (gpu); two clips (quality); one clip, some faults (faults); "
        "four conditions (sound)",
    )
    sub.add_argument(
        "--split", metavar="DIR", help="folder of clips with their true videos; data/evaluation when empty (quality)"
    )
    sub.add_argument("--clips", type=int, metavar="N", help="clips of the split; all when empty (quality, faults)")
    sub.add_argument("--jobs", type=int, metavar="N", default=1000, help="tiny jobs of a batch (batch; 1000)")
    sub.add_argument("--good", type=int, metavar="N", help="judge N good videos under harmless treatments (faults)")
    sub.add_argument("--only", metavar="NAMES", help="names of the clips, such as 03,07; all when empty (faults)")
    sub.add_argument("--steps", type=int, metavar="1..8", default=4, help="denoise steps per block (quality; 4)")
    sub.add_argument("--heard", action="store_true", help="render words of mood, light and place instead (prompts)")
    sub.add_argument(
        "--recordings",
        metavar="DIR",
        help="folder of natural recordings to judge against their sound (quality), or to clean (sound)",
    )
    sub.add_argument(
        "--portraits", metavar="DIR", help="folder of pictures: measure how each speaks, instead of the split (quality)"
    )
    sub.add_argument(
        "--audio", metavar="FILE", help="sound that portraits speak, its first 6 s; data/samples/speech.wav when empty"
    )
    sub.add_argument("--framing", choices=("portrait", "model"), help="of the portraits' videos; as of `render`")
    _json(sub)


def _doctor(sub: Parser) -> None:
    _json(sub)
    sub.add_argument("--fix", action="store_true", help="remove leftovers of commands that died, make missing folders")


def _serve(sub: Parser) -> None:
    sub.add_argument(
        "--port", type=int, metavar="PORT", default=4200, help="of the Prefect server, when none runs yet (4200)"
    )
    sub.add_argument(
        "--live_port", type=int, metavar="PORT", default=PAGE_PORT, help=f"of the studio page ({PAGE_PORT})"
    )
    sub.add_argument(
        "--live_host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address that the studio page listens on (127.0.0.1); any other, such as 0.0.0.0, is asked with a token",
    )


def _stop(sub: Parser) -> None:
    sub.add_argument(
        "--wait", type=float, metavar="SECONDS", default=60.0, help="seconds to give what runs before it is killed (60)"
    )


def _completion(sub: Parser) -> None:
    sub.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that shall complete `liveavatar`")


def _json(sub: Parser) -> None:
    sub.add_argument("--json", action="store_true", help="machine-readable output")


def _job_options(sub: Parser) -> None:
    from flows.cli.job_options import add_job_options

    add_job_options(sub)


def _values(name: str) -> str:
    from flows.cli.job_options import values_of

    return values_of(name)


_OPTIONS = {
    "render": _render,
    "plan": _plan,
    "sweep": _sweep,
    "batch": _batch,
    "preprocess": _preprocess,
    "check-prompt": _check_prompt,
    "regress": _regress,
    "models": _models,
    "parity": _parity,
    "evaluate": _evaluate,
    "why": _why,
    "store": _store,
    "runs": _runs,
    "lineage": _lineage,
    "bench": _bench,
    "doctor": _doctor,
    "serve": _serve,
    "stop": _stop,
    "completion": _completion,
}
