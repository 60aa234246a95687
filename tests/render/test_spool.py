"""The spool on disk: what was appended, what a resumed job keeps, and the record of a finished job."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from liveavatar.render.spool import Spool, read_finished, write_finished
from liveavatar.render.timings import BlockRow

SHAPE = (2, 3, 4, 4)
LATENTS = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)


def row(block: int) -> BlockRow:
    return BlockRow(block=block, step_ms=[1.0], decode_ms=2.0, block_ms=3.0, ready_s=0.5 * block)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Five blocks on disk."""
    spool = Spool(tmp_path, SHAPE)
    with spool.appending():
        for index, latents in enumerate(LATENTS):
            spool.append(latents, row(index))
        spool.sync()
        assert spool.num_blocks() == 5
    return spool


def test_blocks_come_back_in_order(spool: Spool) -> None:
    assert np.array_equal(np.concatenate(list(spool.latents())), LATENTS)
    assert spool.rows() == [row(index) for index in range(5)]
    assert spool.sha256 == hashlib.sha256(LATENTS.tobytes()).hexdigest()


def test_a_resumed_spool_has_the_digest_of_an_undisturbed_one(spool: Spool, tmp_path: Path) -> None:
    resumed = Spool(tmp_path, SHAPE)
    resumed.truncate(3)
    assert resumed.num_blocks() == 3
    with resumed.appending():
        for index in (3, 4):
            resumed.append(LATENTS[index], row(index))
    assert resumed.sha256 == spool.sha256
    assert resumed.rows() == [row(index) for index in range(5)]


def test_only_blocks_with_latents_and_timings_count(spool: Spool) -> None:
    with spool.latents_path.open("rb+") as latents:
        latents.truncate(3 * spool.block_bytes + 5)
    assert spool.num_blocks() == 3
    spool.rows_path.write_bytes(b"".join(spool.rows_path.read_bytes().splitlines(keepends=True)[:2]))
    assert spool.num_blocks() == 2
    spool.clear()
    assert spool.num_blocks() == 0


def flip_bit(path: Path, position: float) -> None:
    """Flip one bit at a fraction of a file's length."""
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["latents.bin", "blocks.jsonl"])
def test_blocks_count_up_to_the_first_damaged_one(spool: Spool, name: str, caplog: pytest.LogCaptureFixture) -> None:
    flip_bit(spool.latents_path.with_name(name), 0.5)
    assert spool.num_blocks() == 2
    assert caplog.text.count("block 2 in latents.bin or blocks.jsonl is damaged") == 1


def test_rows_without_digests_are_not_believed(spool: Spool) -> None:
    rows = [json.loads(line) for line in spool.rows_path.read_text().splitlines()]
    spool.rows_path.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "sha256"}) + "\n" for r in rows))
    assert spool.num_blocks() == 0


@pytest.mark.parametrize("damage", ["another job", "latents", "video", "record", "depth", "one bit of the record", ""])
def test_a_finished_job_is_known_while_its_files_are_whole(spool: Spool, tmp_path: Path, damage: str) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(bytes(1000))
    write_finished(tmp_path, "a" * 64, {"latents_sha256": spool.sha256, "num_frames": 60}, [video])
    if damage == "video":
        video.write_bytes(bytes(600))
    if damage == "one bit of the record":
        flip_bit(tmp_path / "finished.json", 0.5)
    if damage == "latents":
        spool.latents_path.write_bytes(spool.latents_path.read_bytes()[:-1])
    if damage == "record":
        (tmp_path / "finished.json").write_text('{"job":')
    if damage == "depth":
        (tmp_path / "finished.json").write_text("[" * 100_000)
    warnings: list[str] = []
    facts = read_finished(tmp_path, ("b" if damage == "another job" else "a") * 64, warnings.append)
    assert len(warnings) == (damage not in ("another job", ""))
    expected = {"latents_sha256": spool.sha256, "num_frames": 60}
    assert facts == (expected if not damage else None)
