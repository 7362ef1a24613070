"""The fuse stage on whole networks, and what it does with fusions that break their promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from small_networks import exported, golden_of

from inception_deploy.artifact import Artifact, Golden, model_digest
from inception_deploy.errors import StageError
from inception_deploy.fuse import fuse, rewrite, rewritings
from inception_deploy.fusions import FUSIONS, Fusion, Phase
from inception_deploy.fusions.conv_bn import ConvBatchNorm
from inception_deploy.graphs import replace_constant
from inception_deploy.networks import NETWORKS
from inception_deploy.proof import FP32_BOUND

each_network = pytest.mark.parametrize("name", NETWORKS.names())

CONV_BN, RESIDUAL_SCALE = FUSIONS.get("conv_bn"), FUSIONS.get("residual_scale")


@cache
def fused(name: str) -> Artifact:
    return fuse(exported(name), (CONV_BN, RESIDUAL_SCALE))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@each_network
def test_every_batch_norm_after_a_convolution_is_folded(name: str) -> None:
    before, after = exported(name).model, fused(name).model
    makers = {output: node.op_type for node in before.graph.node for output in node.output}
    norms = [node for node in before.graph.node if node.op_type == "BatchNormalization"]
    after_conv = [node for node in norms if makers.get(node.input[0]) == "Conv"]
    blocks = golden_of(name).blocks
    record = fused(name).records[1]
    assert record.name == "fuse/conv_bn"
    assert [entry.node for entry in record.applied] == [
        node.name for node in after_conv if node.input[0] not in blocks
    ]
    assert [entry.node for entry in record.refused] == [
        node.name for node in after_conv if node.input[0] in blocks
    ]
    left = operators(after)["BatchNormalization"]
    assert left == len(norms) - len(record.applied)


@pytest.mark.parametrize(
    ("name", "norms", "scales"),
    [("googlenet", 57, 0), ("inception_v3", 94, 0), ("inception_resnet_v2", 204, 39)],
)
def test_counts_of_the_architecture(name: str, norms: int, scales: int) -> None:
    """IRv2 scales 39 of its 40 residual blocks; the last one's scale is 1 and no node at all."""
    _, conv_bn, residual_scale = fused(name).records
    assert len(conv_bn.applied) == norms
    assert len(residual_scale.applied) == scales
    gone = Counter(BatchNormalization=norms, Mul=scales)
    assert operators(fused(name).model) == operators(exported(name).model) - gone
    assert {entry.node.rpartition(".")[2] for entry in residual_scale.applied} <= {"Mul"}


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "inception_resnet_v2"])
def test_adds_no_more_than_float32_noise(name: str) -> None:
    for record in fused(name).records[1:]:
        assert record.bound == FP32_BOUND
        if record.applied:
            assert record.error is not None
            assert record.error <= 1e-5
            assert record.facts["block_error"] <= 1e-5


@each_network
def test_names_survive(name: str) -> None:
    before, after = exported(name).model.graph, fused(name).model.graph
    assert {node.name for node in after.node} <= {node.name for node in before.node}
    tensors = {output for node in after.node for output in node.output}
    assert set(golden_of(name).blocks) <= tensors
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)
    known = {tensor.name for tensor in after.initializer}
    for node in after.node:
        if node.op_type == "Conv":
            assert f"{node.name}.weight" in known


def test_a_block_is_not_fused_with_the_next_one() -> None:
    """The batch norm could be folded, but then the block's output would be gone."""
    model = example()
    _, applied, refused = rewrite(model, CONV_BN, keep={"conv"})
    assert not applied
    assert [(entry.node, entry.reason) for entry in refused] == [
        ("bn", "the convolution's output is an output of the graph or of a block")
    ]
    rewritten, applied, _ = rewrite(model, CONV_BN, keep={"bn", "output", "elsewhere"})
    assert len(applied) == 1
    assert [value.name for value in rewritten.graph.output] == ["output"]


def test_the_model_around_the_graph_survives() -> None:
    before, after = exported("googlenet").model, fused("googlenet").model
    for field in ("ir_version", "producer_name", "producer_version", "opset_import"):
        assert getattr(after, field) == getattr(before, field)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert len(after.metadata_props) == 4
    known = {v.name: v for v in (*after.graph.value_info, *after.graph.output)}
    for node in after.graph.node:
        for output in node.output:
            assert known[output].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_history_is_a_chain() -> None:
    artifact = fused("inception_resnet_v2")
    names = [record.name for record in artifact.records]
    assert names == ["export", "fuse/conv_bn", "fuse/residual_scale"]
    for earlier, later in zip(artifact.records, artifact.records[1:], strict=False):
        assert later.before == earlier.after
        assert later.after != later.before
        assert later.seconds > 0
    assert artifact.digest == model_digest(artifact.model)


