"""The exported graph: clean, named by block, deterministic, and equal to the golden."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from small_networks import CLASSES, exported, golden_of, small_network
from torch import Tensor, nn

from inception_deploy import __version__
from inception_deploy.artifact import Artifact, model_digest
from inception_deploy.engines import ENGINES
from inception_deploy.errors import RecipeError, StageError
from inception_deploy.export import OPSETS, _clean, export
from inception_deploy.golden import record_golden
from inception_deploy.graphs import open_graph
from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.networks.base import Head
from inception_deploy.preprocess import Preprocessing
from inception_deploy.proof import FP32_BOUND

each_network = pytest.mark.parametrize("name", NETWORKS.names())

OPERATORS = {
    "googlenet": {"Conv": 57, "BatchNormalization": 57, "Concat": 9, "MaxPool": 13, "Add": 0},
    "inception_v3": {"Conv": 94, "BatchNormalization": 94, "Concat": 11, "AveragePool": 9},
    "inception_resnet_v2": {"Conv": 244, "BatchNormalization": 204, "Add": 40, "Mul": 39},
}
"""What each architecture consists of, counted in its paper's or reference's layer table."""


class Tiny(InceptionNetwork):
    """One block, a 1×1 convolution; subclasses do what an exporter stumbles over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 5)
        self.extra: nn.Module = nn.ReLU()

    def forward_features(self, x: Tensor) -> Tensor:
        out: Tensor = self.stem(x)
        return torch.flatten(nn.functional.adaptive_avg_pool2d(out, 1), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features)
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        yield "stem", self.stem


def export_tiny(module: InceptionNetwork, opset: int = 20) -> Artifact:
    inputs = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    return export(
        module,
        record_golden(module, inputs),
        network="tiny",
        preprocessing=Preprocessing(size=8, resize=8),
        class_names=(),
        opset=opset,
    )


@each_network
def test_agrees_with_the_golden(name: str) -> None:
    record = exported(name).records[0]
    assert record.name == "export"
    assert record.bound == FP32_BOUND
    assert record.error is not None
    assert 0 <= record.error <= FP32_BOUND
    assert record.facts["worst_block"] in golden_of(name).blocks
    if name in OPERATORS:
        assert max(record.error, record.facts["block_error"]) <= 1e-5


@each_network
def test_holds_the_architecture_and_nothing_else(name: str) -> None:
    counts = Counter(node.op_type for node in exported(name).model.graph.node)
    assert not {"Identity", "Dropout", "Constant", "Shape"} & set(counts)
    for operator, count in OPERATORS.get(name, {}).items():
        assert counts[operator] == count, operator
    assert counts["GlobalAveragePool"] == counts["Flatten"] == 1
    assert not {"ReduceMean", "Reshape", "MatMul", "Transpose"} & set(counts)
    assert exported(name).model.graph.node[-1].op_type == "Gemm"


@each_network
def test_weights_carry_their_state_dict_keys(name: str) -> None:
    state = small_network(name).state_dict()
    found = {t.name: onnx.numpy_helper.to_array(t) for t in exported(name).model.graph.initializer}
    expected = {key for key in state if not key.endswith("num_batches_tracked")}
    assert expected <= set(found)
    for key in expected:
        np.testing.assert_array_equal(found[key], state[key].numpy())
    modules = {module for module, _ in small_network(name).named_modules()}
    for key in set(found) - expected:  # residual scales, the sizes of a split
        assert key.rpartition(".")[0] in modules
        assert found[key].size == 1 or found[key].dtype == np.int64


@each_network
def test_nodes_and_tensors_are_named_by_module(name: str) -> None:
    graph = exported(name).model.graph
    modules = {module for module, _ in small_network(name).named_modules()}
    for node in graph.node:
        owner = node.name if node.name in modules else node.name.rpartition(".")[0]
        assert owner in modules, node.name
        for index, output in enumerate(node.output):
            numbered = node.name if index == 0 else f"{node.name}:{index}"
            assert output == "logits" or output == numbered or output in golden_of(name).blocks
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)


def test_names_follow_the_architecture() -> None:
    names = {node.name: node.op_type for node in exported("inception_v3").model.graph.node}
    assert names["Mixed_6c.branch7x7dbl_3.conv"] == "Conv"
    assert names["Mixed_6c.branch7x7dbl_3.bn"] == "BatchNormalization"
    assert names["Mixed_6c.Concat"] == "Concat"
    assert names["fc"] == "Gemm"
    names = {node.name: node.op_type for node in exported("inception_resnet_v2").model.graph.node}
    assert names["repeat.0.branch1.1.conv"] == "Conv"
    assert names["repeat_1.19.Mul"] == "Mul"
    assert names["block8.Add"] == "Add"


@each_network
def test_every_block_is_a_tensor_with_the_goldens_shape(name: str) -> None:
    known = {value.name: value for value in exported(name).model.graph.value_info}
    for block, golden in golden_of(name).blocks.items():
        dims = known[block].type.tensor_type.shape.dim
        assert dims[0].dim_param == "batch"
        assert tuple(d.dim_value for d in dims[1:]) == golden.shape[1:]


@each_network
def test_every_tensor_has_a_shape_with_a_free_batch(name: str) -> None:
    graph = exported(name).model.graph
    known = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
    assert {output for node in graph.node for output in node.output} <= set(known)
    for value in known.values():
        dims = value.type.tensor_type.shape.dim
        assert dims[0].dim_param == "batch"
        assert all(d.dim_value > 0 for d in dims[1:])


