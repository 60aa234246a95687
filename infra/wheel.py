"""Builds the package with what it needs of `data/` inside, as `liveavatar/data`; see `[tool.setuptools.cmdclass]`."""

from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent
TAKEN = ("prefect.yaml", "data/limits.json", "data/models/*/*", "data/samples/*.png", "data/samples/*.wav",
         "data/samples/prompt.txt")  # fmt: skip


class BuildWithData(build_py):
    """Copies the embedded model, the sample, limits and deployments into the package, unless it is an editable one."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        for source in (path for pattern in TAKEN for path in sorted(ROOT.glob(pattern))):
            inside = source.relative_to(ROOT / "data") if source.is_relative_to(ROOT / "data") else Path(source.name)
            target = Path(self.build_lib, "liveavatar", "data", inside)
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))
