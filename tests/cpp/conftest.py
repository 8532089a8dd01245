"""The programs of examples/cpp, built once a session, where there are a compiler, CMake and libjpeg."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1"]


def _run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def _require(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine")


def _built(root, folder, sanitize):
    """Configure and build the programs; return their folder."""
    _require("cmake", "g++")
    told = _run(
        "cmake", "-S", root / "examples" / "cpp", "-B", folder, f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DSANITIZE={sanitize}", "-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_BUILD_TYPE=Release",
        *(["-DCMAKE_CXX_FLAGS_RELEASE=-O0"] if sanitize == "ON" else []),
    )  # fmt: skip
    if "libjpeg is missing" in told:
        pytest.skip("no libjpeg with its header on this machine")
    _run("cmake", "--build", folder, "--parallel", os.cpu_count() or 1)
    return folder


@pytest.fixture(scope="session")
def programs(root, tmp_path_factory) -> Path:
    """The folder of the programs."""
    return _built(root, tmp_path_factory.mktemp("cpp"), "OFF")


@pytest.fixture(scope="session")
def sanitized(root, tmp_path_factory) -> Path:
    """The folder of the programs with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return _built(root, tmp_path_factory.mktemp("sanitized"), "ON")


@pytest.fixture(scope="session")
def header(root, tmp_path_factory):
    """A function that runs check_header, built with the sanitizers; returns (exit code, stdout as bytes, stderr)."""
    _require("g++")
    program = tmp_path_factory.mktemp("header") / "check_header"
    include = "#include <cstdio>\n#include <jpeglib.h>\n"
    probe = subprocess.run(
        ["g++", "-fsyntax-only", "-x", "c++", "-"], input=include, capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip("no header of libjpeg on this machine")
    source = root / "tests" / "cpp" / "check_header.cpp"
    _run(
        "g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1", *SANITIZED, "-I", root / "examples" / "cpp", source,
        "-o", program, "-ljpeg",
    )  # fmt: skip

    def call(*words):
        done = subprocess.run([program, *map(str, words)], capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr.decode()

    return call
