"""Mutated files over every reader: each is refused or loaded; digests are repaired, so that the parsers are reached.

The inputs go through forked workers, each of which reads thousands: a worker says which input is next, and whoever
watches it starts another behind an input that killed it or took too long. Input i of a reader follows from the seed and
i alone. What the package reads in a child process first is read in one that is forked; see `nursery`.
"""

import contextlib
import faulthandler
import hashlib
import io
import json
import os
import resource
import select
import signal
import struct
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from . import inputs
from .changes import NUMBERS, changed_bytes, changed_json
from .common import Plan, Tally, timed
from .material import Material, preload
from .nursery import Nursery

FULL = 100_000
LIMIT, FIRST_LOAD = 60.0, 20
"""Seconds that one input may take, and what the package runs in a child process first, instead of 300."""
ADDRESSES = 24 << 30
"""Addresses that a worker may use: a bound for this machine's sake. The memory that an input took is in the table."""
LARGEST = 2000
"""Megabytes above what the worker had, from which the memory that an input takes is a fault."""

Mutate = Callable[[Random], Any]
Read = Callable[[Any, Path], None]


def run(material: Material, plan: Plan) -> list[Tally]:
    """Mutate every format and read it."""
    preload()
    for name in ("compare", "report"):
        import_module(f"aurevoir.benchmarks.reporting.{name}")
    readers = _readers(material)
    weights = {name: weight for name, (weight, _, _) in readers.items()}
    total = sum(weights.values())
    tallies = []
    for index, (name, (weight, mutate, read)) in enumerate(readers.items()):
        if plan.only and plan.only not in f"mutated {name}":
            continue
        tally = Tally(f"mutated {name}")
        count = plan.count(round(FULL * weight / total), least=3)
        ends = time.monotonic() + max(0.0, plan.ends - time.monotonic()) * weight / sum(list(weights.values())[index:])
        _many(tally, plan, name, mutate, read, count, ends)
        tallies.append(tally)
    return timed(tallies)


def _many(
    tally: Tally, plan: Plan, name: str, mutate: Mutate, read: Read, count: int, ends: float, least: int = 3
) -> None:
    """Send inputs through workers until all are through or the time is over."""
    index = 0
    while index < count and (index < least or time.monotonic() < ends):
        index = _worker(tally, plan, name, mutate, read, range(index, count), max(ends, time.monotonic() + 0.2))


