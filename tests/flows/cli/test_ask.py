"""Subcommands that answer a question: models, prompts, the reasons of a run."""

import json
import re
from pathlib import Path

import pytest

from liveavatar import config
from tests.flows.cli.commands import run


def test_models_keys_are_tab_separated(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(["models", "keys", "live-avatar-14b"], capsys)
    lines = out.splitlines()
    assert code == 0
    assert "patch_embedding.weight\t[5120, 16, 1, 2, 2]" in lines
    assert len(lines) == 1260
    assert all(json.loads(line.split("\t")[1]) for line in lines if not line.endswith("[]"))


def test_models_verify_reads_every_file(tiny_model: Path, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(["models", "verify", str(tiny_model), "--json"], capsys)
    assert code == 0
    weights_files = {"dit.safetensors", "vae.safetensors", "text.safetensors"}
    assert set(json.loads(out)["files"]) == {"config.json", "checksums.json", *weights_files}
    weights = home / "copy"
    weights.mkdir()
    for file in tiny_model.iterdir():
        (weights / file.name).write_bytes(file.read_bytes())
    (weights / "dit.safetensors").write_bytes((tiny_model / "dit.safetensors").read_bytes()[:-100])
    code, _, err = run(["models", "verify", str(weights)], capsys)
    assert code == 2
    assert "dit" in err


def test_a_poor_prompt_scores_poor(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(["check_prompt", "A person talking", "--json"], capsys)
    assert code == 0
    assert json.loads(out)["grade"] == "poor"


def test_a_fuller_prompt_is_offered(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(["check_prompt", "a man in a grey suit"], capsys)
    assert code == 0
    assert "or, as `auto: ` before the prompt writes it: a man in a grey suit. They look" in out
    assert json.loads(run(["check_prompt", "?? a man speaks", "--json"], capsys)[1])["rewrite"].startswith("?? a man")


def test_a_prompt_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, _, err = run(["check_prompt", "caf\udce9"], capsys)
    assert (code, "not UTF-8 text" in err) == (2, True)


def test_a_prompt_is_judged_in_lines_for_people(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(["check_prompt", "A young woman with red hair smiles in warm morning light"], capsys)
    lines = out.splitlines()
    assert code == 0
    assert re.fullmatch(r"(poor|fair|good) \(0\.\d\d\)", lines[0])
    assert "person" in lines[1]
    assert "woman" in lines[1]
    assert ["lighting", "morning", "light"] in [line.split() for line in lines]
    assert ["camera", "-"] in [line.split() for line in lines]
    assert any(line.startswith("  try: ") for line in lines)


def test_models_are_listed_with_their_sizes(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_MODELS", str(home / "models"))
    code, out, _ = run(["models", "list", "--json"], capsys)
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows.keys() == {"mini", "live-avatar-14b"}
    assert rows["mini"]["here"]
    assert rows["mini"]["megabytes"] > 1
    assert rows["mini"]["sizes"] == [f"{w}*{h}" for w, h in config.MINI.areas]
    assert not rows["live-avatar-14b"]["here"]
    assert rows["live-avatar-14b"]["megabytes"] == 0
    assert "not here" in run(["models", "list"], capsys)[1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "no run was published there", id="no report"),
        pytest.param("{", "does not tell it", id="no JSON"),
        pytest.param("[]", "does not tell it", id="a list"),
        pytest.param('{"status": "passed"}', "does not tell it", id="of an older version"),
        pytest.param('{"stages": {"render": 1}}', "does not tell it", id="another shape"),
    ],
)
def test_why_refuses_what_is_no_run(
    content: str | None, says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (home / "report.json").write_text(content)
    code, out, err = run(["why", "."], capsys)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"liveavatar: why \..+\n", err)
    assert says in err


def test_why_refuses_a_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "README.md").write_text("# Read me")
    code, out, err = run(["why", "README.md"], capsys)
    assert (code, out) == (2, "")
    assert err == "liveavatar: why README.md: this is a file; give the output folder of a render\n"


def test_why_says_what_made_each_stage_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {
        "prompt": {"cached": True, "reason": "nothing differs: taken from the store", "changes": []},
        "render": {"cached": False, "reason": "ran again: option seed 420 -> 421", "changes": [{"name": "seed"}]},
    }
    (home / "report.json").write_text(json.dumps({"stages": stages}))
    code, out, _ = run(["why", "."], capsys)
    assert code == 0
    assert [line.split(maxsplit=1) for line in out.splitlines()] == [[k, v["reason"]] for k, v in stages.items()]
    code, out, _ = run(["why", ".", "--json"], capsys)
    assert (code, json.loads(out)) == (0, {"out": ".", "stages": stages})


def test_a_clip_that_is_not_there_is_refused_with_those_that_are(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    code, _, err = run(["bench", "faults", "--only", "03,99"], capsys)
    assert code == 2
    assert "no clip 99; there are 00, 01, 02" in err
