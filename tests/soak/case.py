"""What may go wrong, and which of it happens in run k: the same for a seed wherever the run is made.

The table below lists every pair of fault and place once. Runs go through it in an order that the seed shuffles, and
draw the rest (the moment, the placement, whether the home is brand-new) from seed and index.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

STAGES = ("start", "ingest", "enhance", "features", "plan", "render", "quality", "publish")
SIGNALS = ("kill -9", "SIGTERM", "Ctrl-C", "SIGSTOP")
FOR_GOOD = "SIGSTOP for good"
HELPERS = {  # process kind: stages in which it is looked for
    "server": STAGES,
    "raylet": ("start", "features", "render", "quality"),
    "gcs": ("start", "features", "render", "quality"),
    "actor": ("plan", "render", "render", "quality"),
    "rank": ("plan", "render", "render"),
    "guardian": ("features", "render", "quality"),
    "encoder": ("render", "render"),
    "isolation": ("start", "ingest"),
    "agent": ("render",),  # of Ray: dashboard, logs, environments
}
STOPPED_FOR_GOOD = ("server", "guardian", "isolation", "agent")
PIPED = ("driver", "server", "raylet", "gcs", "actor", "encoder")  # killed while sound arrives on a pipe
WORK_FILES = ("newest snapshot", "all snapshots", "latents", "blocks", "segments", "video", "live segment")
FINISHED_FILES = ("finished record", "finished video", "finished latents")  # of a job whose driver was lost at its end
STORE_FILES = (
    *("raw.wav", "portrait.png", "cleaned.wav", "words.json", "features.pt", "blocks.json", "latents.bin"),
    *("video.mp4", "live/init.mp4", "live/segment_000001.m4s", "live/index.m3u8"),
    *("frames.parquet", "blocks.parquet", "entry.json"),
)
HOME_FILES = ("digests", "speed", "database version", "ray token", "run record")
OUT_FILES = ("published video", "published manifest", "published latents", "published table")
DAMAGE = ("bit flipped", "cut short")
DISKS = ("home", "out", "tmp")
ENGINE_FAULTS = ("kill", "kill last", "stop", "hang", "memory", "snapshot", "disk", "full", "clock", "driver", "head")
ENGINE = "engine"  # target of a fault inside the engine's processes, without a command (`tests.soak.engine`)
CRASHES = ("none", "kill -9", "SIGTERM")  # of one of several commands at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run of the soak."""

    run: int
    fault: str
    target: str  # process kind, file kind or disk
    stage: str = "render"
    moment: float = 0.5  # how far into the stage, the file or the disk, from 0 to 1
    ranks: int = 1
    fresh: bool = False  # the home is brand-new
    resume: bool = True  # a second command is given `--resume`
    commands: int = 1  # at once
    piped: bool = False  # sound arrives on standard input

    def facts(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return asdict(self)


def table() -> list[dict[str, Any]]:
    """List every fault at every place."""
    rows: list[dict[str, Any]] = []
    rows += [{"fault": s, "target": "driver", "stage": stage} for s in SIGNALS for stage in STAGES]
    rows += [{"fault": s, "target": t, "stage": stage} for t, at in HELPERS.items() for s in SIGNALS for stage in at]
    rows += [{"fault": FOR_GOOD, "target": target} for target in STOPPED_FOR_GOOD]
    rows += [{"fault": "kill -9", "target": target, "piped": True} for target in PIPED]
    rows += [{"fault": s, "target": "driver", "piped": True} for s in ("SIGTERM", "Ctrl-C")]
    rows += [{"fault": d, "target": t} for d in DAMAGE for t in (*WORK_FILES, *FINISHED_FILES)]
    rows += [
        {"fault": d, "target": t, "stage": "store"} for d in DAMAGE for t in (*STORE_FILES, *HOME_FILES, *OUT_FILES)
    ]
    rows += [{"fault": "disk full", "target": target} for target in DISKS for _ in range(3)]
    rows += [{"fault": "no space for a table", "target": "home", "stage": "quality"}]
    rows += [{"fault": "clock jumps", "target": "driver", "stage": "start"} for _ in range(2)]
    rows += [{"fault": f"{n} at once", "target": c, "commands": n} for n in (2, 3, 4) for c in CRASHES]
    rows += [{"fault": fault, "target": ENGINE} for fault in ENGINE_FAULTS]
    return rows


def draw(seed: int, index: int, faults: tuple[str, ...] = ()) -> Case:
    """Draw run `index`.

    Args:
        seed: of the soak.
        index: of the run.
        faults: keeps to rows whose fault or target is named here; empty keeps all.
    """
    rows = [row for row in table() if not faults or row["fault"] in faults or row["target"] in faults]
    cycle, place = divmod(index, len(rows))
    random.Random(f"{seed} {cycle}").shuffle(rows)
    row, rng = rows[place], random.Random(f"{seed} run {index}")
    drawn = {
        "run": index,
        "moment": round(rng.random(), 3),
        "ranks": rng.choice((2, 2, 3)) if row["target"] == "rank" else rng.choice((1, 1, 1, 2)),
        "fresh": rng.random() < 0.3,
        "resume": rng.random() < 0.7,
    }
    if row["target"] == "actor" or row.get("piped"):
        drawn["ranks"] = 1
    return Case(**{**drawn, **row})
