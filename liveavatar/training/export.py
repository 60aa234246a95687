"""Turn a training run into a model directory, or make one of random weights.

`python -m liveavatar.training.export --run RUN --out DIR` writes fp16 safetensors, `config.json` with the measured
latent statistics, and `model_card.md`; with `--teacher_share` on the way from the student to the teacher it began as,
who keeps likeness better and moves less, with another `--embedding_share` of what comes before the layers.
`--random mini|tiny OUT` writes seeded random weights of the same shapes: worthless pictures, but every other part of
the product can be tried on them. `--decoder RUN --out DIR` gives the model at DIR the decoder that
`autoencoder --only_decoder DIR` trained.
"""

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar.checkpoint import load_model, save_model
from liveavatar.config import FROM_PORTRAIT, PRESETS, ModelConfig, load_config
from liveavatar.errors import CheckpointError
from liveavatar.model.vae_compact import CompactVAE, MemoryBlock
from liveavatar.pose import HEAD
from liveavatar.training import runtime
from liveavatar.training.card import write_card
from liveavatar.training.flow import AvatarNet

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
# What comes before the layers.
EMBEDDINGS = tuple(
    f"dit.{part}"
    for part in (
        "cond_encoder", "frame_packer", "patch_embedding", "text_embedding", "time_embedding", "time_projection",
        "trainable_cond_mask",
    )
)  # fmt: skip


def split_parts(weights: dict[str, Tensor], vae: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Weights of `AvatarNet` and of the autoencoder as the parts of a model directory."""
    parts = {
        part: {n.removeprefix(f"{part}."): w for n, w in weights.items() if n.startswith(f"{part}.")}
        for part in ("dit", "text")
    }
    return parts | {"vae": dict(vae)}


def export_random(preset: str, out: Path, seed: int = 0) -> None:
    """Write a model directory of random weights whose every path is alive (nothing is left at zero)."""
    cfg = PRESETS[preset]
    torch.manual_seed(seed)
    net, vae = AvatarNet(cfg), CompactVAE(cfg.vae)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if not p.any():
                p.normal_(std=0.02 if "bias" in name else p[0].numel() ** -0.5 if p.ndim > 1 else 0.02)
        for module in vae.modules():
            if isinstance(module, MemoryBlock):
                module.conv2.weight.normal_(std=0.3 * (9 * module.width) ** -0.5)
                module.mix.weight.normal_(std=0.3 * module.width**-0.5)
    cfg = replace(cfg, pose_guided=True, pose_origin=FROM_PORTRAIT, lids_told=True, gaze_told=True)
    save_model(out, cfg, split_parts(net.state_dict(), vae.state_dict()))


def mixed(
    student: dict[str, Tensor], teacher: dict[str, Tensor], share: float, embedding_share: float | None = None
) -> dict[str, Tensor]:
    """Weights between two networks of the same shapes.

    Args:
        student, teacher: weights of `AvatarNet`.
        share: 0 for the student's, 1 for the teacher's.
        embedding_share: the same of what makes tokens of latents, noise level, prompt and pose; None is `share`.
    """
    shares = {True: share if embedding_share is None else embedding_share, False: share}
    return {name: torch.lerp(w, teacher[name], shares[name.startswith(EMBEDDINGS)]) for name, w in student.items()}


def export_run(
    run: Path, out: Path, weights: str = "", teacher_share: float = 0.0, embedding_share: float | None = None
) -> ModelConfig:
    """Write the model directory of a run.

    Args:
        run: folder with `autoencoder.pt`, `config.json` and `teacher.pt` or `student.pt`.
        out: the model directory.
        weights: "teacher", "regression" or "dmd"; what `evaluation.json` chose, else the last trained, when empty.
        teacher_share: 0 for those weights, 1 for the teacher's, a mean of both between.
        embedding_share: see `mixed`.

    Raises:
        CheckpointError: when the run has no such weights.
    """
    cfg = load_config(run)
    vae = runtime.load_checkpoint(runtime.autoencoder_file(run), CPU)["average"]
    found: dict[str, Any] = {}
    if (run / "teacher.pt").is_file():
        found["teacher"] = runtime.load_checkpoint(run / "teacher.pt", CPU)["average"]
    if (run / "student.pt").is_file():
        found |= runtime.load_checkpoint(run / "student.pt", CPU)
    evaluation = run / "evaluation.json"
    if not weights and evaluation.is_file():
        weights = json.loads(evaluation.read_text())["chosen"]
    if not weights and found:
        weights = list(found)[-1]
    mixes = bool(teacher_share or embedding_share)
    if missing := {weights, *(["teacher"] if mixes else [])} - found.keys():
        raise CheckpointError(
            f"--run {run} holds weights {', '.join(found) or 'none'}, not {missing.pop()!r}; name one with --weights, "
            "or train the stage first"
        )
    chosen = found[weights]
    if mixes:
        chosen = mixed(chosen, found["teacher"], teacher_share, embedding_share)
    # The pose encoder starts at zero, and only training with a head's pose and eyes moves it.
    told = chosen["dit.cond_encoder.weight"].flatten(2).any(2).any(0).tolist()  # by channel
    cfg = replace(cfg, pose_guided=any(told[:HEAD]), lids_told=any(told[HEAD:]), gaze_told=any(told[HEAD + 1 :]))
    save_model(out, cfg, split_parts(chosen, vae))
    name = f"{weights}, with {teacher_share:.0%} of teacher" if mixes else weights
    write_card(run, out, name if embedding_share is None else f"{name} and {embedding_share:.0%} of its embeddings")
    log.info("%s holds the %s weights of %s", out, name, run)
    return cfg


def export_decoder(run: Path, out: Path) -> None:
    """Give the model at `out` the decoder that a run trained on its encoder.

    Raises:
        CheckpointError: when the run's encoder is another one, whose latents the model's transformer does not know.
    """
    trained = runtime.load_checkpoint(runtime.autoencoder_file(run), CPU)["average"]
    model = load_model(out, "cpu", torch.float32, parts=("vae",))
    assert model.vae is not None
    for name, kept in model.vae.encoder.state_dict(prefix="encoder.").items():
        if not torch.equal(trained[name].half(), kept.half()):
            raise CheckpointError(f"--decoder {run}: its encoder is not that of {out}; train with --only_decoder {out}")
    blocks = PRESETS[model.config.name].vae.decoder_blocks
    save_model(out, replace(model.config, vae=replace(model.config.vae, decoder_blocks=blocks)), {"vae": trained})
    log.info("%s has the decoder of %s", out, run)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="write a model directory")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--random", choices=("mini", "tiny"), help="random weights of this preset")
    source.add_argument("--run", type=Path, help="folder of a training run")
    source.add_argument("--decoder", type=Path, help="folder of a run with --only_decoder; OUT keeps everything else")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", default="", help="teacher, regression or dmd")
    parser.add_argument("--teacher_share", type=float, default=0.0, help="0: those weights; 1: the teacher's")
    parser.add_argument(
        "--embedding_share", type=float, help="the same of the embeddings; --teacher_share when not given"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("folder", nargs="?", type=Path, help="same as --out")
    args: Any = parser.parse_args(argv)
    out = args.out or args.folder
    if out is None:
        parser.error("say where to write: --out DIR")
    logging.basicConfig(level=logging.INFO)
    if args.random:
        export_random(args.random, out, args.seed)
    elif args.decoder:
        export_decoder(args.decoder, out)
    else:
        export_run(args.run, out, args.weights, args.teacher_share, args.embedding_share)


if __name__ == "__main__":
    main()
