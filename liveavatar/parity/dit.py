"""Parity of the transformer: prefill, single steps, a stream whose ring wraps, far positions, new sinks,
two speakers and the whole sampler, plus its motion packer and audio encoder alone.

Scenario constants (which noise level, which distance) are those of the fixture sets' README.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from liveavatar.engine.denoiser import Conditioning, DenoiseSpec
from liveavatar.engine.plain import PlainDenoiser
from liveavatar.engine.settings import RenderSettings
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.model.dit import CausalDiT, Conditions, TextKV
from liveavatar.model.kv_ring import KVRing, Sink
from liveavatar.model.motion import motion_rotation
from liveavatar.parity.fixtures import FixtureFile, Fixtures
from liveavatar.parity.report import Comparison, Part
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS

FILES = ("dit_weights", "dit_inputs")
TOLERANCE = {"exactrope": 2e-5, "refrope": 5e-4}
SCENARIOS = ("prefill", "single", "stream", "stream_ring", "far", "reprefill", "actors", "sampler")
STREAM_LEVEL, FAR_LEVEL, REPREFILL_LEVEL, ACTORS_LEVEL = 2, 1, 3, 0  # index of the noise level
SINGLE_DISTANCE, FAR_DISTANCE, REPREFILL_DISTANCE, ACTORS_DISTANCE = 30, 12, 21, 30  # latents
REPREFILL_FRAME = 24  # latents
ENCODER_TOLERANCE = 1e-5


class RecordingDiT(CausalDiT):
    """Keeps every layer's output, before and after that layer's audio injection."""

    def record(self) -> None:
        """Start a new record; it fills while `step` runs."""
        self.outputs: list[tuple[Tensor, Tensor]] = []

    def _inject(self, layer: int, x_BLD: Tensor, cond: Conditions) -> Tensor:
        injected = super()._inject(layer, x_BLD, cond)
        self.outputs.append((x_BLD, injected))
        return injected


def load_dit(fix: Fixtures, rope_half: bool) -> RecordingDiT:
    """Load the transformer of the set."""
    dit = RecordingDiT(fix.dit_config(rope_half))
    dit.load_state_dict(fix.file("dit_weights").tensors)
    dit.record()
    return dit.eval()


@dataclass(slots=True)
class DitBench:
    """A model, its inputs cut into blocks, and one step of it."""

    dit: RecordingDiT
    inputs: FixtureFile
    sigmas: tuple[float, ...]
    hw: tuple[int, int]
    text_kv: TextKV = field(init=False)

    def __post_init__(self) -> None:
        self.text_kv = self.dit.text_kv(self.dit.embed_text(self.inputs["context"][None]))

    def prefill(self, reference: Tensor, motion: Tensor) -> Sink:
        return self.dit.prefill(reference, motion, self.text_kv)

    def ring(self, sink: Sink) -> KVRing:
        h, w = self.hw
        return KVRing(sink, self.dit.cfg.window_latents * (h // 2) * (w // 2))

    def noise(self, block: int) -> Tensor:
        return self.inputs["noise"][None, :, BLOCK_LATENTS * block : BLOCK_LATENTS * (block + 1)]

    def pose(self, block: int) -> Tensor:
        return self.inputs["cond"][:, :, BLOCK_LATENTS * block : BLOCK_LATENTS * (block + 1)]

    def audio(self, block: int) -> AudioTokens:
        return self.dit.encode_audio(self.inputs["audio"][..., BLOCK_FRAMES * block : BLOCK_FRAMES * (block + 1)])

    def conditions(self, block: int, features: Tensor | None = None, mask: Tensor | None = None) -> Conditions:
        audio = self.audio(block) if features is None else self.dit.encode_audio(features)
        return Conditions(self.text_kv, self.dit.audio_kv(audio), self.pose(block), mask)

    def flow(
        self, x: Tensor, sigma: float, cond: Conditions, at: tuple[KVRing, Sink], frame: int, distance: int
    ) -> Tensor:
        """One step of the block at latent `frame`, the reference `distance` ahead: flow [1, C, 3, h, w]."""
        ring, sink = at
        dit, device = self.dit, x.device
        dit.record()
        dit.place_sink(ring, sink, dit.sink_rotation(frame, distance, *self.hw, device))
        level = dit.noise_level(torch.tensor([[sigma]], dtype=torch.float64))
        return dit.step(x, level, cond, ring, frame, dit.block_rotation(frame, *self.hw, device))


def part_names(rope: str) -> tuple[str, ...]:
    """Names of the parts checked with one kind of rotation."""
    return tuple(f"dit.{rope}.{s}" for s in SCENARIOS)


@torch.no_grad()
def check(fix: Fixtures, rope: str) -> Iterator[Part]:
    """Compare every scenario of `dit_out_<rope>`."""
    out = fix.file(f"dit_out_{rope}")
    bench = DitBench(load_dit(fix, rope == "refrope"), fix.file("dit_inputs"), fix.sigmas, fix.latent_hw)
    inputs = bench.inputs
    sink = bench.prefill(inputs["ref_latents"], inputs["motion_latents"])
    results = {s: Comparison() for s in SCENARIOS}
    _compare_sink(results["prefill"], "prefill", sink, out)
    _single(results["single"], bench, sink, out)
    _stream(results, bench, sink, out)
    _actors(results["actors"], bench, sink, out)
    _sampler(results["sampler"], bench, out)
    for scenario, comparison in results.items():
        yield comparison.part(f"dit.{rope}.{scenario}", TOLERANCE[rope])


def _compare_sink(result: Comparison, prefix: str, sink: Sink, out: FixtureFile) -> None:
    for key, expected in out.below(f"{prefix}.layer").items():
        layer, _, what = key.partition(".")
        kept = (sink.k if what == "cond_k_unroped" else sink.v)[int(layer)]
        result.add(f"{prefix}.layer{key}", kept.transpose(1, 2), expected)


def _single(result: Comparison, bench: DitBench, sink: Sink, out: FixtureFile) -> None:
    head_outputs: list[Tensor] = []
    hook = bench.dit.head.register_forward_hook(lambda module, args, output: head_outputs.append(output))
    steps = sorted({int(k.split(".")[0]) for k in out.below("single.step")})
    cond = bench.conditions(0)
    for step in steps:
        flow = bench.flow(bench.noise(0), bench.sigmas[step], cond, (bench.ring(sink), sink), 0, SINGLE_DISTANCE)
        tokens = bench.dit.encode_audio(bench.inputs["audio"][..., :BLOCK_FRAMES])
        rotation = bench.dit.block_rotation(0, *bench.hw, flow.device)
        ours = {
            "flow": flow[0],
            "head_out": head_outputs[-1],
            "audio_global": tokens.global_,
            "audio_local": tokens.local,
            "rope_self": torch.stack((rotation.cos, rotation.sin), dim=-1)[None],
        }
        for key, expected in out.below(f"single.step{step}.").items():
            if key.endswith(".out_before_audio"):
                # The reference injects in place, so what its hook kept holds the injection where there is one.
                pair = bench.dit.outputs[int(key.removeprefix("block").split(".")[0])]
                value = _nearer(pair, expected)
            else:
                value = ours[key]
            result.add(f"single.step{step}.{key}", value, expected)
    hook.remove()


def _nearer(pair: tuple[Tensor, Tensor], expected: Tensor) -> Tensor:
    first, second = (float((x - expected).abs().max()) for x in pair)
    return pair[0] if first <= second else pair[1]


def _stream(results: dict[str, Comparison], bench: DitBench, sink: Sink, out: FixtureFile) -> None:
    ring, sigma = bench.ring(sink), bench.sigmas[STREAM_LEVEL]
    distances = out["stream.relative_dist"].tolist() if "stream.relative_dist" in out.tensors else []
    for block, distance in enumerate(distances):
        frame = BLOCK_LATENTS * block
        flow = bench.flow(bench.noise(block), sigma, bench.conditions(block), (ring, sink), frame, distance)
        key = f"stream.block{block}.flow"
        if key in out.tensors:
            results["stream"].add(key, flow[0], out[key])
    for key, expected in out.below("stream.layer").items():
        layer, _, what = key.partition(".")
        kept = (ring.k if what == "k_ring" else ring.v)[int(layer)][:, :, ring.num_sink :]
        results["stream_ring"].add(f"stream.layer{key}", kept.transpose(1, 2), expected)
    # In increasing order: the set ran them one after the other on the stream's own ring.
    for frame in sorted(int(k.split(".")[0]) for k in out.below("far.frame")):
        at = (ring, sink)
        flow = bench.flow(bench.noise(0), bench.sigmas[FAR_LEVEL], bench.conditions(0), at, frame, FAR_DISTANCE)
        results["far"].add(f"far.frame{frame}.flow", flow[0], out[f"far.frame{frame}.flow"])
    for length, motion in (("long", "motion_latents_b"), ("short", "motion_latents_short")):
        if f"reprefill_{length}.flow" in out.tensors:
            _reprefill(results["reprefill"], bench, deepcopy(ring), (length, motion), out)


def _reprefill(result: Comparison, bench: DitBench, ring: KVRing, variant: tuple[str, str], out: FixtureFile) -> None:
    length, motion = variant
    sink = bench.prefill(bench.inputs["ref_latents_b"], bench.inputs[motion])
    ring.set_sink(sink)
    flow = bench.flow(
        bench.noise(1), bench.sigmas[REPREFILL_LEVEL], bench.conditions(1), (ring, sink), REPREFILL_FRAME,
        REPREFILL_DISTANCE,
    )  # fmt: skip
    _compare_sink(result, f"reprefill_{length}", sink, out)
    result.add(f"reprefill_{length}.flow", flow[0], out[f"reprefill_{length}.flow"])


def _actors(result: Comparison, bench: DitBench, sink: Sink, out: FixtureFile) -> None:
    if "actors.flow" not in out.tensors:
        return
    cond = bench.conditions(0, bench.inputs["audio2"], out["actors.mask"])
    flow = bench.flow(bench.noise(0), bench.sigmas[ACTORS_LEVEL], cond, (bench.ring(sink), sink), 0, ACTORS_DISTANCE)
    result.add("actors.flow", flow[0], out["actors.flow"])


@dataclass(frozen=True, slots=True)
class RecordedInputs:
    """Noise, pose latents and distances of a set, in place of those that a seed gives."""

    bench: DitBench
    spec: DenoiseSpec
    distances: list[list[int]]  # block, step

    def noise(self, index: int, device: torch.device) -> Tensor:
        """Return the noise [1, C, 3, h, w] of a block."""
        return self.bench.noise(index)

    def distance(self, index: int, step: int) -> int:
        """Return how many latents ahead of a block a denoise step places the reference."""
        return self.distances[index][step]

    def pose(self, index: int, device: torch.device) -> Tensor:
        """Return the pose latents [1, C, 3, h, w] of a block."""
        return self.bench.pose(index)


def _sampler(result: Comparison, bench: DitBench, out: FixtureFile) -> None:
    """Sample with the engine's own denoiser: all steps in one, then a denoiser for each step as on a group."""
    if "sampler.relative_dist" not in out.tensors:
        return
    distances, (h, w), inputs = out["sampler.relative_dist"].tolist(), bench.hw, bench.inputs
    spec = DenoiseSpec(
        settings=RenderSettings(prompt=""), sigmas=(*bench.sigmas, 0.0), num_blocks=len(distances), h=h, w=w
    )
    recorded = RecordedInputs(bench, spec, distances)
    conditioning = Conditioning(inputs["context"][None], inputs["ref_latents"], inputs["motion_latents"])
    steps = range(spec.num_steps)
    for shares in ([tuple(steps)], [(step,) for step in steps]):
        denoisers = [PlainDenoiser(bench.dit, recorded, conditioning, share) for share in shares]
        _sample(result, bench, dict(zip(shares, denoisers, strict=True)), out)


