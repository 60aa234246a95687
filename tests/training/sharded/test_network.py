"""A sharded network computes what the plain transformer computes with the adapters merged, gradients included."""

import pytest
import torch
from torch import Tensor

from liveavatar.checkpoints.lora import LowRank, merge_lora, parse_lora
from liveavatar.errors import CheckpointError
from liveavatar.model.dit import CausalDiT
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.flow import level
from liveavatar.training.optim import local
from liveavatar.training.sharded import network
from liveavatar.training.sharded.adapters import FAKE, STUDENT, adapters_of, base_of
from liveavatar.training.sharded.checkpoint import RunState
from liveavatar.training.sharded.network import Role
from tests.training.sharded.conftest import Build, disturb


@pytest.fixture(scope="module")
def state(build: Build) -> RunState:
    made = build()
    disturb(made)
    return made


def teacher_of(state: RunState) -> Role:
    role = state.trainer.nets.teacher
    assert isinstance(role, Role)
    return role


def merged(state: RunState, role: Role) -> CausalDiT:
    """The plain transformer with a role's adapters in its weights."""
    net = role.net
    weights = {name: local(p).clone() for name, p in base_of(net.dit).items()}
    if role.adapters is not None:
        pairs = {name: local(p) for name, p in role.adapters.named_parameters()}
        merge_lora(weights, pairs, net.shape.rank, net.shape.alpha)
    dit = CausalDiT(net.cfg.dit)
    dit.load_state_dict(weights)
    return dit


def plain_flow(dit: CausalDiT, x: Tensor, window: Window, causal: bool = True) -> Tensor:
    still = window.reference.expand(-1, -1, dit.cfg.motion_latents, -1, -1)
    given = ((window.reference, still), window.tokens, window.features)
    return dit.forward_window(x, level(x, 0.6), *given, causal=causal)


def test_roles_are_the_base_with_their_adapters(state: RunState) -> None:
    window = state.trainer.data.sampler.sample(2)
    x = torch.randn_like(window.latents)
    flows = []
    for role in (state.student, state.fake, teacher_of(state)):
        flows.append(role.flow(x, level(x, 0.6), window))
        with torch.no_grad():
            expected = plain_flow(merged(state, role), x, window, causal=role is state.student)
        torch.testing.assert_close(flows[-1], expected, atol=2e-5, rtol=1e-4)
    assert float((flows[0] - flows[1]).abs().max()) > 0.01 < float((flows[0] - flows[2]).abs().max())


def test_gradients_are_those_of_the_merged_weights_whatever_runs_between(state: RunState) -> None:
    window = state.trainer.data.sampler.sample(1)
    x = torch.randn_like(window.latents)
    flow = state.student.traced_flow(x, level(x, 0.6), window)
    state.fake.flow(x, level(x, 0.3), window)  # as in distribution matching: others run before the gradients
    teacher_of(state).flow(x, level(x, 0.3), window)
    (flow * window.latents).sum().backward()

    dit = merged(state, state.student).requires_grad_(True)
    (plain_flow(dit, x, window) * window.latents).sum().backward()
    assert state.student.adapters is not None
    scale = state.student.net.shape.scale
    for name, parameter in state.student.adapters.named_parameters():
        module, side = name.split(".lora_")
        of_weight = dit.get_parameter(f"{module}.weight").grad
        other = f"{module}.lora_{'B' if side[0] == 'A' else 'A'}.default.weight"
        pair = local(state.student.adapters.by_name[other])
        assert of_weight is not None
        assert parameter.grad is not None
        expected = scale * (pair.T @ of_weight if side[0] == "A" else of_weight @ pair.T)
        torch.testing.assert_close(local(parameter.grad), expected, atol=1e-3, rtol=1e-3)
    assert all(p.grad is None for p in adapters_of(state.student.net.dit, FAKE).values())
    assert all(p.grad is None for p in base_of(state.student.net.dit).values())
    for parameter in state.student.adapters.parameters():
        parameter.grad = None


def test_an_update_moves_one_set_and_its_average(build: Build) -> None:
    made = build()
    window = made.trainer.data.sampler.sample(1)
    x = torch.randn_like(window.latents)
    before = {name: value.clone() for name, value in made.tensors().items()}
    made.student.gradients(x, level(x, 0.6), window.latents, window)
    assert float(made.student.update(1.0)) > 0
    moved = {n.split(".")[0] + n.split(".")[1] for n, v in made.tensors().items() if not torch.equal(v, before[n])}
    assert moved == {"studentweights", "studentexp_avg", "studentexp_avg_sq", "studentaverage"}


def test_new_adapters_leave_all_roles_alike(build: Build) -> None:
    made = build()
    window = made.trainer.data.sampler.sample(1)
    x = torch.randn_like(window.latents)
    flows = [role.flow(x, level(x, 0.6), window) for role in (made.student, made.fake, teacher_of(made))]
    assert torch.equal(flows[1], flows[2])
    assert not torch.equal(flows[0], flows[2]), "the student attends as in a stream"
    other = build("--scores", "stream")
    flows = [role.flow(x, level(x, 0.6), window) for role in (other.student, other.fake, teacher_of(other))]
    assert torch.equal(flows[0], flows[2])
    assert torch.equal(flows[1], flows[2])


def test_a_base_with_a_weight_missing_is_refused(build: Build) -> None:
    net = build().student.net
    weights = {name: local(p).clone() for name, p in base_of(net.dit).items()}
    weights.pop("head.head.bias")
    with pytest.raises(CheckpointError, match=r"lacks head\.head\.bias"):
        network.fill_base(net, weights.items())


def test_a_student_starts_from_given_pairs(build: Build) -> None:
    net = build().student.net
    given = {name: torch.randn_like(local(p)) for name, p in adapters_of(net.dit, STUDENT).items()}
    pairs = parse_lora(given, net.shape.alpha)
    network.fill_adapters(net, 0, {STUDENT: pairs})
    assert all(torch.equal(local(p), given[name]) for name, p in adapters_of(net.dit, STUDENT).items())
    one = next(iter(pairs))
    rest = {name: pair for name, pair in pairs.items() if name != one}
    with pytest.raises(CheckpointError, match="lacks"):
        network.fill_adapters(net, 0, {STUDENT: rest})
    larger = {name: LowRank(torch.ones(9, p.a.shape[1]), torch.ones(len(p.b), 9), 1.0) for name, p in pairs.items()}
    with pytest.raises(CheckpointError, match="rank 9, above 4"):
        network.fill_adapters(net, 0, {STUDENT: larger})


def test_rows_of_all_ranks_cover_a_parameter_once(lone_rank: runtime.TrainRank, build: Build) -> None:
    parameter = next(iter(build().student.net.layers.parameters()))
    assert network.own_rows(parameter) == slice(0, parameter.shape[0])
