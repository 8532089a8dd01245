"""A plan says of a fit what a fit then does: form, memory, bytes; and how seconds follow from rates."""

import json
from dataclasses import replace

import numpy as np
import pytest

import aurevoir
from aurevoir.errors import AurevoirError, BudgetError, DataError, UsageError
from aurevoir.images.sources import class_folders
from aurevoir.kernels.fit import problem
from aurevoir.kernels.ridge.form import KERNELS
from aurevoir.transfer.fit_plan import STAGES, Job, plan_fit
from aurevoir.transfer.rates import OF_IMAGES, OF_PROJECTIONS, RATES, Rates, measure_rates, read_rates
from aurevoir.transfer.rows import is_mapped

RATE = 1e9


@pytest.fixture(scope="module")
def engine(tiny_onnx, pixels):
    return aurevoir.build_engine(tiny_onnx, precision="int8", runtime="openvino", calibration=pixels, smoke=False)


@pytest.fixture(scope="module")
def rates():
    """Those of a machine that does 10^9 of everything a second, with an engine of MobileNetV2's size."""
    return Rates(
        machine="a machine, 2 cores",
        measured="2026-11-28",
        backbone="net.onnx",
        cut="features",
        precision="int8",
        runtime="openvino",
        device="cpu",
        input_shape=(224, 224, 3),
        features=62_720,
        channels=1280,
        engine_bytes=2_400_000,
        images="256 photographs",
        image_bytes=20_000.0,
        per_second=dict.fromkeys((*RATES, *OF_PROJECTIONS), RATE) | {"decode": 1000.0, "engine": 500.0},
    )


@pytest.fixture(scope="module")
def many(pixels):
    """Four hundred images of noise."""
    return np.random.default_rng(0).integers(0, 256, (400, *pixels.shape[1:]), dtype="uint8")


@pytest.fixture
def forms(monkeypatch):
    """The forms in which fits are solved, in their order."""
    found = []

    def watched(*arguments, **options):
        found.append(plan_ridge(*arguments, **options))
        return found[-1]

    plan_ridge = problem.plan_ridge
    monkeypatch.setattr(problem, "plan_ridge", watched)
    return found


def _of(engine, rates):
    made = engine.manifest
    return replace(rates, features=made.features, channels=made.pooled, input_shape=made.input_shape)


@pytest.mark.parametrize(
    ("projection", "memory", "name"),
    [
        ("auto", "4GiB", "dual"),
        ("auto", "2500KB", "landmarks"),
        ("none", "2500KB", "landmarks"),
        ("pooled", "4GiB", "dual"),
        ("bits+rbf", "2500KB", "landmarks"),
        ("hadamard", "4GiB", "primal"),
    ],
)
def test_a_fit_is_solved_in_the_planned_form_and_keeps_the_planned_bytes(
    engine, many, forms, rates, projection, memory, name, tmp_path
):
    options = {"projection": projection, "n_components": 8 if projection == "hadamard" else None}
    job = Job(images=len(many), classes=2, budget=memory, tested=False, workers=2, **options)
    plan = plan_fit(job, _of(engine, rates))
    classifier = aurevoir.OpticalClassifier(engine=engine, memory_budget=memory, **options)
    classifier.fit(many, np.arange(len(many)) % 2)
    assert plan.form == forms[0]
    assert plan.form.name == name
    training = classifier.training_
    held = training.bits.nbytes + (0 if training.pooled is None else training.pooled.nbytes)
    assert plan.network["rows"] == plan.disk["model"] == plan.disk["work"] == held
    assert (plan.disk["files"], is_mapped(training.bits)) == (0, False)
    classifier.save(tmp_path / "model")
    # Labels, weights and scores besides.
    assert held < (tmp_path / "model" / "training.safetensors").stat().st_size < held + 40 * len(many)


def test_rows_of_a_fit_are_in_files_where_the_plan_has_them(staged_onnx, many, rates):
    engine = aurevoir.build_engine(staged_onnx, runtime="openvino", smoke=False)
    few = many[:30]
    for memory, files in (("22KB", True), ("30KB", False)):
        job = Job(images=30, classes=2, projection="none", budget=memory, tested=False)
        plan = plan_fit(job, _of(engine, rates))
        classifier = aurevoir.OpticalClassifier(engine=engine, memory_budget=memory, projection="none")
        bits = classifier.fit(few, np.arange(30) % 2).training_.bits
        assert (plan.disk["files"], is_mapped(bits)) == (bits.nbytes if files else 0, files)
        assert plan.memory["ridge"] == plan.form.bytes + (0 if files else bits.nbytes)


