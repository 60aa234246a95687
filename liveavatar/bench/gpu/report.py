"""The measurements as a page of tables."""

from typing import Any

GOALS = {"fp8": 18.0, "bf16": 13.0}  # by weights: frames/s at 704*384 on a Hopper GPU, decoder included
GROUP_GPUS, GROUP_FPS, GROUP_FIRST_S = 4, 65.0, 1.2  # on so many GPUs: frames/s, and seconds to the first frame
AUTHORS = {"H200": "7.5 eager bf16, 10.5 fp8 + compile", "H100": "8.2 fp8 + compile"}  # the released code, measured


_ATTENTION = (
    "Errors are to fp32: `error` in the 2-norm, `largest` of an element over the largest of the result. Keys: `noise`; "
    "`outliers`, where tokens of one topic attend to each other and one channel is eight times as large; and those "
    "with a mean that all keys of a head share."
)
_SPREAD = (
    "`bound_fps`: 12 frames over the measured time of all layers and one decoding, shared by all GPUs: no division of "
    "the layers is faster on them. `latents`: digest of the first blocks, the same however they are spread."
)
_CAPPED = (
    "A number a rank, GiB: `predicted_gib` by the planner for tensors, `allocated_gib` them at most, `reserved_gib` "
    "with what PyTorch keeps beside, CUDA graphs' too: the cap is on that. `graphs`: recorded steps; without room for "
    "them kernels are launched one by one. `shared`: all ranks on one GPU, latents through host memory."
)


def to_markdown(results: dict[str, Any]) -> str:
    """Format the report of the `results` that are there."""
    facts = results["machine"]
    known = next((f"{gpu}: {text}" for gpu, text in AUTHORS.items() if gpu in facts["gpu"]), "not measured here")
    lines = [
        f"# Speed and memory of {results['model']} on {facts['gpu']}, {facts['date']}",
        "",
        f"PyTorch {facts['torch']}, CUDA {facts['cuda']}, cuDNN {facts['cudnn']}, Triton {facts['triton']}, "
        f"fa3-fwd {facts.get('fa3_fwd') or 'missing'}; fused "
        f"kernels {facts['kernels']}. Random weights of the true shapes. {facts['seconds']:.0f} s of measurements.",
        f"The released code at 704*384, frames/s: {known}.",
    ]
    if facts["dry_run"]:
        lines += ["", "**A dry run of the script on a few thousand weights: no number here says anything.**"]
    sections = (
        ("Correctness", "verify", ("name", "distance", "limit", "passed")),
        (
            "Self-attention alone, a full ring",
            "attention",
            ("keys", "backend", "ms", "tflops", "error", "largest"),
        ),
        (
            "Speed, rings full, decoder included",
            "speed",
            ("mode", "size", "fps", "block_p50_s", "block_p99_s", "p99_over_p50", "step_s", "decode_s"),
        ),
        (
            "Starts",
            "speed",
            ("mode", "build_s", "cold_first_frame_s", "still_s", "open_s", "first_frame_s", "peak_gib"),
        ),
        (
            "Fewer denoise steps, rings full, decoder included; median of several first frames",
            "steps",
            (
                "mode",
                "size",
                "sample_steps",
                "fps",
                "block_p50_s",
                "p99_over_p50",
                "step_s",
                "decode_s",
                "first_frame_s",
            ),
        ),
        ("Rates, decoder not overlapped", "rates", ("mode", "step_s", "step_tflops", "decode_s", "decode_tflops")),
        (
            "Memory, GiB",
            "memory",
            ("mode", "size", "allocated_gib", "reserved_gib", "predicted_gib", "off"),
        ),
        (
            "Steps spread over GPUs, rings full, decoder included",
            "tpp",
            (
                "mode",
                "gpus",
                "size",
                "split",
                "fps",
                "bound_fps",
                "latents",
                "block_p50_s",
                "block_p99_s",
                "p99_over_p50",
                "first_frame_s",
                "cold_s",
                "single_fps",
                "efficiency",
                "build_s",
            ),
        ),
        (
            "Several cards of 24 GB",
            "tpp_capped",
            (
                "mode",
                "gpus",
                "shared",
                "allocator",
                "size",
                "split",
                "cap_gib",
                "fits",
                "fps",
                "blocks",
                "predicted_gib",
                "allocated_gib",
                "reserved_gib",
                "graphs",
                "error",
            ),
        ),
        (
            "The embedded model, its own weights, rings full, decoder included",
            "mini",
            ("mode", "size", "fps", "block_p50_s", "p99_over_p50", "step_s", "decode_s", "first_frame_s", "distance"),
        ),
        (
            "The link to the host, GB/s",
            "link",
            ("pinned", "pin_s_per_gib", "to_gpu_gb_s", "from_gpu_gb_s", "each_of_both_gb_s"),
        ),
        (
            "Weights in host memory, rings there or on the GPU; decoder included",
            "offload",
            (
                "mode",
                "rings",
                "size",
                "cap_gib",
                "fits",
                "fps",
                "predicted_fps",
                "step_s",
                "decode_s",
                "first_frame_s",
                "allocated_gib",
                "reserved_gib",
                "predicted_gib",
                "process_gib",
                "predicted_host_gib",
                "same_latents",
                "error",
            ),
        ),
        ("Under a cap", "capped", ("mode", "size", "cap_gb", "fits", "fps", "reserved_gib", "error")),
    )
    data = {**results, "rates": [_rates(row) for row in results.get("speed", []) if "step_tflops" in row]}
    for title, key, columns in sections:
        rows = data.get(key)
        if rows:
            lines += ["", f"## {title}", "", *_table(rows, columns)]
    if results.get("attention"):
        lines += ["", _ATTENTION]
    if results.get("tpp"):
        lines += ["", _SPREAD]
    if results.get("tpp_capped"):
        lines += ["", _CAPPED]
    for row in results.get("tpp", []):
        lines += ["", f"## What each rank does with a block, {row['mode']}, {row['split']}", "", *_ranks(row["ranks"])]
    for row in results.get("speed", []):
        if row.get("breakdown"):
            lines += ["", f"## Where one block's time goes, {row['mode']}", "", *_breakdown(row["breakdown"])]
    lines += ["", "## Verdict", "", *_verdict(results)]
    failed = results.get("errors", {})
    if failed:
        lines += ["", "## Not measured", "", *(f"- {name}: {reason}" for name, reason in failed.items())]
    return "\n".join(lines) + "\n"


