"""Model configs: presets, config.json, and the facts other rooms act on."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from liveavatar import paths
from liveavatar.checkpoints.directory import read_config
from liveavatar.config import (
    FACTS,
    HEAD_ANGLES,
    LIVE_AVATAR_14B,
    MINI,
    PRESETS,
    SKELETON_VIDEO,
    ModelConfig,
    refuse_pose,
)
from liveavatar.errors import CheckpointError, InputError

ROOMS_OF_THE_NETWORKS = ("liveavatar/model/", "liveavatar/checkpoints/")


@pytest.mark.parametrize("model", PRESETS.values(), ids=PRESETS.keys())
def test_config_survives_json(model: ModelConfig) -> None:
    assert ModelConfig.from_json(model.to_json()) == model


def test_the_embedded_model_states_every_fact() -> None:
    raw = json.loads((paths.MINI_DIR / "config.json").read_text())
    assert {name: raw[name] for name in FACTS} == {name: getattr(MINI, name) for name in FACTS}
    assert read_config(paths.MINI_DIR).to_json() == (paths.MINI_DIR / "config.json").read_text()


@pytest.mark.parametrize("name", FACTS)
def test_a_config_without_a_fact_is_refused(name: str) -> None:
    raw = json.loads(MINI.to_json())
    del raw[name]
    with pytest.raises(CheckpointError, match=f"made before {name} were settings; export the model again"):
        ModelConfig.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("framing", "wide", id="framing"),
        pytest.param("size_rule", None, id="size rule"),
        pytest.param("pose_input", "depth", id="pose input"),
        pytest.param("needs_gpu", "no", id="no boolean"),
        pytest.param("pose_origin", "moon", id="pose origin"),
        pytest.param("pose_limits", [17, 8], id="limits of two angles"),
        pytest.param("pose_limits", [17, 8, 0], id="a limit of nothing"),
    ],
)
def test_an_unknown_value_is_refused(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{value!r}")):
        ModelConfig.from_json(json.dumps(json.loads(MINI.to_json()) | {name: value}))


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(CheckpointError, match="unknown settings hands"):
        ModelConfig.from_json(json.dumps(json.loads(MINI.to_json()) | {"hands": True}))


@pytest.mark.parametrize(
    ("pose_input", "message"),
    [
        pytest.param(SKELETON_VIDEO, "DWPose skeleton video", id="another input"),
        pytest.param(HEAD_ANGLES, "trained without head pose", id="never trained"),
    ],
)
def test_pose_is_refused_with_the_reason(pose_input: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        refuse_pose(replace(MINI, pose_input=pose_input, pose_guided=False))
    refuse_pose(replace(MINI, pose_guided=True))


@pytest.mark.parametrize("kind", [r"\bvae\.kind\b", r"\btext\.kind\b"])
def test_the_kind_of_a_network_means_nothing_else(kind: str) -> None:
    """What other rooms need to know of a model is a fact of its config."""
    sources = (p for room in ("flows", "tasks", "liveavatar") for p in (paths.REPO_ROOT / room).rglob("*.py"))
    readers = [_named(path) for path in sources if re.search(kind, path.read_text())]
    assert not [name for name in readers if not name.startswith(ROOMS_OF_THE_NETWORKS)]


SIGMAS = {
    "mini": {
        1: (1.0,),
        2: (1.0, 0.833333),
        3: (1.0, 0.909091, 0.714286),
        4: (1.0, 0.9375, 0.833333, 0.625),
        5: (1.0, 0.952381, 0.882353, 0.769231, 0.555556),
        6: (1.0, 0.961538, 0.909091, 0.833333, 0.714286, 0.5),
        7: (1.0, 0.967742, 0.925926, 0.869565, 0.789474, 0.666667, 0.454545),
        8: (1.0, 0.972222, 0.9375, 0.892857, 0.833333, 0.75, 0.625, 0.416667),
    },
    "live-avatar-14b": {
        1: (1.0,),
        2: (1.0, 0.008929),
        3: (1.0, 0.751121, 0.008929),
        4: (1.0, 0.857692, 0.602151, 0.008929),
        5: (1.0, 0.900359, 0.751121, 0.502985, 0.008929),
        6: (1.0, 0.923343, 0.818923, 0.668327, 0.432225, 0.008929),
        7: (1.0, 0.93771, 0.857692, 0.751121, 0.602151, 0.379195, 0.008929),
        8: (1.0, 0.947543, 0.882788, 0.800837, 0.693793, 0.548046, 0.337972, 0.008929),
    },
}


@pytest.mark.parametrize("model", [MINI, LIVE_AVATAR_14B], ids=lambda model: model.name)
def test_the_noise_levels_of_every_step_count(model: ModelConfig) -> None:
    assert model.sigmas.keys() == SIGMAS[model.name].keys()
    for steps, levels in SIGMAS[model.name].items():
        assert model.sigmas[steps] == pytest.approx(levels, abs=1e-6)


def test_only_the_embedded_model_s_text_encoder_stays_in_memory() -> None:
    assert MINI.text.resident
    assert not LIVE_AVATAR_14B.text.resident


@pytest.mark.parametrize(
    ("model", "fp8", "offload", "fast"),
    [
        pytest.param(MINI, False, False, False, id="small"),
        pytest.param(MINI, True, False, True, id="8-bit layers"),
        pytest.param(MINI, False, True, True, id="layers in host memory"),
        pytest.param(LIVE_AVATAR_14B, False, False, True, id="large"),
    ],
)
def test_the_model_or_an_option_asks_for_the_fast_path(
    model: ModelConfig, fp8: bool, offload: bool, fast: bool
) -> None:
    assert model.runs_fast(fp8=fp8, offload=offload) == fast


def _named(path: Path) -> str:
    return path.relative_to(paths.REPO_ROOT).as_posix()
