from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from inception_deploy.errors import UnknownName
from inception_deploy.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "variants_under_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text("raise AssertionError('base is not a variant')")
    (folder / "_shared.py").write_text("raise AssertionError('private files are not variants')")
    body = "from types import SimpleNamespace as S\nTHINGS = (S(name='{}'), S(name='{}'))\n"
    (folder / "beta.py").write_text(body.format("beta", "beta_wide"))
    (folder / "alpha.py").write_text(body.format("alpha", "omega"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "variants_under_test"
    # the next test has a folder of its own by this name
    for name in [n for n in sys.modules if n.partition(".")[0] == "variants_under_test"]:
        del sys.modules[name]


def test_variants_are_found_by_file(package: str) -> None:
    registry: Registry[SimpleNamespace] = Registry("thing", package, "THINGS")
    assert registry.names() == ("alpha", "omega", "beta", "beta_wide")
    assert registry.get("omega").name == "omega"
    assert len(registry) == 4


def test_unknown_name_suggests_the_nearest(package: str) -> None:
    registry: Registry[SimpleNamespace] = Registry("thing", package, "THINGS")
    with pytest.raises(UnknownName, match=r"unknown thing 'bta'; did you mean 'beta'\?"):
        registry.get("bta")
    with pytest.raises(UnknownName, match=r"unknown thing 'zzzz'; known: alpha, beta"):
        registry.get("zzzz")
