"""Image sources: what they yield, how labels are mapped, and one clear line for each bad input."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_deploy.dataset import (
    BadImages,
    Dataset,
    UnreadableImage,
    batches,
    check_labels,
    open_dataset,
    read_image,
    subset,
)
from inception_deploy.errors import DataError
from inception_deploy.preprocess import Preprocessing
from inception_deploy.shapes import CLASS_NAMES, Shapes, write_folder

PREPROCESSING = Preprocessing(16, 16, "bilinear")


def save(path: Path, colour: tuple[int, int, int] = (10, 20, 30), side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes; red level = 10 × label in sorted order."""
    root = tmp_path / "data"
    for label, name in enumerate(("ant", "bee", "cat")):
        for index in range(4):
            save(root / name / f"{index}.png", (10 * label, index, 0))
    return root


def labels_of(dataset: Dataset) -> list[int]:
    assert dataset.labels is not None
    return [int(label) for label in dataset.labels]


# folders


def test_class_folders_become_labels_in_sorted_order(folder: Path) -> None:
    save(folder / "ant" / "nested" / "X.JPEG")
    (folder / "ant" / "Thumbs.db").write_bytes(b"no image")
    (folder / "ant" / "._0.png").write_bytes(b"resource fork")
    (folder / ".cache").mkdir()
    dataset = open_dataset(folder)
    assert len(dataset) == 13
    assert labels_of(dataset) == [0] * 5 + [1] * 4 + [2] * 4
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.label_mapping == "sorted order of the class names"
    assert [dataset[i].name for i in (0, 4, 5)] == ["ant/0.png", "ant/nested/X.JPEG", "bee/0.png"]
    sample = dataset[6]
    assert (sample.index, sample.label, sample.tensor) == (6, 1, None)
    assert sample.image is not None
    assert sample.image.getpixel((0, 0)) == (10, 1, 0)


def test_folder_names_of_the_network_are_mapped_by_name(folder: Path) -> None:
    dataset = open_dataset(folder, class_names=["Cat", "dog", "ant", "bee"])
    assert labels_of(dataset) == [2] * 4 + [3] * 4 + [0] * 4
    assert dataset.class_names == ("Cat", "dog", "ant", "bee")
    assert dataset.label_mapping == "class names of the network"
    check_labels(dataset, 4)


def test_folder_names_strange_to_the_network_are_numbered(folder: Path) -> None:
    dataset = open_dataset(folder, class_names=["n01", "n02", "n03"])
    assert labels_of(dataset) == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.label_mapping == "sorted order of the class names"
    check_labels(dataset, 3)


def test_half_known_folder_names_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 3 classes .* unknown to the network \('ant', 'cat'"):
        open_dataset(folder, class_names=["bee", "dog", "eel"])


def test_sorted_order_of_too_few_folders_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="has 3 classes but the network has 1000"):
        check_labels(open_dataset(folder), 1000)


def test_numbered_folders_that_sort_as_text_are_refused(tmp_path: Path) -> None:
    for number in range(11):
        save(tmp_path / "plain" / str(number) / "a.png")
        save(tmp_path / "padded" / f"{number:02d}" / "a.png")
    check_labels(open_dataset(tmp_path / "padded"), 11)
    with pytest.raises(DataError, match=r"numbers that sort as text, '10' before '2'"):
        check_labels(open_dataset(tmp_path / "plain"), 11)
    by_name = open_dataset(tmp_path / "plain", class_names=[str(number) for number in range(11)])
    check_labels(by_name, 11)
    assert by_name[2].name == "10/a.png"
    assert by_name[2].label == 10


