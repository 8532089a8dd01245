"""An archive with a changed byte is not read, nor is a file that is a hole."""

import numpy as np
import pytest

from aurevoir import load_engine
from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError
from aurevoir.files import file_digest


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


def test_a_hole_of_any_size_is_not_read_for_its_digest(tmp_path):
    path = tmp_path / "hole"
    for size in (1 << 40, (1 << 30) + 1):
        with path.open("wb") as file:
            file.write(b"some")
            file.truncate(size)
        with pytest.raises(AurevoirError, match=f"hole of {size:,d} bytes is mostly empty; download or copy it again"):
            file_digest(path)
    with path.open("wb") as file:
        file.truncate(1 << 20)
    assert len(file_digest(path)) == 64
