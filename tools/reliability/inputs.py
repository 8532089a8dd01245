"""Mutated inputs besides engines, models and networks: archives, tables, lists, rates, signatures, and what is kept."""

import contextlib
import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from .changes import NUMBERS, changed_bytes, changed_json, odd_text
from .material import Material

Mutate = Callable[[Random], Any]
Read = Callable[[Any, Path], None]
Readers = dict[str, tuple[float, Mutate, Read]]

_OPENED: dict[Path, Any] = {}
"""Classifiers and engines that a worker has opened."""


def readers(m: Material) -> Readers:
    """Return the readers by name: weight, what mutates, what reads."""
    rates, listed, predicted = _rates(), _listed(m), _predicted(m)
    found: Readers = {
        "files of rates": (3, lambda r: changed_json(r, rates), _read_rates),
        "tar archives": (6, _tar_of(m), _read_tar),
        "metadata of folders": (3, _metadata, _read_metadata),
        "lists of paths": (1, lambda r: _encoded(r, listed), _read_paths),
        "lists of training images": (3, lambda r: _encoded(r, listed), lambda data, at: _read_listed(data, at, m)),
        "resumed predictions": (3, lambda r: changed_bytes(r, predicted), lambda data, at: _resume(data, at, m)),
        "bits in work folders": (3, _kept_bits(m), lambda data, at: _take_over(data, at, m)),
        "markers of work folders": (1, lambda r: changed_json(r, b'{"schema": "aurevoir-work/1"}'), _read_work),
        "tiles in the cache": (1, _tiles(), _read_tiles),
    }
    with contextlib.suppress(ImportError):
        signature, key = _signature(m)
        found["signatures"] = (2, lambda r: changed_json(r, signature), lambda data, at: _verify(data, at, m, key))
    return found


# Files of rates.


def _rates() -> bytes:
    from aurevoir.transfer.rates import OF_PROJECTIONS, RATES, Rates

    texts = dict.fromkeys(("machine", "measured", "backbone", "cut", "precision", "runtime", "device", "images"), "x")
    sizes = {"input_shape": (224, 224, 3), "features": 10_000, "channels": 100, "engine_bytes": 10**7}
    rates = dict.fromkeys([*RATES, *OF_PROJECTIONS], 1e9)
    return Rates(**texts, **sizes, image_bytes=1e5, per_second=rates).to_json().encode()  # type: ignore[arg-type]


def _read_rates(data: bytes, folder: Path) -> None:
    from aurevoir.transfer.fit_plan import Job, plan_fit
    from aurevoir.transfer.rates import read_rates

    (folder / "r.json").write_bytes(data)
    rates = read_rates(folder / "r.json")
    for projection in ("auto", "none", "hadamard"):
        json.dumps(plan_fit(Job(images=100_000, projection=projection, workers=3), rates).to_json())


# Archives, tables and lists.

_SIZE, _KIND, _SUM = slice(124, 136), slice(156, 157), slice(148, 156)
_FIELDS = (slice(0, 100), slice(100, 108), _SIZE, slice(136, 148), _KIND, slice(157, 257), slice(257, 265))


def _tar_of(m: Material) -> Mutate:
    """Return what mutates archives: fields of headers, whose sums are repaired, records, bytes."""
    photo = m.photo.read_bytes()
    files = {f"{n}.{end}": data for n in range(4) for end, data in _sample(n, photo).items()}
    archives = [_tar(files, kind) for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]

    def mutate(random: Random) -> bytes:
        if random.random() < 0.1:
            return _announced(random) + random.choice(archives)
        data = bytearray(random.choice(archives))
        if random.random() < 0.4:
            return changed_bytes(random, bytes(data))
        heads = [at for at in range(0, len(data), tarfile.BLOCKSIZE) if data[at + 257 : at + 262] == b"ustar"]
        for at in random.sample(heads, random.choice((1, 1, 2))):
            _change_header(random, data, at)
        return bytes(data)

    return mutate


