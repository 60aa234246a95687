"""WAV and Ogg files whose headers are wrong are read as far as their bytes go, with a line that says so."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from liveavatar.audio.headers import ogg_cut, read_wav
from liveavatar.audio.ingest import load_audio, probe
from liveavatar.errors import InputError
from tests.audio.sounds import noise, pcm, tone, wav_header, write

SOUND = pcm(noise(3.0))
HALF = len(SOUND) // 2
WHOLE = np.frombuffer(SOUND, "<i2").astype(np.float32) / 32_768
TEXTS = b"LIST" + struct.pack("<I", 5_000) + b"INFO" + bytes(4_996)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(wav_header(len(SOUND)) + SOUND, "", id="right"),
        pytest.param(wav_header(len(SOUND)) + SOUND + TEXTS, "", id="texts behind the sound"),
        pytest.param(wav_header(len(SOUND))[:36] + TEXTS + wav_header(len(SOUND))[36:] + SOUND, "", id="texts before"),
        pytest.param(wav_header(len(SOUND) + 1) + SOUND, "", id="odd size"),
        pytest.param(
            wav_header(HALF) + SOUND[:HALF] + b"data" + struct.pack("<I", HALF) + SOUND[HALF:],
            "2 WAV files are glued",
            id="two chunks of sound",
        ),
        pytest.param(wav_header(0, 0) + SOUND, "", id="zero"),
        pytest.param(wav_header(0x7FFF_FFFF, 0x7FFF_FFFF) + SOUND, "", id="half the maximum"),
        pytest.param(wav_header(0xFFFF_FFFF, 0xFFFF_FFFF) + SOUND, "", id="maximum"),
        pytest.param(wav_header(2_000_000_000) + SOUND, "a placeholder; 3.0 s are there", id="two billions"),
        pytest.param(wav_header(0x4000_0000) + SOUND, "a placeholder; 3.0 s are there", id="1 GiB"),
        pytest.param(wav_header(0x4000_0000 - 36) + SOUND, "a placeholder; 3.0 s are there", id="1 GiB with header"),
        pytest.param(wav_header(100_000_000) + SOUND, "a placeholder; 3.0 s are there", id="a hundred millions"),
        pytest.param(wav_header(len(SOUND) // 3) + SOUND, "announces 1.0 s of sound, 3.0 s are there", id="too small"),
        pytest.param(
            wav_header(HALF) + SOUND[:HALF] + wav_header(HALF) + SOUND[HALF:], "2 WAV files are glued", id="glued"
        ),
        pytest.param(
            wav_header(HALF) + SOUND[:HALF] + TEXTS + wav_header(HALF) + SOUND[HALF:] + TEXTS,
            "2 WAV files are glued",
            id="glued, with texts",
        ),
        pytest.param(
            wav_header(0, 0) + SOUND[:HALF] + wav_header(0xFFFF_FFFF, 0) + SOUND[HALF:],
            "2 WAV files are glued",
            id="glued, without sizes",
        ),
        pytest.param(
            b"".join(wav_header(9_600) + SOUND[at : at + 9_600] for at in range(0, len(SOUND), 9_600)),
            "10 WAV files are glued",
            id="ten parts",
        ),
        pytest.param(wav_header(len(SOUND), byte_rate=16_000) + SOUND, "byte rate of 16000", id="byte rate of 8 bit"),
        pytest.param(wav_header(len(SOUND), byte_rate=0) + SOUND, "byte rate of 0", id="byte rate of zero"),
        pytest.param(wav_header(len(SOUND)) + SOUND + b"JUNK" * 2_000, "8000 bytes behind its sound", id="text behind"),
        pytest.param(wav_header(len(SOUND)) + SOUND + bytes(8_000), "8000 bytes behind its sound", id="zeros behind"),
        pytest.param(
            wav_header(len(SOUND)) + SOUND + wav_header(HALF, rate=8_000) + SOUND[:HALF],
            "in another format",
            id="another format glued to it",
        ),
    ],
)
def test_all_sound_of_a_wav_is_read(
    tmp_path: Path, content: bytes, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    np.testing.assert_array_equal(load_audio(path), WHOLE)
    assert [record.getMessage().count(line) for record in caplog.records] == ([1] if line else [])
    assert probe(path).duration_s == pytest.approx(3.0, abs=0.001)


INTEGERS = (np.frombuffer(SOUND, "<i2").astype("<i4") << 8) | 1  # 24 bits
EXTENSIBLE = struct.pack("<HHI", 22, 24, 4) + b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"


@pytest.mark.parametrize(
    ("samples", "form"),
    [
        pytest.param(INTEGERS << 8, (0xFFFE, 32, EXTENSIBLE), id="extensible"),
        pytest.param(INTEGERS, (0xFFFE, 32, EXTENSIBLE), id="extensible, padding behind"),
        pytest.param(INTEGERS << 8, (1, 24, b""), id="padding in front"),
        pytest.param(INTEGERS, (1, 24, b""), id="padding behind, as arecord writes S24_LE"),
        pytest.param(INTEGERS.astype("<f4"), (1, 24, b""), id="floating point, as Cool Edit wrote it"),
    ],
)
def test_24_bits_in_32_are_read(samples: np.ndarray, form: tuple[int, int, bytes], tmp_path: Path) -> None:
    tag, bits, more = form
    fmt = struct.pack("<HHIIHH", tag, 1, 16_000, 64_000, 4, bits) + more
    data = struct.pack("<4sI", b"data", samples.nbytes) + samples.tobytes()
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + data
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    np.testing.assert_allclose(load_audio(path), INTEGERS / 2**23, atol=1e-6)


def test_a_wav_of_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.0), 16_000, endian="BIG")
    with pytest.raises(InputError, match=r"most significant byte first \(RIFX\)"):
        load_audio(path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_wav_that_is_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(len(SOUND)) + SOUND[: int(share * len(SOUND))])
    with pytest.raises(InputError, match=r"cut off, .* of 3\.0 s are there"):
        load_audio(path)


def test_a_glued_wav_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(HALF) + SOUND[:HALF] + wav_header(HALF) + SOUND[HALF : HALF + 8_000])
    with pytest.raises(InputError, match=r"cut off, 1\.[78] s of 3\.0 s are there"):
        load_audio(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", wav_header(8)[:36], b"RIFF\0\0\0\0WAVEdata\x08\0\0\0" + bytes(8), SOUND],
)
def test_other_files_are_no_wav(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert read_wav(tmp_path / "a.wav") is None


def test_the_mended_view_can_be_sought(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(HALF) + SOUND[:HALF] + wav_header(HALF) + SOUND[HALF:])
    wav = read_wav(path)
    assert wav is not None
    with wav.stream() as stream:
        assert stream.read() == wav_header(len(SOUND)) + SOUND
        assert stream.seek(44 + HALF - 2) == 44 + HALF - 2
        assert stream.read(4) == SOUND[HALF - 2 : HALF + 2]
        assert stream.seek(-2, 2) == 44 + len(SOUND) - 2
        assert stream.read() == SOUND[-2:]


def test_half_an_ogg_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.ogg", tone(10.0))
    data = path.read_bytes()
    assert ogg_cut(path) is None
    load_audio(path)
    assert not caplog.records
    path.write_bytes(data[: len(data) // 2])
    assert len(load_audio(path)) < 8 * 16_000
    assert "it is cut off (its last page is incomplete)" in caplog.text
    path.write_bytes(data[: data.rfind(b"OggS")])
    assert ogg_cut(path) == "it has no end mark"
    path.write_bytes(b"OggS")
    assert ogg_cut(path) == "its last page is incomplete"
