"""Where the accuracies that the networks' files quote are printed."""

from __future__ import annotations

__all__ = [
    "BVLC",
    "CADENE",
    "FBGEMM",
    "INC_2_1",
    "INC_3_1",
    "NNCF",
    "NNCF_TESTS",
    "OSMR",
    "PTQ_CPU",
    "PTQ_CPU_2021",
    "PTQ_DPU",
    "PTQ_ORT",
    "TORCHVISION_FACTS",
    "VITIS",
]

BVLC = "BVLC/caffe, models/bvlc_googlenet/readme.md"
CADENE = "pretrained-models.pytorch, README"
INC_2_1 = "Intel Neural Compressor v2.1, validated models"
INC_3_1 = "Intel Neural Compressor v3.1, validated models"
NNCF_TESTS = "openvinotoolkit/nncf, post-training test references"
OSMR = "osmr/imgclsmob, README, 100 − error"
TORCHVISION_FACTS = "torchvision 0.28, weights' metadata"
VITIS = "Xilinx/Vitis-AI model zoo 2.5"

FBGEMM = "post-training, fbgemm"
NNCF = "post-training, NNCF, OpenVINO"
PTQ_CPU = "post-training, TensorFlow 2.16, Xeon 8480+"
PTQ_CPU_2021 = "post-training, TensorFlow 2.11, Xeon 8380"
PTQ_DPU = "post-training, powers of two as scales, DPU"
PTQ_ORT = "post-training, ONNX Runtime 1.18"
