"""The figures that matter most, a line each with a link to its section, from the result files."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aurevoir.benchmarks.contract import Json
from aurevoir.benchmarks.reporting.figures import sound
from aurevoir.benchmarks.reporting.tables import read_result
from aurevoir.benchmarks.suites.time_to_model import COMPILED, LATER, NAIVE
from aurevoir.errors import DataError

OTHERS = Path(__file__).parents[1] / "docs" / "figures"
"""Holds the results of the scripts that are no benchmarks."""

FAULTS = ("lost", "crashes", "hangs", "foreign", "left")


def summary(results: Mapping[str, Json]) -> list[str]:
    """Return the lines, in Markdown.

    Parameters
    ----------
    results : mapping from str to result
        By the file's name without its ending.

    Raises
    ------
    DataError
        If a file, or a row of one, is not there.
    """
    lines = {
        "[Engines](#engines)": _engines,
        "[Precision](#accuracy-by-precision)": _precision,
        "[Linear probes](#bits-and-linear-probes)": _probes,
        "[Predictions](#predictions)": _predictions,
        "[Time to a model](#time-to-a-model)": _time_to_model,
        "[Calibration](#calibration)": _calibration,
        "[Model families](#model-families)": _families,
        "[Projections](#projections-and-grams)": _projections,
        "[Ridge](#ridge), [GPU](#on-a-gpu)": _ridge,
        "[The post's way](#the-posts-table-1)": _table1,
        "[Backprop](#the-posts-figures-5-and-6), [fine-tuning](#rivals)": _backprop,
        "[Reliability](reliability.md)": _reliability,
    }
    every = _Results({**results, **{path.stem: read_result(path) for path in OTHERS.glob("*.json")}})
    return [f"- **{title}**: {line(every)}." for title, line in lines.items()]


class _Results:
    """Results by name; what is not there is an error that says so."""

    def __init__(self, results: Mapping[str, Json]) -> None:
        self._results = results

    def __getitem__(self, name: str) -> Json:
        if name not in self._results:
            raise DataError(f"the summary needs {name}.json, and there is no such result file")
        return self._results[name]

    def rows(self, file: str, /, **cells: object) -> list[Any]:
        """Return the rows of a result that did not fail and have some cells."""
        found = [row for row in sound(self[file]["rows"]) if cells.items() <= row.items()]
        if not found:
            raise DataError(f"the summary needs a row {cells} of {file}.json, and there is none")
        return found

    def row(self, file: str, /, **cells: object) -> Any:
        return self.rows(file, **cells)[0]


def _engines(results: _Results) -> str:
    ours, best, fast = (results.row("engines-cpu", name=name) for name in ("openvino int8", "NNCF", "NNCF, all"))
    return (
        f"on a processor with AMX a cut DenseNet169 in int8 is {_speed(ours)} times as fast as ONNX Runtime in fp32, "
        f"with sign agreement {ours['sign_agreement']:.3f}; NNCF's are {_speed(fast)} times as fast with "
        f"{fast['sign_agreement']:.3f}, or {_speed(best)} times with {best['sign_agreement']:.3f}"
    )


def _speed(row: Json) -> str:
    return f"{row['throughput'][-1]['times_onnxruntime_fp32']['median']:.1f}"


def _precision(results: _Results) -> str:
    names = {"accuracy-resnet50v2": "ResNet50v2", "accuracy-mobilenetv2": "MobileNetV2"}
    found = {
        network: next(each for each in results[name]["together"] if _is(each, precision="int8", projection="auto"))
        for name, network in names.items()
    }
    return "accuracy in int8 less that in fp32, 60 splits of photographs: " + ", ".join(
        f"{each['less_fp32']:+.3f} ± {each['standard_error']:.3f} ({network})" for network, each in found.items()
    )


def _is(row: Json, **cells: object) -> bool:
    return cells.items() <= row.items()


def _probes(results: _Results) -> str:
    less = np.array(
        [
            np.mean(row["auto"]) - max(np.mean(row[probe]) for probe in ("ridge", "logistic"))
            for row in results.rows("bits-and-probes")
        ]
    )
    return (
        f"accuracy less the better of two probes on pooled features, over {len(less)} pairs of data set and network: "
        f"{less.mean():+.3f} on average, from {less.min():+.3f} to {less.max():+.3f}, positive in {sum(less > 0)}"
    )


def _predictions(results: _Results) -> str:
    rows = results.rows("predictions")
    return (
        f"over {_pairs(len(rows))}, expected calibration error {_range((row['ece_ours'] for row in rows), 3)}; sets "
        f"that are asked for 0.95 have the true label for {_range((row['coverage95_ours'] for row in rows), 3)} of "
        f"the images, with {_range((row['size95_ours'] for row in rows), 2)} labels"
    )


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count > 1 else ''} of data set and network"


def _range(values: Iterable[float], digits: int) -> str:
    shown = [f"{value:.{digits}f}" for value in sorted(values)]
    return shown[0] if shown[0] == shown[-1] else f"{shown[0]} to {shown[-1]}"


def _calibration(results: _Results) -> str:
    def best(name: str, group: str) -> Any:
        return max(results.rows(name, group=group), key=lambda row: float(row["sign_agreement"]))

    def line(name: str) -> str:
        ours, peer = best(name, "aurevoir"), best(name, "peer")
        return f"{ours['sign_agreement']:.4f} and {peer['sign_agreement']:.4f} ({peer['name']}) on {ours['backbone']}"

    names = ("calibration-mobilenetv2", "calibration-densenet169")
    return "sign agreement of our best int8 and of the best peer's: " + ", ".join(line(name) for name in names)


def _time_to_model(results: _Results) -> str:
    peer = next(iter(NAIVE))

    def ratio(file: str, own: str) -> str:
        own_seconds, script = (results.row(file, contestant=name, images=1000)["seconds"] for name in (own, peer))
        return f"{script / own_seconds:.1f}"

    files = ("time-to-model", "time-to-model-avx2")
    later, compiled = (" and ".join(ratio(file, own) for file in files) for own in (LATER, COMPILED))
    return (
        f"1,000 photographs, MobileNetV2 and a test as one process, with AMX and with AVX2 alone: {later} times as "
        f"fast as a script of ONNX Runtime fp32 where the engine is in the cache, {compiled} times where it is "
        "calibrated and built"
    )


def _families(results: _Results) -> str:
    found = results["families"]["summary"]
    exported = found["graphs"] - found["refused_by_torch"]
    return (
        f"{found['equal_to_torch']} of {exported} graphs that torch exports have torch's features in fp32; int8 is "
        f"within NNCF's error in {found['int8_within_nncf']} of {found['int8_compared']}"
    )


def _projections(results: _Results) -> str:
    largest = max(row["m"] for row in results.rows("projection"))
    hadamard, gram = (
        results.row("projection", name=name, m=largest)["times_sgemm"]["median"] for name in ("hadamard", "popcount")
    )
    return f"`hadamard` is {hadamard:.0f} times as fast as sgemm, the popcount Gram {gram:.0f} times"


def _ridge(results: _Results) -> str:
    cpu = results.row("post-size", projection="exact")
    gpu = results.row("gpu-h200", projection="exact", search=cpu["search"])
    device = results["gpu-h200"]["machine"]["gpus"][0]["name"]
    return (
        f"everything behind the network for {cpu['n']:,d} images and {cpu['alphas']} alphas takes {cpu['total']:.0f} s "
        f"on two cores and {gpu['total']:.2f} s on an {device}; the post took {cpu['post_seconds']:.0f} s for one "
        "alpha, with an OPU and a GPU of 2018"
    )


def _table1(results: _Results) -> str:
    ours, post = (results.row("table1-caltech10", name=name) for name in ("openvino int8", "the post's way"))
    seconds, others = (row["seconds"]["train"]["total"] for row in (ours, post))
    return (
        f"on caltech10, training takes {seconds:.0f} s in int8 and {others:.0f} s as the post did it; accuracy "
        f"{ours['accuracy']:.3f} and {post['accuracy']:.3f}"
    )


def _backprop(results: _Results) -> str:
    ours, theirs = (
        {row["cut"]: row for row in results.rows("depth", method=method)} for method in ("optical int8", "backprop")
    )
    cuts = [cut for cut in ours if cut in theirs]
    gain = (100 * (theirs[cut]["accuracy"] - ours[cut]["accuracy"]) for cut in cuts)
    times = (theirs[cut]["seconds"]["total"] / ours[cut]["seconds"]["total"] for cut in cuts)
    return "; ".join(
        [
            f"from random weights {_range(gain, 0)} points better, in {_range(times, 0)} times the time",
            *_fine_tuning(results),
        ]
    )


def _fine_tuning(results: _Results) -> Iterator[str]:
    for name in ("caltech10", "hymenoptera", "eurosat1000"):
        ours = results.row(f"rivals-{name}", rival="optical auto")
        best = max(results.rows(f"rivals-{name}", group="backprop"), key=lambda row: float(row["accuracy"]))
        found, own = (f"{row['accuracy']:.3f} ± {row['standard_error']:.3f}" for row in (best, ours))
        times = f"in {best['times_optical']['median']:.0f} times the time"
        yield f"from ImageNet's, on {name}, {found}, ours {own}, {times}"


def _reliability(results: _Results) -> str:
    rows = results.rows("reliability")
    tried, faults = sum(row["tried"] for row in rows), sum(row[name] for row in rows for name in FAULTS)
    return f"{tried:,d} trials, of kills, hostile files, full disks, threads and more: {faults} faults"
