"""A verdict that failed, seen by Prefect: the automation of `infra/notify.py` calls a webhook."""

import json
import queue
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from liveavatar.hardware import free_port
from liveavatar.paths import REPO_ROOT
from tests.flows.shop import Shop

SCRIPT = REPO_ROOT / "infra" / "notify.py"


@pytest.fixture
def webhook() -> Iterator[tuple[str, queue.Queue[dict[str, str]]]]:
    """Address of a webhook, and the messages it got."""
    messages: queue.Queue[dict[str, str]] = queue.Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", messages
        server.shutdown()


def notify(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=shop.folder, env=shop.environment(), text=True,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(
            ["--webhook", "hooks.example/a"], "is no address; give one that begins with https://", id="address"
        ),
        pytest.param(["--webhook", "https://hooks.example/a"], "start `liveavatar serve`", id="no server"),
    ],
)
def test_what_cannot_be_set_up_is_said(arguments: list[str], says: str, shop: Shop) -> None:
    done = notify(shop, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr


@pytest.mark.nightly
def test_a_run_that_fails_calls_the_webhook(shop: Shop, webhook: tuple[str, queue.Queue[dict[str, str]]]) -> None:
    address, messages = webhook
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"

    def ask(path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{api}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    serving = subprocess.Popen(
        shop.command("serve", "--port", str(port), "--live_port", str(free_port())), cwd=shop.folder,
        env=shop.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        assert str(port) in serving.stdout.readline()
        deadline = time.monotonic() + 120
        while not (deployed := [row for row in ask("deployments/filter") if row["name"] == "render"]):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        for what in ("made", "changed"):
            done = notify(shop, "--webhook", address)
            assert done.stdout == f"automation live-avatar-failed: {what}\n", done.stderr
        assert len(ask("automations/filter")) == 1
        options = dict(zip(*[iter(shop.job(out=str(shop.folder / "out/hooked")))] * 2, strict=True))
        job = {name.removeprefix("--"): value for name, value in options.items()}
        job |= {name: str(shop.folder / job[name]) for name in ("audio", "image")}
        ask(f"deployments/{deployed[0]['id']}/create_flow_run", name="Monday's trailer", parameters={"parameters": job})
        message = messages.get(timeout=240)["text"]
        assert message.startswith("Monday's trailer: Failed\nfailed: ")
    finally:
        shop.run("stop")
        serving.kill()
        serving.wait()
        serving.stdout.close()
