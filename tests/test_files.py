"""Files are written whole or not at all, and an archive with a changed byte is not read."""

import numpy as np
import pytest

from aurevoir import load_engine
from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.files import require_file_target, require_folder_target, write_atomically


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return assemble(export_backbone(open_backbone(tiny_onnx)), "fp32")


def test_every_changed_byte_and_every_truncation_is_refused(engine, tmp_path):
    engine.save(tmp_path / "e.engine")
    data = (tmp_path / "e.engine").read_bytes()
    random = np.random.default_rng(0)
    bits = random.integers(8, size=len(data)).tolist()
    broken = [data[:place] + bytes([data[place] ^ 1 << bits[place]]) + data[place + 1 :] for place in range(len(data))]
    broken += [data[: int(length)] for length in np.linspace(0, len(data) - 1, 20)] + [data + b"\0"]
    for content in broken:
        (tmp_path / "e.engine").write_bytes(content)
        with pytest.raises(AurevoirError, match="not an engine file, or a byte of it has changed"):
            load_engine(tmp_path / "e.engine")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(engine, tmp_path, monkeypatch):
    engine.save(tmp_path / "e.engine")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        engine.save(tmp_path / "e.engine")
    assert list(tmp_path.iterdir()) == [tmp_path / "e.engine"]
    assert load_engine(tmp_path / "e.engine").manifest == engine.manifest


def test_a_link_is_followed_when_it_is_written_to(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store" / "file")
    write_atomically(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "store" / "file").read_bytes() == b"x"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    require_file_target(tmp_path / ("x" * 255))
    write_atomically(tmp_path / ("x" * 255), b"x")
    with pytest.raises(UsageError, match="cannot be written: file name too long"):
        require_file_target(tmp_path / ("x" * 256))


def test_a_target_in_folders_that_do_not_exist_yet_is_fine_and_leaves_nothing(tmp_path):
    require_file_target(tmp_path / "a" / "b" / "c")
    require_folder_target(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/a/b cannot be written: .*file is not a folder"):
        require_file_target(tmp_path / "file" / "a" / "b")
    with pytest.raises(UsageError, match="is a folder; give the name of a file"):
        require_file_target(tmp_path)
    with pytest.raises(UsageError, match="/dev/null is not a regular file"):
        require_file_target("/dev/null")
    require_file_target(tmp_path / "file")