def _ranks(ranks: list[dict[str, Any]]) -> list[str]:
    columns = ("rank", "role", "layers", "busy_s", "wait_s", "decode_s", "sent_s", "sends_mib", "peak_gib", "graphs")
    return [
        *_table(ranks, columns),
        "",
        "Medians over blocks with full rings. `busy_s`: in its layers; `wait_s`: nothing to do; `decode_s`: beside its "
        "layers; `sent_s`: from the next rank's word that it is ready until all has arrived.",
    ]


def _rates(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "step_s": row["sequential"]["step_s"], "decode_s": row["sequential"]["decode_s"]}


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[str]:
    used = [c for c in columns if any(r.get(c) is not None for r in rows)]
    body = [[_cell(r.get(c)) for c in used] for r in rows]
    return [
        f"| {' | '.join(used)} |",
        f"|{'---|' * len(used)}",
        *(f"| {' | '.join(cells)} |" for cells in body),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return " / ".join(_cell(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _breakdown(found: dict[str, Any]) -> list[str]:
    parts = {**found["by_kind_s"], "gaps": found["gaps_s"]}
    total = sum(parts.values())
    bound = max(parts, key=lambda k: parts[k])
    return [
        *_table(
            [{"part": k, "ms": 1e3 * v, "share": f"{v / total:.0%}"} for k, v in parts.items()],
            ("part", "ms", "share"),
        ),
        "",
        f"Most of it is {bound}. Slowest kernels:",
        "",
        *_table([{"kernel": f"`{k}`", "ms": 1e3 * v} for k, v in found["slowest_s"].items()], ("kernel", "ms")),
    ]


def _verdict(results: dict[str, Any]) -> list[str]:
    lines = []
    for weights, goal in GOALS.items():
        rows = [r for r in results.get("speed", []) if r["mode"].split()[0] == weights and r.get("size") == "704*384"]
        if not rows:
            continue
        row = max(rows, key=lambda r: r["fps"])  # not every card has room for every mode
        lines += [
            _line(f"{row['mode']}: {row['fps']:.1f} frames/s, wanted {goal:.0f}", row["fps"] >= goal),
            _line(f"{row['mode']}: first frame warm {row['first_frame_s']:.2f} s, wanted 2", row["first_frame_s"] <= 2),
            _line(
                f"{row['mode']}: start to first frame {row['build_s'] + row['cold_first_frame_s']:.1f} s, wanted 60",
                row["build_s"] + row["cold_first_frame_s"] <= 60,
            ),
            _line(f"{row['mode']}: P99 / P50 {row['p99_over_p50']:.3f}, wanted 1.15", row["p99_over_p50"] <= 1.15),
        ]
    best = max(
        (row for row in results.get("tpp", []) if row["gpus"] >= GROUP_GPUS), key=lambda r: r["fps"], default=None
    )
    if best is not None and best["size"] == "704*384":
        where = f"{best['gpus']} GPUs, {best['mode']}"
        lines += [
            _line(f"{where}: {best['fps']:.1f} frames/s, wanted {GROUP_FPS:.0f}", best["fps"] >= GROUP_FPS),
            _line(
                f"{where}: first frame warm {best['first_frame_s']:.2f} s, wanted {GROUP_FIRST_S}",
                best["first_frame_s"] <= GROUP_FIRST_S,
            ),
        ]
    lines += _largest(results.get("tpp_capped", []))
    lines += [_line(f"{c['name']}: {c['distance']:.2e}", c["passed"]) for c in results.get("verify", [])]
    lines += [
        _line(f"planner, {r['mode']} at {r['size']}: {r['off']:+.1%}, wanted within 7 %", abs(r["off"]) <= 0.07)
        for r in results.get("memory", [])
        if r["off"] is not None
    ]
    lines += [
        _line(f"{r['mode']} at {r['size']} within {r['cap_gb']:.0f} GB", r["fits"]) for r in results.get("capped", [])
    ]
    for row in results.get("offload", []):
        lines += _offloaded(row)
    return lines or ["Nothing was measured that has a goal."]


def _offloaded(row: dict[str, Any]) -> list[str]:
    """Judge a stream whose weights wait in host memory: room, bits, and the planner's memory."""
    what = f"{row['mode']} at {row['size']}, rings " + (
        f"in host memory, {row['cap_gib']:.4g} GiB" if row["cap_gib"] else "on the GPU"
    )
    if not row["fits"]:
        return [_line(f"{what}: fits", False)]
    lines = [_line(f"{what}: fits, {row['fps']:.2f} frames/s", True)]
    if not row["cap_gib"]:
        lines.append(_line(f"{what}: the same latents", row["same_latents"]))
    if row["off"] is not None:
        lines.append(_line(f"planner, {what}: {row['off']:+.1%}, wanted within 4 %", abs(row["off"]) <= 0.04))
    return lines


def _largest(rows: list[dict[str, Any]]) -> list[str]:
    """Find the largest size that each way of spreading holds."""
    lines = []
    for gpus, split, cap in dict.fromkeys((r["gpus"], r["split"], r["cap_gib"]) for r in rows):
        fitting = [r["size"] for r in rows if (r["gpus"], r["split"]) == (gpus, split) and r["fits"]]
        largest = max(fitting, key=_area, default=None)
        lines.append(_line(f"{gpus} cards with {cap:.4g} GiB, {split}: {largest or 'no size'} fits", bool(fitting)))
    return lines


def _area(size: str) -> int:
    width, height = size.split("*")
    return int(width) * int(height)


def _line(text: str, good: bool) -> str:
    return f"- {'passed' if good else 'MISSED'}: {text}"
