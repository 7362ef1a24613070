"""What every engine promises: honest availability, and sessions that validate what they are fed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike
from small_graphs import build, noise

from inception_deploy.engines import ENGINES, Engine, TensorSpec
from inception_deploy.errors import BadInput, MissingDependency, StageError

MODEL = build(
    "a = Conv<pads=[1,1,1,1]>(input, w)\n r = Relu(a)\n g = GlobalAveragePool(r)\n"
    "output = Flatten(g)",
    {"w": (5, 4, 3, 3)},
)
GRAPH = MODEL.SerializeToString()


@pytest.fixture(params=[engine.name for engine in ENGINES if engine.takes_graphs])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine that works here and runs ONNX graphs; the others are skipped with what they
    lack."""
    engine = ENGINES.get(request.param)
    available = engine.availability()
    if not available.ok:
        pytest.skip(f"{engine.name}: {available.detail}; {available.remedy or available.obstacle}")
    return engine


@pytest.mark.parametrize("name", ENGINES.names())
def test_availability_says_what_is_there_or_how_to_get_it(name: str) -> None:
    available = ENGINES.get(name).availability()
    assert available.detail
    assert "\n" not in available.detail
    if available.ok:
        assert available.version
        assert available.devices
    elif available.obstacle:  # installed, and its device is not here
        assert available.version
        assert not available.devices
        with pytest.raises(MissingDependency, match="cannot run here"):
            ENGINES.get(name).session(GRAPH).load()
    else:
        assert available.remedy
        assert available.remedy.startswith(("pip install", "apt-get install"))
        if ENGINES.get(name).takes_graphs:
            with pytest.raises(MissingDependency, match="pip install"):
                ENGINES.get(name).session(GRAPH)


def test_specs_come_from_the_graph(engine: Engine) -> None:
    with engine.session(GRAPH) as session:
        (feed,), (output,) = session.inputs, session.outputs
        assert feed == TensorSpec("input", np.dtype(np.float32), ("batch", 4, 6, 6))
        assert output == TensorSpec("output", np.dtype(np.float32), ("batch", 5))
        assert session.load_seconds > 0
        assert session.device in engine.availability().devices


@pytest.mark.parametrize("batch", [1, 2, 3, 17])
@pytest.mark.parametrize("optimise", [True, False])
def test_any_batch_size_gives_the_same_numbers(engine: Engine, batch: int, optimise: bool) -> None:
    images = noise(MODEL, batch)
    weight = np.frombuffer(MODEL.graph.initializer[0].raw_data, np.float32).reshape(5, 4, 3, 3)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight), 0).mean((2, 3))
    with engine.session(GRAPH, optimise=optimise) as session:
        actual = session.run(images)
        assert actual.dtype == np.float32
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
        assert np.array_equal(session.infer({"input": images})["output"], actual)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 4, 6, 6), np.float64, "'input' must be float32, not float64"),
        ((2, 4, 6, 6), np.uint8, "'input' must be float32, not uint8"),
        (
            (2, 3, 6, 6),
            np.float32,
            r"'input' must have shape \(batch, 4, 6, 6\), not \(2, 3, 6, 6\)",
        ),
        ((4, 6, 6), np.float32, "must have shape"),
        ((0, 4, 6, 6), np.float32, "'input' holds no images"),
    ],
)
def test_a_feed_that_does_not_fit_is_bad_input(
    engine: Engine, shape: tuple[int, ...], dtype: DTypeLike, message: str
) -> None:
    with engine.session(GRAPH) as session:
        with pytest.raises(BadInput, match=message):
            session.run(np.zeros(shape, dtype))
        assert session.run(noise(MODEL)).shape == (4, 5)  # and the session still works


def test_missing_and_unknown_inputs_are_bad_input(engine: Engine) -> None:
    with engine.session(GRAPH) as session:
        with pytest.raises(BadInput, match=r"inputs must be \['input'\], not \[\]"):
            session.infer({})
        with pytest.raises(BadInput, match=r"not \['input', 'more'\]"):
            session.infer({"input": noise(MODEL), "more": noise(MODEL)})


def test_two_sessions_at_once_do_not_meet(engine: Engine) -> None:
    other = build("output = Relu(input)").SerializeToString()
    images = noise(MODEL)
    with engine.session(GRAPH) as first, engine.session(other) as second:
        before = first.run(images)
        assert np.array_equal(second.run(images), np.maximum(images, 0))
        assert np.array_equal(first.run(images), before)
    with engine.session(GRAPH) as again:
        assert np.array_equal(again.run(images), before)


def test_a_session_works_only_in_its_with_block(engine: Engine) -> None:
    session = engine.session(GRAPH)
    with pytest.raises(RuntimeError, match="not open"):
        session.run(noise(MODEL))
    with session:
        session.run(noise(MODEL))
    with pytest.raises(RuntimeError, match="not open"):
        session.infer({"input": noise(MODEL)})
    with session:  # and again
        assert session.run(noise(MODEL)).shape == (4, 5)


def test_an_error_inside_the_block_closes_the_session(engine: Engine) -> None:
    session = engine.session(GRAPH)
    with pytest.raises(ZeroDivisionError), session:
        raise ZeroDivisionError
    assert session.inputs == ()


def test_what_is_no_model_is_bad_input(engine: Engine, tmp_path: pytest.TempPathFactory) -> None:
    for model in (b"", b"this is no protobuf", GRAPH[: len(GRAPH) // 2]):
        with pytest.raises(BadInput) as caught, engine.session(model):
            pass
        assert "\n" not in str(caught.value)


def test_a_graph_that_makes_no_sense_is_a_stage_error(engine: Engine) -> None:
    unknown = build("output = Relu(input)")
    unknown.graph.node[0].op_type = "Nonsense"
    with (
        pytest.raises(StageError, match="Nonsense") as caught,
        engine.session(unknown.SerializeToString()),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_results_stay_when_the_session_runs_again(engine: Engine) -> None:
    images = noise(MODEL)
    images.setflags(write=False)
    with engine.session(GRAPH) as session:
        first = session.run(images)
        kept = first.copy()
        session.run(2 * images)
        assert np.array_equal(first, kept)


def test_many_batches_are_run_in_their_order(engine: Engine) -> None:
    batches = [noise(MODEL, size, seed=size) for size in (2, 2, 1, 3, 2)]
    with engine.session(GRAPH) as session:
        expected = [session.run(batch) for batch in batches]
        for have, want in zip(session.run_many(batches), expected, strict=True):
            assert np.array_equal(have, want)


def test_a_float32_graph_runs_in_float32(engine: Engine) -> None:
    with engine.session(GRAPH) as session:
        told = session.executed_precisions()
    if told is None:
        pytest.skip(f"{engine.name} does not tell what it made of a graph")
    assert told["node.a"] == told["node.r"] == "float32"
    assert set(told.values()) == {"float32"}


def test_a_closed_session_tells_nothing_of_its_precisions(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        engine.session(GRAPH).executed_precisions()
