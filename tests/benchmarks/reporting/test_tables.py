"""Result files are read whole or refused in one line; what is read can be compared and laid out."""

import json
from argparse import Namespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import damaged_json

from aurevoir.benchmarks.contract import Result, Row
from aurevoir.benchmarks.reporting import compare
from aurevoir.benchmarks.reporting.charts import charts
from aurevoir.benchmarks.reporting.report import _section
from aurevoir.benchmarks.reporting.tables import RESULTS, identifying, machine_line, read_result, tables
from aurevoir.errors import AurevoirError, DataError, UsageError


def test_every_committed_result_is_read():
    for path in RESULTS.glob("*.json"):
        assert tables(read_result(path))["rows"]


def test_a_result_has_its_schema_and_comes_back(tmp_path):
    result = Result("startup", [Row({"command": "fit", "seconds": 1.0})]).to_json()
    assert result["schema"] == "aurevoir-result/1"
    (tmp_path / "r.json").write_text(json.dumps(result))
    assert read_result(tmp_path / "r.json") == result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"x": 1' + "0" * 400 + "}", "x 1000.* is not text, or a number below"),
        ('{"x": [{}, 1]}', "x lists objects and other values"),
        ('{"x": ' + "[" * 50 + "]" * 50 + "}", "nested more than 12 deep"),
        ('{"x": ' + "[" * 100_000, "nested too deeply"),
        ('{"x": 1, "x": 2}', "the name 'x' is repeated"),
        ('{"schema": "aurevoir-result/2"}', "written by a newer version of aurevoir; upgrade"),
        ("[]", "holds a list, not a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_hostile_result_is_refused(tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_result(tmp_path / "r.json")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="does not exist"):
        read_result(tmp_path / "nothing.json")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_read_can_be_compared_and_laid_out(tmp_path, data):
    path = data.draw(st.sampled_from(sorted(RESULTS.glob("*.json"))))
    content = json.loads(path.read_bytes())
    content = {name: value[:3] if isinstance(value, list) else value for name, value in content.items()}
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    before.write_text(json.dumps(content))
    after.write_bytes(data.draw(damaged_json(before.read_bytes())))
    try:
        result = read_result(after)
        compare.describe(compare.run(Namespace(before=before, after=after)).to_json())
        compare.describe(compare.run(Namespace(before=after, after=before)).to_json())
        charts(result)
        _section("r", result, {})
    except AurevoirError as error:
        assert "\n" not in str(error)


def test_names_of_a_machine_are_no_formats():
    assert machine_line({"cores": 2, "%s{0}": 3, "{": "x"}) == "2 cores, %s{0} 3, { x"


def test_each_cell_of_rows_that_are_alike_is_read_a_few_times():
    class Counted(dict):
        reads = 0

        def get(self, *given):
            Counted.reads += 1
            return super().get(*given)

    rows = [Counted({f"c{index}": 0 for index in range(300)}) for _ in range(3)]
    assert len(identifying([rows])) == 300
    assert Counted.reads < 10 * 300 * 3
