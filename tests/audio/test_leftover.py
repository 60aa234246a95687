"""Sound behind the end that a header announces is read, or a line says how much was not."""

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from liveavatar.audio.ingest import load_audio
from liveavatar.audio.leftover import unread
from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import ffmpeg_binary
from tests.audio.sounds import noise, pcm, tone, wav_header, write, write_av

SOUND = noise(3.0)
GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 2032, 1, 0xA000_0000) + b"\5" * 2000
ID3_V1 = b"TAG" + b"x" * 125
ID3_V2 = b"ID3\x04\0\0\0\0\x10\0" + b"T" * 2048


def _riff(head: str, *values: bytes | int) -> bytes:
    return struct.pack(head, *values) + b"\1" * 5_000


Maker = Callable[[Path], bytes]


def _file(format_: str, subtype: str = "PCM_16") -> Maker:
    def make(folder: Path) -> bytes:
        soundfile.write(folder / "made", SOUND, 16_000, format=format_, subtype=subtype)
        return (folder / "made").read_bytes()

    return make


def _container(name: str, codec: str = "aac", rate: int = 48_000) -> Maker:
    return lambda folder: write_av(folder / name, tone(rate=rate), codec, pictures=False).read_bytes()


RF64 = b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0%s" + wav_header(0xFFFF_FFFF)[12:] + pcm(SOUND)


def _rf64(sizes: bytes) -> Maker:
    return lambda _: RF64.replace(b"%s", sizes + bytes(28 - len(sizes)))


FILES = {
    "adpcm": _file("WAV", "IMA_ADPCM"),
    "w64": _file("W64"),
    "rf64": _file("RF64"),
    "aiff": _file("AIFF"),
    "caf": _file("CAF"),
    "au": _file("AU"),
    "flac": _file("FLAC"),
    "mp3": lambda folder: write(folder / "made.mp3", SOUND, 16_000).read_bytes(),
    "m4a": _container("made.m4a"),
    "mov": _container("made.mov", "pcm_s16le"),
    "tta": _container("made.tta", "tta"),
    "voc": _container("made.voc", "pcm_s16le"),
    "wv": _container("made.wv", "wavpack"),
    "flv": _container("made.flv"),
    "mka": _container("made.mka", "libopus"),
}


