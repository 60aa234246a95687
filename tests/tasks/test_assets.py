"""Assets of a run: named by their bytes, each with what it was made from, as Prefect keeps them."""

from typing import Any

import prefect.events
import pytest
from prefect.events.schemas.events import Event, RelatedResource, Resource

from tasks.assets import MADE, READ, assets_of, emit_assets
from tasks.catalogue import CatalogueRecord

MANIFEST = {
    "inputs": {"audio": {"name": "anna.wav", "sha256": "a" * 64}, "image": {"name": "face.png", "sha256": "b" * 64}},
    "outputs": {
        "audio/features.pt": "c" * 64,
        "latents.bin": "d" * 64,
        "video.mp4": "e" * 64,
        "portrait.png": "f" * 64,
    },
}
RUN = CatalogueRecord(
    id="0" * 32, out="/studio/out/first", name="anna, face", status="passed", video_sha256="e" * 64, finished=0.0
)


def test_assets_are_named_by_their_bytes_and_know_what_they_were_made_from() -> None:
    assets = {asset.kind: asset for asset in assets_of(MANIFEST, RUN, "first")}
    assert {kind: asset.parents for kind, asset in assets.items()} == {
        "sound": (),
        "portrait": (),
        "features": ("sound",),
        "latents": ("features", "portrait"),
        "video": ("latents", "sound"),
    }
    assert assets["video"].key == "liveavatar://video/" + "e" * 64
    assert assets["latents"].name == "first/latents.bin"
    assert assets["sound"].name == "anna.wav"
    assert str(assets["video"].url).endswith(f"/runs/{'0' * 32}/video.mp4")


def test_prefect_takes_the_assets_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Event] = []

    def emit(event: str, resource: dict[str, str], related: list[dict[str, str]], payload: Any) -> None:
        parts = [RelatedResource.model_validate(part) for part in related]
        known = Resource.model_validate(resource)
        sent.append(Event(event=event, resource=known, related=parts, payload=payload or {}))

    monkeypatch.setattr(prefect.events, "emit_event", emit)
    emit_assets(assets_of(MANIFEST, RUN, "first"), {"verdict": "passed"})
    assert [event.event for event in sent] == [READ, READ, MADE, MADE, MADE]
    ids = [event.resource.id for event in sent]
    for event, parents in zip(sent, ([], [], [0], [2, 1], [3, 0]), strict=True):
        assert [part.id for part in event.related] == [ids[i] for i in parents]
        assert all(part.role == "asset" for part in event.related)
    assert sent[4].payload == {"verdict": "passed"}
    assert sent[4].resource["prefect.asset.url"].endswith("video.mp4")
