"""Sounds: containers, codecs, channels, headers, levels, and files that are no sound."""

import struct
from pathlib import Path

import numpy as np

from liveavatar.timing import SAMPLE_RATE
from tests.audio.sounds import noise, pcm, wav_header, write, write_with_hole
from tests.odd_inputs.case import SECONDS, Case, Check, Maker, changed, ffmpeg, renamed, speech, speech_file, written

PICTURES = ("-f", "lavfi", "-i", f"testsrc=s=160x120:r=25:d={SECONDS}")
COVER = ("-f", "lavfi", "-i", "color=red:s=600x600:d=1")
MAX_LAG = 0.08  # s; containers without an edit list keep the delay of their coder, up to 1152 samples
PCM = pcm(speech())
SIZE = len(PCM)


def heard(seconds: float = SECONDS, like: float = 0.9, within: float = 0.1) -> Check:
    """Assert a length in seconds and the correlation with the speech at the best shift below `MAX_LAG`."""

    def check(samples: np.ndarray) -> None:
        assert samples.dtype == np.float32
        assert abs(len(samples) / SAMPLE_RATE - seconds) < within, f"{len(samples) / SAMPLE_RATE:.2f} s"
        assert np.abs(samples).max() <= 1.0
        assert likeness(samples) >= like, f"likeness {likeness(samples):.2f}"

    return check


def likeness(samples: np.ndarray) -> float:
    """Correlation with the speech at the best shift."""
    count = min(len(samples), len(speech()))
    one, other = samples[:count], speech()[:count]
    both = np.fft.irfft(np.fft.rfft(one, 2 * count) * np.conj(np.fft.rfft(other, 2 * count)))
    lags = round(MAX_LAG * SAMPLE_RATE)
    best = max(both[: lags + 1].max(), both[-lags:].max())
    return float(best / max(1e-9, np.linalg.norm(one) * np.linalg.norm(other)))


def any_sound(seconds: float, within: float = 0.1) -> Check:
    """Assert a length in seconds."""
    return heard(seconds, like=-1.0, within=within)


def coded(name: str, *options: str) -> Maker:
    """Convert the speech with ffmpeg."""

    def make(folder: Path) -> Path:
        ffmpeg("-i", speech_file(folder), *options, folder / name)
        return folder / name

    return make


def filmed(name: str, *options: str, before: tuple[str, ...] = ()) -> Maker:
    """Put the speech beside test pictures; inputs 0 and 1."""

    def make(folder: Path) -> Path:
        ffmpeg(*PICTURES, *before, "-i", speech_file(folder), *options, folder / name)
        return folder / name

    return make


def with_cover(name: str, codec: str) -> Maker:
    """Put a cover picture into a music file."""

    def make(folder: Path) -> Path:
        ffmpeg(*COVER, "-frames:v", "1", folder / "cover.jpg")
        ffmpeg("-i", speech_file(folder), "-i", folder / "cover.jpg", "-map", "0", "-map", "1", "-c:a", codec, "-c:v",
               "copy", "-disposition:v", "attached_pic", folder / name)  # fmt: skip
        return folder / name

    return make


def samples(name: str, audio: np.ndarray, rate: int = SAMPLE_RATE, subtype: str | None = None) -> Maker:
    """Write samples."""
    return lambda folder: write(folder / name, audio, rate, subtype)


def hole(name: str, codec: str) -> Maker:
    """Jump over 2 s in the time stamps after the first second."""

    def make(folder: Path) -> Path:
        wide = np.repeat(speech(), 3)  # 48 kHz
        return write_with_hole(folder / name, wide, 1.0, 2.0, codec)

    return make


def id3(size: int) -> bytes:
    """An ID3v2 tag whose content looks like MP3 frames."""
    length = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    return (
        b"ID3\3\0\0"
        + length
        + b"PRIV"
        + struct.pack(">I", size - 10)
        + b"\0\0"
        + (b"\xff\xfb\x90\x64" * size)[: size - 10]
    )


