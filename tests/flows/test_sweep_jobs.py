"""The renders of a sweep: one job with every number of steps at every size, each in a folder of its own."""

from pathlib import Path

import pytest

from flows.parameters import RenderParameters
from flows.sweep_jobs import check_jobs, sweep_jobs
from liveavatar.errors import InputError


def job(out: Path) -> RenderParameters:
    return RenderParameters(audio="voice.wav", image="face.png", prompt="a woman talks", out=str(out))


def test_each_render_has_its_steps_its_size_and_its_folder(tmp_path: Path) -> None:
    jobs = sweep_jobs(job(tmp_path), [1, 4, 1], [None, "384*256"])
    assert [(made.sample_steps, made.size, Path(made.out or "").name) for made in jobs] == [
        (1, None, "steps1"),
        (4, None, "steps4"),
        (1, "384*256", "steps1-384x256"),
        (4, "384*256", "steps4-384x256"),
    ]
    assert Path(sweep_jobs(job(tmp_path), [1], ["384 × 256"])[0].out or "").name == "steps1-384x256"
    assert {Path(made.out or "").parent for made in jobs} == {tmp_path}
    assert Path(sweep_jobs(job(tmp_path), [1], [None], tmp_path / "b")[0].out or "") == tmp_path / "b" / "steps1"


def test_what_a_sweep_left_in_its_folder_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "sweep.html").touch()
    (tmp_path / "steps4").mkdir()
    (tmp_path / "steps4" / "manifest.json").write_text('{"latents_sha256": ""}')
    check_jobs(sweep_jobs(job(tmp_path), [2, 4], [None]))
    (tmp_path / "steps2").mkdir()
    (tmp_path / "steps2" / "diary.txt").touch()
    with pytest.raises(InputError, match="steps2 holds other files"):
        check_jobs(sweep_jobs(job(tmp_path), [2, 4], [None]))
