"""Clusters that are not there, and what is left of one that was."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from aurevoir import Cluster
from aurevoir.cli.main import main
from aurevoir.cluster import connection
from aurevoir.cluster.connection import connected
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError
from aurevoir.images.procedural import write_class_folders


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"address": "10001"}, "cluster '10001' is not auto, local or HOST:PORT"),
        ({"address": "ray://head:10001"}, "is not auto, local or HOST:PORT"),
        ({"workers": 0}, "workers 0 is not a number of them"),
        ({"cpus_per_worker": True}, "cpus_per_worker True is not"),
        ({"gpus_per_worker": float("nan")}, "gpus_per_worker nan is neither a part of a GPU"),
        ({"gpus_per_worker": 2.5}, "gpus_per_worker 2.5 is neither"),
        ({"gpus_per_worker": 1e-5}, "gpus_per_worker 1e-05 is neither"),
        ({"gpus_per_worker": True}, "gpus_per_worker True is neither"),
    ],
)
def test_what_is_no_cluster_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        Cluster(**given)


def test_without_ray_its_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'aurevoir\[cluster\]'"), connected(Cluster()):
        pass


def _free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def _listens(port):
    with socket.socket() as opened:
        return opened.connect_ex(("127.0.0.1", port)) == 0


def test_an_address_where_nothing_listens_is_refused_before_the_work(class_folder, capsys):
    pytest.importorskip("ray")
    address = f"127.0.0.1:{_free_port()}"
    assert main(["fit", str(class_folder), "--cluster", address]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"aurevoir fit: error: the Ray cluster at {address} cannot be reached: connection refused; check the address, "
        "or start one with `ray start --head`"
    ]


def test_the_connection_ends_with_the_last_block_that_uses_it(monkeypatch):
    said, initialized = [], [False]

    def start(address, options):
        said.append(f"to {address}")
        initialized[0] = True

    def shutdown():
        said.append("ends")
        initialized[0] = False

    ray = SimpleNamespace(is_initialized=lambda: initialized[0], shutdown=shutdown)
    monkeypatch.setattr(connection, "required_ray", lambda: ray)
    monkeypatch.setattr(connection, "_session", lambda address: nullcontext({}))
    monkeypatch.setattr(connection, "_start", start)
    first, second = connected(Cluster("local")), connected(Cluster("local"))
    first.__enter__()
    second.__enter__()
    with pytest.raises(UsageError, match="cluster 'auto' cannot be used while this process uses 'local'"):
        connected(Cluster("auto")).__enter__()
    first.__exit__(None, None, None)
    assert said == ["to local"]
    second.__exit__(None, None, None)
    assert said == ["to local", "ends"]
    with connected(Cluster("auto")):
        assert said[2:] == ["to auto"]
    initialized[0] = True
    with connected(Cluster("auto")):
        pass
    assert said[2:] == ["to auto", "ends"]


def test_a_block_that_is_collected_while_its_thread_holds_the_lock_ends(monkeypatch):
    ray = SimpleNamespace(is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setattr(connection, "_OWN", connection._Connection())
    monkeypatch.setattr(connection, "required_ray", lambda: ray)
    monkeypatch.setattr(connection, "_session", lambda address: nullcontext({}))
    monkeypatch.setattr(connection, "_start", lambda address, options: None)

    def abandon():
        def scores():
            with connected(Cluster("local")):
                yield

        abandoned = scores()
        next(abandoned)
        with connection._OWN.lock:
            del abandoned

    thread = threading.Thread(target=abandon, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert connection._OWN.users == 0


def test_what_listens_and_is_no_cluster_is_given_up(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(connection, "_ANSWER", 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(AurevoirError, match="did not answer within 3 seconds"), connected(Cluster(address)):
            pass


def test_options_of_a_cluster_need_one(class_folder, capsys):
    assert main(["fit", str(class_folder), "--workers", "2"]) == 2
    assert "--workers has no effect with no cluster (--cluster); omit it" in capsys.readouterr().err


def _aurevoir(words, folder):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "aurevoir", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _processes(text):
    """Return the processes that have a text among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _files(folder):
    return {each.name: each.read_bytes() for each in Path(folder).iterdir() if each.is_file()}


