"""Report pages for tests: bundles in the golden folder, edited, rendered, and parsed strictly."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from inception_deploy.report import BundleData, load_bundle, render

__all__ = ["BUNDLES", "NAMES", "THIN", "Page", "bundle", "changed", "single"]

BUNDLES = Path(__file__).parent / "golden" / "report_bundle"
NAMES = (
    *("googlenet_fp16", "inception_v3_fp32_random", "googlenet_int8_fail"),
    "googlenet_int8_bench",
)
VOID = {"meta", "link", "img", "br", "hr", "input"}
THIN = "\u202f"


class Page(HTMLParser):
    """Parses strictly: every tag closed, in order. Collects elements, texts and ids."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.children: dict[int, list[str]] = {}
        self._numbers: list[int] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute twice in <{tag}>"
        if self._numbers:
            self.children[self._numbers[-1]].append(tag)
        self.elements.append((tag, dict(attrs)))
        number = len(self.elements) - 1
        self.children[number] = []
        if tag not in VOID:
            self.open.append(tag)
            self._numbers.append(number)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself only inside SVG"
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        self._numbers.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.texts))  # thin spaces stay

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    def classes(self) -> set[str]:
        return {name for _, a in self.elements for name in (a.get("class") or "").split()}


def bundle(name: str = "googlenet_fp16") -> BundleData:
    return load_bundle(BUNDLES / name)


def changed(data: BundleData, file: str, change: Callable[[Any], None]) -> BundleData:
    """`data` with one file edited in place by `change`."""
    files: dict[str, Any] = {
        key: copy.deepcopy(getattr(data, key))
        for key in ("manifest", "parity", "throughput", "samples")
    }
    change(files[file])
    return BundleData(data.name, **files)


def single(name: str = "googlenet_fp16") -> Page:
    return Page(render([bundle(name)]))
