"""What runs a bundle here: its target's engine, or a stand-in where that engine's device is not."""

from __future__ import annotations

from pathlib import Path

from inception_deploy.bundle import Bundle
from inception_deploy.engines import ENGINES, Compiled, Engine, Session
from inception_deploy.engines._as_written import AsWritten
from inception_deploy.targets import TARGETS

__all__ = ["deployed_session", "open_deployed", "runner"]


def runner(target: str) -> Engine:
    """The engine that runs a target's graphs on this machine.

    That is the target's own. Where its library is installed and its device is missing, it is ONNX
    Runtime on the CPU, which runs the graph as written and says so by its name.

    Raises:
        UnknownName: there is no such target.
    """
    engine = ENGINES.get(TARGETS.get(target).engine)
    return engine if engine.availability().obstacle is None else AsWritten()


def deployed_session(
    target: str, model: Path, compiled: Compiled, sha256: str | None, *, threads: int | None = None
) -> Session:
    """A session for what was compiled from `model`, or for `model` on a stand-in.

    Args:
        sha256: of the compiled main file; None where there is none.
    """
    engine = runner(target)
    if not compiled.files or sha256 is None or engine.name != TARGETS.get(target).engine:
        return engine.session(model, threads=threads)
    return engine.deployed(compiled.files[0], sha256, model=model, threads=threads)


def open_deployed(bundle: Bundle, *, threads: int | None = None) -> Session:
    """A session for a bundle, every file it reads checked against the manifest first.

    Raises:
        BundleError: a file is missing, or not the one that was exported.
        MissingDependency: the target's library is not installed.
    """
    facts = bundle.manifest.get("engine")
    files: tuple[Path, ...] = ()
    if facts is not None:
        names = (facts["file"], *facts.get("others", ()))
        files = tuple(bundle.checked(name) for name in names)
    digest = None if facts is None else str(facts["sha256"])
    return deployed_session(
        bundle.manifest["target"], bundle.model, Compiled(files), digest, threads=threads
    )
