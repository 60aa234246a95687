"""The transformer in its fast form: the methods of `CausalDiT` that a stream needs, on fused operations.

Rows are tokens; a batch is one video. Every step of a stream has the same shapes once its ring is full, and reads
what changes (positions, slot, audio) from buffers, so it can be recorded once and replayed.

Shapes: L tokens of a block, S tokens of a latent, D width, N heads, H head width, T latents, K audio tokens.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liveavatar.engine.denoiser import Relay
from liveavatar.fast import ops
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.reference import Branch, NormSpec, Rows, rotate_rows
from liveavatar.fast.rings import Ring
from liveavatar.fast.weights import LayerWeights, Linear, pack, pack_layers
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.model.dit import CausalDiT, Conditions, TextKV
from liveavatar.model.kv_ring import Sink
from liveavatar.model.layers import ADAIN_EPS
from liveavatar.model.motion import motion_rotation
from liveavatar.model.rope import Rotation, grid_rotation

log = logging.getLogger(__name__)

Hidden = tuple[Tensor, Tensor | None]  # between two layers: the sum [L, D], and the branch [L, D] not yet added to it
AudioKV = list[tuple[Tensor, Tensor, Tensor, Tensor]]  # keys, values [T, N, K, H], mul, add [T, D]


@dataclass(frozen=True, slots=True)
class FastLevel:
    """A noise level: modulation of every layer [Y, 6, D] as (add, mul, gate, add, mul, gate), and the head's [2, D]."""

    layers: Tensor
    head: Tensor


def accelerate(
    dit: CausalDiT,
    *,
    device: torch.device | None = None,
    fp8: bool = False,
    offload: bool = False,
    attention: FastAttention | None = None,
) -> "FastDiT":
    """Take the weights out of a transformer, which is of no use afterwards.

    Args:
        dit: on the device, or on the host when `offload`.
        device: where to compute; the transformer's own when None.
        fp8: linear layers in e4m3, except the small and sensitive ones.
        offload: layers wait in pinned host memory and arrive one ahead of their use.
        attention: chooses backends; None for a process that renders alone.
    """
    return FastDiT(dit, device or dit.patch_embedding.weight.device, fp8, offload, attention or FastAttention())


