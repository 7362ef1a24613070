"""OpenVINO on the CPU: its sessions (`_openvino_session`), and its own file format for bundles."""

from __future__ import annotations

from pathlib import Path

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.engines._openvino_session import (
    FIXED_BATCHES,
    REMEDY,
    Hint,
    OpenvinoSession,
    Options,
    core,
    library,
    outline,
    reason,
)
from inception_deploy.engines._recorded import exported_with, read_recorded
from inception_deploy.engines.base import Availability, Compiled, Engine, Network
from inception_deploy.errors import MissingDependency, StageError
from inception_deploy.progress import Progress

__all__ = [
    "ENGINES",
    "FIXED_BATCHES",
    "Hint",
    "Openvino",
    "OpenvinoSession",
    "Options",
    "save_ir",
]


class Openvino(Engine):
    """Intel's OpenVINO, its CPU plugin."""

    name = "openvino"

    def availability(self) -> Availability:
        try:
            ov = library()
        except MissingDependency as missing:
            return Availability(version=None, remedy=REMEDY, detail=str(missing))
        kinds = core(ov).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        fast = [kind for kind in ("FP16", "BF16", "INT8") if kind in kinds]
        return Availability(
            version=ov.__version__.split("-")[0],
            devices=("CPU",),
            detail=f"CPU, with kernels for {', '.join(('FP32', *fast))}",
        )

    def session(
        self,
        model: Path | bytes,
        *,
        threads: int | None = None,
        optimise: bool = True,
        options: Options | None = None,
    ) -> OpenvinoSession:
        """As the base class says; `model` may also be an .xml file with its .bin beside it. The
        model of a bundle is run from the files that were exported with it.

        `optimise=False` computes what stands between quantisers in float32 and compiles no fused
        kernels of element-wise chains. OpenVINO still folds constants and joins operators with the
        activation behind them; it has no mode without that.
        """
        library()
        options = options or Options()
        source = None
        exported = exported_with(model) if optimise else None
        if exported is not None:
            assert isinstance(model, Path)
            read_recorded(*exported)
            source, model = model, exported[0]
        return OpenvinoSession(
            model, threads=threads, optimise=optimise, options=options, source=source
        )

    def compiled(
        self,
        model: Path,
        directory: Path,
        *,
        batch: BatchProfile | None = None,
        options: BuildOptions | None = None,
        network: Network | None = None,
        progress: Progress | None = None,
    ) -> Compiled:
        del batch, options, network, progress
        return Compiled(tuple(save_ir(model, directory)))


def save_ir(model: Path, directory: Path) -> list[Path]:
    """Write `model` (ONNX) in OpenVINO's own format, weights in the types they have.

    Returns:
        DIRECTORY/openvino/model.xml and model.bin.

    Raises:
        MissingDependency: OpenVINO is not installed.
        BadInput: the file is missing or is no ONNX model.
        StageError: OpenVINO refuses the graph.
    """
    ov = library()
    outline(model)
    target = directory / "openvino" / "model.xml"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        ov.save_model(core(ov).read_model(str(model)), str(target), compress_to_fp16=False)
    except RuntimeError as error:
        raise StageError(f"OpenVINO refuses {model}: {reason(error)}") from error
    return [target, target.with_suffix(".bin")]


ENGINES = (Openvino(),)
