"""Multiply-adds, the matrix product that stands for the peak, blocks of a profile, footprints."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from inception_deploy import contenders
from inception_deploy.contenders import Field
from inception_deploy.engines import ENGINES
from inception_deploy.errors import MissingDependency, StageError
from inception_deploy.throughput import Candidate, Runner, measure
from inception_deploy.throughput.energy import find_meter
from inception_deploy.throughput.footprint import footprint
from inception_deploy.throughput.gemm import GemmRunner, gemm_model, precision_run
from inception_deploy.throughput.macs import macs_per_node
from inception_deploy.throughput.null import NullSession, harness_seconds
from inception_deploy.throughput.product import ProductRunner
from inception_deploy.throughput.profile import block_of, block_times

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 3, 16, 12] input) => (float[batch, 5] logits) {
    a = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(input, w1)
    b = Relu(a)
    w2 = DequantizeLinear(w2q, scale)
    c = Conv<kernel_shape = [1, 3], group = 8>(b, w2)
    d = Flatten(c)
    e = Gemm<transB = 1>(d, w3)
    logits = MatMul(e, w4)
}
"""


def graph() -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    shapes = {"w1": (8, 3, 3, 3), "w2q": (8, 1, 1, 3), "w3": (7, 8 * 8 * 4), "w4": (7, 5)}
    for name, shape in shapes.items():
        values = np.zeros(shape, np.int8 if name == "w2q" else np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    scale = onnx.numpy_helper.from_array(np.array(1, np.float32), "scale")
    model.graph.initializer.append(scale)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def test_multiply_adds_by_hand() -> None:
    assert macs_per_node(graph()) == {
        "a": 8 * 8 * 6 * 27,  # 8 × 8 × 6 outputs of a filter of 3 × 3 × 3
        "c": 8 * 8 * 4 * 3,  # depthwise: a filter sees one channel
        "e": 8 * 8 * 4 * 7,
        "logits": 7 * 5,
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_gauge_computes_the_product_in_its_precision(precision: str) -> None:
    engine = ENGINES.get("onnxruntime")
    with engine.session(gemm_model("fp32", signed=False), threads=1) as plain:
        rows = np.random.default_rng(1).random((32, 1024), dtype=np.float32)
        wanted = plain.run(rows)
    with engine.session(gemm_model(precision, signed=False), threads=1) as session:
        found = session.run(rows)
        error = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert error < {"fp32": 1e-6, "fp16": 0.01, "int8": 0.1}[precision]
        # on this engine's CPU kernels, FP16 is computed in FP32: docs/decisions/002
        assert precision_run(session) == {"int8": "int8"}.get(precision, "float32")
    assert GemmRunner.macs(1) == GemmRunner.macs(8) == 4 * 1024**3


def test_signed_and_unsigned_gauges_agree() -> None:
    rows = np.random.default_rng(1).random((4, 1024), dtype=np.float32)
    outputs = []
    for signed in (False, True):
        model = gemm_model("int8", signed=signed)
        with ENGINES.get("onnxruntime").session(model, optimise=False) as session:
            outputs.append(session.run(rows))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=2 / 32)


def test_bfloat16_weights_are_those_of_float32_cut_short() -> None:
    model = onnx.load_model_from_string(gemm_model("bf16", signed=False))
    tensor = model.graph.initializer[0]
    assert tensor.data_type == onnx.TensorProto.BFLOAT16
    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    assert values.std() == pytest.approx(1024**-0.5, rel=0.01)


def test_utilisation_is_the_share_of_the_gauge() -> None:
    now = [0.0]

    def takes(seconds: float) -> Runner:
        def run(inputs: np.ndarray) -> None:
            now[0] += seconds

        return run

    gauge = Candidate("e", "gemm", "fp32", takes(0.01), macs=lambda b: 1000, ran="float32")
    net = Candidate("e", "m", "fp32", takes(0.02), macs=lambda b: 100 * b, gauge="e:gemm")
    report = measure(
        [net, gauge],
        lambda size: np.zeros((size, 1), np.float32),
        batches=(1, 4),
        seconds=0.1,
        clock=lambda: now[0],
    )
    assert [row.graph for row in report.rows] == ["m", "m"]
    assert [row.utilisation for row in report.rows] == pytest.approx([0.05, 0.2])
    (peak,) = report.peaks
    assert (peak.engine, peak.ran) == ("e", "float32")
    assert peak.macs_per_second == pytest.approx(1e5)
    assert report.ratios == ()


def test_transfers_multiply_nothing() -> None:
    now = [0.0]

    def run(inputs: np.ndarray) -> None:
        now[0] += 0.02

    net = Candidate(
        *("e", "m", "fp16", run),
        macs=lambda b: 100 * b,
        gauge="e:gemm",
        parts=lambda: {"engine": 0.019, "h2d": 0.01, "compute": 0.005, "d2h": 0.004},
    )
    gauge = Candidate("e", "gemm", "fp16", run, macs=lambda b: 1000)
    (row,) = measure(
        [net, gauge],
        lambda size: np.zeros((size, 1), np.float32),
        batches=(1,),
        seconds=0.1,
        clock=lambda: now[0],
    ).rows
    assert row.macs_per_second == pytest.approx(100 / 0.005)
    assert row.utilisation == pytest.approx(20e3 / 50e3)
    assert row.images_per_second == pytest.approx(50)


def test_a_gpu_is_gauged_by_products_that_lie_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an engine's session would be timed with their way from the host."""
    made: list[str] = []

    def small(precision: str) -> ProductRunner:
        made.append(precision)
        return ProductRunner(precision, "cpu", side=8)

    with ExitStack() as stack:
        field = Field(stack)
        engine = ENGINES.get("torch-inductor")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(MissingDependency, match=r"no CUDA; run: pip install torch"):
            field._gauge(engine, "bf16", None, "CUDA")
        monkeypatch.setattr(contenders, "ProductRunner", small)
        gauge = field._gauge(engine, "bf16", None, "CUDA")
        assert gauge is not None
        assert (gauge.key, gauge.ran) == ("torch-inductor:gemm on the GPU, bf16", "bfloat16")
        gauge.run(np.zeros((1, 1), np.float32))
        assert field._gauge(engine, "int8", None, "CUDA") is None
        assert field._gauge(engine, "bf16", None, "CPU") is None  # it runs no graphs
    assert made == ["bf16"]


def test_blocks_of_a_profile() -> None:
    seconds = {"a.b1.conv": 2e-3, "a.b2:0": 1e-3, "stem": 3e-3, "reorder_1": 4e-3}
    macs = {"a.b1.conv": 10, "stem": 6, "gone": 5}
    found = block_times(seconds, macs, ["stem", "a", "a.b2", "never"], batch=2, peak=1e4)
    assert [(b.name, b.ms, b.macs) for b in found] == [
        ("stem", 3.0, 12),
        ("a", 2.0, 20),
        ("a.b2", 1.0, 0),
        ("", 4.0, 10),
    ]
    assert found[0].utilisation == pytest.approx(12 / 3e-3 / 1e4)
    assert found[2].utilisation is None
    assert block_of("ab.c", {"a"}) == ""
    assert block_of("InsertedPrecisionFreeCast_a.relu", {"a"}) == "a"


def test_a_fresh_process_tells_what_an_engine_takes(tmp_path: Path) -> None:
    path = tmp_path / "gemm.onnx"
    path.write_bytes(gemm_model("fp32", signed=False))
    found = footprint("onnxruntime", path, 8, 1)
    # four matrices of 4 MiB, and the file they were read from may be resident, too
    assert found.peak_rss_bytes - found.import_rss_bytes > 14 * 2**20
    assert found.import_rss_bytes < 150 * 2**20  # PyTorch is not among the libraries
    assert found.load_seconds > 0
    assert found.first_ms > 0


def test_a_process_that_fails_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(StageError, match=r"^onnxruntime with broken\.onnx in a process") as error:
        footprint("onnxruntime", path, 1, None)
    assert "\n" not in str(error.value)


def test_the_null_engine_costs_less_than_20_microseconds() -> None:
    assert 0 < harness_seconds() < 20e-6
    with NullSession() as session:
        assert session.run(np.zeros((2, 3, 4, 4), np.float32)).shape == (1, 1)
        assert session.parts()["engine"] < 1e-3


def rapl(root: Path, *packages: tuple[int, int]) -> Path:
    for number, (energy, span) in enumerate(packages):
        zone = root / f"intel-rapl:{number}"
        zone.mkdir(parents=True)
        (zone / "energy_uj").write_text(f"{energy}\n")
        (zone / "max_energy_range_uj").write_text(f"{span}\n")
        (root / f"intel-rapl:{number}:0").mkdir()
    return root


def test_energy_is_the_sum_of_the_packages(tmp_path: Path) -> None:
    meter = find_meter(rapl(tmp_path, (1_000_000, 10**9), (900, 1000)))
    assert meter.says == "RAPL, 2 packages"
    before = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("3500000")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("100")  # began again
    assert meter.joules(before, meter.read()) == pytest.approx(2.5 + 200e-6)


def test_no_counter_no_energy(tmp_path: Path) -> None:
    meter = find_meter(tmp_path)
    assert meter.joules(meter.read(), meter.read()) is None
    assert "no RAPL counter" in meter.says


def test_energy_per_query_is_recorded(tmp_path: Path) -> None:
    meter = find_meter(rapl(tmp_path, (0, 10**12)))
    counter, now, spent = tmp_path / "intel-rapl:0" / "energy_uj", [0.0], [0]

    def run(inputs: np.ndarray) -> None:
        now[0] += 0.05
        spent[0] += 7000
        counter.write_text(str(spent[0]))

    (row,) = measure(
        [Candidate("a", "g", "fp32", run)],
        lambda size: np.zeros((size, 1), np.float32),
        batches=(1,),
        seconds=0.1,
        clock=lambda: now[0],
        meter=meter,
    ).rows
    assert row.energy_mj == pytest.approx(7.0)
