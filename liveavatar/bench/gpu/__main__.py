"""`python -m liveavatar.bench.gpu --out DIR [--quick] [--only speed,memory] [--modes fp8,bf16] [--dry_run]`."""

import argparse
import logging
import sys
from pathlib import Path

from liveavatar.bench.gpu.ranks import SPLITS
from liveavatar.bench.gpu.report import to_markdown
from liveavatar.bench.gpu.run import EXTRA_SECTIONS, GROUP_SECTION, PLAIN, SECTIONS, SPEED_MODES, GpuOptions, run
from liveavatar.errors import LiveAvatarError


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements; 0 unless something could not be measured or a check failed."""
    parser = argparse.ArgumentParser(prog="python -m liveavatar.bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for bench_gpu.json and bench_gpu.md")
    parser.add_argument("--quick", action="store_true", help="20 blocks instead of 30, no grid of memory")
    parser.add_argument("--dry_run", action="store_true", help="a few thousand weights on the CPU: proves the script")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {','.join((*SECTIONS, *EXTRA_SECTIONS))}")
    modes = ", ".join((*SPEED_MODES, PLAIN))
    parser.add_argument("--modes", default="", help=f"of the section speed, with commas between them: {modes}")
    parser.add_argument("--gpus", type=int, default=4, help=f"of the section {GROUP_SECTION}, one process on each")
    parser.add_argument(
        "--shared",
        action="store_true",
        help=f"with --only {GROUP_SECTION}: all ranks on the first GPU, through host memory; only what fits in how "
        "much memory is measured, no speed",
    )
    parser.add_argument(
        "--sizes", type=_sizes, default=(), help=f"tried under the cap of {GROUP_SECTION}: 384*256,512*256"
    )
    parser.add_argument("--splits", default="", help=f"of the section {GROUP_SECTION}: {','.join(SPLITS)}")
    parser.add_argument("--single_fps", type=float, help="of one GPU with 8-bit weights, where it was measured before")
    parser.add_argument(
        "--guess",
        type=float,
        help=f"with --only {GROUP_SECTION}: layers that decoding a block counts as until times are measured, in place "
        "of the planner's prediction: shows how a wrong one is mended",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8.0f ms %(message)s")
    try:
        results = run(
            GpuOptions(
                out=options.out,
                quick=options.quick,
                dry_run=options.dry_run,
                only=tuple(options.only.split(",")),
                modes=tuple(name.strip() for name in options.modes.split(",") if name.strip()),
                gpus=options.gpus,
                shared=options.shared,
                sizes=options.sizes,
                splits=tuple(name.strip() for name in options.splits.split(",") if name.strip()),
                guess=options.guess,
                single_fps=options.single_fps,
            )
        )
    except LiveAvatarError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    sys.stdout.write(to_markdown(results))
    passed = all(row["passed"] for row in results.get("verify", []))
    return 0 if passed and not results["errors"] else 1


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Parse widths and heights of a text such as "384*256,512*256"."""
    return tuple((int(width), int(height)) for width, height in (size.split("*") for size in text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
