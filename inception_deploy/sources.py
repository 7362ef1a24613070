"""The kinds of image source: folders, `.csv` lists, `.npz` arrays and the built-in task.

Decoding follows torchvision and timm: the first frame, alpha dropped, CMYK and palettes converted
by Pillow, EXIF orientation NOT applied. 16-bit greyscale is scaled to 8 bits, not clipped.
"""

from __future__ import annotations

import csv
import hashlib
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_deploy.errors import DataError
from inception_deploy.shapes import CLASS_NAMES, Shapes

__all__ = [
    "IMAGE_SUFFIXES",
    "SORTED_ORDER",
    "Arrays",
    "Files",
    "Labels",
    "Sample",
    "ShapesImages",
    "UnreadableImage",
    "open_csv",
    "open_folder",
    "open_npz",
    "open_shapes",
    "read_image",
]

CSV_HEADERS = ("path", "file", "filename", "image")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

SORTED_ORDER = "sorted order of the class names"

Labels: TypeAlias = NDArray[np.int64]


class UnreadableImage(DataError):
    """One image of a data set cannot be decoded; `name` is the sample's."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        super().__init__(problem)


@dataclass(frozen=True)
class Sample:
    """One image: decoded (`image`), or already a network input (`tensor`); never both.

    Args:
        index: position in the data set.
        name: path relative to the source, or a name made of source and index.
        label: class index, or None.
        image: RGB, any size.
        tensor: float32 (3, H, W), already preprocessed.
    """

    index: int
    name: str
    label: int | None
    image: Image.Image | None = None
    tensor: NDArray[np.float32] | None = None


def read_image(path: Path, name: str | None = None) -> Image.Image:
    """Decode a file to RGB. Raises `UnreadableImage`, calling it `name`, when that fails."""
    name = name or str(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on and refuses from twice that; the refusal is enough
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            name, f"image '{name}' is too large to decode safely ({error}); resize or remove it"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = " ".join(str(error).replace(repr(str(path)), "it").split())
        raise UnreadableImage(
            name, f"cannot read image '{name}' ({reason}); remove it or pass --skip-bad-images"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greyscale; Pillow's own conversion would clip everything above 255 to white
        wide = np.asarray(image, np.int64)
        image = Image.fromarray((wide.clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")


@dataclass(frozen=True)
class _Mapping:
    """From positions in a sorted list of names to the network's class indices."""

    indices: Labels
    names: tuple[str, ...]
    how: str

    def apply(self, positions: Labels) -> Labels:
        return self.indices[positions]


def _canonical(name: str) -> str:
    """Names compare without regard to case, and `_` stands for a space."""
    return " ".join(name.replace("_", " ").casefold().split())


def _map_names(found: Sequence[str], wanted: Sequence[str] | None, source: str) -> _Mapping:
    """Map class names to the network's; all of them by name, or all of them by order."""
    by_order = _Mapping(np.arange(len(found)), tuple(found), SORTED_ORDER)
    if not wanted:
        return by_order
    known = {_canonical(name): index for index, name in enumerate(wanted)}
    strangers = [name for name in found if _canonical(name) not in known]
    if len(strangers) == len(found):
        return by_order
    if strangers:
        shown = ", ".join(f"'{name}'" for name in strangers[:3])
        raise DataError(
            f"{len(strangers)} of {len(found)} classes in '{source}' are unknown to the network "
            f"({shown}{', …' if len(strangers) > 3 else ''}); rename or remove them"
        )
    indices = np.array([known[_canonical(name)] for name in found], np.int64)
    return _Mapping(indices, tuple(wanted), "class names of the network")


@dataclass(frozen=True)
class Files:
    """Image files below `root`, decoded on access."""

    name: str
    root: Path
    files: tuple[str, ...]
    labels: Labels | None
    class_names: tuple[str, ...] | None
    label_mapping: str | None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        file = self.files[index]
        image = read_image(self.root / file, file)
        return Sample(index, file, None if self.labels is None else int(self.labels[index]), image)

    @cached_property
    def digest(self) -> str:
        """Over relative paths, sizes in bytes and labels; contents are not read."""
        sha = hashlib.sha256()
        for index, file in enumerate(self.files):
            label = "" if self.labels is None else self.labels[index]
            sha.update(f"{file}\0{(self.root / file).stat().st_size}\0{label}\n".encode())
        return sha.hexdigest()


