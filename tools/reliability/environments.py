"""Commands in hostile environments: every fault of the world outside is one line and an exit code."""

import ctypes
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from .common import NOBODY, Fault, Plan, Tally, forked, spawned, timed
from .kills import _main
from .material import Material, preload

Words = list[str | bytes]
Make = Callable[[Path], Words]
"""Makes the words of a command from the folder that it may write to."""
LIMIT = 180.0
_READ_ALL = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
READER = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *_READ_ALL]
"""A user who may read everything and write nothing; needs root and util-linux."""
_RIGHTS_OVER_FILES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root reads and writes what others may not."""


@dataclass
class World:
    """An environment: variables, limits and what is done to the child before it starts."""

    name: str
    variables: dict[str, str | None] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    wrapper: list[str] = field(default_factory=list)
    fault: Fault | None = None


def run(material: Material, plan: Plan) -> list[Tally]:
    """Try commands in environments, and files of every kind in the place of those that commands expect."""
    preload()
    material.all()
    worlds, files = Tally("commands in hostile environments"), Tally("files and folders of the wrong kind")
    pairs = _pairs(material, plan)
    plan.random.shuffle(pairs)
    tallies = [worlds, files]
    for index in plan.trials(len(pairs), least=2, among=2):
        name, make, world = pairs[index % len(pairs)]
        _try(worlds, name, make(plan.place("out")), world, plan)
    files.began = time.perf_counter()
    hostile = list(_hostile(material, plan))
    plan.random.shuffle(hostile)
    for index in plan.trials(len(hostile), least=2):
        # Of ten commands one is started anew, and nine are forked, which saves the second that importing takes.
        (_try_plain if index % 10 else _try_anew)(files, *hostile[index % len(hostile)], plan)
    return timed(tallies)


def _pairs(material: Material, plan: Plan) -> list[tuple[str, Make, World]]:
    """Return every environment with one command of each kind; those of a kind take turns."""
    # The suite tries what predicts: it does the most in the least time.
    kinds, found = _commands(material), []
    for turn, world in enumerate(_worlds(plan), plan.seed):
        for kind in kinds[2:3] if plan.short else kinds:
            name, make = list(kind.items())[turn % len(kind)]
            found.append((f"{name} | {world.name}", make, world))
    return found


def _try(tally: Tally, name: str, words: Words, world: World, plan: Plan) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "AUREVOIR_TRACEBACK"}
    for key, value in world.variables.items():
        environment.pop(key, None)
        if value is not None:
            environment[key] = value
    command = [*world.wrapper, sys.executable, "-m", "aurevoir", *words]
    place = plan.place("cwd")
    place.chmod(0o755)

    def prepare() -> None:
        os.chdir(place)
        world.prepare()

    tally.saw(spawned(command, environment, LIMIT, world.fault, prepare), name)
    shutil.rmtree(place, ignore_errors=True)


def _try_anew(tally: Tally, name: str, words: Words, plan: Plan) -> None:
    _try(tally, name, words, World("plain", prepare=_without_rights_over_files), plan)


def _try_plain(tally: Tally, name: str, words: Words, plan: Plan) -> None:
    place = plan.place("cwd")

    def action() -> int:
        os.chdir(place)
        _without_rights_over_files()
        os.environ.pop("AUREVOIR_TRACEBACK", None)
        return _main([os.fsdecode(word) for word in words])

    tally.saw(forked(action, LIMIT), name)
    shutil.rmtree(place, ignore_errors=True)


def _without_rights_over_files() -> None:
    """Give up root's rights over files, for this process and for those that it starts."""
    if os.geteuid():
        return
    library, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522)
    # Effective, permitted and inheritable ones of the first 32, then of the others.
    rights = (ctypes.c_uint32 * 6)()
    library.capget(header, rights)
    for right in _RIGHTS_OVER_FILES:
        # PR_CAPBSET_DROP: for what it executes.
        library.prctl(24, right, 0, 0, 0)
        for word in range(3):
            rights[word] &= ~(1 << right)
    if library.capset(header, rights):
        raise OSError(ctypes.get_errno(), "capset")


