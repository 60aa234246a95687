"""Loading and saving of model directories, ours and the released layout: damage of every kind, digests, keys."""

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import (
    build_part,
    check_model,
    dit_keys,
    load_model,
    model_digest,
    save_model,
)
from liveavatar.checkpoints.weight_files import module_shapes, write_part
from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.errors import CheckpointError
from liveavatar.paths import MINI_DIR
from tests.checkpoints.weights import PLAIN, TARGETS, lora_pairs, random_weights

# sha256 of the sorted lines "key [shape]" of the published 14B checkpoint.
PUBLISHED_KEYS = "592dbea2c006b48724840e51516a713f102be9f6e0ee5c7923366712e3ba196d"
PARTS = ("dit", "vae", "text")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    save_model(tmp_path / "m", TINY, {part: random_weights(TINY, part) for part in PARTS}, dtype=torch.float32)
    return tmp_path / "m"


def test_round_trip(model_dir: Path) -> None:
    model = load_model(model_dir, "cpu", torch.float32)
    assert model.config == TINY
    for part in PARTS:
        loaded = getattr(model, part).state_dict()
        wanted = random_weights(TINY, part)
        assert loaded.keys() == wanted.keys()
        assert all(torch.equal(loaded[k], v) for k, v in wanted.items())
        assert not any(p.requires_grad for p in getattr(model, part).parameters())
        assert not any(t.is_meta for t in (*getattr(model, part).parameters(), *getattr(model, part).buffers()))


def test_parts_and_dtype(model_dir: Path) -> None:
    model = load_model(model_dir, "cpu", torch.bfloat16, parts=("vae",))
    assert (model.dit, model.text) == (None, None)
    assert {p.dtype for p in model.vae.parameters()} == {torch.bfloat16}


def test_a_part_of_the_layers_is_read_alone(model_dir: Path) -> None:
    whole = load_model(model_dir, "cpu", torch.float32, ("dit",)).dit
    part = load_model(model_dir, "cpu", torch.float32, ("dit",), range(1, 2)).dit
    assert part.kept == range(1, 2)
    assert not any(p.is_meta for p in part.parameters())
    missing = whole.state_dict().keys() - part.state_dict().keys()
    assert "blocks.0.self_attn.q.weight" in missing
    assert all(name.startswith(("blocks.0.", "audio_injector.")) for name in missing)
    assert all(torch.equal(t, whole.state_dict()[name]) for name, t in part.state_dict().items())


def test_stored_in_half_precision_by_default(tmp_path: Path) -> None:
    save_model(tmp_path, TINY, {"text": random_weights(TINY, "text")})
    assert {t.dtype for t in load_file(tmp_path / "text.safetensors").values()} == {torch.float16}


def test_shards_are_loaded(model_dir: Path) -> None:
    weights = random_weights(TINY, "dit")
    files = write_part(model_dir, "dit", weights, shard_bytes=200_000)
    assert len(files) > 2
    assert not (model_dir / "dit.safetensors").exists()
    loaded = load_model(model_dir, "cpu", torch.float32, parts=("dit",)).dit.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in weights.items())
    files[1].unlink()
    with pytest.raises(CheckpointError, match=files[1].name):
        load_model(model_dir, "cpu", torch.float32)


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def drop_key(tensors: dict[str, Tensor]) -> None:
    del tensors["head.head.bias"]


def add_key(tensors: dict[str, Tensor]) -> None:
    tensors["head.extra"] = torch.zeros(1)


def reshape_key(tensors: dict[str, Tensor]) -> None:
    tensors["head.head.bias"] = torch.zeros(3)


def whole_numbers(tensors: dict[str, Tensor]) -> None:
    tensors["head.head.bias"] = tensors["head.head.bias"].to(torch.int8)


def eight_bits(tensors: dict[str, Tensor]) -> None:
    tensors["head.head.weight"] = tensors["head.head.weight"].to(torch.float8_e4m3fn)


