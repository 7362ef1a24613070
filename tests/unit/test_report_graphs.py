"""Blocks before and after: what is read from ONNX files, where it is drawn, what is said of it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest
from onnx import TensorProto, helper

from inception_deploy.errors import BundleError
from inception_deploy.report import BundleData, load_bundle, render
from inception_deploy.reporting.block_graph import Blocks, GraphOutline
from inception_deploy.reporting.canvas import Heading
from inception_deploy.reporting.data import Record
from inception_deploy.reporting.facts import Facts
from inception_deploy.reporting.graph_drawing import Marks, draw_block
from inception_deploy.reporting.layout import lay_out, spread
from inception_deploy.reporting.precision import PrecisionView
from inception_deploy.reporting.rewrites import grouped_reasons
from inception_deploy.reporting.skeleton import read_skeleton

BUNDLE = Path(__file__).parents[1] / "golden" / "report_bundle" / "googlenet_fp16"
BLOCKS = Blocks(("stem", "inception3a", "inception3a.deep"))


def model(*, quantised: bool = False) -> onnx.ModelProto:
    """Two branches that meet in inception3a; `quantised`: the convolution reads INT8."""
    source = "x"
    nodes, weights = [], []
    if quantised:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x:q"], "x:q"),
            helper.make_node("DequantizeLinear", ["x:q", "scale", "zero"], ["x:dq"], "x:dq"),
        ]
        weights = [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
        ]
        source = "x:dq"
    weights.append(helper.make_tensor("w", TensorProto.FLOAT, [8, 4, 3, 3], [0.5] * 288))
    nodes += [
        helper.make_node(
            "Conv",
            [source, "w"],
            ["a"],
            "inception3a.one",
            kernel_shape=[3, 3],
            strides=[1, 1],
            pads=[1] * 4,
        ),
        helper.make_node("Relu", ["a"], ["b"], "inception3a.relu"),
        helper.make_node("Concat", ["b", "x"], ["y"], "inception3a.join", axis=1),
        helper.make_node("Relu", ["y"], ["z"], "outside"),
    ]
    shape: list[str | int | None] = ["batch", 4, 6, 6]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 12, 6, 6])],
        weights,
    )
    return onnx.shape_inference.infer_shapes(helper.make_model(graph))


def test_a_skeleton_is_the_model_without_values(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    whole, bare = onnx.load(path), read_skeleton(path)
    assert path.stat().st_size - bare.ByteSize() > 288 * 4
    for tensor in whole.graph.initializer:
        for name in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(name)
    assert bare == whole


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x3a\xff\xff\xff\x7f"])
def test_what_is_no_model_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"cannot read the graph m\.onnx") as caught:
        read_skeleton(path)
    assert "\n" not in str(caught.value)


def test_a_node_belongs_to_its_innermost_block() -> None:
    assert BLOCKS.of("inception3a.relu") == "inception3a"
    assert BLOCKS.of("inception3a.deep.conv") == "inception3a.deep"
    assert BLOCKS.of("inception3ab.conv") is None


def test_quantisers_fold_into_edges() -> None:
    outline = GraphOutline.of(model(quantised=True).graph)
    assert [node.op for node in outline.nodes] == ["Conv", "Relu", "Concat", "Relu"]
    assert outline.nodes[0].label == "Conv 3×3, 8"
    assert outline.nodes[0].reads == (("x", "int8"),)
    block = outline.block("inception3a", BLOCKS)
    assert {(e.source, e.target, e.precision) for e in block.edges} == {
        ("", "inception3a.one", "int8"),
        ("inception3a.one", "inception3a.relu", "float32"),
        ("inception3a.relu", "inception3a.join", "float32"),
        ("", "inception3a.join", "float32"),
        ("inception3a.join", "", "float32"),
    }


def test_spread_keeps_order_and_room() -> None:
    assert spread([0.0, 100.0], [10.0, 10.0]) == [0.0, 100.0]
    assert spread([5.0, 5.0], [10.0, 20.0]) == pytest.approx([-2.5, 12.5])
    placed = spread([9.0, -3.0, 4.0, 4.0], [2.0, 4.0, 6.0, 2.0])
    gaps = [b - a for a, b in itertools.pairwise(placed)]
    assert all(gap >= need - 1e-9 for gap, need in zip(gaps, [3, 5, 4], strict=True))


def test_layers_follow_the_longest_path_and_branches_are_straight() -> None:
    names = ["in", "a1", "a2", "a3", "b1", "join"]
    edges = [("in", "a1"), ("a1", "a2"), ("a2", "a3"), ("a3", "join"), ("in", "b1"), ("b1", "join")]
    layout = lay_out(names, edges, dict.fromkeys(names, 100.0), 20.0)
    assert [layout.places[name][1] for name in names] == [0, 1, 2, 3, 1, 4]
    assert layout.layers == 5
    xs = [layout.places[name][0] for name in ("a1", "a2", "a3")]
    assert max(xs) - min(xs) < 1
    (bends,) = (route for route, edge in zip(layout.routes, edges, strict=True) if edge == edges[5])
    assert [level for _, level in bends] == [1, 2, 3, 4]
    assert all(50 <= x <= layout.width - 50 for x, _ in layout.places.values())


def test_a_drawing_shows_every_node_inside_its_frame() -> None:
    block = GraphOutline.of(model(quantised=True).graph).block("inception3a", BLOCKS)
    svg = draw_block(block, Heading("d", "t", "d"), Marks(frozenset({"inception3a.relu"}), "gone"))
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [e.attrib for e in root.iter("rect")]
    assert [box["class"] for box in boxes].count("node") == 2
    assert [box["class"] for box in boxes].count("node gone") == 1
    for box in boxes:
        assert float(box["x"]) >= 0
        assert float(box["x"]) + float(box["width"]) <= width
        assert float(box["y"]) + float(box["height"]) <= height
    edges = [e.attrib["class"] for e in root.iter("path")]
    assert sorted(edges) == ["edge s0"] * 4 + ["edge s1"]


def refused(*reasons: tuple[str, str]) -> list[Record]:
    return [Record("m", {"node": node, "reason": reason}) for node, reason in reasons]


def test_reasons_that_differ_in_a_name_are_one() -> None:
    found = grouped_reasons(
        refused(
            ("n1", "its pads"), ("n2", "its input 'a' is float"), ("n3", "its input 'b' is float")
        )
    )
    assert found == [("its input … is float", "2 nodes, first n2"), ("its pads", "n1")]


def test_reasons_that_differ_in_a_figure_are_one_with_its_range() -> None:
    below = "'{}' stays below {}, which float16 only holds as subnormals"
    figures = ("3.1e-05", "4e-06", "1.2e-05")
    found = grouped_reasons(
        refused(
            *((f"n{n}", below.format(f"t{n}", figure)) for n, figure in enumerate(figures)),
            *(("a", "reads 3 and 4"), ("b", "reads 3 and 5"), ("c", "int8 of x7"), ("d", "int4")),
        )
    )
    told = "… stays below 4e-06 to 3.1e-05, which float16 only holds as subnormals"
    assert found[0] == (told, "3 nodes, first n0")
    assert [where for _, where in found[1:]] == [*"abcd"]  # two figures, or parts of a word


def with_lowering(executed: dict[str, str] | None) -> BundleData:
    data = load_bundle(BUNDLE)
    nodes = ("inception3a.c1", "inception3a.c2", "inception3b.c1", "fc")
    applied = [{"rewrite": "int8", "node": node, "detail": ""} for node in nodes]
    left = [{"rewrite": "int8", "node": "inception3a.pool", "reason": "slow"}]
    stage = {"name": "lower/int8", "seconds": 1.0, "applied": applied, "refused": left}
    manifest: dict[str, Any] = {**data.manifest, "stages": [stage], "executed": executed}
    return BundleData(data.name, manifest, data.parity, data.throughput, data.samples)


def test_asked_is_set_against_run() -> None:
    ran = {"inception3a.c1": "int8", "inception3a.c2": "float32", "fc": "int8"}
    view = PrecisionView.of(Facts(with_lowering(ran)))
    assert view.sentence == (
        "4 nodes were asked to run in INT8; ONNX Runtime ran 2 of them so, 1 in something else,"
        " and does not tell of 1."
    )
    shown = {row.label: [cell.text for cell in row.cells] for row in view.rows}
    assert shown == {
        "inception3a": ["2", "1", "1", "1 × FP32"],
        "inception3b": ["1", "0", "0", "0"],
        "between blocks": ["1", "0", "1", "0"],
    }
    assert view.rows[0].cells[3].kind == "alarm"
    assert view.reasons == [("slow", "inception3a.pool")]


def test_without_facts_of_the_engine_nothing_is_claimed() -> None:
    view = PrecisionView.of(Facts(with_lowering(None)))
    assert view.columns == ("Asked INT8", "Left as it was")
    assert "was not recorded" in view.sentence


def drawn(name: str = "demo") -> BundleData:
    data = load_bundle(BUNDLE)
    graphs = {
        "reference": GraphOutline.of(model().graph),
        "graph": GraphOutline.of(model(quantised=True).graph),
    }
    return BundleData(name, data.manifest, data.parity, data.throughput, data.samples, graphs)


def test_the_page_draws_the_block_twice_and_lists_it() -> None:
    html = render([drawn()])
    assert html.count('class="graph"') == 2
    assert "reference.onnx: 3 nodes" in html
    assert html.count("inception3a.relu</code>") == 2


def test_graphs_are_read_from_the_bundle(tmp_path: Path) -> None:
    for file in BUNDLE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    onnx.save(model(), tmp_path / "reference.onnx")
    assert load_bundle(tmp_path).graphs.keys() == {"reference"}
    assert "no drawing" in render([load_bundle(tmp_path)])
    onnx.save(model(), tmp_path / "model.onnx")
    assert render([load_bundle(tmp_path)]).count('class="graph"') == 2


def test_twenty_drawings_are_quick() -> None:
    started = time.perf_counter()
    html = render([drawn(f"b{n}") for n in range(20)])
    assert time.perf_counter() - started < 5
    assert len(html.encode()) < 3_000_000
