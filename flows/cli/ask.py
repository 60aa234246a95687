"""Subcommands that answer a question or prepare a file without starting Prefect or Ray."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flows.terminal import say
from liveavatar import config
from liveavatar.checkpoints.directory import preset_dir, read_config
from liveavatar.checkpoints.headers import readable_model_dir
from liveavatar.errors import InputError
from liveavatar.files import is_text, read_json
from tasks.inputs import decode_sound

if TYPE_CHECKING:
    from liveavatar.quality.split import Clip

Options = dict[str, Any]
R = TypeVar("R")
QUICK_CLIPS = 2


def preprocess(options: Options) -> int:
    """Clean a recording and compute its driving features."""
    from liveavatar.audio.preprocess import preprocess as library

    model_dir = readable_model_dir(options["model"])
    done = library(
        Path(options["input"]),
        Path(options["output"]),
        denoise=options["denoise"],
        whisper=options["whisper"],
        speech=read_config(model_dir).speech,
        model_dir=model_dir,
        load=decode_sound,
    )
    say(f"{options['output']}: cleaned.wav, words.json, features.pt ({done.num_frames} frames)")
    return 0


def check_prompt(options: Options) -> int:
    """Score a prompt; 0 whatever the score, `render --strict_prompt` is what refuses."""
    from liveavatar.prompt.check import check_prompt as library
    from liveavatar.prompt.heard import hear
    from liveavatar.prompt.rewrite import rewrite

    if not is_text(options["text"]):
        raise InputError("the prompt is not UTF-8 text; set the terminal and the file that it comes from to UTF-8")
    heard = hear(options["text"], config.MINI.text.length)
    judged = library(options["text"])
    report = {**asdict(judged), "heard": asdict(heard), "rewrite": rewrite(options["text"], judged)}
    if options["json"]:
        return _json(report)
    say(f"{report['grade']} ({report['score']:.2f})")
    for facet, words in report["facets"].items():
        say(f"  {facet:<10} {', '.join(words) or '-'}")
    for problem in report["problems"]:
        say(f"  problem: {problem}")
    for hint in report["suggestions"]:
        say(f"  try: {hint}")
    if report["rewrite"]:
        say(f"  or, as `auto: ` before the prompt writes it: {report['rewrite']}")
    say(
        f"  {heard.line.replace('the model hears', 'mini hears')}" if heard.line else "  mini hears it as it is written"
    )
    return 0


def models(options: Options) -> int:
    """List, fetch and verify models, print their keys."""
    action, preset = options["action"], options["preset"]
    if action == "list":
        return _list_models(options["json"])
    if not preset:
        raise InputError(f"models {action}: name a model; one of {', '.join(config.PRESETS)}")
    if action == "keys":
        return _keys(preset, options["json"])
    from flows import prepare

    return prepare.verify(preset, options["json"]) if action == "verify" else prepare.fetch(preset)


def _list_models(as_json: bool) -> int:
    rows: list[dict[str, Any]] = []
    for name in (config.MINI.name, config.LIVE_AVATAR_14B.name):
        model = config.PRESETS[name]
        folder = preset_dir(name)
        here = folder.is_dir() and any(folder.rglob("*.safetensors"))
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if here else 0
        sizes = [f"{w}*{h}" for w, h in model.areas]
        rows.append(
            {"name": name, "here": here, "megabytes": round(size / 1e6, 1), "sizes": sizes, "folder": str(folder)}
        )
    if as_json:
        return _json(rows)
    for row in rows:
        state = f"{row['megabytes']} MB in {row['folder']}" if row["here"] else "not here"
        say(f"{row['name']:<16} {state:<40} {' '.join(row['sizes'])}")
    return 0


def _keys(preset: str, as_json: bool) -> int:
    from liveavatar.checkpoints.load import dit_keys

    model = config.PRESETS.get(preset) or read_config(readable_model_dir(preset))
    keys = dit_keys(model)
    if as_json:
        return _json([{"key": key, "shape": list(shape)} for key, shape in keys])
    for key, shape in keys:
        say(f"{key}\t{list(shape)}")
    return 0


def parity(options: Options) -> int:
    """Check the engine against reference tensors."""
    from liveavatar.parity import exit_code, run_parity, to_json, to_lines

    parts = run_parity(Path(options["folder"]))
    say(to_json(parts) if options["json"] else to_lines(parts))
    return exit_code(parts)


def evaluate(options: Options) -> int:
    """Measure and judge finished videos."""
    from flows.cli.evaluate import evaluate_command

    return evaluate_command(options)


def why(options: Options) -> int:
    """Name the change that made each stage of a published run run again."""
    report = Path(options["out"]) / "report.json"
    if Path(options["out"]).is_file():
        raise InputError(f"why {options['out']}: this is a file; give the output folder of a render")
    try:
        stages = read_json(report)["stages"]
        lines = [f"{name:<10} {stage['reason']}" for name, stage in stages.items()]
    except FileNotFoundError as e:
        raise InputError(f"why {options['out']}: no run was published there; give the output folder of a render") from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"why {options['out']}: {report.name} does not tell it; render again into that folder") from e
    if options["json"]:
        return _json({"out": options["out"], "stages": stages})
    for line in lines:
        say(line)
    return 0


def bench(options: Options) -> int:
    """Measure speed or quality on this machine."""
    what = options["what"]
    if what == "gpu":
        from liveavatar.bench.gpu.run import GpuOptions, run

        results = run(GpuOptions(out=Path(options["out"] or "out/bench"), quick=options["quick"]))
        return _json(results) if options["json"] else _report(results)
    if what == "quality":
        return _bench_quality(options)
    if what == "prompts":
        return _bench_prompts(options)
    if what == "faults":
        return _bench_good(options) if options["good"] else _bench_faults(options)
    if what == "sound":
        return _bench_sound(options)
    if what == "batch":
        return _bench_batch(options)
    from liveavatar.bench.cpu import bench_cpu, to_json

    blocks = {"num_blocks": options["blocks"]} if options["blocks"] else {}
    result = to_json(bench_cpu(readable_model_dir(options["model"]), **blocks))
    return _numbers(result, options["json"])


def _bench_quality(options: Options) -> int:
    """Measure quality and return 0: a missed limit is reported, but is no error of a benchmark."""
    from flows.terminal import Terminal
    from liveavatar.bench.quality.report import lines
    from liveavatar.bench.quality.run import QualityOptions, run
    from liveavatar.quality.split import FOLDER

    if options["portraits"]:
        return _bench_portraits(options)
    for name in ("audio", "framing"):
        if options[name]:
            raise InputError(f"--{name} goes with --portraits; drop it, or name a folder of pictures")
    quick = options["quick"]
    quality_options = QualityOptions(
        model_dir=readable_model_dir(options["model"]),
        clips=QUICK_CLIPS if quick and options["clips"] is None else options["clips"],
        steps=options["steps"],
        recordings=Path(options["recordings"]) if options["recordings"] else None,
        out=Path(options["out"]) if options["out"] else None,
        full=not quick and options["clips"] is None,
        folder=Path(options["split"]) if options["split"] else FOLDER,
    )
    with Terminal("quality") as terminal:
        result = run(quality_options, lambda text: terminal.note("quality", text))
    return _show(result, lines, options["json"])


def _bench_faults(options: Options) -> int:
    """Plant faults in true videos and grade them; return 0: an undetected fault is reported, but is no error."""
    from dataclasses import asdict

    from flows.terminal import Terminal
    from liveavatar.bench.faults import plan
    from liveavatar.bench.faults.report import markdown, summary, write_report
    from liveavatar.bench.faults.run import Row, run_bench

    quick = options["quick"]
    clips = _clips(options, limit=1 if quick and not options["only"] else None)
    faults = [fault for fault in plan.faults() if not quick or str(fault) in plan.QUICK]
    with Terminal("faults") as terminal:

        def on_row(row: Row) -> None:
            terminal.note(
                "faults", f"{row.video} {row.fault or 'untouched'} {row.strength:g}: {row.status}; {row.said}"
            )

        rows = run_bench(clips, faults, on_row)
    if options["out"]:
        write_report(rows, Path(options["out"]))
    if options["json"]:
        return _json({**summary(rows), "rows": [asdict(row) for row in rows]})
    say(markdown(rows, "Planted faults and what the verdict finds"))
    return 0


def _bench_good(options: Options) -> int:
    """Judge good videos under harmless treatments; 1 when one fails or too many warn."""
    from dataclasses import asdict

    from flows.terminal import Terminal
    from liveavatar.bench.faults import good

    clips = _clips(options)
    names = good.treatments(options["good"], len(clips))
    with Terminal("good") as terminal:

        def on_row(row: good.GoodRow) -> None:
            terminal.note("good", f"{row.video} {row.treatment or 'untouched'}: {row.status}")

        rows = good.run_good(clips, names, on_row)
    if options["out"]:
        good.write_report(rows, Path(options["out"]))
    if options["json"]:
        _json({**good.summary(rows), "rows": [asdict(row) for row in rows]})
    else:
        say(good.markdown(rows, "Good videos under harmless treatments"))
    return int(not good.fine(rows))


def _bench_batch(options: Options) -> int:
    """Measure what a batch of tiny jobs costs beside the work."""
    from flows.batch_bench import bench_batch, to_lines, write_report
    from flows.terminal import Terminal

    out = Path(options["out"] or "out/bench").absolute()
    with Terminal("batch") as terminal:
        result = bench_batch(options["jobs"], out, options["model"], lambda text: terminal.note("batch", text))
    write_report(result, out)
    return _show(result, lambda told: to_lines(told).splitlines(), options["json"])


def _clips(options: Options, limit: int | None = None) -> "list[Clip]":
    """Select clips of the evaluation split by `--clips` and `--only`."""
    from liveavatar.quality.split import load_split

    wanted = options["only"].split(",") if options["only"] else []
    clips = load_split(limit=options["clips"] or limit)
    known = [clip.info.name for clip in clips]
    if unknown := set(wanted) - set(known):
        raise InputError(
            f"--only {options['only']}: no clip {', '.join(sorted(unknown))}; there are {', '.join(known)}"
        )
    return [clip for clip in clips if not wanted or clip.info.name in wanted]


def _bench_sound(options: Options) -> int:
    """Clean speech in planted noise; return 0: harm is reported, but is no error of a benchmark."""
    from flows.terminal import Terminal
    from liveavatar.bench.sound import report, run

    voices = run.load_voices(Path(options["recordings"]) if options["recordings"] else None)
    with Terminal("sound") as terminal:

        def on_row(row: run.SoundRow) -> None:
            harm = f"; HARMED: {', '.join(row.harms)}" if row.harms else ""
            terminal.note("sound", f"{row.voice} {row.noise} {row.level:g}: {row.chosen}{harm}")

        rows = run.run_bench(voices, run.conditions(options["quick"]), on_row)
    if options["out"]:
        report.write_report(rows, Path(options["out"]))
    if options["json"]:
        return _json(run.to_json(rows))
    for line in report.lines(rows):
        say(line)
    return 0


def _bench_prompts(options: Options) -> int:
    """Judge the labelled prompts; 1 when too few of the fresh split are judged right. With --heard, render words."""
    if options["heard"]:
        return _bench_heard(options)
    from liveavatar.bench import prompts

    result = prompts.bench_prompts({"build": prompts.read_labelled(), "fresh": prompts.read_labelled(prompts.FRESH)})
    _show(result, prompts.lines, options["json"])
    return int(result["splits"]["fresh"]["share"] < prompts.LEAST)


def _bench_portraits(options: Options) -> int:
    from flows.terminal import Terminal
    from liveavatar.bench.quality.portrait_report import portrait_lines
    from liveavatar.bench.quality.portraits import SPEECH, PortraitOptions, run_portraits

    for name in ("split", "clips", "recordings", "quick"):
        if options[name]:
            raise InputError(
                f"--{name} belongs to the evaluation split, which --portraits leaves out; drop one of them"
            )
    portrait_options = PortraitOptions(
        model_dir=readable_model_dir(options["model"]),
        portraits=Path(options["portraits"]),
        audio=Path(options["audio"]) if options["audio"] else SPEECH,
        framing=options["framing"],
        steps=options["steps"],
        out=Path(options["out"]) if options["out"] else None,
    )
    with Terminal("quality") as terminal:
        result = run_portraits(portrait_options, lambda text: terminal.note("quality", text))
    return _show(result, portrait_lines, options["json"])


def _bench_heard(options: Options) -> int:
    """Render words of mood, light and place; 0 whatever shows."""
    from flows.terminal import Terminal
    from liveavatar.bench import heard

    with Terminal("prompts") as terminal:
        rows = heard.bench_heard(
            readable_model_dir(options["model"]), lambda text: terminal.note("prompts", text), steps=options["steps"]
        )
    return _show(rows, heard.lines, options["json"])


def _report(results: dict[str, Any]) -> int:
    from liveavatar.bench.gpu.report import to_markdown

    say(to_markdown(results))
    return int(bool(results["errors"]))


def doctor(options: Options) -> int:
    """Check the installation; with --fix, repair first what is safe to repair."""
    from flows.cli.doctor.checks import exit_code, run_checks, to_json, to_lines
    from flows.cli.doctor.surroundings import check_library_settings
    from flows.serving.environment import ignore_library_settings
    from flows.terminal import complain

    ignored = list(check_library_settings())
    ignore_library_settings()  # which could end the libraries that are checked
    if options["fix"]:
        from flows.cli.repair import repair

        for line in repair() or ["nothing to repair"]:
            complain(f"fixed: {line}")
    checks = [*run_checks(), *ignored]
    say(to_json(checks) if options["json"] else to_lines(checks))
    return exit_code(checks)


def plan(options: Options) -> int:
    """Tell if a job fits this machine or another, and its speed."""
    from flows.cli.plan import plan_command

    return plan_command(options)


def store(options: Options) -> int:
    """List, tidy, verify or remove what the artefact store holds; 1 when something is damaged."""
    from flows.cli.store import store_command

    return store_command(options)


def runs(options: Options) -> int:
    """List published runs."""
    from flows.cli.runs import runs_command

    return runs_command(options)


def lineage(options: Options) -> int:
    """Trace a video back to what made it."""
    from flows.cli.lineage import lineage_command

    return lineage_command(options)


def completion(options: Options) -> int:
    """Print the completion script of a shell."""
    from flows.cli.completion import completion_command

    return completion_command(options)


def _numbers(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        return _json(result)
    for name, value in result.items():
        say(f"{name:<18} {json.dumps(value) if isinstance(value, dict | list) else value}")
    return 0


def _show(result: R, lines: Callable[[R], list[str]], as_json: bool) -> int:
    """Print a result, as JSON or in lines."""
    if as_json:
        return _json(result)
    say("\n".join(lines(result)))
    return 0


def _json(value: Any) -> int:
    say(json.dumps(value, indent=2, ensure_ascii=False))
    return 0
