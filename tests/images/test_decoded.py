"""Files are decoded once for all who read them, anew where they have changed, and never beyond the memory."""

import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from aurevoir.images import decoded as decoded_module
from aurevoir.images.batches import ImageFiles, collect
from aurevoir.images.decode import UnreadableImageError, decode
from aurevoir.images.decoded import SHARE, DecodedImages

SIZE = (6, 5)
HOW = (SIZE, "stretch", 3)
EACH = 6 * 5 * 3


@pytest.fixture
def counted(monkeypatch):
    """The paths that were decoded, in order."""
    paths = []

    def counting(path, *how):
        paths.append(path)
        return decode(path, *how)

    monkeypatch.setattr(decoded_module, "decode", counting)
    return paths


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / f"{index}.png" for index in range(8)]
    for index, path in enumerate(found):
        _write(path, index)
    return found


def _write(path, value):
    Image.new("RGB", (9, 8), (value, 0, 0)).save(path)


def _settled(shared, paths, counted):
    """Wait until the background has decoded files."""
    deadline = time.monotonic() + 30
    while len(counted) < len(paths):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return shared


def test_what_was_kept_is_taken_without_decoding_again(paths, counted):
    with DecodedImages() as shared:
        kept = collect(ImageFiles(paths, SIZE, decoder=shared.keep))[1]
        assert sorted(counted) == paths
        taken = collect(ImageFiles(paths, SIZE, decoder=shared.take))[1]
        assert len(counted) == len(paths)
        np.testing.assert_array_equal(taken, kept)
        np.testing.assert_array_equal(taken, collect(ImageFiles(paths, SIZE))[1])
        # Taken pixels are kept no longer.
        shared.take(paths[0], *HOW)
        assert len(counted) == len(paths) + 1


@pytest.mark.parametrize("other", [((5, 6), "stretch", 3), (SIZE, "crop", 3), (SIZE, "stretch", 1)])
def test_pixels_of_another_size_mode_or_number_of_channels_are_others(paths, counted, other):
    with DecodedImages() as shared:
        shared.keep(paths[0], *HOW)
        np.testing.assert_array_equal(shared.keep(paths[0], *other), decode(paths[0], *other))
        assert len(counted) == 2


@pytest.mark.parametrize("read", ["keep", "take"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_file_that_has_changed_is_decoded_again(paths, counted, read, ahead):
    with DecodedImages() as shared:
        if ahead:
            shared.ahead(paths, *HOW)
            _settled(shared, paths, counted)
        else:
            shared.keep(paths[3], *HOW)
        _write(paths[3], 200)
        os.utime(paths[3], ns=(1, 1))
        assert getattr(shared, read)(paths[3], *HOW)[0, 0, 0] == 200
        # And the new content is kept in the place of the old.
        before = len(counted)
        assert shared.keep(paths[3], *HOW)[0, 0, 0] == 200
        assert len(counted) == before + (read == "take")


def test_a_file_that_changes_while_it_is_decoded_is_decoded_again(paths, monkeypatch):
    def changing(path, *how):
        pixels = decode(path, *how)
        _write(path, 77)
        os.utime(path, ns=(2, 2))
        return pixels

    with DecodedImages() as shared:
        with monkeypatch.context() as patch:
            patch.setattr(decoded_module, "decode", changing)
            shared.keep(paths[0], *HOW)
        assert shared.take(paths[0], *HOW)[0, 0, 0] == 77


def test_files_ahead_are_decoded_once_and_in_their_order(paths, counted):
    with DecodedImages() as shared:
        shared.keep(paths[5], *HOW)
        shared.ahead(paths, *HOW)
        _settled(shared, paths, counted)
        pixels = collect(ImageFiles(paths, SIZE, decoder=shared.take))[1]
    assert pixels[:, 0, 0, 0].tolist() == list(range(8))
    assert sorted(counted) == paths


def test_who_reads_does_not_wait_for_the_background(paths, counted, monkeypatch):
    monkeypatch.setattr(decoded_module, "processors", lambda: 2)
    with DecodedImages() as shared, shared.paused():
        shared.ahead(paths, *HOW)
        # The one thread of the background waits with the first file; the last one is read here.
        assert shared.take(paths[-1], *HOW)[0, 0, 0] == 7
        assert counted == [paths[-1]]


def test_nothing_is_kept_beyond_the_share_of_the_budget(paths, counted):
    with DecodedImages(SHARE * 3 * EACH) as shared:
        shared.ahead(paths, *HOW)
        _settled(shared, paths[:3], counted)
        for path in paths:
            shared.keep(path, *HOW)
        assert len(counted) == len(paths)
        for path in paths:
            shared.take(path, *HOW)
        assert len(counted) == len(paths) + 5
        # What was taken has made room.
        shared.keep(paths[7], *HOW)
        shared.keep(paths[7], *HOW)
        assert len(counted) == len(paths) + 6


@pytest.mark.parametrize("ahead", [False, True])
def test_what_cannot_be_read_says_why_whoever_reads_it(paths, ahead):
    paths[2].write_text("no image")
    paths[4].unlink()
    with DecodedImages() as shared:
        if ahead:
            shared.ahead(paths, *HOW)
        for decoder in (shared.keep, shared.keep, shared.take):
            images, plain = ImageFiles(paths, SIZE, decoder=decoder), ImageFiles(paths, SIZE)
            assert collect(images)[0].tolist() == collect(plain)[0].tolist() == [0, 1, 3, 5, 6, 7]
            assert images.skipped == plain.skipped
        _write(paths[2], 9)
        assert shared.take(paths[2], *HOW)[0, 0, 0] == 9
        with pytest.raises(UnreadableImageError, match="does not exist"):
            shared.take(paths[4], *HOW)


def test_an_end_in_the_middle_leaves_no_thread(paths):
    with pytest.raises(KeyboardInterrupt), DecodedImages() as shared, shared.paused():
        shared.ahead(paths, *HOW)
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
