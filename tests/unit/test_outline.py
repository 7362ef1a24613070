"""Models without their weights: opened, edited and closed, and nothing is lost or shared."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from inception_deploy.errors import StageError
from inception_deploy.graphs import close_graph, map_constant, open_graph, replace_constant
from inception_deploy.outline import outlined, read


def model() -> onnx.ModelProto:
    """A large weight, a small one and a shape."""
    made = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 20]>
        g (float[batch, 8, 4, 4] input) => (float[batch, n] output) {
            conv = Conv(input, large, small)
            output = Reshape(conv, target)
        }"""
    )
    for node in made.graph.node:
        node.name = node.output[0]
    rng = np.random.default_rng(0)
    for name, values in {
        "target": np.array([0, -1]),
        "large": rng.standard_normal((300, 8, 1, 1)).astype(np.float32),
        "small": rng.standard_normal(300).astype(np.float32),
    }.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return made


def values(made: onnx.ModelProto, name: str) -> np.ndarray:
    tensor = next(t for t in made.graph.initializer if t.name == name)
    return onnx.numpy_helper.to_array(tensor)


def test_an_outline_knows_weights_by_type_and_shape() -> None:
    given = model()
    outline = outlined(given)
    assert [t.name for t in outline.graph.initializer] == ["target", "small"]
    assert [value.name for value in outline.graph.input] == ["input", "large"]
    tensor = outline.graph.input[1].type.tensor_type
    assert tensor.elem_type == onnx.TensorProto.FLOAT
    assert [dim.dim_value for dim in tensor.shape.dim] == [300, 8, 1, 1]
    assert outline.ByteSize() < values(given, "large").nbytes < given.ByteSize()
    assert list(outline.graph.node) == list(given.graph.node)


def test_opening_and_closing_loses_nothing() -> None:
    given = model()
    untouched = given.SerializeToString(deterministic=True)
    closed = close_graph(open_graph(given), given, stage="test")
    assert given.SerializeToString(deterministic=True) == untouched
    assert [value.name for value in closed.graph.input] == ["input"]
    for tensor in given.graph.initializer:
        np.testing.assert_array_equal(values(closed, tensor.name), values(given, tensor.name))
    assert list(closed.graph.node) == list(given.graph.node)


@pytest.mark.parametrize("name", ["large", "small"])
def test_new_values_end_in_the_new_model_alone(name: str) -> None:
    given = model()
    graph = open_graph(given)
    conv = graph.nodes[0]
    index = ["input", "large", "small"].index(name)
    new = conv.inputs[index].values * 2 + 1
    replace_constant(conv, index, new)
    closed = close_graph(graph, given, stage="test")
    np.testing.assert_array_equal(values(closed, name), new)
    np.testing.assert_array_equal(values(given, name) * 2 + 1, new)
    assert values(closed, name).dtype == np.float32


@pytest.mark.parametrize("name", ["large", "small"])
def test_mapped_values_are_those_of_every_map_in_turn(name: str) -> None:
    given = model()
    graph = open_graph(given)
    conv = graph.nodes[0]
    index = ["input", "large", "small"].index(name)
    map_constant(conv, index, lambda stored: stored * 2)
    map_constant(conv, index, lambda doubled: doubled + 1)
    expected = values(given, name) * 2 + 1
    np.testing.assert_array_equal(read(conv.inputs[index]), expected)
    closed = close_graph(graph, given, stage="test")
    np.testing.assert_array_equal(values(closed, name), expected)
    np.testing.assert_array_equal(read(conv.inputs[index]), expected)


def test_large_values_are_mapped_when_the_graph_is_closed() -> None:
    given = model()
    graph = open_graph(given)
    calls: list[int] = []

    def counted(stored: np.ndarray) -> np.ndarray:
        calls.append(stored.size)
        return stored

    map_constant(graph.nodes[0], 1, counted)
    assert calls == []
    close_graph(graph, given, stage="test")
    assert calls == [2400]


def test_reading_leaves_stored_values_where_they_are() -> None:
    graph = open_graph(model())
    stored = graph.nodes[0].inputs[1]
    before = stored._values
    assert read(stored).shape == (300, 8, 1, 1)
    assert stored._values is before


def test_a_renamed_weight_keeps_its_name_in_the_given_model() -> None:
    given = model()
    graph = open_graph(given)
    graph.nodes[0].inputs[1].name = "weight"
    closed = close_graph(graph, given, stage="test")
    np.testing.assert_array_equal(values(closed, "weight"), values(given, "large"))


def test_a_closed_graph_can_be_closed_again() -> None:
    given = model()
    graph = open_graph(given)
    replace_constant(graph.nodes[0], 1, graph.nodes[0].inputs[1].values + 1)
    first, second = (close_graph(graph, given, stage="test") for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_types_numpy_does_not_have_survive() -> None:
    given = model()
    large = next(t for t in given.graph.initializer if t.name == "large")
    large.CopyFrom(
        onnx.helper.make_tensor("large", onnx.TensorProto.BFLOAT16, [300, 8, 1, 1], [0.5] * 2400)
    )
    given.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    given.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    del given.graph.node[0].input[2]
    given.opset_import[0].version = 22  # Conv takes bfloat16 since then
    closed = close_graph(open_graph(given), given, stage="test")
    kept = next(t for t in closed.graph.initializer if t.name == "large")
    assert kept.SerializeToString() == large.SerializeToString()


def test_wrong_shapes_of_weights_are_still_found() -> None:
    given = model()
    graph = open_graph(given)
    conv = graph.nodes[0]
    conv.inputs[1] = gs.Constant("large", np.ones((300, 8), np.float32))
    with pytest.raises(StageError, match="test: the shapes do not fit"):
        close_graph(graph, given, stage="test")
