"""Bundles → one HTML page that explains them: self-contained, without scripts, the same each time.

The page reads only the bundles' JSON files. It loads nothing: style, charts and pictures are
inline, and its content security policy forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from inception_deploy.errors import BundleError
from inception_deploy.reporting.data import BundleData
from inception_deploy.reporting.facts import Facts
from inception_deploy.reporting.plots import tradeoff
from inception_deploy.reporting.speed import SCENARIO_COLUMNS
from inception_deploy.reporting.tables import BLOCK_COLUMNS, TIMING_COLUMNS
from inception_deploy.reporting.view import BundleView, ComparisonView, SampleView

__all__ = ["PICTURES", "BundleData", "load_bundle", "render", "write_report"]

PICTURES = 500_000
"""Bytes of pictures that a page holds, those of one bundle at least: a page of twenty bundles is
mailed and kept, and should stay below 3 MB whatever they were tried on."""


def load_bundle(path: Path) -> BundleData:
    """The JSON files of a bundle directory. Raises `BundleError`, as `BundleData.read` does."""
    return BundleData.read(path)


def render(bundles: Sequence[BundleData]) -> str:
    """The report on one bundle, or the comparison of several, as an HTML document.

    Raises:
        BundleError: no bundles, or fields that are missing or of the wrong type.
    """
    if not bundles:
        raise BundleError("a report needs at least one bundle; name its directory")
    facts = [Facts(data) for data in bundles]
    style = resources.files("inception_deploy.reporting").joinpath("style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    views = [BundleView.of(f, number) for number, f in enumerate(facts, 1)]
    views = _drawn_once(_affordable(views))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=Markup(style),  # our own file; its hash is what the policy allows
            style_digest=digest,
            bundles=views,
            comparison=ComparisonView.of(facts) if len(facts) > 1 else None,
            tradeoff=tradeoff(facts, "tradeoff"),
            timing_columns=TIMING_COLUMNS,
            block_columns=BLOCK_COLUMNS,
            scenario_columns=SCENARIO_COLUMNS,
        )
    )


def _affordable(views: Sequence[BundleView]) -> list[BundleView]:
    """The bundles with as many pictures as `PICTURES` allows, the first ones first; equal pictures
    cost nothing again. Bundles keep theirs or go without."""
    found, held = [], set[str]()
    for view in views:
        own = {s.image for s in view.samples} | {image for *_, image in view.step_pictures}
        if not held or own <= held or sum(map(len, held | own)) <= PICTURES:
            held |= own
        else:
            samples = [replace(sample, image="") for sample in view.samples]
            view = replace(view, samples=samples, step_pictures=[])
        found.append(view)
    return found


def _drawn_once(views: Sequence[BundleView]) -> list[BundleView]:
    """The same pictures are written once: those of samples are drawn again from there, and those of
    the preprocessing referred to."""
    steps: dict[tuple[tuple[str, str, str], ...], str] = {}
    times = Counter(s.image for view in views for s in view.samples if s.image)
    shared = {image: f"p{n}" for n, image in enumerate(times, 1) if times[image] > 1}
    drawn: set[str] = set()

    def once(sample: SampleView) -> SampleView:
        if sample.image not in shared:
            return sample
        again = sample.image in drawn
        drawn.add(sample.image)
        return replace(sample, picture=shared[sample.image], again=again)

    found = []
    for view in views:
        first = steps.setdefault(tuple(view.step_pictures), view.anchor)
        pictured = None if first == view.anchor else first
        samples = [once(sample) for sample in view.samples]
        found.append(replace(view, pictured_in=pictured, samples=samples))
    return found


@cache
def _environment() -> Environment:
    """The templates; compiled once per process."""
    return Environment(
        loader=PackageLoader("inception_deploy.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_report(paths: Sequence[Path], output: Path) -> Path:
    """Render the bundle directories `paths` into the file `output`, replaced as a whole.

    Raises:
        BundleError: a path that is no bundle, or an output that cannot be written.
    """
    page = render([load_bundle(path) for path in paths])
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8", newline="\n")
        temporary.replace(output)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BundleError(
            f"cannot write {output} ({error.strerror}); name a file in an existing folder with -o"
        ) from error
    return output
