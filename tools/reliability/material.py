"""What the experiments work on: a small network, its engines, models of every kind, a table, a cache, photographs."""

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

SIZE = 28
KINDS = ("none", "exact", "hadamard", "dense", "dense-signs")


@dataclass
class Material:
    """Files in a folder, each made when it is asked for.

    What makes them runs in forked children, so that the process of the experiments never starts a thread.
    """

    folder: Path

    @cached_property
    def network(self) -> Path:
        """A network of two convolutions with 196 features."""
        path = self.folder / "network.onnx"
        path.write_bytes(network_bytes())
        return path

    @cached_property
    def photos(self) -> Path:
        """Three classes of ten images."""
        import numpy as np
        from PIL import Image

        random = np.random.default_rng(1)
        for index, name in enumerate(("blue", "green", "red")):
            (self.folder / "photos" / name).mkdir(parents=True)
            for number in range(10):
                image = random.integers(0, 120, size=(40, 50, 3), dtype="uint8")
                image[..., 2 - index] += 120
                Image.fromarray(image).save(self.folder / "photos" / name / f"{number}.png")
        return self.folder / "photos"

    @cached_property
    def photo(self) -> Path:
        """One of the images."""
        return self.photos / "red" / "0.png"

    @cached_property
    def engine(self) -> Path:
        """An fp32 engine."""
        return self._engine("fp32")

    @cached_property
    def int8(self) -> Path:
        """An int8 engine, with its table."""
        return self._engine("int8")

    def _engine(self, precision: Literal["fp32", "int8"]) -> Path:
        path = self.folder / f"{precision}.engine"
        images = str(self.photos) if precision == "int8" else None
        network = self.network

        def build() -> None:
            from aurevoir import build_engine

            build_engine(network, precision=precision, runtime="openvino", smoke=False, out=path, calibration=images)

        _made(build)
        return path

    @cached_property
    def table(self) -> Path:
        """A calibration table, with TensorRT's cache beside it."""
        path, arguments = self.folder / "table.json", ["--calibration", str(self.photos), "--cache", str(self.cache)]
        _made(_command("calibrate", str(self.network), "--out", str(path), *arguments))
        return path

    @property
    def cache(self) -> Path:
        """TensorRT's calibration cache, made with the table."""
        return self.folder / "table.cache"

    def model(self, kind: str) -> Path:
        """Return a model folder of one kind of readout."""
        path = self.folder / f"model-{kind}"
        if not path.exists():
            options = ["--components", "64"] if kind not in ("none", "exact") else []
            command = ["--engine", str(self.engine), "--projection", kind, *options, "--out", str(path)]
            _made(_command("fit", str(self.photos), *command))
        return path

    def all(self) -> "Material":
        """Make everything, and return itself; what an experiment makes in its child, the next makes again."""
        for kind in KINDS:
            self.model(kind)
        for name in ("int8", "table"):
            getattr(self, name)
        return self


def preload() -> None:
    """Import what commands import, so that forked children need not; no engine runs here."""
    for name in (
        "cli.main", "cli.fit", "cli.build", "cli.calibrate", "cli.embed", "cli.predict", "cli.evaluate", "cli.inspect_",
        "transfer.classifier", "engine.smoke", "engine.runtimes.on_openvino", "kernels.backends.numba.backend",
    ):  # fmt: skip
        import_module(f"aurevoir.{name}")
    import_module("openvino")


def network_bytes(seed: int = 0) -> bytes:
    """Return the network as ONNX."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((random.normal(size=shape) / 4).astype("float32"), name)

    pads: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], **pads),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], **pads),
        helper.make_node("Relu", ["c2"], ["r2"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("r2", TensorProto.FLOAT, ["batch", 4, 7, 7])],
        [constant("w1", 4, 3, 3, 3), constant("b1", 4), constant("w2", 4, 4, 3, 3), constant("b2", 4)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = made.SerializeToString()
    return data


def _command(*arguments: str) -> Any:
    def run() -> int:
        from aurevoir.cli.main import main

        return main(list(arguments))

    return run


def _made(action: Any) -> None:
    from .common import forked

    done = forked(action, 300)
    if done.code or done.died or done.hung:
        raise RuntimeError(f"the experiments' own material could not be made: {done.err or done.died}")
