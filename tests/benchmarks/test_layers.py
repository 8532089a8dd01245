"""The packages of the benchmarks: who imports whom."""

import ast

import pytest

BARRED = {
    "harness": {"reporting", "rivals", "suites", "registry"},
    "reporting": {"rivals", "suites"},
    "rivals": {"suites", "registry"},
    "suites": {"registry"},
}


@pytest.mark.parametrize("folder", BARRED)
def test_suites_are_reached_through_the_registry_only_and_share_what_lies_below(root, folder):
    for path in (root / "benchmarks" / folder).rglob("*.py"):
        package = list(path.relative_to(root).parts[:-1])
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                named = node.module.split(".") if node.module else [alias.name for alias in node.names]
                target = [*package[: len(package) - node.level + 1], *named]
                if target[0] == "benchmarks":
                    assert target[1] not in BARRED[folder], f"{path}:{node.lineno}"
