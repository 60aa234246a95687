"""The embedded prompt encoder: words hashed to buckets, order matters, padding does not."""

import zlib

import pytest
import torch

from liveavatar.config import TINY
from liveavatar.model.text import PAD, PromptEncoder, tokenize, tokenize_batch

CFG = TINY.text


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(CFG).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        pytest.param("A calm Woman, 30!", ["a", "calm", "woman", "30"], id="words and numbers"),
        pytest.param("\u4e00\u4e2a woman", ["\u4e00", "\u4e2a", "woman"], id="Chinese signs one by one"),
        pytest.param("1 2 3 4 5 6 7 8 9", [*"12345678"], id="cut at the length"),
        pytest.param(" ,.! ", [], id="no words"),
    ],
)
def test_a_word_is_the_bucket_of_its_hash(prompt: str, words: list[str]) -> None:
    ids = tokenize(prompt, CFG)
    assert ids == [1 + zlib.crc32(word.encode()) % (CFG.vocab - 1) for word in words]
    assert PAD not in ids
    (row,) = tokenize_batch([prompt], CFG).tolist()
    assert row == ids + [PAD] * (CFG.length - len(ids))


def test_padding_changes_no_row_and_comes_out_as_zero(encoder: PromptEncoder) -> None:
    short, long = "a calm woman", "a lively man in warm light"
    both = encoder(tokenize_batch([short, long], CFG))
    alone = encoder(torch.tensor([tokenize(short, CFG)]))
    torch.testing.assert_close(both[0, :3], alone[0], atol=1e-6, rtol=1e-5)
    assert not both[0, 3:].any()
    assert both[1, :6].any(-1).all()


def test_words_and_their_order_matter(encoder: PromptEncoder) -> None:
    one, other, third = encoder(tokenize_batch(["woman calm", "calm woman", "calm man"], CFG))
    assert not torch.allclose(one[:2].mean(0), other[:2].mean(0))
    assert not torch.allclose(other[0], third[0]), "a word sees its neighbours"


def test_an_empty_prompt_is_all_zero(encoder: PromptEncoder) -> None:
    rows = encoder(tokenize_batch(["", "calm"], CFG))
    assert not rows[0].any()
    assert rows.isfinite().all()
