"""HTTP interface of the studio page: uploads, checks, jobs; what it refuses; its words in both languages."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from starlette.testclient import TestClient

from flows.serving.live_page import create_app
from flows.serving.studio import inputs, routes
from flows.serving.studio.jobs import WAITING, QueuedJob
from liveavatar import paths
from liveavatar.errors import CapacityError, InputError
from liveavatar.media.portrait_check import no_face
from liveavatar.prompt.check import check_prompt
from tasks.catalogue import record_run

SAMPLES = paths.DATA / "samples"
URL = "http://127.0.0.1:4280"
PROMPT = "A woman in her thirties explains something with a smile, soft window light, photorealistic close-up"


class Queue:
    """A queue that remembers what it was asked."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.continued: list[str] = []
        self.renewed = 0

    def start(self, parameters: dict[str, Any]) -> str:
        self.started.append(parameters)
        return f"job{len(self.started)}"

    def jobs(self) -> list[QueuedJob]:
        return [QueuedJob(id="job1", name="<b>voice</b>", state=WAITING, label="Scheduled", message="")]

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def go_on(self, job_id: str) -> None:
        self.continued.append(job_id)

    def renew_form(self) -> None:
        self.renewed += 1
        raise ConnectionError("Prefect is away")


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def client(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    with TestClient(create_app(queue), base_url=URL) as client:
        yield client


def upload(client: TestClient, kind: str, name: str) -> dict[str, Any]:
    answer = client.post(f"/api/inputs/{kind}", params={"name": name}, content=(SAMPLES / name).read_bytes())
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture
def given(client: TestClient) -> dict[str, Any]:
    """A described job."""
    sound, picture = upload(client, "audio", "speech.wav"), upload(client, "image", "portrait.png")
    return {"audio": sound["id"], "image": picture["id"], "prompt": PROMPT}


def test_an_upload_renews_the_form_and_does_not_wait_for_prefect(client: TestClient, queue: Queue) -> None:
    assert upload(client, "audio", "speech.wav")["name"] == "speech.wav"
    assert queue.renewed == 1


def test_the_page_runs_its_own_scripts_only(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", page.text)
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    assert len(named) == 3
    for name in named:
        assert client.get(f"/{name}").status_code == 200
    for name in ("..%2f__init__.py", "%2e%2e%2froutes.py", "routes.py", "../routes.py"):
        assert client.get(f"/page/{name}").status_code == 404


def test_no_script_writes_markup() -> None:
    scripts = [path for path in routes.page_files().values() if path.suffix == ".js"]
    assert len(scripts) > 5
    for script in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script.read_text()
        )
        assert not re.search(r"https?://", script.read_text()), "nothing is loaded from elsewhere"


def wav(loudness: float, seconds: float) -> bytes:
    """Make a tone."""
    packed = io.BytesIO()
    tone = loudness * np.sin(np.arange(int(16_000 * seconds)) / 9)
    wavfile.write(packed, 16_000, tone.astype(np.float32))
    return packed.getvalue()


def png(width: int, height: int) -> bytes:
    """Make a grey picture."""
    packed = io.BytesIO()
    Image.new("RGB", (width, height), (99, 99, 99)).save(packed, "PNG")
    return packed.getvalue()


def words() -> dict[str, Any]:
    return dict(json.loads(routes.page_files()["words.json"].read_text()))


def test_both_languages_say_all_that_the_page_asks_for() -> None:
    table = words()
    assert set(table["en"]) == set(table["zh"])
    holes = {key: set(re.findall(r"\{\w+\}", text)) for key, text in table["en"].items()}
    assert holes == {key: set(re.findall(r"\{\w+\}", text)) for key, text in table["zh"].items()}
    asked: set[str] = set()
    for path in routes.page_files().values():
        text = path.read_text()
        asked |= set(re.findall(r'data-t(?:-\w+)?="(\w+)"', text)) | set(re.findall(r'\bt\(\s*"(\w+)"', text))
    assert asked <= set(table["en"])
    families = ("grade_", "facet_", "preset_", "stage_")
    spelled = "".join(path.read_text() for path in routes.page_files().values() if path.suffix != ".json")
    unused = [
        key for key in table["en"] if not re.search(rf'["\']{key}["\']', spelled) and not key.startswith(families)
    ]
    assert set(unused) <= {"passed", "warned", "failed", "will", "may", "never"}


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(no_face().reasons[0], id="no face"),
        pytest.param(
            check_prompt("A woman explains something in bright daylight at night").problems[0], id="a contradiction"
        ),
        pytest.param("the model hears: a woman; not heard: zeppelin", id="heard"),
    ],
)
def test_messages_of_the_server_are_translated(message: str) -> None:
    patterns = [pattern for pattern, _ in words()["said"]["zh"]]
    assert any(re.fullmatch(pattern, message, re.DOTALL) for pattern in patterns), message


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        pytest.param("audio", b"", id="empty"),
        pytest.param("audio", b"no sound at all" * 99, id="no sound"),
        pytest.param("audio", wav(0.0, 3.0), id="silence"),
        pytest.param("audio", wav(0.5, 0.1), id="short"),
        pytest.param("audio", (SAMPLES / "portrait.png").read_bytes(), id="a picture as sound"),
        pytest.param("image", b"no picture at all", id="no picture"),
        pytest.param("image", (SAMPLES / "portrait.png").read_bytes()[:9000], id="cut off"),
        pytest.param("image", png(32, 32), id="too small"),
    ],
)
def test_what_an_upload_is_refused_for_is_translated(client: TestClient, kind: str, content: bytes) -> None:
    answer = client.post(f"/api/inputs/{kind}", params={"name": "file"}, content=content)
    assert answer.status_code == 422
    told = answer.json()["error"]
    assert any(re.fullmatch(pattern, told, re.DOTALL) for pattern, _ in words()["said"]["zh"]), told


