"""A folder with inputs, and the command that runs there, for tests of whole runs."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shop:
    """A folder with inputs, and the command that runs there."""

    folder: Path
    model: Path

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "LIVEAVATAR_", "COV_"))}
        return {**kept, "LIVEAVATAR_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *arguments]

    def job(self, **changes: str) -> list[str]:
        options = {
            "audio": "voice.wav",
            "image": "face.png",
            "prompt": "A woman in her thirties talks, soft light, photorealistic.",
            "model": str(self.model),
            "whisper": "off",
            "denoise": "off",
            **changes,
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def run(self, *arguments: str, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment() | variables, capture_output=True,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def report(self, out: str) -> dict[str, dict[str, object]]:
        return json.loads((self.folder / out / "report.json").read_text())

    def manifest(self, out: str) -> dict[str, object]:
        return json.loads((self.folder / out / "manifest.json").read_text())
