"""Plans: what they are built from, what is refused, and what their records say."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import logging
import resource
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from alexc.diagnostics import AlexcError, UsageError
from alexc.engines import driver, tensorrt
from alexc.engines import model as onnx_file
from alexc.engines.options import PlanOptions
from alexc.engines.record import BUILT, BUILT_WITHOUT_GPU, not_built, parse_batch
from alexc.engines.tensorrt import callbacks
from alexc.engines.tensorrt.library import Library
from alexc.graph.graph import INPUT, Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Relu, Softmax
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.spec.model import InitSpec
from alexc.weights.init import draw
from alexc.weights.store import write
from alexc_runtime.manifest import BatchRange, Built, EngineRecord

Array = NDArray[np.float32]


def branching_graph() -> Graph:
    """A net with a branch, groups, a normalisation of either kind and odd sizes everywhere."""
    return Graph.build(
        "branching",
        (3, 23, 19),
        [
            ("conv1", Conv(out_channels=8, kernel_size=(5, 3), stride=(2, 1)), (INPUT,)),
            ("relu1", Relu(), ("conv1",)),
            ("norm1", Lrn(size=5, alpha=0.1, beta=0.75, k=2.0, alpha_per="element"), ("relu1",)),
            ("pool1", MaxPool(kernel_size=(3, 3), stride=(2, 2)), ("norm1",)),
            (
                "left",
                Conv(out_channels=6, kernel_size=(3, 3), padding=_around(1), groups=2),
                ("pool1",),
            ),
            ("right", Conv(out_channels=6, kernel_size=(1, 1), bias=False), ("pool1",)),
            ("bn", BatchNorm(), ("right",)),
            ("sum", Add(), ("left", "bn")),
            ("both", Concat(), ("sum", "pool1")),
            ("pool2", AvgPool(kernel_size=(2, 3), stride=(1, 2)), ("both",)),
            ("pool3", AdaptiveAvgPool(output_size=(1, 1)), ("pool2",)),
            ("flat", Flatten(), ("pool3",)),
            ("fc", Linear(out_features=11), ("flat",)),
            ("prob", Softmax(), ("fc",)),
        ],
        ("prob", "fc"),
    )


def _around(size: int) -> Padding:
    return Padding(top=size, left=size, bottom=size, right=size)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return branching_graph()


@pytest.fixture(scope="module")
def weights(graph: Graph) -> dict[str, Array]:
    return draw(graph, InitSpec(recipe="torch"), {}, seed=4)


@pytest.fixture(scope="module")
def model(
    graph: Graph, weights: dict[str, Array], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The net's model.onnx beside its weights; no test may change either, or add a file."""
    folder = tmp_path_factory.mktemp("model")
    extents = write(folder / "weights.safetensors", weights)
    (folder / "model.onnx").write_bytes(serialize(to_onnx(graph, extents)))
    before = digests(folder)
    yield folder / "model.onnx"
    assert digests(folder) == before


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(2).standard_normal((2, 3, 23, 19), dtype=np.float32)


@pytest.fixture(scope="module")
def expected(
    graph: Graph, weights: dict[str, Array], images: Array
) -> dict[str, NDArray[np.float64]]:
    """Every tensor of the net in float64, from the ops' own references."""
    values = {INPUT: images.astype(np.float64)}
    for node in graph.nodes:
        own = {
            local: weights[whole].astype(np.float64)
            for local, whole in node.parameter_names().items()
        }
        values[node.name] = node.op.reference([values[name] for name in node.inputs], own)
    return values


