"""Folders of shards: what an interrupted run has written is continued, and is what one run writes."""

import errno
import json
import os
from contextlib import closing
from itertools import islice

import numpy as np
import pytest

from aurevoir import build_engine
from aurevoir.cli.main import main
from aurevoir.errors import AurevoirError, SaveError, UsageError
from aurevoir.images.batches import ImageFiles
from aurevoir.images.decode import UnreadableImageError, decode
from aurevoir.images.procedural import write_class_folders
from aurevoir.transfer.embed import embed
from aurevoir.transfer.embedded_shards import INDEX, EmbeddedShards


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return build_engine(tiny_onnx, smoke=False)


@pytest.fixture
def paths(tmp_path):
    """61 files, of which 57 can be read: shards of 32 and 25 rows."""
    found = [*write_class_folders(tmp_path / "photos", 10, 24, 0).paths][:60]
    for index in (3, 40, 41):
        found[index].write_text("no image")
    return [*found, tmp_path / "missing.png"]


def written(folder, engine, paths, rows=32, output="bits", most=None, decoder=None):
    """Write a folder, no more than some shards of it; return how many rows were taken over, and what was skipped."""
    images = ImageFiles(paths, engine.input_shape[:2], decoder=decoder)
    with EmbeddedShards(folder, engine, images, output, rows) as shards, closing(shards.write()) as blocks:
        assert sum(islice(blocks, most)) == shards.done - shards.taken_over
        return shards.taken_over, images.skipped