def test_a_flat_folder_has_no_labels(folder: Path) -> None:
    dataset = open_dataset(folder / "bee")
    assert len(dataset) == 4
    assert dataset.labels is None
    assert dataset.class_names is None
    assert dataset.label_mapping is None
    assert dataset[0].label is None
    check_labels(dataset, 2)
    (batch,) = batches(dataset, PREPROCESSING, 8)
    assert batch.labels is None


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpeg", "png", "PNG", "bmp", "webp"])
def test_every_listed_format_is_read(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a.{suffix}", (200, 100, 50))
    image = open_dataset(tmp_path)[0].image
    assert image is not None
    assert np.abs(np.asarray(image, int) - (200, 100, 50)).max() <= 4


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in .*looked for \.bmp"):
        open_dataset(tmp_path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no images in"):
        open_dataset(tmp_path)


def test_an_empty_class_folder_would_shift_the_labels(folder: Path) -> None:
    (folder / "ape").mkdir()
    with pytest.raises(DataError, match=r"class folder '.*ape' has no images"):
        open_dataset(folder)


def test_images_beside_class_folders(folder: Path) -> None:
    save(folder / "stray.png")
    with pytest.raises(DataError, match=r"holds both images \('stray.png', …\) and folders"):
        open_dataset(folder)


def test_an_unreadable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Path.iterdir

    def refuse(self: Path) -> object:
        # file modes do not stop root, so the refusal is put in the way by hand
        if self.name == "bee":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot read '.*bee' \(Permission denied\)"):
        open_dataset(folder)


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at .*nowhere'; give an image folder"):
        open_dataset(tmp_path / "nowhere")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither an image folder nor a \.csv or \.npz"):
        open_dataset(save(tmp_path / "one.png"))


def test_the_folder_digest_follows_names_sizes_and_labels(folder: Path) -> None:
    first = open_dataset(folder).digest
    assert first == open_dataset(folder).digest
    assert first != open_dataset(folder, class_names=["cat", "bee", "ant"]).digest
    save(folder / "ant" / "0.png", side=17)
    assert first != open_dataset(folder).digest


# damaged images


def truncate(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    return path


@pytest.mark.parametrize("file", ["bad.jpg", "bad.png", "bad.webp", "bad.bmp"])
def test_a_truncated_image_among_good_ones_is_named(folder: Path, file: str) -> None:
    truncate(folder / "bee" / file)
    dataset = open_dataset(folder)
    with pytest.raises(UnreadableImage, match=f"cannot read image 'bee/{file}'") as caught:
        list(batches(dataset, PREPROCESSING, 4))
    assert "\n" not in str(caught.value)
    assert caught.value.name == f"bee/{file}"


def test_bad_images_can_be_skipped_and_are_counted(folder: Path) -> None:
    truncate(folder / "bee" / "bad.jpg")
    (folder / "cat" / "0.png").write_bytes(b"")
    dataset, bad = open_dataset(folder), BadImages()
    found = list(batches(dataset, PREPROCESSING, 4, skip_bad=True, on_bad=bad))
    assert [len(batch) for batch in found] == [4, 4, 3]
    assert bad.names == ["bee/bad.jpg", "cat/0.png"]
    assert bad.summary(len(dataset)) == (
        "skipped 2 of 13 images that cannot be read: bee/bad.jpg, cat/0.png"
    )
    kept = np.concatenate([batch.indices for batch in found])
    labels = np.concatenate([batch.labels for batch in found if batch.labels is not None])
    np.testing.assert_array_equal(kept, [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12])
    np.testing.assert_array_equal(labels, np.array(dataset.labels)[kept])


def test_nothing_but_bad_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"junk")
    (tmp_path / "b.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="none of the 2 images"):
        list(batches(open_dataset(tmp_path), PREPROCESSING, 4, skip_bad=True))


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "bomb.png", side=64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 3)
    with pytest.raises(DataError, match=r"image 'bomb\.png' is too large to decode safely"):
        open_dataset(tmp_path)[0]


def test_a_merely_large_image_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "large.png", side=64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    assert open_dataset(tmp_path)[0].image is not None


# modes


def grey_ramp(dtype: type) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.linspace(0, top, 256).astype(dtype).reshape(16, 16)


CONVERSIONS: dict[str, tuple[Callable[[], Image.Image], str, object]] = {
    "16-bit grey": (lambda: Image.fromarray(grey_ramp(np.uint16)), "png", range(256)),
    "8-bit grey": (lambda: Image.fromarray(grey_ramp(np.uint8)), "png", range(256)),
    "one bit": (lambda: Image.fromarray(grey_ramp(np.uint8) > 127), "png", [0] * 128 + [255] * 128),
    "palette": (lambda: Image.fromarray(grey_ramp(np.uint8)).convert("P"), "png", range(256)),
    "alpha is dropped": (
        lambda: Image.merge("LA", [Image.fromarray(grey_ramp(np.uint8)), Image.new("L", (16, 16))]),
        "png",
        range(256),
    ),
    "cmyk": (lambda: Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "jpg", [255] * 256),
}


@pytest.mark.parametrize("case", CONVERSIONS)
def test_every_mode_becomes_rgb(tmp_path: Path, case: str) -> None:
    make, suffix, expected = CONVERSIONS[case]
    make().save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    np.testing.assert_array_equal(pixels[..., 0].ravel(), np.array(expected))


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (20, 10)


# csv


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("header", ["", "path,label\n", "Filename, Class\n"])
def test_csv_of_indices(folder: Path, header: str) -> None:
    dataset = open_dataset(write_csv(folder, header + "cat/1.png, 7\n\nant/0.png,0\n"))
    assert labels_of(dataset) == [7, 0]
    assert dataset[0].name == "cat/1.png"
    assert dataset.class_names is None
    assert dataset.label_mapping == "class indices from the .csv"


def test_csv_of_names(folder: Path) -> None:
    path = write_csv(folder, 'cat/1.png,"fat cat"\nant/0.png,ant\nant/1.png,ant\n')
    assert labels_of(open_dataset(path)) == [1, 0, 0]
    by_name = open_dataset(path, class_names=("eel", "Fat_Cat", "ant"))
    assert labels_of(by_name) == [1, 2, 2]
    assert by_name.label_mapping == "class names of the network"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("path,label\n", "no rows"),
        ("path,label\nant/9.png,0\n", r"line 2 of .* names a missing file: 'ant/9.png'"),
        ("ant/0.png\n", r"line 1 of .* is not 'path,label': ant/0.png"),
        ("ant/0.png,\n", r"line 1 of .* is not 'path,label'"),
        ("ant/0.png,0,5\n", r"line 1 of .* is not 'path,label'"),
        ("ant/0.png,0\nant/1.png,bee\n", r"line 2 .* label 'bee', but earlier labels are numbers"),
        ("ant/0.png,bee\nant/1.png,1.5\n", None),
        ("ant/0.png,bee\nant/1.png,1\n", r"line 2 .* label '1', but earlier labels are names"),
    ],
)
def test_bad_csv(folder: Path, text: str, message: str | None) -> None:
    path = write_csv(folder, text)
    if message is None:  # 1.5 is a name like any other, however odd
        assert open_dataset(path).class_names == ("1.5", "bee")
        return
    with pytest.raises(DataError, match=message):
        open_dataset(path)


