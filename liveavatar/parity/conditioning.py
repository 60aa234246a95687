"""Parity of what prepares a job: LoRA merge, video size, picture crop, resampling of speech features."""

import csv
from collections.abc import Iterator

import numpy as np
import torch

from liveavatar.audio.encoders.wav2vec2 import frame_features, stretch
from liveavatar.checkpoints.lora import merge_lora
from liveavatar.errors import InputError
from liveavatar.media.sizes import released_crop, released_size
from liveavatar.parity.fixtures import Fixtures
from liveavatar.parity.report import Comparison, Part

LORA_TOLERANCE = 1e-5
BUCKET_TOLERANCE = 1e-6
REF_IMAGE_AREA = 384 * 256  # the set's pictures were made with --size 384*256
SIZE_TABLE = "ref_size_table.tsv"


def check_lora(fix: Fixtures) -> Iterator[Part]:
    """Merge the LoRA and compare every changed weight."""
    file, merged = fix.file("lora_file"), fix.file("lora_merged")
    state = dict(fix.file("dit_weights").tensors)
    changed = merge_lora(state, file.tensors, int(file.meta("rank")), float(file.meta("alpha")))
    result = Comparison()
    for key, expected in merged.tensors.items():
        result.add(key, state[key], expected)
    for key in sorted(set(changed) - merged.tensors.keys()):
        result.add(f"{key} (must not change)", state[key], fix.file("dit_weights")[key])
    yield result.part("lora.merge", LORA_TOLERANCE)


def check_sizes(fix: Fixtures) -> Iterator[Part]:
    """Compare width and height for every row of the table."""
    result = Comparison()
    with fix.path(SIZE_TABLE).open(newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t"))
    for row in rows:
        try:
            width, height = (int(side) for side in row["size_flag"].split("*"))
            source = (int(row["in_w"]), int(row["in_h"]))
            expected = torch.tensor([int(row["out_w"]), int(row["out_h"])])
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            raise InputError(f"parity fixture {SIZE_TABLE} is damaged ({e}); copy it from its source again") from e
        ours = torch.tensor(released_size(*source, width * height))
        result.add(f"{source} at {row['size_flag']}", ours, expected)
    yield result.part("ref_size", 0.0)


def check_image(fix: Fixtures) -> Iterator[Part]:
    """Compare resizing and cropping with the reference's black bars, in grey levels."""
    file, result = fix.file("ref_image"), Comparison()
    for key in sorted(k for k in file.tensors if k.endswith(".in_rgb_hwc_u8")):
        name = key.split(".")[0]
        picture, expected = file[key].numpy(), file[f"{name}.out_rgb_hwc_u8"]
        height, width = expected.shape[:2]
        size = released_size(picture.shape[1], picture.shape[0], REF_IMAGE_AREA)
        result.add(f"{name} size", torch.tensor(size), torch.tensor((width, height)))
        ours = released_crop(picture, width, height)
        result.add(name, torch.from_numpy(ours), expected)
        extremes = np.array([ours.min(), ours.max()], dtype=np.float32) / 127.5 - 1
        if f"{name}.pixel_values_minmax" in file.tensors:
            result.add(f"{name} range", torch.from_numpy(extremes), file[f"{name}.pixel_values_minmax"])
    yield result.part("ref_image", 1e-6)


def check_bucket(fix: Fixtures) -> Iterator[Part]:
    """Compare features resampled 50 Hz -> 30 Hz -> video frames, with and without neighbours."""
    file = fix.file("audio_bucket")
    stretched, sampled = Comparison(), Comparison()
    for key in sorted(k for k in file.tensors if k.endswith(".hidden50")):
        name = key.split(".")[0]
        fps, clip_frames, num_clips = file[f"{name}.fps_batch_nclips"].tolist()
        features = file[f"{name}.feat30"]
        stretched.add(f"{name}.feat30", stretch(file[key]), features)
        for bucket in sorted(k for k in file.tensors if k.endswith(".bucket") and k.split(".")[0].startswith(name)):
            variant = bucket.split(".")[0]
            if variant != name and not variant.startswith(f"{name}_m"):
                continue
            window = int(variant.removeprefix(f"{name}_m")) if variant != name else 0
            ours, clips = frame_features(features, fps, clip_frames, window)
            expected = file[bucket]
            # The reference drops the axis of hidden states when there is only one.
            sampled.add(bucket, ours.view(expected.shape) if ours.numel() == expected.numel() else ours, expected)
            sampled.add(f"{name} clips", torch.tensor(clips), torch.tensor(num_clips))
    yield stretched.part("audio_bucket.stretch", BUCKET_TOLERANCE)
    yield sampled.part("audio_bucket.frames", BUCKET_TOLERANCE)


def groups(group: type) -> tuple:
    """Groups of this module, made with `liveavatar.parity.checks.CheckGroup`."""
    return (
        group(
            names=("lora.merge",),
            files=("dit_weights", "lora_file", "lora_merged"),
            tolerance=LORA_TOLERANCE,
            check=check_lora,
        ),
        group(names=("ref_size",), files=(SIZE_TABLE,), tolerance=0.0, check=check_sizes),
        group(names=("ref_image",), files=("ref_image",), tolerance=1e-6, check=check_image),
        group(
            names=("audio_bucket.stretch", "audio_bucket.frames"),
            files=("audio_bucket",),
            tolerance=BUCKET_TOLERANCE,
            check=check_bucket,
        ),
    )