def by_hand(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = ("batch", 3, 7, 5),
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    """A model of these nodes, from `input` to `y`, that need not be a good one."""
    graph = helper.make_graph(
        nodes,
        "by-hand",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    domains = [helper.make_opsetid("", 19), helper.make_opsetid("elsewhere", 1)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()
    )
    return path


def codes(error: AlexcError) -> list[str]:
    return [diagnostic.code for diagnostic in error.diagnostics]


# ---- records -------------------------------------------------------------------------------------


def test_a_batch_range_is_read() -> None:
    assert parse_batch("1,8,32") == BatchRange(1, 8, 32)
    assert parse_batch(" 4 , 4,4 ") == BatchRange(4, 4, 4)


@pytest.mark.parametrize(
    ("text", "message", "help"),
    [
        ("", "the batch range '' is not three whole numbers MIN,OPT,MAX", "1,8,32"),
        ("8", "the batch range '8' is not three whole numbers MIN,OPT,MAX", "1,8,32"),
        ("1,8,x", "the batch range '1,8,x' is not three whole numbers MIN,OPT,MAX", "1,8,32"),
        ("1,2,3,4", "the batch range '1,2,3,4' is not three whole numbers MIN,OPT,MAX", "1,8,32"),
        ("-1,2,3", "the batch range '-1,2,3' is not three whole numbers MIN,OPT,MAX", "1,8,32"),
        ("一", r"the batch range '\u4e00' is not three whole numbers MIN,OPT,MAX", "1,8,32"),
        ("0,1,2", "the batch range starts at 0, and a batch has 1 image or more", "1,8,32"),
        ("1,32,8", "the batch range 1,32,8 is not in order: MIN ≤ OPT ≤ MAX", "1,8,32"),
        ("9,2,5", "the batch range 9,2,5 is not in order: MIN ≤ OPT ≤ MAX", "2,5,9"),
        ("1,2,9999999999", "the batch range ends at 9999999999, more than 2,147,483,647", "1,8,32"),
    ],
)  # fmt: skip
def test_a_batch_range_that_is_none_is_a_usage_error(text: str, message: str, help: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_batch(text)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.message) == ("batch/range", message)
    assert diagnostic.help == f"for example --batch {help}"


def test_a_plan_that_could_not_be_built_has_no_path() -> None:
    record = not_built("tensorrt", "fp32", "no GPU")
    assert record == EngineRecord("tensorrt", "fp32", "not built: no GPU", None)


# ---- the ONNX file -------------------------------------------------------------------------------


def test_models_that_alexc_does_not_write_are_refused(tmp_path: Path) -> None:
    relu = [helper.make_node("Relu", ["input"], ["y"])]
    for shape in (("batch", 3, "h", "w"), ("batch",), ("batch", 3, 0, 5)):
        path = by_hand(tmp_path / "open.onnx", relu, shape)
        with pytest.raises(AlexcError, match="its input input is open beyond the batch"):
            onnx_file.model_input(path, onnx_file.load(path))
    proto = onnx_file.load(by_hand(tmp_path / "two.onnx", relu))
    proto.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, (1, 2)))
    with pytest.raises(AlexcError, match="must have one input, and it has input, other"):
        onnx_file.model_input(tmp_path / "two.onnx", proto)


# ---- TensorRT ------------------------------------------------------------------------------------


@pytest.fixture
def rtx() -> ModuleType:
    """The library, which has wheels for some platforms only."""
    if obstacle := tensorrt.flavours()["tensorrt_rtx"].obstacle:
        pytest.skip(obstacle)
    return sys.modules["tensorrt_rtx"]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "gpu_count", lambda: 0)


def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "gpu_count", lambda: 1)


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_is_built_without_a_gpu(
    rtx: ModuleType, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = tensorrt.build_plan(
        model, tmp_path / "net.plan", options=PlanOptions((BatchRange(1, 4, 16),))
    )
    assert BUILT_WITHOUT_GPU == "built, not run: no GPU"
    path = str(tmp_path / "net.plan")
    built = Built(rtx.__version__, profiles=(BatchRange(1, 4, 16),))
    assert plan.record == EngineRecord("tensorrt_rtx", "fp32", BUILT_WITHOUT_GPU, path, built)
    assert [file.name for file in tmp_path.iterdir()] == ["net.plan"]
    assert (tmp_path / "net.plan").stat().st_size > 1000
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("rtx")
def test_tensorrt_understands_every_shape_as_the_graph_does(model: Path, graph: Graph) -> None:
    tensors = tensorrt.parse(model)
    for name, shape in graph.shapes.items():
        assert tensors[name] == tensorrt.ParsedTensor((None, *shape), "float32"), name


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "int8"])
def test_the_builder_is_told_the_batches_and_to_round_to_tf32_only_where_it_is_asked_for(
    precision: str, rtx: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    def builder(log: Any) -> Proxy:
        real = rtx.Builder(log)

        def create(what: str) -> Any:
            made[what] = getattr(real, f"create_{what}")()
            return made[what]

        return Proxy(
            real,
            create_builder_config=lambda: create("builder_config"),
            create_optimization_profile=lambda: create("optimization_profile"),
        )

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Proxy(rtx, Builder=builder))
    plan = tensorrt.build_plan(
        model,
        tmp_path / "net.plan",
        precision=precision,
        options=PlanOptions((BatchRange(2, 4, 9),)),
    )
    assert plan.record.precision == precision
    assert made["builder_config"].get_flag(rtx.BuilderFlag.TF32) == (precision == "tf32")
    shapes = made["optimization_profile"].get_shape("input")
    assert [tuple(shape) for shape in shapes] == [(size, 3, 23, 19) for size in (2, 4, 9)]