def test_what_fit_refuses_is_no_plan(rates):
    job = Job(images=10**6, classes=1000)
    with pytest.raises(BudgetError, match="take at most"):
        plan_fit(job, rates)
    assert plan_fit(replace(job, budget="16GiB"), rates).form.order == 4096


def test_seconds_are_operations_over_rates(rates):
    plan = plan_fit(Job(images=100_000, projection="none", tested=False), rates)
    assert plan.seconds["decode"] == 100
    assert plan.seconds["engine"] == 200
    p, m, n = 4096, 62_720, 100_000
    assert plan.seconds["gram"] == pytest.approx(2 * n * p * m / RATE)
    assert plan.seconds["statistics"] == pytest.approx(n * p * p / RATE)
    assert plan.embedding_seconds == 300
    assert plan.total_seconds == pytest.approx(sum(plan.seconds.values()))
    twice = plan_fit(
        Job(images=100_000, projection="none", tested=False), rates.with_rates(bits=2 * RATE, float64=None)
    )
    assert twice.seconds == {**plan.seconds, "gram": pytest.approx(plan.seconds["gram"] / 2)}


def test_a_kernel_is_counted_with_the_arithmetic_that_it_takes(rates):
    with pytest.raises(UsageError, match=r"'layers' needs an engine that pools layers \(--pool-layers\)"):
        plan_fit(Job(images=10_000, projection="layers"), rates)
    of_layers = replace(rates, layers=True)
    alone = {kind: plan_fit(Job(images=10_000, projection=kind, tested=False), of_layers).seconds for kind in KERNELS}
    assert alone["bits+rbf"]["gram"] == pytest.approx(alone["none"]["gram"] + alone["rbf"]["gram"])
    assert alone["exact+rbf"]["gram"] == alone["bits+rbf"]["gram"]
    assert "gram" not in alone["pooled"]
    assert "compare" not in alone["none"]
    chosen = plan_fit(Job(images=10_000, tested=False), rates)
    assert chosen.kernel == "bits+rbf"
    assert {**alone["bits+rbf"], "compare": chosen.seconds["compare"]} == chosen.seconds
    # Few rows are solved with every kernel, and the best of the solutions is taken.
    job = Job(images=1000, tested=False)
    few, several = (plan_fit(job, each).seconds for each in (rates, of_layers))
    each = {kind: plan_fit(replace(job, projection=kind), of_layers).seconds["solve"] for kind in KERNELS}
    assert few["solve"] == pytest.approx(sum(each.values()) - each["exact+rbf"] - each["layers"])
    assert several["solve"] == pytest.approx(few["solve"] + each["layers"])
    assert "compare" not in few
    assert list(chosen.seconds) == [stage for stage in STAGES if stage in chosen.seconds]


def test_a_test_takes_a_fifth_and_a_second_ridge(rates):
    whole, part = (plan_fit(Job(images=n, tested=False), rates) for n in (50_000, 40_000))
    tested = plan_fit(Job(images=50_000), rates)
    assert tested.form == whole.form
    assert tested.embedding_seconds == whole.embedding_seconds
    assert tested.seconds["gram"] == pytest.approx(whole.seconds["gram"] + part.seconds["gram"])


def test_images_and_passes_over_rows_divide_among_workers_and_the_solution_does_not(rates):
    n, row = 64 * 16_384, 7840 + 4 * 1280
    one, eight, most = (plan_fit(Job(images=n, workers=workers, tested=False), rates) for workers in (1, 8, 100))
    assert eight.embedding_seconds == one.embedding_seconds / 8
    for stage in ("gram", "statistics", "leave-one-out"):
        assert eight.seconds[stage] == pytest.approx(one.seconds[stage] / 8)
        # Each worker has one segment, or none.
        assert most.seconds[stage] == pytest.approx(one.seconds[stage] / 64)
    assert {stage: eight.seconds[stage] for stage in ("solve", "compare")} == {
        stage: one.seconds[stage] for stage in ("solve", "compare")
    }
    assert one.network == {"rows": 0, "engine": 0, "passes": 0}
    # Rows, targets and weights twice; 64 matrices of sums, three for each worker; scores of 10 classes at 15 alphas.
    passes = 2 * n * (row + 10 + 8) + 8 * 4096**2 * (64 + 3 * 8) + n * 4 * 10 * 15
    assert eight.network == {"rows": n * row, "engine": 8 * 2_400_000, "passes": passes}


@pytest.mark.parametrize(
    ("images", "options"), [(10_000, {}), (16_384, {"budget": "1GiB"}), (30_000, {"n_components": 9})]
)
def test_what_is_solved_at_once_does_not_divide(rates, images, options):
    projection = "hadamard" if "n_components" in options else "none"
    known = rates.with_rates(hadamard=RATE, speckle=RATE) if projection == "hadamard" else rates
    one, eight = (
        plan_fit(Job(images=images, workers=workers, tested=False, projection=projection, **options), known)
        for workers in (1, 8)
    )
    same = {stage: seconds for stage, seconds in one.seconds.items() if stage not in ("decode", "engine")}
    assert {stage: eight.seconds[stage] for stage in same} == same
    assert eight.network["passes"] == 0


