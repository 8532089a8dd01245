"""What the tests of commands share."""

import pytest

from aurevoir.cli.main import main


@pytest.fixture
def call(capsys):
    """Run a command in this process; return (exit code, stdout, stderr)."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run
