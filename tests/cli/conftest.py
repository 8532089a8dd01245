"""What the tests of the benchmarks share."""

import json

import pytest

from aurevoir.cli.main import main


@pytest.fixture
def bench(capsys):
    """Run a benchmark in this process; return (exit code, parsed stdout or None, stderr)."""

    def run(*arguments):
        code = main(["bench", *(str(argument) for argument in arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.startswith("{") else None, err

    return run
