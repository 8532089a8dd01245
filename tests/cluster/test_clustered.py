"""Images on the workers of a cluster: what comes back is what this machine alone computes, whatever happens to them."""

import threading
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from http_files import served

from aurevoir import Cluster, OpticalClassifier, build_engine
from aurevoir.cli.main import main
from aurevoir.cluster import pool
from aurevoir.errors import AurevoirError, UsageError
from aurevoir.images import batches
from aurevoir.images.batches import ImageArray, ImageFiles, ImageStream
from aurevoir.images.procedural import write_class_folders
from aurevoir.transfer import clustered
from aurevoir.transfer.embed import embed, embed_blocks
from aurevoir.transfer.embedded_shards import EmbeddedShards

ONE = Cluster(workers=1)


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return build_engine(tiny_onnx, smoke=False)


@pytest.fixture
def paths(tmp_path):
    found = [*write_class_folders(tmp_path / "photos", 15, 24, 0).paths]
    for index in (3, 40, 41, 149):
        found[index].write_text("no image")
    return found


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(clustered, "_SHARD", 32)


def embedded(engine, paths, cluster=None):
    images = ImageFiles(paths, engine.input_shape[:2])
    indices, values = embed(engine, images, ("bits", "pooled"), cluster=cluster)
    return indices, values["bits"], values["pooled"], images.skipped


def same(found, expected):
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert found[3] == expected[3]


def test_outputs_are_those_of_this_machine(machines, engine, paths):
    same(embedded(engine, paths, ONE), embedded(engine, paths))


def test_pixels_and_blocks_are_those_of_this_machine(machines, engine, pixels):
    images = ImageArray(np.concatenate([pixels, pixels[::-1]]))
    found, expected = ([*embed_blocks(engine, images, ["bits"], 16, cluster)] for cluster in (Cluster(workers=1), None))
    assert [len(indices) for indices, _ in found] == [16, 16, 8]
    for (indices, values), (own, others) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(indices, own)
        np.testing.assert_array_equal(values["bits"], others["bits"])


@pytest.mark.parametrize("most", [1024, 10])
def test_a_stream_has_the_batches_of_this_machine_and_is_read_as_it_is_needed(
    machines, engine, paths, monkeypatch, most
):
    monkeypatch.setattr(batches, "LONGEST_BATCH", most)
    monkeypatch.setattr(clustered, "_SHARDS", 1)
    paths = [*paths[:60], *(["missing.png"] * 25), *paths[60:], *paths[:7]]

    def given():
        for self.read, path in enumerate(paths, 1):
            yield path

    self, found = SimpleNamespace(read=0, held=0), []
    for cluster in (ONE, None):
        stream, said = ImageStream(given(), engine.input_shape[:2]), []
        for indices, values in embed_blocks(engine, stream, ["bits", "pooled"], 32, cluster):
            said.append((indices, values["bits"], values["pooled"], stream.take()))
        found.append(said)
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        same(one, other)
    # Of shards that nobody has taken, no path is read.
    with closing(embed_blocks(engine, ImageStream(given(), engine.input_shape[:2]), ["bits"], 16, ONE)) as blocks:
        next(blocks)
        assert self.read < len(paths)


def test_a_stream_without_images_starts_no_worker(engine):
    assert [*embed_blocks(engine, ImageStream([], engine.input_shape[:2]), ["bits"], 16, ONE)] == []


def test_predictions_are_those_of_this_machine_byte_for_byte(
    machines, tiny_onnx, class_folder, paths, tmp_path, capsysbinary
):
    OpticalClassifier(tiny_onnx, smoke=False).fit(class_folder).save(tmp_path / "model")
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in paths))
    words = ["predict", str(tmp_path / "model"), str(class_folder), "--from", str(tmp_path / "list")]
    on_cluster = ["--cluster", "auto", "--workers", "1"]
    printed = []
    for where in (on_cluster, []):
        assert main([*words, *where]) == 0
        printed.append(capsysbinary.readouterr().out)
    assert printed[0] == printed[1] != b""
    words += ["--top", "2", "--coverage", "0.9"]
    whole, begun = tmp_path / "whole.csv", tmp_path / "begun.csv"
    assert main([*words, "--out", str(whole)]) == 0
    begun.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    assert main([*words, "--resume", str(begun), *on_cluster]) == 0
    assert begun.read_bytes() == whole.read_bytes()