class FastDiT:
    """Transformer on fused operations; method by method it equals `CausalDiT` within rounding."""

    def __init__(
        self, dit: CausalDiT, device: torch.device, fp8: bool, offload: bool, attention: FastAttention
    ) -> None:
        self.cfg, self.device, self.fp8, self.offload = dit.cfg, device, fp8, offload
        self.attention = attention
        self.dtype = dit.dtype
        self.kept = dit.kept  # layers that are here
        self._injected = frozenset(dit.injector_of)
        here = [layer for layer in dit.injector_of if layer in self.kept]
        self.injector_of = {layer: i for i, layer in enumerate(here)}
        self.layers = pack_layers(dit, fp8, offload, device)
        # Needed once a job: waits on the host when offloaded.
        host = torch.device("cpu") if offload else device
        blocks, fp32 = [dit.blocks[i] for i in self.kept], torch.float32
        self._cross_kv = [pack([b.cross_attn.k, b.cross_attn.v], fp8, device).to(host) for b in blocks]
        audio = dit.audio_injector
        self._injectors = [audio.injector[dit.injector_of[layer]] for layer in here]
        adain = [audio.injector_adain_layers[dit.injector_of[layer]] for layer in here]
        self._audio_kv = [pack([a.k, a.v], fp8, device) for a in self._injectors]
        self._adain = [pack([a.linear], fp8, device) for a in adain]
        self.plain = dit.to(device)  # embeddings, norms, audio encoder: too small or too rare to be worth more
        self._blocks = blocks
        self._modulation = torch.cat([b.modulation.to(fp32) for b in dit.blocks])  # [Y, 6, D]
        self._qk = [(b.self_attn.norm_q.weight, b.self_attn.norm_k.weight, b.self_attn.norm_q.eps) for b in blocks]
        self._cross = [
            (b.norm3.weight.to(fp32)[None], b.norm3.bias.to(fp32)[None], b.cross_attn.norm_q.weight) for b in blocks
        ]
        self._audio_norm = [a.norm_q.weight for a in self._injectors]
        self._motion_rotation: dict[tuple[int, int], Rotation] = {}

    def __getattr__(self, name: str) -> Any:
        """Take embeddings and positions from the plain transformer."""
        if name in ("embed_text", "encode_audio", "block_rotation", "sink_tokens", "noisy_tokens"):
            return getattr(self.plain, name)
        raise AttributeError(name)

    @property
    def num_layers(self) -> int:
        """Layers of the transformer, those on other ranks included."""
        return self.cfg.num_layers

    # Conditions ------------------------------------------------------------------------------------

    def sink_rotation(self, frame: int, distance: int, h: int, w: int, device: torch.device) -> Rotation:
        """Compute the rotation of the sinks, without waiting for the GPU where only the reference moves."""
        cfg = self.cfg
        if cfg.anchor_motion:
            return self.plain.sink_rotation(frame, distance, h, w, device)
        if (h, w) not in self._motion_rotation:
            self._motion_rotation[h, w] = motion_rotation(h, w, cfg.head_dim, cfg.rope_half, device)
        motion, time = self._motion_rotation[h, w], max(cfg.ref_base, frame + distance)
        moving = grid_rotation(range(time, time + 1), h // 2, w // 2, cfg.head_dim, cfg.rope_half, device)
        return Rotation(torch.cat((moving.cos, motion.cos)), torch.cat((moving.sin, motion.sin)))

    def _heads(self, x_LD: Tensor, batch: int = 1) -> Tensor:
        """View rows [B * L, D] as heads [B, N, L, H]."""
        return x_LD.view(batch, -1, self.cfg.num_heads, self.cfg.head_dim).transpose(1, 2)

    def _key_value(self, linear: Linear, x: Tensor, weight: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        k, v = linear(x).chunk(2, dim=-1)
        k = ops.rms_rows(k, weight, self.cfg.eps)
        return self._heads(k, batch).contiguous(), self._heads(v.contiguous(), batch).contiguous()

    def text_kv(self, text_1LD: Tensor, num_rows: int | None = None) -> TextKV:
        """Compute keys and values of embedded text for every layer that is here, each with the count of its rows.

        Args:
            text_1LD: as `embed_text` gives.
            num_rows: rows before the padding, whose rows are all equal, so that one stands for them; None: no padding.

        Returns:
            Keys and values [1, N, text_len, H]; int32 [2]: the number of rows that count, one of the padding
            included, and how many equal rows the last of them stands for.
        """
        rows = text_1LD[0].contiguous()
        used = len(rows) if num_rows is None else min(num_rows + 1, len(rows))
        counts = torch.tensor([used, len(rows) - used + 1], dtype=torch.int32, device=self.device)
        found: TextKV = []
        for block, linear in zip(self._blocks, self._cross_kv, strict=True):
            kv = self._key_value(linear.to(self.device), rows, block.cross_attn.norm_k.weight, 1)
            found.append((*kv, counts))
        return found

    def audio_kv(self, tokens: AudioTokens) -> AudioKV:
        """Compute keys, values and modulation of every injector that is here."""
        local, level = tokens.local[0].to(self.dtype), torch.nn.functional.silu(tokens.global_[0, :, 0].to(self.dtype))
        T, rows = local.shape[0], local.flatten(0, 1)
        found = []
        for i, injector in enumerate(self._injectors):
            k, v = self._key_value(self._audio_kv[i], rows, injector.norm_k.weight, T)
            add, mul = self._adain[i](level).float().chunk(2, dim=-1)
            found.append((k, v, (1 + mul).contiguous(), add.contiguous()))
        return found

    def noise_level(self, sigma: Tensor) -> FastLevel:
        """Compute the modulations of every layer at a noise level sigma [1, 1]."""
        level = self.plain.noise_level(sigma)
        layers = self._modulation + level.e0[0, 0]
        layers[:, (1, 4)] += 1
        head = self.plain.head.modulation[0].float() + level.e[0, 0]
        return FastLevel(layers, torch.stack((head[0], 1 + head[1])))

    # Layers ----------------------------------------------------------------------------------------

    def _modulated(self, add: Tensor, mul: Tensor, quantise: bool, eps: float | None = None) -> NormSpec:
        wide = (mul if mul.ndim == 2 else mul[None], add if add.ndim == 2 else add[None])
        return NormSpec(*wide, self.cfg.eps if eps is None else eps, quantise, self.dtype)

    def _finish(
        self, x: Tensor, attended: Tensor, weights: LayerWeights, layer: int, mod: Tensor, kv: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Finish a layer after its self-attention: (residual fp32, the feed-forward's branch)."""
        fp32, own = torch.float32, (weights.o(_rows(attended, weights.o)), mod[2])
        mul, add, norm = self._cross[layer - self.kept.start]
        spec = NormSpec(mul, add, self.cfg.eps, weights.cross_q.quantised, self.dtype, rounded=True)
        x, h = ops.add_norm(x, [own], spec, fp32, keep=False)
        q = ops.rms_rows(weights.cross_q(h), norm, self.cfg.eps)
        k, v, counts = kv
        attended = ops.attend_text(q.unflatten(1, (self.cfg.num_heads, -1)), k[0], v[0], counts)
        y = weights.cross_o(_rows(attended, weights.cross_o))
        x, h = ops.add_norm(x, [own, (y, None)], self._modulated(mod[3], mod[4], weights.up.quantised), fp32)
        return x, weights.down(ops.gelu_rows(weights.up(h), weights.down.quantised))

    def prefill(
        self,
        reference_BC1hw: Tensor,
        motion_BCThw: Tensor,
        text_kv: TextKV,
        into: Sink | None = None,
        relay: Relay | None = None,
    ) -> Sink:
        """Compute the sinks of reference and motion latents for every layer that is here.

        Args:
            reference_BC1hw, motion_BCThw: the latents.
            text_kv: as `text_kv` gives.
            into: is overwritten, unless None.
            relay: where some layers are on other ranks.
        """
        (h, w), kept, device = reference_BC1hw.shape[-2:], self.kept, self.device
        level = self.noise_level(torch.zeros(1, 1, device=device))
        rotation = self.plain.sink_rotation(0, self.cfg.ref_base, h, w, device)
        keys, values = [], []
        y: Tensor | None = None
        gate: Tensor | None = None
        if kept.start:
            assert relay is not None
            x, y = relay.receive()
            gate = level.layers[kept.start - 1][5]
        else:
            x = self.plain.sink_tokens(reference_BC1hw, motion_BCThw)[0].contiguous()
        for i in kept:
            own = i - kept.start
            weights, mod = self.layers.use(i), level.layers[i]
            spec = self._modulated(mod[0], mod[1], weights.qkv.quantised)
            x, rows = ops.add_norm(x, _branches(y, gate), spec, self.dtype)
            q, k, v = weights.qkv(rows).chunk(3, dim=-1)
            wq, wk, eps = self._qk[own]
            q, k = (self._heads(ops.rms_rows(t, n, eps))[0] for t, n in ((q, wq), (k, wk)))
            v = self._heads(v.contiguous()).contiguous()
            keys.append(k[None].contiguous() if into is None else into.k[own].copy_(k[None]))
            values.append(v if into is None else into.v[own].copy_(v))
            if i < self.num_layers - 1:  # nothing reads what the last layer makes of the sinks
                q, k = (rotate_rows(t, rotation.cos, rotation.sin)[None] for t in (q, k))
                x, y = self._finish(x, self.attention(q, k, v), weights, i, mod, text_kv[own])
                gate = mod[5]
            self.layers.done()
        if kept.stop < self.num_layers and y is not None:
            assert relay is not None
            relay.send(x, y)
        return Sink(keys, values, num_reference=(h // 2) * (w // 2))

    def place_sink(self, ring: Ring, sink: Sink, rotation: Rotation) -> None:
        """Rotate all sink keys to where the coming block sees them."""
        ring.place(sink, (rotation.cos, rotation.sin), sink.num_tokens)

    def step(
        self, x_BCThw: Tensor, level: FastLevel, cond: Conditions, ring: Ring, frame: int, rotation: Rotation
    ) -> Tensor:
        """Predict the flow [1, C, 3, h, w] of a noisy block and write its keys and values into the ring."""
        h, w = x_BCThw.shape[-2:]
        span, tokens = x_BCThw.shape[2] * (h // 2) * (w // 2), frame * (h // 2) * (w // 2)
        slot = torch.tensor([tokens % ring.window], dtype=torch.int32, device=x_BCThw.device)
        where, cos_sin = (slot, min(tokens + span, ring.window)), (rotation.cos, rotation.sin)
        passed = self.through(self.enter(x_BCThw, cond), self.kept, level, cond, ring, where, cos_sin)
        return self.leave(passed, level, (h, w))

    def enter(self, x_BCThw: Tensor, cond: Conditions) -> Hidden:
        """Embed noisy latents for the first layer."""
        # A convolution leaves the elements of a token as far apart as there are tokens.
        return self.plain.noisy_tokens(x_BCThw, cond.pose)[0].contiguous(), None

    def through(
        self,
        hidden: Hidden,
        layers: range,
        level: FastLevel,
        cond: Conditions,
        ring: Ring,
        where: tuple[Tensor, int],
        rotation: tuple[Tensor, Tensor],
    ) -> Hidden:
        """Run some layers of a denoise step; every input is a tensor, except how many tokens of the ring are filled.

        Args:
            hidden: what `enter` or the layer before gives.
            layers: which; the ring holds those and no others.
            level, cond, ring: as in `step`.
            where: the block's first slot in the ring, int32 [1], and the filled tokens, the block included.
            rotation: cos and sin of the block's tokens.
        """
        x, y = hidden
        gate = self._gate(layers.start, level)
        for i in layers:
            weights, mod, own = self.layers.use(i), level.layers[i], i - self.kept.start
            spec = self._modulated(mod[0], mod[1], weights.qkv.quantised)
            x, rows = ops.add_norm(x, _branches(y, gate), spec, self.dtype)
            attended = ring.attend(i - layers.start, where, (weights.qkv(rows), self._qk[own], rotation))
            x, y = self._finish(x, attended, weights, i, mod, cond.text_kv[own])
            if i in self.injector_of:
                x, y = self._inject(x, y, mod[5], weights, self.injector_of[i], cond)
            gate = self._gate(i + 1, level)
            self.layers.done()
        return x, y

    def _gate(self, layer: int, level: FastLevel) -> Tensor | None:
        """Return the gate of the branch beside a layer's input; None for no gate."""
        return None if layer == 0 or layer - 1 in self._injected else level.layers[layer - 1][5]

    def hidden_dtypes(self, layer: int) -> tuple[torch.dtype, torch.dtype]:
        """Return the dtypes of a later layer's input: the sum, and the branch beside it."""
        return self.dtype if layer - 1 in self._injected else torch.float32, self.dtype

    def leave(self, hidden: Hidden, level: FastLevel, size: tuple[int, int]) -> Tensor:
        """Compute the flow at latents of `size` (height, width) from the last layer's output."""
        x, y = hidden
        gate = self._gate(self.num_layers, level)
        spec = self._modulated(level.head[0], level.head[1], False)
        _, rows = ops.add_norm(x, _branches(y, gate), spec, self.dtype, keep=False)
        out = self.plain.head.head(rows)
        return self.plain._unpatchify(out[None], *size)

    def _inject(
        self, x: Tensor, y: Tensor, gate: Tensor, weights: LayerWeights, index: int, cond: Conditions
    ) -> tuple[Tensor, Tensor]:
        """Finish the block and give (residual in the model's dtype, what the audio adds to it)."""
        k, v, mul, add = cond.audio_kv[index]
        assert weights.audio_q is not None
        assert weights.audio_o is not None
        spec = self._modulated(add, mul, weights.audio_q.quantised, ADAIN_EPS)
        x, rows = ops.add_norm(x, [(y, gate)], spec, self.dtype)
        q = ops.rms_rows(weights.audio_q(rows), self._audio_norm[index], self.cfg.eps)
        attended = self.attention(self._heads(q, k.shape[0]), k, v)
        return x, weights.audio_o(_rows(attended, weights.audio_o))


def _branches(y: Tensor | None, gate: Tensor | None) -> list[Branch]:
    return [] if y is None else [(y, gate)]


def _rows(x: Tensor, linear: Linear) -> Rows:
    return ops.quantise_rows(x) if linear.quantised else x
