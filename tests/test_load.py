"""Loading: the bits that were saved, the backend that model and device ask for, and a rank's share of the networks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.checkpoints.load import LoadedModel, save_model
from liveavatar.config import TINY, ModelConfig
from liveavatar.distributed.placement import RankSpec
from liveavatar.engine.plain import PlainBackend
from liveavatar.errors import CheckpointError, InputError
from liveavatar.fast.backend import FastBackend
from liveavatar.load import Rank, load_engine
from tests.engine.jobs import engine_of, latents, lively_model, make_job

GPU = torch.device("cuda:0")
LARGE = replace(TINY, fast_path=True)


def test_a_saved_model_streams_like_the_one_in_memory(tmp_path: Path) -> None:
    model = lively_model()
    parts = {name: getattr(model, name).state_dict() for name in ("dit", "vae", "text")}
    save_model(tmp_path, TINY, parts, dtype=torch.float32)
    loaded = load_engine(tmp_path, device="cpu", dtype="float32")
    job = make_job(num_frames=24)
    made, wanted = (latents(list(engine.open(job).blocks())) for engine in (loaded, engine_of(model)))
    assert torch.equal(made, wanted)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_engine(tmp_path)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param({"fp8": True}, "^--fp8: these need a GPU, and the device is cpu", id="8 bits"),
        pytest.param({"offload": True}, "^--offload_model True: these need a GPU", id="offload"),
        pytest.param({"fp8": True, "offload": True}, "--fp8 and --offload_model True: these", id="both"),
    ],
)
def test_special_settings_need_a_gpu(asked: dict[str, bool], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_engine(Path("nowhere"), device="cpu", **asked)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Which loader ran with which options, on a machine that seems to have a GPU; nothing is loaded."""
    made: list[tuple[str, dict[str, Any]]] = []

    def plain(model_dir: Path, device: torch.device, dtype: torch.dtype, parts: tuple[str, ...] = ()) -> LoadedModel:
        made.append(("plain", {"dtype": dtype, "parts": parts}))
        return LoadedModel(config=ModelConfig.from_json((model_dir / "config.json").read_text()))

    def fast(
        model_dir: Path, device: torch.device, dtype: torch.dtype, parts: tuple[str, ...], **options: Any
    ) -> LoadedModel:
        made.append(("fast", {"dtype": dtype, "parts": parts, **options}))
        return LoadedModel(config=ModelConfig.from_json((model_dir / "config.json").read_text()))

    monkeypatch.setattr("liveavatar.load.pick_device", lambda name: torch.device(name))
    monkeypatch.setattr("liveavatar.load.load_model", plain)
    monkeypatch.setattr("liveavatar.fast.load.load_fast_model", fast)
    return made


def folder_of(config: ModelConfig, folder: Path) -> Path:
    (folder / "config.json").write_text(config.to_json())
    return folder


@pytest.mark.parametrize(
    ("config", "device", "options", "loader"),
    [
        pytest.param(TINY, "cuda:0", {}, "plain", id="a small model on a GPU"),
        pytest.param(TINY, "cuda:0", {"fp8": True}, "fast", id="a small model in 8 bits"),
        pytest.param(TINY, "cuda:0", {"offload": True}, "fast", id="a small model, offloaded"),
        pytest.param(LARGE, "cuda:0", {}, "fast", id="the large model on a GPU"),
        pytest.param(LARGE, "cpu", {}, "plain", id="the large model on a CPU"),
    ],
)
def test_model_and_device_choose_the_backend(
    config: ModelConfig,
    device: str,
    options: dict[str, bool],
    loader: str,
    loads: list[tuple[str, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    engine = load_engine(folder_of(config, tmp_path), device=device, dtype="bfloat16", **options)
    ((used, given),) = loads
    assert used == loader
    assert given["dtype"] == torch.bfloat16
    assert isinstance(engine.backend, FastBackend if loader == "fast" else PlainBackend)
    assert engine.device == torch.device(device)
    assert engine.backend.fp8 == bool(options.get("fp8"))
    if loader == "fast":
        assert given["parts"] == ("dit", "vae", "text")
        assert (given["fp8"], given["offload"]) == (bool(options.get("fp8")), bool(options.get("offload")))


@pytest.mark.parametrize(
    ("rank", "own_decoder", "parts"),
    [
        pytest.param(0, False, {"dit"}, id="the first"),
        pytest.param(1, False, {"dit", "vae", "text"}, id="the last"),
        pytest.param(1, True, {"vae", "text"}, id="the last, which only decodes"),
    ],
)
def test_a_rank_loads_what_its_share_needs_and_once(
    rank: int, own_decoder: bool, parts: set[str], tiny_model: Path
) -> None:
    member = Rank(tiny_model, RankSpec(rank=rank, world=2, own_decoder=own_decoder), "cpu", "float32")
    engine = member.engine()
    assert {name for name in ("dit", "vae") if getattr(engine.backend, name) is not None} == parts - {"text"}
    assert engine.dtype == torch.float32
    assert member.engine() is engine
    assert [work.decodes for work in engine.works(4)] == [False, True]
    assert [work.steps for work in engine.works(4)] == ([(0, 1, 2, 3), ()] if own_decoder else [(0, 1), (2, 3)])


@pytest.mark.parametrize("fp8", [False, True])
def test_a_rank_of_the_large_model_shares_its_choices_and_spreads_layers(
    fp8: bool, loads: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    asked: list[tuple[ModelConfig, torch.device, bool]] = []

    def decode_layers_for(config: ModelConfig, device: torch.device, in_8_bits: bool) -> Any:
        asked.append((config, device, in_8_bits))
        return lambda width, height, kv_cache_dtype: 2.0

    spec = RankSpec(rank=0, world=2, own_decoder=False, fp8=fp8)
    member = Rank(folder_of(LARGE, tmp_path), spec, "cuda:0", "auto", decode_layers_for=decode_layers_for)
    engine = member.engine()
    ((used, given),) = loads
    assert used == "fast"
    assert given["parts"] == ("dit",)
    assert given["fp8"] == engine.backend.fp8 == fp8
    assert given["attention"].agree == member.group.agree, "all ranks attend with the same kernel"
    assert asked == [(LARGE, GPU, fp8)]


def test_a_rank_of_a_circle_loads_its_own_layers(loads: list[tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    spec = RankSpec(rank=1, world=2, own_decoder=False, layers=(3, 5))
    member = Rank(folder_of(LARGE, tmp_path), spec, "cuda:0", "auto")
    assert [work.circular for work in member.engine().works(4)] == [True, True]
    ((_, given),) = loads
    assert given["layers"] == range(3, 8)
