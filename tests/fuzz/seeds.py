"""Valid files of every kind that a user may give or that we keep, made by generators: the seeds of the fuzz run."""

import hashlib
import io
import json
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, features
from safetensors.torch import save, save_file

from liveavatar.audio.feature_file import save_features
from liveavatar.engine.snapshot import VERSION
from liveavatar.media.ledger import SegmentLedger, VideoSegment
from liveavatar.render.spool import LATENTS, ROWS, Spool, write_finished
from liveavatar.render.timings import BlockRow
from tests.audio import sounds
from tests.conftest import make_tiny_model
from tests.media.heif_files import heif, tiled
from tests.media.test_display import film
from tests.media.videos import picture, tone, write

PNG = b"\x89PNG\r\n\x1a\n"
SIDE = 128  # pixels of the pictures
JOB = "0" * 64  # digest of the job that snapshots belong to
BLOCK_SHAPE = (2, 3, 2, 2)  # of the latents of a render under way
FILM, SEGMENTS = "film.mp4", "segments.jsonl"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\nsound.wav\n#EXTINF:3.0,\nhttp://127.0.0.1:9/x.ts\n"
CONCAT = "ffconcat version 1.0\nfile sound.wav\nfile film.mp4\n"
JOBS = [
    {"audio": "a.wav", "image": "a.png", "prompt": "a woman, speaking", "seed": 3, "out": "out/one"},
    {"audio": "b.wav", "image": "b.png", "prompt": 'a "quoted" man', "num_clip": 2, "sample_steps": 4},
]
PROMPT = (
    "A woman in a blue coat speaks warmly to the camera in a sunlit studio, 35 mm, shallow depth of field. 一位女士"
)

Maker = Callable[[Path], Iterator[Path]]


def make_seeds(folder: Path) -> dict[str, list[Path]]:
    """Write the seeds of every kind into a folder; the suffix of a file says what it is."""
    seeds = {}
    for kind, maker in MAKERS.items():
        below = folder / kind
        below.mkdir(parents=True)
        seeds[kind] = list(maker(below))
    return seeds


def _sounds(folder: Path) -> Iterator[Path]:
    speech = sounds.tone(0.8, 16_000)
    stereo = np.stack([speech, 0.5 * speech], 1)
    for name, subtype in (("s16.wav", "PCM_16"), ("f32.wav", "FLOAT"), ("u8.wav", "PCM_U8"), ("alaw.wav", "ALAW")):
        yield sounds.write(folder / name, speech, 16_000, subtype)
    yield sounds.write(folder / "stereo.wav", stereo, 22_050, "PCM_24")
    yield sounds.write(folder / "eight.wav", np.stack([speech] * 8, 1), 16_000)
    for name in ("a.mp3", "a.flac", "a.ogg", "a.aiff", "a.au", "a.caf", "a.w64"):
        yield sounds.write(folder / name, speech, 16_000)
    wide = sounds.tone(0.8, 48_000)
    for name, codec in (("a.m4a", "aac"), ("a.webm", "libopus"), ("b.ogg", "libopus"), ("a.mkv", "libopus")):
        yield sounds.write_av(folder / name, wide, codec, pictures=False)
    yield sounds.write_with_hole(folder / "hole.webm", wide, 0.4, 0.3)


def _films(folder: Path) -> Iterator[Path]:
    yield write(folder / "a.mp4", 12, tone(0.5))
    lying = np.full((64, 96, 3), 90, np.uint8)
    yield film(folder / "turned.mp4", lying, degrees=90)
    yield film(folder / "wide.mkv", lying, aspect=Fraction(2))
    yield sounds.write_av(folder / "old.avi", sounds.tone(0.5, 48_000), "mp3", pictures=True)
    yield sounds.write_av(folder / "a.mov", None, "aac", pictures=True)


