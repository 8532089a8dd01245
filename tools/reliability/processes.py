"""Fork and spawn, a worker that dies, two processes on one target and one cache, a clock that jumps."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from .common import CODES, Plan, Tally, forked, timed
from .kills import _contents, _main
from .material import Material, preload

LIMIT = 180.0


def run(material: Material, plan: Plan) -> list[Tally]:
    """Run each of them."""
    preload()
    tallies: list[Tally] = []
    for what, full, try_one in (
        ("an engine or kernels in a process, then in its forked child", 50, _fork),
        ("an engine sent to spawned processes", 8, _spawn),
        ("a worker killed in the first inference of a build", 30, _dying),
        ("a clock that jumps under fit, build, calibrate and embed", 24, _clock),
        ("two processes on one model and one empty cache of Numba", 10, _two),
    ):
        if plan.short and try_one in (_spawn, _two):
            continue
        tally = Tally(what)
        for number in plan.trials(full, among=5 - len(tallies)):
            try_one(tally, material, plan, number)
        tallies.append(tally)
    return timed(tallies)


def _fork(tally: Tally, m: Material, plan: Plan, number: int) -> None:
    """Use an engine, or kernels alone, in a process and in its child: the child has the same scores or says why not."""
    path, parent = m.model(("exact", "none", "hadamard")[number % 3]), number % 4

    def action() -> int:
        from aurevoir.errors import AurevoirError
        from aurevoir.transfer.classifier import load

        from .memory import _images

        model, bits, images = load(path), _packed(m), _images()
        scores = (lambda: model.readout_.scores(bits)) if parent == 1 else lambda: model.scores(images)
        expected = scores() if parent < 2 else None

        def child() -> int:
            try:
                found = scores()
            except AurevoirError:
                return 1
            return 0 if expected is None or (found == expected).all() else 99

        done = forked(child, 60)
        print(done.err, file=sys.stderr)
        if done.died:
            os.kill(os.getpid(), done.died)
        return 98 if done.hung else 97 if parent >= 2 and done.code else done.code

    done = forked(action, LIMIT)
    if done.code in (97, 98, 99):
        tally.tried += 1
        what = {97: "fails where the parent used nothing", 98: "hangs", 99: "has other scores"}[done.code]
        tally.add("hangs" if done.code == 98 else "lost", f"{number}: the child {what}")
    else:
        tally.saw(done, f"{number}")


def _packed(m: Material) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (200, 25), "uint8") & np.uint8(0xF0)


def _predict(path: str, queue: Any) -> None:
    from aurevoir.transfer.classifier import load

    from .memory import _images

    queue.put(load(path).scores(_images()).tolist())


def _score(model: Any, queue: Any) -> None:
    from .memory import _images

    queue.put(model.scores(_images()).tolist())


def _spawn(tally: Tally, m: Material, plan: Plan, number: int) -> None:
    path = m.model(("none", "exact")[number % 2])

    def action() -> int:
        from aurevoir.transfer.classifier import load

        from .memory import _images

        model = load(path)
        expected = model.scores(_images()).tolist()
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        workers = [
            context.Process(target=_score, args=(model, queue)),
            context.Process(target=_predict, args=(str(path), queue)),
        ]
        for worker in workers:
            worker.start()
        found = [queue.get(timeout=120) for _ in workers]
        for worker in workers:
            worker.join()
        return int(found != [expected, expected])

    done = forked(action, LIMIT)
    tally.saw(done, f"{number}")
    if done.code:
        tally.add("lost", f"{number}: {done.err[-200:]}")


def _dying(tally: Tally, m: Material, plan: Plan, number: int) -> None:
    """Kill the child process of a build as soon as it is there, or somewhat later."""
    place, pause = plan.place("dying"), plan.random.uniform(0, 1.5)
    network = str(m.network)

    def action() -> int:
        real = subprocess.Popen
        began: list[Any] = []

        class Dying(real):  # type: ignore[misc, valid-type]
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                # Libraries start others, such as ldconfig.
                if "aurevoir.engine.child" in self.args:
                    began.append(self)

        subprocess.Popen = Dying  # type: ignore[misc]
        import threading

        def kill() -> None:
            while not began:
                time.sleep(0.001)
            time.sleep(pause)
            began[0].kill()

        threading.Thread(target=kill, daemon=True).start()
        return _main(["build", network, "--out", str(place / "e.engine")])

    done = forked(action, LIMIT)
    tally.saw(done, f"killed after {pause:.2f} s")
    names = [path.name for path in place.iterdir()]
    if names not in ([], ["e.engine"]) or (names == [] and done.code == 0) or (names and done.code):
        tally.add("lost", f"exit code {done.code}, and there is {names}")
    shutil.rmtree(place)


def _clock(tally: Tally, m: Material, plan: Plan, number: int) -> None:
    place, seed = plan.place("clock"), plan.random.getrandbits(32)
    images = ["--calibration", str(m.photos), "--calibration-images", "8"]
    words = (
        ["fit", str(m.photos), "--backbone", str(m.network), "--out", str(place / "out")],
        ["build", str(m.network), "--precision", "int8", *images, "--out", str(place / "out")],
        ["calibrate", str(m.network), *images, "--out", str(place / "out")],
        ["embed", str(m.engine), str(m.photos), "--out", str(place / "out.npz")],
    )[number % 4]

    def action() -> int:
        from random import Random

        random = Random(seed)

        def jumping(real: Callable[[], float], scale: float = 1) -> Callable[[], Any]:
            def now() -> Any:
                jump = random.choice((0, 0, -1e3, 1e3, -1e8, 1e8, 1e10)) if wall else random.choice((0, 0, 3600, 1e6))
                shift[0] = jump if wall else shift[0] + jump
                found = real() + shift[0] * scale
                return found if scale == 1 else int(found)

            wall, shift = real in (time.time, time.time_ns), [0.0]
            return now

        # A monotonic clock jumps ahead, as when a machine slept; the wall's jumps both ways.
        time.time, time.time_ns = jumping(time.time), jumping(time.time_ns, 1e9)
        time.monotonic, time.perf_counter = jumping(time.monotonic), jumping(time.perf_counter)
        return _main(words)

    done = forked(action, LIMIT)
    tally.saw(done, f"{words[0]} (seed {seed})")
    if done.code and done.code in CODES:
        tally.add("lost", f"{words[0]} (seed {seed}) fails: {done.err.strip()[-200:]}")
    shutil.rmtree(place)


def _two(tally: Tally, m: Material, plan: Plan, number: int) -> None:
    place, cache = plan.place("two"), plan.place("numba")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    kind = ("exact", "hadamard", "dense")[number % 3]
    options = [] if kind == "exact" else ["--components", "64"]
    words = [
        "fit",
        str(m.photos),
        "--engine",
        str(m.engine),
        "--projection",
        kind,
        *options,
        "--out",
        str(place / "model"),
    ]
    command = [sys.executable, "-m", "aurevoir", *words]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for child in both:
        try:
            _, err = child.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            tally.add("hangs", kind)
            continue
        tally.tried += 1
        if child.returncode < 0:
            tally.add("crashes", f"{kind}: {signal.Signals(-child.returncode).name}")
        elif child.returncode:
            tally.add(
                "foreign" if "Traceback" in err or "unexpected" in err else "lost", f"{kind}: {err.strip()[-300:]}"
            )
    known = _contents(m.model(kind))
    if _contents(place / "model") != known:
        tally.add("lost", f"{kind}: the model is not the one that one process writes")
    stray = [path.name for path in place.iterdir() if path.name != "model"]
    if stray:
        tally.add("left", f"{kind}: {', '.join(stray)}", len(stray))
    for folder in (place, cache):
        shutil.rmtree(folder, ignore_errors=True)
