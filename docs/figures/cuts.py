"""Accuracy of the classifier at several cuts, and at the one that leave-one-out chooses.

Every image passes each network once, in int8 calibrated on 128 of a set's images, for all the candidates of
``cut="auto"``. All sides then train on the same 80:20 splits with projection ``auto``: at every cut, and at the default
cut with the channel means of earlier layers besides, of which one is chosen as `aurevoir fit --cut auto` does.

    python docs/figures/cuts.py FOLDER... --backbones NETWORK... --out docs/figures/cuts.json
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bits_and_probes import CALIBRATED, calibration_of, data_name, images_of, listed, machine, rounded
from sklearn.model_selection import train_test_split

from aurevoir.engine.build import EngineBuilder
from aurevoir.engine.cut_candidates import cut_candidates
from aurevoir.engine.multi_cut import JoinedCuts, draft_cuts
from aurevoir.engine.spec import CalibrationSpec, EngineSpec, NetworkSpec
from aurevoir.engine.timing import alternate
from aurevoir.kernels.fitting import fit_readout
from aurevoir.kernels.readout import Readout
from aurevoir.kernels.ridge import RidgePath
from aurevoir.transfer.cut_choice import (
    CutValues,
    candidate_builders,
    candidates_of,
    choosing_search,
    draft_candidates,
    embed_cuts,
    solved_candidates,
)
from aurevoir.transfer.cut_scores import Candidate, CutScore, scored

SPEC = EngineSpec(precision="int8", measure=False, compare_speed=False)
ROUNDS, BATCHES = 7, 8


def main() -> None:
    """Measure every pair of data set and backbone, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders of class folders, several parts joined by +, or 'digits'")
    parser.add_argument("--backbones", nargs="+", required=True, help="NETWORK.onnx, or NAME=WEIGHTS")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    speeds = {network: images_per_second(network, args.data[0]) for network in args.backbones}
    rows: list[dict[str, Any]] = []
    for data in args.data:
        for network in args.backbones:
            row: dict[str, Any] = {"backbone": Path(network.partition("=")[0]).stem, "data": data_name(data)}
            row |= measure(network, data, args.splits) | {"images_per_second": speeds[network]}
            print(row["data"], row["backbone"], np.mean(row["at_cuts"], axis=0), np.mean(row["layers"]), flush=True)
            rows.append(row)
            args.out.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")


def images_per_second(network: str, data: str) -> dict[str, float]:
    """Return the speed of an int8 engine at each cut, in turns, and at the default cut with earlier layers' means."""
    builder, _ = _builder(network, data, False)
    names = [cut.name for cut in cut_candidates(builder.backbone)]
    engines = dict(zip(names, draft_cuts(builder.at_cuts(names), SPEC)[0], strict=True))
    engines["layers"] = _builder(network, data, True)[0].draft(SPEC)
    first = next(iter(engines.values()))
    noise = np.random.default_rng(0).integers(0, 256, (BATCHES * first.batch_size, *first.input_shape), "uint8")
    seconds = alternate({name: partial(engine.bits, noise) for name, engine in engines.items()}, ROUNDS)
    return {name: round(median(len(noise) / each for each in times), 1) for name, times in seconds.items()}


