"""Tables of README.md and docs/bench.md, written from the result files of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "contenders_table",
    "export_time_table",
    "harness_table",
    "peers_table",
    "sweep_table",
]


def harness_table(facts: Mapping[str, Any]) -> str:
    """The harness beside its goals."""
    goals = facts["goals"]
    lines = [
        "| | measured | goal |",
        "|---|---:|---:|",
        f"| null engine, per query | {facts['harness_us']:.1f} µs | < {goals['harness_us']:g} µs |",
    ]
    if "share" in facts:  # files of earlier versions have none
        lines.append(
            f"| its largest share of a figure below | {100 * facts['share']:.2f} % "
            f"| < {100 * goals['share']:g} % |"
        )
    for batch, found in facts["against_itself"].items():
        lines.append(
            f"| a bundle against itself, batch {batch}: runs within 1 ± {goals['within']:g} "
            f"| {found['within']} of {found['runs']} (median {found['median']:.3f}, furthest "
            f"{found['furthest']:.3f}) | {goals['runs_within']} of 10 |"
        )
    lines.append(
        f"| `bench` of one bundle, defaults | {facts['bench_seconds']:.1f} s "
        f"| < {goals['bench_seconds']:g} s |"
    )
    return "\n".join([*lines, "", _where(facts)]) + "\n"


def sweep_table(facts: Mapping[str, Any]) -> str:
    """Median milliseconds per batch, and the ratio to the first candidate of the row."""
    keys = list(
        dict.fromkeys(
            (f["engine"], f["precision"]) for row in facts["rows"] for f in row["figures"]
        )
    )
    head = " | ".join(f"{engine} {precision}" for engine, precision in keys)
    lines = [f"| network, batch | {head} |", "|---|" + "---:|" * len(keys)]
    for row in facts["rows"]:
        ratios = {(r["of"], r["batch"]): r["ratio"] for r in row["ratios"]}
        medians = {(f["engine"], f["precision"], f["batch"]): f for f in row["figures"]}
        for batch in dict.fromkeys(f["batch"] for f in row["figures"]):
            cells = []
            for engine, precision in keys:
                found = medians.get((engine, precision, batch))
                ratio = ratios.get((f"{engine}:{precision}", batch))
                missing = "refused" if f"{engine}:{precision}" in row.get("refused", {}) else "–"
                said = missing if found is None else f"{found['median_ms']:.1f} ms"
                cells.append(said if ratio is None else f"{said} ({ratio:.2f}×)")
            lines.append(f"| {row['network']}, {batch} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _where(facts)]) + "\n"


def export_time_table(facts: Mapping[str, Any]) -> str:
    """Seconds by step, and the most memory."""
    # the longest row has them in processing order
    longest = sorted((row["steps"] for row in facts["rows"]), key=len, reverse=True)
    steps = list(dict.fromkeys(name for row in longest for name in row))
    lines = [
        f"| network | seconds | {' | '.join(steps)} | peak memory |",
        "|---|" + "---:|" * (len(steps) + 2),
    ]
    for row in facts["rows"]:
        spent = " | ".join(
            f"{row['steps'][name]:.1f}" if name in row["steps"] else "–" for name in steps
        )
        images = row["calibration_images"]
        what = row["precision"] if images is None else f"{row['precision']}, {images} images"
        lines.append(
            f"| {row['network']}, {what} | {row['seconds']:.1f} | {spent} "
            f"| {row['peak_rss_mb']:,} MB |"
        )
    return "\n".join([*lines, "", _where(facts)]) + "\n"


def _where(facts: Mapping[str, Any]) -> str:
    machine, versions = facts["machine"], facts["versions"]
    libraries = ", ".join(
        f"{name} {versions[name]}"
        for name in ("torch", "onnxruntime", "openvino")
        if name in versions
    )
    isa = ", ".join(machine["isa"])
    return f"On {machine['cores']} cores of an {machine['cpu']} ({isa}); {libraries}."


def peers_table(facts: Mapping[str, Any]) -> str:
    """INT8 of `benchmarks.peers`: speed-ups within one run, and SQNR of the logits."""
    pairs = (
        ("onnxruntime:ours", "onnxruntime:quantize_static"),
        ("openvino:ours", "openvino:nncf"),
    )
    lines = [
        "| native size, INT8 | ONNX Runtime, batch 1 / 8 | SQNR, dB | OpenVINO, batch 1 / 8 "
        "| SQNR, dB | TensorRT: SQNR, dB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in facts["rows"]:
        if "ratios" not in row:
            continue
        cells = [row["network"]]
        for ours, peer in pairs:
            found = {
                r["batch"]: f"{r['ratio']:.2f}×"
                for r in row["ratios"]
                if (r["ours"], r["to"]) == (ours, peer)
            }
            cells.append(" / ".join(found[batch] for batch in sorted(found)))
            cells.append(f"{row['sqnr_db'][ours]:.1f} ({row['sqnr_db'][peer]:.1f})")
        cells.append(_for_tensorrt(row["sqnr_db"]))
        lines.append(f"| {' | '.join(cells)} |")
    means = [facts["summary"][name]["geometric_mean"] for name in ("onnxruntime", "openvino")]
    lines.append(f"| geometric mean | {means[0]:.2f}× | | {means[1]:.2f}× | | |")
    machine, versions = facts["machine"], facts["versions"]
    lines += [
        "",
        "Ours: `export NETWORK --int8 --equalise`. Against "
        "`onnxruntime.quantization.quantize_static` (per channel, after preprocessing), "
        "`nncf.quantize` (MIXED) on the same engine in one run, and `modelopt.onnx.quantization` "
        "(the better of max and entropy), run as written; in brackets the peer's SQNR. "
        f"Random weights; {machine['cores']} cores of an {machine['cpu']} with VNNI; onnxruntime "
        f"{versions['onnxruntime']}, openvino {versions['openvino']}, nncf {versions['nncf']}, "
        f"modelopt {facts['rows'][0].get('modelopt', '–')}.",
    ]
    graphs = facts["summary"]["onnxruntime"].get("graph_against_graph")
    if graphs is not None:  # files of earlier versions have none
        lines.append(
            "The peers run a batch as a whole, as their users do; graph against graph, with "
            f"quantize_static's batches cut into lanes like ours, it is "
            f"{graphs['geometric_mean']:.2f}× on ONNX Runtime."
        )
    for row in facts["rows"]:
        if "top1" not in row:
            continue
        top1, sqnr = row["top1"], row["sqnr_db"]
        said = [
            f"{engine} {top1[ours]:.2f} % at {sqnr[ours]:.1f} dB ({sqnr[peer]:.1f})"
            for engine, (ours, peer) in zip(("ONNX Runtime", "OpenVINO"), pairs, strict=True)
        ]
        if "tensorrt:ours" in top1:
            said.append(f"TensorRT {top1['tensorrt:ours']:.2f} % at {_for_tensorrt(sqnr)} dB")
        lines.append(
            f"On {row['images']['validation']:,} images, the trained {row['network']} of the "
            f"package: top-1 {top1['pytorch']:.2f} % in PyTorch; {', '.join(said)}."
        )
    return "\n".join(lines) + "\n"


def _for_tensorrt(sqnr: Mapping[str, float]) -> str:
    """Of our placement, and of the best of the peer's."""
    if "tensorrt:ours" not in sqnr:
        return "–"
    best = max(db for key, db in sqnr.items() if key.startswith("tensorrt:modelopt"))
    return f"{sqnr['tensorrt:ours']:.1f} ({best:.1f})"