def test_gpus_run_the_engine_while_processors_decode(rates):
    on_gpu = replace(rates, device="cuda")
    plan = plan_fit(Job(images=10**6, workers=2, gpus=8), on_gpu)
    assert plan.seconds["decode"] == plan.embedding_seconds == 500
    assert plan.seconds["engine"] == 250
    assert plan.gpu_hours == pytest.approx(8 * 500 / 3600)
    assert plan_fit(Job(images=10**6, workers=2), on_gpu).gpus == 2
    with pytest.raises(UsageError, match="engine on 'cpu'"):
        plan_fit(Job(images=10**6, gpus=1), rates)


def test_rows_that_fit_a_share_of_the_budget_are_in_memory(rates):
    small, large = (plan_fit(Job(images=n, projection="none", tested=False), rates) for n in (100_000, 200_000))
    assert small.memory["ridge"] == small.form.bytes + 100_000 * 7840
    assert small.disk["files"] == 0
    assert large.memory["ridge"] == large.form.bytes
    assert large.disk["files"] == 200_000 * 7840
    assert large.memory["embedding"] == 2**32 // 8


def test_what_has_no_rate_is_refused(rates):
    with pytest.raises(UsageError, match="'dense' is not planned"):
        Job(images=100, projection="dense")
    with pytest.raises(UsageError, match="cannot be split"):
        Job(images=1)
    known = {name: rates.per_second[name] for name in RATES}
    with pytest.raises(UsageError, match="--projection hadamard"):
        plan_fit(Job(images=1000, projection="hadamard"), replace(rates, per_second=known))
    with pytest.raises(UsageError, match="lacks"):
        plan_fit(Job(images=1000, projection="rbf"), replace(rates, channels=0))


@pytest.fixture(scope="module")
def quickly():
    """Rates are measured on small arrays, once each: that they are there and positive is all that is looked at."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_SECONDS": 0.0, "_LEAST_RUNS": 1, "_LANDMARKS": 64, "_FACTORS": 64}.items():
            patch.setattr(f"aurevoir.transfer.rates.{name}", value)
        for name in ("_ROWS", "_EIGENVECTORS", "_COMPONENTS"):
            patch.setattr(f"aurevoir.transfer.rates.{name}", 32)
        yield


@pytest.mark.usefixtures("quickly")
def test_rates_are_measured_and_read_again(engine, class_folder, tmp_path):
    files = class_folders(class_folder).paths
    found = measure_rates(engine, files, "30 drawn images", "hadamard")
    assert set(found.per_second) == {*RATES, *OF_PROJECTIONS}
    assert all(np.isfinite(rate) and rate > 0 for rate in found.per_second.values())
    assert (found.features, found.channels, found.engine_bytes) == (196, 4, len(engine.graph))
    assert found.image_bytes == np.mean([path.stat().st_size for path in files])
    (tmp_path / "rates.json").write_text(found.to_json())
    assert read_rates(tmp_path / "rates.json") == found


@pytest.mark.usefixtures("quickly")
def test_files_that_are_no_images_are_refused(engine, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the 1 files is a readable image; the first, .*a\.jpg"):
        measure_rates(engine, [tmp_path / "a.jpg"], "one file")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": "aurevoir-rates/2"}, "newer version"),
        ({"features": 0}, "features 0 is not"),
        ({"per_second": {"decode": 1.0}}, "per_second.engine is missing"),
        ({"input_shape": [224, 224]}, "array of 3 values"),
    ],
)
def test_a_file_that_holds_no_rates_is_refused(rates, tmp_path, change, text):
    (tmp_path / "rates.json").write_text(json.dumps(json.loads(rates.to_json()) | change))
    with pytest.raises(AurevoirError, match=text):
        read_rates(tmp_path / "rates.json")


def test_the_page_of_formats_names_every_key(rates, root):
    page = (root / "docs" / "formats.md").read_text()
    keys = (*json.loads(rates.to_json()), *RATES, *OF_PROJECTIONS, "aurevoir-rates/1")
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_another_machine_may_solve(rates):
    other = rates.with_rates(**dict.fromkeys(RATES, 2 * RATE))
    one, two = (plan_fit(Job(images=50_000), each).seconds for each in (rates, rates.with_solver(other)))
    assert {stage: one[stage] / two[stage] for stage in one} == pytest.approx(
        {stage: 1 if stage in OF_IMAGES else 2 for stage in one}
    )