def no_length(flac: bytes) -> bytes:
    """Set the number of samples in a FLAC header to unknown."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def only(channel: int, channels: int) -> np.ndarray:
    """Put the speech into one of many channels."""
    audio = np.zeros((len(speech()), channels), np.float32)
    audio[:, channel] = speech()
    return audio


LONG_GAP = np.concatenate([speech(), np.zeros(20 * SAMPLE_RATE, np.float32)])
MP3, M4A = coded("a.mp3", "-c:a", "libmp3lame", "-b:a", "48k"), coded("a.m4a", "-c:a", "aac", "-b:a", "64k")
OGG, FLAC = coded("a.ogg", "-c:a", "libopus", "-b:a", "32k"), coded("a.flac", "-c:a", "flac")
WAV = samples("a.wav", speech())
HEADER = wav_header(SIZE)

FORMATS = [
    ("24 bit stereo 48 kHz", coded("a.wav", "-c:a", "pcm_s24le", "-ar", "48000", "-ac", "2")),
    ("32 bit 192 kHz", coded("a.wav", "-c:a", "pcm_s32le", "-ar", "192000")),
    ("float 44.1 kHz", coded("a.wav", "-c:a", "pcm_f32le", "-ar", "44100")),
    ("double 96 kHz", coded("a.wav", "-c:a", "pcm_f64le", "-ar", "96000")),
    ("8 bit", coded("a.wav", "-c:a", "pcm_u8")),
    ("A-law 8 kHz", coded("a.wav", "-c:a", "pcm_alaw", "-ar", "8000")),
    ("mu-law 8 kHz", coded("a.au", "-c:a", "pcm_mulaw", "-ar", "8000")),
    ("ADPCM of Microsoft", coded("a.wav", "-c:a", "adpcm_ms", "-ar", "22050")),
    ("ADPCM of IMA", coded("a.wav", "-c:a", "adpcm_ima_wav", "-ar", "22050")),
    ("11.025 kHz", coded("a.wav", "-ar", "11025")),
    ("37.8 kHz", coded("a.wav", "-ar", "37800")),
    ("Wave64", coded("a.w64")),
    ("RF64", coded("a.wav", "-rf64", "always")),
    ("AIFF", coded("a.aiff")),
    ("AIFF little-endian", coded("a.aifc", "-c:a", "pcm_s16le", "-f", "aiff")),
    ("Core Audio", coded("a.caf", "-c:a", "pcm_s16le")),
    ("Creative voice", coded("a.voc", "-ar", "16000")),
    ("FLAC", FLAC),
    ("FLAC of unknown length", changed(FLAC, no_length)),
    ("FLAC in Ogg", coded("a.oga", "-c:a", "flac")),
    ("FLAC in Matroska", coded("a.mka", "-c:a", "flac")),
    ("ALAC", coded("a.m4a", "-c:a", "alac")),
    ("True Audio", coded("a.tta")),
    ("WavPack", coded("a.wv")),
    ("AAC in MP4", M4A),
    ("AAC raw", coded("a.aac", "-c:a", "aac")),
    ("MP3", MP3),
    ("MP3 of variable rate", coded("a.mp3", "-c:a", "libmp3lame", "-q:a", "5")),
    ("MP2", coded("a.mp2", "-c:a", "mp2")),
    ("AC-3", coded("a.ac3", "-c:a", "ac3")),
    ("E-AC-3", coded("a.eac3", "-c:a", "eac3")),
    ("Opus in Ogg", OGG),
    ("Opus", coded("a.opus", "-c:a", "libopus")),
    ("Opus in WebM", coded("a.webm", "-c:a", "libopus")),
    ("WebM of a browser's recorder", coded("a.webm", "-c:a", "libopus", "-f", "webm", "-live", "1")),
    ("Vorbis", coded("a.ogg", "-c:a", "libvorbis")),
    ("WMA", coded("a.wma", "-c:a", "wmav2", "-b:a", "96k")),
    ("fragmented MP4", coded("a.mp4", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov")),
    ("3GP", coded("a.3gp", "-c:a", "aac")),
    ("transport stream", coded("a.ts", "-c:a", "aac")),
    ("Flash", coded("a.flv", "-c:a", "aac")),
    ("film", filmed("a.mp4", "-c:v", "libx264", "-c:a", "aac")),
    ("QuickTime film", filmed("a.mov", "-c:v", "libx264", "-c:a", "pcm_s16le")),
    ("AVI film", filmed("a.avi", "-c:v", "mpeg4", "-c:a", "libmp3lame")),
    ("film whose sound begins late", filmed("a.mp4", "-c:v", "libx264", "-c:a", "aac", before=("-itsoffset", "1.0"))),
    ("negative time stamps", coded("a.mkv", "-c:a", "libopus", "-avoid_negative_ts", "disabled")),
    ("cover picture in MP4", with_cover("a.m4a", "aac")),
    ("cover picture in MP3", with_cover("a.mp3", "libmp3lame")),
    ("MP3 named WAV", renamed(MP3, "mp3.wav")),
    ("WAV named MP3", renamed(WAV, "wav.mp3")),
    ("name with spaces and letters", renamed(WAV, "Übung 一 'x' %d.wav")),
    ("no suffix", renamed(WAV, "sound")),
    ("large tag", changed(MP3, lambda mp3: id3(2_000_000) + mp3)),
    ("two tags", changed(MP3, lambda mp3: id3(3_000) + id3(20_000) + mp3)),
    ("Latin-1 tag", changed(coded("a.wav", "-metadata", "title=JosX"), lambda wav: wav.replace(b"JosX", b"Jos\xe9"))),
    ("left channel only", samples("a.wav", only(0, 2))),
    ("channels that cancel each other", samples("a.wav", np.stack([speech(), -speech()], 1))),
    *((f"one of {count} channels", samples("a.wav", only(2, count))) for count in (3, 6, 7, 8, 10, 16)),
    ("7.1 FLAC, speech in the centre", coded("a.flac", "-af", "pan=7.1|FC=c0|FL=0*c0|FR=0*c0")),
    ("7.1 AAC", coded("a.m4a", "-af", "pan=7.1|FC=c0|FL=0*c0|FR=0*c0", "-c:a", "aac", "-b:a", "256k")),
    ("half as loud", samples("a.wav", 0.5 * speech())),
    ("very quiet", samples("a.wav", 0.005 * speech(), subtype="FLOAT")),
    ("clipped", samples("a.wav", np.clip(12 * speech(), -1, 1))),
    ("float in the range of integers", samples("a.wav", 30_000 * speech(), subtype="FLOAT")),
]
HEADERS = [
    *((f"length {size:#x}", written("a.wav", wav_header(size) + PCM), "")
      for size in (0, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7FFF_F000, 0xFFFF_F000)),
    *((f"placeholder {size}", written("a.wav", wav_header(size) + PCM), "placeholder")
      for size in (2_000_000_000, 0x4000_0000, 1 << 24)),
    ("length too small", written("a.wav", wav_header(SIZE // 3) + PCM), "3.0 s are there and were read"),
    ("four hours by its header", written("a.wav", wav_header(4 * 3600 * 32_000) + PCM), "placeholder"),
    ("two files glued", written("a.wav", 2 * (wav_header(SIZE // 2) + PCM[: SIZE // 2])), "glued"),
    ("no byte rate", written("a.wav", wav_header(SIZE, byte_rate=0) + PCM), "byte rate"),
    ("wrong byte rate", written("a.wav", wav_header(SIZE, byte_rate=16_000) + PCM), "byte rate"),
    ("odd length", written("a.wav", wav_header(SIZE + 1) + PCM + b"\1"), ""),
    ("text behind the sound", written("a.wav", HEADER + PCM + b"JUNK" * 2000), "no sound and were not read"),
    ("list before the sound", written("a.wav", HEADER[:36] + b"LIST" + struct.pack("<I", 5000) + bytes(5000)
                                      + HEADER[36:] + PCM), ""),
    ("sizes of RIFF wrong", written("a.wav", wav_header(SIZE, riff=8) + PCM), ""),
]  # fmt: skip
OTHERS = [
    Case(name="hole in WebM", make=hole("a.webm", "libopus"), check=any_sound(5.0), words="2.0. s are missing"),
    Case(name="hole in MP4", make=hole("a.m4a", "aac"), check=any_sound(5.0), words="2.0. s are missing"),
    Case(name="half an MP3", make=changed(MP3, lambda d: d[: len(d) // 2]), check=any_sound(1.5, 0.2), words="there"),
    Case(name="half an Ogg", make=changed(OGG, lambda d: d[: len(d) // 2]), check=any_sound(1.3, 0.8), words="cut off"),
    Case(name="offset", make=samples("a.wav", 0.4 * speech() + 0.5), check=heard(), words="offset .* removed"),
    Case(name="silence at the end", make=samples("a.wav", LONG_GAP), check=any_sound(23.0)),
    Case(name="noise", make=samples("a.wav", noise(3.0)), check=any_sound(3.0)),
    Case(name="barely long enough", make=samples("a.wav", speech()[8000:17_000]), check=any_sound(0.56)),
    Case(name="cut edit list", check=any_sound(1.8, 0.3),
         make=lambda folder: _cut_film(folder)),
    Case(name="default track is the second", check=heard(like=0.8), make=lambda folder: _two_tracks(folder)),
]  # fmt: skip
REFUSED = [
    ("empty", written("a.wav", b""), "empty"),
    ("header alone", written("a.wav", wav_header(0)), "nothing in it|0.00 s"),
    ("page of a server", written("a.mp3", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"), "cannot be read"),
    ("pointer of Git LFS", written("a.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "cannot"),
    ("playlist", written("a.m3u8", b"#EXTM3U\n#EXTINF:3,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"), "is a playlist"),
    ("list of files", written("a.txt", b"ffconcat version 1.0\nfile speech-source.wav\n"), "is a playlist"),
    ("SILK of a messenger", written("a.amr", b"\2#!SILK_V3" + bytes(range(256)) * 16), "cannot be read"),
    ("picture", lambda folder: _cover(folder), "no sound|cannot be read"),
    ("random bytes", written("a.wav", np.random.default_rng(3).bytes(40_000)), "cannot be read"),
    ("MP4 without its index", changed(M4A, lambda d: d[: len(d) // 2]), "its index"),
    ("half a WAV", changed(WAV, lambda d: d[: len(d) // 2]), "cut off"),
    ("half a FLAC", changed(FLAC, lambda d: d[: len(d) // 2]), "cut off"),
    ("film without sound", filmed("a.mp4", "-map", "0:v", "-c:v", "libx264"), "no sound"),
    ("too short", samples("a.wav", speech()[:6400]), "0.40 s; give at least"),
    ("silence", samples("a.wav", 0 * speech()), "silent"),
    ("no numbers", samples("a.wav", np.full(48_000, np.nan, np.float32), subtype="FLOAT"), "no numbers"),
    ("65 channels", samples("a.wav", np.zeros((8000, 65), np.float32), 8000), "more than 64"),
]  # fmt: skip


def _cover(folder: Path) -> Path:
    ffmpeg(*COVER, "-frames:v", "1", folder / "cover.jpg")
    return folder / "cover.jpg"


def _cut_film(folder: Path) -> Path:
    whole = filmed("whole.mp4", "-c:v", "libx264", "-c:a", "aac")(folder)
    ffmpeg("-ss", "1.2", "-i", whole, "-c", "copy", folder / "a.mp4")
    return folder / "a.mp4"


def _two_tracks(folder: Path) -> Path:
    """A film whose first track is music, and whose second, the default one, is the speech."""
    tone = ("-f", "lavfi", "-i", f"sine=440:r=48000:d={SECONDS}")
    ffmpeg(*PICTURES, *tone, "-i", speech_file(folder), "-map", "0:v", "-map", "1:a", "-map", "2:a", "-c:v", "libx264",
           "-c:a", "aac", "-disposition:a:0", "0", "-disposition:a:1", "default", folder / "a.mkv")  # fmt: skip
    return folder / "a.mkv"


CASES = [
    *(Case(name=name, make=make, check=heard(like=0.75 if "clipped" in name else 0.9)) for name, make in FORMATS),
    *(Case(name=name, make=make, check=heard(like=-1.0 if "glued" in name else 0.9), words=words)
      for name, make, words in HEADERS),
    *OTHERS,
    *(Case(name=name, make=make, words=words) for name, make, words in REFUSED),
]  # fmt: skip
