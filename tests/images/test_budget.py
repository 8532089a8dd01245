"""Threads that decode share one memory budget, taken from headers before a pixel is decoded."""

import os
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from aurevoir.errors import AurevoirError, AurevoirWarning, BudgetError
from aurevoir.images import budget
from aurevoir.images import decode as decoding
from aurevoir.images.batches import ImageFiles
from aurevoir.images.decode import UnreadableImageError, decode
from aurevoir.images.sources import list_files


def saved(path, size=(400, 300), mode="RGB", **options):
    Image.new(mode, size).save(path, **options)
    return path


def test_an_image_beyond_the_whole_budget_is_skipped_with_its_size(tmp_path, monkeypatch):
    paths = [saved(tmp_path / "large.png"), saved(tmp_path / "small.png", (20, 10))]
    monkeypatch.setenv("AUREVOIR_MEMORY", "100KB")
    files = ImageFiles(paths, (8, 8))
    assert [len(indices) for indices, _ in files.batches()] == [1]
    ((path, reason),) = files.skipped.items()
    assert path.endswith("large.png") and reason.startswith("its 400 x 300 pixels take 1.0 MiB to decode")


def test_a_file_of_this_machine_waits_for_none_that_is_sent(monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "4000")
    with budget.memory_for_file(1000):
        waiting = threading.Thread(target=lambda: budget.memory_for_file(1000).__enter__(), daemon=True)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        with budget.memory_for_file(0):
            pass
    waiting.join(5)
    assert not waiting.is_alive()


@pytest.mark.parametrize("together", [1, 2, 3])
def test_no_more_is_decoded_at_once_than_the_budget_holds(tmp_path, monkeypatch, together):
    paths = [saved(tmp_path / f"{index}.png") for index in range(8)]
    monkeypatch.setenv("AUREVOIR_MEMORY", str(together * 9 * 400 * 300 + 1000))
    now, most, lock = 0, 0, threading.Lock()
    resize = Image.Image.resize

    def slow(self, *given, **options):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return resize(self, *given, **options)

    monkeypatch.setattr(Image.Image, "resize", slow)
    assert sum(len(indices) for indices, _ in ImageFiles(paths, (8, 8), workers=8).batches()) == 8
    assert 1 <= most <= together


def test_files_that_are_sent_whole_share_a_quarter_of_the_budget(monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "64MiB")
    held = threading.Event()

    def hold():
        with budget.memory_for_file(10 << 20), budget.memory_for(60 << 20):
            held.set()

    waiting = threading.Thread(target=hold)
    with budget.memory_for_file(10 << 20):
        waiting.start()
        assert not held.wait(0.05)
    waiting.join(10)
    assert held.is_set()
    with budget.memory_for_file(1 << 30):
        pass


