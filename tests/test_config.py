"""Model configs: presets, config.json, and the facts other rooms act on."""

import ast
import json
import re
from collections.abc import Iterator
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
    TINY,
    ModelConfig,
    refuse_pose,
    refuse_size,
)
from liveavatar.errors import CheckpointError, InputError

MODELS = ("model", "config", "cfg", "MINI", "LIVE_AVATAR_14B", "TINY")  # what code calls the config of a model
ROOMS_OF_THE_NETWORKS = ("liveavatar/model/", "liveavatar/checkpoints/")


@pytest.mark.parametrize("model", PRESETS.values(), ids=PRESETS.keys())
def test_config_survives_json(model: ModelConfig) -> None:
    assert ModelConfig.from_json(model.to_json()) == model


def test_a_config_says_of_corrections_where_there_are_some() -> None:
    tuned = replace(MINI, speech=replace(MINI.speech, tuning="speech.safetensors"))
    assert ModelConfig.from_json(tuned.to_json()) == tuned
    assert "tuning" not in MINI.to_json(), "older versions read the config, too"
    for value in (3, None, ["speech.safetensors"]):
        raw = json.loads(MINI.to_json())
        raw["speech"]["tuning"] = value
        with pytest.raises(CheckpointError, match="tuning is"):
            ModelConfig.from_json(json.dumps(raw))


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


def test_a_model_without_sizes_is_refused() -> None:
    with pytest.raises(CheckpointError, match="areas is empty"):
        ModelConfig.from_json(json.dumps(json.loads(MINI.to_json()) | {"areas": []}))


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(CheckpointError, match="unknown settings hands"):
        ModelConfig.from_json(json.dumps(json.loads(MINI.to_json()) | {"hands": True}))


def test_pose_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="trained without head pose"):
        refuse_pose(replace(MINI, pose_input=HEAD_ANGLES, pose_guided=False))
    refuse_pose(replace(MINI, pose_guided=True))
    refuse_pose(LIVE_AVATAR_14B)


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


def test_the_name_of_a_model_means_nothing_else() -> None:
    """A renamed model renders as before; only presets are looked up by name, in two rooms."""
    rooms = ("flows", "tasks", "liveavatar")
    sources = [p for room in rooms for p in (paths.REPO_ROOT / room).rglob("*.py") if not _knows_presets(p)]
    assert not [f"{_named(p)}:{line}" for p in sources for line in _decisions_by_name(ast.parse(p.read_text()))]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        pytest.param("config.name == MINI.name", True, id="equal"),
        pytest.param("self.config.name != other", True, id="not equal"),
        pytest.param("model.name in LARGE", True, id="one of several"),
        pytest.param("name == LIVE_AVATAR_14B.name", True, id="a preset's name"),
        pytest.param("asked == 'live-avatar-14b'", True, id="a word"),
        pytest.param("asked not in ('mini', 'tiny')", True, id="words"),
        pytest.param("SIZES = {'live-avatar-14b': '688*368'}", True, id="table"),
        pytest.param("args.preset == 'tiny'", False, id="a recipe of training"),
        pytest.param("path.name == 'config.json'", False, id="a file"),
        pytest.param("f'{model.name} needs a GPU'", False, id="message"),
        pytest.param("model.size_rule == ANY_SIZE", False, id="a fact"),
    ],
)
def test_a_decision_by_name_is_found(code: str, found: bool) -> None:
    assert bool(list(_decisions_by_name(ast.parse(code)))) == found


@pytest.mark.parametrize(
    ("model", "size", "says"),
    [
        pytest.param(MINI, (512, 192), "trained for 384*256 and 256*384 only", id="listed sizes, same area"),
        pytest.param(LIVE_AVATAR_14B, (7, 7), "makes areas from 98304 to 921600 pixels", id="too small"),
        pytest.param(replace(LIVE_AVATAR_14B, name="mine"), (4000, 4000), "mine makes areas from", id="too large"),
    ],
)
def test_a_size_the_model_does_not_make_is_refused(model: ModelConfig, size: tuple[int, int], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        refuse_size(model, size)


@pytest.mark.parametrize("model", PRESETS.values(), ids=PRESETS.keys())
def test_the_sizes_of_a_model_are_made(model: ModelConfig) -> None:
    for size in (model.default_area, *model.areas):
        refuse_size(model, size)


def test_the_default_of_the_14b_is_the_size_it_is_best_at() -> None:
    assert LIVE_AVATAR_14B.default_area == (688, 368)


def test_only_the_embedded_model_s_text_encoder_stays_in_memory() -> None:
    assert MINI.text.resident
    assert not LIVE_AVATAR_14B.text.resident


@pytest.mark.parametrize(
    ("model", "fp8", "offload", "fast"),
    [
        pytest.param(TINY, False, False, False, id="tiny"),
        pytest.param(TINY, True, False, True, id="8-bit layers"),
        pytest.param(TINY, False, True, True, id="layers in host memory"),
        pytest.param(MINI, False, False, True, id="small"),
        pytest.param(LIVE_AVATAR_14B, False, False, True, id="large"),
    ],
)
def test_the_model_or_an_option_asks_for_the_fast_path(
    model: ModelConfig, fp8: bool, offload: bool, fast: bool
) -> None:
    assert model.runs_fast(fp8=fp8, offload=offload) == fast


def _knows_presets(path: Path) -> bool:
    return _named(path).startswith(("liveavatar/config.py", "liveavatar/checkpoints/"))


def _decisions_by_name(tree: ast.AST) -> Iterator[int]:
    """Yield the lines of comparisons with a model's name, and of tables whose keys are such names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            sides += [item for s in sides if isinstance(s, ast.Tuple | ast.List | ast.Set) for item in s.elts]
        elif isinstance(node, ast.Dict):
            sides = [key for key in node.keys if key is not None]
        else:
            continue
        is_recipe = any(ast.unparse(side).endswith("args.preset") for side in sides)  # `--preset` of training
        if not is_recipe and any(_is_model_name(side) for side in sides):
            yield node.lineno


def _is_model_name(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return node.value in PRESETS
    owner = ast.unparse(node).removesuffix(".name").split(".")[-1]
    return isinstance(node, ast.Attribute) and node.attr == "name" and owner in MODELS


def _named(path: Path) -> str:
    return path.relative_to(paths.REPO_ROOT).as_posix()