def _worker(tally: Tally, plan: Plan, name: str, mutate: Mutate, read: Read, which: range, ends: float) -> int:
    """Let one worker read inputs; return the index of the next one."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _work(writer, plan, name, mutate, read, which, ends)
        finally:
            os._exit(1)
    os.close(writer)
    buffer, current, since, hung = b"", which.start, time.monotonic(), False
    while True:
        ready, _, _ = select.select([reader], [], [], 0.5)
        if ready:
            data = os.read(reader, 1 << 16)
            if not data:
                break
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                current, since = _note(tally, name, json.loads(line)), time.monotonic()
        elif time.monotonic() - since > LIMIT:
            hung = True
            os.killpg(pid, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        tally.tried += 1
        died = signal.Signals(os.WTERMSIG(status)).name
        tally.add("hangs" if hung else "crashes", f"{name} {current}" + ("" if hung else f": {died}"))
        return current + 1
    if status:
        raise RuntimeError(f"{name} {current} could not be made")
    return current


def _note(tally: Tally, name: str, line: dict[str, Any]) -> int:
    """Count what a worker says of one input; return the index of the next."""
    index: int = line["index"]
    tally.tried += 1
    tally.megabytes = max(tally.megabytes, line["megabytes"])
    if line["kind"] == "refused":
        tally.refused += 1
    elif line["kind"] == "foreign":
        tally.add("foreign", f"{name} {index}: {line['what']}")
    if line["grown"] > LARGEST:
        tally.add("lost", f"{name} {index} took {line['grown']:.0f} MB")
    return index + 1


def _work(writer: int, plan: Plan, name: str, mutate: Mutate, read: Read, which: range, ends: float) -> None:
    faulthandler.disable()
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    # Before this process uses a runtime.
    nursery = Nursery(writer)
    limited = import_module("aurevoir.engine.limited")
    limited.__dict__.update(run_child=nursery.run_child, TIMEOUT=FIRST_LOAD)
    before = _peak()
    for index in which:
        if time.monotonic() > ends and index > which.start:
            break
        line = {"index": index, **_read(read, mutate(Random(f"{plan.seed} {name} {index}")), plan.folder)}
        after = _peak()
        line |= {"megabytes": max(after, nursery.megabytes), "grown": after - before}
        before = after
        os.write(writer, json.dumps(line).encode() + b"\n")
    os._exit(0)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _read(read: Read, mutated: Any, folder: Path) -> dict[str, str]:
    """Read one input, and say whether it was loaded, refused, or ended in another exception."""
    from aurevoir.errors import AurevoirError

    try:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            read(mutated, Path(own))
    except AurevoirError as error:
        said = str(error)
        if "\n" in said.strip() or "\x1b" in said:
            return {"kind": "foreign", "what": f"a message of several lines or with controls: {said[:200]!r}"}
        return {"kind": "refused"}
    except BaseException as error:
        return {"kind": "foreign", "what": f"{type(error).__name__}: {error}"[:300] + _where(error)}
    return {"kind": "loaded"}


def _where(error: BaseException) -> str:
    """Return the last place in the package that an exception came through."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "aurevoir" in file and "reliability" not in file:
            found = f" ({Path(file).parent.name}/{Path(file).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _readers(m: Material) -> dict[str, tuple[float, Mutate, Read]]:
    """Return the readers by name: weight, what mutates, what reads."""
    from aurevoir.archive import unpack_bytes

    engines = [unpack_bytes(path.read_bytes(), path) for path in (m.engine, m.int8)]
    models = [_files(m.model(kind)) for kind in ("none", "exact", "hadamard", "dense")]
    m.table  # noqa: B018
    table, cache, network = m.table.read_bytes(), m.cache.read_bytes(), m.network.read_bytes()
    result, page = _result(), _result()
    graph, kept = _kept(m)
    found: dict[str, tuple[float, Mutate, Read]] = {
        "engine archives": (10, lambda r: _archive(r, r.choice(engines)), _read_engine),
        "engine graphs": (6, lambda r: _part(r, r.choice(engines), "model.onnx", _onnx), _read_engine),
        "manifests": (10, lambda r: _part(r, r.choice(engines), "manifest.json", changed_json), _read_engine),
        "tables in engines": (5, lambda r: _part(r, engines[1], "calibration.json", changed_json), _read_engine),
        "model.json": (10, lambda r: _model_json(r, r.choice(models)), _read_model),
        "readout.safetensors": (10, lambda r: _arrays(r, r.choice(models), "readout.safetensors"), _read_model),
        "training.safetensors": (8, lambda r: _arrays(r, r.choice(models), "training.safetensors"), _read_training),
        "large training.safetensors": (4, lambda r: _arrays(r, r.choice(models), "training.safetensors"), _read_mapped),
        "training images": (3, lambda r: _training(r, r.choice(models)), _refit(m.photo)),
        "graphs in the cache": (3, _cached(graph), _read_graph),
        "engines in the cache": (3, _cached(kept), _read_kept),
        "calibration tables": (10, lambda r: changed_json(r, table), _read_table),
        "TensorRT caches": (10, lambda r: changed_bytes(r, cache), _read_cache),
        "compared results": (8, lambda r: (changed_json(r, result), result), _compare),
        "reports": (2, lambda r: changed_json(r, page), _report),
        "ONNX networks": (8, lambda r: _onnx(r, network), _read_onnx),
        "images": (10, _mutated_image(), _read_image),
        "label tables": (6, _label_table, _read_labels),
    }
    found |= inputs.readers(m)
    with contextlib.suppress(ImportError):
        weights = _weights()
        found["weights"] = (5, lambda r: _weights_file(r, weights), _read_weights)
    return found


# What reads.

_RUN: set[tuple[str, tuple[int, int, int], int]] = set()
"""What a worker ran already: an engine's digest, and the shapes that its manifest gives its arrays."""


def _read_engine(data: bytes, folder: Path) -> None:
    import numpy as np

    from aurevoir.engine.load import load_engine

    (folder / "e.engine").write_bytes(data)
    engine = load_engine(folder / "e.engine")
    height, width, channels = engine.input_shape
    # Most archives and manifests that are loaded hold the graph that they held before.
    known = engine.digest(), engine.input_shape, engine.features
    if height * width * channels <= 1 << 20 and known not in _RUN:
        engine.bits(np.zeros((1, height, width, channels), "uint8"))
        _RUN.add(known)


