import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aurevoir.errors import UsageError
from aurevoir.images import batches as batches_module
from aurevoir.images.batches import ImageArray, ImageFiles, ImageStream, channel_statistics, collect
from aurevoir.images.decode import UnreadableImageError, decode

quick = settings(deadline=None, max_examples=30, database=None)
SIZE = (6, 5)


@pytest.fixture
def files(tmp_path):
    """Return a function that writes n images, each of one grey of its own, and spoils some."""

    def make(n, bad=()):
        paths = []
        for i in range(n):
            path = tmp_path / f"{i:03}.png"
            Image.new("RGB", (600, 600) if i % 7 == 0 else (8, 8), (i, i, i)).save(path)
            if i in bad:
                path.write_text("no image")
            paths.append(path)
        return paths

    return make


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_batches_hold_the_images_in_the_order_of_the_paths(files):
    paths = files(21)
    found = list(ImageFiles(paths, SIZE, workers=4).batches(4))
    assert [i for indices, _ in found for i in indices] == list(range(21))
    for indices, pixels in found:
        assert indices.dtype == np.int64
        assert pixels.dtype == np.uint8
        assert pixels.shape == (len(indices), *SIZE, 3)
        np.testing.assert_array_equal(pixels, [decode(paths[i], SIZE) for i in indices])


def test_paths_in_any_order_stay_in_that_order(files):
    paths = files(10)[::-1]
    _, pixels = collect(ImageFiles(paths, SIZE, workers=3))
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], np.arange(10)[::-1])


@pytest.mark.parametrize(
    ("n", "batch_size", "lengths"),
    [(0, 4, []), (3, 4, [3]), (4, 4, [4]), (5, 4, [4, 1]), (3, 1, [1, 1, 1]), (20, 16, [16, 4])],
)
def test_only_the_last_batch_may_be_short(files, n, batch_size, lengths):
    assert [len(indices) for indices, _ in ImageFiles(files(n), SIZE, workers=2).batches(batch_size)] == lengths


def test_bad_files_are_skipped_and_leave_a_gap_in_the_indices(files):
    paths = files(12, bad=(0, 5, 6, 11))
    images = ImageFiles(paths, SIZE, workers=3)
    found = list(images.batches(3))
    assert [list(indices) for indices, _ in found] == [[1, 2, 3], [4, 7, 8], [9, 10]]
    for indices, pixels in found:
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], indices)
    assert sorted(images.skipped) == [str(paths[i]) for i in (0, 5, 6, 11)]
    assert set(images.skipped.values()) == {"not an image that Pillow can identify"}


def test_nothing_but_bad_files_gives_no_batch(files):
    images = ImageFiles(files(5, bad=range(5)), SIZE)
    assert list(images.batches(2)) == []
    assert len(images.skipped) == 5


def test_a_missing_file_is_skipped(files, tmp_path):
    images = ImageFiles([*files(2), tmp_path / "gone.png"], SIZE)
    indices, _ = collect(images)
    assert list(indices) == [0, 1]
    assert "FileNotFoundError" in images.skipped[str(tmp_path / "gone.png")]


def test_each_object_has_its_own_list_of_skipped_files(files):
    spoilt = ImageFiles(files(2, bad=(1,)), SIZE)
    list(spoilt.batches())
    assert ImageFiles([], SIZE).skipped == {}


def test_one_worker_and_many_give_the_same(files):
    paths = files(30, bad=(3, 17))
    results = [list(ImageFiles(paths, SIZE, workers=workers).batches(7)) for workers in (1, 8, None)]
    for other in results[1:]:
        for (indices, pixels), (other_indices, other_pixels) in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(indices, other_indices)
            np.testing.assert_array_equal(pixels, other_pixels)


def test_batches_can_be_gone_through_again(files):
    images = ImageFiles(files(6, bad=(2,)), SIZE, workers=2)
    first, second = collect(images), collect(images)
    np.testing.assert_array_equal(first[1], second[1])
    assert len(images.skipped) == 1


def test_the_way_to_resize_is_passed_on(tmp_path):
    image = Image.new("RGB", (40, 10), (255, 0, 0))
    image.paste((0, 255, 0), (10, 0, 30, 10))
    path = tmp_path / "wide.png"
    image.save(path)
    stretched, cropped = (collect(ImageFiles([path], (10, 10), resize))[1][0] for resize in ("stretch", "crop"))
    assert stretched[5, 0, 0] > 200
    assert cropped[5, 0, 0] == 0


def test_the_length_is_the_number_of_paths(files):
    assert len(ImageFiles(files(4, bad=(1,)), SIZE)) == 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_stopping_early_leaves_no_thread_behind(files, taken):
    running = ImageFiles(files(40, bad=(1,)), SIZE, workers=4).batches(3)
    for _ in range(taken):
        next(running)
    running.close()
    assert decoding_threads() == []


def test_a_fault_of_the_consumer_leaves_no_thread_behind(files):
    def consume():
        for _ in ImageFiles(files(40), SIZE, workers=4).batches(3):
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        consume()
    assert decoding_threads() == []


