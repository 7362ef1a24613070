"""Kernels that TensorRT-RTX compiles when an engine first runs, kept for the processes after it.

Building an engine ahead of time leaves its kernels uncompiled: that happens on the GPU at hand, in
seconds to minutes, once per process. The library can write down what it compiled and take it back;
what it takes back it checks against GPU, driver and its own version, and declines what does not
fit. The file lies in the user's cache directory, found by the engine's hash, and is used only with
its own hash intact: it holds code. A bundle is sealed by its hashes, so none is written there.
"""

from __future__ import annotations

import hashlib
from typing import Any

from inception_deploy.engines._trt_cache import BuildCache, cache_directory, cache_key
from inception_deploy.engines._trt_library import Gpu

__all__ = ["CompiledKernels"]


class CompiledKernels:
    """What was compiled for one engine on one kind of GPU.

    Args:
        library: TensorRT-RTX.
        engine: deserialised, on a thread with a CUDA context, which the library looks at.
        plan: the bytes of that engine.
        gpu: that it will run on.
    """

    def __init__(self, library: Any, engine: Any, plan: bytes, gpu: Gpu) -> None:
        self._engine = engine
        version = str(library.__version__)
        self._facts = {"version": version, "gpu": gpu.name, "sm": gpu.sm}
        self._key = cache_key(plan, self._facts)
        self._store = BuildCache(cache_directory("kernels"))
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        kept = self._store.read(self._key)
        self.reused = kept is not None and bool(cache.deserialize(kept[0]))
        """Whether kernels of an earlier process were taken over."""
        self._before = hashlib.sha256(kept[0]).digest() if kept is not None and self.reused else b""
        config.set_runtime_cache(cache)
        # a CUDA graph is captured early on, and would replay stand-ins for kernels compiled later
        strategy = library.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = strategy
        self._config, self._cache = config, cache

    def context(self) -> Any:
        """An execution context that uses these kernels and adds to them; None without memory."""
        return self._engine.create_execution_context(self._config)

    def keep(self) -> str | None:
        """Write what is new; one line where that cannot be, which costs time and nothing else."""
        content = bytes(self._cache.serialize())
        if hashlib.sha256(content).digest() == self._before:
            return None
        return self._store.write(self._key, content, {"facts": self._facts})
