"""Environments of our processes: nothing of the caller's folder, proxies or Prefect gets into them."""

import os
import secrets
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from scipy.io import wavfile

from flows.job_table import MAX_BYTES
from flows.serving import environment
from flows.serving.prefect_server import PrefectServer
from liveavatar.paths import REPO_ROOT
from tasks.health import is_healthy
from tests.health_server import answering

FOREIGN = {
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://a:b@db/theirs",
    "prefect_server_database_connection_url": "sqlite+aiosqlite:////theirs.db",  # Prefect ignores the case
    "PREFECT_SERVER_API_AUTH_STRING": "admin:pass",
    "PREFECT_API_AUTH_STRING": "admin:pass",
    "PREFECT_PROFILE": "work",
    "PREFECT_PROFILES_PATH": "/theirs/profiles.toml",
    "PREFECT_HOME": "/theirs",
}
RAY = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
DEAD_PROXY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is as before afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in list(os.environ):
        if name.upper().startswith("PREFECT_") or name.lower().endswith("_proxy") or name.startswith("PYTHON"):
            del os.environ[name]
    os.environ["LIVEAVATAR_HOME"] = str(tmp_path / "home")


@pytest.fixture
def health() -> Iterator[str]:
    """Address of a server whose health is good."""
    with ThreadingHTTPServer(("127.0.0.1", 0), answering()) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_settings_of_another_prefect_are_left_out(tmp_path: Path) -> None:
    os.environ.update(FOREIGN)
    home = environment.prepare()
    assert home == tmp_path / "home" / "prefect"
    assert {name: os.environ[name] for name in FOREIGN if name in os.environ} == {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
    }


@pytest.mark.parametrize(("address", "counts"), [("", False), ("local", False), ("10.0.0.1:6379", True)])
def test_settings_of_another_ray_count_with_its_cluster_alone(address: str, counts: bool) -> None:
    foreign = {"GRPC_TRACE": "all", "RAY_memory_monitor_refresh_ms": "junk", "RAY_worker_register_timeout_seconds": "0"}
    os.environ.update(foreign, RAY_ADDRESS=address, RAY_TMPDIR="/theirs", RAY_DEDUP_LOGS="1")
    environment.survive_head()
    environment.prepare()
    assert {name: os.environ.get(name) for name in foreign} == (foreign if counts else dict.fromkeys(foreign))
    assert (os.environ["RAY_TMPDIR"], os.environ["RAY_DEDUP_LOGS"]) == ("/theirs", "1" if counts else "0")
    assert int(os.environ[environment.HEAD_SETTING]) > 365 * 86_400, "it is ours"


def test_settings_count_with_a_server_of_the_user_s() -> None:
    os.environ.update(FOREIGN, PREFECT_API_URL="https://prefect.example/api")
    environment.prepare()
    assert {name: os.environ.get(name) for name in FOREIGN} == FOREIGN


def test_our_server_gets_our_settings_only(tmp_path: Path) -> None:
    os.environ.update(FOREIGN, PATH="/bin", SSL_CERT_FILE="/nonexistent/ca.pem", all_proxy="socks5://127.0.0.1:9")
    env = environment.server_environment(tmp_path, "http://127.0.0.1:1/api", ui=False)
    settings = {name: value for name, value in env.items() if name.startswith("PREFECT_")}
    assert not set(settings.values()) & set(FOREIGN.values())
    assert (settings["PREFECT_HOME"], settings["PREFECT_API_URL"]) == (str(tmp_path), "http://127.0.0.1:1/api")
    assert settings["PREFECT_UI_ENABLED"] == "0"
    assert env["PATH"] == "/bin"
    assert not {"SSL_CERT_FILE", "all_proxy"} & set(env)
    assert "PREFECT_UI_ENABLED" not in environment.server_environment(tmp_path, "http://127.0.0.1:1/api", ui=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, "127.0.0.1,localhost,::1", id="not set"),
        pytest.param({"NO_PROXY": "corp.example, localhost"}, "corp.example,localhost,127.0.0.1,::1", id="set"),
        pytest.param({"no_proxy": "*"}, "*", id="everything"),
    ],
)
def test_this_machine_is_never_reached_through_a_proxy(before: dict[str, str], after: str) -> None:
    os.environ.update(before)
    environment.prepare()
    environment.prepare()
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == (after, after)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_health_is_asked_directly(name: str, health: str) -> None:
    os.environ[name] = DEAD_PROXY
    assert is_healthy(health, 5)


