"""An engine and the clips of the split: renders each clip and measures it beside its true video.

Knows neither goals nor reports.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from liveavatar.bench.quality import judge
from liveavatar.bench.quality.videos import RenderedScene, make_scene, render_scene, scene_of, true_video
from liveavatar.engine.engine import Engine
from liveavatar.face.landmarks import FaceTracker
from liveavatar.quality.evaluate import evaluate_video
from liveavatar.quality.split import Clip, Labels
from liveavatar.timing import SAMPLE_RATE

log = logging.getLogger(__name__)

LONG_SECONDS = 120.0
Say = Callable[[str], None]


@dataclass(slots=True)
class TrueClip:
    """One clip of the split with the measures of its true video."""

    clip: Clip
    scene: RenderedScene
    seen: judge.Seen
    labels: Labels


class QualityBench:
    """Renders the clips of the split at any number of denoise steps and measures them."""

    def __init__(self, engine: Engine, clips: list[Clip], folder: Path, say: Say = log.info) -> None:
        self.engine, self.folder, self.say = engine, folder, say
        self.tracker = FaceTracker()
        self.true: list[TrueClip] = []
        for clip in clips:
            scene = scene_of(clip, engine, folder)
            seen = judge.look(true_video(clip, scene), scene.photo, clip.speech(), self.tracker)
            self.true.append(TrueClip(clip, scene, seen, clip.labels()))
            say(f"clip {clip.info.name}: true video read")

    def judge_clip(self, true: TrueClip, steps: int, posed: bool = True, eyed: bool = True) -> judge.Pair:
        """Render and measure one clip: free, with the true head pose (`posed`), and with the true eyes too (`eyed`)."""
        video = render_scene(self.engine, true.scene, steps)
        rendered = judge.look(video, true.scene.photo, true.clip.speech(), self.tracker)
        pair = judge.Pair(true.clip.info.name, true.seen, rendered, true.labels)
        pair.speed = {k: v for k, v in (("ms_per_frame", video.ms_per_frame), ("block_ms", video.block_ms)) if v}
        if posed and self.engine.config.pose_guided:
            pair.posed = self._compare_posed(true, steps)
            if eyed and self.engine.config.lids_conditioned:
                eyes = true.labels.eyes if self.engine.config.gaze_conditioned else true.labels.eyes[:, :1]
                pair.posed["texture_psnr_eyes"] = self._compare_posed(true, steps, eyes)["texture_psnr"]
        self.say(f"clip {pair.name}, {steps} steps: {video.ms_per_frame or 0:.0f} ms a frame")
        return pair

    def _compare_posed(self, true: TrueClip, steps: int, eyes: np.ndarray | None = None) -> dict[str, float]:
        labels = true.labels
        video = render_scene(self.engine, true.scene, steps, labels.head, photo_head=labels.photo_head, eyes=eyes)
        return judge.compare_posed(video, true.clip, labels)

    def judge_split(self, steps: int, posed: bool = True, eyed: bool = True) -> list[judge.Pair]:
        """Render and measure every clip."""
        return [self.judge_clip(true, steps, posed, eyed) for true in self.true]

    def likeness_lost(self, steps: int, seconds: float = LONG_SECONDS) -> dict[str, float]:
        """Measure the drift of the likeness over one long video of all speech of the split, repeated."""
        first = self.true[0]
        speech = np.concatenate([t.clip.speech() for t in self.true])
        speech = np.resize(speech, round(seconds * SAMPLE_RATE))
        scene = make_scene(self.folder / "long", first.scene.photo, speech, first.scene.prompt, self.engine)
        video = render_scene(self.engine, scene, steps)
        metrics = evaluate_video(video.path, first.scene.photo, speech).metrics
        drifts = {k: metrics[k] for k in ("identity_drift", "identity_min", "edge_jump", "sync_error_frames")}
        self.say(
            f"{seconds:.0f} s in one go: likeness {drifts['identity_min']}, drift {drifts['identity_drift']} a minute"
        )
        result = {f"long_{k}": float(v) for k, v in drifts.items() if v is not None}
        if drifts["identity_drift"] is not None:
            result["identity_drift"] = float(drifts["identity_drift"])
            result["identity_loss_120s"] = max(0.0, -2 * result["identity_drift"])
        return result