def _commands(m: Material) -> list[dict[str, Make]]:
    """Return what makes the words of commands, by name; those of one dictionary do the same but for details."""
    photos, images = str(m.photos), ["--calibration", str(m.photos), "--calibration-images", "8"]
    network, engine, int8 = str(m.network), ["--engine", str(m.engine)], ["--precision", "int8"]
    threads = ["bench", "threads", "--backbone", network, "--precision", "fp32", "--calls", "4"]
    return [
        {
            "help": lambda out: ["--help"],
            "version": lambda out: ["--version"],
            "fit help": lambda out: ["fit", "--help"],
            "usage": lambda out: ["fit"],
        },
        {
            "doctor": lambda out: ["doctor"],
            "cuts": lambda out: ["cuts", network],
            "inspect": lambda out: ["inspect", str(m.int8), "--layers"],
        },
        {
            "predict exact": lambda out: ["predict", str(m.model("exact")), str(m.photo)],
            "predict hadamard": lambda out: ["predict", str(m.model("hadamard")), photos],
            "evaluate dense": lambda out: ["evaluate", str(m.model("dense")), photos, "--json"],
        },
        {
            "embed": lambda out: ["embed", str(m.engine), photos, "--out", str(out / "x.npz")],
            "bench threads": lambda out: [*threads, "--out", str(out / "r.json")],
        },
        {
            "fit": lambda out: ["fit", photos, "--backbone", network, "--out", str(out / "model")],
            "fit engine": lambda out: ["fit", photos, *engine, "--out", str(out / "model"), "--json"],
        },
        {
            "build": lambda out: ["build", network, "--out", str(out / "e.engine")],
            "build int8": lambda out: ["build", network, *int8, *images, "--out", str(out / "e")],
            "calibrate": lambda out: ["calibrate", network, *images, "--out", str(out / "t.json")],
        },
    ]


