"""The completion scripts of shells complete commands, options, choices and files, and their shells read them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.cli.completion import completion_script
from flows.cli.options import COMMANDS
from tests.flows.cli.commands import run

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_all_commands_and_their_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["completion", shell], capsys)
    assert code == 0
    assert out.strip() == completion_script(shell).strip()
    for word in (*COMMANDS, "sample_steps", "live_host", "junit", "newbie", "stationary"):
        assert word in out, word


@pytest.mark.parametrize("shell", SHELLS)
def test_its_shell_reads_the_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = tmp_path / "script"
    script.write_text(completion_script(shell))
    subprocess.run([shell, "-n", script], check=True, timeout=30)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["rend"], {"render"}),
        (["render", "--fram"], {"--framing"}),
        (["render", "--framing", ""], {"portrait", "model"}),
        (["store", ""], {"ls", "gc", "verify", "rm"}),
        (["completion", ""], set(SHELLS)),
        (["evaluate", "vid"], {"video.mp4"}),
        (["render", "--out", ""], {"folder"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(typed: list[str], offered: set[str], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    (tmp_path / "script").write_text(completion_script("bash"))
    place = tmp_path / "place"
    (place / "folder").mkdir(parents=True)
    (place / "video.mp4").touch()
    words = " ".join(f"'{word}'" for word in ["liveavatar", *typed])
    ask = f"source ../script; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_liveavatar liveavatar; "
    told = subprocess.run(
        [bash, "-c", ask + 'printf "%s\\n" "${COMPREPLY[@]}"'], cwd=place, capture_output=True, text=True, timeout=30
    )
    assert set(told.stdout.split()) == offered, told.stderr
