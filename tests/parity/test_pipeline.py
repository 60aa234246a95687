"""How far autoencoders look back, clips decoded behind a window, and the frames of a variant."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from liveavatar.config import VAEConfig
from liveavatar.engine.plain import image_tensor
from liveavatar.engine.sampling import clip_noise
from liveavatar.model.vae_wan import WanVAE
from liveavatar.parity import pipeline
from liveavatar.parity.fixtures import Fixtures
from liveavatar.parity.pipeline import ClipDecoder, SingleRun, decoder_reach, encoder_reach
from liveavatar.timing import LATENT_FRAMES

CONFIG = VAEConfig(
    kind="wan", z_dim=2, spatial_stride=4, encoder_widths=(4, 4, 4), decoder_widths=(4, 4, 4), mean=(0.0, 0.0),
    std=(1.0, 1.0), num_res_blocks=1, temporal_downsample=(True, True),
)  # fmt: skip


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(CONFIG).eval()


@torch.inference_mode()
def test_the_encoder_looks_no_further_back_than_its_reach(vae: WanVAE) -> None:
    reach = encoder_reach(CONFIG)
    video = torch.rand(1, 3, 1 + LATENT_FRAMES * (reach + 2), 8, 8)
    last = vae.encode(video)[:, :, -1]
    before, within = video.clone(), video.clone()
    before[:, :, : -LATENT_FRAMES * (reach + 1)] = 0
    within[:, :, -LATENT_FRAMES * 2] = 0
    torch.testing.assert_close(vae.encode(before)[:, :, -1], last, atol=1e-6, rtol=0)
    assert (vae.encode(within)[:, :, -1] - last).abs().max() > 1e-5


@torch.inference_mode()
def test_the_decoder_looks_no_further_back_than_its_reach(vae: WanVAE) -> None:
    reach = decoder_reach(CONFIG)
    latents = torch.randn(1, 2, reach + 3, 2, 2)
    last = vae.decode(latents)[:, :, -LATENT_FRAMES:]
    before = latents.clone()
    before[:, :, :2] = 0
    torch.testing.assert_close(vae.decode(before)[:, :, -LATENT_FRAMES:], last, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("temporal", "blocks"), [((True, True), 1), ((False, True), 1), ((True, True), 2)])
def test_reach_grows_with_depth(temporal: tuple[bool, ...], blocks: int) -> None:
    deeper = replace(CONFIG, temporal_downsample=temporal, num_res_blocks=blocks + 1)
    same = replace(CONFIG, temporal_downsample=temporal, num_res_blocks=blocks)
    assert encoder_reach(deeper) > encoder_reach(same)
    assert decoder_reach(deeper) > decoder_reach(same)


@pytest.fixture
def motion_frames(monkeypatch: pytest.MonkeyPatch) -> int:
    """Frames before a clip, fewer than the reference's but more than the window."""
    frames = LATENT_FRAMES * (decoder_reach(CONFIG) + encoder_reach(CONFIG) + 8) + 1
    monkeypatch.setattr(pipeline, "MOTION_FRAMES", frames)
    return frames


@torch.inference_mode()
def test_clips_decoded_behind_a_window_are_those_of_the_whole(vae: WanVAE, motion_frames: int) -> None:
    """As the reference does: each clip behind all motion latents, these encoded again from the newest frames."""
    image = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    pixels = image_tensor(image).expand(-1, -1, motion_frames, -1, -1)
    motion = vae.encode(pixels)
    clips = ClipDecoder(vae, image, motion)
    assert clips.window.shape[2] < motion_frames
    for index, clip in enumerate(torch.randn(2, 1, 2, 3, 1, 1)):
        frames = vae.decode(torch.cat((motion, clip), dim=2)).clamp(-1, 1)[:, :, -3 * LATENT_FRAMES :]
        frames = frames if index else frames[:, :, pipeline.DROPPED_FRAMES :]
        made = clips.decode(clip)
        torch.testing.assert_close(made, frames, atol=1e-5, rtol=0)
        pixels = torch.cat((pixels[:, :, frames.shape[2] :], frames), dim=2)
        motion = vae.encode(pixels)
        torch.testing.assert_close(clips.motion(), motion[:, :, -clips.context :], atol=1e-5, rtol=0)


class Recorded:
    """A stream of two clips of two blocks, and the decoder and placement beside it, that note what happens."""

    num_blocks = 4

    def __init__(self) -> None:
        self.events: list[str] = []
        self.position = 0
        self.spec: Any = type("Spec", (), {"clip_blocks": 2})
        self.placement = object.__new__(pipeline.Single)
        self.placement.first_latent = torch.zeros(1)
        self.placement.denoiser = self  # type: ignore[assignment]

    def next_block(self, decode: bool) -> Any:
        self.position += 1
        self.events.append(f"block {self.position - 1}")
        return type("Block", (), {"latents": torch.full((1, 3, 1, 1), float(self.position))})

    def reanchor(self, first: torch.Tensor, motion: torch.Tensor) -> None:
        self.events.append("sinks")

    def motion(self) -> torch.Tensor:
        return torch.zeros(1)

    def decode(self, clip: torch.Tensor) -> torch.Tensor:
        self.events.append("decode")
        return clip


@pytest.mark.parametrize(
    ("online", "events"),
    [
        (False, ["block 0", "block 1", "block 2", "block 3", "decode", "decode"]),
        (True, ["block 0", "block 1", "decode", "sinks", "block 2", "block 3", "decode"]),
    ],
    ids=["offline", "online"],
)
def test_sinks_are_renewed_online_after_the_first_clip(online: bool, events: list[str]) -> None:
    stream: Any = Recorded()
    clips, video = SingleRun(stream, stream, online).run()
    assert stream.events == events
    assert [clip[0, 0, :, 0, 0].tolist() for clip in clips] == [[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]]
    assert video[0, 0, :, 0, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(("seed", "same"), [(7, True), (8, False)])
def test_noise_of_every_clip(seed: int, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import liveavatar.audio.encoders.wav2vec2 as wav2vec2

    monkeypatch.setattr(wav2vec2, "build_wav2vec2", lambda *_: None)
    monkeypatch.setattr(wav2vec2, "wav2vec2_features", lambda *_: torch.zeros(1, 2, 24))
    noise = {f"noise_clip{i}": clip_noise(7, i, (2, 3, 2, 2)) for i in range(2)}
    assert not torch.equal(*noise.values())
    more = {"waveform": torch.zeros(1), "audio_model_input": torch.zeros(1, 1, 2, 24)}
    more["num_clips_in_audio"] = torch.tensor(2)
    save_file(noise | more, tmp_path / "pipeline_single.safetensors", {"seed": str(seed)})
    save_file({"x": torch.zeros(1)}, tmp_path / "pipeline_wav2vec2_weights.safetensors", {"config": "{}"})
    parts = {p.name: p.ok for p in pipeline.check_inputs(Fixtures(tmp_path))}
    assert parts == {"pipeline.noise": same, "pipeline.speech_features": True}
