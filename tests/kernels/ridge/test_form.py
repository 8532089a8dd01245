import pytest

from aurevoir.errors import BudgetError
from aurevoir.kernels.ridge.form import MOST_LANDMARKS, plan_ridge

M = 62_720


@pytest.mark.parametrize(
    ("n", "projection", "budget", "name", "order"),
    [
        (1000, "auto", "4GiB", "dual", 1000),
        (13_000, "auto", "4GiB", "dual", 13_000),
        (14_000, "auto", "4GiB", "landmarks", MOST_LANDMARKS),
        (1_000_000, "exact+rbf", "4GiB", "landmarks", MOST_LANDMARKS),
        (4096, "pooled", "4GiB", "dual", 4096),
        (4097, "pooled", "4GiB", "primal", 1280),
        (1_000_000, "pooled", "4GiB", "primal", 1280),
        (1000, "hadamard", "4GiB", "dual", 1000),
    ],
)
def test_the_form_follows_rows_and_budget(n, projection, budget, name, order):
    plan = plan_ridge(n, M, 10, projection, channels=1280, budget=budget)
    assert (plan.name, plan.order) == (name, order)
    assert plan.bytes == sum(plan.parts.values()) <= 4 * 2**30
    assert all(count > 0 for count in plan.operations.values())
    assert f"{order:,d}" in plan.describe()


@pytest.mark.parametrize("budget", ["64MiB", "512MiB", "4GiB", "16GiB"])
def test_as_many_landmarks_and_components_as_fit(budget):
    for projection, most in (("none", MOST_LANDMARKS), ("hadamard", M // 2)):
        plan = plan_ridge(100_000, M, 10, projection, budget=budget)
        assert plan.order <= most
        if projection == "none" and plan.order < most:
            assert plan_ridge(100_000, M, 10, projection, budget=plan.bytes).order == plan.order
            assert plan_ridge(100_000, M, 10, projection, budget=plan.bytes - 1).order < plan.order
    assert plan_ridge(100_000, M, 10, "hadamard", 900, budget=budget).components == 900


def test_channel_means_are_solved_on_landmarks_where_their_own_system_does_not_fit():
    assert plan_ridge(5000, M, 10, "pooled", None, 1664).name == "primal"
    small = plan_ridge(5000, M, 10, "pooled", None, 1664, budget="100MiB")
    assert small.name == "landmarks"
    assert small.order < 1664


def test_kernels_are_compared_on_rows_that_fit():
    assert plan_ridge(1000, M, 10).compared == 1000
    assert plan_ridge(10_000, M, 10).compared == 4096
    assert plan_ridge(10_000, M, 10, "none").compared == 0
    small = plan_ridge(10_000, M, 10, budget="100MiB").compared
    assert 8 * 3 * small**2 <= 100 * 2**20 < 8 * 3 * (small + 1) ** 2


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ((10**6, M, 1000, "auto"), ["1000000 rows and 1000 classes", "8.4 GiB", "4.0 GiB", "take at most"]),
        (
            (10**6, M, 1000, "pooled", None, 1280),
            ["1000000 rows", "on 32 landmarks", "4.0 GiB", "take at most"],
        ),
        ((10**5, M, 10, "dense", 20_000), ["20000 x 20000", "14.9 GiB", "n_components to at most 10362"]),
        ((30_000, M, 10, "opu", 31_000), ["30000 x 30000", "lower n_components"]),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(arguments, texts):
    with pytest.raises(BudgetError) as error:
        plan_ridge(*arguments, budget="4GiB")
    assert all(text in str(error.value) for text in texts), error.value


@pytest.mark.parametrize("arguments", [(10**6, M, 1000, "auto"), (10**6, M, 1000, "pooled", None, 1280)])
def test_the_number_of_images_that_is_named_fits(arguments):
    with pytest.raises(BudgetError) as error:
        plan_ridge(*arguments, budget="4GiB")
    n = int(str(error.value).partition("take at most ")[2].partition(" images")[0].replace(",", ""))
    assert plan_ridge(n, *arguments[1:], budget="4GiB").bytes <= 4 * 2**30
    with pytest.raises(BudgetError):
        plan_ridge(n + 1, *arguments[1:], budget="4GiB")
