"""Goals tell kept, missed and unmeasured numbers apart."""

from liveavatar.quality import goals


def test_goals_tell_kept_missed_and_unmeasured() -> None:
    values = {"openness_corr": 0.95, "sync_error_frames": 1.2, "edge_jump": 1.0, "flicker_ratio": 0.86,
              "jerk_index_ratio": 1.2, "av_offset_frames": -1}  # fmt: skip
    found = {c.name: (c.ok, c.goal_reached) for c in goals.check(values, {"silent_lip": "no silence"}, {})}
    assert found["openness_corr"] == (True, False)
    assert found["sync_error_frames"] == (False, False)
    assert found["edge_jump"] == (True, True)
    assert found["flicker_ratio"] == (True, False)
    assert found["jerk_index_ratio"] == (False, False)
    assert found["av_offset_frames"] == (False, False)
    assert found["silent_lip"] == (None, None)
    lacking = {c.name: c for c in goals.check(values, {"silent_lip": "no silence"}, {"openness_corr": 2})}
    assert lacking["silent_lip"].reason == "no silence"
    assert lacking["openness_corr"].ok is False
    assert "2 made videos" in lacking["openness_corr"].reason