@dataclass(frozen=True)
class Arrays:
    """An `.npz`: uint8 `images` (N, H, W, 3) or float32 `input` (N, 3, H, W)."""

    name: str
    path: Path
    pixels: NDArray[np.uint8] | None
    tensors: NDArray[np.float32] | None
    labels: Labels | None
    class_names: tuple[str, ...] | None = None

    @property
    def label_mapping(self) -> str | None:
        return None if self.labels is None else "class indices from the .npz"

    def __len__(self) -> int:
        data = self.pixels if self.pixels is not None else self.tensors
        return 0 if data is None else len(data)

    def __getitem__(self, index: int) -> Sample:
        label = None if self.labels is None else int(self.labels[index])
        name = f"{self.path.name}[{index}]"
        if self.pixels is not None:
            return Sample(index, name, label, image=Image.fromarray(np.array(self.pixels[index])))
        assert self.tensors is not None
        return Sample(index, name, label, tensor=np.array(self.tensors[index]))

    @cached_property
    def digest(self) -> str:
        """Over the file's bytes."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class ShapesImages:
    """The first `count` images of the built-in task."""

    source: Shapes
    count: int
    labels: Labels
    class_names: tuple[str, ...]
    label_mapping: str
    name: str = "shapes"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        image = Image.fromarray(self.source.image(index))
        name = f"shapes/{self.source.split}/{index:06d}"
        return Sample(index, name, int(self.labels[index]), image)

    @property
    def digest(self) -> str:
        return self.source.digest(self.count)


def open_shapes(source: Shapes, count: int, wanted: Sequence[str] | None) -> ShapesImages:
    """The first `count` images of a split."""
    if count < 1:
        raise DataError(f"'shapes' needs at least one image, got {count}")
    mapping = _map_names(CLASS_NAMES, wanted, "shapes")
    return ShapesImages(
        source, count, mapping.apply(source.labels(count)), mapping.names, mapping.how
    )


def _visible(entries: Iterable[Path]) -> list[Path]:
    """Sorted by name, without hidden files and archive leftovers."""
    return sorted(
        (e for e in entries if not e.name.startswith((".", "__MACOSX"))), key=lambda e: e.name
    )


def _images_below(folder: Path) -> Iterator[Path]:
    """Image files of a folder and its subfolders, in a fixed order."""
    for entry in _visible(folder.iterdir()):
        if entry.is_dir():
            yield from _images_below(entry)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            yield entry


def open_folder(path: Path, wanted: Sequence[str] | None) -> Files:
    """Class subfolders → labels; a flat folder → none. Classes are numbered in sorted order, as
    torchvision's ImageFolder does, unless their names are the network's."""
    entries = _visible(path.iterdir())
    folders = [entry for entry in entries if entry.is_dir()]
    flat = [e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and not e.is_dir()]
    if flat and folders:
        raise DataError(
            f"'{path}' holds both images ('{flat[0].name}', …) and folders ('{folders[0].name}', …)"
            "; give either a flat folder or one subfolder per class"
        )
    if flat:
        return Files(str(path), path, tuple(e.name for e in flat), None, None, None)
    files: list[str] = []
    positions: list[int] = []
    for position, folder in enumerate(folders):
        found = [image.relative_to(path).as_posix() for image in _images_below(folder)]
        if not found and len(folders) > 1:
            raise DataError(f"class folder '{folder}' has no images; remove it or fill it")
        files += found
        positions += [position] * len(found)
    if not files:
        raise DataError(f"no images in '{path}'; looked for {', '.join(IMAGE_SUFFIXES)}")
    names = tuple(folder.name for folder in folders)
    mapping = _map_names(names, wanted, str(path))
    labels = mapping.apply(np.array(positions, np.int64))
    return Files(str(path), path, tuple(files), labels, mapping.names, mapping.how)


def _csv_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, path, label) of every row; a first row of column names is passed over."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells) or (reader.line_num == 1 and cells[0].lower() in CSV_HEADERS):
                    continue
                if len(cells) != 2 or not all(cells):
                    raise DataError(
                        f"line {reader.line_num} of '{path}' is not 'path,label': {','.join(row)}"
                    )
                yield reader.line_num, cells[0], cells[1]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' is not a readable UTF-8 .csv file ({error})") from error


def open_csv(path: Path, wanted: Sequence[str] | None) -> Files:
    """Rows of path,label: paths relative to the file, labels all integers or all class names."""
    rows = list(_csv_rows(path))
    if not rows:
        raise DataError(f"no rows in '{path}'; it needs lines of path,label")
    for line, file, _ in rows:
        if not (path.parent / file).is_file():
            raise DataError(f"line {line} of '{path}' names a missing file: '{file}'")
    files = tuple(file for _, file, _ in rows)
    texts = [label for *_, label in rows]
    numeric = [text.lstrip("+-").isdecimal() for text in texts]
    if all(numeric):
        labels = np.array([int(text) for text in texts], np.int64)
        names = tuple(wanted) if wanted else None
        return Files(str(path), path.parent, files, labels, names, "class indices from the .csv")
    if any(numeric):
        line, _, label = rows[numeric.index(not numeric[0])]
        raise DataError(
            f"line {line} of '{path}' has label '{label}', but earlier labels are "
            f"{'numbers' if numeric[0] else 'names'}; use one kind"
        )
    found = sorted(set(texts))
    mapping = _map_names(found, wanted, str(path))
    positions = np.searchsorted(np.array(found), np.array(texts)).astype(np.int64)
    return Files(
        str(path), path.parent, files, mapping.apply(positions), mapping.names, mapping.how
    )


def _npz_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array; memory-mapped when it is stored uncompressed, so that size does not matter."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(stream)
        header_bytes = stream.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    if info.compress_type != zipfile.ZIP_STORED or fortran or 0 in shape:
        with archive.open(info) as stream:
            loaded: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return loaded
    with path.open("rb") as raw:
        # local file header (PKWARE APPNOTE 4.3.7): 30 bytes, then name and extra field, whose
        # lengths may differ from the central directory's
        raw.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", raw.read(4))
    offset = info.header_offset + 30 + name_length + extra_length + header_bytes
    return np.memmap(path, dtype, "r", offset, shape)


def open_npz(path: Path) -> Arrays:
    """`images` uint8 (N, H, W, 3) or `input` float32 (N, 3, H, W), with optional `labels` (N,)."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            arrays: dict[str, NDArray[Any]] = {
                key: _npz_member(path, archive, members[key])
                for key in ("images", "input", "labels")
                if key in members
            }
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise DataError(f"'{path}' is not a usable .npz file ({error})") from error
    if ("images" in arrays) == ("input" in arrays):
        raise DataError(
            f"'{path}' needs either 'images' (uint8 N,H,W,3) or 'input' (float32 N,3,H,W); "
            f"it has: {', '.join(members) or 'nothing'}"
        )
    key, dtype, axis = ("images", np.uint8, 3) if "images" in arrays else ("input", np.float32, 1)
    data = arrays[key]
    if data.dtype != dtype or data.ndim != 4 or data.shape[axis] != 3:
        raise DataError(
            f"'{key}' in '{path}' must be {np.dtype(dtype)} "
            f"{'(N,H,W,3)' if axis == 3 else '(N,3,H,W)'}, not {data.dtype} {data.shape}"
        )
    if len(data) == 0:
        raise DataError(f"'{key}' in '{path}' has no images")
    labels = arrays.get("labels")
    if labels is not None:
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
            raise DataError(
                f"'labels' in '{path}' must be integers (N,), not {labels.dtype} {labels.shape}"
            )
        if len(labels) != len(data):
            raise DataError(f"'{path}' has {len(data)} images but {len(labels)} labels")
        labels = labels.astype(np.int64)
    pixels, tensors = (data, None) if key == "images" else (None, data)
    return Arrays(str(path), path, pixels, tensors, labels)