class Proxy:
    """Stands for `real`, with some attributes changed, or missing where they are given as None."""

    def __init__(self, real: Any, **changes: Any) -> None:
        self._real, self._changes = real, changes

    def __getattr__(self, name: str) -> Any:
        value = self._changes[name] if name in self._changes else getattr(self._real, name)
        if value is None:
            raise AttributeError(name)
        return value


@pytest.mark.usefixtures("rtx")
def test_a_plan_says_what_it_is_for(model: Path, tmp_path: Path) -> None:
    plain = tensorrt.build_plan(model, tmp_path / "a.plan")
    some = tensorrt.build_plan(
        model,
        tmp_path / "b.plan",
        options=PlanOptions(
            targets=(
                "8.9",
                "SM_120",
                "sm89",
            )
        ),
    )
    assert plain.record.built is not None
    assert some.record.built is not None
    assert plain.record.built.targets == ()
    assert some.record.built.targets == ("8.9", "12.0")
    assert (tmp_path / "a.plan").read_bytes() != (tmp_path / "b.plan").read_bytes()


@pytest.mark.usefixtures("rtx", "no_gpu")
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["9.9"], "has no target 9.9"),
        (["none"], "has no target none"),
        (["current"], "the target current is the GPU of this machine, and it has none"),
    ],
)
def test_a_target_that_can_not_be_built_for_is_a_usage_error(
    model: Path, tmp_path: Path, targets: list[str], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        tensorrt.build_plan(
            model, tmp_path / "net.plan", options=PlanOptions(targets=tuple(targets))
        )
    assert codes(caught.value) == ["engine/target"]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("rtx")
def test_current_goes_with_no_other_target(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch)
    with pytest.raises(UsageError, match="the target current goes with no other"):
        tensorrt.build_plan(
            model,
            tmp_path / "net.plan",
            options=PlanOptions(
                targets=(
                    "current",
                    "8.9",
                )
            ),
        )


@pytest.mark.usefixtures("rtx")
def test_what_the_builder_can_not_build_is_told_in_its_words(model: Path, tmp_path: Path) -> None:
    with pytest.raises(AlexcError, match=r"Turing \(SM75\)") as caught:
        tensorrt.build_plan(model, tmp_path / "net.plan", options=PlanOptions(targets=("7.5",)))
    assert codes(caught.value) == ["engine/build"]
    assert "CUDA driver" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_builder_outlives_its_work_or_is_destroyed_within_another(
    rtx: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT logs under a lock that destroying a builder takes too: a deadlock once seen."""
    builders: list[weakref.ref[Any]] = []

    def builder(log: Any) -> Any:
        real = rtx.Builder(log)
        builders.append(weakref.ref(real))
        return real

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Proxy(rtx, Builder=builder))
    (tmp_path / "model.onnx").write_bytes(model.read_bytes())  # without its weights
    collecting: list[bool] = []

    def stop(done: float, _: str) -> None:
        collecting.append(gc.isenabled())
        if done > 0.5:
            raise RuntimeError("enough")

    kept: list[BaseException] = []
    for call in (
        lambda: tensorrt.build_plan(
            model, tmp_path / "net.plan", options=PlanOptions(targets=("7.5",))
        ),
        lambda: tensorrt.parse(tmp_path / "model.onnx"),
        lambda: tensorrt.build_plan(model, tmp_path / "net.plan", progress=stop),
    ):
        with pytest.raises((AlexcError, RuntimeError)) as caught:
            call()
        kept.append(caught.value)
    tensorrt.build_plan(model, tmp_path / "net.plan")
    tensorrt.parse(model)
    assert len(kept) == 3
    assert [reference() for reference in builders] == [None] * 5
    assert collecting
    assert not any(collecting)
    assert gc.isenabled()


@pytest.mark.usefixtures("rtx")
def test_each_error_tells_of_its_own_build_alone(model: Path, tmp_path: Path) -> None:
    """While one builder is alive, TensorRT has its doubts about the logger of the next."""
    alive = Library("tensorrt_rtx")
    (tmp_path / "model.onnx").write_bytes(model.read_bytes())
    caught = []
    for _ in range(2):
        with pytest.raises(AlexcError, match=r"SM75") as built:
            tensorrt.build_plan(model, tmp_path / "net.plan", options=PlanOptions(targets=("7.5",)))
        with pytest.raises(AlexcError, match="Failed to open file") as parsed:
            tensorrt.parse(tmp_path / "model.onnx")
        caught += [built.value, parsed.value]
    assert str(caught[0]) == str(caught[2])
    assert str(caught[1]) == str(caught[3])
    assert not alive.logger.errors


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("node", "words"),
    [
        (
            helper.make_node("LRN", ["a"], ["y"], name="norm1", size=17),
            "tensorrt-rtx can't take node norm1 (LRN)",
        ),
        (
            helper.make_node("Zorp", ["a"], ["y"], name="odd", domain="elsewhere"),
            "tensorrt-rtx can't take node odd (Zorp)",
        ),
        (
            helper.make_node("MatMul", ["a", "a"], ["y"], name="product"),
            "input0 = 5 and second to last dimension of input1 = 7 but must match",
        ),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_an_error_of_the_parser_names_the_node(
    node: onnx.NodeProto, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = by_hand(
        tmp_path / "model.onnx", [helper.make_node("Relu", ["input"], ["a"], name="relu"), node]
    )
    for call in (
        lambda: tensorrt.parse(model),
        lambda: tensorrt.build_plan(model, tmp_path / "net.plan"),
    ):
        with pytest.raises(AlexcError) as caught:
            call()
        assert codes(caught.value) == ["engine/parse"]
        assert words in str(caught.value)
        assert "_src" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("rtx")
def test_models_and_weights_that_are_not_there_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        tensorrt.parse(tmp_path / "none.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(AlexcError) as caught:
        tensorrt.parse(tmp_path / "empty.onnx")
    assert codes(caught.value) == ["engine/model"]
    (tmp_path / "model.onnx").write_bytes(model.read_bytes())
    with pytest.raises(AlexcError, match=r"Failed to import initializer: conv1\.\w+") as caught:
        tensorrt.parse(tmp_path / "model.onnx")
    assert codes(caught.value) == ["engine/parse"]
    assert "Failed to open file" in str(caught.value)


@pytest.mark.usefixtures("rtx")
def test_progress_goes_from_nothing_to_all(model: Path, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    tensorrt.build_plan(
        model, tmp_path / "net.plan", progress=lambda done, phase: told.append((done, phase))
    )
    fractions = [done for done, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert len(set(fractions)) > 5
    assert all(phase for _, phase in told)


@pytest.mark.usefixtures("rtx")
def test_an_interrupt_in_the_middle_stops_the_build_and_leaves_nothing(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(done: float, phase: str) -> None:
        if done > 0.3 and phase:
            raise KeyboardInterrupt

    (tmp_path / "net.plan").write_bytes(b"the plan of before")
    with caplog.at_level(logging.INFO, "alexc.engines.tensorrt"), pytest.raises(KeyboardInterrupt):
        tensorrt.build_plan(model, tmp_path / "net.plan", progress=interrupt)
    assert any("BuildCanceled" in message for message in caplog.messages)
    assert (tmp_path / "net.plan").read_bytes() == b"the plan of before"
    assert [file.name for file in tmp_path.iterdir()] == ["net.plan"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("rtx")
def test_a_plan_that_can_not_be_written_leaves_nothing(model: Path, tmp_path: Path) -> None:
    with largest_file(5_000), pytest.raises(AlexcError) as caught:
        tensorrt.build_plan(model, tmp_path / "net.plan")
    assert codes(caught.value) == ["file/unwritable"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="No such file or directory"):
        tensorrt.build_plan(model, tmp_path / "nowhere" / "net.plan")


def test_a_library_that_is_not_installed_is_said_in_the_record(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, flavour in tensorrt.FLAVOURS.items():
        monkeypatch.setitem(sys.modules, name, None)
        reason = f"the package {flavour.package} is not installed"
        assert tensorrt.flavours()[name].obstacle == reason
        assert tensorrt.flavours()[name].version is None
        plan = tensorrt.build_plan(model, tmp_path / "net.plan", flavour=name)
        assert plan.record == EngineRecord(name, "fp32", f"not built: {reason}", None)
        with pytest.raises(UsageError, match="is not installed"):
            tensorrt.parse(model, name)


def test_the_same_code_serves_tensorrt(
    rtx: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setattr(driver, "gpu_count", lambda: 0)
    plan = tensorrt.build_plan(model, tmp_path / "net.plan", flavour="tensorrt")
    assert plan.record.status == (
        "not built: no GPU, and this library builds by timing kernels on one"
    )
    assert plan.record.path is None
    with_gpu(monkeypatch)
    plan = tensorrt.build_plan(model, tmp_path / "net.plan", flavour="tensorrt")
    assert (plan.record.status, plan.record.path) == (BUILT, str(tmp_path / "net.plan"))


def test_a_library_of_less_ability_builds_a_plan_too(
    rtx: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without progress, writing piece by piece and targets, as in releases of before."""

    def builder(log: Any) -> Proxy:
        return Proxy(rtx.Builder(log), build_serialized_network_to_stream=None)

    less = Proxy(
        rtx, Builder=builder, IProgressMonitor=None, IStreamWriter=None, ComputeCapability=None
    )
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", less)
    told: list[float] = []
    plan = tensorrt.build_plan(
        model, tmp_path / "a.plan", progress=lambda done, _: told.append(done)
    )
    assert plan.record.path == str(tmp_path / "a.plan")
    assert (tmp_path / "a.plan").stat().st_size > 1000
    assert told == [1.0]
    with largest_file(5_000), pytest.raises(AlexcError) as caught:
        tensorrt.build_plan(model, tmp_path / "b.plan")
    assert codes(caught.value) == ["file/unwritable"]
    with pytest.raises(UsageError, match="builds for the GPU of this machine alone"):
        tensorrt.build_plan(model, tmp_path / "c.plan", options=PlanOptions(targets=("8.9",)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.plan"]


def test_a_builder_that_does_not_start_is_no_crash(
    rtx: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def builder(log: Any) -> None:
        log.log(rtx.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("factory function returned nullptr")

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Proxy(rtx, Builder=builder))
    with pytest.raises(AlexcError, match="CUDA initialization failure") as caught:
        tensorrt.build_plan(model, tmp_path / "net.plan")
    assert codes(caught.value) == ["engine/build"]


def test_the_log_goes_to_python_and_warnings_are_kept(
    rtx: ModuleType, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = callbacks.logger(rtx)
    severity = rtx.ILogger.Severity
    with caplog.at_level(logging.INFO, "alexc.engines.tensorrt"):
        logger.log(severity.WARNING, "careful")
        logger.log(severity.ERROR, "wrong")
        logger.log(severity.INFO, "by the way")
        logger.log(severity.VERBOSE, "at length")
    assert logger.warnings == ["careful"]
    assert logger.errors == ["wrong"]
    assert caplog.messages == ["careful", "wrong", "by the way"]
    assert capfd.readouterr() == ("", "")


class Driver:
    """Stands for the driver's library, with a status for each call and a count of GPUs."""

    def __init__(self, start: int, asked: int, count: int) -> None:
        self.start, self.asked, self.count = start, asked, count

    def cuInit(self, flags: int) -> int:  # noqa: N802  (the driver's own name)
        assert flags == 0
        return self.start

    def cuDeviceGetCount(self, pointer: Any) -> int:  # noqa: N802
        pointer._obj.value = self.count
        return self.asked


@pytest.mark.parametrize(
    ("library", "count"),
    [(Driver(0, 0, 2), 2), (Driver(100, 0, 2), 0), (Driver(0, 3, 2), 0), (None, 0)],
)
def test_gpus_are_counted_by_the_driver(
    library: Driver | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Driver:
        if library is None:
            raise OSError(f"{name}: cannot open shared object file")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert driver.gpu_count() == count


def test_a_precision_that_is_none_is_a_mistake_of_the_caller(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fp7 is none of fp32, tf32"):
        tensorrt.build_plan(model, tmp_path / "net.plan", precision="fp7")


def test_ctrl_c_in_the_middle_of_a_build_is_raised_after_it(
    rtx: ModuleType,  # noqa: ARG001  (it skips where there is none)
    model: Path,
    tmp_path: Path,
) -> None:
    """TensorRT swallows what its callbacks raise, and Ctrl-C comes in whichever runs."""

    def interrupt(_done: float, _phase: str) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tensorrt.build_plan(model, tmp_path / "p.plan", progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