def test_what_was_taken_is_given_back_whatever_happens(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png")
    monkeypatch.setenv("AUREVOIR_MEMORY", str(9 * 400 * 300 + 1000))
    monkeypatch.setattr(decoding, "_to_rgb", lambda *given: 1 / 0)
    for _ in range(3):
        with pytest.raises(UnreadableImageError, match="ZeroDivisionError"):
            decode(path, (8, 8))
    assert budget._SHARED._taken == 0


def test_running_out_of_memory_is_an_error_and_no_unreadable_image(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png")

    def exhausted(*given):
        raise MemoryError

    monkeypatch.setattr(decoding, "_to_rgb", exhausted)
    files = ImageFiles([path], (8, 8))
    with pytest.raises(BudgetError, match=r"not enough memory to decode .*a.png") as raised:
        list(files.batches())
    assert isinstance(raised.value, AurevoirError) and not files.skipped


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_two_bombs_in_two_threads_stay_within_the_budget(tmp_path):
    """Two PNGs of 81 megapixels in a process that may take what one of them needs, measured by the system."""
    line = zlib.compressobj(1)
    body = b"".join(line.compress(bytes(1 + 3 * 9000)) for _ in range(9000)) + line.flush()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png)
    program = _PEAK + (
        "before = peak()\n"
        "files = ImageFiles(sys.argv[1:], (8, 8), workers=2)\n"
        "assert sum(len(batch[0]) for batch in files.batches()) == 2, files.skipped\n"
        "print(peak() - before)\n"
    )
    environment = os.environ | {"AUREVOIR_MEMORY": "800MB", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 1.2 * 4 * 9000 * 9000 + 50e6


def _tiff_of_huge_tiles(path):
    """A TIFF of 16 x 16 pixels whose one tile says to have 2^15 x 2^15."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 1 << 15, 323: 1 << 15, 324: 8, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = zlib.compress(b"")[:8].ljust(8, b"\0")
    path.write_bytes(b"II*\0" + struct.pack("<I", 16) + data + struct.pack("<H", len(tags)) + entries + bytes(4))


def _ico_of_a_bomb(path):
    """An icon of 16 x 16 that holds a PNG of 12,000 x 12,000."""
    line = zlib.compressobj(1)
    body = b"".join(line.compress(bytes(1 + 1500)) for _ in range(12000)) + line.flush()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 12000, 12000, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    head = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22)
    path.write_bytes(head + png)


def test_tiles_larger_than_the_image_count(tmp_path, monkeypatch):
    _tiff_of_huge_tiles(tmp_path / "a.tif")
    monkeypatch.setenv("AUREVOIR_MEMORY", "100MB")
    with pytest.raises(UnreadableImageError, match=r"take [\d.]+ GiB to decode|TIFF|Tile|tile"):
        decode(tmp_path / "a.tif", (8, 8))


@pytest.mark.filterwarnings("ignore:Image")
def test_an_icon_takes_the_whole_budget(tmp_path):
    _ico_of_a_bomb(tmp_path / "a.ico")
    with Image.open(tmp_path / "a.ico") as image:
        assert budget.needed(image, image.size) >= 2**32
    assert decode(tmp_path / "a.ico", (8, 8)).shape == (8, 8, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_many_frames_only_the_first_costs_time(tmp_path, name):
    frames = [Image.new("L", (4, 4), index % 256) for index in range(3000)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=10)
    began = time.monotonic()
    assert decode(tmp_path / name, (8, 8)).shape == (8, 8, 3)
    assert time.monotonic() - began < 5


def test_bombs_in_text_and_profile_are_passed_over(tmp_path):
    about = PngImagePlugin.PngInfo()
    for _ in range(3):
        about.add_text("bomb", "a" * 50_000_000, zip=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png", pnginfo=about, icc_profile=bytes(50_000_000))
    assert (tmp_path / "a.png").stat().st_size < 10**6
    assert (decode(tmp_path / "a.png", (4, 4)) == [255, 0, 0]).all()


def test_a_program_for_ghostscript_is_not_run(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    monkeypatch.setattr(subprocess, "check_call", lambda *given, **options: pytest.fail("a program is run"))
    with pytest.raises(UnreadableImageError, match="EPS are not decoded: it is a program"):
        decode(tmp_path / "a.eps", (8, 8))


def test_a_file_larger_than_the_budget_is_not_read(tmp_path):
    with saved(tmp_path / "a.png").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableImageError, match=r"the file has 1.0 TiB, more than the memory budget"):
        decode(tmp_path / "a.png", (8, 8))


def test_a_folder_that_cannot_be_listed_is_said_at_once(tmp_path, monkeypatch):
    import os

    (tmp_path / "closed").mkdir()
    saved(tmp_path / "a.png")
    scandir = os.scandir

    def closed(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.warns(AurevoirWarning, match=r"closed cannot be listed: permission denied; its images are left out"):
        found = list_files(tmp_path)
    files = ImageFiles(found, (8, 8))
    list(files.batches())
    assert list(files.skipped.values()) == ["a folder that cannot be listed (permission denied), not a file"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_pixels_are_those_of_plain_conversions(tmp_path, mode):
    """What is saved in memory changes no pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype="uint8")
    image = Image.fromarray(noise).convert(mode if mode != "I;16" else "I").convert(mode)
    image.save(tmp_path / "a.tif")
    wanted = Image.open(tmp_path / "a.tif")
    if mode == "I;16":
        wanted = Image.fromarray((np.asarray(wanted).astype("int64") >> 8).astype("uint8"))
    if mode in ("LA", "RGBA"):
        wanted = wanted.convert("RGBA")
        wanted = Image.alpha_composite(Image.new("RGBA", wanted.size, "white"), wanted)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif", (40, 60)), np.asarray(wanted.convert("RGB")))


_PEAK = """
import re, sys
from pathlib import Path
from aurevoir.images.batches import ImageFiles

def peak():  # ru_maxrss would be the parent's, where that is larger
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
"""
_DECODED = """
def decode(paths):
    return sum(len(indices) for indices, _ in ImageFiles(paths, (8, 8), workers=4).batches())

decode(sys.argv[2:])
before = peak()
print(decode([sys.argv[1]] * 5), peak() - before)
"""


@pytest.mark.skipif(budget._trim() is None, reason="this system's allocator is another one")
@pytest.mark.parametrize("whole", [True, False])
def test_what_a_thread_has_freed_is_not_kept_beside_the_budget(tmp_path, whole):
    """Four threads decode one at a time, and glibc would keep the memory of each."""
    large, small = saved(tmp_path / "large.png", (4000, 3000)), saved(tmp_path / "small.png", (20, 10))
    if not whole:
        large.write_bytes(large.read_bytes()[:-2000])
    command = [sys.executable, "-c", _PEAK + _DECODED, str(large), str(small)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "AUREVOIR_MEMORY": "120MB"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    read, grown = map(int, done.stdout.split())
    assert read == 5 * whole
    assert grown < 1.8 * 4 * 4000 * 3000
