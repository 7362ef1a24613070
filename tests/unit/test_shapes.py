"""The built-in task: deterministic, random access, balanced, and free of chiral classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from inception_deploy.drawing import SHAPES, TEXTURES
from inception_deploy.errors import DataError
from inception_deploy.shapes import CLASS_NAMES, Shapes, main, write_folder


def test_an_image_depends_on_its_key_alone() -> None:
    forwards = [Shapes(3, "train").image(i) for i in range(6)]
    backwards = [Shapes(3, "train").image(i) for i in reversed(range(6))]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "other", [Shapes(1, "val"), Shapes(0, "train")], ids=["another seed", "another split"]
)
def test_streams_are_unrelated(other: Shapes) -> None:
    base = Shapes(0, "val")
    assert not np.array_equal(base.labels(48), other.labels(48))
    assert not np.array_equal(base.image(0), other.image(0))
    assert base.digest(10) != other.digest(10)


def test_the_digest_knows_every_parameter() -> None:
    base = Shapes(0, "val", 96)
    others = {base.digest(11), Shapes(0, "val", 97).digest(10), Shapes(0, "train", 96).digest(10)}
    assert len(others | {base.digest(10)}) == 4
    assert base.digest(10) == Shapes(0, "val", 96).digest(10)


def test_every_block_of_24_holds_each_class_once() -> None:
    labels = Shapes(5, "train").labels(240).reshape(10, 24)
    assert (np.sort(labels, axis=1) == np.arange(24)).all()
    assert len({tuple(block) for block in labels}) == 10, "the order must differ between blocks"
    assert labels.dtype == np.int64
    assert [Shapes(5, "train").label(i) for i in (0, 100, 239)] == list(
        labels.ravel()[[0, 100, 239]]
    )


@pytest.mark.parametrize("size", [16, 75, 96, 131])
def test_any_size_is_rgb_bytes(size: int) -> None:
    image = Shapes(0, "val", size).image(7)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.std() > 5, "an image is not flat"


def test_the_scene_is_the_same_at_every_size() -> None:
    differences, strangers = [], []
    for index in range(8):
        small = Shapes(0, "val", 96).image(index).astype(float)
        large = Image.fromarray(Shapes(0, "val", 192).image(index)).resize((96, 96))
        other = Shapes(0, "val", 96).image(index + 100).astype(float)
        differences.append(np.abs(small - np.asarray(large, float)).mean())
        strangers.append(np.abs(small - other).mean())
    assert np.mean(differences) < 0.25 * np.mean(strangers)


@pytest.mark.parametrize("name", [*SHAPES, *TEXTURES])
def test_no_class_is_chiral(name: str) -> None:
    """Each shape and texture has a mirror axis, so mirroring a picture only turns the subject."""
    field = {**SHAPES, **TEXTURES}[name]
    x, y = np.meshgrid(*[np.linspace(-1.2, 1.2, 49, dtype=np.float32)] * 2)
    values = field(x, y)
    assert values.dtype == np.float32
    mirrored = (field(-x, y), field(x, -y), -field(-x, y), -field(x, -y))
    assert any(np.allclose(values, other, atol=1e-5) for other in mirrored)


@pytest.mark.parametrize("name", list(SHAPES))
def test_shapes_are_comparable_in_size(name: str) -> None:
    x, y = np.meshgrid(*[np.linspace(-1.5, 1.5, 151, dtype=np.float32)] * 2)
    inside = SHAPES[name](x, y) < 0
    area = inside.mean() * 9
    assert 0.9 < area < 2.4, f"area {area:.2f} in units of the squared radius"
    assert np.hypot(x, y)[inside].max() < 1.2, "the painting window reaches 1.2 radii"


def test_class_names_are_texture_and_shape() -> None:
    assert len(set(CLASS_NAMES)) == 24
    assert CLASS_NAMES[:3] == ("striped disc", "dotted disc", "checkered disc")
    assert "striped star" in CLASS_NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "must not be negative"),
        ({"split": "test"}, "train and val, not 'test'"),
        ({"size": 15}, "at least 16 pixels, got 15"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Shapes(**arguments)  # type: ignore[arg-type]


def test_write_folder_writes_what_the_generator_draws(tmp_path: Path) -> None:
    files = write_folder(tmp_path, 6, seed=2, split="train", size=64)
    source = Shapes(2, "train", 64)
    assert [file.suffix for file in files] == [".png", ".jpg"] * 3
    for index, file in enumerate(files):
        assert file.parent.name == CLASS_NAMES[source.label(index)].replace(" ", "_")
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"), float)
        error = np.abs(pixels - source.image(index)).mean()
        assert error == 0 if file.suffix == ".png" else error < 4
    assert sorted(tmp_path.rglob("*.*")) == sorted(files)


def test_the_module_writes_a_folder_when_run(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out"), "--count", "3", "--seed", "7", "--size", "32"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "wrote 3 images of 'shapes' (val, seed 7)" in result.output
    stems = [file.stem for file in (tmp_path / "out").rglob("*.*")]
    assert sorted(stems) == ["000000", "000001", "000002"]
