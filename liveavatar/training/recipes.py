"""The training runs behind every released version of `data/models/mini`, as values.

A recipe is the `replace` of the one before it, so that a definition shows only the changes. `CHAIN` lists the nine
released versions; `DECODER` is the run between the fourth and the fifth, which trained a decoder and a teacher,
`COPYING` and `DRAWN` train only a decoder that copies from the portrait, `TURNING` only a transformer, `ANCHORED`
fine-tunes it, and `TUNED` does so on a tuned speech encoder.
Numbers come from the commands recorded when a version was released; comments mark missing records. Recipes hold
options, not code: `revision` names the commit that released the weights, whose code had other constants (region
weights, augmentations, defaults). `data/models/mini/history.md` lists the results of each run.

Does not start processes: `run.py` runs the stages.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from liveavatar.training.corpus.head.motion import TURN_LIMITS
from liveavatar.training.export import ExportSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Options of one training run and of the export of its weights; durations in seconds, 0 skips the training."""

    name: str
    revision: str  # commit that released the weights
    init: str = ""  # recipe whose weights the run started from; empty: random weights
    init_teacher: bool = False  # start from that run's teacher instead of its released weights
    speech: tuple[str, ...] = ("",)  # options of `corpus.speech.synthesis`, one entry a set of sentences

    gpus: int
    renderers: int = 2  # rendering processes a GPU
    refine_gpu: int = -1  # GPU that trains the decoder beside the teacher; -1: none
    deadline: float = 1e9  # of the whole run
    render: float
    autoencoder: float
    teacher: float
    distill: float
    refine: float | None = None

    first: int = 0  # number of the first training clip: every number is another person
    frames: int | None = None  # of a training clip; the renderer's default when None
    turned: float = 0.0  # share of training clips with far turns of the head or its photo
    spoken_photos: float = 0.0  # share of training clips whose photos show the person while speaking
    eager_train: bool = False  # render training clips without compiling
    eager_held_out: bool = True
    init_autoencoder: bool = False  # start from the autoencoder of `init`, without adversary
    init_transformer: bool = False
    keep_autoencoder: bool = False  # encode with the autoencoder of `init` and its statistics, and export it unchanged
    keep_statistics: bool = False  # normalise latents with the statistics of `init`
    teacher_rates: tuple[str, str] | None = None  # Muon's and AdamW's; the stage's defaults when None
    face_loss: float = 0.0  # weight of mouth and eyes in the teacher's loss
    guidance: float = 1.0  # of the teacher by speech, in distillation
    face_loss_student: float = 0.0
    shift_student: float | None = None  # of the noise levels it learns; those of the run when None
    refine_options: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()  # of `run.py`; empty: the whole chain
    finetune: float = 0.0  # seconds of the transformer of `init` on eyes and mouth
    finetune_options: tuple[str, ...] = ()
    tune: float = 0.0  # seconds of the speech encoder on mouth shapes
    copying: float = 0.0  # seconds of the decoder that copies from the portrait, trained on the autoencoder of `init`
    copying_options: tuple[str, ...] = ()
    output_sharpen: float | None = None  # strength of the unsharp mask on that decoder's frames; that of `init` if None
    evaluate_steps: tuple[int, ...] = (1, 2, 4, 6)  # denoise steps; empty: the stage's default
    export: ExportSettings = field(default_factory=ExportSettings)

    @property
    def budget(self) -> dict[str, float]:
        """Seconds by stage, in the format of `run.py --budget`."""
        budget = {"render": self.render, "autoencoder": self.autoencoder, "teacher": self.teacher}
        budget["distill"] = self.distill
        budget |= {"copying": self.copying} if self.copying else {}
        budget |= {"finetune": self.finetune} if self.finetune else {}
        budget |= {"tune": self.tune} if self.tune else {}
        return budget if self.refine is None else budget | {"refine": self.refine}

    def stage_options(self, before: Path | None) -> dict[str, list[str]]:
        """Return the command-line options of every stage.

        Args:
            before: model directory of `init`; needed when the recipe starts from one.

        Raises:
            ValueError: `before` is missing.
        """
        if self.init and before is None:
            part = "teacher" if self.init_teacher else "model"
            raise ValueError(
                f"recipe {self.name} starts from the {part} of {self.init!r}: give its folder with --before"
            )
        init = ["--init", str(before)]
        train = [*(["--first", str(self.first)] if self.first else []), *(["--eager"] if self.eager_train else [])]
        train += ["--turned", f"{self.turned:g}"] if self.turned else []
        train += ["--spoken_photos", f"{self.spoken_photos:g}"] if self.spoken_photos else []
        distill = ["--guidance", f"{self.guidance:g}", "--face_loss", f"{self.face_loss_student:g}"]
        distill += [] if self.shift_student is None else ["--shift", f"{self.shift_student:g}"]
        encode = ["--statistics", str(before)] if self.keep_statistics else []
        encode += ["--model", str(before)] if self.keep_autoencoder else []
        teacher = [*(init if self.init_transformer else []), "--face_loss", f"{self.face_loss:g}"]
        if self.teacher_rates is not None:
            teacher += ["--muon", self.teacher_rates[0], "--adamw", self.teacher_rates[1]]
        options = {
            "render_eval": ["--eager"] if self.eager_held_out else [],
            "render_train": train + ([] if self.frames is None else ["--frames", str(self.frames)]),
            "autoencoder": [*init, "--compile", "0", "--adversary", "0"] if self.init_autoencoder else [],
            "encode": encode,
            "teacher": teacher,
            "distill": distill,
            "refine": list(self.refine_options),
            "finetune": [*init, *self.finetune_options],
            "copying": [*init, *self.copying_options],
            "adopt": [] if self.output_sharpen is None else ["--output_sharpen", f"{self.output_sharpen:g}"],
            "evaluate": ["--steps", *map(str, self.evaluate_steps)] if self.evaluate_steps else [],
            "export": export_options(replace(self.export, before=before if self.export.before_share else None)),
        }
        return {stage: words for stage, words in options.items() if words}


