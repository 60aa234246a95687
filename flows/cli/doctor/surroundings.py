"""Checks of what is around a render: services, proxies, certificates, variables, and the folder one stands in."""

import os
import re
import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from flows.cli.doctor.check import FAILED, OK, WARNING, DoctorCheck
from flows.cli.doctor.installation import requirements
from flows.serving.environment import PROXIES, is_of_prefect, library_settings, ray_settings
from liveavatar.errors import LiveAvatarError
from liveavatar.paths import REPO_ROOT
from tasks.cluster.address import cluster_address
from tasks.health import is_healthy

ANSWER_SECONDS = 2.0  # for a proxy or a server
SETTING_FILES = ("prefect.toml", ".env")  # read by a Prefect that starts in their folder


def check_services() -> Iterator[DoctorCheck]:
    """Check the addresses of Prefect and Ray, where they are set."""
    for name in ("prefect", "ray"):
        try:
            detail = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield DoctorCheck(name=name, status=FAILED, detail="is not installed", way_out="run `make setup`")
            continue
        variable = "PREFECT_API_URL" if name == "prefect" else "RAY_ADDRESS"
        address = os.environ.get(variable, "")
        problem = _problem_at(variable, address) if address else ""
        yield DoctorCheck(
            name=name,
            status=FAILED if problem else OK,
            detail=f"{detail}, {problem or (f'at {address}' if address else 'local')}",
            way_out=f"start it, or unset {variable}: then a local one is used" if problem else "",
        )


def _problem_at(variable: str, address: str) -> str:
    if variable == "PREFECT_API_URL":
        return "" if is_healthy(address, ANSWER_SECONDS) else f"nothing answers at {address}"
    try:
        from tasks.cluster.head import ask_cluster

        cluster_address(ask_cluster)
    except LiveAvatarError as e:
        return str(e).split(";")[0]
    return ""


def check_proxies() -> Iterator[DoctorCheck]:
    """Check that proxies answer; only `liveavatar models fetch` uses them."""
    for variable, address in sorted(os.environ.items()):
        if variable.lower() not in PROXIES or not address:
            continue
        parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
        try:
            host, port = parts.hostname or "", parts.port or 80
            socket.create_connection((host, port), ANSWER_SECONDS).close()
        except (OSError, ValueError) as e:
            way_out = f"correct or unset {variable}; renders do not use it, `liveavatar models fetch` does"
            yield DoctorCheck(name=f"proxy {variable}", status=WARNING, detail=f"no answer ({e})", way_out=way_out)
        else:
            yield DoctorCheck(name=f"proxy {variable}", status=OK, detail=f"{host}:{port}, not used for this machine")


def check_certificates() -> Iterator[DoctorCheck]:
    """Check that the certificates named by variables are there."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        place = os.environ.get(variable)
        if place and Path(place).exists():
            yield DoctorCheck(name="certificates", status=OK, detail=f"{variable}={place}")
        elif place:
            way_out = f"correct or unset {variable}; renders do not use it, `liveavatar models fetch` does"
            yield DoctorCheck(
                name="certificates", status=WARNING, detail=f"{variable}={place} is not there", way_out=way_out
            )


def check_temporary_folder() -> Iterator[DoctorCheck]:
    """Check that the temporary folder can be used, and is short enough for sockets."""
    from tasks.cluster.ray_folder import LONGEST_TMPDIR, require_room, short_folder

    named = os.environ.get("TMPDIR", "")
    if named and not os.access(named, os.W_OK | os.X_OK):
        way_out = "make it, or set TMPDIR to a folder that can be written"
        yield DoctorCheck(name="temporary folder", status=FAILED, detail=f"{named} cannot be used", way_out=way_out)
        return
    try:
        short = short_folder()
        require_room()
    except LiveAvatarError as e:
        way_out = f"set TMPDIR to a folder with room, of at most {LONGEST_TMPDIR} bytes"
        yield DoctorCheck(name="temporary folder", status=FAILED, detail=str(e).split(";")[0], way_out=way_out)
        return
    detail = f"{tempfile.gettempdir()}{f', sockets of Ray in {short}' if short else ''}"
    yield DoctorCheck(name="temporary folder", status=OK, detail=detail)


def check_inherited() -> Iterator[DoctorCheck]:
    """Check settings of another Prefect or Ray in the environment."""
    prefect = sorted(name for name in os.environ if is_of_prefect(name))
    if prefect and not os.environ.get("PREFECT_API_URL"):
        way_out = "they are ignored; set PREFECT_API_URL as well to use that server, or unset them"
        yield DoctorCheck(name="prefect settings", status=WARNING, detail=", ".join(prefect), way_out=way_out)
    ray = ray_settings()
    if ray and os.environ.get("RAY_ADDRESS"):
        way_out = "they change how the cluster is used; unset them if renders misbehave"
        yield DoctorCheck(name="ray settings", status=WARNING, detail=", ".join(ray), way_out=way_out)
    elif ray:
        way_out = "they are ignored; set RAY_ADDRESS as well to use a cluster of your own, or unset them"
        yield DoctorCheck(name="ray settings", status=WARNING, detail=", ".join(ray), way_out=way_out)


def check_library_settings() -> Iterator[DoctorCheck]:
    """Check settings that libraries of ours read for all programs."""
    if names := library_settings():
        way_out = "they are ignored; unset them if they are not meant for another program"
        yield DoctorCheck(name="library settings", status=WARNING, detail=", ".join(names), way_out=way_out)


def check_folder() -> Iterator[DoctorCheck]:
    """Check for files in the working directory that Python or Prefect would take for ours."""
    folder = Path.cwd()
    libraries = {re.split(r"[^A-Za-z0-9_.-]", text)[0].replace("-", "_") for text in requirements()}
    ours = set() if folder == REPO_ROOT else {"flows", "tasks", "liveavatar"}
    names = {*sys.stdlib_module_names, *libraries, *ours}
    modules = [p.name for p in folder.glob("*.py") if p.stem in names]
    packages = [p.parent.name for p in folder.glob("*/__init__.py") if p.parent.name in names]
    settings = [name for name in SETTING_FILES if (folder / name).exists()]
    if modules or packages or settings:
        way_out = "renders ignore them; `python -m` started here would not: use the command `liveavatar`"
        found = ", ".join(sorted([*modules, *packages, *settings]))
        yield DoctorCheck(name="this folder", status=WARNING, detail=found, way_out=way_out)
    relative = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not os.path.isabs(entry)]
    if relative and os.environ.get("PYTHONPATH"):
        way_out = "Python imports from the current folder then; write absolute folders, and no empty one"
        detail = f"PYTHONPATH={os.environ['PYTHONPATH']}"
        yield DoctorCheck(name="python path", status=WARNING, detail=detail, way_out=way_out)
