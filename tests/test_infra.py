"""What `infra/` offers: scripts that speak the released scripts' flags, and manifests of the Ray that is pinned."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from flows.cli.options import make_parser
from flows.parameters import RenderParameters, read_parameters
from liveavatar import paths
from liveavatar.hardware import free_port, listens

INFRA = paths.REPO_ROOT / "infra"
PINNED = re.search(r"^ray==(\S+)$", (paths.REPO_ROOT / "constraints.txt").read_text(), re.MULTILINE)
RELEASED = [
    *("--ulysses_size", "1", "--task", "s2v-14B", "--size", "704*384", "--base_seed", "420"),
    *("--training_config", "liveavatar/configs/s2v_causal_sft.yaml", "--offload_model", "False"),
    *("--convert_model_dtype", "--prompt", "A man, talking; soft light", "--image", "a b.png", "--audio", "v.wav"),
    *("--infer_frames", "48", "--load_lora", "--lora_path_dmd", "Quark-Vision/Live-Avatar", "--sample_steps", "4"),
    *("--sample_guide_scale", "0", "--num_clip", "10000", "--num_gpus_dit", "4", "--sample_solver", "euler"),
    *("--enable_vae_parallel", "--ckpt_dir", "ckpt/Wan2.2-S2V-14B/", "--save_file", "out/film.mp4"),
]


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Stands for the command: writes its arguments down."""
    command = tmp_path / "liveavatar"
    command.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('told.json', 'w'))\n")
    command.chmod(0o755)
    return command


def run(script: str, arguments: list[str], command: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [INFRA / script, *arguments], cwd=command.parent, env={**os.environ, "LIVEAVATAR": str(command)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def understood(command: Path) -> RenderParameters:
    """What the command line makes of the arguments a script passed on."""
    arguments = json.loads((command.parent / "told.json").read_text())
    options: dict[str, Any] = vars(make_parser("render").parse_args(arguments))
    assert options.pop("command") == "render"
    return read_parameters(options)


@pytest.mark.parametrize(
    ("script", "placement", "gpus", "online"),
    [("run_4gpu_tpp.sh", "tpp", 4, False), ("infinite_inference_single_gpu.sh", "single", 1, True)],
)
def test_released_flags_are_those_of_a_render(script: str, placement: str, gpus: int, online: bool, told: Path) -> None:
    flags = [{"4": str(gpus)}.get(f, f) if RELEASED[i - 1] == "--num_gpus_dit" else f for i, f in enumerate(RELEASED)]
    done = run(script, flags, told)
    assert done.returncode == 0, done.stderr
    job = understood(told)
    assert (job.placement, job.num_gpus, job.enable_online_decode) == (placement, gpus, online)
    assert (job.model, job.size, job.seed, job.sample_steps) == ("ckpt/Wan2.2-S2V-14B/", "704*384", 420, 4)
    assert (job.infer_frames, job.num_clip, job.offload_model) == (48, 10_000, False)
    assert (job.prompt, job.image, job.audio) == ("A man, talking; soft light", "a b.png", "v.wav")
    assert job.out == "out/film"
    assert "--task s2v-14B is part of the model here and is left out" in done.stderr


@pytest.mark.parametrize(
    ("script", "size", "clips"),
    [("run_4gpu_tpp.sh", "688*368", 50), ("infinite_inference_single_gpu.sh", "704*384", None)],
)
def test_a_script_has_the_recommended_defaults(script: str, size: str, clips: int | None, told: Path) -> None:
    ours = ["--fp8", "--kv-cache-dtype", "int8"]
    done = run(script, ["--audio=v.wav", "--image=i.png", "--prompt=p q", "--base-seed", "-1", *ours], told)
    assert done.returncode == 0, done.stderr
    job = understood(told)
    assert (job.fp8, job.kv_cache_dtype) == (True, "int8")
    assert (job.model, job.size, job.num_clip, job.seed) == ("live-avatar-14b", size, clips, 420)
    assert (job.audio, job.prompt) == ("v.wav", "p q")


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("run_4gpu_tpp.sh", ["--sample_steps", "3"]),
        ("infinite_inference_single_gpu.sh", ["--sample_steps", "5", "--offload_model", "True"]),
    ],
)
def test_a_script_without_inputs_takes_the_sample(script: str, flags: list[str], told: Path) -> None:
    done = run(script, flags, told)
    assert done.returncode == 0, done.stderr
    job = understood(told)
    assert job.sample_steps == int(flags[1])
    assert Path(job.audio).samefile(paths.REPO_ROOT / "data" / "samples" / "speech.wav")
    assert Path(job.image).is_file()
    assert job.prompt == (paths.REPO_ROOT / "data" / "samples" / "prompt.txt").read_text().strip()


