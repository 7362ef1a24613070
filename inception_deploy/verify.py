"""`verify`: does a bundle still hold what its manifest says?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from inception_deploy.artifact import opset_of
from inception_deploy.bundle import MANIFEST, Bundle, file_digest
from inception_deploy.graphs import metadata
from inception_deploy.preprocess import Preprocessing

__all__ = ["Check", "verify"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `problem` is None where it holds."""

    subject: str
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


def verify(bundle: Bundle) -> tuple[Check, ...]:
    """Check every hash, that no file is missing or foreign, and graph against manifest.

    The graphs are read with onnx only, never run.
    """
    return tuple(_files(bundle)) + tuple(_graphs(bundle)) + tuple(_summary(bundle))


def _files(bundle: Bundle) -> Iterator[Check]:
    recorded = bundle.manifest["files"]
    for name, digest in recorded.items():
        path = bundle.path / name
        if not path.is_file():
            yield Check(name, "is missing")
        elif file_digest(path) != digest:
            yield Check(name, "sha256 differs from the manifest's")
        else:
            yield Check(name)
    present = {str(p.relative_to(bundle.path)) for p in bundle.path.rglob("*") if p.is_file()}
    for name in sorted(present - set(recorded) - {MANIFEST}):
        yield Check(name, "is not in the manifest")


def _graphs(bundle: Bundle) -> Iterator[Check]:
    for role in ("graph", "reference"):
        facts = bundle.manifest[role]
        path = bundle.path / facts["file"]
        if not path.is_file():
            continue  # already reported as missing
        try:
            model = onnx.load(path)
            onnx.checker.check_model(model)
        except Exception as error:  # noqa: BLE001 - a damaged protobuf raises what it likes
            yield Check(f"{facts['file']}: valid ONNX", str(error).splitlines()[0])
            continue
        yield Check(f"{facts['file']}: valid ONNX")
        opset = opset_of(model)
        yield Check(
            f"{facts['file']}: opset",
            None if opset == facts["opset"] else f"is {opset}, manifest says {facts['opset']}",
        )
        if role == "graph":
            yield from _metadata(bundle, metadata(model))


def _metadata(bundle: Bundle, told: dict[str, str]) -> Iterator[Check]:
    """The preprocessing in the graph is what serving code will use: it must be the manifest's."""
    subject = "preprocessing in the graph's metadata"
    text = told.get("inception_deploy.preprocessing")
    if text is None:
        yield Check(subject, "is missing")
        return
    same = Preprocessing.from_dict(json.loads(text)) == bundle.preprocessing
    yield Check(subject, None if same else "differs from the manifest's")


def _summary(bundle: Bundle) -> Iterator[Check]:
    """The manifest repeats parity's figures; a hand-edited manifest would contradict the file."""
    short = bundle.manifest.get("parity")
    if short is None or not (bundle.path / "parity.json").is_file():
        return
    full = json.loads((bundle.path / "parity.json").read_text(encoding="utf-8"))
    wrong = [key for key, value in short.items() if full.get(key) != value]
    yield Check(
        "parity figures in the manifest",
        f"differ from parity.json: {', '.join(wrong)}" if wrong else None,
    )