def measure(network: str, data: str, splits: int) -> dict[str, Any]:
    """Return the accuracies at every cut, at the chosen one and with earlier layers on every split of one data set."""
    candidates, joined, values, labels = embedded(network, data)
    each = list(zip(candidates, values.bits, values.pooled, joined.layers, strict=True))
    cuts = list(dict.fromkeys(candidate.cut for candidate in candidates))
    names = ("at_cuts", "chosen", "chosen_layers", "chosen_loo", "layers", "kernel")
    found: dict[str, list[Any]] = {key: [] for key in names}
    for seed in range(splits):
        train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
        part = _Split(labels, train, test)
        tested = [part.tested(*one) for one in each]
        chosen, scores = part.chosen(each)
        found["at_cuts"].append([rounded(accuracy) for accuracy, _ in tested[: len(cuts)]])
        found["chosen"].append(scores[chosen].cut)
        found["chosen_layers"].append(scores[chosen].layers)
        found["chosen_loo"].append(rounded(scores[chosen].loo_accuracy))
        found["layers"].append(rounded(tested[-1][0]))
        found["kernel"].append(tested[-1][1])
    kernels = found.pop("kernel")
    described = {"images": len(labels), "classes": int(labels.max()) + 1, "cuts": [cut.name for cut in cuts]}
    described |= {"macs": [cut.macs for cut in cuts], "pooled_layers": list(joined.layers[-1])}
    return {**described, "kernels": {kind: kernels.count(kind) for kind in dict.fromkeys(kernels)}, **found}


Embedded = tuple[Candidate, np.ndarray, np.ndarray, tuple[int, ...]]
"""Bits, channel means and their layers of a candidate."""


class _Split:
    """Training and test images, to fit and test on at some cut."""

    def __init__(self, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
        self.labels, self.train, self.test = labels, train, test
        self.classes = int(labels.max()) + 1

    def tested(
        self, candidate: Candidate, bits: np.ndarray, pooled: np.ndarray, layers: Sequence[int]
    ) -> tuple[float, str]:
        """Return the accuracy on the test images, and the kernel."""
        readout, _ = self._fitted(candidate, bits, pooled, layers, "auto", "auto")
        scores = readout.scores(bits[self.test], pooled=pooled[self.test])
        return float((scores.argmax(axis=1) == self.labels[self.test]).mean()), readout.kind

    def chosen(self, each: Sequence[Embedded]) -> tuple[int, tuple[CutScore, ...]]:
        """Return the candidate that `aurevoir fit --cut auto` chooses, and the scores of all."""
        search = choosing_search(len(self.train), "auto")

        def solve(candidate: Candidate, index: int, kernels: Sequence[str]) -> tuple[str, RidgePath]:
            paths = {kind: self._fitted(*each[index], kind, search)[1] for kind in kernels}
            return max(paths.items(), key=lambda one: one[1].loo_accuracy)

        candidates = [candidate for candidate, *_ in each]
        solved = solved_candidates(candidates, "auto", solve)
        return scored(candidates, solved, self.labels[self.train], np.ones(len(self.train)))

    def _fitted(
        self,
        candidate: Candidate,
        bits: np.ndarray,
        pooled: np.ndarray,
        layers: Sequence[int],
        kind: str,
        search: str,
    ) -> tuple[Readout, RidgePath]:
        rows = self.train
        given = {"search": search, "pooled": pooled[rows], "layers": layers}
        return fit_readout(bits[rows], candidate.cut.features, self.labels[rows], self.classes, kind, **given)


def embedded(network: str, data: str) -> tuple[list[Candidate], JoinedCuts, CutValues, np.ndarray]:
    """Return the candidates, their joined engine, what it computes of the images of a data set, and their labels."""
    builder, (paths, labels) = _builder(network, data, False)
    cuts = cut_candidates(builder.backbone)
    builders = candidate_builders(builder, cuts, "auto")
    joined = draft_candidates(builders, cuts, SPEC)
    values = embed_cuts(joined, images_of(paths, joined.engine))
    return candidates_of(builders), joined, values, labels[values.indices]


def _builder(network: str, data: str, layers: bool) -> tuple[EngineBuilder, tuple[Any, np.ndarray]]:
    name, _, weights = network.partition("=")
    paths, labels = listed(data)
    chosen = np.random.default_rng(0).permutation(len(labels))[:CALIBRATED]
    spec = NetworkSpec(backbone=name, weights=weights or "default", pool_layers=layers)
    calibration = CalibrationSpec(data=calibration_of(paths, chosen, name, weights or "default"))
    return EngineBuilder(spec, calibration), (paths, labels)


if __name__ == "__main__":
    main()
