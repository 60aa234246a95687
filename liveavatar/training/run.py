"""Train the embedded model within a time budget: render, train, distil, evaluate, export, pack.

`python -m liveavatar.training.run --recipe ninth --before MODEL --assets DIR --speech DIR --work DIR --out DIR`.
Every stage is a command of its own with a log in `WORK/logs`. Run the command again to continue: finished stages are
skipped, an unfinished one resumes. While stages run, OUT gets the newest weights every minute (`partial_export.py`).
When a stage after the teacher fails, the weights trained so far are evaluated, exported and packed.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveavatar.training import partial_export, runtime
from liveavatar.training.export import tuning_of
from liveavatar.training.pack import pack_folder, pack_held_out, pack_report
from liveavatar.training.recipes import RECIPES

log = logging.getLogger(__name__)

STAGES = ("render", "autoencoder", "encode", "teacher", "distill", "evaluate", "export", "pack")
# Folders and archives of weights packed beside the model: the teacher, from which a later run can start, and a student
# that was not chosen, so that the choice can be changed.
BESIDE = {"teacher": "teacher_model", "dmd": "dmd_model"}
HELD_OUT_CLIPS = 6  # of each renderer
GRACE = 240.0  # seconds a stage may take beyond its budget: start-up, compilation, the last checkpoint
REGRESSION_SHARE = 0.4  # of the distillation's budget
BEFORE_SPEECH = "before_speech"  # folder of speech features without corrections of the encoder
EXPORT_EVERY = 60.0  # seconds between two archives of the newest weights
REFINE_JOIN = 40.0  # seconds before judging at which the decoder's own training ends
DEFAULTS = {"gpus": 4, "refine_gpu": -1, "deadline": 1e9, "renderers": 2}  # of options, without a recipe
BUDGET = {"render": 280.0, "autoencoder": 400.0, "teacher": 460.0, "distill": 230.0}
AFTER_DISTILL = 110.0  # seconds that judging, export and packing need


@dataclass(slots=True)
class TrainingRun:
    """A training run: starts its stages as processes, with log files."""

    args: argparse.Namespace
    recipe_options: dict[str, list[str]] = field(default_factory=dict)  # by stage
    begun: float = field(default_factory=time.monotonic)
    exporter: "subprocess.Popen[bytes] | None" = None
    refiner: "subprocess.Popen[bytes] | None" = None
    last_export: tuple[float, float] = (0.0, 0.0)  # time of its start, and modification time of its weights

    @property
    def work(self) -> Path:
        """Working folder of the run on the training machine."""
        return self.args.work

    @property
    def devices(self) -> list[str]:
        """Devices of the renderers: all GPUs, or the CPU."""
        return [f"cuda:{i}" for i in range(self.args.gpus)] or ["cpu"]

    def elapsed(self) -> float:
        """Compute the seconds since the command began."""
        return time.monotonic() - self.begun

    def stage(self, name: str) -> bool:
        """Run one stage unless it is finished; return True when it is finished now."""
        mark = self.work / f"{name}.done"
        if mark.exists():
            return True
        started = self.elapsed()
        log.info("%.0f s: %s begins", started, name)
        done = getattr(self, name)()
        log.info(
            "%.0f s: %s %s in %.0f s", self.elapsed(), name, "done" if done else "FAILED", self.elapsed() - started
        )
        if done:
            mark.touch()
        return done

    def launch(self, name: str, command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a stage as a process that writes to its log file."""
        path = self.work / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, *command], stdout=out, stderr=subprocess.STDOUT, env=os.environ | (env or {})
            )

    def wait(self, processes: list[subprocess.Popen[bytes]], seconds: float) -> bool:
        """Wait for processes, for so many seconds at most; return whether all ended well."""
        deadline = time.monotonic() + seconds
        running = list(processes)
        while running and time.monotonic() < deadline:
            time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
            running = [p for p in running if p.poll() is None]
            self._export_newest()
        for process in running:
            process.kill()
        codes = [process.wait() for process in processes]
        return not any(codes)

    def _export_newest(self) -> None:
        """Start packing the newest weights into OUT, at most once a minute."""
        now, newest = time.monotonic(), partial_export.newest(self.work)
        busy = self.exporter is not None and self.exporter.poll() is None
        if busy or newest <= self.last_export[1] or now < self.last_export[0] + EXPORT_EVERY:
            return
        self.last_export = now, newest
        options = ["--run", str(self.work), "--out", str(self.args.out), "--preset", self.args.preset, *self._hearing()]
        command = ["-m", "liveavatar.training.partial_export", *options]
        self.exporter = self.launch("partial_export", command, {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""})

    def settle(self) -> None:
        """Wait until the newest weights are packed."""
        if self.exporter is not None:
            self.exporter.wait()

    def _start(self, name: str, module: str, options: list[str]) -> subprocess.Popen[bytes]:
        command = ["-m", f"liveavatar.training.{module}", *options, "--preset", self.args.preset]
        gpus = [i for i in range(self.args.gpus) if self.refiner is None or i != self.args.refine_gpu]
        if len(gpus) > 1:
            command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={len(gpus)}", *command]
        threads = max(1, (os.cpu_count() or 1) // max(1, len(gpus)) // 2)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}
        return self.launch(name, command, {"OMP_NUM_THREADS": str(threads)} | visible)

    def train(self, name: str, module: str, options: list[str], seconds: float) -> bool:
        """Run the training command of a stage on all GPUs and return whether it ended well."""
        return self.wait([self._start(name, module, options)], seconds + GRACE)

    def _extra(self, name: str) -> list[str]:
        """Collect the options of a stage: the recipe's, then those of `--extra`, which take precedence."""
        typed: list[str] = next((e.split("=", 1)[1].split() for e in self.args.extra if e.startswith(f"{name}=")), [])
        return [*self.recipe_options.get(name, []), *typed]

    # Stages ----------------------------------------------------------------------------------------

    def render(self) -> bool:
        """Render clips on all devices; return whether there are any."""
        seconds = self.args.budget["render"]
        per_device = self.args.renderers if self.args.gpus else 1
        places = [d for d in self.devices for _ in range(per_device)]
        shared = ["--assets", str(self.args.assets), "--speech", str(self.args.speech)]
        shared += ["--out", str(self.work / "clips")]
        module = "liveavatar.training.corpus.clips"
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(places) // 2))}
        processes = []
        for split in ("eval", "train"):
            for rank, device in enumerate(places):
                options = ["-m", module, *shared, "--split", split, "--rank", str(rank), "--world", str(len(places))]
                options += ["--device", device, "--seconds", str(seconds), "--processes", str(per_device)]
                options += ["--num_clips", str(HELD_OUT_CLIPS)] if split == "eval" else []
                options += ["--tiny"] if self.args.preset == "tiny" else []
                options += self._extra(f"render_{split}")
                processes.append(self.launch(f"render_{split}_{rank}", options, threads))
        self.wait(processes, seconds + 90)  # one lost renderer is no reason to stop
        return any((self.work / "clips").glob("*_*.labels.npz"))

    def autoencoder(self) -> bool:
        """Train the autoencoder, and encode the speech beside it."""
        seconds = self.args.budget["autoencoder"]
        options = ["--data", str(self.work / "clips"), "--out", str(self.work), "--seconds", str(seconds), "--resume"]
        speech = self._start("speech", "latents", [*self._encoding(), "--only_speech"])  # small beside the training
        done = self.train("autoencoder", "autoencoder", options + self._extra("autoencoder"), seconds)
        self.wait([speech], GRACE)
        return done or (self.work / "autoencoder.pt").is_file()

    def _encoding(self) -> list[str]:
        options = ["--data", str(self.work / "clips"), "--speech", str(self.args.speech), "--out", str(self.work)]
        return [*options, "--speech_encoder", self.args.speech_encoder, *self._hearing()]

    def _hearing(self, run: str = ".") -> list[str]:
        """Build the option of the corrections that a folder of the run is heard with; none: the plain encoder."""
        before = self.args.before if self.args.before is not None and self.args.before.is_dir() else None
        tuning = tuning_of(self.work / run, before)
        return [] if tuning is None else ["--speech_tuning", str(tuning)]

    def tune(self) -> bool:
        """Encode the speech as the model before the run hears it, and tune the speech encoder beside it."""
        plain = ["--data", str(self.work / "clips"), "--speech", str(self.args.speech), "--only_speech"]
        plain += ["--out", str(self.work / BEFORE_SPEECH), "--speech_encoder", self.args.speech_encoder]
        plain += self._hearing(BEFORE_SPEECH)
        (self.work / BEFORE_SPEECH).mkdir(exist_ok=True)
        encoding = self._start("before_speech", "latents", plain)
        seconds = self.args.budget["tune"]
        options = ["--speech", str(self.args.speech), "--assets", str(self.args.assets), "--out", str(self.work)]
        options += ["--speech_encoder", self.args.speech_encoder, "--seconds", str(seconds), *self._extra("tune")]
        done = self.train("tune", "speech_tuning", options, seconds)
        return self.wait([encoding], GRACE) and done

    def encode(self) -> bool:
        """Encode the clips."""
        return self.train("encode", "latents", self._encoding() + self._extra("encode"), 120)

    def _refine(self) -> None:
        """Train the decoder on a GPU of its own, one of `--gpus` or another, beside teacher and student."""
        if self.args.refine_gpu < 0:
            return
        seconds = self.args.budget["teacher"] + self.args.budget["distill"] - REFINE_JOIN
        if "refine" in self.args.budget:
            seconds = self.args.budget["refine"]
        options = ["--data", str(self.work / "clips"), "--out", str(self.work / runtime.REFINED)]
        options += ["--seconds", str(seconds)]
        options += ["--only_decoder", str(self.work / "autoencoder.pt"), "--share", str(max(1, self.args.gpus))]
        options += ["--resume", "--preset", self.args.preset, *self._extra("refine")]
        alone = {"CUDA_VISIBLE_DEVICES": str(self.args.refine_gpu), "OMP_NUM_THREADS": "4"}
        self.refiner = self.launch("refine", ["-m", "liveavatar.training.autoencoder", *options], alone)

    def teacher(self) -> bool:
        """Train the teacher, and start the decoder's own training beside it."""
        self._refine()
        seconds = self.args.budget["teacher"]
        options = ["--data", str(self.work), "--out", str(self.work), "--seconds", str(seconds), "--resume"]
        done = self.train("teacher", "teacher", options + self._extra("teacher"), seconds)
        return done or (self.work / "teacher.pt").is_file()

    def distill(self) -> bool:
        """Distil the student in the time that is left."""
        left = self.args.deadline - self.elapsed() - AFTER_DISTILL - 45  # start-up and compilation
        seconds = min(self.args.budget["distill"], left)
        if seconds < 30 and self.args.preset == "mini":
            log.warning("no time left to distil")
            return False
        options = ["--data", str(self.work), "--out", str(self.work), "--resume"]
        options += ["--seconds_regression", str(REGRESSION_SHARE * seconds)]
        options += ["--seconds_dmd", str((1 - REGRESSION_SHARE) * seconds)]
        return self.train("distill", "distill", options + self._extra("distill"), seconds)

    def finetune(self) -> bool:
        """Fine-tune the model that the recipe starts from on eyes and mouth."""
        seconds = self.args.budget["finetune"]
        options = ["--data", str(self.work), "--out", str(self.work), "--seconds", str(seconds)]
        before = self.work / BEFORE_SPEECH
        options += ["--before_features", str(before)] if before.is_dir() else []
        done = self.train("finetune", "finetune", options + self._extra("finetune"), seconds)
        return done or (self.work / "student.pt").is_file()

    def evaluate(self) -> bool:
        """Judge teacher and student on held-out clips."""
        if self.refiner is not None:
            self.wait([self.refiner], 2 * REFINE_JOIN)
        options = ["-m", "liveavatar.training.evaluate", "--data", str(self.work / "clips"), "--run", str(self.work)]
        options += ["--out", str(self.work), *self._extra("evaluate")]
        return self.wait([self.launch("evaluate", options)], GRACE)

    def speech(self) -> bool:
        """Encode the speech alone."""
        return self.train("speech", "latents", [*self._encoding(), "--only_speech"], 120)

    def copying(self) -> bool:
        """Train the decoder that copies from the portrait, on the autoencoder of another model."""
        seconds = self.args.budget["copying"]
        options = ["--data", str(self.work / "clips"), "--out", str(self.work / "copying"), "--resume"]
        options += ["--features", str(self.work)] if any(self.work.glob("features_train_*.pt")) else []
        options += ["--seconds", str(seconds), *self._extra("copying")]
        done = self.train("copying", "reference_decoder", options, seconds)
        return done or (self.work / "copying" / "autoencoder.pt").is_file()

    def adopt(self) -> bool:
        """Export that model with the decoder that copies."""
        model = self.work / "model"
        shutil.copytree(self.args.before, model, dirs_exist_ok=True)
        options = ["--decoder", str(self.work / "copying"), "--out", str(model), *self._extra("adopt")]
        return self.wait([self.launch("adopt", ["-m", "liveavatar.training.export", *options])], GRACE)

    def export(self) -> bool:
        """Export the chosen weights, and others beside them."""
        options = ["-m", "liveavatar.training.export", "--run", str(self.work), *self._hearing(), "--out"]
        exports = [self.launch("export", [*options, str(self.work / "model"), *self._extra("export")])]
        for weights in self._beside():
            exports.append(self.launch("export", [*options, str(self.work / BESIDE[weights]), "--weights", weights]))
        return self.wait(exports, GRACE)

    def _beside(self) -> list[str]:
        weights = ["teacher"] if (self.work / "teacher.pt").is_file() else []
        evaluation = self.work / "evaluation.json"
        if evaluation.is_file():
            judged = json.loads(evaluation.read_text())
            distilled = any(name.startswith("dmd@") for name in judged["rows"])
            weights += ["dmd"] if distilled and judged["chosen"] != "dmd" else []
        return weights

    def pack(self) -> bool:
        """Pack models and reports into OUT."""
        out: Path = self.args.out
        out.mkdir(parents=True, exist_ok=True)
        self.settle()
        if (self.work / "model").is_dir():
            for part in out.glob(f"{partial_export.STEM}.tar.*"):
                part.unlink()
            pack_folder(self.work / "model", out, "model")
        for name in BESIDE.values():
            if (self.work / name).is_dir():
                (self.work / name / "vae.safetensors").unlink(missing_ok=True)  # it is the model's
                pack_folder(self.work / name, out, name)
        pack_report(self.work, out)
        count = pack_held_out(self.work / "clips", out / "held_out.zip")
        log.info("packed %d held-out clips", count)
        return True


def parse_budget(text: str) -> dict[str, float]:
    """Parse `render=280,teacher=460`."""
    return {name: float(value) for name, value in (part.split("=") for part in text.split(","))}


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(description="train the embedded model within a time budget")
    for name in ("assets", "speech", "work", "out"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--recipe", choices=tuple(RECIPES), help="a recorded run; the options below override it")
    options.add_argument("--before", type=Path, help="model directory that the recipe starts from")
    options.add_argument("--gpus", type=int, help="0 trains on the CPU; 4 without a recipe")
    options.add_argument("--renderers", type=int, help="rendering processes a GPU; 2 without a recipe")
    options.add_argument("--refine_gpu", type=int, help="GPU that trains the decoder beside the teacher; -1: none")
    options.add_argument("--preset", choices=("mini", "tiny"), default="mini")
    options.add_argument("--budget", type=parse_budget, default={}, help="seconds by stage")
    options.add_argument("--deadline", type=float, help="seconds for everything; distillation gives way")
    options.add_argument("--stages", help="in order, separated by commas; the recipe's, or all of the chain")
    options.add_argument("--speech_encoder", default="tiny.en", help="Whisper name, or a file of its encoder")
    options.add_argument("--extra", action="append", default=[], help='more options of a stage: "teacher=--batch 48"')
    return options


def with_recipe(args: argparse.Namespace) -> dict[str, list[str]]:
    """Fill options that were not typed from the recipe or the defaults; return the recipe's options by stage.

    Raises:
        ValueError: the recipe starts from a model and `--before` is missing.
    """
    recipe = RECIPES[args.recipe] if args.recipe else None
    defaults = DEFAULTS if recipe is None else {name: getattr(recipe, name) for name in DEFAULTS}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.stages = args.stages or ",".join((recipe.stages if recipe else ()) or STAGES)
    args.budget = (BUDGET if recipe is None else recipe.budget) | args.budget
    return {} if recipe is None else recipe.stage_options(args.before)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when a model was exported."""
    command_line = parser()
    args: Any = command_line.parse_args(argv)
    try:
        options = with_recipe(args)
    except ValueError as error:
        command_line.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.work.mkdir(parents=True, exist_ok=True)
    training = TrainingRun(args, options)
    needed = {"render", "autoencoder", "speech", "tune", "encode", "teacher", "finetune", "copying", "adopt"}
    for name in args.stages.split(","):
        if not training.stage(name) and name in needed:
            log.error("%s failed; see %s", name, args.work / "logs")
            training.stage("pack")
            return 1
    training.settle()
    return 0


if __name__ == "__main__":
    sys.exit(main())
