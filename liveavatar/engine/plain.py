"""The plain backend: modules of `liveavatar.model` as they are, on the CPU or a GPU.

Shapes: C latent channels, h/w latent height and width, T frames, H/W pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.engine.clock import mark
from liveavatar.engine.decoder import HostDecoder
from liveavatar.engine.denoiser import BlockInputs, Conditioning, DenoiseSpec, Relay, StreamInputs
from liveavatar.engine.placement import RankWork
from liveavatar.engine.pose_latents import VideoEncoder
from liveavatar.engine.sampling import euler_step
from liveavatar.engine.threads import Threads
from liveavatar.errors import InputError
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.model.dit import CausalDiT, Conditions
from liveavatar.model.kv_ring import KVRing, Sink
from liveavatar.model.stream_state import State
from liveavatar.model.vae import VideoVAE
from liveavatar.timing import BLOCK_LATENTS


class PlainBackend:
    """Networks as plain modules."""

    def __init__(self, model: LoadedModel, device: torch.device) -> None:
        self.config, self.dit, self.vae, self.device = model.config, model.dit, model.vae, device
        self.fp8 = False
        self.shares_threads = device.type == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the networks compute in."""
        return model_dtype(self.dit, self.vae)

    def check_kv_dtype(self, kv_cache_dtype: str) -> None:
        """Refuse every precision of keys and values but that of the weights.

        Raises:
            InputError: another one is asked for.
        """
        if kv_cache_dtype != "auto":
            raise InputError(
                f"--kv_cache_dtype {kv_cache_dtype}: only the large model on a GPU has a choice, and this is "
                f"{self.config.name} on {self.device.type}; drop it"
            )

    @torch.inference_mode()
    def still_latents(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Encode a picture [H, W, 3]: reference [1, C, 1, h, w] and motion [1, C, 19, h, w] latents."""
        return still_latents(
            self.vae.encode_still, image_tensor(image).to(self.device, self.dtype), self.config.dit.motion_latents
        )

    def denoiser(
        self, spec: DenoiseSpec, conditioning: Conditioning, work: RankWork, relay: Relay | None = None
    ) -> "PlainDenoiser":
        """Make the denoiser of a rank's steps, which are always whole.

        Raises:
            InputError: its rings are to wait in host memory.
        """
        if spec.rings_on_host:
            raise InputError(
                f"rings_on_host: {self.config.name} was loaded without its fast path on a GPU, whose rings alone can "
                "wait in host memory; load it with offload=True, or drop rings_on_host"
            )
        inputs = BlockInputs(self.config, spec, conditioning, self.dit.dtype)
        return PlainDenoiser(self.dit, inputs, conditioning, work.steps)

    def decoder(self, motion: Tensor, image: np.ndarray, threads: Threads) -> HostDecoder:
        """Make the decoder of a stream, primed by the latents [1, C, 19, h, w] of its portrait [H, W, 3]."""
        return plain_decoder(self.vae, motion, image, threads)

    def video_encoder(self, h: int, w: int) -> VideoEncoder:
        """Return the encoder of videos of latent size [h, w]."""
        return BackendEncoder(self.vae, self.vae.encode_stream, self.device, self.dtype, (h, w))

    def forget_sizes(self) -> None:
        """Do nothing: no buffers are kept between jobs."""


class BackendEncoder:
    """A `VideoEncoder` that calls a backend's function."""

    def __init__(
        self,
        vae: VideoVAE,
        encode: Callable[[Tensor, Any], Tensor],
        device: torch.device,
        dtype: torch.dtype,
        size: tuple[int, int],
    ) -> None:
        self.vae, self._encode, self.device, self.dtype, self.size = vae, encode, device, dtype, size

    def state(self) -> State:
        """Start a video."""
        return self.vae.encoder_state(1, *self.size)

    def encode(self, video_13THW: Tensor, state: State) -> Tensor:
        """Encode the next pictures."""
        return self._encode(video_13THW.to(self.device, self.dtype), state)


class PlainDenoiser:
    """A `Denoiser` of the steps `steps` of a stream."""

    @torch.inference_mode()
    def __init__(self, dit: CausalDiT, inputs: StreamInputs, conditioning: Conditioning, steps: Sequence[int]) -> None:
        self.dit, self.inputs, self.spec = dit, inputs, inputs.spec
        self.device, self.motion = conditioning.reference.device, conditioning.motion
        self.text_kv = dit.text_kv(dit.embed_text(conditioning.text))
        self.sink: Sink = dit.prefill(conditioning.reference, conditioning.motion, self.text_kv)
        window = dit.cfg.window_latents * (self.spec.h // 2) * (self.spec.w // 2)
        self.rings = {step: KVRing(self.sink, window) for step in steps}
        self.levels = {
            step: dit.noise_level(torch.full((1, 1), self.spec.sigmas[step], device=self.device)) for step in steps
        }
        self.hidden: tuple[Tensor, ...] = ()

    def noise(self, index: int) -> Tensor:
        """Return the noise [1, C, 3, h, w] that a block starts from."""
        return self.inputs.noise(index, self.device)

    @torch.inference_mode()
    def reanchor(self, reference: Tensor, motion: Tensor | None = None) -> None:
        """Compute the sinks anew for another reference latent [1, C, 1, h, w] and, unless None, motion latents."""
        self.sink = self.dit.prefill(reference, self.motion if motion is None else motion, self.text_kv)
        for ring in self.rings.values():
            ring.set_sink(self.sink)

    @torch.inference_mode()
    def queue(
        self,
        index: int,
        x: Tensor,
        audio: AudioTokens,
        hidden: Sequence[Tensor] = (),
        pose: Tensor | None = None,
        step: int | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """Take a block through these steps, which are always whole."""
        assert not hidden, "the plain transformer makes whole steps"
        assert step is None, "and each block's at once"
        dit, spec, frame = self.dit, self.spec, index * BLOCK_LATENTS
        pose = self.inputs.pose(index, self.device) if pose is None else pose
        cond = Conditions(self.text_kv, dit.audio_kv(audio), pose)
        rotation = dit.block_rotation(frame, spec.h, spec.w, self.device)
        marks = [mark(self.device)]
        for step, ring in self.rings.items():
            distance = self.inputs.distance(index, step)
            dit.place_sink(ring, self.sink, dit.sink_rotation(frame, distance, spec.h, spec.w, self.device))
            flow = dit.step(x, self.levels[step], cond, ring, frame, rotation)
            x = euler_step(x, flow, spec.sigmas[step], spec.sigmas[step + 1])
            marks.append(mark(self.device))
        return x, marks


@torch.inference_mode()
def plain_decoder(vae: VideoVAE, motion: Tensor, image: np.ndarray, threads: Threads) -> HostDecoder:
    """Make a decoder warmed by the latents [1, C, 19, h, w] of the portrait [H, W, 3]: its first block has a past."""
    device, dtype = motion.device, motion.dtype
    state = vae.decoder_state(1, *motion.shape[-2:])
    vae.set_reference(image_tensor(image).to(device), motion[:, :, :1], state)
    vae.prime_decoder(motion[:, :, : vae.config.prime_latents], state)

    def decode(x: Tensor) -> np.ndarray:
        return frames_uint8(vae.decode_stream(x.to(device, dtype), state)[0])

    return HostDecoder(decode, state, threads)


def model_dtype(dit: Any, vae: Any) -> torch.dtype:
    """Dtype of a rank's networks, of which either may be None."""
    dtype: torch.dtype = next(vae.parameters()).dtype if dit is None else dit.dtype
    return dtype


def image_tensor(image: np.ndarray) -> Tensor:
    """Convert a picture uint8 RGB [H, W, 3] to [1, 3, 1, H, W] in -1..1."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1


def frames_uint8(video_CTHW: Tensor) -> np.ndarray:
    """Convert decoder output [3, T, H, W] in -1..1 to uint8 RGB [T, H, W, 3]."""
    levels = (video_CTHW.float() + 1).mul_(127.5).round_().clamp_(0, 255)  # in place: three times as fast on a CPU
    return levels.byte().permute(1, 2, 3, 0).cpu().numpy()


def still_latents(
    encode_still: Callable[[Tensor, int], Tensor], image_13THW: Tensor, motion_latents: int
) -> tuple[Tensor, Tensor]:
    """Encode a picture [B, 3, 1, H, W] to reference and motion latents with `VideoVAE.encode_still`.

    The motion is a still video; the reference is its first latent, which depends on no frame but the first ones.
    """
    still = encode_still(image_13THW, motion_latents)
    return still[:, :, :1].contiguous(), still