def _commands(page):
    block = next(each for each in page.split("```sh\n")[1:] if each.startswith("ray start"))
    return [line.split() for line in block.partition("```")[0].splitlines()]


@pytest.fixture
def scratch():
    """A folder of a short name, since Ray's sockets are in it; processes of the test that are left are ended."""
    folder = Path("/tmp") / f"aur{os.getpid()}"
    folder.mkdir()
    yield folder
    for process in _processes(str(folder)):
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder)


def test_the_two_commands_of_the_page(root, tiny_onnx, class_folder, tmp_path, monkeypatch, scratch, capsys):
    pytest.importorskip("ray")
    start, fit = _commands((root / "docs" / "cluster.md").read_text())
    port = _free_port()
    # Ray looks for its token only where no address is named.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    small = ["--num-cpus=1", "--include-dashboard=false", "--object-store-memory=100000000"]
    place = [f"--port={port}", f"--temp-dir={scratch}", "--block"]
    with subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *start[1:], *small, *place],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as head:
        try:
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            monkeypatch.chdir(class_folder.parent)
            while not _listens(port):
                assert head.poll() is None
                time.sleep(0.1)
            own = ["--backbone", str(tiny_onnx), "--no-test", "--json"]
            code = main([*fit[1:], *own])
            out, err = capsys.readouterr()
            assert code == 0, err
            assert json.loads(out)["timings"]["cluster"] > 0
            assert main(["evaluate", "model", "photos", "--cluster", "auto", "--json"]) == 0
            capsys.readouterr()
        finally:
            head.terminate()
            head.wait(60)


def test_a_fit_that_was_killed_goes_on_and_leaves_nothing(tiny_onnx, tmp_path, scratch):
    pytest.importorskip("ray")
    data = tmp_path / "photos"
    write_class_folders(data, 70, 24, 0)
    words = ["fit", data, "--backbone", tiny_onnx, "--no-test", "--quiet"]
    clustered = [
        *words,
        "--cluster",
        "local",
        "--workers",
        "1",
        "--work",
        tmp_path / "work",
        "--out",
        tmp_path / "model",
    ]
    killed = _aurevoir(clustered, scratch)
    started = time.monotonic()
    while not [*(tmp_path / "work").glob("train-*")] and killed.poll() is None:
        assert time.monotonic() - started < 120
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = _aurevoir(clustered, scratch)
    _, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, ""), err
    assert main([*map(str, words), "--out", str(tmp_path / "alone")]) == 0
    assert _files(tmp_path / "model") == _files(tmp_path / "alone")
    assert _processes(str(scratch)) == []
    assert [*scratch.glob("*ray*")] == []


def test_workers_import_nothing_from_the_current_folder_and_the_session_is_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with connection._at_the_root():
        assert Path.cwd() == Path("/")
    assert Path.cwd() == tmp_path
    with connection._session("local") as options:
        # Ray opens the folder that it is given to everybody.
        (given := Path(options["_temp_dir"])).chmod(0o777)
        assert stat.S_IMODE(given.parent.stat().st_mode) == 0o700
    assert not given.parent.exists()


def _left(parent, name):
    """A folder that a killed process has left."""
    folder = parent / f"{connection._PREFIX}{name}"
    folder.mkdir()
    (folder / connection._LOCK).touch()
    return folder


def test_what_outlived_a_killed_fit_is_ended_by_the_next_one_and_nothing_else(tmp_path):
    folder = _left(tmp_path, "x")
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    logs = f"--log-dir={folder}/{connection._INNER}/session/logs"
    with (
        subprocess.Popen([*sleep, "/packages/ray/agent.py", logs]) as agent,
        subprocess.Popen([*sleep, logs]) as reader,
        subprocess.Popen([*sleep, "/packages/ray/agent.py", logs.replace(str(folder), f"{folder}y")]) as other,
    ):
        try:
            connection._remove_left(tmp_path)
            assert agent.wait(10) == -signal.SIGKILL
            assert (reader.poll(), other.poll()) == (None, None)
        finally:
            for each in (agent, reader, other):
                each.kill()
    assert not folder.exists()


def test_folders_of_others_stay(tmp_path, monkeypatch):
    folder = _left(tmp_path, "x")
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    connection._remove_left(tmp_path)
    assert folder.exists()
