"""LoRA: the key forms in use, the merge, and refusal of pairs for another model."""

import pytest
import torch
from torch import Tensor

from liveavatar.checkpoints.lora import merge_lora, parse_lora
from liveavatar.errors import CheckpointError
from tests.checkpoints.weights import PLAIN, TARGETS, lora_pairs

FORMS = [
    pytest.param("{}.lora_{}.default.weight", id="plain"),
    pytest.param("base_model.model.{}.lora_{}.default.weight", id="with prefix"),
    pytest.param("{}.lora_{}.weight", id="without .default"),
    pytest.param("base_model.model.{}.lora_{}.weight", id="prefix, without .default"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rank", "alpha"), [(4, 2.0), (2, 8.0)])
def test_merge_lora(form: str, rank: int, alpha: float) -> None:
    base = {f"{name}.weight": torch.ones(shape) for name, shape in TARGETS.items()} | {"other": torch.ones(2)}
    state, lora = dict(base), lora_pairs(TARGETS, rank, form)
    assert set(merge_lora(state, lora, rank, alpha)) == {f"{name}.weight" for name in TARGETS}
    for name in TARGETS:
        update = lora[form.format(name, "B")] @ lora[form.format(name, "A")]
        torch.testing.assert_close(state[f"{name}.weight"], 1 + alpha / rank * update)
    assert torch.equal(state["other"], base["other"])


BAD_LORA = [
    pytest.param(lora_pairs({"blocks.9.q": torch.Size((6, 6))}, 4, PLAIN), 4, "unknown", id="other module"),
    pytest.param(lora_pairs({"blocks.0.ffn.0": torch.Size((8, 5))}, 4, PLAIN), 4, "of another shape", id="other width"),
    pytest.param(lora_pairs(TARGETS, 4, PLAIN), 8, "wanted rank 8", id="other rank"),
    pytest.param({"blocks.0.ffn.0.lora_A.weight": torch.zeros(4, 6)}, 4, "one half", id="half a pair"),
    pytest.param({"blocks.0.ffn.0.weight": torch.zeros(8, 6)}, 4, "no low-rank pair", id="a full weight"),
]


@pytest.mark.parametrize(("lora", "rank", "message"), BAD_LORA)
def test_lora_for_another_model_changes_nothing(lora: dict[str, Tensor], rank: int, message: str) -> None:
    state = {f"{name}.weight": torch.ones(shape) for name, shape in TARGETS.items()}
    with pytest.raises(CheckpointError, match=message):
        merge_lora(state, lora, rank, 4.0)
    assert all(torch.equal(t, torch.ones_like(t)) for t in state.values())


def test_an_update_is_computed_in_fp32_and_keeps_the_dtype_of_the_weight() -> None:
    update = parse_lora(lora_pairs({"q": torch.Size((6, 5))}, 4, PLAIN), alpha=2.0)["q.weight"]
    assert update.scale == 0.5, "alpha over the rank of the pair"
    weight = torch.ones(6, 5, dtype=torch.bfloat16)
    merged = update.apply(weight)
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, (weight.float() + 0.5 * (update.b @ update.a)).to(torch.bfloat16))