DAMAGE = [
    pytest.param(lambda d: edit(d / "dit.safetensors", whole_numbers), "head.head.bias is I8", id="whole numbers"),
    pytest.param(lambda d: edit(d / "dit.safetensors", eight_bits), "was quantised", id="quantised already"),
    pytest.param(lambda d: edit(d / "dit.safetensors", drop_key), "1 missing: head.head.bias", id="missing key"),
    pytest.param(lambda d: edit(d / "dit.safetensors", add_key), "1 unexpected: head.extra", id="unexpected key"),
    pytest.param(lambda d: edit(d / "dit.safetensors", reshape_key), r"head.head.bias \[3\] instead of", id="shape"),
    pytest.param(
        lambda d: (d / "vae.safetensors").write_bytes((d / "vae.safetensors").read_bytes()[:-1000]),
        "cut short",
        id="cut short",
    ),
    pytest.param(lambda d: (d / "dit.safetensors").write_bytes(b""), "cut short", id="0 bytes"),
    pytest.param(lambda d: (d / "dit.safetensors").write_text("weights"), "damaged", id="text"),
    pytest.param(lambda d: (d / "text.safetensors").unlink(), "no text.safetensors", id="missing part"),
    pytest.param(lambda d: (d / "config.json").unlink(), "no config.json", id="no config"),
    pytest.param(lambda d: (d / "config.json").write_text("{"), "no Live Avatar model config", id="broken config"),
    pytest.param(lambda d: (d / "config.json").write_text(MINI.to_json()), "of another shape", id="config of another"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_named(damage: Callable[[Path], object], message: str, model_dir: Path) -> None:
    damage(model_dir)
    with pytest.raises(CheckpointError, match=message):
        load_model(model_dir, "cpu", torch.float32)
    with pytest.raises(CheckpointError):
        check_model(model_dir)


def test_check_counts_weights(model_dir: Path) -> None:
    counted = sum(t.numel() for part in PARTS for t in random_weights(TINY, part).values())
    assert check_model(model_dir) == counted


def test_corrections_of_the_speech_encoder_belong_to_the_model(model_dir: Path) -> None:
    whole = check_model(model_dir)
    config = replace(TINY, speech=replace(TINY.speech, tuning="speech.safetensors"))
    (model_dir / "config.json").write_text(config.to_json())
    with pytest.raises(CheckpointError, match=r"has no speech\.safetensors"):
        check_model(model_dir)
    (model_dir / "speech.safetensors").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"speech\.safetensors is no readable safetensors file"):
        check_model(model_dir)
    before = model_digest(model_dir)
    save_file({"blocks.0.mlp.0.up": torch.zeros(3, 2)}, model_dir / "speech.safetensors")
    assert check_model(model_dir) == whole
    assert model_digest(model_dir) != before


def test_saving_weights_of_another_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the dit to save"):
        save_model(tmp_path / "m", MINI, {"dit": random_weights(TINY, "dit")})


def test_digest_follows_content(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    first = model_digest(model_dir)
    assert model_digest(model_dir) == first
    (model_dir / "model_card.md").write_text("words change nothing")
    assert model_digest(model_dir) == first
    edit(model_dir / "text.safetensors", lambda t: t["norm.bias"].add_(1))
    assert model_digest(model_dir) != first


# The released layout ----------------------------------------------------------------------------------------

SCALED = replace(
    LIVE_AVATAR_14B,
    dit=replace(
        LIVE_AVATAR_14B.dit,
        dim=32,
        num_heads=2,
        num_layers=3,
        ffn_dim=40,
        freq_dim=16,
        text_dim=12,
        text_len=8,
        audio_dim=6,
        audio_layers=5,
        audio_inject_layers=(0, 2),
    ),
    vae=replace(LIVE_AVATAR_14B.vae, encoder_widths=(4, 8, 16, 16), decoder_widths=(16, 16, 8, 4)),
    text=replace(LIVE_AVATAR_14B.text, dim=12, length=8),
    speech=replace(LIVE_AVATAR_14B.speech, dim=6, num_states=5),
)


def lora_targets(config: ModelConfig) -> dict[str, torch.Size]:
    shapes = module_shapes(build_part(config, "dit"))
    names = [f"blocks.{i}.{a}.{p}" for i in range(3) for a in ("self_attn", "cross_attn") for p in "qkvo"]
    names += [f"blocks.{i}.ffn.{j}" for i in range(3) for j in (0, 2)]
    names += [f"audio_injector.injector.{i}.{p}" for i in range(2) for p in "qkvo"]
    return {name: shapes[f"{name}.weight"] for name in names}


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A directory with the names of the published one and a few thousand weights."""
    base = tmp_path / "ckpt" / "Wan2.2-S2V-14B"
    base.mkdir(parents=True)
    dit = random_weights(SCALED, "dit")
    write_part(base, "diffusion_pytorch_model", dit, shard_bytes=150_000)
    names = ("dim", "num_heads", "num_layers", "ffn_dim", "freq_dim", "text_dim", "text_len", "audio_dim")
    config = {n: getattr(SCALED.dit, n) for n in names}
    config |= {"_class_name": "WanModel_S2V", "model_type": "s2v", "audio_inject_layers": [0, 2], "_diffusers": "1"}
    (base / "config.json").write_text(json.dumps(config))
    torch.save(random_weights(SCALED, "vae"), base / "Wan2.1_VAE.pth")
    lora = tmp_path / "ckpt" / "LiveAvatar"
    lora.mkdir()
    save_file(lora_pairs(lora_targets(SCALED), 4, "{}.lora_{}.default.weight"), lora / "liveavatar.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    return tmp_path / "ckpt"


def test_released_directory(released: Path) -> None:
    assert read_config(released) == SCALED
    model = load_model(released, "cpu", torch.float32)
    weights, loaded = random_weights(SCALED, "dit"), model.dit.state_dict()
    targets = lora_targets(SCALED)
    lora = load_file(released / "LiveAvatar" / "liveavatar.safetensors")
    changed = {f"{name}.weight" for name in targets}
    for key, value in weights.items():
        if key in changed:
            name = key.removesuffix(".weight")
            pair = (lora[f"{name}.lora_{side}.default.weight"] for side in "BA")
            value = value + 0.5 * torch.matmul(*pair)
        torch.testing.assert_close(loaded[key], value)
    assert model.text is None
    video = model.vae.decode(torch.zeros(1, 16, 2, 2, 2))
    assert video.shape == (1, 3, 5, 16, 16)


def test_lora_inside_the_base_directory(released: Path) -> None:
    base = released / "Wan2.2-S2V-14B"
    (released / "LiveAvatar" / "liveavatar.safetensors").rename(base / "liveavatar.safetensors")
    # Without adapter_config.json the published strength counts: alpha 64 over the pair's own rank.
    loaded = load_model(base, "cpu", torch.float32, parts=("dit",)).dit.state_dict()
    lora = load_file(base / "liveavatar.safetensors")
    name = "blocks.1.ffn.2"
    update = lora[f"{name}.lora_B.default.weight"] @ lora[f"{name}.lora_A.default.weight"]
    wanted = random_weights(SCALED, "dit")[f"{name}.weight"] + 64 / 4 * update
    torch.testing.assert_close(loaded[f"{name}.weight"], wanted)


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code was run')",)


RELEASED_DAMAGE = [
    pytest.param(
        lambda d: next(d.glob("Wan*/diffusion*-00002-*")).unlink(), "diffusion_pytorch_model-00002", id="missing shard"
    ),
    pytest.param(lambda d: next(d.glob("*/Wan2.1_VAE.pth")).unlink(), "Wan2.1_VAE.pth", id="missing autoencoder"),
    pytest.param(
        lambda d: next(d.glob("*/Wan2.1_VAE.pth")).write_bytes(b"PK\x03\x04" + b"\0" * 100), "safely", id="cut .pth"
    ),
    pytest.param(
        lambda d: next(d.glob("*/Wan2.1_VAE.pth")).write_bytes(pickle.dumps(Bomb())), "safely", id="code in a pickle"
    ),
    pytest.param(
        lambda d: torch.save({"a": "text"}, next(d.glob("*/Wan2.1_VAE.pth"))), "no plain table", id="no tensors"
    ),
    pytest.param(
        lambda d: torch.save({"a": torch.ones(2, dtype=torch.int8)}, next(d.glob("*/Wan2.1_VAE.pth"))),
        "a is torch.int8",
        id="whole numbers",
    ),
    pytest.param(
        lambda d: torch.save({"a": torch.zeros(1)}, next(d.glob("*/Wan2.1_VAE.pth"))), "missing", id="other tensors"
    ),
    pytest.param(lambda d: next(d.glob("*/liveavatar.safetensors")).unlink(), "few steps", id="missing LoRA"),
    pytest.param(
        lambda d: next(d.glob("*/adapter_config.json")).write_text("{}"), "lora_alpha", id="LoRA without strength"
    ),
    pytest.param(
        lambda d: save_file(lora_pairs(TARGETS, 4, PLAIN), next(d.glob("*/liveavatar.safetensors"))),
        "for another model",
        id="LoRA of another model",
    ),
]


@pytest.mark.parametrize(("damage", "message"), RELEASED_DAMAGE)
def test_released_damage_is_named(damage: Callable[[Path], object], message: str, released: Path) -> None:
    damage(released)
    with pytest.raises(CheckpointError, match=message):
        load_model(released, "cpu", torch.float32)


def test_unsupported_options_are_refused(released: Path) -> None:
    path = released / "Wan2.2-S2V-14B" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"enable_motioner": True}))
    with pytest.raises(CheckpointError, match="enable_motioner"):
        load_model(released, "cpu", torch.float32)


# Keys -------------------------------------------------------------------------------------------------------


def test_14b_has_the_published_number_of_weights() -> None:
    keys = dit_keys(LIVE_AVATAR_14B)
    assert len(keys) == 1260
    assert sum(torch.Size(shape).numel() for _, shape in keys) == 16_295_755_609


def test_14b_keys_and_shapes_are_the_published_ones() -> None:
    listed = "\n".join(sorted(f"{key} {list(shape)}" for key, shape in dit_keys(LIVE_AVATAR_14B)))
    assert hashlib.sha256(listed.encode()).hexdigest() == PUBLISHED_KEYS


def test_every_published_lora_key_has_a_target() -> None:
    weights = {k for k, _ in dit_keys(LIVE_AVATAR_14B)}
    attention = [f"{kind}_attn.{name}" for kind in ("self", "cross") for name in "qkvo"]
    modules = [f"blocks.{i}.{name}" for i in range(40) for name in (*attention, "ffn.0", "ffn.2")]
    modules += [f"audio_injector.injector.{i}.{name}" for i in range(12) for name in "qkvo"]
    assert 2 * len(modules) == 896
    assert {f"{m}.weight" for m in modules} <= weights


@pytest.mark.parametrize("shipped", [False, True], ids=["random weights", "the embedded model"])
def test_loading_needs_no_compiler(shipped: bool, model_dir: Path) -> None:
    """PyTorch's compiler takes seconds to import, in every process that loads a model."""
    load = f"load_model(Path({str(MINI_DIR if shipped else model_dir)!r}), 'cpu', torch.float32)"
    code = f"import sys, torch; from pathlib import Path; from liveavatar.checkpoints.load import load_model; {load}"
    end = "; sys.exit(any(name in sys.modules for name in ('torch._dynamo', 'sympy', 'triton')))"
    assert subprocess.run([sys.executable, "-c", code + end], check=False).returncode == 0