def test_csv_of_another_encoding(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_bytes("ant/0.png,käfer\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not a readable UTF-8 \.csv"):
        open_dataset(path)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_network(folder: Path, label: int) -> None:
    dataset = open_dataset(write_csv(folder, f"ant/0.png,0\nant/1.png,{label}\n"))
    with pytest.raises(
        DataError, match=rf"1 labels .* outside 0…2, the first is {label} at image 1"
    ):
        check_labels(dataset, 3)


# npz

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
INPUT = np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("labels", [None, np.arange(5, dtype=np.int32)])
def test_npz_of_images(tmp_path: Path, compressed: bool, labels: np.ndarray | None) -> None:
    arrays = {"images": IMAGES} if labels is None else {"labels": labels, "images": IMAGES}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **arrays)
    dataset = open_dataset(tmp_path / "a.npz")
    assert len(dataset) == 5
    found = list(batches(dataset, PREPROCESSING, 2))
    assert [len(batch) for batch in found] == [2, 2, 1]
    np.testing.assert_array_equal(
        np.concatenate([batch.inputs for batch in found]), PREPROCESSING.normalise(IMAGES)
    )
    assert found[1].names == ("a.npz[2]", "a.npz[3]")
    if labels is None:
        assert dataset.labels is None
    else:
        assert labels_of(dataset) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_of_preprocessed_input(tmp_path: Path, order: str) -> None:
    np.savez(tmp_path / "a.npz", input=np.asarray(INPUT, order=order))  # type: ignore[call-overload]
    dataset = open_dataset(tmp_path / "a.npz")
    (batch,) = batches(dataset, PREPROCESSING, 5)
    np.testing.assert_array_equal(batch.inputs, INPUT)
    assert batch.inputs.flags.c_contiguous
    assert dataset[0].image is None
    with pytest.raises(
        DataError, match=r"'a.npz\[0\]' has shape \(3, 16, 16\), but .* \(3, 17, 17"
    ):
        next(batches(dataset, Preprocessing(17, 17), 2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, r"needs either 'images' .* or 'input' .*; it has: x"),
        ({"images": IMAGES, "input": INPUT}, "needs either"),
        ({"images": IMAGES.astype(np.float32)}, r"must be uint8 \(N,H,W,3\), not float32"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"must be uint8 .* not uint8 \(5, 3, 16, 16\)"),
        ({"input": INPUT.astype(np.float64)}, r"must be float32 \(N,3,H,W\), not float64"),
        ({"input": INPUT[0]}, r"must be float32 .* not float32 \(3, 16, 16\)"),
        ({"images": IMAGES[:0]}, "has no images"),
        ({"images": IMAGES, "labels": np.arange(4)}, "has 5 images but 4 labels"),
        ({"images": IMAGES, "labels": np.arange(5.0)}, r"must be integers \(N,\), not float64"),
        ({"images": IMAGES, "labels": np.array([object()] * 5)}, "Python objects"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "a.npz")


def test_an_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(DataError, match=r"not a usable \.npz"):
        open_dataset(tmp_path / "a.npz")


def test_the_npz_digest_is_that_of_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    np.savez(tmp_path / "b.npz", images=IMAGES[::-1])
    digests = [open_dataset(tmp_path / name).digest for name in ("a.npz", "b.npz", "a.npz")]
    assert digests[0] == digests[2] != digests[1]


# shapes


def test_shapes() -> None:
    dataset = open_dataset("shapes", seed=4, split="train", size=30, image_size=32)
    source = Shapes(4, "train", 32)
    assert len(dataset) == 30
    assert dataset.class_names == CLASS_NAMES
    assert dataset.digest == source.digest(30)
    np.testing.assert_array_equal(dataset.labels, source.labels(30))
    sample = dataset[5]
    assert sample.name == "shapes/train/000005"
    np.testing.assert_array_equal(np.asarray(sample.image), source.image(5))
    with pytest.raises(IndexError):
        dataset[30]
    check_labels(dataset, 24)


def test_shapes_is_balanced_by_default() -> None:
    labels = open_dataset("shapes").labels
    assert labels is not None
    np.testing.assert_array_equal(np.bincount(labels), np.full(24, 100))


def test_shapes_needs_an_image() -> None:
    with pytest.raises(DataError, match="at least one image, got 0"):
        open_dataset("shapes", size=0)


def test_a_network_of_fewer_classes_does_not_fit_shapes() -> None:
    with pytest.raises(DataError, match="outside 0…9"):
        check_labels(open_dataset("shapes", size=48), 10)


def test_a_network_of_other_classes_does_not_fit_shapes() -> None:
    with pytest.raises(DataError, match="has 24 classes but the network has 1000"):
        check_labels(open_dataset("shapes", size=48), 1000)


def test_shapes_as_files_and_as_generator_agree(tmp_path: Path) -> None:
    write_folder(tmp_path, 24)
    from_files = open_dataset(tmp_path, class_names=CLASS_NAMES)
    source = Shapes()
    by_index = {int(Path(from_files[i].name).stem): from_files[i].label for i in range(24)}
    assert by_index == {i: source.label(i) for i in range(24)}


# subset and batches


def test_subset_is_balanced_and_seeded() -> None:
    dataset = open_dataset("shapes", size=240)
    labels = np.array(dataset.labels)
    chosen = subset(dataset, 60, seed=1)
    counts = np.bincount(labels[chosen], minlength=24)
    assert set(counts) == {2, 3}
    assert len(set(chosen.tolist())) == 60
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, subset(dataset, 60, seed=1))
    assert not np.array_equal(chosen, subset(dataset, 60, seed=2))


