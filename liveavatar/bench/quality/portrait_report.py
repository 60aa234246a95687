"""Table and contact sheets of a run over portraits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liveavatar.bench.quality.portrait_measures import PortraitVideo
from liveavatar.bench.quality.report import aligned, markdown_table, number
from liveavatar.face.landmarks import INNER_LIPS, LEFT_EYE_OUTER, RIGHT_EYE_OUTER, Face

ENLARGED = 3  # times, of mouth and eyes in a contact sheet
CUT = (1.4, 0.9)  # width and height of what is enlarged, eye distances
LIPS = [point for pair in INNER_LIPS for point in pair]
EYES = [RIGHT_EYE_OUTER, LEFT_EYE_OUTER]
# Columns of the table: name and heading
COLUMNS = {
    "picture": "picture",
    "size": "video",
    "verdict": "judged before",
    "speaks": "speaks",
    "av_offset_frames": "lag",
    "sync_error_frames": "sync error",
    "openness_range": "mouth opens",
    "bilabial_gap": "gap on p b m",
    "bilabials_shut": "shut on p b m",
    "likeness": "likeness",
    "identity_min": "worst second",
    "energy_face": "energy kept",
    "energy_first": "first frame",
    "fps": "frames/s",
    "note": "",
}


def portrait_lines(result: dict[str, Any]) -> list[str]:
    """Format the terminal output."""
    return [*aligned([tuple(COLUMNS.values()), *_rows(result)]), "", _summary(result)]


def portrait_page(result: dict[str, Any]) -> str:
    """Format the markdown page."""
    head = (
        f"# Portraits spoken by {result['model']}, {result['date']}\n\n"
        f"{result['audio_seconds']:.1f} s of `{result['audio']}`, {result['steps']} steps, "
        f"framing {result['framing']}, {result['device']}, {result['dtype']}; {result['seconds']:.0f} s. "
        "Command: `liveavatar bench quality --portraits DIR`. Speaks: lag 0 and a sync error of one frame at most. "
        "Lips in eye distances; likeness is the cosine of face embeddings while speaking; energy is the gradient "
        "energy of the face over the picture's, that of the first frame over that of frames 5 to 20.\n"
    )
    return "\n".join([head, markdown_table(COLUMNS.values(), _rows(result)), _summary(result), ""])


def _rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(_cell(row[name]) for name in COLUMNS) for row in result["portraits"]]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return value if isinstance(value, str) else number(value)


def _summary(result: dict[str, Any]) -> str:
    return f"{result['speaking']} of {len(result['portraits'])} speak in sync; worst: {result['worst']}"


def write_portraits(out: Path, result: dict[str, Any]) -> None:
    """Write `portraits.json` and the dated page."""
    (out / "portraits.json").write_text(json.dumps(result, indent=1))
    (out / f"portraits_{result['model']}_{result['date']}.md").write_text(portrait_page(result))


def portrait_sheet(video: PortraitVideo, path: Path) -> None:
    """Write a contact sheet: picture and frames at rest and in speech; below, their mouth and eyes enlarged.

    From the left: the picture, the first frame, lips closest, lips half open, lips widest, lids lowest. A video without
    a face has no sheet.
    """
    if video.own is None or not any(video.faces):
        return
    seen = [(video.picture, video.own), *((video.frames[t], video.faces[t]) for t in _moments(video.faces))]
    columns = [_column(rgb, face, video.own.eye_distance) for rgb, face in seen if face is not None]
    Image.fromarray(np.concatenate(columns, 1)).save(path)


def _moments(faces: list[Face | None]) -> list[int]:
    """Choose frames: the first with a face, lips closest, half open and widest, lids lowest."""
    found = {t: face for t, face in enumerate(faces) if face is not None}
    by_lips = sorted(found, key=lambda t: found[t].openness)
    half = (found[by_lips[0]].openness + found[by_lips[-1]].openness) / 2
    middle = min(found, key=lambda t: abs(found[t].openness - half))
    return [min(found), by_lips[0], middle, by_lips[-1], min(found, key=lambda t: found[t].lid_gap)]


def _column(rgb: np.ndarray, face: Face, eye_distance: float) -> np.ndarray:
    """Stack a picture, its mouth and its eyes, all of one width."""
    width = round(ENLARGED * CUT[0] * eye_distance)
    whole = Image.fromarray(rgb).resize((width, round(rgb.shape[0] * width / rgb.shape[1])), Image.Resampling.LANCZOS)
    half = np.array(CUT) * eye_distance / 2
    parts = [np.asarray(whole)]
    for points in (LIPS, EYES):
        centre = face.points[points].mean(0)
        cut = Image.fromarray(rgb).crop((*np.rint(centre - half).astype(int), *np.rint(centre + half).astype(int)))
        size = (width, round(ENLARGED * CUT[1] * eye_distance))
        parts.append(np.asarray(cut.resize(size, Image.Resampling.BICUBIC)))
    return np.concatenate(parts)
