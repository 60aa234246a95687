"""Every kind of sound file is read, every bad one is refused in one line."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.audio import ingest
from liveavatar.audio.ingest import load_audio, probe
from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import ffmpeg_binary
from tests.audio.sounds import pcm, tone, wav_header, write, write_av

Maker = Callable[[Path], Path]
TONE = tone()
RMS = 0.3 / np.sqrt(2)


def _wav(name: str, audio: np.ndarray, rate: int = 44_100, subtype: str | None = None) -> Maker:
    return lambda folder: write(folder / name, audio, rate, subtype)


def _sphere(folder: Path) -> Path:
    facts = f"sample_count -i {len(TONE)}\nsample_n_bytes -i 2\nchannel_count -i 1\nsample_byte_format -s2 01\n"
    head = f"NIST_1A\n   1024\n{facts}sample_rate -i 44100\nsample_coding -s3 pcm\nend_head\n"
    (folder / "a.sph").write_bytes(head.encode().ljust(1024) + pcm(TONE))
    return folder / "a.sph"


@pytest.mark.parametrize(
    ("make", "seconds", "rms"),
    [
        pytest.param(_wav("a.wav", TONE), 3.0, RMS, id="16 bit"),
        pytest.param(_wav("a.wav", TONE, subtype="PCM_U8"), 3.0, RMS, id="8 bit"),
        pytest.param(_wav("a.wav", TONE, subtype="PCM_24"), 3.0, RMS, id="24 bit"),
        pytest.param(_wav("a.wav", TONE, subtype="FLOAT"), 3.0, RMS, id="float"),
        pytest.param(_wav("a.wav", TONE, subtype="DOUBLE"), 3.0, RMS, id="double"),
        pytest.param(_wav("a.wav", 4 * TONE, subtype="FLOAT"), 3.0, np.sqrt(0.5), id="float above full scale"),
        pytest.param(_wav("a.wav", tone(rate=96_000), 96_000), 3.0, RMS, id="96 kHz"),
        pytest.param(_wav("a.wav", tone(rate=8_000), 8_000), 3.0, RMS, id="8 kHz"),
        pytest.param(_wav("a.wav", np.stack([TONE, TONE], 1)), 3.0, RMS, id="stereo"),
        pytest.param(_wav("a.wav", np.stack([TONE, -TONE], 1)), 3.0, RMS, id="stereo that cancels itself"),
        pytest.param(_wav("a.wav", np.stack([TONE] * 6, 1)), 3.0, RMS, id="six channels"),
        pytest.param(_wav("a.flac", TONE), 3.0, RMS, id="flac"),
        pytest.param(_wav("a.ogg", TONE), 3.0, RMS, id="ogg"),
        pytest.param(_wav("a.mp3", TONE), 3.0, RMS, id="mp3"),
        pytest.param(lambda f: write_av(f / "a.m4a", tone(rate=48_000), "aac", pictures=False), 3.0, RMS, id="m4a"),
        pytest.param(lambda f: write_av(f / "a.mp4", tone(rate=48_000), "aac", pictures=True), 3.0, RMS, id="video"),
        pytest.param(lambda f: write_av(f / "a.mkv", tone(rate=48_000), "libopus", pictures=True), 3.0, RMS, id="mkv"),
        pytest.param(_sphere, 3.0, RMS, id="NIST SPHERE"),
        pytest.param(_wav("a.wav", TONE[:22_050]), 0.5, RMS, id="just long enough"),
        pytest.param(_wav("wrong name.txt.mp3.flac", TONE), 3.0, RMS, id="odd name"),
    ],
)
def test_reads(tmp_path: Path, make: Maker, seconds: float, rms: float) -> None:
    path = make(tmp_path)
    audio = load_audio(path)
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) / 16_000 == pytest.approx(seconds, abs=0.05)
    assert np.sqrt(np.square(audio).mean()) == pytest.approx(rms, rel=0.05)
    assert np.abs(audio).max() <= 1.0
    info = probe(path)
    assert info.duration_s == pytest.approx(seconds, abs=0.05)
    assert info.sample_rate > 0


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_does_not_shift(tmp_path: Path, rate: int) -> None:
    click = np.zeros(2 * rate, np.float32)
    click[rate] = 1.0
    audio = load_audio(write(tmp_path / "click.wav", click, rate, "FLOAT"))
    assert len(audio) == 32_000
    assert np.abs(audio).argmax() == 16_000


def _poisoned(value: float) -> np.ndarray:
    audio = TONE.copy()
    audio[60_000] = value
    return audio


def _cut(maker: Maker, share: float) -> Maker:
    def make(folder: Path) -> Path:
        path = maker(folder)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        return path

    return make


def _bytes(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _damaged_flac(folder: Path) -> Path:
    path = write(folder / "a.flac", TONE + 0.1 * np.random.default_rng(0).standard_normal(len(TONE)))
    data = bytearray(path.read_bytes())
    data[3000::900] = bytes(255 ^ b for b in data[3000::900])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda f: f / "none.wav", "no such file", id="missing"),
        pytest.param(lambda f: f, "directory", id="directory"),
        pytest.param(_bytes("a.wav", b""), "empty", id="0 bytes"),
        pytest.param(_bytes("a.wav", b"Dear all,\nplease find attached\n" * 40), "cannot be read", id="text as wav"),
        pytest.param(_bytes("a.wav", b"#EXTM3U\n#EXTINF:10,\nhttp://a.org/x\n"), "it is a playlist", id="playlist"),
        pytest.param(_bytes("a.wav", np.random.default_rng(0).bytes(50_000)), "cannot be read", id="random bytes"),
        pytest.param(_cut(_wav("a.wav", TONE), 0.5), "cut off, 1.5 s of 3.0 s", id="truncated wav"),
        pytest.param(_cut(_wav("a.flac", TONE), 0.5), "cut off", id="truncated flac"),
        pytest.param(_cut(_wav("a.wav", TONE), 0.0001), "cannot be read", id="header cut off"),
        pytest.param(
            _cut(lambda f: write_av(f / "a.m4a", tone(rate=48_000), "aac", pictures=False), 0.5),
            "cannot be read as sound or video: its index",
            id="truncated m4a",
        ),
        pytest.param(_damaged_flac, "cut off|damaged", id="damaged inside"),
        pytest.param(lambda f: write_av(f / "a.mp4", None, "aac", pictures=True), "has no sound", id="silent film"),
        pytest.param(_wav("a.wav", TONE[:4_000]), "at least 0.5 s", id="too short"),
        pytest.param(_wav("a.wav", TONE[:0]), "could be decoded|lasts 0.00", id="no samples"),
        pytest.param(_wav("a.wav", _poisoned(np.nan), subtype="FLOAT"), "no numbers", id="not a number"),
        pytest.param(_wav("a.wav", _poisoned(np.inf), subtype="FLOAT"), "no numbers", id="infinite"),
        pytest.param(_wav("a.wav", 0 * TONE), "silent", id="digital silence"),
        pytest.param(_wav("a.wav", 1e-4 * TONE, subtype="FLOAT"), "silent", id="inaudible"),
    ],
)
def test_refuses(tmp_path: Path, make: Maker, message: str) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_audio(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text


def _converted(name: str, *options: str) -> Maker:
    def make(folder: Path) -> Path:
        source = write(folder / "source.wav", tone(8.0))
        pictures = ["-f", "lavfi", "-i", "testsrc=s=160x120:r=25:d=8"] if "-c:v" in options else []
        command = [ffmpeg_binary(), "-v", "error", "-y", *pictures, "-i", str(source), *options, str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return folder / name

    return make


FIRST = ("-movflags", "+faststart")  # the index is before the sound


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_converted("a.m4a", "-c:a", "aac", *FIRST), id="M4A"),
        pytest.param(_converted("a.mp4", "-c:v", "libx264", "-c:a", "aac", *FIRST), id="video"),
        pytest.param(_converted("a.mov", "-c:v", "libx264", "-c:a", "pcm_s16le", *FIRST), id="QuickTime"),
        pytest.param(_converted("a.mkv", "-c:a", "flac"), id="Matroska"),
        pytest.param(_wav("a.wav", tone(8.0)), id="WAV"),
        pytest.param(_wav("a.flac", tone(8.0)), id="FLAC"),
        pytest.param(_wav("a.aiff", tone(8.0)), id="AIFF"),
        pytest.param(_wav("a.caf", tone(8.0)), id="CAF"),
    ],
)
@pytest.mark.parametrize("share", [0.97, 1.0])
def test_a_little_that_is_missing_at_the_end_is_said(
    tmp_path: Path, make: Maker, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = len(load_audio(_cut(make, share)(tmp_path))) / 16_000
    if share == 1.0:
        assert seconds == pytest.approx(8.0, abs=0.1)
        assert not caplog.records
    else:
        assert 7.5 < seconds < 7.95
        line = f"its last {8.0 - seconds:.1f} s of 8.0 s are not there and were not read: it was cut off"
        assert caplog.text.count(line) == 1


def test_three_hours_are_refused_before_decoding(tmp_path: Path) -> None:
    """A sparse file: 4 hours of zeros that take no disk."""
    path = write(tmp_path / "long.wav", TONE[:100], 8_000, "PCM_U8")
    num_bytes = 4 * 3600 * 8_000
    data = bytearray(path.read_bytes()[:44])
    data[4:8] = (36 + num_bytes).to_bytes(4, "little")
    data[40:44] = num_bytes.to_bytes(4, "little")
    with path.open("wb") as f:
        f.write(data)
        f.truncate(44 + num_bytes)
    for read in (probe, load_audio):
        with pytest.raises(InputError, match=r"4\.0 h, more than 3 h; split it"):
            read(path)


def test_length_is_watched_while_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MAX_SECONDS", 2)
    monkeypatch.setattr(ingest, "declared_seconds", lambda *_: None)
    with pytest.raises(InputError, match="split it"):
        load_audio(write(tmp_path / "a.wav", TONE))


def test_silence_can_be_allowed(tmp_path: Path) -> None:
    assert not load_audio(write(tmp_path / "a.wav", 0 * TONE), allow_silence=True).any()


def _speech_channel(path: Path, channels: int, options: list[str]) -> Path:
    """A file whose speech is in one of many channels, converted by the ffmpeg program."""
    wav = np.zeros((len(TONE), channels), np.float32)
    wav[:, 2] = TONE
    source = write(path.with_suffix(".source.wav"), wav)
    subprocess.run([ffmpeg_binary(), "-v", "error", "-i", str(source), *options, str(path)], check=True)
    return path


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("a.wav", 8, []),
        ("a.flac", 8, []),
        ("a.m4a", 8, ["-c:a", "aac"]),
        ("a.mkv", 8, ["-c:a", "aac"]),
        ("b.wav", 7, []),
        ("b.wav", 10, []),
        ("b.wav", 16, []),
        ("b.wav", 64, []),
    ],
)
def test_speech_in_one_of_many_channels(tmp_path: Path, name: str, channels: int, options: list[str]) -> None:
    audio = load_audio(_speech_channel(tmp_path / name, channels, options))
    assert len(audio) / 16_000 == pytest.approx(3.0, abs=0.05)
    assert np.sqrt(np.square(audio).mean()) == pytest.approx(RMS, rel=0.05)


def test_more_channels_than_can_be_converted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros((8_000, 65), np.float32), 8_000)
    with pytest.raises(InputError, match="65 channels, more than 64"):
        load_audio(path)


def test_tags_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", TONE)
    expected = load_audio(path)
    text = b"INAM\x06\0\0\0Jos\xe9\0\0"
    path.write_bytes(path.read_bytes() + b"LIST" + (4 + len(text)).to_bytes(4, "little") + b"INFO" + text)
    np.testing.assert_array_equal(load_audio(path), expected)


def test_a_constant_offset_is_removed(tmp_path: Path) -> None:
    centred = load_audio(write(tmp_path / "a.wav", TONE, subtype="FLOAT"))
    shifted = load_audio(write(tmp_path / "b.wav", TONE + 0.5, subtype="FLOAT"))
    np.testing.assert_allclose(shifted[100:-100], centred[100:-100], atol=2e-3)
    small = load_audio(write(tmp_path / "c.wav", TONE + 0.005, subtype="FLOAT"))
    assert small.mean() == pytest.approx(0.005, abs=1e-3), "of no account, and not touched"


@pytest.mark.parametrize("name", ["Jos\udce9.wav", "-a.wav"])
def test_names_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write(tmp_path / "a.wav", TONE).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(load_audio(name)) == 48_000


@pytest.mark.parametrize("rate", [1, 8, 1_999, 1_000_001, 2_000_000_000])
def test_a_damaged_sample_rate_is_refused_at_once(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(6_000, rate=rate, byte_rate=0) + pcm(TONE[:3_000]))
    for read in (probe, load_audio):
        with pytest.raises(InputError, match=f"sample rate of {rate} Hz|h, more than 3 h"):
            read(path)


def test_a_picture_is_no_sound(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
        with pytest.raises(InputError, match="it has no sound"):
            load_audio(tmp_path / name)


def test_messages_name_no_option(tmp_path: Path) -> None:
    """Several commands read sound, each by an option of its own."""
    with pytest.raises(InputError, match=r"none\.wav: there is no such file; check its path$"):
        load_audio(tmp_path / "none.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", TONE)
    path.chmod(0)
    with pytest.raises(InputError, match="permissions"):
        load_audio(path)