def _pictures(folder: Path) -> Iterator[Path]:
    rgb = Image.fromarray(np.asarray(Image.fromarray(picture(3)).resize((SIDE, SIDE))))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("a.png", rgb, {"icc_profile": profile}),
        ("grey16.png", Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257), {}),
        ("rgba.png", rgb.convert("RGBA"), {"icc_profile": profile}),
        ("palette.png", rgb.quantize(16), {"transparency": 0}),
        ("moving.png", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("a.jpg", rgb, {"exif": exif, "icc_profile": profile}),
        ("progressive.jpg", rgb, {"progressive": True}),
        ("cmyk.jpg", rgb.convert("CMYK"), {}),
        ("a.webp", rgb, {"exif": exif}),
        ("moving.webp", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("a.gif", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("a.bmp", rgb, {}),
        ("a.ppm", rgb, {}),
        ("a.tga", rgb, {"compression": "tga_rle"}),
        ("a.ico", rgb, {}),
        ("a.tif", rgb, {"compression": "tiff_lzw", "exif": exif}),
        ("float.tif", Image.fromarray(np.asarray(rgb.convert("L"), np.float32) / 255), {}),
        ("lab.tif", rgb.convert("LAB"), {}),
    ]
    for name, codec in (("a.avif", "avif"), ("a.jp2", "jpg_2000")):
        if features.check(codec):
            variants.append((name, rgb, {}))
    for name, image, options in variants:
        image.save(folder / name, **options)  # type: ignore[arg-type]
        yield folder / name
    (folder / "a.heic").write_bytes(heif(tiled(np.asarray(rgb), 64)))
    yield folder / "a.heic"


def _tables(folder: Path) -> Iterator[Path]:
    csv = 'audio,image,prompt,seed,out\na.wav,a.png,"a woman, speaking",3,out/one\nb.wav,b.png,a man,4,out/two\n'
    (folder / "a.csv").write_text(csv)
    (folder / "excel.csv").write_text(csv.replace(",", ";"), "utf-8-sig")
    (folder / "a.jsonl").write_text("".join(json.dumps(job) + "\n" for job in JOBS))
    yield from (folder / name for name in ("a.csv", "excel.csv", "a.jsonl"))
    import pandas as pd

    pd.DataFrame(JOBS).to_parquet(folder / "a.parquet")
    yield folder / "a.parquet"


def _poses(folder: Path) -> Iterator[Path]:
    rows = [f"{i},{i % 20},{-i % 10},0.5,{i % 2},1,-1" for i in range(50)]
    (folder / "a.csv").write_text("\n".join(["frame,yaw,pitch,roll,lids,gaze_yaw,gaze_pitch", *rows]) + "\n")
    (folder / "time.csv").write_text("time, yaw, pitch, roll\n0.0, 1, 2, 3\n0.5, 2, 3, 4\n2.25, -3, 0, 1e1\n")
    yield from (folder / "a.csv", folder / "time.csv")


def _models(folder: Path) -> Iterator[Path]:
    model = make_tiny_model(folder / "model")
    yield from (model / "config.json", model / "vae.safetensors", model / "text.safetensors")


def _weights(folder: Path) -> Iterator[Path]:
    tensors = {"a.lora_A.weight": torch.randn(2, 8), "a.lora_B.weight": torch.zeros(4, 2, dtype=torch.bfloat16)}
    save_file(tensors, folder / "a.safetensors", metadata={"format": "pt"})
    torch.save(tensors, folder / "a.pth")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
    yield from (folder / "a.safetensors", folder / "a.pth", folder / "old.pth")


def _features(folder: Path) -> Iterator[Path]:
    save_features(folder / "a.pt", torch.randn(2, 8, 30).half(), encoder="tiny.en", fps=25)
    yield folder / "a.pt"


def _snapshots(folder: Path) -> Iterator[Path]:
    data = save({"ring": torch.randn(2, 8), "at": torch.tensor([3])}, metadata={"version": VERSION, "job": JOB})
    path = folder / f"block-000004-{hashlib.sha256(data).hexdigest()}.safetensors"
    path.write_bytes(data)
    yield path


def _records(folder: Path) -> Iterator[Path]:
    (folder / LATENTS).write_bytes(np.zeros(64, "<f4").tobytes())
    write_finished(folder, JOB, {"frames": 12, "latents_sha256": JOB})
    yield folder / "finished.json"
    report = {"stages": {"render": {"cached": False, "reason": "ran for the first time", "changes": []}}}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "manifest.json").write_text(json.dumps({"stages": {}, "outputs": {"video.mp4": JOB}}))
    yield from (folder / "report.json", folder / "manifest.json")


def _works(folder: Path) -> Iterator[Path]:
    """What a render under way keeps: latents, timings, the growing film and the digests of its segments."""
    with Spool(folder, BLOCK_SHAPE).appending() as spool:
        for block in range(3):
            row = BlockRow(block=block, step_ms=[1.0], decode_ms=1.0, block_ms=2.0, ready_s=0.5)
            spool.append(np.full(BLOCK_SHAPE, block, np.float32), row)
    film = folder / FILM
    film.write_bytes(bytes(range(200)))
    ledger = SegmentLedger(folder / SEGMENTS)
    for start in (0, 100):
        digest = hashlib.sha256(film.read_bytes()[start : start + 100]).hexdigest()
        ledger.append(VideoSegment(frames=12, size=100, sha256=digest, live=""))
    yield from (folder / name for name in (LATENTS, ROWS, SEGMENTS, FILM))


def _playlists(folder: Path) -> Iterator[Path]:
    sounds.write(folder / "sound.wav", sounds.tone(0.8, 16_000), 16_000)
    for name, text in (("a.m3u8", PLAYLIST), ("a.ffconcat", CONCAT), ("list.wav", PLAYLIST), ("list.mp4", CONCAT)):
        (folder / name).write_text(text)
        yield folder / name


def _prompts(folder: Path) -> Iterator[Path]:
    (folder / "prompt.txt").write_text(PROMPT)
    yield folder / "prompt.txt"


def _recordings(folder: Path) -> Iterator[Path]:
    """PCM with the header that some recorders send first, and without."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(sounds.pcm(sounds.tone(0.5, 16_000)))
    (folder / "a.wav").write_bytes(buffer.getvalue())
    (folder / "a.pcm").write_bytes(sounds.pcm(sounds.tone(0.6, 16_000)))
    yield from (folder / "a.wav", folder / "a.pcm")


MAKERS: dict[str, Maker] = {
    "sound": _sounds,
    "film": _films,
    "picture": _pictures,
    "table": _tables,
    "pose": _poses,
    "model": _models,
    "weights": _weights,
    "features": _features,
    "snapshot": _snapshots,
    "record": _records,
    "work": _works,
    "playlist": _playlists,
    "prompt": _prompts,
    "pipe": _recordings,
}