def test_the_earlier_artifact_is_left_alone() -> None:
    artifact = exported("googlenet")
    fuse(artifact, (CONV_BN,))
    assert model_digest(artifact.model) == artifact.digest
    assert len(artifact.records) == 1


def test_finding_nothing_is_recorded_too() -> None:
    before = exported("googlenet")
    after = fuse(before, (RESIDUAL_SCALE,))
    record = after.records[-1]
    assert record.name == "fuse/residual_scale"
    assert not record.applied
    assert not record.refused
    assert record.before == record.after == before.digest
    assert record.error is None
    assert after.model is before.model


def test_the_order_of_fusions_does_not_matter() -> None:
    one = fused("inception_resnet_v2")
    other = fuse(exported("inception_resnet_v2"), (RESIDUAL_SCALE, CONV_BN))
    assert operators(one.model) == operators(other.model)
    assert [n.name for n in one.model.graph.node] == [n.name for n in other.model.graph.node]


class Broken(ConvBatchNorm):
    """The base of fusions that do what no fusion may do."""

    name = "broken"


def test_wrong_algebra_is_an_error_that_names_fusion_and_block() -> None:
    class ForgetsTheMean(Broken):
        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            conv, mean = anchor.inputs[0].inputs[0], anchor.inputs[3].values
            detail = super().rewrite(graph, anchor)
            replace_constant(conv, 2, conv.inputs[2].values + mean)
            return detail

    with pytest.raises(StageError, match=r"fuse/broken: 'conv1' is off by .* allowed are 1e-04"):
        fuse(exported("googlenet"), (ForgetsTheMean(),))


def test_nan_is_an_error() -> None:
    class Poisons(Broken):
        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            conv = anchor.inputs[0].inputs[0]
            detail = super().rewrite(graph, anchor)
            replace_constant(conv, 2, np.full_like(conv.inputs[2].values, np.nan))
            return detail

    with pytest.raises(StageError, match=r"fuse/broken: 'conv1' is off by inf"):
        fuse(exported("googlenet"), (Poisons(),))


def test_losing_a_blocks_name_is_an_error() -> None:
    class Renames(Broken):
        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            detail = super().rewrite(graph, anchor)
            graph.tensors()["inception3a"].name = "better_name"
            return detail

        def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
            yield from list(super().match(graph))[:1] if "inception3a" in graph.tensors() else ()

    with pytest.raises(StageError, match="the output of block 'inception3a' is gone"):
        fuse(exported("googlenet"), (Renames(),))


def example() -> onnx.ModelProto:
    return CONV_BN.examples[0].build()


def test_two_nodes_of_one_name_are_an_error() -> None:
    class Duplicates(Broken):
        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            detail = super().rewrite(graph, anchor)
            for node in graph.nodes:
                node.name = "same"
            return detail

    with pytest.raises(StageError, match="fuse/broken: two nodes are named 'same'"):
        rewrite(example(), Duplicates())


def test_a_fixed_batch_is_an_error() -> None:
    class Fixes(Broken):
        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            graph.inputs[0].shape = [2, *graph.inputs[0].shape[1:]]
            return super().rewrite(graph, anchor)

    with pytest.raises(StageError, match="first dimension of 'input' is no longer free"):
        rewrite(example(), Fixes())


def test_shapes_that_do_not_fit_are_an_error() -> None:
    class Cuts(Broken):
        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            conv = anchor.inputs[0].inputs[0]
            detail = super().rewrite(graph, anchor)
            replace_constant(conv, 1, conv.inputs[1].values[:5])
            return detail

    with pytest.raises(StageError, match="fuse/broken: "):
        rewrite(example(), Cuts())


def test_a_fusion_that_matches_its_own_result_is_an_error() -> None:
    class Endless(Broken):
        def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
            return iter([node for node in graph.nodes if node.op == "Relu"])

        def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
            return None

        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            return "nothing"

    with pytest.raises(StageError, match="fuse/broken does not come to an end"):
        rewrite(example(), Endless())