def test_a_sample_never_stands_in_for_a_missing_input(told: Path) -> None:
    assert run("run_4gpu_tpp.sh", ["--audio", "v.wav"], told).returncode == 0
    assert "--image" not in json.loads((told.parent / "told.json").read_text())


def test_the_number_of_steps_can_be_edited_in_the_script(tmp_path: Path, told: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(INFRA, copy / "infra")
    (copy / "data").symlink_to(paths.REPO_ROOT / "data")
    script = copy / "infra" / "run_4gpu_tpp.sh"
    subprocess.run(["sed", "-i", "s/--sample_steps 4/--sample_steps 3/g", script], check=True)
    assert run(str(script), [], told).returncode == 0
    assert understood(told).sample_steps == 3


@pytest.mark.parametrize("script", ["run_4gpu_tpp.sh", "infinite_inference_single_gpu.sh"])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param(["--bogus", "1"], "--bogus is no flag", id="unknown"),
        pytest.param(["--size"], "--size needs a value", id="no value"),
        pytest.param(["v.wav"], "v.wav is no flag", id="no flag"),
        pytest.param(["--enable_tts"], "not part of this program", id="speech synthesis"),
    ],
)
def test_other_flags_are_refused_in_one_line(script: str, flags: list[str], says: str, told: Path) -> None:
    done = run(script, flags, told)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert not (told.parent / "told.json").exists()


def test_ray_cluster_is_what_the_launcher_takes() -> None:
    cluster = yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(dict(cluster)))
    for kind in ("head", "worker"):
        stop, start = cluster[f"{kind}_start_ray_commands"]
        assert stop == "cd liveavatar && infra/ray_node.sh stop"
        assert start.startswith(f"cd liveavatar && infra/ray_node.sh {kind}")


