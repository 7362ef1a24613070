"""The cache of built engines: found by what went in, never by trust in what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from inception_deploy.engines._trt_cache import VARIABLE, BuildCache, cache_directory, cache_key

FACTS = {"library": "tensorrt-rtx", "version": "1.7.1", "options": {"sm": [89]}}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cache, key = BuildCache(tmp_path / "deep" / "down"), cache_key(b"graph", FACTS)
    assert cache.read(key) is None
    assert cache.write(key, b"plan", {"seconds": 1.5}) is None
    found = cache.read(key)
    assert found is not None
    assert found[0] == b"plan"
    assert found[1]["seconds"] == 1.5
    assert sorted(path.suffix for path in cache.directory.iterdir()) == [".engine", ".json"]


def test_anything_that_decides_the_build_is_in_the_key() -> None:
    keys = {
        cache_key(b"graph", FACTS),
        cache_key(b"graph.", FACTS),
        cache_key(b"graph", {**FACTS, "version": "1.7.2"}),
        cache_key(b"graph", {**FACTS, "library": "tensorrt"}),
        cache_key(b"graph", {**FACTS, "options": {"sm": [89, 120]}}),
    }
    assert len(keys) == 5
    assert cache_key(b"graph", dict(reversed(FACTS.items()))) in keys


@pytest.mark.parametrize("file", [".engine", ".json"])
def test_a_damaged_entry_is_no_entry(tmp_path: Path, file: str) -> None:
    cache = BuildCache(tmp_path)
    cache.write("key", b"plan", {})
    path = tmp_path / f"key{file}"
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.read("key") is None


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    problem = BuildCache(tmp_path / "file" / "below").write("key", b"plan", {})
    assert problem is not None
    assert "cannot be kept" in problem


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert cache_directory() == tmp_path / "engines"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "inception-deploy" / "engines"
