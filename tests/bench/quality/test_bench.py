"""Which videos a clip costs, by what the model can be conditioned on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from liveavatar import config
from liveavatar.bench.quality import judge
from liveavatar.bench.quality.bench import QualityBench, TrueClip
from liveavatar.bench.quality.videos import Video
from liveavatar.quality.split import Clip


@pytest.mark.parametrize(
    ("asked", "model", "videos"),
    [
        pytest.param({}, {"pose_guided": True, "lids_conditioned": True}, ["free", "head", "head and eyes"], id="all"),
        pytest.param({}, {"pose_guided": True, "lids_conditioned": False}, ["free", "head"], id="model without lids"),
        pytest.param({}, {"pose_guided": False, "lids_conditioned": True}, ["free"], id="model without head"),
        pytest.param({"eyed": False}, {"pose_guided": True, "lids_conditioned": True}, ["free", "head"], id="sweep"),
        pytest.param({"posed": False}, {"pose_guided": True, "lids_conditioned": True}, ["free"], id="no posed videos"),
    ],
)
def test_videos_that_a_clip_costs(
    asked: dict[str, bool], model: dict[str, bool], videos: list[str], stored: list[Clip],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made: list[str] = []

    def drawn(_engine: object, scene: object, steps: int, head: Any = None, eyes: Any = None, **_: object) -> Video:
        made.append("free" if head is None else "head" if eyes is None else "head and eyes")
        return Video(Path(made[-1]))

    monkeypatch.setattr("liveavatar.bench.quality.bench.render_scene", drawn)
    monkeypatch.setattr(judge, "look", lambda *_: None)
    monkeypatch.setattr(judge, "compare_posed", lambda video, *_: {"texture_psnr": float(len(video.path.name))})
    engine: Any = SimpleNamespace(config=replace(config.TINY, **model))
    scene: Any = SimpleNamespace(photo=None)
    true: Any = TrueClip(stored[0], scene, None, stored[0].labels())  # type: ignore[arg-type]
    pair = QualityBench(engine, [], Path()).judge_clip(true, 4, **asked)
    assert made == videos
    wanted = {"texture_psnr": 4.0, "texture_psnr_eyes": 13.0}
    assert pair.posed == dict(list(wanted.items())[: len(videos) - 1])