def test_a_place_taken_in_by_another_is_not_asked_about() -> None:
    """Both batch norms match at first; the second is gone when its turn comes."""

    class TakesTheNextToo(Broken):
        def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
            following = anchor.outputs[0].outputs
            detail = super().rewrite(graph, anchor)
            for node in [n for n in following if n.op == "BatchNormalization"]:
                super().rewrite(graph, node)
            return detail

    model = next(e for e in CONV_BN.examples if e.name == "two batch norms in a row").build()
    rewritten, applied, refused = rewrite(model, TakesTheNextToo())
    assert [entry.node for entry in applied] == ["first"]
    assert not refused
    assert [node.op_type for node in rewritten.graph.node] == ["Conv"]


def test_a_node_that_nobody_needs_shares_nothing() -> None:
    model = example()
    model.graph.node.append(onnx.helper.make_node("Conv", ["input", "W"], ["idle"], "idle"))
    rewritten, applied, refused = rewrite(model, CONV_BN)
    assert len(applied) == 1
    assert not refused
    assert "idle" not in {node.name for node in rewritten.graph.node}


def test_weights_that_can_be_overridden_are_an_error() -> None:
    model = example()
    model.graph.input.append(onnx.helper.make_tensor_value_info("W", 1, [8, 4, 3, 3]))
    with pytest.raises(StageError, match="'W' is also a graph input"):
        rewrite(model, CONV_BN)


@pytest.mark.parametrize("fusion", tuple(FUSIONS), ids=lambda fusion: fusion.name)
def test_namesakes_of_other_domains_are_not_meant(fusion: Fusion) -> None:
    model = next(e for e in fusion.examples if e.applied).build()
    graph = gs.import_onnx(model)
    for node in graph.nodes:
        node.domain = "com.example"
    assert not list(fusion.match(graph))


class Swaps(Fusion):
    """Turns one activation into another, which its opposite turns back."""

    phase = Phase.CANONICAL
    bound = FP32_BOUND
    examples = ()

    def __init__(self, name: str, taken: str, given: str) -> None:
        self.name, self.taken, self.given = name, taken, given

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        yield from [node for node in graph.nodes if node.op == self.taken]

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        anchor.op = self.given
        return "swapped"


CHAIN = """<ir_version: 9, opset_import: ["": 20]>
    g (float[batch, 3] input) => (float[batch, 3] output) { output = Elu(input) }"""


def chain() -> onnx.ModelProto:
    model = onnx.parser.parse_model(CHAIN)
    model.graph.node[0].name = "act"
    return model


def test_fusions_of_one_phase_take_turns_until_all_are_at_rest() -> None:
    """The one that comes last makes work for the first: its second turn does it."""
    steps = [Swaps("later", "Selu", "Relu"), Swaps("sooner", "Elu", "Selu")]
    turns = list(rewritings(chain(), steps))
    assert [(turn.fusion.name, len(turn.applied)) for turn in turns] == [
        ("later", 0),
        ("sooner", 1),
        ("later", 1),
        ("sooner", 0),
    ]
    assert operators(turns[-1].model) == Counter(Relu=1)
    assert turns[-1].model is turns[-2].model


def test_several_turns_make_one_record() -> None:
    """Each step moves no value: the input is positive, and Relu, Abs and Identity are one there."""
    inputs = np.abs(np.random.default_rng(0).standard_normal((2, 3))).astype(np.float32)
    model = onnx.parser.parse_model(CHAIN.replace("Elu", "Relu"))
    model.graph.node[0].name = "act"
    before = Artifact(model, Golden(inputs, inputs, "output", {}, 0))
    steps = [Swaps("second", "Abs", "Identity"), Swaps("first", "Relu", "Abs")]
    after = fuse(before, steps)
    assert [record.name for record in after.records] == ["fuse/first", "fuse/second"]
    first, second = after.records
    assert first.before == before.digest
    assert second.before == first.after
    assert (len(first.applied), len(second.applied)) == (1, 1)
    assert first.error == second.error == 0.0
    assert after.digest == model_digest(after.model)
    assert operators(after.model) == Counter(Identity=1)


def test_fusions_that_undo_each_other_are_an_error() -> None:
    steps = [Swaps("there", "Elu", "Relu"), Swaps("back", "Relu", "Elu")]
    with pytest.raises(StageError, match=r"phase CANONICAL does not come to an end .* there, back"):
        list(rewritings(chain(), steps))
