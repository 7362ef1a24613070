"""The bundle: everything a deployment needs, in one directory whose every file is hashed.

DIR/manifest.json    what was made, from what, how, and the sha256 of every other file
DIR/reference.onnx   FP32, as exported from PyTorch, before any rewrite
DIR/model.onnx       the deployable graph
DIR/golden.npz       a few inputs and the FP32 PyTorch outputs for them
DIR/calibration.json ranges with provenance, where calibration ran
DIR/parity.json  DIR/throughput.json  DIR/samples.json  DIR/report.html
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self, cast

import numpy as np

from inception_deploy.artifact import Golden
from inception_deploy.errors import BundleError
from inception_deploy.preprocess import Preprocessing
from inception_deploy.recipe import Layout

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Bundle",
    "file_digest",
    "load_golden",
    "require_free",
    "save_golden",
    "staged",
    "write_json",
]

SCHEMA = 1
MANIFEST = "manifest.json"

_REQUIRED = frozenset(
    {"network", "weights", "class_names", "preprocessing", "head", "precision", "target"}
    | {"graph", "reference", "stages", "files", "recipe", "data", "parity", "input"}
)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON through a temporary sibling; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextmanager
def staged(output: Path, *, force: bool) -> Iterator[Path]:
    """A temporary sibling of `output` to write into; it becomes `output` when the block succeeds.

    Whatever ends the block early — an error, Ctrl-C, a full disk — leaves no half bundle and, with
    `force`, leaves the old one as it was.

    Raises:
        BundleError: `output` exists and `force` is off, or the disk cannot be written.
    """
    require_free(output, force=force)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise BundleError(f"cannot write beside {output}: {error.strerror}") from error
    try:
        yield directory
        _replace(directory, output)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise BundleError(
                f"cannot write the bundle to {output}: {error.strerror}; nothing was left behind"
            ) from error
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def require_free(output: Path, *, force: bool) -> None:
    """Raises `BundleError` when `output` is in the way.

    With `force` an old bundle or an empty directory may be replaced, but nothing else: a slip of
    the keyboard must not delete somebody's home.
    """
    if not output.exists() and not output.is_symlink():
        return
    if not force:
        raise BundleError(f"{output} exists; name another directory or pass --force to replace it")
    replaceable = output.is_dir() and ((output / MANIFEST).is_file() or not any(output.iterdir()))
    if not replaceable:
        raise BundleError(f"{output} is not a bundle; --force replaces only bundles")


def _replace(directory: Path, output: Path) -> None:
    """Rename `directory` to `output`, moving an old bundle out of the way for the moment."""
    directory.chmod(0o777 & ~_umask())  # mkdtemp makes it private; a bundle is like any directory
    if output.is_dir():
        aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
        output.rename(aside / "bundle")
        try:
            directory.rename(output)
        except OSError:
            (aside / "bundle").rename(output)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    else:
        directory.rename(output)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def save_golden(path: Path, golden: Golden) -> None:
    """Inputs and outputs of the golden as compressed .npz (block outputs are not kept)."""
    arrays: dict[str, Any] = {"inputs": golden.inputs, golden.output_name: golden.outputs}
    if golden.pixels is not None:
        arrays["pixels"] = golden.pixels
    np.savez_compressed(path, **arrays)


def load_golden(path: Path, output_name: str) -> Golden:
    """The inverse of `save_golden`, without block outputs. Raises `BundleError`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels = arrays.get("pixels")
            return Golden(arrays["inputs"], arrays[output_name], output_name, {}, 0, pixels)
    except (OSError, KeyError, ValueError) as error:
        raise BundleError(f"cannot read the golden in {path}: {error}") from error


@dataclass(frozen=True)
class Bundle:
    """An existing bundle directory and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises `BundleError` unless `path` holds a readable manifest of this schema."""
        file = path / MANIFEST
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BundleError(f"cannot read {file}: {error}") from error
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if schema != SCHEMA:
            raise BundleError(
                f"{file} has schema {schema}, this version reads {SCHEMA}; export the bundle again"
            )
        missing = sorted(_REQUIRED - set(manifest))
        if missing:
            raise BundleError(f"{file} lacks '{missing[0]}'; export the bundle again")
        outside = [name for name in manifest["files"] if not _is_inside(name)]
        if outside:
            raise BundleError(f"{file} names '{outside[0]}', which is outside the bundle")
        return cls(path, manifest)

    @classmethod
    def seal(cls, directory: Path, manifest: Mapping[str, Any]) -> Self:
        """Write the manifest of a directory whose other files are all there."""
        files = {
            str(file.relative_to(directory)): file_digest(file)
            for file in sorted(directory.rglob("*"))
            if file.is_file() and file.name != MANIFEST
        }
        sealed = {**manifest, "files": files}
        write_json(directory / MANIFEST, sealed)
        return cls(directory, sealed)

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.manifest["preprocessing"])

    @property
    def pixel_layout(self) -> Layout | None:
        """Layout of the pixels that the graph takes; None where it takes normalised floats."""
        taken: Mapping[str, Any] = self.manifest["input"]
        return cast(Layout, taken["layout"]) if taken["dtype"] == "uint8" else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = self.manifest["class_names"]
        return None if names is None else tuple(names)

    @property
    def head(self) -> str:
        return str(self.manifest["head"])

    @property
    def model(self) -> Path:
        """The deployable graph, its hash checked against the manifest first."""
        return self.checked(self.manifest["graph"]["file"])

    @property
    def reference(self) -> Path:
        """The FP32 graph as exported, its hash checked against the manifest first."""
        return self.checked(self.manifest["reference"]["file"])

    def golden(self) -> Golden:
        """The recorded inputs and PyTorch outputs."""
        return load_golden(self.checked("golden.npz"), self.head)

    def checked(self, name: str) -> Path:
        """The path of a file of the bundle. Raises `BundleError` unless its hash is as recorded."""
        path = self.path / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; export the bundle again")
        if file_digest(path) != self.manifest["files"].get(name):
            raise BundleError(f"{path} is not the file that was exported: its sha256 differs")
        return path

    def read_json(self, name: str) -> Any:
        """A JSON file of the bundle, its hash checked; None when the bundle has no such file."""
        if name not in self.manifest["files"]:
            return None
        return json.loads(self.checked(name).read_text(encoding="utf-8"))

    def rewrite(self, name: str, text: str) -> Bundle:
        """Replace one file (the report, a new parity) and its hash in the manifest."""
        path = self.path / name
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        files = {**self.manifest["files"], name: file_digest(path)}
        manifest = {**self.manifest, "files": files}
        write_json(self.path / MANIFEST, manifest)
        return Bundle(self.path, manifest)

    def with_parity(self, parity: Mapping[str, Any]) -> Bundle:
        """Replace parity.json, and the figures that the manifest repeats from it."""
        short = {name: parity[name] for name in self.manifest["parity"]}
        text = json.dumps(parity, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return Bundle(self.path, {**self.manifest, "parity": short}).rewrite("parity.json", text)
