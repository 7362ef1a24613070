"""Packages of PyTorch's compiler: what they compute, and which of them are never loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_graphs import build
from torch import Tensor, nn

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.bundle import file_digest
from inception_deploy.engines import ENGINES, Engine, Network, Session, TensorSpec
from inception_deploy.engines import _inductor_build as build_module
from inception_deploy.engines import _inductor_session as sessions
from inception_deploy.engines._inductor_facts import KEY, Package, Place, instruction_sets
from inception_deploy.engines.torch_inductor import TorchInductor
from inception_deploy.errors import BadInput, MissingDependency, RecipeError, StageError
from inception_deploy.pixel_front import PixelFront
from inception_deploy.preprocess import Preprocessing
from inception_deploy.recipe import Layout, Recipe

ENGINE: Engine = ENGINES.get("torch-inductor")
LARGEST = 4

compiles = pytest.mark.skipif(
    ENGINE.availability().remedy is not None, reason=ENGINE.availability().detail
)


class Classifier(nn.Module):
    """Every kind of layer that a precision is decided for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.get_buffer("running_mean"), std=0.2)
        # beyond float16, whose largest number is 65504
        nn.init.uniform_(self.norm.get_buffer("running_var"), 1e5, 2e5)
        nn.init.constant_(self.norm.bias, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.norm(1e3 * self.conv(images))).mean((2, 3)))
        return found


MODULE = Classifier().eval()


def images(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, 3, 10, 10)).astype(np.float32)


