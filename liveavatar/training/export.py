"""Turn a training run into a model directory, or make one of random weights.

`python -m liveavatar.training.export --run RUN --out DIR` writes fp16 safetensors, `config.json` with the measured
latent statistics, and `model_card.md`. `--teacher_share` interpolates between the student and its teacher, which has
better likeness and less motion; `--embedding_share` sets another share for the modules before the layers.
`--audio_gain` scales the effect of speech, and `--shift` moves the noise levels towards pure noise. `--before MODEL`
mixes in `--before_share` of the weights that the run started from. `--speech_tuning FILE` puts corrections of the
speech encoder (`speech_tuning.py`) beside weights that were trained on its features.
`--random mini|tiny OUT` writes seeded random weights of the same shapes: useless pictures, but enough to try every
other part of the product. `--decoder RUN --out DIR` replaces the decoder of the model at DIR by the one of
`autoencoder --only_decoder DIR` or of `reference_decoder --init DIR`.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar.audio.encoders import low_rank
from liveavatar.checkpoints.checksums import list_written
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model, save_model
from liveavatar.checkpoints.tuning import tuning_file
from liveavatar.checkpoints.weight_files import shapes_of
from liveavatar.config import FROM_PORTRAIT, PRESETS, ModelConfig
from liveavatar.errors import CheckpointError
from liveavatar.files import read_bytes, write_atomically
from liveavatar.model.vae_compact import CompactVAE, MemoryBlock
from liveavatar.pose.track import HEAD
from liveavatar.training import runtime
from liveavatar.training.card import write_card
from liveavatar.training.corpus.head.motion import POSE_LIMITS
from liveavatar.training.flow import AvatarNet, with_conditions, with_shift

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
CONDITIONS = "dit.cond_encoder.weight"
AUDIO_OUT = "dit.audio_injector.injector."  # speech enters each layer through one linear map, `.o.`
# Modules before the layers.
EMBEDDINGS = tuple(
    f"dit.{part}"
    for part in (
        "cond_encoder", "frame_packer", "patch_embedding", "text_embedding", "time_embedding", "time_projection",
        "trainable_cond_mask",
    )
)  # fmt: skip


def split_parts(weights: dict[str, Tensor], vae: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Sort weights of `AvatarNet` and of the autoencoder into the parts of a model directory."""
    parts = {
        part: {n.removeprefix(f"{part}."): w for n, w in weights.items() if n.startswith(f"{part}.")}
        for part in ("dit", "text")
    }
    return parts | {"vae": dict(vae)}


def export_random(preset: str, out: Path, seed: int = 0) -> None:
    """Write a model directory of random weights without zero-initialised layers, so that every path has an effect."""
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
    cfg = replace(cfg, pose_guided=True, pose_origin=FROM_PORTRAIT, lids_conditioned=True, gaze_conditioned=True)
    cfg = replace(cfg, pose_limits=POSE_LIMITS)
    save_model(out, cfg, split_parts(net.state_dict(), vae.state_dict()))


def mixed(
    first: dict[str, Tensor], second: dict[str, Tensor], share: float, embedding_share: float | None = None
) -> dict[str, Tensor]:
    """Interpolate the weights of two networks of the same shapes.

    Args:
        first, second: weights of `AvatarNet`.
        share: 0 for the first's, 1 for the second's.
        embedding_share: share for the embeddings of latents, noise level, prompt and pose; None is `share`.
    """
    shares = {True: share if embedding_share is None else embedding_share, False: share}
    return {name: torch.lerp(w, second[name], shares[name.startswith(EMBEDDINGS)]) for name, w in first.items()}


def avatar_weights(model_dir: Path, cond_dim: int) -> dict[str, Tensor]:
    """Load transformer and prompt encoder of a model directory as weights of an `AvatarNet` of `cond_dim` channels."""
    model = load_model(model_dir, "cpu", torch.float32, parts=("dit", "text"))
    weights = {f"{part}.{n}": w for part in ("dit", "text") for n, w in getattr(model, part).state_dict().items()}
    return weights | {CONDITIONS: with_conditions(weights[CONDITIONS], cond_dim)}