def _sample(
    result: Comparison, bench: DitBench, denoisers: dict[tuple[int, ...], PlainDenoiser], out: FixtureFile
) -> None:
    first_latent: Tensor | None = None
    for block in range(len(out["sampler.relative_dist"])):
        if block == bench.dit.cfg.window_latents // BLOCK_LATENTS and first_latent is not None:
            for denoiser in denoisers.values():
                denoiser.reanchor(first_latent, bench.inputs["motion_latents_b"])
        x, audio = bench.noise(block), bench.audio(block)
        for share, denoiser in denoisers.items():
            bench.dit.record()
            x, _ = denoiser.queue(block, x, audio)
            key = f"sampler.block{block}.step{share[-1]}.x"
            if key in out.tensors:
                result.add(key, x[0], out[key])
        if block == 0:
            first_latent = x[:, :, :1]
        if f"sampler.block{block}.x0" in out.tensors:
            result.add(f"sampler.block{block}.x0", x[0], out[f"sampler.block{block}.x0"])


@torch.no_grad()
def check_motion_packer(fix: Fixtures) -> Iterator[Part]:
    """Compare the motion packer alone: tokens and their rotation."""
    io, dit = fix.file("motion_packer"), load_dit(fix, rope_half=False)
    latents = io["motion_latents"]
    tokens = Comparison()
    tokens.add("tokens", dit.frame_packer(latents), io["tokens"])
    rope = Comparison()
    # The set does not say whether its angles were rounded to fp16: the nearer of the two counts.
    h, w = latents.shape[-2:]
    options = [motion_rotation(h, w, dit.cfg.head_dim, half, latents.device) for half in (False, True)]
    if "rope_cos" in io.tensors:
        best = min(options, key=lambda r: float((r.cos - io["rope_cos"]).abs().max()))
        rope.add("rope_cos", best.cos, io["rope_cos"])
        rope.add("rope_sin", best.sin, io["rope_sin"])
    yield tokens.part("motion_packer.tokens", ENCODER_TOLERANCE)
    yield rope.part("motion_packer.rope", ENCODER_TOLERANCE)


@torch.no_grad()
def check_audio_encoder(fix: Fixtures) -> Iterator[Part]:
    """Compare the audio encoder alone, for every length the set holds."""
    io, dit = fix.file("audio_encoder"), load_dit(fix, rope_half=False)
    result = Comparison()
    for key in sorted(k for k in io.tensors if k.endswith(".features")):
        length = key.removesuffix(".features")
        tokens = dit.casual_audio_encoder(io[key])
        result.add(f"{length}.local", tokens.local, io[f"{length}.local"])
        result.add(f"{length}.global", tokens.global_, io[f"{length}.global"])
    yield result.part("audio_encoder", ENCODER_TOLERANCE)