def expected(inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: np.ndarray[Any, Any] = MODULE(torch.from_numpy(inputs)).numpy()
    return found


def package(folder: Path, network: Network, maximum: int = LARGEST) -> Path:
    """The compiled network; of the file beside it only the names are looked at."""
    graph = build("logits = Relu(input)", shape="batch, 3, 10, 10", outputs=("logits",))
    onnx.save(graph, folder / "model.onnx")
    batch = BatchProfile(1, 1, maximum)
    made = ENGINE.compiled(folder / "model.onnx", folder, batch=batch, network=network)
    return made.files[0]


def opened(path: Path, **options: Any) -> Session:
    return ENGINE.deployed(path, file_digest(path), model=path.with_name("model.onnx"), **options)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if ENGINE.availability().remedy is not None:
        pytest.skip(ENGINE.availability().detail)
    return package(tmp_path_factory.mktemp("fp32"), Network(MODULE, "fp32", images(2)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_any_batch_gives_pytorchs_numbers(fp32: Path, count: int) -> None:
    inputs = images(count, seed=count)
    inputs.setflags(write=False)
    with opened(fp32) as session:
        found = session.run(inputs)
    wanted = expected(inputs.copy())
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_specs_names_and_validation(fp32: Path) -> None:
    with opened(fp32) as session:
        assert session.inputs == (TensorSpec("input", np.dtype("float32"), ("batch", 3, 10, 10)),)
        assert session.outputs == (TensorSpec("logits", np.dtype("float32"), ("batch", 5)),)
        assert session.device in ENGINE.availability().devices
        assert session.load_seconds > 0
        with pytest.raises(BadInput, match="must be float32, not float64"):
            session.run(np.zeros((1, 3, 10, 10)))
        with pytest.raises(BadInput, match=r"must have shape \(batch, 3, 10, 10\)"):
            session.run(np.zeros((1, 3, 9, 10), np.float32))
    with pytest.raises(RuntimeError, match="not open"):
        session.run(images(1))


def test_results_stay_and_sessions_do_not_meet(fp32: Path) -> None:
    with opened(fp32) as first, opened(fp32) as second:
        found = first.run(images(2))
        kept = found.copy()
        assert np.array_equal(second.run(images(2)), kept)
        first.run(2 * images(2))
        assert np.array_equal(found, kept)
    with opened(fp32) as again:
        assert np.array_equal(again.run(images(2)), kept)


def test_a_package_is_mapped_once_for_each_session_that_is_open(
    fp32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch never unmaps one, so that closing and loading again would cost its size each time."""
    monkeypatch.setattr(sessions, "_IDLE", {})
    load, loads = torch._inductor.aoti_load_package, []

    def counted(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        return load(*arguments, **options)

    monkeypatch.setattr(torch._inductor, "aoti_load_package", counted)
    given = images(2)
    with opened(fp32) as first:
        wanted = first.run(given)
        for _ in range(3):
            first.close()
            first.close()  # twice is once
            first.load()
        with opened(fp32) as second:
            assert np.array_equal(second.run(given), first.run(given))
            assert len(loads) == 2, "sessions that are open at once have code of their own"
    with opened(fp32) as third, opened(fp32) as fourth:
        assert np.array_equal(third.run(given), wanted)
        assert np.array_equal(fourth.run(given), wanted)
    assert len(loads) == 2


def test_threads_are_lent_and_given_back(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_IDLE", {})  # which is to keep nothing of what spies
    before, seen = torch.get_num_threads(), []
    with opened(fp32, threads=before + 1) as session:
        assert isinstance(session, sessions.InductorSession)
        model = session._model
        assert model is not None

        def spied(given: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return model(given)

        monkeypatch.setattr(session, "_model", spied)
        session.run(images(1))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@compiles
@pytest.mark.parametrize(("precision", "digits"), [("bf16", 8), ("fp16", 11)])
def test_lower_precisions_round_as_they_should(precision: str, digits: int, tmp_path: Path) -> None:
    """Weights, activations and the result round to `digits` bits: 8 roundings at the most here.

    That float16 comes so close shows that the variance, beyond its range, was kept in float32.
    """
    path = package(tmp_path, Network(MODULE, precision, images(2)))
    with opened(path) as session:
        found = session.run(images(8))
    wanted = expected(images(8))
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 2.0 ** -(digits + 5) < error < 8 * 2.0**-digits
    assert MODULE.conv.weight.dtype == torch.float32
    facts = Package.read(path.read_bytes(), path)
    assert facts.precision == precision


@compiles
@pytest.mark.parametrize(("layout", "largest"), [("NCHW", 1), ("NHWC", LARGEST)])
def test_pixels_are_normalised_in_front(layout: Layout, largest: int, tmp_path: Path) -> None:
    """Also where the batch is a constant one, and three images are run one by one."""
    preprocessing = Preprocessing(
        size=10,
        resize=10,
        interpolation="bilinear",
        mean=(104.0, 117.0, 123.0),
        std=(57.0, 58.0, 59.0),
        channel_order="BGR",
        pixel_max=255.0,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 10, 10, 3), np.uint8)
    given = pixels if layout == "NHWC" else np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    network = Network(MODULE, "fp32", given, PixelFront(preprocessing, layout))
    wanted = expected(preprocessing.normalise(pixels))
    with opened(package(tmp_path, network, largest)) as session:
        assert session.inputs[0].dtype == np.uint8
        found = session.run(given)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@compiles
def test_what_pytorch_cannot_export_is_one_line(tmp_path: Path) -> None:
    class Choosing(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return given.mean((2, 3)) if given.sum() > 0 else given.amax((2, 3))

    with pytest.raises(StageError, match="cannot compile Choosing") as caught:
        package(tmp_path, Network(Choosing(), "fp32", images(2)))
    assert "\n" not in str(caught.value)


# Packages that are refused. `aoti_load_package` runs native code, so it must not be reached.


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_arguments: object) -> None:
        raise AssertionError("code of a refused package was loaded")

    monkeypatch.setattr(sessions, "_loaded", reached)


@pytest.mark.usefixtures("no_loading")
def test_another_hash_is_not_loaded(fp32: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(fp32, tmp_path / "model.pt2"))
    digest = file_digest(other)
    other.write_bytes(other.read_bytes() + b"\0")
    session = ENGINE.deployed(other, digest, model=other)
    with pytest.raises(BadInput, match=r"not the engine that was exported.*not loaded"), session:
        pass
    with (
        pytest.raises(BadInput, match="cannot read"),
        ENGINE.deployed(tmp_path / "none.pt2", digest, model=other),
    ):
        pass


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch": "1.0"}, "compiled by PyTorch 2.* this is 1.0; export the bundle"),
        ({"isa": ()}, "for a CPU with .* which this one lacks; export the bundle"),
        ({"device": "cuda", "sm": 90}, "for the CPU, this process runs on SM90"),
    ],
)
def test_another_place_is_refused(
    change: dict[str, Any],
    message: str,
    fp32: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(torch.__version__, "cpu", None, ("avx2", *instruction_sets()))
    made = replace(Package.read(fp32.read_bytes(), fp32), place=place)
    monkeypatch.setattr(sessions, "here", lambda: replace(place, **change))
    monkeypatch.setattr(sessions.Package, "read", lambda _content, _path: made)
    with pytest.raises(MissingDependency, match=message) as caught, opened(fp32):
        pass
    assert "\n" not in str(caught.value)


def test_a_package_for_a_gpu_needs_one() -> None:
    cpu = Place("2.13.0", "cpu", None, ("avx2", "fma"))
    gpu = replace(cpu, device="cuda", sm=90)
    assert cpu.misfit(cpu) is None
    assert gpu.misfit(replace(gpu, sm=80)) == ("was compiled for SM90, this process runs on SM80")
    assert gpu.misfit(cpu) == "was compiled for SM90, this process runs on the CPU"
    assert cpu.misfit(replace(cpu, isa=("avx2", "avx512f", "fma"))) is None
    assert cpu.misfit(replace(cpu, isa=("fma",))) == (
        "was compiled for a CPU with avx2, which this one lacks"
    )


@pytest.mark.usefixtures("no_loading")
def test_a_package_for_a_gpu_names_what_is_missing(
    fp32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Package.read(fp32.read_bytes(), fp32)
    elsewhere = replace(made, place=replace(made.place, device="cuda", sm=90))
    cpu = replace(made.place, device="cpu", sm=None)
    monkeypatch.setattr(sessions, "here", lambda: cpu)
    monkeypatch.setattr(sessions.Package, "read", lambda _content, _path: elsewhere)
    with pytest.raises(MissingDependency, match="compiled for SM90"), opened(fp32):
        pass


def archive(files: dict[str, object]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        for name, value in files.items():
            written.writestr(name, json.dumps(value))
    return content.getvalue()


FACTS = Package(
    Place("2.13.0", "cpu", None, ("avx2",)), "bf16", ("input", "uint8", (3, 8, 8)),
    ("logits", "float32", (10,)), 8,
)  # fmt: skip


def test_facts_are_read_back() -> None:
    kernels = {"m/k.kernel_metadata.json": {}, "m/w.wrapper_metadata.json": FACTS.metadata()}
    assert Package.read(archive(kernels), Path("a.pt2")) == FACTS


NO_PACKAGES: dict[str, bytes] = {
    "empty": b"",
    "no archive": b"no archive",
    "no files": archive({}),
    "no facts": archive({"w_metadata.json": {}}),
    "facts that are a list": archive({"w_metadata.json": [1]}),
    "facts cut off": archive({"w_metadata.json": {KEY: "{"}}),
    "facts incomplete": archive({"w_metadata.json": {KEY: json.dumps({"place": {"isa": []}})}}),
    "a place that is a number": archive({"w_metadata.json": {KEY: json.dumps({"place": 3})}}),
}


@pytest.mark.parametrize("kind", NO_PACKAGES)  # an archive's bytes hold the time of day
def test_what_is_no_package_is_bad_input(kind: str, tmp_path: Path) -> None:
    content = NO_PACKAGES[kind]
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with (
        pytest.raises(BadInput, match=r"model\.pt2 .*export it again") as caught,
        ENGINE.deployed(path, digest, model=path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_instruction_sets_are_not_traits_of_the_system() -> None:
    text = "flags\t\t: fpu sse4_2 avx512f smep smap hypervisor ibrs fma bmi1 amx_bf16\n"
    assert instruction_sets(text) == ("amx_bf16", "avx512f", "bmi1", "fma", "sse4_2")
    assert instruction_sets("Features : fp asimd sve2 sme crc32 bf16\n") == (
        *("asimd", "bf16", "sme", "sve2"),
    )
    assert instruction_sets("") == ()


# What can be asked of the engine, and what not.


def test_it_is_registered_and_runs_no_graphs() -> None:
    assert isinstance(ENGINE, TorchInductor)
    assert not ENGINE.takes_graphs
    graph = build("output = Relu(input)")
    with pytest.raises(BadInput, match=r"no ONNX graphs.*--target torch-inductor"):
        ENGINE.session(graph.SerializeToString())
    with ENGINE.session(graph.SerializeToString(), optimise=False) as session:
        inputs = np.full((1, 4, 6, 6), -1.0, np.float32)
        assert np.array_equal(session.run(inputs), np.zeros_like(inputs))


@compiles
def test_there_is_nothing_to_compile_in_an_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="choose --target onnxruntime"):
        ENGINE.compiled(tmp_path / "model.onnx", tmp_path)


def test_without_a_compiler_packages_still_run(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = ENGINE.availability()
    assert not found.ok
    assert found.obstacle is None
    assert "not compiled" in found.detail
    with pytest.raises(MissingDependency, match=r"no C\+\+ compiler.*apt-get install g\+\+"):
        ENGINE.require_buildable(BuildOptions())
    with opened(fp32) as session:
        assert session.run(images(1)).shape == (1, 5)


def test_an_old_pytorch_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._inductor, "aoti_compile_and_package")
    found = ENGINE.availability()
    assert found.version is None
    assert found.remedy == "pip install 'torch>=2.7'"


@compiles
def test_a_gpu_needs_cudas_headers_and_triton(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(
        MissingDependency, match=r"headers are incomplete.*pip install 'nvidia-cuda-crt"
    ):
        ENGINE.require_buildable(BuildOptions())
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda.h").touch()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else find(name)
    )
    with pytest.raises(MissingDependency, match=r"no Triton.*run: pip install triton"):
        ENGINE.require_buildable(BuildOptions())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert ENGINE.availability().ok


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "int8"}, "int8 is for onnxruntime, .* not torch-inductor"),
        ({"precision": "fp8"}, "fp8 is for tensorrt and tensorrt-rtx; .* not torch-inductor"),
        ({"onnx": "a.onnx"}, "an ONNX file holds none; ask for target onnxruntime"),
        ({"build": BuildOptions(tf32=True)}, "leave it out for torch-inductor"),
    ],
)
def test_recipes_that_it_cannot_serve(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(target="torch-inductor", **fields)


class Residuals(nn.Module):
    """Two residual branches scaled by different numbers, which PyTorch 2.13 freezes wrongly."""

    def __init__(self, called: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Conv2d(3, 3, 1) for _ in range(2))
        self.one, self.other = nn.Identity(), nn.Identity()
        self.called = called
        setattr(self.one, called, 0.17)
        setattr(self.other, called, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        found = torch.relu(images + getattr(self.one, self.called) * self.first(images))
        found = torch.relu(found + getattr(self.other, self.called) * self.second(found))
        return found.mean((2, 3))


@compiles
@pytest.mark.parametrize(("called", "frozen"), [("scale", True), ("factor", False)])
def test_a_package_is_held_to_the_network(called: str, frozen: bool, tmp_path: Path) -> None:
    """Scales are hidden from what freezes them wrongly; what is wrong still is not frozen."""
    module = Residuals(called).eval()
    path = package(tmp_path, Network(module, "fp32", images(2)))
    with opened(path) as session:
        found = session.run(images(3, seed=1))
    with torch.no_grad():
        wanted = module(torch.from_numpy(images(3, seed=1))).numpy()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    # a PyTorch that freezes such networks as it should may freeze this one, too
    assert Package.read(path.read_bytes(), path).frozen or not frozen


@compiles
def test_what_does_not_compute_the_network_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "_off", lambda *_: 0.5)
    with pytest.raises(StageError, match=r"Classifier is off by 0.5 of its outputs, 0.0001 are"):
        package(tmp_path, Network(MODULE, "fp32", images(2)))
