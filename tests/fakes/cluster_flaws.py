"""Workers of a cluster with a flaw: what they do to a shard is told by the names of its files."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from aurevoir.errors import MissingPackageError
from aurevoir.images.batches import ImageFiles
from aurevoir.transfer.clustered import _Embedder, _Embedding
from aurevoir.transfer.clustered_rows import _FIRST, _Pass


class Flawed(_Embedding):
    """What workers do, with the flaws that files of a folder name: ``AUREVOIR_FLAWS`` of the workers."""

    def open(self, content):
        if _has("no-runtime"):
            raise MissingPackageError("runtime 'openvino' is not installed; install it with: pip install openvino")
        if _has("dies-at-start"):
            os._exit(1)
        return FlawedEmbedder(_Embedding.open(self, content).engine, self)


def _has(flaw):
    return (Path(os.environ["AUREVOIR_FLAWS"]) / flaw).exists()


@dataclass
class FlawedEmbedder(_Embedder):
    def run(self, shard):
        names = [Path(path).name for path in shard.paths] if isinstance(shard, ImageFiles) else []
        if any(name.startswith("kills") for name in names):
            os._exit(1)
        if any(name.startswith("fails") for name in names):
            raise RuntimeError("the runtime failed")
        once = Path(os.environ["AUREVOIR_FLAWS"]) / "once"
        if any(name.startswith("once") for name in names) and not once.exists():
            once.touch()
            os._exit(1)
        if _has("slow"):
            time.sleep(0.1)
        found = _Embedder.run(self, shard)
        if _has("other-signs"):
            found.values["bits"][0, 0] ^= 1
        if _has("blind"):
            return found._replace(unreadable={0: "no such file or directory"})
        return found


class FlawedPass(_Pass):
    """A pass over rows with the flaws that files name; what tells whether a worker is good is spared."""

    def open(self, content):
        opened = super().open(content)
        return _OtherSums(**vars(self)) if _has("other-sums") else opened

    def run(self, shard):
        if len(shard.targets) >= _FIRST and shard is not self.sample:
            died = Path(os.environ["AUREVOIR_FLAWS"]) / "died"
            if _has("dies") or (_has("dies-once") and not died.exists()):
                died.touch()
                os._exit(1)
        return super().run(shard)


class _OtherSums(_Pass):
    def first(self):
        return "other sums"
