import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurevoir import limits
from aurevoir.errors import BudgetError, UsageError
from aurevoir.kernels.memory import DEFAULT_BUDGET, block_length, blocks, memory_budget, require

quick = settings(deadline=None, max_examples=60, database=None)


@pytest.fixture(autouse=True)
def no_budget_in_the_environment(monkeypatch):
    monkeypatch.delenv("AUREVOIR_MEMORY", raising=False)


@pytest.mark.parametrize(
    ("budget", "size"),
    [
        (1, 1),
        (4096, 4096),
        ("4096", 4096),
        ("1KiB", 2**10),
        ("512 MiB", 512 * 2**20),
        ("512MiB", 512 * 2**20),
        ("4GiB", 4 * 2**30),
        (" 4gib ", 4 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("2KB", 2_000),
        ("2MB", 2_000_000),
        ("2GB", 2_000_000_000),
        (np.int64(77), 77),
    ],
)
def test_a_budget_is_a_number_of_bytes(budget, size):
    assert memory_budget(budget) == size
    assert type(memory_budget(budget)) is int


@pytest.mark.parametrize(
    "budget", [0, -1, "", "0", "-4GiB", "4 TiB", "4GiBs", "much", "GiB", "4,5GiB", "1 2GiB", "nan", "inf", "0.1"]
)
def test_what_is_no_positive_size_is_refused_by_name(budget):
    with pytest.raises(UsageError) as error:
        memory_budget(budget)
    assert repr(budget) in str(error.value)


@pytest.mark.parametrize(("allowed", "budget"), [(0, 4 * 2**30), (2**31, 2**30), (2**40, 4 * 2**30), (1, 1)])
def test_the_default_is_half_of_what_a_container_has_at_most(monkeypatch, allowed, budget):
    monkeypatch.setattr(limits, "memory", lambda: allowed)
    assert memory_budget() == budget
    assert memory_budget("3GiB") == 3 * 2**30


def test_no_budget_is_the_default(monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 0)
    assert memory_budget() == memory_budget(None) == DEFAULT_BUDGET == 4 * 2**30


def test_the_environment_gives_the_budget(monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "3MiB")
    assert memory_budget() == 3 * 2**20


def test_an_argument_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "3MiB")
    assert memory_budget("1KiB") == 2**10


def test_a_bad_budget_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("AUREVOIR_MEMORY", "plenty")
    with pytest.raises(UsageError, match="plenty"):
        memory_budget()


@pytest.mark.parametrize(
    ("bytes_each", "budget", "most", "length"),
    [(10, 100, 50, 10), (10, 109, 50, 10), (10, 5, 50, 1), (10, 10_000, 50, 50), (0, 7, 50, 7), (10, 100, 0, 1)],
)
def test_block_length_fits_the_budget(bytes_each, budget, most, length):
    assert block_length(bytes_each, budget, most) == length


@given(total=st.integers(0, 300), length=st.integers(1, 320))
@quick
def test_blocks_cover_the_range_once_and_in_order(total, length):
    cut = blocks(total, length)
    assert [i for which in cut for i in range(which.start, which.stop)] == list(range(total))
    assert all(which.stop - which.start == length for which in cut[:-1])
    assert all(0 < which.stop - which.start <= length for which in cut)


def test_require_lets_through_what_just_fits():
    require(100, 100, "it", "mend it")


def test_require_names_what_how_much_and_how_to_mend_it():
    with pytest.raises(BudgetError) as error:
        require(6 * 2**30, 4 * 2**30, "the Gram", "take fewer rows")
    assert "the Gram needs 6.0 GiB" in str(error.value)
    assert "4.0 GiB" in str(error.value)
    assert "take fewer rows" in str(error.value)
    assert "AUREVOIR_MEMORY" in str(error.value)


@pytest.mark.parametrize(
    ("size", "text"), [(1000, "1000 bytes"), (1024, "1.0 KiB"), (2**20, "1.0 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_small_budgets_are_shown_in_small_units(size, text):
    with pytest.raises(BudgetError, match=f"the memory budget is {text};"):
        require(2**40, size, "it", "less")


def test_a_budget_error_is_a_memory_error():
    with pytest.raises(MemoryError):
        require(2, 1, "it", "mend it")


@pytest.mark.parametrize("digits", [25, 400, 5000])
def test_what_no_float_and_no_text_holds_is_refused_in_words(digits):
    with pytest.raises(BudgetError, match=r"it needs more than 2\^80 bytes and the memory budget is 1 bytes;"):
        require(10**digits, 1, "it", "less")