def _announced(random: Random) -> bytes:
    """Return headers that say something of the file behind them, or of all: chains of them, and long runs."""
    info = tarfile.TarInfo("header")
    size = random.choice((0, 6, 300, 4000, 1_000_000))
    piece = random.choice((b"9", b"n", b"6 a=b\n", b"17 path=../../x\n", b"13 size=-512\n", b"0 a=b\n", b"\0"))
    info.size, info.type = size, random.choice((b"L", b"K", b"x", b"X", b"g", b"S"))
    block = info.tobuf(tarfile.GNU_FORMAT) + (piece * size)[:size].ljust(-(-size // 512) * 512, b"\0")
    return block * (random.choice((1, 2, 30, 3000)) if size < 10_000 else 1)


def _sample(number: int, photo: bytes) -> dict[str, bytes]:
    label = b"ab"[number % 2 : number % 2 + 1]
    return {"png": photo} | ({"json": b'{"label": "%s"}' % label} if number < 2 else {"cls": label})


def _tar(files: dict[str, bytes], kind: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name if kind == tarfile.USTAR_FORMAT else f"{'long' * 30}/{name}")
            info.size, info.pax_headers = len(data), {"comment": "x"} if kind == tarfile.PAX_FORMAT else {}
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _change_header(random: Random, data: bytearray, at: int) -> None:
    field = random.choice(_FIELDS)
    width = field.stop - field.start
    number = random.choice(NUMBERS) % 2**63
    base256 = b"\x80" + number.to_bytes(16, "big")[-max(1, width - 1) :]
    odd = [random.randbytes(width), f"{number:o}".encode(), base256]
    odd += [odd_text(random).encode(errors="surrogatepass"), b"\xff" * width]
    if field == _KIND:
        odd = [random.choice([b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"L", b"K", b"x", b"g", b"X", b"\0"])]
    head = data[at : at + tarfile.BLOCKSIZE]
    head[field] = random.choice(odd)[:width].ljust(width, b"\0")
    head[_SUM] = b" " * 8
    head[_SUM] = f"{sum(head):06o}\0 ".encode()
    data[at : at + tarfile.BLOCKSIZE] = head


def _read_tar(data: bytes, folder: Path) -> None:
    from aurevoir.images.decode import decode
    from aurevoir.images.labelled import labelled_images

    (folder / "s.tar").write_bytes(data)
    for path in labelled_images(folder / "s.tar").paths:
        decode(path, (28, 28))


def _metadata(random: Random) -> tuple[str, bytes]:
    rows = [{"file_name": f"{n}.png", "label": "ab"[n % 2], "split": "train", "weight": 1} for n in range(6)]
    if random.random() < 0.5:
        lines = [json.dumps(row).encode() for row in rows]
        at = random.randrange(6)
        lines[at] = changed_json(random, lines[at])
        return "metadata.jsonl", b"\n".join(lines)
    text = "\n".join(",".join(map(str, row)) for row in [rows[0], *(row.values() for row in rows)])
    return "metadata.csv", _encoded(random, text.encode())


def _read_metadata(table: tuple[str, bytes], folder: Path) -> None:
    from aurevoir.images.labelled import labelled_images

    (folder / table[0]).write_bytes(table[1])
    for number in range(6):
        (folder / f"{number}.png").touch()
    labelled_images(folder)


def _encoded(random: Random, data: bytes) -> bytes:
    """Change a text, in one of the encodings that programs write."""
    names = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")
    return changed_bytes(random, data.decode("utf-8", "replace").encode(random.choice(names), "replace"))


def _listed(m: Material) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows([("path", "label", "suggested"), *((path, "red", "blue") for path in _photos(m))])
    return text.getvalue().encode()


def _photos(m: Material) -> list[Path]:
    return sorted((m.photos / "red").iterdir())


def _read_paths(data: bytes, folder: Path) -> None:
    from aurevoir.images.decode import decode
    from aurevoir.images.listing import image_paths, open_list

    (folder / "list").write_bytes(data)
    with open_list(folder / "list") as file:
        for path in image_paths([], file):
            decode(path, (28, 28))


def _classifier(m: Material) -> Any:
    from aurevoir.transfer.classifier import load

    folder = m.model("exact")
    if folder not in _OPENED:
        _OPENED[folder] = load(folder)
    return _OPENED[folder]


def _read_listed(data: bytes, folder: Path, m: Material) -> None:
    from aurevoir.cli.refit import _listed, _relabelled

    (folder / "list").write_bytes(data)
    for read in (lambda absent: _listed(_classifier(m), str(folder / "list"), "--remove", absent),
                 lambda absent: _relabelled(_classifier(m), str(folder / "list"), absent)):  # fmt: skip
        read([])


# Predictions that are continued.


def _predicted(m: Material) -> bytes:
    """Return a CSV file of predictions as it is written; what predicts runs in a child."""
    from .common import forked

    out = m.folder / "predicted.csv"

    def predict() -> int:
        from aurevoir.cli.main import main

        return main(["predict", str(m.model("exact")), *map(str, _photos(m)), "--no-familiarity", "--out", str(out)])

    if not out.exists() and (done := forked(predict, 300)).code:
        raise RuntimeError(f"predictions could not be made: {done.err}")
    return out.read_bytes()


def _resume(data: bytes, folder: Path, m: Material) -> None:
    from aurevoir.transfer.model import model_digest
    from aurevoir.transfer.prediction_file import PredictionFile

    (folder / "p.csv").write_bytes(data)
    with PredictionFile(folder / "p.csv", _classifier(m), model_digest(m.model("exact")), resume=True) as file:
        for _ in file.write(_photos(m)):
            pass
    if (folder / "p.csv").read_bytes().count(b"\n") <= len(_photos(m)):
        raise ValueError("rows are missing")


# What is kept in work folders and the cache.


def _of_photos(m: Material, work: Any) -> Any:
    from aurevoir.engine.load import read_engine
    from aurevoir.images.batches import ImageFiles
    from aurevoir.transfer.kept_bits import KeptBits

    if m.engine not in _OPENED:
        _OPENED[m.engine] = read_engine(m.engine)
    return KeptBits(work, "train", _OPENED[m.engine], ImageFiles(_photos(m), (28, 28)), ("bits", "pooled"))


def _kept_bits(m: Material) -> Mutate:
    """Return what mutates a block: its archive, its arrays, and what describes them; its digest is right."""
    import hashlib

    import numpy as np

    n, random_bits = len(_photos(m)), np.random.default_rng(0)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in _photos(m)]
    described = json.dumps({"start": 0, "stop": n, "digests": digests, "skipped": []}).encode()
    arrays: dict[str, Any] = {
        "indices": np.arange(n),
        "bits": random_bits.integers(0, 255, (n, 25), dtype="uint8"),
        "pooled": np.ones((n, 4), "float32"),
    }

    def mutate(random: Random) -> bytes:
        head, own = described, dict(arrays)
        kind = random.randrange(4)
        if kind == 1:
            head = changed_json(random, head)
        elif kind == 2:
            name = random.choice(list(own))
            own[name] = random.choice(
                (
                    own[name][:-1], own[name][::-1], own[name].T, own[name].astype("float64"),
                    own[name].astype("int64") - 2**40,
                    np.full(n, "x"), np.zeros((n, 1 << 16)), np.array(3), np.zeros(n, "M8[s]"), own[name] * 1j,
                )
            )  # fmt: skip
        elif kind == 3:
            own.pop(random.choice(list(own)))
        buffer = io.BytesIO()
        save = np.savez_compressed if random.random() < 0.2 else np.savez
        save(buffer, described=np.frombuffer(head, "uint8"), **own)
        return changed_bytes(random, buffer.getvalue()) if kind == 0 else buffer.getvalue()

    return mutate


def _take_over(data: bytes, folder: Path, m: Material) -> None:
    from aurevoir.work import Work

    with Work(folder / "work") as work:
        kept = _of_photos(m, work)
        work.put("train", kept._key, data, 0)
        n = len(_photos(m))
        for indices, values in kept.taken_over():
            shapes = {name: (each.shape, str(each.dtype)) for name, each in values.items()}
            wanted = {"bits": ((len(indices), 25), "uint8"), "pooled": ((len(indices), 4), "float32")}
            if shapes != wanted or sorted({*range(n), *indices.tolist()}) != list(range(n)):
                raise ValueError(f"{shapes} are taken over")
        kept.rest()


def _read_work(data: bytes, folder: Path) -> None:
    from aurevoir.work import Work

    (folder / "work.json").write_bytes(data)
    with Work(folder):
        pass


class _Kept:
    """A store of one entry."""

    def __init__(self, entry: bytes) -> None:
        self.entry = entry

    def get(self, kind: str, key: str) -> bytes | None:
        return self.entry

    def put(self, kind: str, key: str, content: bytes) -> None:
        pass

    def say(self, what: str) -> None:
        pass


def _work() -> Any:
    from aurevoir.engine.runtimes.fused.tiles import Work

    return Work(100_000, 128, 64, 9, True, False, False, "fp16", "fp16")


def _tiles() -> Mutate:
    from aurevoir.engine.runtimes.fused.tiles import tiles_on_a_gpu

    entry = json.dumps([[work, tiles_on_a_gpu(work)[0]] for work in (_work(), _work()._replace(places=50))]).encode()
    return lambda random: changed_json(random, entry)


def _read_tiles(data: bytes, folder: Path) -> None:
    from aurevoir.engine.runtimes.fused.tiles import Tuner, take_tiles, tiles_on_a_gpu

    tuner = Tuner(lambda launch: 0.0)
    take_tiles(tuner.chosen, lambda: None, [], _Kept(data))
    if any(tile not in tiles_on_a_gpu(work) for work, tile in tuner.chosen.items()):
        raise ValueError("a tile is taken that none would be tried")
    tuner.nearest(_work())


# Signatures.


def _signature(m: Material) -> tuple[bytes, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from aurevoir.signing import sign

    private, public = m.folder / "private", m.folder / "public"
    engine = m.folder / "signed.engine"
    if not engine.exists():
        key = Ed25519PrivateKey.generate()
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        engine.write_bytes(m.engine.read_bytes())
        sign(engine, private)
    return Path(f"{engine}.sig").read_bytes(), public


def _verify(data: bytes, folder: Path, m: Material, key: Path) -> None:
    from aurevoir.signing import verify

    (folder / "e.engine").write_bytes(m.engine.read_bytes())
    (folder / "e.engine.sig").write_bytes(data)
    verify(folder / "e.engine", key)