def test_decoding_runs_ahead_of_the_consumer_but_not_far(files, monkeypatch):
    paths, seen = files(60), []

    def counted(path, size, resize, channels):
        seen.append(path)
        return decode(path, size, resize, channels)

    monkeypatch.setattr(batches_module, "decode", counted)
    running = ImageFiles(paths, SIZE, workers=4).batches(4)
    next(running)
    # However slowly threads get their turn here, some come to run ahead; those that run too far show within a moment.
    while len(seen) <= 4:
        time.sleep(0.01)
    time.sleep(0.2)
    running.close()
    assert len(seen) <= 4 + 2 * 4 + 1


def test_stopping_early_gives_up_what_waits_to_be_decoded(files, monkeypatch):
    paths, seen, stopping = files(40), [], threading.Event()

    class Noted(ThreadPoolExecutor):
        def shutdown(self, *arguments, **options):
            stopping.set()
            super().shutdown(*arguments, **options)

    def held_up_after_a_batch(path, size, resize, channels):
        seen.append(path)
        if len(seen) > 8:
            stopping.wait()
        return decode(path, size, resize, channels)

    monkeypatch.setattr(batches_module, "ThreadPoolExecutor", Noted)
    monkeypatch.setattr(batches_module, "decode", held_up_after_a_batch)
    running = ImageFiles(paths, SIZE, workers=1).batches(8)
    next(running)
    running.close()
    # What the one thread had begun is finished, and no more.
    assert len(seen) <= 8 + 1


def test_as_many_files_are_decoded_at_once_as_there_are_workers(files, monkeypatch):
    meeting = threading.Barrier(3, timeout=120)

    def together(path, size, resize, channels):
        meeting.wait()
        return decode(path, size, resize, channels)

    monkeypatch.setattr(batches_module, "decode", together)
    assert len(collect(ImageFiles(files(6), SIZE, workers=3))[0]) == 6


def test_one_worker_is_one_thread(files, monkeypatch):
    threads = set()

    def noted(path, size, resize, channels):
        threads.add(threading.get_ident())
        time.sleep(0.005)
        return decode(path, size, resize, channels)

    monkeypatch.setattr(batches_module, "decode", noted)
    collect(ImageFiles(files(8), SIZE, workers=1))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_that_is_not_the_file_s_reaches_the_caller(files, monkeypatch):
    def broken(path, size, resize, channels):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(batches_module, "decode", broken)
    with pytest.raises(ZeroDivisionError):
        list(ImageFiles(files(5), SIZE, workers=2).batches(2))
    assert decoding_threads() == []


def test_a_progress_bar_is_shown_only_where_it_has_a_name_and_stderr_is_a_terminal(files, capsys, monkeypatch):
    paths = files(3)
    list(ImageFiles(paths, SIZE, description="decoding").batches())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    list(ImageFiles(paths, SIZE).batches())
    list(ImageArray(np.zeros((3, *SIZE, 3), dtype="uint8")).batches())
    assert capsys.readouterr() == ("", "")
    list(ImageFiles(paths, SIZE, description="decoding").batches())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "decoding" in shown.err
    assert "3/3" in shown.err


@given(n=st.integers(0, 40), batch_size=st.integers(1, 45))
@quick
def test_an_array_is_cut_into_batches_in_order(n, batch_size):
    pixels = np.random.default_rng(n).integers(0, 256, size=(n, 2, 3, 3), dtype="uint8")
    images = ImageArray(pixels)
    found = list(images.batches(batch_size))
    assert len(images) == n
    assert [i for indices, _ in found for i in indices] == list(range(n))
    assert all(len(indices) == batch_size for indices, _ in found[:-1])
    for indices, part in found:
        np.testing.assert_array_equal(part, pixels[indices])


def test_batches_of_an_array_are_views():
    pixels = np.zeros((5, 2, 2, 3), dtype="uint8")
    assert all(np.shares_memory(part, pixels) for _, part in ImageArray(pixels).batches(2))


def test_an_array_skips_nothing():
    assert ImageArray(np.zeros((1, 2, 2, 3), dtype="uint8")).skipped == {}


def test_collect_joins_all_batches(files):
    paths = files(20, bad=(4,))
    indices, pixels = collect(ImageFiles(paths, SIZE, workers=2))
    assert list(indices) == [i for i in range(20) if i != 4]
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], indices)


def test_collect_of_an_array_is_the_array():
    pixels = np.random.default_rng(0).integers(0, 256, size=(35, 2, 2, 3), dtype="uint8")
    indices, collected = collect(ImageArray(pixels))
    np.testing.assert_array_equal(indices, np.arange(35))
    np.testing.assert_array_equal(collected, pixels)


@pytest.mark.parametrize("bad", [0, 2])
def test_collect_of_nothing_is_empty(files, bad):
    indices, pixels = collect(ImageFiles(files(bad, bad=range(bad)), SIZE))
    assert indices.shape == (0,)
    assert indices.dtype == np.int64
    assert len(pixels) == 0
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 4