def test_a_job_is_described_and_started(client: TestClient, queue: Queue, given: dict[str, Any]) -> None:
    options = client.get("/api/options").json()
    assert options["models"][0] == "mini"
    assert options["preset"] in options["presets"]
    assert client.get(f"/api/previews/{given['image']}").headers["content-type"] == "image/jpeg"
    judged = client.post("/api/portrait", json={"image": given["image"], "model": "mini", "face": 1}).json()
    assert judged["verdict"] == "will speak"
    assert client.post("/api/jobs", json={**given, "seed": 7, "preset": "quality"}).json() == {"id": "job1"}
    (started,) = queue.started
    width, height = judged["video"]
    assert started | {"audio": "", "image": ""} == {
        "audio": "", "image": "", "prompt": PROMPT, "model": "mini", "preset": "quality", "seed": 7, "face": 1,
        "enable_online_decode": True, "size": f"{width}*{height}",
    }  # fmt: skip
    for kind in ("audio", "image"):
        assert Path(started[kind]).is_relative_to(paths.inputs())
        assert Path(started[kind]).is_file()
    assert client.get("/api/jobs").json()[0]["name"] == "<b>voice</b>"
    client.post("/api/cancel", json={"id": "job1"})
    assert queue.cancelled == ["job1"]
    assert client.post("/api/go_on", json={"id": "job1"}).json() == {}
    assert queue.continued == ["job1"]


def test_without_a_seed_each_job_has_another(client: TestClient, queue: Queue, given: dict[str, Any]) -> None:
    for _ in range(2):
        client.post("/api/jobs", json={**given, "watch": False, "preset": "fast"})
    assert queue.started[0]["seed"] != queue.started[1]["seed"]
    assert "size" not in queue.started[0], "the preset has one"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"audio": "0" * 32}, "the sound is no longer here", id="no such sound"),
        pytest.param({"audio": "/etc/passwd"}, "the sound is no longer here", id="a path"),
        pytest.param({"model": "../../models"}, "is not here; choose one of mini", id="a folder as model"),
        pytest.param({"prompt": " "}, "--prompt ' ' is empty", id="no prompt"),
        pytest.param({"preset": "best"}, "--preset 'best'", id="no such preset"),
        pytest.param({"seed": -1}, "--seed '-1'", id="a negative seed"),
        pytest.param({"face": 1000}, "--face '1000'", id="too many faces"),
    ],
)
def test_a_wrong_job_is_refused_in_one_line(
    client: TestClient, queue: Queue, given: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    answer = client.post("/api/jobs", json={**given, **changes})
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert queue.started == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 20_000, b'"x"', b"\xff"])
def test_a_body_that_is_no_object_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/api/prompt", content=body).status_code == 422


