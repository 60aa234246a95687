"""The place of output, which is ours to fill; and the machine that a job may use."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from flows import preflight
from flows.parameters import RenderParameters
from liveavatar.errors import CapacityError, InputError
from liveavatar.hardware import Gpu, Machine, gpu_of, parse_gpus
from liveavatar.media.ffmpeg import ffmpeg_binary
from liveavatar.paths import REPO_ROOT

MINI = REPO_ROOT / "data" / "models" / "mini"
RUN = '{"latents_sha256": "d"}'
FILES = dict.fromkeys(("video.mp4", "latents.bin", "frames.parquet", "blocks.parquet", "report.json"), "")


def test_commands_of_one_second_publish_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight.time, "strftime", lambda _: "20260131-235959")
    job = RenderParameters(audio="a b.wav", image="face.png", prompt="A woman talks.")
    with ThreadPoolExecutor(4) as threads:
        claimed = list(threads.map(preflight.claim_output, [job] * 4))
    assert sorted(str(out) for out in claimed) == [
        f"out/20260131-235959-a-b{number}" for number in ("", "-2", "-3", "-4")
    ]
    assert all(out.is_dir() for out in claimed)


def test_a_render_without_ffmpeg_is_refused_before_its_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    ffmpeg_binary.cache_clear()
    read: list[object] = []
    monkeypatch.setattr(preflight, "check_inputs", lambda *files, **_: read.append(files))
    job = RenderParameters(audio="a.wav", image="face.png", prompt="A woman talks.", out=str(tmp_path / "out"))
    with pytest.raises(CapacityError, match=r"IMAGEIO_FFMPEG_EXE=.* names no program"):
        preflight.check(job)
    assert not read


def test_a_folder_that_was_named_is_the_place(tmp_path: Path) -> None:
    job = RenderParameters(audio="a.wav", image="face.png", prompt="A woman talks.", out=str(tmp_path / "mine"))
    assert [preflight.claim_output(job) for _ in range(2)] == [tmp_path / "mine"] * 2
    assert not list(tmp_path.iterdir()), "it appears whole, when the run is published"


def test_a_folder_inside_one_whose_name_is_not_utf8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Jos\udce9").mkdir()
    monkeypatch.chdir(tmp_path / "Jos\udce9")
    (tmp_path / "link").symlink_to(tmp_path / "Jos\udce9")
    for out in (Path("out"), tmp_path / "link" / "out"):
        with pytest.raises(InputError, match=r"its name is not UTF-8 .*give another folder"):
            preflight.check_out(out)


def test_a_folder_whose_name_is_not_utf8_is_refused() -> None:
    with pytest.raises(InputError, match=r"--out .*out/Jos.*: its name is not UTF-8 .*give another folder") as caught:
        preflight.check_out(Path("out/Jos\udce9"))
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    ("files", "ours"),
    [
        pytest.param({}, True, id="nothing"),
        pytest.param({"manifest.json": RUN, "video.mp4": ""}, True, id="a run"),
        pytest.param({"letter.txt": ""}, False, id="other files"),
        pytest.param({"manifest.json": "{}"}, False, id="a manifest of something else"),
        pytest.param({"manifest.json": RUN[:-1]}, False, id="half a manifest"),
        pytest.param({"manifest.json": RUN[:-1], **FILES}, True, id="half a manifest beside the files of a run"),
        pytest.param({"manifest.json": RUN[:-1], "video.mp4": ""}, False, id="half a manifest beside another film"),
        pytest.param(FILES, True, id="the files of a run whose manifest is lost"),
    ],
)
def test_only_a_run_of_ours_is_replaced(files: dict[str, str], ours: bool, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert preflight.is_run(tmp_path) == (ours and bool(files))
    if ours:
        preflight.check_out(tmp_path)
    else:
        with pytest.raises(InputError, match="holds other files"):
            preflight.check_out(tmp_path)


@pytest.mark.parametrize("name", [pytest.param("a" * 300, id="too long"), pytest.param("a\0b", id="null character")])
def test_a_name_that_no_folder_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder can have this name"):
        preflight.check_out(tmp_path / name / "out")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is a file"):
            preflight.check_out(out)


def test_standard_input_is_refused_where_it_is_needed_twice() -> None:
    job = RenderParameters(audio="-", image="face.png", prompt="A woman talks.")
    with pytest.raises(InputError, match="heard only once"):
        preflight.refuse_pipe(job)
    preflight.refuse_pipe(job.model_copy(update={"audio": "./-"}))


@pytest.mark.parametrize(("num_gpus", "count"), [(None, 4), (2, 2), (9, 4)])
def test_a_job_may_have_fewer_gpus(num_gpus: int | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus: tuple[Gpu, ...] = (gpu_of("NVIDIA H200", 141.0),) * 4
    job = RenderParameters(audio="a", image="i", prompt="p", num_gpus=num_gpus)
    here = Machine(gpus=gpus, cores=8, host_gb=500.0, disk_gb=500.0)
    monkeypatch.setattr(preflight.hardware, "detect_machine", lambda out, named: here)
    assert preflight.machine_of(job) == replace(here, gpus=gpus[:count])


def test_a_machine_that_is_named_is_the_one_to_use() -> None:
    job = RenderParameters(audio="a", image="i", prompt="p", num_gpus=2)
    assert preflight.machine_of(job, parse_gpus("4x24GB")).gpus == parse_gpus("2x24GB")


@pytest.mark.parametrize(
    ("of_model", "given", "low"),
    [
        pytest.param(None, None, None, id="the product's own"),
        pytest.param(0.5, None, 0.5, id="the model's"),
        pytest.param(0.5, 0.55, 0.55, id="those that are given"),
        pytest.param(None, 0.55, 0.55, id="given for a model without"),
    ],
)
def test_a_verdict_has_the_limits_of_its_model_or_those_that_are_given(
    of_model: float | None, given: float | None, low: float | None, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MINI, model)
    for path, value in ((model / "limits.json", of_model), (tmp_path / "mine.json", given)):
        if value is not None:
            path.write_text(json.dumps({"identity_min": {"good": [value, None], "tolerable": [value, None]}}))
    limits = None if given is None else str(tmp_path / "mine.json")
    job = RenderParameters(audio="a.wav", image="b.png", prompt="A woman talks.", model=str(model), limits=limits)
    read = preflight.limits_of(job)
    assert (read and {limit.name: limit.good[0] for limit in read}["identity_min"]) == low


def test_limits_that_cannot_be_read_are_refused_before_a_render(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"identity": {}}')
    job = RenderParameters(
        audio="a.wav", image="b.png", prompt="A woman talks.", out=str(tmp_path / "out"),
        limits=str(tmp_path / "mine.json"),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"--limits .*mine.json: unknown metrics identity; copy data/limits.json"):
        preflight.check_options(job)
