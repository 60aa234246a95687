"""Parity of whole runs: the reference's generate() end to end, in its three variants.

The variants differ in how the picture conditions the stream and in what changes after the first clip:

* *tpp*: what our engine does. Reference from one frame, motion from 73 still frames, from the second clip on
  the first generated latent as reference, one persistent streaming decoder.
* *offline*: reference from the second latent of five still frames, motion from 365 of them, nothing changes; each
  clip is decoded behind 92 motion latents, which are encoded again from its frames.
* *online*: as offline, and before the second clip the sinks are renewed from the first generated latent and from
  the newly encoded motion.

All three run through the engine's own block loop. The reference drops the first three frames of a video.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import LIVE_AVATAR_14B, VAEConfig
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import StreamJob, TensorFeatures
from liveavatar.engine.plain import PlainBackend, image_tensor
from liveavatar.engine.sampling import clip_noise
from liveavatar.engine.settings import RenderSettings
from liveavatar.engine.single import Single
from liveavatar.engine.stream import Stream
from liveavatar.model.vae import VideoVAE
from liveavatar.parity.dit import load_dit
from liveavatar.parity.fixtures import FixtureFile, Fixtures
from liveavatar.parity.report import Comparison, Part
from liveavatar.parity.vae import load_vae
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, FPS, LATENT_FRAMES

LATENT_TOLERANCE = 2e-5
FRAME_TOLERANCE = 5e-5
GREY_TOLERANCE = 1.0  # levels: a value on the edge of one may fall to either side
DROPPED_FRAMES = 3  # of the first clip
STILL_FRAMES = 5  # of which the second latent is the reference
MOTION_FRAMES = 365  # 5 * 73
SINGLE_FILES = ("dit_weights", "vae_weights", "vae_io", "pipeline_single")


def reference_engine(fix: Fixtures, single: bool) -> Engine:
    """Make an engine around the networks of a set, with the set's text rows instead of a prompt encoder.

    Args:
        fix: the set.
        single: encode the picture as the offline and online variants do, and keep the reference.
    """
    run = fix.file("pipeline_single")
    distance = int(run["relative_dist"])
    dit, vae = load_dit(fix, rope_half=False), load_vae(fix)
    dit.cfg = replace(dit.cfg, ref_distance=(distance, distance))
    config = replace(LIVE_AVATAR_14B, dit=dit.cfg, vae=vae.config, reanchor=not single)
    backend = PlainBackend(LoadedModel(config=config, dit=dit, vae=vae), torch.device("cpu"))

    @functools.cache
    def still_latents() -> tuple[Tensor, Tensor]:
        still = image_tensor(run["ref_image_hwc_u8"].numpy())
        reference = vae.encode(still.expand(-1, -1, STILL_FRAMES, -1, -1))[:, :, 1:2]
        # Once its memory holds nothing but the picture, the encoder gives the same latent for ever.
        settled = vae.encode(still.expand(-1, -1, 1 + LATENT_FRAMES * encoder_reach(vae.config), -1, -1))
        rest = 1 + MOTION_FRAMES // LATENT_FRAMES - settled.shape[2]
        return reference, torch.cat((settled, settled[:, :, -1:].expand(-1, -1, rest, -1, -1)), dim=2)

    encode_still = (lambda image: still_latents()) if single else None
    return Engine(backend, lambda prompt: run["context"][None], encode_still=encode_still)


def encoder_reach(cfg: VAEConfig) -> int:
    """Compute how many latents back the encoder's input can matter, rounded up."""
    step, frames = 1, 2 + 4 * cfg.num_res_blocks
    for temporal in cfg.temporal_downsample:
        if temporal:
            frames += 2 * step
            step *= 2
        frames += 4 * cfg.num_res_blocks * step
    return -(-(frames + 10 * step) // LATENT_FRAMES)


def decoder_reach(cfg: VAEConfig) -> int:
    """Compute how many latents back can matter to the decoder's output, rounded up."""
    per_stage = 4 * (cfg.num_res_blocks + 1)
    rate, latents = 1, 10.0 + per_stage
    for temporal in cfg.temporal_downsample[::-1]:
        if temporal:
            latents += 2 / rate
            rate *= 2
        latents += per_stage / rate
    return math.ceil(latents + 2 / rate)


class ClipDecoder:
    """Decodes clip by clip behind the motion latents, which it encodes again from a window of pixels.

    The reference runs 104 latents through its decoder and 365 frames through its encoder for every clip. Both
    look back a bounded time, so the newest part of either gives the same numbers.
    """

    def __init__(self, vae: VideoVAE, image: np.ndarray, motion: Tensor) -> None:
        self.vae, self.still_motion = vae, motion
        self.context = decoder_reach(self.vae.config) + 1
        frames = LATENT_FRAMES * (self.context + encoder_reach(self.vae.config)) + 1
        self.window = image_tensor(image).expand(-1, -1, min(MOTION_FRAMES, frames), -1, -1)
        self.num_decoded = 0

    def motion(self) -> Tensor:
        """Newest motion latents, enough of them for the decoder and the motion packer."""
        motion = self.vae.encode(self.window) if self.num_decoded else self.still_motion
        return motion[:, :, -self.context :]

    def decode(self, clip: Tensor) -> Tensor:
        """Frames [1, 3, T, H, W] of a clip's latents, clamped."""
        frames = self.vae.decode(torch.cat((self.motion(), clip), dim=2)).clamp(-1, 1)
        frames = frames[:, :, -clip.shape[2] * LATENT_FRAMES :]
        frames = frames if self.num_decoded else frames[:, :, DROPPED_FRAMES:]
        self.num_decoded += 1
        self.window = torch.cat((self.window[:, :, frames.shape[2] :], frames), dim=2)
        return frames


class SingleRun:
    """A stream of the offline or online variant, decoded clip by clip."""

    def __init__(self, stream: Stream, clips: ClipDecoder, online: bool) -> None:
        self.stream, self.clips, self.online = stream, clips, online
        self.latents: list[Tensor] = []
        self.frames: list[Tensor] = []

    def clip(self, index: int) -> Tensor:
        """Latents [1, C, T, h, w] of a finished clip."""
        clip_blocks = self.stream.spec.clip_blocks
        return torch.cat(self.latents[index * clip_blocks : (index + 1) * clip_blocks], dim=2)

    def run(self) -> tuple[list[Tensor], Tensor]:
        """Make latents by clip and all frames."""
        stream = self.stream
        while stream.position < stream.num_blocks:
            if self.online and stream.position == stream.spec.clip_blocks:
                self._renew_sinks()
            self.latents.append(stream.next_block(decode=False).latents[None])
        clips = [self.clip(i) for i in range(stream.num_blocks // stream.spec.clip_blocks)]
        for clip in clips[len(self.frames) :]:
            self.frames.append(self.clips.decode(clip))
        return clips, torch.cat(self.frames, dim=2)

    def _renew_sinks(self) -> None:
        """Compute the sinks from the first generated latent and the motion at the end of the first clip."""
        self.frames.append(self.clips.decode(self.clip(0)))
        placement = self.stream.placement
        assert isinstance(placement, Single)
        assert placement.first_latent is not None
        placement.denoiser.reanchor(placement.first_latent, self.clips.motion())


def _job(run: FixtureFile, num_clips: int) -> StreamJob:
    clip_frames = run["noise_clip0"].shape[1] * LATENT_FRAMES
    return StreamJob(
        image=run["ref_image_hwc_u8"].numpy(),
        settings=RenderSettings(prompt="", seed=int(run.meta("seed")), infer_frames=clip_frames),
        features=TensorFeatures(run["audio_model_input"][0]),
        num_frames=num_clips * clip_frames,
    )


def _compare_frames(run: FixtureFile, variant: str, video: Tensor) -> tuple[Comparison, Comparison]:
    exact, grey = Comparison(), Comparison()
    for key, expected in run.below(f"{variant}.frame").items():
        if key.endswith("_f32"):
            exact.add(f"{variant}.frame{key}", video[0, :, int(key.removesuffix("_f32"))], expected)
    if f"{variant}.frames_u8" in run.tensors:
        levels = (255 * (video[0] + 1) / 2).floor()
        grey.add(f"{variant}.frames_u8", levels, run[f"{variant}.frames_u8"])
    return exact, grey


def _frame_parts(name: str, comparisons: tuple[Comparison, Comparison]) -> Iterator[Part]:
    yield comparisons[0].part(f"{name}.frames", FRAME_TOLERANCE)
    if comparisons[1].count:  # sets keep all frames of some variants only
        yield comparisons[1].part(f"{name}.grey_levels", GREY_TOLERANCE)


def check_inputs(fix: Fixtures) -> Iterator[Part]:
    """Compare the noise of every clip, and the speech features of the waveform."""
    from liveavatar.audio.encoders.wav2vec2 import build_wav2vec2, wav2vec2_features

    run, weights = fix.file("pipeline_single"), fix.file("pipeline_wav2vec2_weights")
    noise, features = Comparison(), Comparison()
    for key, expected in run.below("noise_clip").items():
        noise.add(f"noise_clip{key}", clip_noise(int(run.meta("seed")), int(key), expected.shape), expected)
    model = build_wav2vec2(weights.meta("config"), weights.tensors)
    clip_frames = run["noise_clip0"].shape[1] * LATENT_FRAMES
    ours = wav2vec2_features(model, run["waveform"], FPS, clip_frames)
    features.add("audio_model_input", ours[None], run["audio_model_input"])
    features.add("num_clips_in_audio", torch.tensor(ours.shape[2] // clip_frames), run["num_clips_in_audio"])
    yield noise.part("pipeline.noise", 0.0)
    yield features.part("pipeline.speech_features", LATENT_TOLERANCE)


@torch.inference_mode()
def check_single(fix: Fixtures) -> Iterator[Part]:
    """Compare offline and online runs on one GPU."""
    run = fix.file("pipeline_single")
    engine = reference_engine(fix, single=True)
    for variant in ("offline", "online"):
        calls = sorted(k for k in run.tensors if k.startswith(f"{variant}.decoder_call"))
        latents = Comparison()
        job = _job(run, len(calls))
        stream = engine.open(job)
        clip_decoder = ClipDecoder(engine.backend.vae, job.image, stream.motion)
        latents.add("ref_latent", stream.reference[0], run["ref_latent"])
        newest = run["motion_latents_last19"]
        latents.add("motion_latents_last19", stream.motion[0, :, -newest.shape[1] :], newest)
        clips, video = SingleRun(stream, clip_decoder, online=variant == "online").run()
        for i, clip in enumerate(clips):
            key = f"{variant}.decoder_call{i}_latents"
            latents.add(key, clip, run[key])
        yield latents.part(f"pipeline.{variant}.latents", LATENT_TOLERANCE)
        yield from _frame_parts(f"pipeline.{variant}", _compare_frames(run, variant, video))


@torch.inference_mode()
def check_tpp(fix: Fixtures) -> Iterator[Part]:
    """Compare the conditioning of several GPUs, which is our engine's own."""
    run, tpp = fix.file("pipeline_single"), fix.file("pipeline_tpp")
    calls = sum(k.startswith("tpp.decoder_call") for k in tpp.tensors)
    clip_blocks = run["noise_clip0"].shape[1] // BLOCK_LATENTS
    engine = reference_engine(fix, single=False)
    stream = engine.open(_job(run, (calls - 1) // clip_blocks))
    latents = Comparison()
    latents.add("ref_latent", stream.reference[0], tpp["ref_latent"])
    latents.add("motion_latents", stream.motion[0], tpp["motion_latents"])
    primed = stream.motion[:, :, : engine.config.vae.prime_latents]
    latents.add("tpp.decoder_call0_latents", primed, tpp["tpp.decoder_call0_latents"])
    frames = []
    for block in (stream.next_block(decode=False) for _ in range(stream.num_blocks)):
        key = f"tpp.decoder_call{block.index + 1}_latents"
        latents.add(key, block.latents[None], tpp[key])
        frames.append(engine.backend.vae.decode_stream(block.latents[None], stream.decoder.state))
    video = torch.cat(frames, dim=2).clamp(-1, 1)
    assert video.shape[2] == stream.num_blocks * BLOCK_FRAMES
    yield latents.part("pipeline.tpp.latents", LATENT_TOLERANCE)
    yield from _frame_parts("pipeline.tpp", _compare_frames(tpp, "tpp", video[:, :, DROPPED_FRAMES:]))


def groups(group: type) -> tuple:
    """Groups of this module, made with `liveavatar.parity.checks.CheckGroup`."""
    single = tuple(f"pipeline.{v}.{p}" for v in ("offline", "online") for p in ("latents", "frames"))
    tpp = tuple(f"pipeline.tpp.{p}" for p in ("latents", "frames"))
    return (
        group(
            names=("pipeline.noise", "pipeline.speech_features"),
            files=("pipeline_single", "pipeline_wav2vec2_weights"),
            tolerance=LATENT_TOLERANCE,
            check=check_inputs,
            requires=("transformers",),
        ),
        group(names=single, files=SINGLE_FILES, tolerance=LATENT_TOLERANCE, check=check_single),
        group(names=tpp, files=(*SINGLE_FILES, "pipeline_tpp"), tolerance=LATENT_TOLERANCE, check=check_tpp),
    )
