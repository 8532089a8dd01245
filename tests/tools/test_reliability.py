"""The reliability programme finds nothing, and would find something."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts processes and memory as Linux shows them")

from aurevoir.tools.reliability import changes, common, environments, mutations  # noqa: E402
from aurevoir.tools.reliability.__main__ import EXPERIMENTS, RESULT, SHORT_EXPERIMENTS, _with  # noqa: E402
from aurevoir.tools.reliability.material import Material  # noqa: E402
from aurevoir.tools.reliability.nursery import Nursery  # noqa: E402

FAULTS = ("lost", "crashes", "hangs", "foreign", "left")


def test_a_short_run_of_every_experiment_finds_nothing(tmp_path):
    out = tmp_path / "r.json"
    command = [sys.executable, "-m", "aurevoir.tools.reliability", "--short", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = json.loads(out.read_bytes())["rows"]
    assert {row["experiment"] for row in rows} == set(SHORT_EXPERIMENTS), done.stderr
    assert [row for row in rows if any(row[fault] for fault in FAULTS)] == [], done.stdout
    assert all(row["tried"] for row in rows)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def _ended(action, **options):
    tally = common.Tally("x")
    tally.saw(common.forked(action, **options), "y")
    return {kind: getattr(tally, kind) for kind in ("refused", *FAULTS) if getattr(tally, kind)}


def test_a_child_is_judged_by_how_it_ends():
    assert _ended(lambda: 0) == {}
    assert _ended(lambda: 1) == {"refused": 1}
    assert _ended(lambda: 99) == {"foreign": 1}
    assert _ended(lambda: 1 // 0) == {"foreign": 1}
    assert _ended(lambda: os.kill(os.getpid(), signal.SIGSEGV)) == {"crashes": 1}
    assert _ended(lambda: time.sleep(60), limit=0.2) == {"hangs": 1}
    interrupt = common.Fault(signal.SIGINT, 0.1)
    assert _ended(lambda: time.sleep(60), fault=interrupt) == {"foreign": 1}
    assert _ended(lambda: time.sleep(60), fault=common.Fault(signal.SIGKILL, 0.1)) == {}


def _read_one(data, folder):
    from aurevoir.errors import AurevoirError

    if data == 1:
        raise AurevoirError("no")
    if data == 2:
        raise KeyError("x")
    if data == 3:
        os.kill(os.getpid(), signal.SIGABRT)
    if data == 4:
        raise AurevoirError("two\nlines")


def test_workers_count_what_readers_do_and_survive_it(tmp_path):
    inputs = iter(range(100))
    tally, plan = common.Tally("x"), common.Plan(tmp_path, 60, 1, 0)
    # A worker that dies takes its count with it: the input behind is 0 of a new iterator.
    mutations._many(tally, plan, "x", lambda random: next(inputs), _read_one, 5, time.monotonic() + 60)
    assert (tally.tried, tally.refused, tally.foreign, tally.crashes) == (5, 1, 1, 1)
    assert any("KeyError" in example for example in tally.examples)


def test_a_nursery_runs_modules_as_new_processes_would(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    lines = ("import os, sys, time", "os.write(1, sys.argv[1].encode())", "how = sys.argv[1]")
    lines += ("if how == 'says': sys.exit('why')", "if how == 'dies': os.kill(os.getpid(), 11)")
    lines += ("if how == 'hangs': time.sleep(60)", "if how == 'fails': sys.exit(3)", "if how == 'raises': 1 / 0")
    (tmp_path / "child_of_nursery.py").write_text("\n".join(lines))
    nursery = Nursery()
    ended = {}
    for how in ("ends", "says", "dies", "fails", "raises"):
        done = nursery.run_child("child_of_nursery", [how], timeout=60)
        ended[how] = done.returncode, done.stdout, done.stderr.strip().rpartition("\n")[2]
    assert ended == {
        "ends": (0, "ends", ""),
        "says": (1, "says", "why"),
        "dies": (-signal.SIGSEGV, "dies", ""),
        "fails": (3, "fails", ""),
        "raises": (1, "raises", "ZeroDivisionError: division by zero"),
    }
    with pytest.raises(subprocess.TimeoutExpired):
        nursery.run_child("child_of_nursery", ["hangs"], timeout=0.3)
    assert nursery.megabytes > 1


def test_root_gives_up_its_rights_over_files(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)

    def action():
        environments._without_rights_over_files()
        (tmp_path / "secret").read_bytes()

    done = common.forked(action)
    assert (done.code, "PermissionError" in done.err) == (1, True)


def test_every_environment_has_one_command_of_each_kind(tmp_path):
    material, plan = Material(tmp_path), common.Plan(tmp_path, 60, 1, 0)
    material.__dict__["engine"] = tmp_path / "e.engine"
    kinds = environments._commands(material)
    names = [name.split(" | ") for name, *_ in environments._pairs(material, plan)]
    worlds = {world for _, world in names}
    assert len(worlds) > 50
    assert len(names) == len(kinds) * len(worlds)
    for kind in kinds:
        assert [world for name, world in names if name in kind] == list(dict.fromkeys(world for _, world in names))
        assert {name for name, _ in names if name in kind} == set(kind)


def test_mutations_follow_from_their_seed_and_differ():
    from random import Random

    document = json.dumps({"a": [1, 2.5, "x"], "b": {"c": None}}).encode()
    made = [changes.changed_json(Random(f"{seed}"), document) for seed in range(200)]
    assert made == [changes.changed_json(Random(f"{seed}"), document) for seed in range(200)]
    assert len(set(made)) > 100
    assert sum(each == document for each in made) < 20


def test_rows_of_other_experiments_stay():
    args = type("Args", (), {"seed": 3, "rows": ""})
    rows = [{"experiment": name, "what": "w", "examples": []} for name in ("kills", "memory")]
    before = {"benchmark": "reliability", "rows": rows}
    new = [{"experiment": "kills", "what": "new", "examples": ["e"]}]
    found = _with(before, "kills", new, {"resident_megabytes": {}}, args)
    assert [row["what"] for row in found["rows"]] == ["new", "w"]
    assert found["rows"][0]["examples"] == ["e"]
    assert found["machine"]["command"] == "make reliability"
    args.rows = "n"
    parts = _with(found, "kills", [{"experiment": "kills", "what": "other", "examples": []}], {}, args)
    assert [row["what"] for row in parts["rows"]] == ["new", "other", "w"]


def test_the_committed_figures_have_every_experiment_and_no_fault():
    if not RESULT.is_file():
        pytest.skip("the programme has not been run")
    rows = json.loads(RESULT.read_bytes())["rows"]
    assert {row["experiment"] for row in rows} == set(EXPERIMENTS)
    assert [row for row in rows if any(row[fault] for fault in FAULTS)] == []


def test_an_injected_step_takes_the_place_of_the_call(tmp_path):
    from aurevoir.errors import AurevoirError
    from aurevoir.saving import write_atomically
    from aurevoir.tools.reliability.steps import CALLS, _Steps

    def save(number, kind="an error at"):
        steps = _Steps(number, kind)
        sys.setprofile(steps)
        try:
            write_atomically(tmp_path / "f", b"new")
        finally:
            sys.setprofile(None)
        return steps.seen

    count = save(0)
    assert {"fsync", "write"} <= CALLS
    assert count > 5
    (tmp_path / "f").write_bytes(b"old")
    failed = 0
    for number in range(1, count + 1):
        try:
            save(number)
        except (OSError, AurevoirError):
            failed += 1
        assert (tmp_path / "f").read_bytes() in (b"old", b"new")
    assert failed > 5
    assert Path(tmp_path / "f").is_file()