@pytest.mark.parametrize("given", [None, "9"])
def test_requests_to_a_server_of_the_users_give_up_soon(given: str | None, health: str) -> None:
    if given is not None:
        os.environ["PREFECT_CLIENT_MAX_RETRIES"] = given
    os.environ["PREFECT_API_URL"] = health
    environment.prepare()
    with PrefectServer():
        tries, seconds = (int(os.environ[f"PREFECT_{name}"]) for name in ("CLIENT_MAX_RETRIES", "API_REQUEST_TIMEOUT"))
    assert tries == (9 if given else 2)
    assert (1 + tries) * seconds < (60 if given is None else 600)


def test_clients_of_a_server_here_start_with_any_proxy_and_certificate(health: str) -> None:
    import httpx

    os.environ.update(ALL_PROXY="socks5://127.0.0.1:9", HTTP_PROXY=DEAD_PROXY, SSL_CERT_FILE="/nonexistent/ca.pem")
    os.environ["PREFECT_API_URL"] = health
    with PrefectServer() as server:
        server.wait()
        with httpx.Client() as client:
            assert client.get(f"{health}/health").status_code == 200


def test_a_server_elsewhere_keeps_proxy_and_certificate() -> None:
    kept = {"HTTPS_PROXY": DEAD_PROXY, "SSL_CERT_FILE": "/corp/ca.pem"}
    os.environ.update(kept, PREFECT_API_URL="https://prefect.example/api")
    with PrefectServer():
        assert {name: os.environ.get(name) for name in kept} == kept


def test_settings_of_python_for_other_programs_are_dropped() -> None:
    os.environ |= {"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as Python does at its start
        environment.ignore_python_settings()
        warnings.warn("an old name", DeprecationWarning, stacklevel=1)
        warnings.simplefilter("error")
        environment.ignore_python_settings()
        with pytest.raises(DeprecationWarning):
            warnings.warn("of our own tests", DeprecationWarning, stacklevel=1)
    assert [name for name in os.environ if name.startswith("PYTHON")] == ["PYTHONDONTWRITEBYTECODE"]


FOR_LIBRARIES = {
    "OTEL_PROPAGATORS": "b3",
    "UVICORN_UDS": "/theirs.sock",
    "WEB_CONCURRENCY": "4",
    "FORWARDED_ALLOW_IPS": "*",
    "TORCH_LOGS": "junk",
    "OPENCV_IO_MAX_IMAGE_PIXELS": "many",
    "FFREPORT": "file=theirs.log",
}


def test_settings_of_libraries_for_other_programs_are_dropped() -> None:
    os.environ.update(FOR_LIBRARIES, OMP_NUM_THREADS="2")
    assert environment.library_settings() == sorted(FOR_LIBRARIES)
    environment.prepare()
    assert not environment.library_settings()
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_modules_are_not_searched_in_the_folder_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.environ["PYTHONPATH"] = f":lib:{tmp_path / 'theirs'}"
    sys.path[:0] = [str(tmp_path), str(tmp_path / "lib")]
    environment.prepare()
    assert not {str(tmp_path), str(tmp_path / "lib")} & set(sys.path)
    assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(REPO_ROOT), str(tmp_path / "theirs")]


@pytest.mark.nightly
@pytest.mark.parametrize("embedded", [False, True], ids=["random weights", "mini"])
def test_a_render_among_hostile_files_and_settings(embedded: bool, tmp_path: Path, tiny_model: Path) -> None:
    folder, theirs = tmp_path / "folder", tmp_path / "theirs.db"
    (folder / "flows").mkdir(parents=True)
    for name in ("tasks.py", "flows/__init__.py", "random.py", "prefect.py", "ray.py", "uvicorn.py", "torch.py"):
        (folder / name).write_text("raise SystemExit('the wrong module')\n")
    (folder / "prefect.toml").write_text(f'[server.database]\nconnection_url = "sqlite+aiosqlite:///{theirs}"\n')
    (folder / ".env").write_text("PREFECT_SERVER_API_AUTH_STRING=admin:pass\n")
    samples = REPO_ROOT / "data" / "samples"
    rate, sound = wavfile.read(samples / "speech.wav")
    wavfile.write(tmp_path / "speech.wav", rate, sound[: 3 * rate])
    job = ["--audio", tmp_path / "speech.wav", "--image", samples / "portrait.png", "--out", "out"]
    job += ["--prompt", (samples / "prompt.txt").read_text()]
    if not embedded:
        job += ["--model", tiny_model, "--whisper", "off", "--denoise", "off"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COV_"))}
    env |= {"HTTP_PROXY": DEAD_PROXY, "HTTPS_PROXY": DEAD_PROXY, "ALL_PROXY": "socks5://127.0.0.1:9"}
    env |= {"SSL_CERT_FILE": "/nonexistent/ca.pem", "TMPDIR": str(tmp_path / ("x" * 120)), **FOREIGN}
    Path(env["TMPDIR"]).mkdir()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("liveavatar")), "render", *map(str, job)],
        cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    # Random weights make noise, whose quality fails.
    assert done.returncode == (0 if embedded else 1), done.stdout + done.stderr
    assert f": {'passed' if embedded else 'failed'};" in done.stdout
    assert (folder / "out" / "video.mp4").stat().st_size > 0
    assert not theirs.exists()


