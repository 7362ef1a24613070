"""TensorRT's descriptions of an engine, in lines and in JSON, read back as kernels and nodes."""

from __future__ import annotations

import json

import pytest

from inception_deploy.engines._trt_inspect import (
    Kernel,
    kernels_of_json,
    kernels_of_log,
    precisions,
    reformats,
)


def line(name: str, kind: str, reads: str, constants: str, writes: str, nodes: list[str]) -> str:
    def tensors(kinds: str) -> str:
        return ", ".join(
            f"{{ Name: t, Dimensions: [-1,8], Strides: [8,1], StrideOrder: [1,0], Datatype: {k}, "
            "Format: (Linear) Row major linear format }"
            for k in kinds.split()
        )

    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensors(reads)}], Constants: "
        f"[ {tensors(constants)}], Outputs: [ {tensors(writes)}], TacticName: __myl_Mul_0x1, "
        f"StreamId: 0, Metadata: {metadata}"
    )


LINES = "\n".join(
    [
        "Layers:",
        line("shape", "shape_call", "", "", "", []),
        line("k0", "kgen", "Float", "Half", "Int8", ["input.QuantizeLinear"]),
        line("Mixed.conv_myl0_2", "correlation", "Int8", "Int8 Float", "Float", ["Mixed.conv"]),
        line("k1", "kgen", "Float", "Half", "Int8", ["Mixed.relu", "Mixed.conv", "q"]),
        line("pool", "maxpool", "Int8", "Float", "Int8", ["pool"]),
        line("head", "gemm", "Half", "Half", "Half", ["head"]),
        line("k2", "kgen", "Half", "", "Float", []),
        line("k3", "kgen", "Int8", "", "Int8", ["joined"]),
        "",
        "I/O Tensors:",
        " Name: input, IOMode: Input, DataType: Float, Dimensions: [-1,8]",
    ]
)


def test_lines_become_kernels() -> None:
    found = kernels_of_log(LINES)
    assert [kernel.name for kernel in found][:3] == ["shape", "k0", "Mixed.conv_myl0_2"]
    assert found[2] == Kernel(
        "Mixed.conv_myl0_2", "correlation", ("Mixed.conv",), ("int8",), ("float32",)
    )
    assert len(found) == 8


def test_a_convolution_counts_where_its_products_are() -> None:
    """Not in the chain behind it, which scales its sums and names it, too."""
    assert precisions(kernels_of_log(LINES)) == {
        "Mixed.conv": "int8",
        "pool": "int8",
        "head": "float16",
        "joined": "int8",
        "input.QuantizeLinear": "float32",
        "Mixed.relu": "float32",
        "q": "float32",
    }


def test_chains_of_no_node_are_reformats() -> None:
    assert reformats(kernels_of_log(LINES)) == 1


def test_json_of_either_wording() -> None:
    """`Datatype` of RTX, `Format/Datatype` of TensorRT 10, whose names end in the type."""
    layers = [
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized Int8"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16"}],
            "Metadata": "[ONNX Layer: Mixed.conv]",
        },
        {
            "Name": "relu",
            "LayerType": "kgen",
            "Inputs": [{"Name": "x", "Datatype": "Half"}],
            "Outputs": [{"Name": "y", "Datatype": "BF16"}],
            "Metadata": "[ONNX Layer: Mixed.relu]",
        },
        {"Name": "copy", "LayerType": "Reformat", "Inputs": [], "Outputs": []},
    ]
    found = kernels_of_json(json.dumps({"Layers": layers, "Bindings": ["x"]}))
    assert precisions(found) == {"Mixed.conv": "int8", "Mixed.relu": "float16"}
    assert reformats(found) == 1


def test_an_engine_without_details_tells_nothing() -> None:
    assert kernels_of_json(json.dumps({"Layers": ["conv", "relu"]})) == []
    assert kernels_of_log("Layers:\nconv\nrelu") == []


@pytest.mark.parametrize("kind", ["Reformat", "reformat", "NoOp"])
def test_moving_a_nodes_values_is_not_its_arithmetic(kind: str) -> None:
    """TensorRT writes kinds with a capital letter, TensorRT-RTX without."""
    moved = Kernel("r", kind, ("conv",), ("float32",), ("float16",))
    conv = Kernel("c", "CaskConvolution", ("conv",), ("float16",), ("float16",))
    assert precisions([moved, conv]) == {"conv": "float16"}
