"""Assets of a run in Prefect: sound, portrait, features, latents and video, each with what it was made from.

An asset is named by the sha256 of its bytes, so that two runs which made the same bits share it. Prefect keeps assets
as events; its event feed, and Prefect Cloud's graph of assets, show them.
"""

from dataclasses import dataclass
from typing import Any

from tasks.catalogue import CatalogueRecord, page_url
from tasks.run_folder import VIDEO

SCHEME = "liveavatar://"
MADE, READ = "prefect.asset.materialization.succeeded", "prefect.asset.referenced"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAsset:
    """Something that a run has read or made."""

    kind: str
    sha256: str
    name: str
    url: str | None = None  # on the page of `liveavatar serve`
    parents: tuple[str, ...] = ()  # kinds of what it was made from; none of an input

    @property
    def key(self) -> str:
        """Its address in Prefect."""
        return f"{SCHEME}{self.kind}/{self.sha256}"


def assets_of(manifest: dict[str, Any], run: CatalogueRecord, name: str) -> list[RunAsset]:
    """List the assets of a published run, inputs first.

    Args:
        manifest: of the run.
        run: its record.
        name: of its folder.
    """
    inputs, outputs = manifest["inputs"], manifest["outputs"]

    def made(kind: str, file: str, *parents: str) -> RunAsset:
        return RunAsset(
            kind=kind, sha256=outputs[file], name=f"{name}/{file}", url=page_url(run.id, file), parents=parents
        )

    return [
        RunAsset(kind="sound", sha256=inputs["audio"]["sha256"], name=inputs["audio"]["name"]),
        RunAsset(kind="portrait", sha256=inputs["image"]["sha256"], name=inputs["image"]["name"]),
        made("features", "audio/features.pt", "sound"),
        made("latents", "latents.bin", "features", "portrait"),
        made("video", VIDEO, "latents", "sound"),
    ]


def emit_assets(assets: list[RunAsset], facts: dict[str, Any]) -> None:
    """Tell Prefect of assets; its client sends them in the background.

    Args:
        assets: inputs before what was made from them.
        facts: of the run, shown with the video.
    """
    from prefect.assets import Asset, AssetProperties
    from prefect.context import AssetContext
    from prefect.events import emit_event

    known = {}
    for asset in assets:
        named = AssetProperties(name=asset.name)
        shown = named if asset.url is None else AssetProperties(name=asset.name, url=asset.url)
        known[asset.kind] = Asset(key=asset.key, properties=shown)
        emit_event(
            event=MADE if asset.parents else READ,
            resource=AssetContext.asset_as_resource(known[asset.kind]),
            related=[AssetContext.asset_as_related(known[parent]) for parent in asset.parents],
            payload=facts if asset.kind == "video" else None,
        )
