"""The autoencoder, whole and streamed in several cuts; a frame that is off is found."""

from pathlib import Path

import pytest

from liveavatar import parity
from liveavatar.parity import vae
from tests.parity.sets import change, write_vae


def found(directory: Path) -> dict[str, bool | None]:
    return {p.name: p.ok for p in parity.run_parity(directory, "vae.")}


@pytest.mark.parametrize(
    ("key", "failed"),
    [
        pytest.param(None, set(), id="right"),
        pytest.param("enc5.latent", {"vae.encode", "vae.encode_stream"}, id="latents"),
        pytest.param("dec.whole", {"vae.decode", "vae.decode_stream"}, id="frames"),
    ],
)
def test_wrong_numbers_fail_their_parts(key: str | None, failed: set[str], tmp_path: Path) -> None:
    write_vae(tmp_path)
    if key is not None:
        change(tmp_path / "vae_io.safetensors", key, 2 * vae.TOLERANCE)
    assert found(tmp_path) == {name: name not in failed for name in vae.NAMES}


def test_a_streaming_decoder_that_forgets_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_vae(tmp_path)
    whole = vae.WanVAE.decode_stream

    def forgetful(self: vae.WanVAE, latents: object, _: object) -> object:
        return whole(self, latents, self.decoder_state(1, *latents.shape[3:]))  # type: ignore[arg-type,attr-defined]

    monkeypatch.setattr(vae.WanVAE, "decode_stream", forgetful)
    monkeypatch.setattr(vae.WanVAE, "decode", lambda self, x: whole(self, x, self.decoder_state(1, *x.shape[3:])))
    assert found(tmp_path) == {
        "vae.encode": True,
        "vae.encode_stream": True,
        "vae.decode": True,
        "vae.decode_stream": False,
    }