@pytest.mark.parametrize("batch", [1, 3])
def test_runs_with_any_batch(batch: int) -> None:
    golden, model = golden_of("googlenet"), exported("googlenet").model
    with ENGINES.get("onnxruntime").session(model.SerializeToString(), threads=1) as session:
        outputs = session.run(golden.inputs[:batch])
    np.testing.assert_allclose(outputs, golden.outputs[:batch], rtol=0, atol=1e-4 * golden.scale)


@pytest.mark.parametrize("head", ["logits", "probabilities", "features"])
def test_the_output_is_named_after_the_head(head: Head) -> None:
    module = Tiny()
    module.head = head
    graph = export_tiny(module).model.graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == [head]
    last = {"logits": "Gemm", "probabilities": "Softmax", "features": "Flatten"}[head]
    assert graph.node[-1].op_type == last


def test_metadata_says_what_the_graph_is() -> None:
    model = exported("googlenet").model
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["inception_deploy.class_names"]) == list(CLASSES)
    assert metadata["inception_deploy.head"] == "logits"
    assert metadata["inception_deploy.network"] == "googlenet" == model.graph.name
    preprocessing = Preprocessing.from_dict(json.loads(metadata["inception_deploy.preprocessing"]))
    assert preprocessing == NETWORKS.get("googlenet").preprocessing.with_size(64)
    assert (model.producer_name, model.producer_version) == ("inception-deploy", __version__)


def test_two_exports_are_equal_byte_by_byte() -> None:
    first = exported("googlenet")
    again = exported.__wrapped__("googlenet")
    assert again.digest == first.digest == model_digest(first.model)
    assert again.model is not first.model


def test_equal_weights_stay_apart() -> None:
    """The exporter merges equal initialisers; each module must keep its own."""

    class Normalising(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.BatchNorm2d(3)  # mean and bias all 0, variance and weight all 1

        def forward_features(self, x: Tensor) -> Tensor:
            return super().forward_features(self.extra(x))

    graph = export_tiny(Normalising()).model.graph
    kept = {tensor.name for tensor in graph.initializer}
    assert {f"extra.{key}" for key in ("weight", "bias", "running_mean", "running_var")} <= kept
    assert not [node for node in graph.node if node.op_type == "Identity"]


@pytest.mark.parametrize("opset", OPSETS)
def test_every_offered_opset_works(opset: int) -> None:
    model = export_tiny(Tiny(), opset).model
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]


@pytest.mark.parametrize("opset", [OPSETS[0] - 1, OPSETS[-1] + 1])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(RecipeError, match="17–20"):
        export_tiny(Tiny(), opset)


def test_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        export_tiny(Tiny())
    assert not [str(warning.message) for warning in heard]
    assert capfd.readouterr() == ("", "")


def test_a_block_that_leaves_the_graph_keeps_the_outputs_name() -> None:
    class Bare(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.stem(x)
            return out

    artifact = export_tiny(Bare())
    assert [node.name for node in artifact.model.graph.node] == ["stem"]
    assert artifact.model.graph.node[0].output == ["logits"]


def test_a_graph_that_computes_something_else_is_an_error() -> None:
    golden = golden_of("googlenet")
    moved = replace(golden, outputs=golden.outputs + np.float32(3 * FP32_BOUND * golden.scale))
    with pytest.raises(StageError, match=r"export: 'logits' is off by .*e-04"):
        export(
            small_network("googlenet"),
            moved,
            network="googlenet",
            preprocessing=NETWORKS.get("googlenet").preprocessing,
            class_names=CLASSES,
        )


def test_a_decision_frozen_by_tracing_is_an_error() -> None:
    class Branching(Tiny):
        def forward_features(self, x: Tensor) -> Tensor:
            features = super().forward_features(x)
            return features if features.sum() > 1e9 else features + 1

    with pytest.raises(StageError, match=r"cannot export this network: .*tensor to a Python bool"):
        export_tiny(Branching())


def test_a_batch_frozen_by_tracing_is_an_error() -> None:
    class Reshaping(Tiny):
        def forward_features(self, x: Tensor) -> Tensor:
            features = super().forward_features(x)
            return features.reshape(2, 4) if torch.onnx.is_in_onnx_export() else features

    with pytest.raises(StageError, match="first dimension of 'logits' is no longer free"):
        export_tiny(Reshaping())


def test_an_operator_onnx_lacks_is_an_error() -> None:
    class Exotic(Tiny):
        def classify(self, features: Tensor) -> Tensor:
            out: Tensor = torch.special.bessel_j0(features)
            return out

    with pytest.raises(StageError, match=r"cannot export this network: .*bessel_j0"):
        export_tiny(Exotic())


def test_a_node_that_computes_nothing_is_an_error() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 20]>
        idle (float[batch, 3] input) => (float[batch, 3] output) { output = Identity(input) }"""
    )
    with pytest.raises(StageError, match="Identity node"):
        _clean(open_graph(model))


def test_a_block_that_never_runs_is_an_error() -> None:
    class Idle(Tiny):
        def forward_features(self, x: Tensor) -> Tensor:
            self.extra(x)
            return super().forward_features(x)

        def blocks(self) -> Iterator[tuple[str, nn.Module]]:
            yield "extra", self.extra

    with pytest.raises(StageError, match=r"block 'extra' must have one output .* found none"):
        export_tiny(Idle())


def test_a_new_warning_is_heard() -> None:
    class Warns(Tiny):
        def forward_features(self, x: Tensor) -> Tensor:
            warnings.warn("nobody has seen this before", UserWarning, stacklevel=2)
            return super().forward_features(x)

    with pytest.warns(UserWarning, match="nobody has seen this before"):
        export_tiny(Warns())
