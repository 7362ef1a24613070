"""What never reaches TensorRT's parser: each rule with a graph it refuses and one it lets pass."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from small_graphs import build, observe_on

from inception_deploy.engines._trt_refusals import refusals, require_parsable
from inception_deploy.errors import StageError
from inception_deploy.precisions import PRECISIONS
from inception_deploy.precisions.int8 import Int8

SCALE, ZERO = np.float32(0.1), np.array(0, np.int8)
WEIGHTS = np.ones((3, 4, 1, 1), np.int8)
INT8 = """
 q = QuantizeLinear(input, s, z)
 d = DequantizeLinear(q, s, z)
 w = DequantizeLinear<axis = 0>(wi, ws, wz)
 output = Conv(d, w)"""
GIVEN = {"s": SCALE, "z": ZERO, "wi": WEIGHTS, "ws": np.ones(3, np.float32)}
GIVEN |= {"wz": np.zeros(3, np.int8)}
FOUR = np.ones(4, np.float32)
TURN = "Transpose<perm = [0, 1, 3, 2]>"


def graph(body: str = INT8, **changed: object) -> onnx.ModelProto:
    return build(body, {**GIVEN, **changed})  # type: ignore[dict-item]


def test_signed_quantisers_around_zero_pass() -> None:
    assert refusals(graph()) == ()
    require_parsable(graph())


@pytest.mark.parametrize(
    ("model", "node", "what", "remedy"),
    [
        (graph(z=np.array(0, np.uint8)), "node.q", "uint8", "--target tensorrt"),
        (graph(z=np.array(-3, np.int8)), "node.q", "zero point -3", "signed around 0"),
        (
            graph(
                INT8.replace("axis = 0", "axis = 1"),
                ws=np.ones(4, np.float32),
                wz=np.zeros(4, np.int8),
            ),
            "node.w",
            "along axis 1",
            "axis 0",
        ),
        (
            graph(
                INT8.replace("Conv(d, w)", "Conv(d, w, b)").replace(
                    "output", "b = DequantizeLinear<axis = 0>(bi, ws)\n output"
                ),
                bi=np.ones(3, np.int32),
            ),
            "node.b",
            "bias in int32",
            "bias in float",
        ),
        (
            build(
                "t = Transpose<perm = [0, 1, 3, 2]>(input)\n output = Cast<to = 1>(t)",
                dtype="uint8",
            ),
            "node.t",
            "without a Cast",
            "put the Cast first",
        ),
    ],
    ids=["u8", "zero point", "axis", "int32 bias", "uint8 input"],
)
def test_what_is_refused_and_what_to_do(
    model: onnx.ModelProto, node: str, what: str, remedy: str
) -> None:
    found = refusals(model)
    assert found
    assert found[0].node == node
    assert what in found[0].what
    assert remedy in found[0].remedy
    with pytest.raises(StageError, match=node) as caught:
        require_parsable(model)
    assert "\n" not in str(caught.value)


def test_pixels_that_are_cast_first_pass() -> None:
    model = build(
        "c = Cast<to = 1>(input)\n output = Transpose<perm = [0, 1, 3, 2]>(c)", dtype="uint8"
    )
    assert refusals(model) == ()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_graphs_for_other_targets_are_refused_and_counted(name: str) -> None:
    model = build(
        "c = Conv(input, w, b)\n r = Relu(c)\n output = Conv(r, v)",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 8, 1, 1)},
    )
    lowered = Int8().at(name, reduce_range=False).lower(model, observe_on(model)).model
    with pytest.raises(StageError, match=r"uint8.*more nodes are refused"):
        require_parsable(lowered)


@pytest.mark.parametrize(("precision", "sm", "passes"), [("bf16", 75, False), ("bf16", 80, True)])
def test_gpus_that_cannot_run_bf16(precision: str, sm: int, passes: bool) -> None:
    model = build("c = Conv(input, w)\n output = Relu(c)", {"w": (8, 4, 3, 3)})
    lowered = PRECISIONS.get(precision).lower(model, None).model
    assert (refusals(lowered, (sm,)) == ()) == passes


@pytest.mark.parametrize(("sm", "passes"), [(86, False), (89, True)])
def test_gpus_that_cannot_run_fp8(sm: int, passes: bool) -> None:
    eight = np.dtype(ml_dtypes.float8_e4m3fn)
    model = graph(z=np.zeros((), eight), wi=WEIGHTS.astype(eight), wz=np.zeros(3, eight))
    found = refusals(model, (sm,))
    assert (found == ()) == passes
    if not passes:
        assert "FP8 needs compute capability 8.9" in found[0].what
