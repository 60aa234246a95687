"""The block loop: a block is decoded while the next one is denoised, for files and for sound that still arrives."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from liveavatar.engine.decoder import DecodedBlock, Decoder, Decoding
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import TensorFeatures
from liveavatar.engine.resumable import Resumable
from liveavatar.engine.stream import Ready, Stream
from liveavatar.fast import accelerate
from tests.engine.jobs import engine_of, lively_model, make_job
from tests.fast.engines import fast_engine, job, model, plain_engine

BLOCKS = 4


def make_fast_engine() -> Engine:
    loaded = model()
    return fast_engine(replace(loaded, dit=accelerate(copy.deepcopy(loaded.dit))))


class RecordedDecoding:
    """A block whose decoding ends when its result is asked for."""

    def __init__(self, decoding: Decoding, index: int, events: list[str]) -> None:
        self.decoding, self.index, self.events = decoding, index, events
        self.ends_early = False

    def done(self) -> bool:
        return self.ends_early

    def result(self) -> DecodedBlock:
        self.events.append(f"decoded {self.index}")
        return self.decoding.result()


class RecordedDecoder:
    """A decoder that overlaps; it records when a block is begun and when its frames are taken."""

    overlaps = True

    def __init__(self, decoder: Decoder, events: list[str]) -> None:
        self.decoder, self.events = decoder, events
        self.last: RecordedDecoding | None = None

    @property
    def state(self) -> Resumable:
        return self.decoder.state

    def start(self, x: torch.Tensor, index: int, with_state: bool = False) -> Decoding:
        self.events.append(f"denoised {index}")
        self.last = RecordedDecoding(self.decoder.start(x, index, with_state), index, self.events)
        return self.last

    def run(self, x: torch.Tensor, index: int) -> DecodedBlock:
        return self.decoder.run(x, index)

    def settle(self) -> None:
        self.decoder.settle()


@pytest.fixture(params=[plain_engine, make_fast_engine], ids=["plain", "fast"])
def recorded(request: pytest.FixtureRequest) -> Stream:
    """A stream of four blocks whose decoder is recorded."""
    make: Callable[[], Engine] = request.param
    stream = make().open(job(num_frames=12 * BLOCKS))
    stream.decoder = RecordedDecoder(stream.decoder, [])
    return stream


def events(stream: Stream, ready: Ready | None) -> list[str]:
    decoder = stream.decoder
    assert isinstance(decoder, RecordedDecoder)
    assert [block.index for block in stream.blocks(ready=ready)] == list(range(BLOCKS))
    return decoder.events


# The first block is shown at once; every other one is decoded while the next is denoised.
OVERLAPPED = [
    *("denoised 0", "decoded 0", "denoised 1", "denoised 2", "decoded 1"),
    *("denoised 3", "decoded 2", "decoded 3"),
]


def test_a_file_is_decoded_while_the_next_block_is_denoised(recorded: Stream) -> None:
    assert events(recorded, None) == OVERLAPPED


def test_sound_from_a_pipe_is_decoded_while_the_next_block_is_denoised(recorded: Stream) -> None:
    assert events(recorded, lambda index: index < BLOCKS) == OVERLAPPED


def test_a_decoded_block_does_not_wait_for_sound(recorded: Stream) -> None:
    decoder, asked = recorded.decoder, []
    assert isinstance(decoder, RecordedDecoder)

    def ready(index: int) -> bool | None:
        """Sound of block 2 comes late, when block 1 has long been decoded."""
        asked.append(index)
        if index == 2 and asked.count(2) < 3:
            assert decoder.last is not None
            decoder.last.ends_early = True
            return None
        return index < BLOCKS

    assert events(recorded, ready) == [
        *("denoised 0", "decoded 0", "denoised 1", "decoded 1"),
        *("denoised 2", "denoised 3", "decoded 2", "decoded 3"),
    ]
    assert asked.count(2) == 3


@pytest.mark.parametrize(
    ("index", "first", "last", "zeros"),
    [
        pytest.param(0, 1, 12, (9, 0), id="first: nothing before the track"),
        pytest.param(1, 4, 24, (0, 0), id="middle: nine frames of history"),
        pytest.param(2, 16, 36, (0, 0), id="middle"),
        pytest.param(3, 28, 40, (0, 8), id="last: nothing after the track"),
    ],
)
def test_the_features_of_a_block(index: int, first: int, last: int, zeros: tuple[int, int]) -> None:
    track = torch.arange(1.0, 41.0)  # frame t holds t + 1, so that zero is padding
    features = TensorFeatures(track.expand(5, 768, 40))
    stream = engine_of(lively_model()).open(make_job(num_frames=40, features=features))
    wanted = [0.0] * zeros[0] + [float(value) for value in range(first, last + 1)] + [0.0] * zeros[1]
    assert stream.block_features(index).shape == (1, 5, 768, 9 + 12)
    assert torch.equal(stream.block_features(index), torch.tensor(wanted).expand(1, 5, 768, 21))
