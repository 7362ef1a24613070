"""The command line as its user meets it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Outcome, invoked
from PIL import Image

from inception_deploy.cli.main import main

SMALL = ["--weights", "random:0", "--num-classes", "5", "--image-size", "64", "--seconds", "0"]
FEW = ["--data-size", "16", "--calibration-size", "8"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    return partial(invoked, capfd)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small FP16 bundle of random weights, made once."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    with pytest.raises(SystemExit) as stop:
        main(["export", "googlenet", *SMALL, *FEW, "--fp16", "-o", str(path), "-q"])
    assert stop.value.code == 0
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A flat folder of three images, one of them cut short."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.jpg"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / name)
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:200])
    return folder


def assert_one_line(outcome: Outcome, code: int, *words: str) -> None:
    """The error contract: the code, one line on stderr, nothing on stdout, no traceback."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert outcome.code == code, outcome.err
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in lines[0], lines[0]


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------- what works


def test_bundle_holds_what_the_contract_names(bundle: Path) -> None:
    assert {"manifest.json", "reference.onnx", "model.onnx", "parity.json", "report.html"} <= set(
        leftovers(bundle)
    )
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["precision"] == "fp16"
    assert manifest["weights"]["trained"] is False
    stages = [stage["name"] for stage in manifest["stages"]]
    assert (stages[0], stages[-1]) == ("export", "lower/fp16")
    assert {"fuse/conv_bn", "fuse/residual_scale"} < set(stages)
    assert manifest["graph"]["inputs"] == [
        {"name": "input", "dtype": "float32", "shape": ["batch", 3, 64, 64]}
    ]
    assert manifest["graph"]["bytes"] < 0.55 * manifest["reference"]["bytes"]


def test_export_prints_one_json_document(run: Any, tmp_path: Path) -> None:
    outcome = run("export", "googlenet", *SMALL, *FEW, "-o", tmp_path / "b", "--json", "-q")
    assert outcome.code == 0, outcome.err
    assert outcome.json["precision"] == "fp32"


def test_export_says_not_trained(run: Any, tmp_path: Path) -> None:
    outcome = run("export", "googlenet", *SMALL, *FEW, "-o", tmp_path / "b")
    assert outcome.code == 0, outcome.err
    assert "NOT TRAINED" in outcome.out
    assert "NOT TRAINED" in (tmp_path / "b" / "report.html").read_text()


