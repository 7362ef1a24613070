"""What every precision demands of a graph before it looks at types."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inception_deploy.artifact import FloatArray
from inception_deploy.errors import StageError
from inception_deploy.lowering.retype import hoist_constants
from inception_deploy.lowering.schema import FLOAT, element_types, infer

__all__ = ["float_weights", "fp32_graph"]

_OTHER_FLOATS = frozenset(
    {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    | {t for t in TensorProto.DataType.values() if "FLOAT8" in TensorProto.DataType.Name(t)}
)


def fp32_graph(model: onnx.ModelProto, *, stage: str) -> onnx.ModelProto:
    """A copy of `model` with its constants as initialisers and every type inferred.

    Raises:
        StageError: the graph is not valid, is not FP32 throughout, has an initialiser that a caller
            may override, or a weight is NaN or infinite.
    """
    overridable = {i.name for i in model.graph.input} & {i.name for i in model.graph.initializer}
    if overridable:
        raise StageError(
            f"{stage}: initialiser '{min(overridable)}' is a graph input too, so its value is not "
            "known; export with keep_initializers_as_inputs=False"
        )
    inferred = infer(hoist_constants(model), stage=stage)
    for name, kind in element_types(inferred.graph).items():
        if kind in _OTHER_FLOATS:
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            raise StageError(f"{stage}: '{name}' is {dtype} already; lower an FP32 graph instead")
    for name, values in float_weights(inferred).items():
        if not np.isfinite(values).all():
            raise StageError(
                f"{stage}: weight '{name}' holds NaN or infinity; check the checkpoint it came from"
            )
    return inferred


def float_weights(model: onnx.ModelProto) -> Mapping[str, FloatArray]:
    """Name → values of every FP32 initialiser."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == FLOAT
    }