def test_shards_in_a_folder_are_those_of_this_machine(machines, engine, paths, tmp_path):
    for name, cluster in (("cluster", ONE), ("alone", None)):
        images = ImageFiles(paths, engine.input_shape[:2])
        with EmbeddedShards(tmp_path / name, engine, images, "bits", 48) as shards:
            assert [*shards.write(cluster)] == [48, 48, 48, 2]
    files = [{each.name: each.read_bytes() for each in (tmp_path / name).iterdir()} for name in ("cluster", "alone")]
    assert files[0] == files[1]


def test_a_review_is_that_of_this_machine(machines, tiny_onnx, class_folder, tmp_path, capsys):
    words = ["review", str(class_folder), "--test", str(class_folder), "--backbone", str(tiny_onnx), "--json"]
    printed = []
    for where in (["--cluster", "auto", "--workers", "1"], []):
        assert main([*words, *where]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""
    OpticalClassifier(tiny_onnx, smoke=False).fit(class_folder).save(tmp_path / "model")
    assert main(["review", str(tmp_path / "model"), "--cluster", "auto"]) == 2
    assert "--cluster has no effect with a model and no test images: nothing is embedded" in capsys.readouterr().err


def test_the_model_is_that_of_this_machine_byte_for_byte(machines, tiny_onnx, class_folder, tmp_path):
    for name, cluster in (("cluster", Cluster(workers=1)), ("alone", None)):
        fitted = OpticalClassifier(tiny_onnx, smoke=False, cluster=cluster).fit(class_folder)
        fitted.save(tmp_path / name)
        assert ("cluster" in fitted.timings_) == (cluster is not None)
    files = {each.name: each.read_bytes() for each in (tmp_path / "alone").iterdir()}
    assert {each.name: each.read_bytes() for each in (tmp_path / "cluster").iterdir()} == files


def test_images_at_urls_are_read_by_the_workers(machines, tiny_onnx, class_folder, tmp_path):
    pytest.importorskip("aiohttp")
    with served(class_folder.parent) as server:
        names = [f"{path.parent.name}/{path.name}" for path in sorted(class_folder.glob("*/*.png"))]
        (tmp_path / "t.csv").write_text("".join(f"{server.url}/photos/{name},{name[:3]}\n" for name in names))
        for name, cluster in (("cluster", Cluster(workers=1)), ("alone", None)):
            fitted = OpticalClassifier(tiny_onnx, smoke=False, cluster=cluster).fit(tmp_path / "t.csv")
            fitted.save(tmp_path / name)
    files = {each.name: each.read_bytes() for each in (tmp_path / "alone").iterdir()}
    assert {each.name: each.read_bytes() for each in (tmp_path / "cluster").iterdir()} == files


def test_a_lost_worker_loses_no_shard_and_counts_none_twice(flaw, engine, paths):
    paths[70] = paths[70].rename(paths[70].with_name("once.png"))
    same(embedded(engine, paths, ONE), embedded(engine, paths))


def test_an_image_that_ends_its_workers_is_unreadable(flaw, engine, paths, monkeypatch):
    # That each is tried twice, test_pool shows without starting so many.
    monkeypatch.setattr(pool, "TRIES", 1)
    monkeypatch.setattr(clustered, "_SHARD", 16)
    paths = paths[:80]
    killer = paths[45] = paths[45].rename(paths[45].with_name("kills.png"))
    *found, skipped = embedded(engine, paths, ONE)
    assert "ends the process that reads it, 1 times" in skipped.pop(str(killer))
    killer.write_text("no image")
    *expected, reasons = embedded(engine, paths)
    del reasons[str(killer)]
    same((*found, skipped), (*expected, reasons))


def test_workers_that_finish_nothing_end_the_work(flaw, engine, paths, monkeypatch):
    monkeypatch.setattr(pool, "_patience", lambda length: 2)
    for index in range(16, len(paths)):
        paths[index] = paths[index].rename(paths[index].with_name(f"kills{index}.png"))
    with pytest.raises(
        AurevoirError, match=r"workers ended without finishing a shard; the last one on .*actor is dead"
    ):
        embedded(engine, paths, ONE)


def test_an_error_of_a_worker_ends_the_work(flaw, engine, paths):
    paths[40] = paths[40].rename(paths[40].with_name("fails.png"))
    with pytest.raises(AurevoirError, match=r"^the worker on .*: RuntimeError: the runtime failed$"):
        embedded(engine, paths, ONE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-runtime", "runtime 'openvino' is not installed"),
        ("other-signs", "1 of 3,000 signs of the first 15 images differ from the driver's"),
        ("blind", "it cannot read .*, which the driver reads: no such file"),
        ("dies-at-start", "workers end while they start"),
    ],
)
def test_a_worker_that_cannot_be_used_is_named(flaw, engine, paths, name, said):
    flaw(name)
    with pytest.raises(AurevoirError, match=said) as caught:
        embedded(engine, paths, ONE)
    assert "\n" not in str(caught.value)


