"""What a report is made from: the JSON files of a bundle, read with their types checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from inception_deploy.errors import BundleError
from inception_deploy.reporting.block_graph import GraphOutline

__all__ = ["SCHEMA", "VERDICTS", "BundleData", "Record"]

SCHEMA = 1
_SCENARIOS = ("offline", "server")
VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE", "NOT_ASKED")

# Thumbnails are part of the page; anything else would make the reader's browser fetch something.
_INLINE_IMAGE = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Record:
    """A JSON object with typed access; every mismatch is a `BundleError` naming file and field.

    Args:
        where: the file and the path inside it, e.g. "manifest.json: weights".
        values: the object itself.
    """

    where: str
    values: Mapping[str, Any]

    def mismatch(self, key: str, wanted: str) -> BundleError:
        """The error to raise where `key` is not what was `wanted`."""
        found = "is missing" if key not in self.values else f"is {self.values[key]!r:.60}"
        return BundleError(
            f"{self.where}: '{key}' {found}, expected {wanted}; the bundle is damaged or foreign,"
            " export it again"
        )

    def text(self, key: str) -> str:
        """A string that must be there."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.mismatch(key, "text")
        return value

    def maybe_text(self, key: str) -> str | None:
        """A string, or None where it is null or missing."""
        return None if self.values.get(key) is None else self.text(key)

    def flag(self, key: str) -> bool:
        """A boolean that must be there."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise self.mismatch(key, "true or false")
        return value

    def holds(self, key: str) -> bool:
        """A boolean that counts as false where it is null or missing."""
        return self.values.get(key) is not None and self.flag(key)

    def number(self, key: str) -> float | None:
        """A number, infinities and NaN included, or None where it is null or missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.mismatch(key, "a number or null")
        return float(value)

    def magnitude(self, key: str) -> float | None:
        """A number that cannot be negative: an error, a time, a count, a size."""
        value = self.number(key)
        if value is not None and value < 0:
            raise self.mismatch(key, "a number of at least 0")
        return value

    def percentage(self, key: str) -> float | None:
        """A number from 0 to 100, or NaN."""
        value = self.number(key)
        if value is not None and not math.isnan(value) and not 0 <= value <= 100:
            raise self.mismatch(key, "a percentage from 0 to 100")
        return value

    def interval(self, key: str) -> tuple[float, float] | None:
        """A pair of numbers, or None where it or either end is null or missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            raise self.mismatch(key, "a pair of numbers or null")
        ends = Record(f"{self.where}: {key}", dict(zip(("low", "high"), value, strict=True)))
        low, high = ends.number("low"), ends.number("high")
        return None if low is None or high is None else (low, high)

    def record(self, key: str) -> Record:
        """An object that must be there."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.mismatch(key, "an object")
        return Record(f"{self.where}: {key}", value)

    def maybe_record(self, key: str) -> Record | None:
        """An object, or None where it is null or missing."""
        return None if self.values.get(key) is None else self.record(key)

    def items(self, key: str) -> list[Any]:
        """A list; empty where it is null or missing."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.mismatch(key, "a list")
        return value

    def counts(self, key: str) -> list[int]:
        """A list of whole numbers of at least 0; empty where it is null or missing."""
        found = self.items(key)
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in found):
            raise self.mismatch(key, "a list of counts")
        return found

    def records(self, key: str) -> list[Record]:
        """A list of objects; empty where it is null or missing."""
        found = self.items(key)
        if not all(isinstance(item, dict) for item in found):
            raise self.mismatch(key, "a list of objects")
        return [Record(f"{self.where}: {key}[{n}]", item) for n, item in enumerate(found)]


@dataclass(frozen=True)
class BundleData:
    """The JSON files of one bundle.

    Args:
        name: what the bundle is called among several; its folder's name when read from disk.
        manifest: manifest.json.
        parity: parity.json; None where parity was not measured.
        throughput: throughput.json; None where speed was not measured.
        samples: samples.json; None where no samples were kept.
        graphs: outlines of the manifest's "reference" and "graph", where their files are there.
        scenarios: name → throughput-NAME.json, where other scenarios were measured.
        loadgen: name of a scenario → LoadGen's verdict, where it drove the bundle.
        located: locate.json; None where nobody asked.

    Raises:
        BundleError: for another schema, an unknown verdict, or a sample picture that is not
            inline.
    """

    name: str
    manifest: Mapping[str, Any]
    parity: Mapping[str, Any] | None = None
    throughput: Mapping[str, Any] | None = None
    samples: Sequence[Mapping[str, Any]] | None = None
    graphs: Mapping[str, GraphOutline] = field(default_factory=dict)
    scenarios: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loadgen: Mapping[str, str] = field(default_factory=dict)
    located: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        files = {"manifest.json": self.manifest, "parity.json": self.parity}
        files |= {"throughput.json": self.throughput, "locate.json": self.located}
        files |= {f"throughput-{name}.json": found for name, found in self.scenarios.items()}
        for file, values in files.items():
            if values is not None and values.get("schema") != SCHEMA:
                raise BundleError(
                    f"{self.name}/{file} has schema {values.get('schema')!r:.40}, this version"
                    f" reads {SCHEMA}; export the bundle again with this version"
                )
        if self.parity is not None and self.parity.get("verdict") not in VERDICTS:
            raise BundleError(
                f"{self.name}/parity.json has verdict {self.parity.get('verdict')!r:.40}, known:"
                f" {', '.join(VERDICTS)}; run `inception-deploy compare` again"
            )
        for sample in self.sample_records:
            for picture in (sample, *sample.records("steps")):
                if not _INLINE_IMAGE.fullmatch(picture.text("image")):
                    raise BundleError(
                        f"{picture.where}: 'image' is not an inline JPEG or PNG"
                        " (data:image/…;base64,…); export the bundle again"
                    )

    @classmethod
    def read(cls, folder: Path, name: str | None = None) -> Self:
        """Read a bundle directory; only manifest.json must exist.

        Raises:
            BundleError: no bundle there, a file that is not JSON, or one of another schema.
        """
        name = name or folder.resolve().name
        if not folder.is_dir():
            raise BundleError(f"no bundle at {folder}; make one with `inception-deploy export`")
        manifest = _read_json(folder / "manifest.json", dict)
        if manifest is None:
            raise BundleError(
                f"{folder} holds no manifest.json, so it is not a bundle; make one with"
                " `inception-deploy export`"
            )
        return cls(
            name,
            manifest,
            _read_json(folder / "parity.json", dict),
            _read_json(folder / "throughput.json", dict),
            _read_json(folder / "samples.json", list),
            _read_graphs(folder, Record(f"{name}/manifest.json", manifest)),
            {
                scenario: found
                for scenario in _SCENARIOS
                if (found := _read_json(folder / f"throughput-{scenario}.json", dict))
            },
            _read_loadgen(folder / "loadgen"),
            _read_json(folder / "locate.json", dict),
        )

    @property
    def manifest_record(self) -> Record:
        """manifest.json with typed access."""
        return Record(f"{self.name}/manifest.json", self.manifest)

    @property
    def parity_record(self) -> Record | None:
        """parity.json with typed access."""
        return None if self.parity is None else Record(f"{self.name}/parity.json", self.parity)

    @property
    def throughput_record(self) -> Record | None:
        """throughput.json with typed access."""
        if self.throughput is None:
            return None
        return Record(f"{self.name}/throughput.json", self.throughput)

    @property
    def scenario_records(self) -> list[Record]:
        """throughput-offline.json and throughput-server.json, those that are there."""
        return [
            Record(f"{self.name}/throughput-{scenario}.json", values)
            for scenario, values in self.scenarios.items()
        ]

    @property
    def sample_records(self) -> list[Record]:
        """samples.json with typed access."""
        listed = None if self.samples is None else list(self.samples)
        return Record(self.name, {"samples.json": listed}).records("samples.json")


def _read_loadgen(folder: Path) -> dict[str, str]:
    """Scenario → VALID or INVALID, as LoadGen's summaries say."""
    found = {}
    for summary in sorted(folder.glob("*/mlperf_log_summary.txt")):
        text = summary.read_text(encoding="utf-8", errors="replace")
        if result := re.search(r"^Result is\s*:\s*(\w+)", text, re.MULTILINE):
            found[summary.parent.name] = result.group(1)
    return found


def _read_graphs(folder: Path, manifest: Record) -> dict[str, GraphOutline]:
    found = {}
    for key in ("reference", "graph"):
        listed = manifest.maybe_record(key)
        # by name, not by path: a manifest from elsewhere must not lead out of its folder
        path = folder / Path(listed.text("file")).name if listed else None
        if path is not None and path.is_file():
            found[key] = GraphOutline.read(path)
    return found


def _read_json(path: Path, kind: type) -> Any:
    """The file's JSON, which must be of `kind`; None where there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path} ({error}); export the bundle again") from error
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "list"
        raise BundleError(f"{path} holds no JSON {wanted}; export the bundle again")
    return value