@pytest.mark.parametrize("name", FILES)
def test_glued_files_are_read_whole(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    content = FILES[name](tmp_path)
    path = tmp_path / "a"
    path.write_bytes(content)
    one = len(load_audio(path))
    assert one / 16_000 == pytest.approx(3.0, abs=0.15)
    assert not caplog.records
    path.write_bytes(content + content)
    assert len(load_audio(path)) == pytest.approx(2 * one, abs=3200)
    if name not in ("au", "flac", "mp3", "mka"):  # their readers go on by themselves
        assert "2 recordings are glued" in caplog.text or "2 WAV files are glued" in caplog.text


def test_a_third_recording_that_is_damaged_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = FILES["m4a"](tmp_path)
    path = tmp_path / "a"
    path.write_bytes(content + content + content[: len(content) // 2])
    assert len(load_audio(path)) / 16_000 == pytest.approx(6.0, abs=0.1)
    assert f"{len(content) // 2} bytes behind its first 6.1 s are another recording that cannot be read" in caplog.text


def _sized(maker: Maker, mark: bytes, form: str, change: Callable[[int], int]) -> Maker:
    """Change the number behind a mark."""

    def make(folder: Path) -> bytes:
        data = bytearray(maker(folder))
        at = data.index(mark) + len(mark)
        (size,) = struct.unpack_from(form, data, at)
        struct.pack_into(form, data, at, change(size))
        return bytes(data)

    return make


def _third(size: int) -> int:
    return size // 3 // 2 * 2


@pytest.mark.parametrize(
    ("make", "seconds", "line"),
    [
        pytest.param(_sized(FILES["adpcm"], b"data", "<I", _third), 1.0, "about 2.0 s, were not read", id="ADPCM"),
        pytest.param(_sized(FILES["aiff"], b"SSND", ">I", _third), 1.0, "about 2.0 s, were not read", id="AIFF"),
        pytest.param(_sized(FILES["caf"], b"data", ">Q", _third), 1.0, "about 2.0 s, were not read", id="CAF"),
        pytest.param(
            _sized(FILES["w64"], b"data" + GUID, "<Q", _third), 3.0, "announces 1.0 s of sound, 3.0 s", id="W64"
        ),
        pytest.param(_rf64(struct.pack("<QQ", 0, 32_000)), 3.0, "announces 1.0 s of sound, 3.0 s", id="RF64, 64 bits"),
        pytest.param(_sized(FILES["au"], b".snd\0\0\0\x18", ">I", _third), 3.0, "", id="AU"),
        pytest.param(_rf64(b""), 3.0, "", id="RF64 from a pipe"),
        pytest.param(_rf64(struct.pack("<qq", -1, -1)), 3.0, "", id="RF64 with placeholders"),
        pytest.param(_rf64(struct.pack("<QQ", 0xFFFF_FFFF, 0xFFFF_FFFF)), 3.0, "", id="RF64 with 32 bits"),
        pytest.param(lambda f: _rf64(b"")(f).replace(b"RF64", b"BW64"), 3.0, "", id="BW64 from a pipe"),
        pytest.param(_sized(FILES["w64"], b"data" + GUID, "<Q", lambda _: 0), 3.0, "", id="W64 from a pipe"),
        pytest.param(_sized(FILES["w64"], b"data" + GUID, "<Q", lambda _: 2**64 - 1), 3.0, "", id="W64 of -1"),
        pytest.param(_sized(FILES["caf"], b"data", ">Q", lambda _: 2**64 - 1), 3.0, "", id="CAF from a pipe"),
        pytest.param(_sized(FILES["adpcm"], b"data", "<I", lambda _: 0xFFFF_FFFF), 3.0, "", id="ADPCM from a pipe"),
    ],
)
def test_wrong_lengths(
    tmp_path: Path, make: Maker, seconds: float, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a"
    path.write_bytes(make(tmp_path))
    assert len(load_audio(path)) / 16_000 == pytest.approx(seconds, abs=0.1)
    assert [record.getMessage().count(line) for record in caplog.records] == ([1] if line else [])


@pytest.mark.parametrize("name", ["adpcm", "w64", "rf64", "aiff", "caf", "au"])
def test_half_a_file_is_cut_off(tmp_path: Path, name: str) -> None:
    content = FILES[name](tmp_path)
    path = tmp_path / "a"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut off, 1\.[45] s of 3\.[01] s are there"):
        load_audio(path)


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        pytest.param("adpcm", APE, id="APE behind ADPCM"),
        pytest.param("adpcm", ID3_V1, id="ID3v1 behind ADPCM"),
        pytest.param("adpcm", ID3_V2, id="ID3v2 behind ADPCM"),
        pytest.param("adpcm", _riff("<4sI", b"LIST", 5_000), id="LIST behind ADPCM"),
        pytest.param("adpcm", bytes(5_000), id="zeros behind ADPCM"),
        pytest.param("adpcm", b"\xff" * 5_000, id="ones behind ADPCM"),
        pytest.param("aiff", _riff(">4sI", b"ID3 ", 5_000), id="ID3 in AIFF"),
        pytest.param("aiff", ID3_V1, id="ID3v1 behind AIFF"),
        pytest.param("caf", _riff(">4sQ", b"info", 5_000), id="info in CAF"),
        pytest.param("w64", _riff("<16sQ", b"LIST" + GUID, 5_024), id="LIST in W64"),
        pytest.param("m4a", _riff(">I4s", 5_008, b"free"), id="free in MP4"),
        pytest.param("m4a", _riff(">I4s", 5_008, b"uuid") + _riff(">I4s", 5_008, b"udta"), id="two boxes in MP4"),
        pytest.param("m4a", bytes(5_000), id="zeros behind MP4"),
        pytest.param("mov", ID3_V1, id="ID3v1 behind MOV"),
        pytest.param("tta", APE + ID3_V1, id="APE and ID3v1 behind TTA"),
        pytest.param("mp3", APE + ID3_V1, id="APE and ID3v1 behind MP3"),
        pytest.param("wv", APE + ID3_V1, id="APE and ID3v1 behind WavPack"),
        pytest.param("flac", ID3_V1, id="ID3v1 behind FLAC"),
    ],
)
def test_tags_and_padding_get_no_line(tmp_path: Path, name: str, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a"
    path.write_bytes(FILES[name](tmp_path) + tail)
    assert len(load_audio(path)) / 16_000 == pytest.approx(3.0, abs=0.15)
    assert not caplog.records


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4", "a.asf"])
def test_sound_may_be_shorter_than_the_pictures(tmp_path: Path, name: str) -> None:
    path = write_av(tmp_path / name, tone(0.6, rate=44_100), "libmp3lame", pictures=True, rate=44_100)
    assert len(load_audio(path)) / 16_000 == pytest.approx(0.6, abs=0.15)


def test_files_of_another_kind_behind_a_wav_are_no_sound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.wav"
    flac = FILES["flac"](tmp_path)
    path.write_bytes(wav_header(96_000) + pcm(SOUND) + flac)
    np.testing.assert_array_equal(load_audio(path), np.frombuffer(pcm(SOUND), "<i2").astype(np.float32) / 32_768)
    assert f"{len(flac)} bytes behind its sound are no sound and were not read" in caplog.text


def test_containers_that_are_read_to_their_end_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 10)
    assert unread(tmp_path / "a", {"mpegts"}, 0, 100) == 0
    assert unread(tmp_path / "a", {"caf"}, 0, 0) == 0, "positions are not known"
    assert unread(tmp_path / "a", {"caf"}, 0, 100) == 2_460


@pytest.mark.parametrize(
    "links",
    [
        pytest.param(((44_100, 1), (22_050, 1)), id="two rates"),
        pytest.param(((22_050, 2), (22_050, 1), (48_000, 1)), id="stereo and mono"),
        pytest.param(((44_100, 1), (44_100, 1), (16_000, 1)), id="the same twice"),
    ],
)
def test_a_chain_of_ogg_is_read_whatever_its_rates_are(
    links: tuple[tuple[int, int], ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, content = tmp_path / "chain.ogg", b""
    for rate, channels in links:
        sound = np.repeat(tone(1.0, rate=rate)[:, None], channels, 1)
        soundfile.write(path, sound, rate, format="OGG", subtype="VORBIS")
        content += path.read_bytes()
    path.write_bytes(content)
    audio = load_audio(path)
    assert len(audio) / 16_000 == pytest.approx(len(links), abs=0.05)
    for second in range(len(links)):
        part = audio[second * 16_000 + 2_000 : second * 16_000 + 14_000]
        assert np.argmax(np.abs(np.fft.rfft(part))) * 16_000 / len(part) == pytest.approx(220, abs=3)
    assert "recordings are glued together in it; all" in caplog.text
    assert "damaged" not in caplog.text


def _coded(path: Path, *options: str) -> Path:
    source = write(path.with_name("source.wav"), noise(3.0), 16_000)
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-i", str(source), *options, str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize("name", ["a.wma", "a.sox"])
def test_half_of_what_the_header_announces_is_cut_off(name: str, tmp_path: Path) -> None:
    path = _coded(tmp_path / name)
    assert len(load_audio(path)) / 16_000 == pytest.approx(3.0, abs=0.1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"is cut off, 1.\d s of (2.9|3.0) s are there"):
        load_audio(path)


@pytest.mark.parametrize("options", [(), ("-c:a", "pcm_u8")])
def test_a_voc_file_without_its_end_is_named(
    options: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _coded(tmp_path / "a.voc", *options)
    load_audio(path)
    assert not caplog.records
    content = path.read_bytes()
    for end, words in ((len(content) // 2, "its last block is incomplete"), (len(content) - 1, "it has no end mark")):
        path.write_bytes(content[:end])
        load_audio(path)
        assert f"it is cut off ({words})" in caplog.text


@pytest.mark.parametrize("zeros", [True, False])
def test_an_ogg_file_that_lost_its_beginning_is_named(
    zeros: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _coded(tmp_path / "a.ogg", "-c:a", "libvorbis", "-page_duration", "500000")
    load_audio(path)
    assert not caplog.records
    content = path.read_bytes()
    sound = next(found.start() for found in re.finditer(rb"OggS\0.([\0-\xff]{8})", content) if any(found[1]))
    path.write_bytes(content[: sound + 50] + bytes(3000 if zeros else 0) + content[sound + 3050 :])
    load_audio(path)
    assert "its beginning is not there" in caplog.text


def test_encrypted_sound_is_not_called_damaged(tmp_path: Path) -> None:
    keys = (
        "-encryption_key",
        "76a6c65c5ea762046bd749a2e632ccbb",
        "-encryption_kid",
        "a7e61c373e219033c21091fa607bf3b8",
    )
    path = _coded(tmp_path / "a.mp4", "-c:a", "aac", "-encryption_scheme", "cenc-aes-ctr", *keys)
    with pytest.raises(InputError, match="its sound is encrypted"):
        load_audio(path)
