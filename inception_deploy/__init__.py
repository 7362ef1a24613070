"""Export, rewrite, lower and verify Inception-family networks for deployment.

Importing this package imports neither torch, onnx nor onnxruntime.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
