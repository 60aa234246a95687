"""Transformer of the 14B with every weight sharded over the ranks (FSDP2), built and filled without a whole copy.

The network is made on the meta device and sharded; then each rank allocates its rows of every weight and fills them:
from a checkpoint, memory-mapped, of which it reads only these rows, or at random. While a layer computes, its weights
are gathered in bf16 and freed again, forwards and backwards; of a layer's activations only its inputs are kept, the
rest is computed again (activation checkpointing).

Shapes: B batch, b blocks, C latent channels, T = 3 b latents, h/w latent cells, L tokens, D width.
"""

import zlib
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from liveavatar.checkpoints.lora import LowRank
from liveavatar.config import ModelConfig
from liveavatar.errors import CheckpointError
from liveavatar.model.dit import CausalDiT, WindowConditions
from liveavatar.model.meta import without_memory
from liveavatar.training.batch import Window
from liveavatar.training.flow import weighted_error
from liveavatar.training.optim import Average, Optimisers, local
from liveavatar.training.sharded.adapters import (
    SETS,
    AdapterShape,
    Switch,
    adapters_of,
    attach,
    base_of,
    given_pair,
    initial_pair,
)

RANDOM_GAIN = 0.5  # of random matrices over 1 / sqrt(inputs)


class WindowLayer(nn.Module):
    """One layer of the transformer with its audio injector: what is gathered, computed again and freed together."""

    def __init__(self, dit: CausalDiT, index: int, switch: Switch) -> None:
        super().__init__()
        self.block = dit.blocks[index]
        injector = dit.injector_of.get(index)
        if injector is not None:
            self.injector = dit.audio_injector.injector[injector]
            self.adain = dit.audio_injector.injector_adain_layers[injector]
        self.switch = switch
        self.compute = partial(CausalDiT.window_layer, dit, index)

    def forward(self, x_BLD: Tensor, sink_BLD: Tensor, cond: WindowConditions) -> tuple[Tensor, Tensor]:
        """Run the layer on noisy and sink tokens with the set of adapters in use."""
        inputs = (self.switch.chosen, x_BLD, sink_BLD, cond)
        if not torch.is_grad_enabled():
            return self._run(*inputs)
        return checkpoint(self._run, *inputs, use_reentrant=False, preserve_rng_state=False)

    def _run(
        self, chosen: str | None, x_BLD: Tensor, sink_BLD: Tensor, cond: WindowConditions
    ) -> tuple[Tensor, Tensor]:
        with self.switch.choose(chosen):  # when it is computed again, another set may be in use
            return self.compute(x_BLD, sink_BLD, cond)


class ShardedNet(nn.Module):
    """Frozen transformer with the adapters of student and fake score; its parameters have no memory yet."""

    def __init__(self, cfg: ModelConfig, shape: AdapterShape, mesh: DeviceMesh, dtype: torch.dtype) -> None:
        """Build and shard the network.

        Args:
            cfg: of the model.
            shape: of the adapters.
            mesh: all ranks.
            dtype: of the base, and of the adapters while they compute.
        """
        super().__init__()
        self.cfg, self.shape, self.switch = cfg, shape, Switch()
        with without_memory():
            self.dit = CausalDiT(cfg.dit).to(dtype)
        attach(self.dit, shape, self.switch)
        self.layers = nn.ModuleList(WindowLayer(self.dit, i, self.switch) for i in range(cfg.dit.num_layers))
        self.dit.window_layer = self._layer  # type: ignore[method-assign]
        # Noise levels and modulation are fp32: inputs are not cast.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in self.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self, mesh=mesh, mp_policy=policy, ignored_params=set(self.layers.parameters()))

    def _layer(self, layer: int, x_BLD: Tensor, sink_BLD: Tensor, cond: WindowConditions) -> tuple[Tensor, Tensor]:
        tokens: tuple[Tensor, Tensor] = self.layers[layer](x_BLD, sink_BLD, cond)
        return tokens

    def forward(self, x: Tensor, sigma_Bb: Tensor, window: Window, causal: bool) -> Tensor:
        """Predict the flow [B, C, T, h, w] with the set of adapters in use; the motion latents repeat the reference.

        `window.tokens` are rows of the text encoder; `causal` is that of `CausalDiT.forward_window`.
        """
        still = window.reference.expand(-1, -1, self.cfg.dit.motion_latents, -1, -1)
        sinks = (window.reference, still)
        conditions = (window.tokens, window.features)
        flow = self.dit.forward_window(x, sigma_Bb, sinks, *conditions, pose=window.pose, causal=causal)
        return flow.float().clone()  # no view, for FSDP's hooks


class AdapterSet:
    """Sharded parameters of one set of adapters, by their names in a file."""

    def __init__(self, net: ShardedNet, chosen: str) -> None:
        self.chosen = chosen
        self.by_name = adapters_of(net.dit, chosen)

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return names and parameters."""
        return self.by_name.items()

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters, in the order of `named_parameters`."""
        return self.by_name.values()