def _read_model(files: dict[str, bytes], folder: Path) -> None:
    import numpy as np

    from aurevoir.transfer.classifier import load

    for name, data in files.items():
        (folder / name).write_bytes(data)
    classifier = load(folder)
    if classifier.n_bits_ <= 1 << 20:
        classifier.labels(classifier.readout_.scores(np.zeros((2, -(-classifier.n_bits_ // 8)), "uint8")))


def _read_training(files: dict[str, bytes], folder: Path) -> None:
    from aurevoir.transfer.classifier import load

    _read_model(files, folder)
    load(folder).training_  # noqa: B018


def _read_mapped(files: dict[str, bytes], folder: Path) -> None:
    """Read a file as one that takes more than its share of the memory budget."""
    import_module("aurevoir.transfer.model").__dict__["SHARE"] = 1 << 60
    _read_training(files, folder)


def _refit(photo: Path) -> Read:
    """Return what uses the training images of a model: for familiarity and sets, and to fit it again without one."""

    def read(files: dict[str, bytes], folder: Path) -> None:
        from aurevoir.transfer.classifier import load

        for name, data in files.items():
            (folder / name).write_bytes(data)
        classifier = load(folder)
        classifier.familiarity([photo])
        classifier.prediction_sets([photo])
        classifier.refit(remove=[0])
        classifier.save(folder)

    return read


def _read_graph(entry: bytes, folder: Path) -> None:
    from aurevoir.engine.assemble import assemble
    from aurevoir.engine.load import open_engine
    from aurevoir.engine.reuse import check_unpacked, unpack_graph

    made = unpack_graph(entry)
    check_unpacked(made)
    open_engine(assemble(made, "fp32", "openvino").to_bytes(), "engine")


def _read_kept(entry: bytes, folder: Path) -> None:
    from aurevoir.engine.reuse import unpack_engine

    unpack_engine(entry, None)


def _read_table(data: bytes, folder: Path) -> None:
    from aurevoir.calibration.table import CalibrationTable

    CalibrationTable.from_json(data).to_json()


def _read_cache(data: bytes, folder: Path) -> None:
    from aurevoir.calibration.trt_cache import read_cache, write_cache

    write_cache(read_cache(data).thresholds)


def _compare(both: tuple[bytes, bytes], folder: Path) -> None:
    from aurevoir.benchmarks.reporting.compare import compare, describe
    from aurevoir.benchmarks.reporting.tables import read_result

    for name, data in zip(("a.json", "b.json"), both, strict=True):
        (folder / name).write_bytes(data)
    a, b = (read_result(folder / name) for name in ("a.json", "b.json"))
    for before, after in ((a, b), (b, a)):
        describe({"files": ["a", "b"], **compare(before, after)})


def _report(data: bytes, folder: Path) -> None:
    import argparse

    from aurevoir.benchmarks.reporting import report

    (folder / "a.json").write_bytes(data)
    report.run(argparse.Namespace(results=[str(folder / "a.json")], out=str(folder / "r.html"), figures=None))


def _read_onnx(data: bytes, folder: Path) -> None:
    from aurevoir.engine.backbone import open_backbone
    from aurevoir.engine.float_graph import export_backbone

    (folder / "n.onnx").write_bytes(data)
    network = open_backbone(folder / "n.onnx")
    network.cuts()
    export_backbone(network)


def _read_image(data: bytes, folder: Path) -> None:
    from aurevoir.images.decode import decode

    (folder / "image").write_bytes(data)
    decode(folder / "image", (28, 28))


def _read_labels(table: tuple[str, bytes], folder: Path) -> None:
    from aurevoir.images.labelled import labelled_images

    (folder / table[0]).write_bytes(table[1])
    for number in range(6):
        (folder / f"{number}.png").touch()
    labelled_images(folder / table[0])


def _read_weights(file: tuple[str, bytes], folder: Path) -> None:
    from aurevoir.engine.backbones.checkpoint import read_checkpoint

    (folder / file[0]).write_bytes(file[1])
    read_checkpoint(folder / file[0], "resnet18")


# What mutates.


def _pack(parts: dict[str, bytes]) -> bytes:
    from aurevoir.archive import pack

    return pack(parts)


def _part(random: Random, parts: dict[str, bytes], name: str, mutate: Callable[[Random, bytes], bytes]) -> bytes:
    """Mutate one part of an engine file; the digests in its manifest and its comment are right."""
    changed = parts | {name: mutate(random, parts[name])}
    if name != "manifest.json":
        manifest = json.loads(parts["manifest.json"])
        manifest["parts"][name] = hashlib.sha256(changed[name]).hexdigest()
        changed["manifest.json"] = json.dumps(manifest, indent=1).encode()
    return _pack(changed)


def _archive(random: Random, parts: dict[str, bytes]) -> bytes:
    """Mutate an archive: its bytes, its members' names, how they are stored; the digest of the whole is right."""
    kind = random.randrange(4)
    if kind == 0:
        names = [*parts, "extra", "../out", "/out", "manifest.json", "model.onnx", "a" * 70_000]
        changed = dict(parts)
        name = random.choice(list(changed))
        data = changed.pop(name)
        if random.random() < 0.7:
            changed[random.choice(names)] = data
        return _pack({each: part for each, part in changed.items() if len(each) < 65_536})
    if kind == 1:
        return _stored(random, parts)
    body = _pack(parts)[:-64]
    # The directory, at the end, says where all is.
    at = len(body) - random.choice((200, 400, len(body)))
    body = body[:at] + changed_bytes(random, body[at:])
    return body + hashlib.sha256(body).hexdigest().encode()


def _stored(random: Random, parts: dict[str, bytes]) -> bytes:
    """Write an archive as others may: compressed, with members twice, encrypted flags, comments."""
    buffer = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in parts.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = random.choice((0, 0o120777 << 16, 0o40755 << 16))
            info.extra = random.choice((b"", b"\x01\x00\x08\x00" + b"\xff" * 8))
            bomb = random.random() < 0.005
            for _ in range(random.choice((1, 1, 2))):
                # The other methods take seconds for it.
                method = random.choice(methods[:2] if bomb else methods)
                archive.writestr(info, data + bytes(64 << 20) if bomb else data, method)
        archive.comment = b"0" * 64
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def _kept(m: Material) -> tuple[bytes, bytes]:
    """Return entries of the cache: a graph, and an engine."""
    from aurevoir.engine.backbone import open_backbone
    from aurevoir.engine.float_graph import export_backbone
    from aurevoir.engine.load import read_engine
    from aurevoir.engine.reuse import pack_engine, pack_graph

    return pack_graph(export_backbone(open_backbone(m.network))), pack_engine(read_engine(m.int8))


def _cached(entry: bytes) -> Mutate:
    """Return what mutates an entry: the line of JSON before its content, or that."""
    head, _, content = entry.partition(b"\n")
    of_graph = not content.startswith(b"PK")

    def mutate(random: Random) -> bytes:
        if random.random() < 0.5:
            return changed_json(random, head) + b"\n" + content
        return head + b"\n" + (_onnx(random, content) if of_graph else changed_bytes(random, content))

    return mutate


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _model_json(random: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    return files | {"model.json": changed_json(random, files["model.json"])}


def _arrays(random: Random, files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """Mutate a file of a model's arrays: header or bytes; the digest in model.json is right."""
    data = files[name]
    length = int.from_bytes(data[:8], "little")
    if random.random() < 0.6:
        header = changed_json(random, data[8 : 8 + length])
        declared = len(header) if random.random() < 0.95 else random.choice(NUMBERS) & (2**64 - 1)
        data = declared.to_bytes(8, "little") + header + data[8 + length :]
    elif random.random() < 0.5:
        at = 8 + length
        odd = struct.pack("<d", random.choice((float("nan"), float("inf"), -1.0, 1e308, 0.0)))
        at += 8 * random.randrange(max(1, (len(data) - at) // 8))
        data = data[:at] + odd + data[at + 8 :]
    else:
        data = changed_bytes(random, data)
    model = json.loads(files["model.json"])
    model["files"][name] = hashlib.sha256(data).hexdigest()
    return files | {name: data, "model.json": json.dumps(model).encode()}


def _training(random: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """Change the arrays of the training images; header and digest are right."""
    import numpy as np
    from safetensors.numpy import load

    from aurevoir.transfer.arrays_file import ArraysFile

    arrays = {name: array.copy() for name, array in load(files["training.safetensors"]).items()}
    n = len(arrays["weights"])
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice((*arrays, "pooled"))
        if name == "pooled" or random.random() < 0.2:
            shape = random.choice(((n, 0), (n, 4), (n, 7), (n,), (n, 1, 1), (0, 3)))
            arrays[name] = np.full(shape, random.choice((0.0, 1.0, 3e38, -1e-40)), "float32")
            continue
        if not (array := arrays[name]).size:
            continue
        which = slice(random.randrange(array.size + 1), None) if random.random() < 0.5 else random.randrange(array.size)
        odd = (0, 1, 2, 255) if array.dtype != "float64" else (1e-320, 1e-200, 1e200, 1.7e308, 1.0)
        array.reshape(-1)[which] = random.choice(odd)
    data = b"".join(map(bytes, ArraysFile(arrays)))
    model = json.loads(files["model.json"])
    model["files"]["training.safetensors"] = hashlib.sha256(data).hexdigest()
    return files | {"training.safetensors": data, "model.json": json.dumps(model).encode()}


def _onnx(random: Random, data: bytes) -> bytes:
    """Change a graph: attributes, shapes, types, names, operators; now and then its bytes."""
    if random.random() < 0.4:
        return changed_bytes(random, data)
    import onnx

    model = onnx.load_from_string(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        with contextlib.suppress(ValueError, TypeError, IndexError):
            random.choice((_node, _node, _node, _tensor, _shape, _whole))(random, model)
    changed: bytes = model.SerializeToString()
    return changed


_SHAPING = "Expand Tile ConstantOfShape Range Reshape Pad Resize Gather Slice Concat Split NonZero TopK Cast Identity"
_COMPUTING = "Loop Scan If MaxPool AveragePool GlobalAveragePool LRN Softmax MatMul Gemm Einsum ConvTranspose Nothing"
_OPERATORS = f"{_SHAPING} {_COMPUTING}".split()


def _node(random: Random, model: Any) -> None:
    node = random.choice(model.graph.node)
    kind = random.randrange(8)
    if kind < 4 and node.attribute:
        attribute = random.choice(node.attribute)
        if attribute.ints:
            attribute.ints[random.randrange(len(attribute.ints))] = _int64(random)
        elif random.random() < 0.5:
            attribute.i = _int64(random)
        else:
            attribute.f = random.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
        if random.random() < 0.2:
            attribute.ints.extend([_int64(random)] * random.choice((1, 3)))
    elif kind == 4:
        node.op_type = random.choice(_OPERATORS)
    elif kind == 5 and node.input:
        others = [name for each in model.graph.node for name in (*each.output, *each.input)]
        node.input[random.randrange(len(node.input))] = random.choice([*others, "", "none"])
    elif kind == 6:
        node.output[0] = random.choice([each.output[0] for each in model.graph.node] + ["\x1b[31m\n", ""])
    else:
        model.graph.node.remove(node)


def _tensor(random: Random, model: Any) -> None:
    tensor = random.choice(model.graph.initializer)
    kind = random.randrange(4)
    if kind == 0:
        tensor.dims[random.randrange(len(tensor.dims))] = _int64(random)
    elif kind == 1:
        tensor.data_type = random.choice((*range(24), 99))
    elif kind == 2:
        tensor.raw_data = changed_bytes(random, tensor.raw_data)
    else:
        tensor.data_location = 1
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", random.choice(("/etc/hostname", "../x", "x", "/dev/zero"))


def _shape(random: Random, model: Any) -> None:
    value = random.choice([*model.graph.input, *model.graph.output])
    dim = random.choice(value.type.tensor_type.shape.dim)
    if random.random() < 0.7:
        dim.dim_value = _int64(random)
    else:
        value.type.tensor_type.elem_type = random.choice((*range(24), 99))


def _whole(random: Random, model: Any) -> None:
    kind = random.randrange(5)
    if kind == 0:
        model.opset_import[0].version = _int64(random)
    elif kind == 1:
        model.ir_version = random.choice((0, 1, 3, 7, 9, 99, 2**40))
    elif kind == 2:
        model.graph.output[0].name = random.choice([node.output[0] for node in model.graph.node] + ["none", ""])
    elif kind == 3:
        model.graph.input[0].name = random.choice(("x", "none", "images"))
    else:
        last = model.graph.node[-1]
        for number in range(random.choice((10, 3000))):
            node = model.graph.node.add()
            node.op_type = "Relu"
            node.input.append(last.output[0] if number == 0 else f"chain{number - 1}")
            node.output.append(f"chain{number}")


def _int64(random: Random) -> int:
    return min(2**63 - 1, random.choice((*NUMBERS, 3, 7, 1000, 10**6, -(2**63))))


def _result() -> bytes:
    """Return a result file with what reports draw: numbers, lists, errors, several tables."""
    rows = [
        {
            "method": name,
            "images": 10 * n,
            "seconds": [0.1 * n, 0.2, 0.3],
            "accuracy": 0.9,
            "accuracies": [0.8, 0.9],
            "n": n,
        }
        for n, name in enumerate(("a", "b", "c"), 1)
    ]
    machine = {
        "processor": "P",
        "cores": 2,
        "memory_gib": 8.0,
        "system": "S",
        "python": "3",
        "versions": {"numpy": "2"},
    }
    made = {
        "benchmark": "accuracy", "splits": 2, "rows": [*rows, {"method": "d", "error": "E: x"}], "more": rows,
        "machine": machine | {"date": "2026-01-01", "command": "c"},
    }  # fmt: skip
    return json.dumps(made).encode()


def _mutated_image() -> Mutate:
    import numpy as np
    from PIL import Image

    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype="uint8"))
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000"):
        buffer = io.BytesIO()
        with contextlib.suppress(OSError, KeyError):
            pixels.save(buffer, kind)
            found.append(buffer.getvalue())
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", progressive=True)
    progressive = buffer.getvalue()

    def mutate(random: Random) -> bytes:
        kind = random.random()
        if kind < 0.05:
            return _png_size(random)
        return _scans(random, progressive) if kind < 0.08 else changed_bytes(random, random.choice(found))

    return mutate


def _scans(random: Random, jpeg: bytes) -> bytes:
    """Return a progressive JPEG of any size with more scans, of ten bytes each."""
    at = jpeg.index(b"\xff\xc2") + 5
    size = struct.pack(">HH", *(random.choice((31, 4000, 13_000, 65_535)) for _ in range(2)))
    return jpeg[:at] + size + jpeg[at + 4 : -2] + b"\xff\xda\0\x08\1\1\0\1\x3f\x10" * random.choice((1, 300, 10**6))


def _png_size(random: Random) -> bytes:
    """Return a PNG that declares any size, with right checksums."""
    import zlib

    width, height = random.choice((1, 20_000, 13_000, 2**31 - 1)), random.choice((1, 13_000, 2**31 - 1))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, random.choice((1, 8, 16)), random.choice((0, 2)), 0, 0, 0)
    )
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")


def _label_table(random: Random) -> tuple[str, bytes]:
    comma = random.choice((",", "\t", ";", "|", " "))
    text = f"path{comma}label\n" + "".join(f"{n}.png{comma}{'ab'[n % 2]}\n" for n in range(6))
    lines = "\n".join(json.dumps({"path": f"{n}.png", "label": "ab"[n % 2]}) for n in range(6))
    name = random.choice(("t.csv", "t.tsv", "t.txt", "t.json", "t.jsonl"))
    data = (lines if ".json" in name else text).encode(random.choice(("utf-8", "utf-16", "utf-8-sig")))
    if name == "t.json":
        data = changed_json(random, json.dumps([json.loads(line) for line in lines.split("\n")]).encode())
    return name, data if random.random() < 0.3 and name == "t.json" else changed_bytes(random, data)


def _weights() -> dict[str, bytes]:
    import torch
    from safetensors.torch import save

    tensors = {"conv.weight": torch.ones(4, 3, 3, 3), "bn.running_mean": torch.zeros(4)}
    found = {"w.safetensors": save(tensors)}
    for name, zipped in (("w.pth", True), ("old.pth", False)):
        buffer = io.BytesIO()
        torch.save({"state_dict": tensors, "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
        found[name] = buffer.getvalue()
    found["w.index.json"] = json.dumps({"weight_map": {"conv.weight": "w.safetensors", "b": "../x"}}).encode()
    return found


def _weights_file(random: Random, weights: dict[str, bytes]) -> tuple[str, bytes]:
    name = random.choice(list(weights))
    data = weights[name]
    return name, changed_json(random, data) if name.endswith(".json") else changed_bytes(random, data)