def test_prefect_reads_no_file_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text('[server.database]\nconnection_url = "sqlite+aiosqlite:////theirs.db"\n')
    (tmp_path / ".env").write_text("PREFECT_API_AUTH_STRING=admin:pass\n")
    code = (
        "from flows.serving.environment import import_prefect; import_prefect(); import os\n"
        "from prefect.settings import get_current_settings as settings\n"
        "known = repr(settings().model_dump(context={'include_secrets': True}))\n"
        "print(os.getcwd(), 'theirs' in known, settings().api.auth_string)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": os.environ["PATH"], "LIVEAVATAR_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPO_ROOT)}
        | FOR_LIBRARIES,
    )  # fmt: skip
    assert done.stdout.split() == [str(tmp_path), "False", "None"], done.stdout + done.stderr


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our home, with an environment in which nothing is set."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    for name in (*RAY, *environment.DEFAULTS, "PREFECT_HOME"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is gone afterwards
        monkeypatch.delenv(name)
    return tmp_path


def test_what_the_user_has_set_stays(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    assert environment.prepare() == surroundings / "prefect"
    assert os.environ["DO_NOT_TRACK"] == "0"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    monkeypatch.setenv("PREFECT_HOME", "/elsewhere")
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    assert environment.prepare() == Path("/elsewhere")


def test_a_prefect_server_of_ours_takes_the_largest_table_of_jobs(surroundings: Path) -> None:
    ours = environment.server_environment(surroundings, "http://127.0.0.1:1/api", ui=False)
    program = "from prefect.settings import get_current_settings as s; print(s().server.api.max_parameter_size)"
    done = subprocess.run([sys.executable, "-c", program], env=ours, cwd=surroundings, capture_output=True, check=True)
    assert int(done.stdout) > 2 * MAX_BYTES


def test_ray_asks_for_a_token_that_only_the_user_can_read(surroundings: Path) -> None:
    environment.guard_ray()
    path = surroundings / "ray_token"
    assert (path.stat().st_mode & 0o777, len(path.read_text())) == (0o600, 64)
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", str(path))


@pytest.mark.parametrize("name", RAY)
def test_a_cluster_of_the_user_keeps_its_rules(name: str, surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "theirs")
    environment.guard_ray()
    assert not list(surroundings.iterdir())
    assert {other: os.environ[other] for other in RAY if other in os.environ} == {name: "theirs"}


def test_the_token_is_whole_whenever_it_is_there(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = surroundings / "ray_token"

    def meanwhile(_: int) -> str:
        assert not path.exists(), "an empty token can be read"
        path.write_text("of the other command")
        return "ours"

    monkeypatch.setattr(secrets, "token_hex", meanwhile)
    environment.guard_ray()
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("ray_token", "of the other command")]


@pytest.mark.parametrize("damaged", [b"", b"ab12", b"a" * 63 + b"\xe1", b"a" * 40 + b"\n" + b"a" * 23, b"a" * 65])
def test_a_damaged_token_is_made_anew(damaged: bytes, surroundings: Path) -> None:
    path = surroundings / "ray_token"
    path.write_bytes(damaged)
    environment.guard_ray()
    token = path.read_text()
    assert (path.stat().st_mode & 0o777, len(token)) == (0o600, 64)
    environment.guard_ray()
    assert path.read_text() == token, "a whole one stays"


def test_a_home_that_is_not_there_yet_is_no_warning(tmp_path: Path) -> None:
    code = "from flows.serving.environment import import_prefect; import_prefect()"
    home = {"LIVEAVATAR_HOME": str(tmp_path / "new" / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, env=home, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
