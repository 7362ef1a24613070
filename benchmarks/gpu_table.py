"""The table of `benchmarks.gpu` for docs/bench.md, written from its result file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["gpu_table"]


def gpu_table(facts: Mapping[str, Any]) -> str:
    """Images per second from host to host, what the kernels alone reach, and shares of the peak.

    A column per engine, in the order in which they first come; the peer has no ratio.
    """
    rows = [row for row in facts["rows"] if row["figures"]]
    keys = list(dict.fromkeys((f["engine"], f["name"]) for row in rows for f in row["figures"]))
    lines = [
        f"| network, batch | {' | '.join(f'{engine} {name}' for engine, name in keys)} |",
        "|---|" + "---:|" * len(keys),
    ]
    for row in rows:
        figures = {(f["engine"], f["name"]): f for f in row["figures"]}
        ratios = {r["of"]: r["ratio"] for r in row["ratios"]}
        cells = []
        for engine, name in keys:
            found = figures.get((engine, name))
            if found is None:
                failed = f"{engine}:{name}" in row["failed"]
                cells.append("failed" if failed else "–")
                continue
            said = f"{found['images_per_second']:,.0f}"
            ratio = ratios.get(f"{engine}:{name}")
            said += "" if ratio is None else f" ({ratio:.2f}×)"
            kernels = found["kernel_images_per_second"]
            said += "" if kernels is None else f", kernels {kernels:,.0f}"
            cells.append(f"{said}, {100 * found['share_of_fp16_peak']:.0f} %")
        lines.append(f"| {row['network']}, {row['batch']} | {' | '.join(cells)} |")
    card, versions = facts["card"], facts["versions"]
    peaks = [row["peaks_tflops"]["fp16"] for row in rows]
    libraries = ", ".join(
        f"{name} {versions[name]}"
        for name in ("torch", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
        if name in versions
    )
    lines += [
        "",
        "Images per second from host to host, in brackets against PyTorch's eager FP16 in the same "
        "run; of the kernels alone; their share of the FP16 peak, which was measured as "
        f"{min(peaks):,.0f} to {max(peaks):,.0f} TFLOP/s in these runs. On one {card['name']} (SM"
        f"{card['sm']}), driver {card.get('driver', 'unknown')}, CUDA {card['cuda']}; {libraries}.",
    ]
    return "\n".join(lines) + "\n"