def export_options(settings: ExportSettings) -> list[str]:
    """Return the options of `export` that differ from its defaults."""
    words: list[str] = []
    for f in fields(ExportSettings):
        value = getattr(settings, f.name)
        if value == f.default:
            continue
        if f.name == "gaze":
            words.append("--no_gaze")
        elif f.name in ("audio_gain", "pose_limits"):
            words += [f"--{f.name}", *(f"{number:g}" for number in value)]
        else:
            words += [f"--{f.name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


FIRST = Recipe(
    name="first", revision="a9d7d37", gpus=4, deadline=1225, render=170, autoencoder=270, teacher=390, distill=140,
    eager_held_out=False, evaluate_steps=(), export=ExportSettings(weights="dmd"),
)  # fmt: skip
# Its stages were started by hand, and the teacher's weights were released without distillation.
SECOND = replace(
    FIRST, name="second", revision="33dbb0f", init="first", gpus=2, deadline=1e9, init_autoencoder=True,
    render=85, autoencoder=38, teacher=168, distill=0, eager_train=True, eager_held_out=True, frames=96,
    export=ExportSettings(weights="teacher"),
)  # fmt: skip
# The transformer began anew; the encoder trained here is that of all later versions.
THIRD = replace(
    SECOND, name="third", revision="3979a2c", init="second", deadline=1220, render=220, autoencoder=90, teacher=470,
    distill=110, eager_train=False, frames=None, evaluate_steps=(1, 2, 4, 6), export=ExportSettings(weights="dmd"),
)  # fmt: skip
FOURTH = replace(
    THIRD, name="fourth", revision="daea73a", init="third", speech=("--seed 2",), deadline=1290, first=1000,
    render=230, autoencoder=0, teacher=600, distill=180, init_transformer=True,
)  # fmt: skip
# Its student was not released, but its teacher and (with the fourth's transformer) its decoder were. The run's deadline
# is not recorded. The GPU's decoder training also had `--energy 2` (revision 1399fec), a removed option; 780 s of two
# CPU cores followed it: see `DECODER_FINISH`.
DECODER = replace(
    FOURTH, name="decoder", revision="ba650e9", init="fourth", speech=("--plan wide",), refine_gpu=1, deadline=1e9,
    first=2200, render=240, teacher=560, distill=190, refine=530,
    refine_options=("--adversary", "0", "--latent_noise", "0.15", "--sharpen", "0.3", "--batch", "24"),
)  # fmt: skip
# Options of `autoencoder --data CLIPS --out RUN --only_decoder MODEL` that finished the decoder, on clips of
# `corpus.clips --frames 12 --first 9000 --seconds 600`; `export --decoder RUN` put it into the model.
DECODER_FINISH = (
    "--seconds", "780", "--batch", "2", "--frames", "8", "--adversary", "0", "--sharpen", "0.3",
    "--latent_noise", "0.15", "--muon", "0.003", "--adamw", "3e-4",
)  # fmt: skip
# Its speech joined both plans, 172 voices; the seeds are not recorded.
FIFTH = replace(
    DECODER, name="fifth", revision="42c2ad0", init="decoder", init_teacher=True,
    speech=("--plan first", "--plan wide"), refine_gpu=-1,
    deadline=1370, first=5000, render=230, teacher=600, distill=200, refine=None, refine_options=(),
)  # fmt: skip
# It is not recorded if its speech was the fifth's.
SIXTH = replace(
    FIFTH, name="sixth", revision="3aab087", init="fifth", deadline=1450, first=9000, teacher=650, distill=230,
    export=ExportSettings(weights="dmd", teacher_share=0.2),
)  # fmt: skip
# The sixth's run, exported nearer to its teacher.
SEVENTH = replace(
    SIXTH, name="seventh", revision="2f93240",
    export=ExportSettings(
        weights="dmd", teacher_share=0.6, embedding_share=1.0, audio_gain=(1.6, 1.2, 1.2, 1.5), shift=5.0
    ),
)  # fmt: skip
# The teacher trained for 850 s; the other budgets and the deadline are not recorded (those of the sixth stand here).
# The machine was lost when distillation had begun.
EIGHTH = replace(
    SEVENTH, name="eighth", revision="fddd2d9", init="seventh", init_teacher=False, speech=("--seed 11",), gpus=1,
    deadline=1e9, first=13000, teacher=850,
    export=ExportSettings(weights="teacher", before_share=0.95, before_embedding_share=1.0, shift=7.0),
)  # fmt: skip
# The recorded command has no options for the autoencoder, which with 0 s can only have been the eighth's.
NINTH = replace(
    EIGHTH, name="ninth", revision="68f05f0", init="eighth", first=20000, frames=72, render=240, teacher=780,
    distill=350, keep_statistics=True, teacher_rates=("0.006", "4e-4"), face_loss=0.2, guidance=1.5,
    face_loss_student=0.02,
    export=ExportSettings(weights="dmd", before_share=0.8, before_embedding_share=0.79, shift=7.0, gaze=False),
)  # fmt: skip

CHAIN = (FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH, SEVENTH, EIGHTH, NINTH)
SHIPPED = NINTH  # `data/models/mini`: its transformer and encoder, with the decoder of `DRAWN`

# A decoder that copies from the portrait, on the ninth's encoder and transformer: one residual block fewer at 1/8 and
# 1/4 of the size pays for the branch. When it was recorded, the portrait was not yet sharpened for sampling.
COPYING = Recipe(
    name="copying", revision="", init="ninth", speech=("--seed 11",), gpus=1, render=150, autoencoder=0, teacher=0,
    distill=0, first=30000, frames=36, eager_train=True, stages=("render", "copying", "adopt", "pack"), copying=800,
    copying_options=("--blocks", "2", "2", "2"),
)  # fmt: skip
# The same decoder, trained on from its weights: also on latents that the transformer drew, with more weight on mouth
# and eyes, on mouths that are open by a little, and with an adversary instead of the reward for gradient energy.
# The machine was lost after 556 of the 800 s; released are the averaged weights of then, update 4216.
DRAWN = replace(
    COPYING, name="drawn", init="copying", gpus=2, render=170, first=36000, copying=800, output_sharpen=0.3,
    stages=("render", "speech", "copying", "adopt", "pack"),
    copying_options=(
        "--blocks", "2", "2", "2", "--gate", "0.5", "--energy", "0", "--adversary", "1", "--sharpen", "0.15",
        "--still_share", "0.25", "--drawn_share", "0.45", "--seed", "12",
    ),
)  # fmt: skip
# Not released: its one run, on one H200, had normalised its latents twice (`data/models/mini/history.md`).
# A new transformer on the autoencoder of `drawn`: three in ten heads turn far, six in ten photos show the person while
# speaking, and the student learns the noise levels that the export sets.
# Speech: 143 minutes in 102 voices, seed 11 of the first plan without most of Kokoro, seed 22 of both plans without
# Kokoro, seed 23 of twelve Kokoro speakers, each shortened to what half an hour of two cores spoke.
TURNING = Recipe(
    name="turning", revision="", init="drawn", speech=("--seed 11", "--seed 22", "--seed 23"), gpus=2, renderers=4,
    render=200, autoencoder=0, teacher=480, distill=230, first=40000, frames=72, turned=0.3, spoken_photos=0.6,
    init_transformer=True, keep_autoencoder=True, teacher_rates=("0.008", "5e-4"), face_loss=0.2, guidance=1.5,
    face_loss_student=0.02, shift_student=7.0, stages=("render", "encode", "teacher", "distill", "export", "pack"),
    export=ExportSettings(weights="dmd", shift=7.0, pose_limits=TURN_LIMITS),
)  # fmt: skip
# Not released: the shipped transformer keeps its people and comes nearer to the truth in eyes and mouth, by too little.
ANCHORED = Recipe(
    name="anchored", revision="", init="drawn", speech=TURNING.speech, gpus=2, renderers=4, render=380, autoencoder=0,
    teacher=0, distill=0, first=60000, frames=72, spoken_photos=0.3, keep_autoencoder=True, finetune=330,
    finetune_options=("--shift", "7", "--seed", "14"), stages=("render", "encode", "finetune", "export", "pack"),
    export=ExportSettings(weights="finetune", shift=7.0),
)  # fmt: skip
# A speech encoder that is tuned to mouth shapes, and the transformer fine-tuned to read it.
TUNED = replace(
    ANCHORED, name="tuned", gpus=1, render=200, first=70000, tune=150, finetune=420,
    stages=("render", "tune", "encode", "finetune", "export", "pack"),
)  # fmt: skip
RECIPES = {recipe.name: recipe for recipe in (*CHAIN, DECODER, COPYING, DRAWN, TURNING, ANCHORED, TUNED)}