def ray_node(folder: Path, *arguments: str, port: int = 6389) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "LIVEAVATAR_RAY_FOLDER": str(folder), "LIVEAVATAR_RAY_PORT": str(port)}
    return subprocess.run(
        [INFRA / "ray_node.sh", *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_only_our_ray_is_stopped(tmp_path: Path) -> None:
    """Processes with the options of a raylet stand for two Rays of the same user, one folder the start of the other."""
    folders = [tmp_path / "ours", tmp_path / "ours-not"]
    raylets = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"--temp_dir={folder}"])
        for folder in folders
    ]
    try:
        assert ray_node(folders[0], "stop").returncode == 0
        assert raylets[0].wait(5) != 0
        assert raylets[1].poll() is None
        assert ray_node(folders[0], "stop").returncode == 0, "there is none any more"
    finally:
        for raylet in raylets:
            raylet.kill()
            raylet.wait()


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["worker"]])
def test_a_wrong_command_of_a_ray_node_is_refused(arguments: list[str], tmp_path: Path) -> None:
    done = ray_node(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "worker HEAD_HOST" in done.stderr


@pytest.mark.nightly
@pytest.mark.skipif(not (paths.REPO_ROOT / ".venv/bin/ray").exists(), reason="`make setup` has not run here")
def test_a_ray_node_starts_and_ends_beside_another_ray() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-") as name:  # short: sockets lie below
        first, second = Path(name, "a"), Path(name, "b")
        ports = free_port(), free_port()
        try:
            for folder, port in zip((first, second), ports, strict=True):
                done = ray_node(folder, "head", port=port)
                assert done.returncode == 0, done.stdout + done.stderr
            assert ray_node(first, "stop").returncode == 0
            assert [listens("127.0.0.1", port, 1.0) for port in ports] == [False, True]
        finally:
            ray_node(first, "stop")
            ray_node(second, "stop")


def test_kubernetes_manifest_is_of_the_pinned_ray() -> None:
    documents = list(yaml.safe_load_all((INFRA / "kubernetes.yaml").read_text()))
    by_kind = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    assert PINNED is not None
    cluster = by_kind["RayCluster", "liveavatar"]
    assert (cluster["apiVersion"], cluster["spec"]["rayVersion"]) == ("ray.io/v1", PINNED[1])
    claim = by_kind["PersistentVolumeClaim", "liveavatar-shared"]["metadata"]["name"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["securityContext"]["runAsNonRoot"]
        assert [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v] == [
            claim
        ]
        for container in pod["containers"]:
            mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
            home = next(e["value"] for e in container["env"] if e["name"] == "LIVEAVATAR_HOME")
            assert home.startswith(mounted["shared"] + "/"), "machines share work folders and models"
    assert groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    (server,) = by_kind["Deployment", "prefect"]["spec"]["template"]["spec"]["containers"]
    url = next(e["value"] for e in server["env"] if e["name"] == "PREFECT_API_DATABASE_CONNECTION_URL")
    database = by_kind["Service", "liveavatar-database"]["metadata"]["name"]
    assert url == f"postgresql+asyncpg://prefect:$(PASSWORD)@{database}:5432/prefect"
    assert f"image: {prefect_image()}" in (INFRA / "kubernetes.yaml").read_text()


def prefect_image() -> str:
    """Prefect's own image of the version that is pinned."""
    pinned = re.search(r"^prefect==(\S+)$", (paths.REPO_ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    return f"prefecthq/prefect:{pinned[1]}-python3.11"


def test_compose_file_runs_the_product() -> None:
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    assert set(services) == {"database", "prefect", "ray", "studio", "worker"}
    assert services["prefect"]["image"] == prefect_image()
    for name in ("ray", "studio", "worker"):
        build = services[name]["build"]
        assert (INFRA / build["context"] / build["dockerfile"]).samefile(INFRA / "Dockerfile")
        assert "data:/data" in services[name]["volumes"], "they share LIVEAVATAR_HOME"
    for name in ("studio", "worker"):
        assert services[name]["network_mode"] == services[name]["ipc"] == "service:ray"
        port = re.search(r"--port=(\d+)", services["ray"]["command"])
        assert port is not None
        assert services[name]["environment"]["RAY_ADDRESS"] == f"127.0.0.1:{port[1]}"
        assert services[name]["environment"]["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert services["ray"]["ipc"] == "shareable"
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published), "beyond this machine is the user's decision"
    checked = {name for name, service in services.items() if "healthcheck" in service}
    assert checked == set(services) - {"studio"}, "the studio's is that of the image"
    make_parser("serve").parse_args(services["studio"]["command"].split()[1:])


def test_image_is_not_root_and_says_whether_it_is_healthy() -> None:
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    steps = [line.split(" ", 1) for line in lines if re.match(r"[A-Z]+ ", line)]
    assert [value for step, value in steps if step == "USER"][-1] not in ("root", "0")
    assert [step for step, _ in steps].index("USER") < [step for step, _ in steps].index("CMD")
    assert any(step == "HEALTHCHECK" for step, _ in steps)
    copied = [name for step, value in steps if step == "COPY" for name in value.split()[:-1]]
    assert all((paths.REPO_ROOT / name).exists() for name in copied)
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".venv", ".git", ".liveavatar", "out"} <= set(ignored)
    assert not {"data", "data/models", "flows", "tasks", "liveavatar", "infra"} & set(ignored)


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_ci_templates_run_the_regression_and_keep_its_page(name: str) -> None:
    text = (INFRA / "ci" / f"{name}.yml").read_text()
    template = yaml.safe_load(text)
    if name == "github":
        (job,) = template["jobs"].values()
        commands = [step["run"] for step in job["steps"] if "run" in step]
        kept = job["steps"][-1]["with"]["path"].split()
    else:
        job = template["liveavatar-regression"]
        commands = [*job["before_script"], *job["script"]]
        kept = [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    assert commands[0] == "make setup"
    options = make_parser("regress").parse_args(commands[1].split()[1:])
    assert {options.junit, ".liveavatar/golden/regression.html"} == set(kept)
    assert ".liveavatar" in text.partition("LIVEAVATAR_HOME:")[2].split("\n")[0], "where the page is kept"


@pytest.mark.nightly
def test_a_wheel_has_the_embedded_model_and_the_sample_inside(tmp_path: Path) -> None:
    build = [sys.executable, "-c", "from setuptools import setup; setup()", "-q"]
    parts = ["egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path]
    subprocess.run([*build, *parts], cwd=paths.REPO_ROOT, check=True, capture_output=True, timeout=120)
    inside = tmp_path / "liveavatar" / "data"
    for folder in ("models/mini", "models/landmarks"):
        assert {p.name for p in (inside / folder).iterdir()} == {p.name for p in (paths.DATA / folder).iterdir()}
    assert {p.name for p in (inside / "samples").iterdir()} == {"speech.wav", "portrait.png", "prompt.txt"}
    assert (inside / "prefect.yaml").read_text() == paths.DEPLOYMENTS.read_text()
    code = "from liveavatar import paths as p; import json; print(json.dumps([str(f) for f in "
    code += "(p.MINI_DIR / 'dit.safetensors', p.SAMPLES / 'speech.wav', p.DEPLOYMENTS, p.DATA / 'limits.json')"
    code += " if f.is_file()]))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert len(json.loads(found.stdout)) == 4
    assert all(path.startswith(str(tmp_path)) for path in json.loads(found.stdout))