def files(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.mark.parametrize("output", ["bits", "features", "pooled"])
def test_the_rows_are_those_of_one_file(engine, paths, tmp_path, output):
    _, skipped = written(tmp_path / "out", engine, paths, 20, output)
    images = ImageFiles(paths, engine.input_shape[:2])
    indices, values = embed(engine, images, (output,))
    assert skipped == images.skipped
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    # 20 rows are raised to two batches.
    assert [each["rows"] for each in index["shards"]] == [32, len(indices) - 32]
    arrays = [np.load(tmp_path / "out" / each["file"], allow_pickle=False) for each in index["shards"]]
    np.testing.assert_array_equal(np.concatenate([each[output] for each in arrays]), values[output])
    assert [path for each in arrays for path in each["paths"].tolist()] == [str(paths[i]) for i in indices]
    assert [path for each in arrays for path in each["skipped"].tolist()] == [str(paths[i]) for i in (3, 40, 41, 60)]
    assert index["m"] == int(arrays[0]["m"]) == engine.features


def test_an_interrupted_run_is_continued(engine, paths, tmp_path):
    assert written(tmp_path / "out", engine, paths, most=1)[0] == 0
    assert "shard-000001.npz" not in files(tmp_path / "out")
    taken_over, skipped = written(tmp_path / "out", engine, paths)
    assert (taken_over, len(skipped)) == (32, 4)
    written(tmp_path / "whole", engine, paths)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert written(tmp_path / "out", engine, paths) == (57, skipped)


def _damage(folder, paths):
    (folder / "shard-000001.npz").write_bytes(b"damaged")


def _change(folder, paths):
    paths[50].write_bytes(paths[0].read_bytes())


def _mend(folder, paths):
    paths[40].write_bytes(paths[0].read_bytes())


def _add(folder, paths):
    paths.append(paths[0])


@pytest.mark.parametrize("happens", [_damage, _change, _mend, _add])
def test_what_has_changed_is_computed_again(engine, paths, tmp_path, happens):
    written(tmp_path / "out", engine, paths)
    happens(tmp_path / "out", paths)
    assert written(tmp_path / "out", engine, paths)[0] == 32
    written(tmp_path / "whole", engine, paths)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("preserved", [False, True])
def test_rows_of_a_file_that_changes_meanwhile_are_not_taken_over(engine, paths, tmp_path, preserved):
    old, new = (paths[index].read_bytes() for index in (50, 0))
    length = max(len(old), len(new))
    paths[50].write_bytes(old.ljust(length, b"\0"))
    status = paths[50].stat()

    def changing(path, *how):
        pixels = decode(path, *how)
        if path == paths[50]:
            path.write_bytes(new.ljust(length, b"\0"))
            os.utime(path, ns=(0, status.st_mtime_ns if preserved else 0))
        return pixels

    written(tmp_path / "out", engine, paths, decoder=changing)
    assert written(tmp_path / "out", engine, paths)[0] == 32
    written(tmp_path / "whole", engine, paths)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_an_image_that_could_not_be_read_for_a_while_is_read_again(engine, paths, tmp_path):
    def failing(path, *how):
        if path == paths[50]:
            raise UnreadableImageError("more than the memory budget")
        return decode(path, *how)

    _, skipped = written(tmp_path / "out", engine, paths, decoder=failing)
    assert skipped[str(paths[50])] == "more than the memory budget"
    assert written(tmp_path / "out", engine, paths)[0] == 32
    written(tmp_path / "whole", engine, paths)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_folder_that_cannot_be_listed_or_cleared_is_named(engine, paths, tmp_path, monkeypatch):
    (tmp_path / "out" / "shard-000009.npz").mkdir(parents=True)
    with pytest.raises(SaveError, match=r"out cannot be written: .*; choose another path"):
        written(tmp_path / "out", engine, paths[:5])
    for name in ("iterdir", "exists"):
        with monkeypatch.context() as patch:
            patch.setattr(type(tmp_path), name, _refused)
            with pytest.raises(SaveError, match=r"new cannot be written: permission denied; choose another path"):
                written(tmp_path / "new", engine, paths)


def _refused(path):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_of_fewer_images_no_shard_is_left_over(engine, paths, tmp_path):
    written(tmp_path / "out", engine, paths)
    written(tmp_path / "out", engine, paths[:30])
    assert sorted(files(tmp_path / "out")) == [INDEX, "shard-000000.npz"]


def test_images_of_which_none_can_be_read_have_a_shard_without_rows(engine, paths, tmp_path):
    unreadable = [paths[3], paths[40]]
    assert len(written(tmp_path / "out", engine, unreadable)[1]) == 2
    assert np.load(tmp_path / "out" / "shard-000000.npz")["bits"].shape[0] == 0
    assert written(tmp_path / "out", engine, unreadable)[0] == 0


def test_what_it_would_not_continue_is_refused(engine, paths, tmp_path):
    out = tmp_path / "out"
    written(out, engine, paths, most=1)
    before = files(out)
    with pytest.raises(UsageError, match=r"index.json is of output bits, and this run of pooled; give the engine and"):
        written(out, engine, paths, output="pooled")
    with pytest.raises(UsageError, match=r"is of rows 32, and this run of 48"):
        written(out, engine, paths, 48)
    with (
        EmbeddedShards(out, engine, ImageFiles(paths, (24, 24)), "bits", 32),
        pytest.raises(UsageError, match="another process"),
    ):
        written(out, engine, paths)
    assert files(out) == before
    (out / INDEX).write_text('{"schema": "aurevoir-embedding/1", "shards": []}')
    with pytest.raises(AurevoirError, match=r"index.json has wrong fields \(engine is missing\); give another folder"):
        written(out, engine, paths)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(UsageError, match=r"mine holds letter.txt and no index.json of aurevoir embed"):
        written(tmp_path / "mine", engine, paths)


def test_the_command(engine, paths, tmp_path, capsys):
    engine.save(tmp_path / "e.engine")
    words = ["embed", str(tmp_path / "e.engine"), str(tmp_path / "photos"), "--out"]
    assert main([*words, f"{tmp_path / 'out'}/", "--shard-rows", "16", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    readable = sum(path.is_file() for path in (tmp_path / "photos").rglob("*")) - 3
    assert (first["images"], first["new"], len(first["skipped"])) == (readable, readable, 3)
    assert len([*(tmp_path / "out").glob("shard-*")]) == first["shards"] > 2
    assert main([*words, str(tmp_path / "out"), "--shard-rows", "16"]) == 0
    printed = capsys.readouterr()
    assert f"{first['images']} images, 196 features each, {first['shards']} shards, 0 new images" in printed.out
    assert f"note: the rows of {first['images']} images are in {tmp_path / 'out'} and are taken over" in printed.err
    assert main([*words, str(tmp_path / "o.npz"), "--shard-rows", "16"]) == 2
    assert "--shard-rows has no effect with one file" in capsys.readouterr().err
    assert main([*words, f"{tmp_path / 'photos'}{os.sep}"]) == 2
    assert "is the input" in capsys.readouterr().err