class Role:
    """One network of distillation: the sharded base with a set of adapters, or alone."""

    def __init__(
        self,
        net: ShardedNet,
        adapters: AdapterSet | None,
        *,
        causal: bool,
        rate: float = 0.0,
        ema_decay: float | None = None,
    ) -> None:
        """Prepare a role.

        Args:
            net: shared by all roles.
            adapters: None: the base alone, which never changes.
            causal: True: blocks attend as in a stream; False: to the whole window.
            rate: of AdamW.
            ema_decay: of the average of the adapters; None: there is no average.
        """
        self.net, self.adapters, self.causal = net, adapters, causal
        self.optim: Optimisers | None = None
        self.average: Average | None = None
        self.updates = 0
        if adapters is not None:
            self.optim = Optimisers(adapters.named_parameters(), muon=0.0, adamw=rate, outer=lambda _: True)
            self.average = None if ema_decay is None else Average(adapters, ema_decay)

    def traced_flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow so that a loss of it can be differentiated."""
        with self.net.switch.choose(None if self.adapters is None else self.adapters.chosen):
            flow: Tensor = self.net(x, sigma_Bb, window, self.causal)
        return flow

    @torch.no_grad()
    def flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow without gradients."""
        return self.traced_flow(x, sigma_Bb, window)

    def gradients(self, x: Tensor, sigma_Bb: Tensor, target: Tensor, window: Window) -> Tensor:
        """Compute the gradients of the region-weighted flow error; return the loss."""
        loss = weighted_error(self.traced_flow(x, sigma_Bb, window), target, window.weights)
        loss.backward()
        return loss.detach()

    def update(self, factor: float) -> Tensor:
        """Change the adapters once by their gradients, which are means over the ranks already; return the norm."""
        assert self.optim is not None, "the base is frozen"
        norm = self.optim.step(factor)
        if self.average is not None and self.adapters is not None:
            self.average.update(self.adapters, self.updates)
        self.updates += 1
        return norm


# Weights -------------------------------------------------------------------------------------------


def own_rows(parameter: nn.Parameter) -> slice:
    """Return the rows of a sharded parameter that this rank holds."""
    assert isinstance(parameter, DTensor)
    mesh = parameter.device_mesh
    rows = -(-parameter.shape[0] // mesh.size())
    start = min(rows * mesh.get_local_rank(), parameter.shape[0])
    return slice(start, min(start + rows, parameter.shape[0]))


@torch.no_grad()
def _fill(parameter: nn.Parameter, whole: Tensor) -> None:
    """Copy this rank's rows of `whole` into a parameter, and touch no others: `whole` may be a file."""
    local(parameter).copy_(whole[own_rows(parameter)])


def allocate(net: ShardedNet, device: torch.device) -> None:
    """Allocate this rank's shards."""
    net.to_empty(device=device)


def fill_base(net: ShardedNet, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Fill the frozen base with named weights, one after another.

    Raises:
        CheckpointError: a weight of the network is not among them.
    """
    base = base_of(net.dit)
    missing = set(base)
    for name, tensor in tensors:
        _fill(base[name], tensor)
        missing.discard(name)
    if missing:
        raise CheckpointError(f"the model lacks {', '.join(sorted(missing)[:4])}; fetch it again")


def fill_random(net: ShardedNet, seed: int) -> None:
    """Fill the frozen base with random weights, the same ones on any number of ranks."""
    for name, parameter in base_of(net.dit).items():
        _fill(parameter, _random_weight(name, parameter.shape, _named_generator(net, name, seed)))


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    device = generator.device
    if ("norm" in name and name.endswith("weight")) or name.endswith("encoder.weights"):  # the latter mixes states
        return torch.ones(shape, device=device)
    if name.endswith("bias"):
        return torch.zeros(shape, device=device)
    fan_in = max(1, shape.numel() // shape[0])
    return RANDOM_GAIN * fan_in**-0.5 * torch.randn(shape, device=device, generator=generator)


def fill_adapters(net: ShardedNet, seed: int, given: dict[str, dict[str, LowRank]]) -> None:
    """Fill all sets: with the pairs given for a set, else with new ones, which change nothing yet.

    Args:
        net: the network.
        seed: of new pairs.
        given: pairs by weight name, by set.

    Raises:
        CheckpointError: given pairs are for other Linears, or of a higher rank.
    """
    for chosen in SETS:
        pairs = given.get(chosen)
        for name, parameter in adapters_of(net.dit, chosen).items():
            module, side = name.split(".lora_")
            side = side[0]
            if pairs is None:
                _fill(parameter, initial_pair(parameter.shape, side, _named_generator(net, f"{chosen} {name}", seed)))
                continue
            update = pairs.get(f"{module}.weight")
            if update is None or len(update.a) > net.shape.rank:
                reason = "lacks" if update is None else f"has rank {len(update.a)}, above {net.shape.rank}, for"
                raise CheckpointError(f"the LoRA to start from {reason} {module}; give one trained for this model")
            _fill(parameter, given_pair(update, side, net.shape))


def _named_generator(net: ShardedNet, name: str, seed: int) -> torch.Generator:
    device = local(next(iter(net.layers.parameters()))).device
    return torch.Generator(device).manual_seed(zlib.crc32(name.encode()) + seed)


def whole_tensors(parameters: dict[str, Tensor], visit: Callable[[str, Tensor], None]) -> None:
    """Gather sharded tensors one after another and hand each to `visit`; every rank must call it."""
    for name, tensor in parameters.items():
        visit(name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