def test_a_worker_that_comes_after_the_first_paths_of_a_stream_are_forgotten_is_told_them(engine, paths):
    window = clustered._Window(paths)
    window.read(40)
    driver = clustered._Driver(engine, ImageFiles(window, engine.input_shape[:2]), ("bits",), False)
    window.forget(32)
    blind = clustered._Result(np.empty(0, "int64"), {}, {3: "no image", 5: "no such file"})
    assert driver.refusal(clustered._First(blind, {})) == (
        f"it cannot read {paths[5]}, which the driver reads: no such file"
    )


def test_workers_of_any_processor_are_taken_on_request(flaw, engine, paths):
    flaw("other-signs")
    found = embedded(engine, paths, Cluster(workers=1, any_processor=True))
    assert len(found[0]) == len(paths) - 4


def test_a_file_that_only_a_worker_cannot_read_ends_the_work(flaw, machines, engine, paths, monkeypatch):
    opened = pool.Pool._opened

    def then_blind(self, worker):
        opened(self, worker)
        flaw("blind")

    monkeypatch.setattr(pool.Pool, "_opened", then_blind)
    with pytest.raises(AurevoirError, match="all machines must see the images at the same paths"):
        embedded(engine, paths, ONE)


def test_more_than_a_machine_has_is_refused_at_once(machines, engine, paths):
    with pytest.raises(AurevoirError, match="no machine of the cluster has the 64 processors of one worker"):
        embedded(engine, paths, Cluster(cpus_per_worker=64))


def test_features_need_no_cluster(machines):
    X = np.random.default_rng(0).normal(size=(8, 16))
    with pytest.raises(UsageError, match="cluster 'auto' embeds images, and X holds features; leave it out"):
        OpticalClassifier(cluster="auto").fit(X, [0, 1] * 4)


def test_no_worker_outlives_the_work(machines, engine, paths):
    import ray

    embedded(engine, paths, ONE)
    started = time.monotonic()
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() - started < 60
        time.sleep(0.1)


def test_a_lost_machine_loses_no_shard(machines, flaw, engine, paths, monkeypatch):
    flaw("slow")
    node = machines.add_node(num_cpus=1, object_store_memory=100 << 20)
    recorded, opened = threading.Event(), []
    monkeypatch.setattr(
        pool.Pool, "_opened", lambda self, worker, own=pool.Pool._opened: (own(self, worker), opened.append(worker))
    )
    record = clustered._Driver.record
    monkeypatch.setattr(
        clustered._Driver, "record", lambda *given: (record(*given), len(opened) > 1 and recorded.set())
    )

    def lose():
        recorded.wait(60)
        machines.remove_node(node, allow_graceful=False)

    many = paths * 3
    losing = threading.Thread(target=lose)
    losing.start()
    found = embedded(engine, many, Cluster(workers=2))
    losing.join()
    assert recorded.is_set()
    same(found, embedded(engine, many))
