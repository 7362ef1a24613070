"""An ONNX file as the reference: what is refused, what is a block, and how it becomes our graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from inception_deploy.errors import CheckpointError, InceptionDeployError, RecipeError, StageError
from inception_deploy.foreign import onnx_reference
from inception_deploy.fuse import fuse
from inception_deploy.fusions import FUSIONS, Phase
from inception_deploy.golden import record_golden
from inception_deploy.import_onnx import import_onnx
from inception_deploy.onnx_file import OnnxNetwork, block_tensors, read_onnx
from inception_deploy.preprocess import Preprocessing
from inception_deploy.recipe import Recipe

WEIGHTS = {"W": (8, 3, 3, 3), "V": (8, 8, 1, 1), "U": (8, 8, 1, 1), "F": (5, 16), "b": (5,)}
NORM = ("gamma", "beta", "mean", "var")

BODY = """
    conv = Conv<pads: ints = [1, 1, 1, 1]>(pixels, W)
    bn = BatchNormalization(conv, gamma, beta, mean, var)
    stem = Relu(bn)
    left = Conv(stem, V)
    left_on = Relu(left)
    right = Conv(stem, U)
    right_on = Relu(right)
    mixed = Concat<axis: int = 1>(left_on, right_on)
    pool = GlobalAveragePool(mixed)
    flat = Reshape(pool, shape)
    scores = Gemm<transB: int = 1>(flat, F, b)