def test_a_recipe_replays_to_the_same_graph(run: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    first = run(
        *("export", "googlenet", *SMALL, *FEW, "--fp16", "-q", "--json"),
        *("--save-recipe", recipe, "-o", tmp_path / "a"),
    )
    again = run("export", "--recipe", recipe, "-o", tmp_path / "b", "-q", "--json")
    assert again.code == 0, again.err
    assert first.json["graph"]["sha256"] == again.json["graph"]["sha256"]
    assert first.json["recipe"] == again.json["recipe"]


def test_verify(run: Any, bundle: Path) -> None:
    outcome = run("verify", bundle, "--json")
    assert outcome.code == 0
    assert outcome.json["ok"] is True


def test_compare_with_pytorch_and_without(run: Any, bundle: Path) -> None:
    for against in ("pytorch", "reference.onnx"):
        outcome = run("compare", bundle, "--against", against, "--data-size", 12, "--json", "-q")
        assert outcome.code == 0, outcome.err
        assert outcome.json["reference"] == against
        assert outcome.json["data"]["images"] == 12
        assert outcome.json["sqnr_db"] > 40


def test_predict_names_the_image_and_its_classes(run: Any, bundle: Path, images: Path) -> None:
    outcome = run("predict", bundle, images / "a.png", "--json", "-q", "--top", 3)
    assert outcome.code == 0, outcome.err
    (prediction,) = outcome.json
    assert prediction["image"].endswith("a.png")
    probabilities = [c["probability"] for c in prediction["classes"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)


def test_class_names_come_from_the_folders(run: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog", "elk"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        image = Image.fromarray(rng.integers(0, 255, (70, 70, 3), np.uint8))
        image.save(tmp_path / "photos" / name / "1.png")
    outcome = run(
        *("export", "googlenet", *SMALL, *FEW, "--data", tmp_path / "photos"),
        *("-o", tmp_path / "b", "-q", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["class_names"] == ["ant", "bee", "cat", "dog", "elk"]


def test_brackets_in_a_file_name_are_shown_as_they_are(
    run: Any, bundle: Path, images: Path
) -> None:
    odd = images / "holiday [bold] 1.png"
    (images / "a.png").rename(odd)
    outcome = run("predict", bundle, odd, "-q", "--top", 1)
    assert "holiday [bold] 1.png" in outcome.out


def test_bench_rows_and_ratios(run: Any, bundle: Path) -> None:
    outcome = run("bench", bundle, "--batch", "1,2", "--seconds", "0.05", "--json", "-q")
    assert outcome.code == 0, outcome.err
    assert {(r["engine"], r["batch"]) for r in outcome.json["rows"]} == {
        (engine, batch) for engine in ("pytorch", "onnxruntime") for batch in (1, 2)
    }
    assert {r["batch"] for r in outcome.json["ratios"]} == {1, 2}


def test_report_of_one_bundle_stays_verified(run: Any, bundle: Path, tmp_path: Path) -> None:
    assert run("report", bundle, bundle, "-o", tmp_path / "both.html", "-q").code == 0
    assert (tmp_path / "both.html").stat().st_size > 1000
    assert run("report", bundle, "-q").code == 0
    assert run("verify", bundle, "-q").code == 0


def test_networks_and_doctor_speak_json(run: Any) -> None:
    networks = run("networks", "--json")
    assert {n["name"] for n in networks.json} >= {"googlenet", "inception_v3"}
    doctor = run("doctor", "--json")
    assert doctor.code == 0
    assert doctor.json["engines"]["onnxruntime"]["ok"] is True


def test_shell_completion_is_there() -> None:
    environment = {**os.environ, "_INCEPTION_DEPLOY_COMPLETE": "bash_source"}
    done = subprocess.run(
        [sys.executable, "-c", "from inception_deploy.cli.main import main; main()"],
        check=False,  # the status belongs to click; what matters is the script it prints
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "complete" in done.stdout, done.stderr


# ---------------------------------------------------------------- bad input


def test_unknown_network_suggests_the_nearest(run: Any, tmp_path: Path) -> None:
    outcome = run("export", "inceptionv3", "--weights", "random", "-o", tmp_path / "b")
    assert_one_line(outcome, 2, "unknown network 'inceptionv3'", "did you mean 'inception_v3'")


def test_unknown_command_and_option(run: Any) -> None:
    assert_one_line(run("exprot"), 2, "did you mean 'export'")
    outcome = run("export", "--fp17", "-o", "x")
    assert outcome.code == 2
    assert "No such option" in outcome.err


def test_wrong_num_classes(run: Any, tmp_path: Path) -> None:
    outcome = run("export", "--num-classes", "7", "-o", tmp_path / "b", "-q")
    assert_one_line(outcome, 2, "7", "classes")
    assert leftovers(tmp_path) == []


def test_image_size_below_the_minimum(run: Any, tmp_path: Path) -> None:
    outcome = run(
        *("export", "inception_v3", "--weights", "random", "--image-size", "32"),
        *("-o", tmp_path / "b", "-q"),
    )
    assert_one_line(outcome, 2, "32", "75")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("empty",)),
        (b"PK\x03\x04 cut short", ("weights.pth",)),
        (b"\x80\x04\x95 not a checkpoint", ("weights.pth",)),
    ],
)
def test_broken_checkpoints(
    run: Any, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(content)
    outcome = run("export", "googlenet", "--weights", weights, "-o", tmp_path / "b", "-q")
    assert_one_line(outcome, 2, *words)
    assert leftovers(tmp_path) == ["weights.pth"]


class _Attack:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


def test_malicious_pickle_is_not_run(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": _Attack()}, "attack.pth")
    outcome = run("export", "googlenet", "--weights", "attack.pth", "-o", "b", "-q")
    assert_one_line(outcome, 2, "refusing to unpickle")
    assert leftovers(tmp_path) == ["attack.pth"]


def test_missing_weights_name_the_way_out(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    outcome = run("export", "inception_v3", "-o", tmp_path / "b", "-q")
    assert_one_line(outcome, 2, "--weights PATH")


def test_data_that_is_not_there(run: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, word in ((tmp_path / "nowhere", "no data at"), (empty, "no images in")):
        outcome = run("export", "googlenet", *SMALL, "--data", source, "-o", tmp_path / "b", "-q")
        assert_one_line(outcome, 2, word)
    assert leftovers(tmp_path) == ["empty"]


def test_one_corrupt_image_is_named_or_skipped(run: Any, images: Path, tmp_path: Path) -> None:
    arguments = ["export", "googlenet", *SMALL, "--data", images, "-o", tmp_path / "b"]
    assert_one_line(run(*arguments, "-q"), 2, "b.jpg")
    outcome = run(*arguments, "--skip-bad-images")
    assert outcome.code == 0, outcome.err
    assert "skipped" in outcome.out
    parity = json.loads((tmp_path / "b" / "parity.json").read_text())
    assert parity["data"]["skipped"] == ["b.jpg"]
    assert parity["data"]["images"] == 2


def test_predict_on_a_corrupt_image(run: Any, bundle: Path, images: Path) -> None:
    assert_one_line(run("predict", bundle, images / "b.jpg", "-q"), 2, "b.jpg")
    outcome = run("predict", bundle, images, "--skip-bad-images", "--json", "-q")
    assert [Path(p["image"]).name for p in outcome.json] == ["a.png", "c.jpg"]
    assert_one_line(run("predict", bundle, images / "z.jpg", "-q"), 2, "z.jpg")


def test_output_in_the_way(run: Any, bundle: Path, tmp_path: Path) -> None:
    assert_one_line(run("export", "-o", bundle, "-q"), 2, "--force")
    (tmp_path / "notes.txt").write_text("mine")
    assert_one_line(run("export", "-o", tmp_path, "--force", "-q"), 2, "not a bundle")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_tampered_bundle_is_refused(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "b"
    assert run("export", "googlenet", *SMALL, *FEW, "-o", path, "-q").code == 0
    model = path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    assert_one_line(run("compare", path, "-q"), 2, "sha256 differs")
    assert run("verify", path, "-q").code == 1


def test_not_a_bundle(run: Any, tmp_path: Path) -> None:
    for command in ("verify", "compare", "report", "bench"):
        assert_one_line(run(command, tmp_path, "-q"), 2, "is not a bundle")


def test_max_drop_without_labels_is_inconclusive(run: Any, bundle: Path) -> None:
    outcome = run("compare", bundle, "--max-drop", "0.5", "--data-size", "8", "-q")
    assert outcome.code == 4
    assert "INCONCLUSIVE" in outcome.out


def test_full_disk_leaves_nothing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    outcome = run("export", "googlenet", *SMALL, *FEW, "-o", tmp_path / "b", "-q")
    assert_one_line(outcome, 2, "No space left on device")
    assert leftovers(tmp_path) == []


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "b"
    # a shell's background jobs ignore interrupts, and hand that on to their children
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeds}; from inception_deploy.cli.main import main; main()"
    arguments = ["export", "googlenet", "--weights", "random:0", "--image-size", "96"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "-o", str(output)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers(tmp_path), "the export never started to write"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert leftovers(tmp_path) == []