def louder(weights: dict[str, Tensor], gains: Sequence[float]) -> dict[str, Tensor]:
    """Scale the output of the audio injectors.

    Mouth motion gets larger, as with classifier-free guidance but at no cost; see `training/README.md`.

    Args:
        gains: one for each injector, in order of the layers.
    """
    by_map = {f"{AUDIO_OUT}{i}.o.{part}": gain for i, gain in enumerate(gains) for part in ("weight", "bias")}
    return weights | {name: weights[name] * gain for name, gain in by_map.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """Choice of a run's weights for export, and their mixing and scaling."""

    weights: str = ""  # as `--weights`; empty: the choice of `evaluation.json`, else the last trained
    teacher_share: float = 0.0  # see `mixed`
    embedding_share: float | None = None
    audio_gain: Sequence[float] = ()  # see `louder`; empty: as trained
    shift: float | None = None  # of the noise levels, see `shifted_sigmas`; those of the run when None
    before: Path | None = None  # a model directory, usually the one that the run started from
    before_share: float = 0.0  # of its layers in the result, see `mixed`
    before_embedding_share: float | None = None
    pose_limits: Sequence[float] = POSE_LIMITS  # degrees of yaw, pitch, roll that the run has learned
    speech_tuning: Path | None = None  # corrections of the speech encoder that the run was trained with
    gaze: bool = True  # condition on gaze, if trained with it; mixed weights may not follow it

    def name(self, weights: str) -> str:
        """Describe the exported weights for the model card."""
        mixes = [f"{self.teacher_share:.0%} of teacher"] * self.mixes
        mixes += [] if self.embedding_share is None else [f"{self.embedding_share:.0%} of its embeddings"]
        mixes += [f"speech {', '.join(f'{g:g}' for g in self.audio_gain)} times as loud"] * bool(self.audio_gain)
        if self.before is not None:
            mixes.append(f"{self.before_share:.0%} of the weights before")
            if self.before_embedding_share is not None:
                mixes.append(f"{self.before_embedding_share:.0%} of their embeddings")
        mixes += [] if self.shift is None else [f"noise levels shifted by {self.shift:g}"]
        mixes += ["no gaze condition"] * (not self.gaze)
        return f"{weights}, with {', '.join(mixes)}" if mixes else weights

    @property
    def mixes(self) -> bool:
        """True when the teacher's weights are mixed in."""
        return bool(self.teacher_share or self.embedding_share)


def export_run(run: Path, out: Path, settings: ExportSettings = ExportSettings()) -> ModelConfig:
    """Write the model directory of a run.

    Args:
        run: folder with `autoencoder.pt`, `config.json` and `teacher.pt` or `student.pt`.
        out: the model directory.
        settings: which weights, and how they are mixed.

    Raises:
        CheckpointError: when the run has no such weights, the gains are not one for each injector, or the corrections
            of the speech encoder are missing or damaged.
    """
    cfg, weights = read_config(run), settings.weights
    vae = runtime.load_checkpoint(runtime.autoencoder_file(run), CPU)["average"]
    saved: dict[str, Any] = {}
    if (run / "teacher.pt").is_file():
        saved["teacher"] = runtime.load_checkpoint(run / "teacher.pt", CPU)["average"]
    if (run / "student.pt").is_file():
        saved |= runtime.load_checkpoint(run / "student.pt", CPU)
    evaluation = run / "evaluation.json"
    if not weights and evaluation.is_file():
        weights = json.loads(evaluation.read_text())["chosen"]
    if not weights and saved:
        weights = list(saved)[-1]
    if missing := {weights, *(["teacher"] if settings.mixes else [])} - saved.keys():
        raise CheckpointError(
            f"--run {run} holds weights {', '.join(saved) or 'none'}, not {missing.pop()!r}; name one with --weights, "
            "or train the stage first"
        )
    chosen = saved[weights]
    if settings.mixes:
        chosen = mixed(chosen, saved["teacher"], settings.teacher_share, settings.embedding_share)
    if settings.audio_gain and len(settings.audio_gain) != len(cfg.dit.audio_inject_layers):
        raise CheckpointError(
            f"--audio_gain has {len(settings.audio_gain)} numbers; give one for each of the "
            f"{len(cfg.dit.audio_inject_layers)} layers that speech is injected into"
        )
    chosen = louder(chosen, settings.audio_gain)
    if settings.before is not None:
        share, embedding_share = settings.before_share, settings.before_embedding_share
        chosen = mixed(chosen, avatar_weights(settings.before, cfg.dit.cond_dim), share, embedding_share)
        if (share if embedding_share is None else embedding_share) > 0.5:  # most of the embeddings read its latents
            before = read_config(settings.before).vae
            cfg = replace(cfg, vae=replace(cfg.vae, mean=before.mean, std=before.std))
    # The pose encoder starts at zero, and only training with head pose and eye tracks changes it.
    learned = chosen[CONDITIONS].flatten(2).any(2).any(0).tolist()  # by channel
    gaze_conditioned = settings.gaze and any(learned[HEAD + 1 :])
    cfg = replace(
        cfg, pose_guided=any(learned[:HEAD]), lids_conditioned=any(learned[HEAD:]), gaze_conditioned=gaze_conditioned
    )
    if cfg.pose_guided:
        cfg = replace(cfg, pose_limits=tuple(settings.pose_limits))
    cfg = with_shift(cfg, settings.shift)
    cfg = _save_tuned(out, cfg, split_parts(chosen, vae), settings.speech_tuning)
    name = settings.name(weights)
    write_card(run, out, name)
    log.info("%s holds the %s weights of %s", out, name, run)
    return cfg


def _save_tuned(out: Path, cfg: ModelConfig, parts: dict[str, dict[str, Tensor]], tuning: Path | None) -> ModelConfig:
    """Write a model directory with the corrections of its speech encoder, and return its config."""
    if tuning is None:
        (out / low_rank.FILE).unlink(missing_ok=True)  # of other weights
        save_model(out, cfg, parts)
        return cfg
    shapes_of([tuning])
    corrections = read_bytes(tuning)
    cfg = replace(cfg, speech=replace(cfg.speech, tuning=low_rank.FILE, shifts=(0,)))
    save_model(out, cfg, parts)
    write_atomically(out / low_rank.FILE, corrections)
    list_written(out, [out / low_rank.FILE])
    return cfg


def tuning_of(run: Path, before: Path | None) -> Path | None:
    """Find the corrections of the speech encoder that a run hears with: its own, or those of the model before it.

    Args:
        run: folder of the run.
        before: model directory that it starts from.
    """
    if (run / low_rank.FILE).is_file():
        return run / low_rank.FILE
    return None if before is None else tuning_file(read_config(before).speech, before)


def export_decoder(run: Path, out: Path, output_sharpen: float | None = None) -> None:
    """Replace the decoder of the model at `out` by the decoder that a run trained on the same encoder.

    Args:
        run: folder of the training run.
        out: model directory that is changed.
        output_sharpen: of the new decoder (`VAEConfig`); the old one's when None.

    Raises:
        CheckpointError: when the run's encoder is another one, with other latents than the model's transformer.
    """
    state = runtime.load_checkpoint(runtime.autoencoder_file(run), CPU)
    trained = state["average"]
    model = load_model(out, "cpu", torch.float32, parts=("vae",))
    assert model.vae is not None
    for name, weight in model.vae.encoder.state_dict(prefix="encoder.").items():
        if not torch.equal(trained[name].half(), weight.half()):
            raise CheckpointError(f"--decoder {run}: its encoder is not that of {out}; train with --only_decoder {out}")
    blocks = tuple(state.get("decoder_blocks", PRESETS[model.config.name].vae.decoder_blocks))
    width = state.get("reference_width", 0)  # of the stage `reference_decoder`
    vae = replace(model.config.vae, decoder_blocks=blocks, reference_width=width)
    if output_sharpen is not None:
        vae = replace(vae, output_sharpen=output_sharpen)
    save_model(out, replace(model.config, vae=vae), {"vae": trained})
    log.info("%s has the decoder of %s", out, run)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(description="write a model directory")
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--random", choices=("mini", "tiny"), help="random weights of this preset")
    source.add_argument("--run", type=Path, help="folder of a training run")
    source.add_argument("--decoder", type=Path, help="folder of a run with --only_decoder; the rest of OUT stays")
    options.add_argument("--out", type=Path)
    options.add_argument("--weights", default="", help="teacher, regression, dmd or finetune")
    options.add_argument("--teacher_share", type=float, default=0.0, help="0: those weights; 1: the teacher's")
    options.add_argument(
        "--embedding_share", type=float, help="the same of the embeddings; --teacher_share when not given"
    )
    options.add_argument(
        "--audio_gain", type=float, nargs="+", default=(), help="gains of the audio injectors, one for each"
    )
    options.add_argument(
        "--shift", type=float, help="of the noise levels of all numbers of steps; the run's own if not given"
    )
    options.add_argument("--before", type=Path, help="model directory that the run started from, to mix in")
    options.add_argument("--before_share", type=float, default=0.0, help="0: nothing of it; 1: it alone")
    options.add_argument(
        "--before_embedding_share", type=float, help="the same of the embeddings; --before_share when not given"
    )
    options.add_argument(
        "--output_sharpen", type=float, help="unsharp mask on the frames of --decoder; the old decoder's if not given"
    )
    options.add_argument(
        "--pose_limits", type=float, nargs=3, default=POSE_LIMITS,
        help="degrees of yaw, pitch and roll up to which the run has learned to turn heads",
    )  # fmt: skip
    options.add_argument(
        "--speech_tuning", type=Path, help="corrections of the speech encoder that the run was trained with"
    )
    options.add_argument("--no_gaze", dest="gaze", action="store_false", help="do not condition on gaze")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("folder", nargs="?", type=Path, help="same as --out")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    command_line = parser()
    args: Any = command_line.parse_args(argv)
    out = args.out or args.folder
    if out is None:
        command_line.error("say where to write: --out DIR")
    logging.basicConfig(level=logging.INFO)
    if args.random:
        export_random(args.random, out, args.seed)
    elif args.decoder:
        export_decoder(args.decoder, out, args.output_sharpen)
    else:
        settings = {field.name: getattr(args, field.name) for field in fields(ExportSettings)}
        export_run(args.run, out, ExportSettings(**settings))


if __name__ == "__main__":
    main()