_CONTENDERS = {
    "torch:eager": "PyTorch",
    "torch:inductor": "AOTInductor",
    "torch:inductor-bf16": "AOTInductor BF16",
    "onnxruntime:fp32": "ONNX Runtime",
    "openvino:fp32": "OpenVINO",
    "openvino:bf16": "OpenVINO BF16",
    "onnxruntime:quantize_static": "quantize_static",
    "onnxruntime:quantize_static-lanes": "quantize_static in lanes",
    "openvino:nncf": "NNCF",
    "onnxruntime:ours": "ours, ONNX Runtime",
    "openvino:ours": "ours, OpenVINO",
}


def contenders_table(facts: Mapping[str, Any]) -> str:
    """Images/s of everything that `benchmarks.peers` times, the fastest of each row in bold.

    What no row has was not there to be timed, and has no column.
    """
    timed = {
        key
        for row in facts["rows"]
        for medians in row.get("median_ms", {}).values()
        for key in medians
    }
    names = {key: name for key, name in _CONTENDERS.items() if key in timed}
    lines = [
        f"| native size, batch | {' | '.join(names.values())} |",
        "|---|" + "---:|" * len(names),
    ]
    for row in facts["rows"]:
        for batch, medians in row.get("median_ms", {}).items():
            rates = {key: 1e3 * int(batch) / ms for key, ms in medians.items()}
            cells = ["–" if key not in rates else f"{rates[key]:.3g}" for key in names]
            best = max(rates, key=lambda key: rates[key])
            cells = [
                f"**{cell}**" if key == best else cell
                for key, cell in zip(names, cells, strict=True)
            ]
            lines.append(f"| {row['network']}, {batch} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _where(facts)]) + "\n"