def _worlds(plan: Plan) -> list[World]:
    """Return the environments; those that this machine cannot make are left out."""
    readonly = plan.place("readonly")
    readonly.chmod(0o555)
    junk = plan.place("cache")
    broken = plan.folder / "cache-is-a-file"
    broken.write_text("x")
    locked = {"HOME": str(readonly), "TMPDIR": str(readonly), "XDG_CACHE_HOME": str(readonly)}
    ascii_only: dict[str, str | None] = {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    found = [
        World("nothing special"),
        World("ASCII locale", ascii_only),
        World("stdout closed", prepare=lambda: os.close(1)),
        World("stderr closed", prepare=lambda: os.close(2)),
        World("stdin closed", prepare=lambda: os.close(0)),
        World("all three closed", prepare=lambda: os.closerange(0, 3)),
        World("stdout full", prepare=lambda: _to("/dev/full", 1)),
        World("stderr full", prepare=lambda: _to("/dev/full", 2)),
        World("both full", prepare=lambda: _to("/dev/full", 1, 2)),
        World("stdout without reader", prepare=lambda: _broken_pipe(1)),
        World("stderr without reader", prepare=lambda: _broken_pipe(2)),
        World("both without reader", prepare=lambda: _broken_pipe(1, 2)),
        World("SIGPIPE default", prepare=_default_pipe),
        World("stdout read-only", prepare=lambda: _to("/dev/null", 1, flags=os.O_RDONLY)),
        World("working directory deleted", prepare=_deleted),
        World("no HOME", {"HOME": None, "XDG_CACHE_HOME": None}),
        World("HOME is nowhere", {"HOME": "/nonexistent"}),
        World("HOME is a file", {"HOME": str(broken)}),
        World("no environment but PATH", dict.fromkeys(set(os.environ) - {"PATH", "PYTHONPATH"})),
        World("TMPDIR is nowhere", {"TMPDIR": "/nonexistent"}),
        World("TMPDIR is a file", {"TMPDIR": str(broken)}),
        World("Numba cache is a file", {"NUMBA_CACHE_DIR": str(broken)}),
        World("Numba cache elsewhere", {"NUMBA_CACHE_DIR": str(junk)}),
        World("memory budget nonsense", {"AUREVOIR_MEMORY": "many"}),
        World("memory budget 1 byte", {"AUREVOIR_MEMORY": "1"}),
        World("Numba threads nonsense", {"NUMBA_NUM_THREADS": "many"}),
        World("Numba threads 0", {"NUMBA_NUM_THREADS": "0"}),
        World("Numba threads too many", {"NUMBA_NUM_THREADS": "100000"}),
        World("OpenMP threads nonsense", {"OMP_NUM_THREADS": "many", "OPENBLAS_NUM_THREADS": "-3"}),
        World("time zone nonsense", {"TZ": "No/Such"}),
        World("terminal of width 0", {"COLUMNS": "0", "TERM": "", "LINES": "0"}),
        World("ASCII streams", {"PYTHONIOENCODING": "ascii:strict"}),
        World("files of 0 bytes", prepare=lambda: _limit(resource.RLIMIT_FSIZE, 0)),
        World("files of 8 KiB", prepare=lambda: _limit(resource.RLIMIT_FSIZE, 8192)),
        *(World(f"{n} file descriptors", prepare=_limiting(resource.RLIMIT_NOFILE, n)) for n in (6, 8, 12, 20)),
        *(
            World(f"{n} MiB of addresses", prepare=_limiting(resource.RLIMIT_AS, n << 20))
            for n in (100, 300, 500, 700, 1000, 1300, 1700, 2000, 2500)
        ),
        *(
            World(f"{each.name} after {after} s", fault=Fault(each, after))
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            for after in (0.3, 1.2)
        ),
    ]
    if os.geteuid() == 0 and shutil.which("setpriv"):
        found += [
            World("may write nothing", dict(locked), wrapper=READER),
            World("may write nothing, no HOME", {"HOME": None}, wrapper=READER),
            World("read-only Numba cache", {**locked, "NUMBA_CACHE_DIR": str(readonly)}, wrapper=READER),
            *(
                World(f"{n} processes", prepare=_limiting(resource.RLIMIT_NPROC, n), wrapper=READER)
                for n in (1, 2, 3, 5, 8)
            ),
        ]
    return found


def _to(path: str, *descriptors: int, flags: int = os.O_WRONLY) -> None:
    for descriptor in descriptors:
        os.dup2(os.open(path, flags), descriptor)


def _broken_pipe(*descriptors: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for descriptor in descriptors:
        os.dup2(writer, descriptor)


def _default_pipe() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _deleted() -> None:
    here = Path.cwd() / "gone"
    here.mkdir()
    os.chdir(here)
    here.rmdir()


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _limiting(kind: int, value: int) -> Callable[[], None]:
    return lambda: _limit(kind, value)


def _hostile(m: Material, plan: Plan) -> Iterator[tuple[str, Words]]:
    """Yield commands with something else in the place of each input and each output."""
    place = plan.place("hostile")
    things = _things(place)
    int8 = [str(m.network), "--precision", "int8"]
    inputs: dict[str, Callable[[str | bytes], Words]] = {
        "cuts": lambda x: ["cuts", x],
        "inspect": lambda x: ["inspect", x],
        "embed engine": lambda x: ["embed", x, str(m.photo), "--out", str(place / "o.npz")],
        "embed image": lambda x: ["embed", str(m.engine), x, "--out", str(place / "o.npz")],
        "predict model": lambda x: ["predict", x, str(m.photo)],
        "predict image": lambda x: ["predict", str(m.model("none")), x],
        "evaluate data": lambda x: ["evaluate", str(m.model("none")), x],
        "fit data": lambda x: ["fit", x, "--engine", str(m.engine)],
        "fit test": lambda x: ["fit", str(m.photos), "--engine", str(m.engine), "--test", x],
        "fit engine": lambda x: ["fit", str(m.photos), "--engine", x],
        "fit backbone": lambda x: ["fit", str(m.photos), "--backbone", x],
        "fit weights": lambda x: ["fit", str(m.photos), "--backbone", "resnet18", "--weights", x],
        "build calibration": lambda x: ["build", *int8, "--calibration", x, "--out", str(place / "o.engine")],
        "calibrate images": lambda x: ["calibrate", str(m.network), "--calibration", x, "--out", str(place / "o")],
        "compare": lambda x: ["bench", "compare", x, x],
        "report": lambda x: ["bench", "report", x, "--out", str(place / "o.html")],
    }
    outputs: dict[str, Callable[[str | bytes], Words]] = {
        "build out": lambda x: ["build", str(m.network), "--out", x],
        "calibrate out": lambda x: ["calibrate", str(m.network), "--calibration", str(m.photos), "--out", x],
        "embed out": lambda x: ["embed", str(m.engine), str(m.photo), "--out", _ended(x, ".npz")],
        "fit out": lambda x: ["fit", str(m.photos), "--engine", str(m.engine), "--out", x],
        "bench out": lambda x: ["bench", "startup", "--rounds", "1", "--out", x],
        "report out": lambda x: ["bench", "report", str(place / "nested.json"), "--out", x],
    }
    for (name, make), (thing, path) in product({**inputs, **outputs}.items(), things.items()):
        # Whoever gives the root as a folder of images waits until all is listed.
        if name in outputs or path != "/":
            yield f"{name}: {thing}", make(path)


def _ended(path: str | bytes, ending: str) -> str | bytes:
    return path + ending.encode() if isinstance(path, bytes) else path + ending


def _things(place: Path) -> dict[str, str | bytes]:
    """Make files and folders of many kinds; return their paths by what they are."""
    for name in ("locked", "unlisted", "empty", "deep"):
        (place / name).mkdir()
    for folder in ("strange", "one"):
        for label in (b"caf\xe9", b"a\nb", b"\x1b[31mred", b"ok") if folder == "strange" else (b"only",):
            inner = os.path.join(os.fsencode(place / folder), label)  # noqa: PTH118
            os.makedirs(inner)  # noqa: PTH103
            for number in range(4):
                _image(inner + b"/%d.png" % number, number)
    nested = b"[" * 100_000
    contents = {
        "nothing": b"",
        "noise": bytes(range(256)) * 40,
        "nested.json": nested + b"]" * 100_000,
        "nested.jsonl": b'{"path": ' + nested + b"\n",
        "objects.json": b'{"a":' * 100_000,
        "number.json": b"1" * 1_000_000,
        "nan.json": b'{"schema": NaN, "rows": [{"a": Infinity}]}',
        "surrogates.json": b'{"schema": "\\ud800", "benchmark": "\\udfff", "rows": []}',
        "null.csv": b"path,label\n\0,\0\n",
        "wide.csv": b"path,label\n" + b"x" * 200_000 + b",a\n",
        "latin.csv": b"path,label\ncaf\xe9.png,caf\xe9\n",
        "utf16.csv": "path,label\na.png,b\n".encode("utf-16"),
        "table.onnx": b"\x08\x09" + b"\x3a" * 5000,
        "bomb.zip": b"PK\x05\x06" + b"\0" * 18,
    }
    for name, data in contents.items():
        (place / name).write_bytes(data)
    (place / "nomodel").mkdir()
    (place / "nomodel" / "model.json").write_bytes(contents["nested.json"])
    (place / "nolist").mkdir()
    (place / "nolist" / "model.json").write_bytes(b"[1, 2]")
    (place / "folder-model").mkdir()
    (place / "folder-model" / "model.json").mkdir()
    os.mkfifo(place / "fifo")
    (place / "loop").symlink_to(place / "loop")
    (place / "dangling").symlink_to(place / "none")
    with (place / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (place / "secret").write_bytes(b"x")
    (place / "secret").chmod(0)
    (place / "locked").chmod(0o500)
    (place / "unlisted").chmod(0)
    deep = os.fsencode(place / "deep")
    names: dict[str, str | bytes] = {each: str(place / each) for each in [*contents, "loop", "dangling", "sparse"]}
    names |= {each: str(place / each) for each in ("fifo", "secret", "strange", "one", "empty", "nolist", "nomodel")}
    return names | {
        "a model.json that is a folder": str(place / "folder-model"),
        "missing": str(place / "missing" / "missing"),
        "in a locked folder": str(place / "locked" / "new"),
        "in a folder without search": str(place / "unlisted" / "new"),
        "a folder without search": str(place / "unlisted"),
        "below a file": str(place / "noise" / "x"),
        "a name too long": str(place / ("x" * 300)),
        "a path too long": "/".join([str(place), *["y" * 200] * 30]),
        "not UTF-8": deep + b"/caf\xe9",
        "control characters": str(place / "a\x1b[31m\nb"),
        "a device": "/dev/zero",
        "a full device": b"/dev/full",
        "memory": "/proc/self/mem",
        "the root": "/",
        "here": ".",
        "a dash": "-",
        "a URL": "https://example.invalid/x",
        "dots": "..",
    }


def _image(path: bytes, seed: int) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype="uint8")
    with open(path, "wb") as file:  # noqa: PTH123
        Image.fromarray(pixels).save(file, "PNG")