def test_long_requests_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.post("/api/prompt", json={"prompt": "x" * 100_000}).status_code == 413
    monkeypatch.setitem(inputs.MOST_BYTES, "audio", 1000)
    assert client.post("/api/inputs/audio?name=x.wav", content=bytes(2000)).status_code == 413
    assert client.post("/api/inputs/model?name=x", content=b"x").status_code == 422


def test_another_page_may_not_start_a_job(client: TestClient, queue: Queue, given: dict[str, Any]) -> None:
    assert client.post("/api/jobs", json=given, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/api/jobs", json=given, headers={"Origin": URL}).status_code == 200
    assert len(queue.started) == 1


@pytest.mark.parametrize(
    ("prompt", "grade"),
    [
        ("", "empty"),
        ("A person talking", "poor"),
        (PROMPT, "good"),
        ("一位三十多岁的女士微笑着讲解，柔和的窗光，写实特写，咖啡馆", "fair"),
    ],
)
def test_a_prompt_is_scored(client: TestClient, prompt: str, grade: str) -> None:
    answer = client.post("/api/prompt", json={"prompt": prompt}).json()
    assert answer["grade"] == grade
    assert grade == "empty" or set(answer["missing"]) <= set(answer["facets"])
    assert (answer.get("rewrite") or prompt).startswith(prompt)
    assert grade != "poor" or answer["rewrite"]


def test_a_lost_prefect_is_told(client: TestClient, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> list[QueuedJob]:
        raise ConnectionError("refused")

    monkeypatch.setattr(queue, "jobs", lost)
    answer = client.get("/api/jobs")
    assert (answer.status_code, answer.json()["error"]) == (503, "Prefect does not answer (ConnectionError)")


@pytest.fixture
def run_id(client: TestClient, given: dict[str, Any], tmp_path: Path) -> str:
    """A published run."""
    out = tmp_path / "out"
    out.mkdir()
    picture = inputs.require_input(given["image"], "image")
    parameters = {
        "audio": str(SAMPLES / "speech.wav"), "image": str(picture.path), "prompt": PROMPT, "seed": 420,
        "sample_steps": 2, "out": str(out), "force": True, "num_clip": None,
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps({"parameters": parameters}))
    manifest = {
        "inputs": {"audio": {"name": "speech.wav"}, "image": {"name": "portrait.png"}},
        "outputs": {"video.mp4": "1" * 64},
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
    return record_run(out, manifest, {"status": "passed"}).id


def test_again_is_the_same_job_with_another_seed(client: TestClient, queue: Queue, run_id: str) -> None:
    assert client.post("/api/again", json={"run": run_id}).json() == {"id": "job1"}
    (started,) = queue.started
    assert started["seed"] != 420
    assert (started["sample_steps"], started["prompt"]) == (2, PROMPT)
    assert not {"out", "num_clip"} & set(started), "it gets a folder of its own"
    assert not started["force"]
    Path(started["image"]).unlink()
    answer = client.post("/api/again", json={"run": run_id})
    assert answer.json()["error"] == "portrait.png of this run is no longer where it was; drop it again"
    assert client.post("/api/again", json={"run": "f" * 32}).status_code == 422


def test_errors_of_a_job_are_those_of_the_form(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="prompt"):
        routes.job_parameters({**given, "prompt": "x" * 5000})


def test_no_space_is_a_refusal_of_its_own(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise CapacityError("this upload needs 1 MB")

    monkeypatch.setattr(inputs, "require_disk", full)
    assert client.post("/api/inputs/audio?name=x.wav", content=b"x").status_code == 503
