"""Files of the studio page by the names that an option takes: `studio:NAME`."""

import os
from pathlib import Path

import pytest

from flows.parameters import RenderParameters, read_parameters
from flows.stored_inputs import AUDIO, IMAGE, StoredInput, newest_names, path_of
from liveavatar.errors import InputError
from liveavatar.files import plain, write_json


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store(number: int, kind: str, name: str, used: float) -> StoredInput:
    """Make a stored file of no content that was used at a time."""
    made = StoredInput(id=f"{number:032x}", kind=kind, name=name)
    made.path.parent.mkdir(parents=True)
    made.path.touch()
    facts = made.path.parent.with_suffix(".json")
    write_json(facts, plain(made))
    os.utime(facts, (used, used))
    return made


def test_names_come_as_they_were_used_last() -> None:
    for number, (kind, name) in enumerate(((AUDIO, "a.wav"), (AUDIO, "b.wav"), (IMAGE, "p.png"), (AUDIO, "a.wav"))):
        store(number, kind, name, used=1000.0 + number)
    assert (newest_names(AUDIO), newest_names(IMAGE)) == (["a.wav", "b.wav"], ["p.png"])


def test_a_name_is_the_file_used_last_of_that_name(home: Path) -> None:
    store(1, AUDIO, "voice.wav", used=1000.0)
    newer = store(2, AUDIO, "voice.wav", used=2000.0)
    picture = store(3, IMAGE, "voice.wav", used=3000.0)
    assert path_of("studio:voice.wav", AUDIO) == str(newer.path)
    assert path_of(f"studio:{picture.id}", IMAGE) == str(picture.path)
    assert path_of("voice.wav", AUDIO) == "voice.wav", "a path of the user's"
    Path("studio:voice.wav").touch()
    assert path_of("studio:voice.wav", AUDIO) == "studio:voice.wav", "a file of the user's of that name"


def test_a_job_takes_files_of_the_studio_page() -> None:
    sound, picture = store(1, AUDIO, "anna.wav", used=1000.0), store(2, IMAGE, "anna.png", used=1000.0)
    job = {"audio": "studio:anna.wav", "image": "studio:anna.png", "prompt": "A woman speaks."}
    read = read_parameters(job)
    assert (read.audio, read.image) == (str(sound.path), str(picture.path))
    said = {kind: RenderParameters.model_json_schema()["properties"]["what"]["properties"][kind] for kind in job}
    assert said["audio"]["description"].endswith("; or studio:NAME for a file of the studio page: anna.wav")
    assert said["image"]["description"].endswith(": anna.png")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("ana.wav", "did you mean studio:anna.wav?", id="misspelt"),
        pytest.param("x", "has no sound 'x'; it has anna.wav", id="unknown"),
        pytest.param("face.png", "has no sound 'face.png'; it has anna.wav", id="a picture"),
    ],
)
def test_a_name_without_a_file_is_refused(name: str, says: str) -> None:
    store(1, AUDIO, "anna.wav", used=1000.0)
    store(2, IMAGE, "face.png", used=1000.0)
    with pytest.raises(InputError, match="--audio") as caught:
        read_parameters({"audio": f"studio:{name}", "image": "p.png", "prompt": "A woman speaks."})
    assert says in str(caught.value)


def test_an_empty_studio_says_where_files_come_from() -> None:
    with pytest.raises(ValueError, match=r"no picture 'x\.png'; drop a picture on the studio page first"):
        path_of("studio:x.png", IMAGE)
