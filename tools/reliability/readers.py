"""Readers beside writers: while a process saves two models alternately, every load is wholly one of the two."""

import hashlib
import os
import signal
import time
from pathlib import Path

from .common import Plan, Tally, forked, timed
from .material import Material, preload

FULL = 4000


def run(material: Material, plan: Plan) -> list[Tally]:
    """Load models and engines that another process replaces all the time."""
    preload()
    models, engines = Tally("loads of a model that is replaced"), Tally("loads of an engine that is replaced")
    _watch(models, plan, _write_models(material), _read_model, 2)
    engines.began = time.perf_counter()
    _watch(engines, plan, _write_engines(material), _read_engine, 1)
    return timed([models, engines])


def _write_models(m: Material):  # type: ignore[no-untyped-def]
    first, second = m.model("none"), m.model("exact")
    third = m.model("hadamard")

    def write(target: Path, once: bool = False) -> None:
        from aurevoir.engine.load import read_engine
        from aurevoir.transfer.classifier import load

        models = [load(each) for each in (first, second, third)]
        # Engines differ too: one that is mixed would be seen.
        models[1].engine_ = read_engine(m.int8)
        for model in models:
            assert model.engine_ is not None
            model.save(target)
            if once:
                print(_read_model(target))
        while not once:
            for model in models:
                model.save(target)

    return write


def _write_engines(m: Material):  # type: ignore[no-untyped-def]
    def write(target: Path, once: bool = False) -> None:
        from aurevoir.engine.load import read_engine

        engines = [read_engine(path) for path in (m.engine, m.int8)]
        for engine in engines:
            engine.save(target)
            if once:
                print(_read_engine(target))
        while not once:
            for engine in engines:
                engine.save(target)

    return write


def _read_model(target: Path) -> str:
    from aurevoir.transfer.classifier import load

    model = load(target)
    assert model.engine_ is not None
    readout = model.readout_
    arrays = [getattr(readout, name) for name in ("weights", "coefficients", "rows") if hasattr(readout, name)]
    digest = hashlib.sha256(model.engine_.graph + model.engine_.precision.encode())
    for array in arrays:
        digest.update(array.tobytes())
    return f"{type(readout).__name__} {digest.hexdigest()}"


def _read_engine(target: Path) -> str:
    from aurevoir.engine.load import load_engine

    engine = load_engine(target)
    table = "" if engine.table is None else engine.table.to_json()
    return f"{engine.precision} {hashlib.sha256(engine.graph + table.encode()).hexdigest()}"


def _watch(tally: Tally, plan: Plan, write, read, among: int) -> None:  # type: ignore[no-untyped-def]
    """Start a writer, then read in a child until the count or the time is reached."""
    place = plan.place("shared")
    target = place / "target"
    known = set(forked(lambda: write(target, True), 120).out.split("\n")) - {""}
    if len(known) < 2:
        raise RuntimeError("the writer fails undisturbed")
    writer = os.fork()
    if writer == 0:
        os.setsid()
        try:
            write(target)
        finally:
            os._exit(1)
    try:
        count = plan.count(FULL // 2, least=10)
        ends = time.monotonic() + max(1.0, plan.ends - time.monotonic()) / among
        done = forked(lambda: _loads(target, read, count, ends), 60 + plan.seconds)
    finally:
        os.kill(writer, signal.SIGKILL)
        _, status = os.waitpid(writer, 0)
    tally.saw(done, "reader")
    tally.tried -= 1
    seen = set()
    for line in done.out.splitlines():
        tally.tried += 1
        seen.add(line)
        kind, _, what = line.partition("|")
        if kind == "refused":
            tally.refused += 1
            tally.examples = [*tally.examples, f"refused: {what}"[:300]][:3]
        elif kind == "foreign":
            tally.add("foreign", what)
        elif what not in known:
            tally.add("lost", f"mixed: {what}")
    if os.WIFEXITED(status):
        tally.add("foreign", "the writer ended")
    if len(seen) < 2 and not plan.short:
        tally.add("lost", "all loads found the same: nothing was replaced beside them")


def _loads(target: Path, read, count: int, ends: float) -> None:  # type: ignore[no-untyped-def]
    from aurevoir.errors import AurevoirError

    for number in range(count):
        if number >= 10 and time.monotonic() > ends:
            return
        try:
            print(f"loaded|{read(target)}")
        except AurevoirError as error:
            print(f"refused|{error}")
        except Exception as error:
            print(f"foreign|{type(error).__name__}: {error}".replace("\n", " "))