def test_subset_of_unbalanced_labels(folder: Path) -> None:
    for index in range(4, 30):
        save(folder / "cat" / f"{index}.png")
    dataset = open_dataset(folder)
    labels = np.array(dataset.labels)
    assert np.bincount(labels[subset(dataset, 9)]).tolist() == [3, 3, 3]
    assert np.bincount(labels[subset(dataset, 20)]).tolist() == [4, 4, 12]


def test_subset_without_labels_and_larger_than_the_data(folder: Path) -> None:
    dataset = open_dataset(folder / "ant")
    assert len(subset(dataset, 2)) == 2
    assert subset(dataset, 99).tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="at least one image, not 0"):
        subset(dataset, 0)


def test_batches_follow_the_indices(folder: Path) -> None:
    dataset = open_dataset(folder)
    found = list(batches(dataset, PREPROCESSING, 2, indices=[11, 0, 5]))
    assert [batch.indices.tolist() for batch in found] == [[11, 0], [5]]
    assert found[0].labels is not None
    assert found[0].labels.tolist() == [2, 0]
    assert found[0].inputs.shape == (2, 3, 16, 16)
    assert found[0].inputs.dtype == np.float32
    expected = (np.array([20, 3, 0], np.float32) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(found[0].inputs[0, :, 8, 8], expected, atol=1e-6)


def test_an_empty_batch_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="batch size must be at least 1, not 0"):
        next(batches(open_dataset(folder), PREPROCESSING, 0))


def test_images_are_decoded_one_batch_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    decode = Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path), decode(path))[1])
    stream = batches(open_dataset(folder), PREPROCESSING, 3)
    assert opened == []
    next(stream)
    assert len(opened) == 3