@given(seed=st.integers(0, 1000), n=st.integers(1, 20), batch_size=st.integers(1, 25))
@quick
def test_channel_statistics_are_those_of_all_pixels_together(seed, n, batch_size):
    random = np.random.default_rng(seed)
    pixels = (random.integers(0, 256, size=(n, 4, 5, 3)) * [1.0, 0.5, 0.1]).astype("uint8")
    mean, std = channel_statistics(ImageArray(pixels).batches(batch_size))
    scaled = pixels.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("value", [0, 100, 255])
def test_channel_statistics_of_one_colour_can_be_divided_by(value):
    mean, std = channel_statistics(ImageArray(np.full((3, 9, 9, 3), value, dtype="uint8")).batches())
    assert mean == pytest.approx((value / 255,) * 3)
    assert all(0 < deviation < 1e-5 for deviation in std)


def test_channel_statistics_of_nothing_are_finite():
    mean, std = channel_statistics([])
    assert mean == (0, 0, 0)
    assert all(deviation > 0 for deviation in std)


def test_channel_statistics_are_plain_numbers():
    mean, std = channel_statistics(ImageArray(np.zeros((1, 2, 2, 3), dtype="uint8")).batches())
    assert all(type(value) is float for value in (*mean, *std))


def test_the_reason_for_a_skipped_file_is_the_error_s(files, monkeypatch):
    def unreadable(path, size, resize, channels):
        raise UnreadableImageError("for no reason")

    monkeypatch.setattr(batches_module, "decode", unreadable)
    images = ImageFiles(files(1), SIZE)
    list(images.batches())
    assert list(images.skipped.values()) == ["for no reason"]


@pytest.mark.parametrize(("given", "size"), [(6, (6, 6)), (np.int64(7), (7, 7)), ([5, 6], (5, 6)), ((4, 3), (4, 3))])
def test_one_number_is_the_side_of_squares(files, given, size):
    assert collect(ImageFiles(files(1), given))[1].shape == (1, *size, 3)


@pytest.mark.parametrize("size", [0, -3, 6.5, "66", None, (5,), (5, 6, 3), (5, 0), (5.0, 6), [[5], 6]])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UsageError, match=r"^image size .* is not valid; give \(height, width\)"):
        ImageFiles([], size)


def test_collect_leaves_out_what_cannot_be_read_and_says_so(files):
    images = ImageFiles(files(4, bad=(1,)), SIZE)
    indices, pixels = collect(images)
    assert indices.tolist() == [0, 2, 3]
    assert len(pixels) == 3
    assert [path.rpartition("/")[2] for path in images.skipped] == ["001.png"]


def test_a_stream_has_the_batches_of_a_list_and_says_what_became_of_each_file(files):
    paths = files(23, bad=(0, 5, 6, 22))
    images, stream = ImageFiles(paths, SIZE, workers=3), ImageStream(iter(paths), SIZE, workers=3)
    taken = []
    for (indices, pixels), (same, there) in zip(images.batches(4), stream.batches(4), strict=True):
        np.testing.assert_array_equal(indices, same)
        np.testing.assert_array_equal(pixels, there)
        assert stream.take() == []
        stream.finish()
        taken.append(stream.take())
        assert taken[-1][-1][0] == str(paths[indices[-1]]) or len(indices) < 4
    assert [path for part in taken for path, _ in part] == [str(path) for path in paths]
    assert {path: error for part in taken for path, error in part if error} == images.skipped
    assert stream.take() == []


def test_a_stream_of_files_that_cannot_be_read_has_short_and_empty_batches(files, monkeypatch):
    monkeypatch.setattr(batches_module, "LONGEST_BATCH", 4)
    stream, taken = ImageStream(files(14, bad=(*range(1, 8), 9, 10, 11)), SIZE), []
    found = []
    for indices, pixels in stream.batches(2):
        found.append(indices.tolist())
        stream.finish()
        taken.append(len(stream.take()))
        assert pixels.shape == (len(indices), *SIZE, 3)
        assert (pixels.dtype, indices.dtype) == (np.uint8, np.int64)
    assert (found, taken) == ([[0], [], [8], [12, 13]], [4, 4, 4, 2])


def test_files_of_batches_that_were_read_ahead_are_taken_when_these_are_done_with(files):
    paths = files(11, bad=(3, 10))
    stream = ImageStream(paths, SIZE)
    batches = stream.batches(3)
    for _ in range(3):
        next(batches)
    stream.finish(2)
    assert [(path, error is None) for path, error in stream.take()] == [
        (str(path), number != 3) for number, path in enumerate(paths[:7])
    ]
    assert len(list(batches)) == 1
    stream.finish(2)
    assert [path for path, _ in stream.take()] == list(map(str, paths[7:]))


def test_a_stream_of_nothing_has_no_batch():
    assert list(ImageStream([], SIZE).batches()) == []


def test_a_stream_takes_paths_as_they_are_needed_and_stops_its_threads(files):
    paths, taken = files(3), []

    def endless():
        while True:
            taken.append(None)
            yield paths[len(taken) % 3]

    running = ImageStream(endless(), SIZE, workers=2).batches(4)
    for count in range(1, 6):
        next(running)
        assert len(taken) <= 4 * count + 2 * 4 + 1
    running.close()
    assert decoding_threads() == []
