"""Differences between two keys have names that a person can act on."""

from typing import Any

import pytest

from tasks.store.changes import changes_between, closest, summary

BASE: dict[str, Any] = {
    "inputs": {
        "options": {"seed": 420, "prompt": "a"},
        "sound": "a" * 64,
        "model": "b" * 64,
        "area": [384, 256],
        "pose": None,
        "speech": {"kind": "whisper", "dim": 384},
    },
    "packages": {"torch": "2.12"},
    "code": {"liveavatar/audio/ingest.py": "c" * 64},
}


def _with(part: str, **values: Any) -> dict[str, Any]:
    return {**BASE, part: {**BASE[part], **values}}


@pytest.mark.parametrize(
    ("after", "text"),
    [
        pytest.param(BASE, "", id="nothing"),
        pytest.param(_with("inputs", options={"seed": 421, "prompt": "a"}), "option seed 420 -> 421", id="seed"),
        pytest.param(_with("inputs", sound="d" * 64), "input sound changed", id="bytes of an input"),
        pytest.param(_with("inputs", pose="d" * 64), "input pose is new", id="a new input"),
        pytest.param(_with("inputs", area=[256, 384]), "input area [384, 256] -> [256, 384]", id="a value"),
        pytest.param(_with("inputs", speech={"kind": "whisper", "dim": 1}), "input speech.dim 384 -> 1", id="nested"),
        pytest.param(_with("inputs", model="d" * 64), "model weights changed", id="model"),
        pytest.param(_with("packages", torch="2.13"), "package torch 2.12 -> 2.13", id="package"),
        pytest.param(
            _with("code", **{"liveavatar/audio/ingest.py": "d" * 64}), "liveavatar/audio/ingest.py changed", id="code"
        ),
        pytest.param(_with("code", **{"liveavatar/new.py": "d" * 64}), "liveavatar/new.py is new", id="a new file"),
        pytest.param({**BASE, "code": {}}, "liveavatar/audio/ingest.py is gone", id="a file less"),
    ],
)
def test_a_difference_has_a_name(after: dict[str, Any], text: str) -> None:
    assert summary(changes_between(BASE, after)) == text


def test_options_come_first_and_the_rest_is_counted() -> None:
    after = {"inputs": {"options": {"seed": 1, "prompt": "x"}}, "packages": {}, "code": {}}
    changes = changes_between(BASE, after)
    assert [change.part for change in changes][:2] == ["option", "option"]
    assert [change.part for change in changes][-1] == "code"
    assert summary(changes).endswith(f"; and {len(changes) - 4} more")


OTHER_SEED = _with("inputs", options={"seed": 1, "prompt": "a"})
OTHER_JOB = _with("inputs", options={"seed": 1, "prompt": "x"}, sound="d" * 64)
OTHER_CODE = _with(
    "code", **{"liveavatar/audio/ingest.py": "d" * 64, "liveavatar/a.py": "e" * 64, "liveavatar/b.py": ""}
)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param([], None, id="none"),
        pytest.param([OTHER_JOB], OTHER_JOB, id="the only one"),
        pytest.param([OTHER_JOB, OTHER_SEED], OTHER_SEED, id="an unrelated job is newer"),
        pytest.param([OTHER_SEED, _with("inputs", sound="e" * 64)], OTHER_SEED, id="the newer of equal ones"),
        pytest.param([OTHER_JOB, OTHER_CODE], OTHER_CODE, id="many files are one update"),
        pytest.param([{}, OTHER_JOB], OTHER_JOB, id="a record without parts"),
    ],
)
def test_the_closest_key_has_the_fewest_differences(
    candidates: list[dict[str, Any]], chosen: dict[str, Any] | None
) -> None:
    assert closest(BASE, iter(candidates)) == chosen