"""


def written(
    path: Path,
    *,
    batch: str = "N",
    body: str = BODY,
    output: str = "scores",
    shape: tuple[int, ...] = (-1, 16),
    opset: int = 20,
    listed: bool = False,
) -> Path:
    """A file of a small two-branch network with unnamed nodes, 8 × 8 pixels, 5 classes."""
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]> agraph '
        f"(float[{batch}, 3, 8, 8] pixels) => (float[{batch}, 5] {output}) {{{body}}}"
    )
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, dims in {**WEIGHTS, **dict.fromkeys(NORM, (8,))}.items():
        values = rng.standard_normal(dims).astype(np.float32)
        values = np.abs(values) + 0.5 if name == "var" else values
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), "shape"))
    if listed:
        for tensor in model.graph.initializer:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(value)
    onnx.save(model, path)
    return path


def imported(path: Path, head: str = "logits", opset: int = 20) -> tuple[OnnxNetwork, object]:
    network = OnnxNetwork(path)
    network.head = head
    images = np.random.default_rng(1).standard_normal((6, 3, 8, 8)).astype(np.float32)
    golden = record_golden(network, images)
    artifact = import_onnx(
        network,
        golden,
        name="small",
        preprocessing=Preprocessing(8, 8),
        class_names=(),
        opset=opset,
    )
    return network, artifact


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch": "1", "shape": (1, 16)},
        {"batch": "4", "shape": (4, 16)},
        {"listed": True},
        {"opset": 12},
    ],
    ids=["free batch", "batch of 1 baked in", "batch of 4 baked in", "weights as inputs", "old"],
)
def test_a_file_becomes_our_kind_of_graph(tmp_path: Path, changes: dict[str, object]) -> None:
    _, artifact = imported(written(tmp_path / "small.onnx", **changes))
    graph = artifact.model.graph
    assert [v.name for v in graph.input] == ["input"]
    assert [v.name for v in graph.output] == ["logits"]
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert all(node.name for node in graph.node)
    assert next(o.version for o in artifact.model.opset_import if not o.domain) == 20
    assert artifact.records[0].name == "import"
    assert artifact.records[0].error <= 1e-6


def test_blocks_are_where_everything_passes(tmp_path: Path) -> None:
    model = read_onnx(written(tmp_path / "small.onnx"))
    assert block_tensors(model) == ["stem", "mixed"]  # not a branch, not the pool, not the norm


def test_the_rewrites_work_on_it(tmp_path: Path) -> None:
    _, artifact = imported(written(tmp_path / "small.onnx"))
    fused = fuse(artifact, tuple(FUSIONS))
    assert {"stem", "mixed"} <= {name for n in fused.model.graph.node for name in n.output}
    assert not any(n.op_type == "BatchNormalization" for n in fused.model.graph.node)


SOFTMAX = BODY + "probs = Softmax<axis: int = 1>(scores)\n"


@pytest.mark.parametrize(
    ("body", "output", "head", "last"),
    [
        (BODY, "scores", "logits", "Gemm"),
        (BODY, "scores", "probabilities", "Softmax"),
        (SOFTMAX, "probs", "logits", "Gemm"),
        (SOFTMAX, "probs", "probabilities", "Softmax"),
    ],
)
def test_the_head_decides_about_the_softmax(
    tmp_path: Path, body: str, output: str, head: str, last: str
) -> None:
    path = written(tmp_path / "small.onnx", body=body, output=output)
    network, artifact = imported(path, head)
    assert artifact.model.graph.node[-1].op_type == last
    assert artifact.model.graph.output[0].name == head
    images = torch.zeros(2, 3, 8, 8)
    sums = network(images).sum(1)
    assert torch.allclose(sums, torch.ones(2)) == (head == "probabilities")


def test_it_runs_the_file_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "small.onnx", batch="4", shape=(4, 16))
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    reference = ReferenceEvaluator(str(path))
    want = [
        reference.run(None, {"pixels": np.resize(images[i : i + 4], (4, 3, 8, 8))})[0]
        for i in (0, 4)
    ]
    have = OnnxNetwork(path)(images).numpy()
    np.testing.assert_allclose(have, np.concatenate(want)[:6], rtol=1e-5, atol=1e-5)


def broken(path: Path, how: str) -> Path:
    if how == "missing":
        return path
    if how == "garbage":
        path.write_bytes(b"no onnx at all")
        return path
    if how == "truncated":
        whole = written(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return path
    model = onnx.load(written(path))
    graph = model.graph
    if how == "two outputs":
        graph.output.append(onnx.helper.make_tensor_value_info("flat", 1, ["N", 16]))
    elif how == "half weights":
        values = onnx.numpy_helper.to_array(graph.initializer[0]).astype(np.float16)
        graph.initializer.append(onnx.numpy_helper.from_array(values, "half"))
    elif how == "quantised":
        graph.node[0].output[0] = "raw"
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), "scale"))
        pair = [
            onnx.helper.make_node("QuantizeLinear", ["raw", "scale"], ["q"]),
            onnx.helper.make_node("DequantizeLinear", ["q", "scale"], ["conv"]),
        ]
        for offset, node in enumerate(pair):
            graph.node.insert(1 + offset, node)
    elif how == "grey":
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
        graph.node[0].input[0] = "coloured"
        expand = onnx.helper.make_node("Concat", ["pixels"] * 3, ["coloured"], axis=1)
        graph.node.insert(0, expand)
    elif how == "training":
        norm = next(n for n in graph.node if n.op_type == "BatchNormalization")
        norm.attribute.append(onnx.helper.make_attribute("training_mode", 1))
        norm.output.extend(["m", "v"])
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "no such ONNX file"),
        ("garbage", "not a valid ONNX model"),
        ("truncated", "not a valid ONNX model"),
        ("two outputs", "2 outputs"),
        ("half weights", "float16 weights"),
        ("quantised", "quantised already"),
        ("grey", "networks here take"),
        ("training", "exported in training mode"),
    ],
)
def test_a_file_that_cannot_serve_is_refused(tmp_path: Path, how: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        read_onnx(broken(tmp_path / "bad.onnx", how))
    assert "\n" not in str(caught.value)
    assert "bad.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give --mean and --std"),
        ({"image_size": 16, "network": "inception_v3"}, "images of 8 pixels, not 16"),
        (
            {"image_size": 8, "network": "inception_v3", "num_classes": 7},
            "5 outputs, 7 classes were asked for",
        ),
    ],
)
def test_options_that_do_not_fit_the_file(
    tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    path = written(tmp_path / "small.onnx")
    with pytest.raises(RecipeError, match=said):
        onnx_reference(Recipe(onnx=str(path), **fields))


def test_weights_and_a_file_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="brings its own weights"):
        Recipe(onnx="x.onnx", weights="random")


def test_preprocessing_comes_from_the_network_named(tmp_path: Path) -> None:
    path = written(tmp_path / "small.onnx")
    reference = onnx_reference(Recipe(onnx=str(path), network="inception_next_tiny", image_size=8))
    assert reference.preprocessing.mean == (0.485, 0.456, 0.406)
    assert reference.preprocessing.size == 8
    assert reference.name == "small"
    assert reference.weights.num_classes == 5


def test_a_file_of_ours_says_how_it_is_fed(tmp_path: Path) -> None:
    _, artifact = imported(written(tmp_path / "small.onnx"))
    onnx.save(artifact.model, tmp_path / "ours.onnx")
    reference = onnx_reference(Recipe(onnx=str(tmp_path / "ours.onnx")))
    assert reference.preprocessing == Preprocessing(8, 8)


def test_a_batch_that_cannot_be_freed_is_an_error(tmp_path: Path) -> None:
    # the batch moves into the channels and back: only true for one image
    body = (
        BODY.replace("flat = Reshape(pool, shape)", "flat = Reshape(pool, shape)")
        .replace(
            "scores = Gemm",
            "turned = Transpose<perm: ints = [1, 0]>(flat)\n"
            "back = Reshape(turned, shape)\nscores = Gemm",
        )
        .replace("(flat, F, b)", "(back, F, b)")
    )
    path = written(tmp_path / "small.onnx", batch="1", shape=(1, 16), body=body)
    with pytest.raises((StageError, InceptionDeployError)):
        imported(path)


class Normalised(torch.nn.Module):
    """Its normalisation asks for the rank of its input, which TorchScript writes as an `If`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.lrn = torch.nn.LocalResponseNorm(5)
        self.fc = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lrn(torch.relu(self.conv(x))).mean((2, 3)))


def test_an_if_of_known_condition_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "lrn.onnx"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            Normalised().eval(),
            (torch.zeros(2, 3, 8, 8),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["pixels"],
            dynamic_axes={"pixels": {0: "n"}},
        )
    assert any(node.op_type == "If" for node in onnx.load(path).graph.node)
    _, artifact = imported(path)
    fused = fuse(artifact, tuple(fusion for fusion in FUSIONS if fusion.phase <= Phase.FOLD))
    kinds = [node.op_type for node in fused.model.graph.node]
    assert "If" not in kinds
    assert kinds.count("LRN") == 1
