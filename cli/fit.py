"""``aurevoir fit``."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..saving import write_atomically
from .build import built_lines, speed_lines
from .class_weight import class_weight
from .label_scores import label_scores, mean_text
from .options import (
    CUT,
    DATA,
    MIN_ACCURACY,
    above_zero,
    add_cluster_options,
    add_engine_options,
    cluster_of,
    engine_arguments,
    fraction,
    positive,
    refuse_unused,
    skipped_lines,
)
from .outputs import check_outputs, note_training, refuse_inside, save
from .text import name

if TYPE_CHECKING:
    import numpy as np

    from ..images.sources import LabelledPaths
    from ..kernels.ridge import RidgePath
    from ..transfer.classifier import Classifier
    from ..transfer.cut_scores import CutChoice
    from ..transfer.embed import Pace
    from ..transfer.outcomes import Outcomes
    from ..transfer.training import Training

WORST = 3
"""How many classes and confusions are named in text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "alpha is the ridge's penalty, chosen by leave-one-out on the training images; seconds are of waiting for "
        "images (decode), int8 thresholds (calibrate), making and checking the engine (build), running it (engine), "
        "the projection (project), the Gram matrix (gram), the ridge (solve), and the workers of a cluster (cluster)."
    )
    parser.add_argument("data", help=DATA)
    parser.add_argument("--test", metavar="DATA", help="the same of test images (default: a random fifth of the data)")
    parser.add_argument("--out", metavar="MODEL", help="the model folder to write")
    parser.add_argument(
        "--backbone",
        default="densenet169",
        help="torchvision name, efficientnet_lite0 (or 1, 2; weights from pip), timm:NAME or ONNX file (default: "
        "%(default)s)",
    )
    parser.add_argument("--engine", metavar="F", help="an engine file to use instead of a backbone")
    parser.add_argument(
        "--projection",
        default="auto",
        help="auto (default), none, exact, pooled, rbf, layers, bits+rbf, exact+rbf, hadamard, dense, dense-signs, "
        "opu (LightOn's hardware), opu-simulated",
    )
    parser.add_argument(
        "--components",
        type=positive,
        metavar="K",
        help="number of projection outputs (default: half the features, or what the memory budget holds)",
    )
    parser.add_argument(
        "--alphas",
        type=above_zero,
        nargs="+",
        metavar="A",
        help="ridge penalties to choose from (default: 15 by the data)",
    )
    parser.add_argument(
        "--class-weight",
        nargs="+",
        metavar="W",
        help="balanced, NAME=WEIGHT of some classes (others: 1), or a JSON file with an object of weights by class",
    )
    parser.add_argument(
        "--ridge-device", default="cpu", metavar="D", help="where the ridge is solved: cpu (default), or cuda by CuPy"
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory limit of projection and ridge, such as 8GiB "
        "(default: AUREVOIR_MEMORY, or 4GiB; less in a small container)",
    )
    parser.add_argument(
        "--keep-split", action="store_true", help="write the model that was tested, not one refitted on all images"
    )
    parser.add_argument(
        "--no-test", action="store_true", help="train on all images at once; only leave-one-out then tells the accuracy"
    )
    parser.add_argument("--report", metavar="F.html", help="write a page of all that is known of the model")
    parser.add_argument("--quiet", action="store_true", help="show no progress on stderr; notes are shown")
    parser.add_argument(
        "--min-accuracy", type=fraction, metavar="A", help=f"exit with code 4 below this test accuracy{MIN_ACCURACY}"
    )
    parser.add_argument(
        "--work",
        metavar="DIR",
        help="keep what the stages make in this folder; a fit that was interrupted continues from there",
    )
    add_engine_options(
        parser, f"{CUT}, or auto: the cheapest within half a standard error of the best, by leave-one-out"
    )
    add_cluster_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Split the data, train, test, refit on all images, and write the model and the page."""
    from ..cluster.connection import connected

    _check(args)
    with connected(cluster_of(args)):
        return _run(args)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    with _checking_process(args):
        train, test, refits = _data(args)
        if train.multilabel:
            refuse_unused(args, ["class_weight"], "several labels an image", add_arguments)
        classifier = _classifier(args, train.names)
        classifier.expect(0 if test is None else len(test.paths), refits and test is not None, args.out)
        classifier.fit(train.paths, train.labels, train.weights)
    _note_edge(classifier.path_)
    result = _fitted(classifier, args)
    training, trained_on = classifier.training_, _left_out(classifier)
    if test is None:
        tested, outcomes = None, trained_on
    else:
        started = perf_counter()
        tested = classifier.embed_labelled(test.paths, test.labels, test.weights, args.work)
        if not len(tested):
            raise DataError(f"none of the {len(test.paths)} test files is a readable image; check the folder")
        outcomes = _outcomes(classifier, tested, classifier.score_training(tested))
        result["test_seconds"] = perf_counter() - started
    result |= _judged(outcomes, tested is not None) | {"skipped": dict(classifier.skipped_)}
    if refits and tested is not None:
        result["refit"] = _refitted(classifier, training + tested)
    if args.out:
        save(result, args.out, lambda: classifier.save(args.out), key="out")
        note_training(args.out)
    if args.report:
        from .fit_report import fit_report

        page = fit_report(result, outcomes, trained_on, args.data)
        save(result, args.report, lambda: write_atomically(args.report, page), "a report", "report")
    return result


def _check(args: argparse.Namespace) -> None:
    """Refuse before the work what could not be done or written after it, and options without effect."""
    from ..kernels.memory import memory_budget
    from ..kernels.ridge.form import POOLED
    from ..transfer.model import check_target

    if args.engine is not None and Path(args.engine).exists():
        refuse_unused(args, ("backbone", *engine_arguments(args)), "a built engine (--engine)", add_arguments)
    if args.projection in ("auto", "none", "exact", *POOLED):
        refuse_unused(args, ["components"], f"projection {args.projection}", add_arguments)
    if args.no_test:
        refuse_unused(args, ["test", "keep_split", "min_accuracy"], "--no-test", add_arguments)
    if args.test:
        refuse_unused(args, ["keep_split"], "test images of their own (--test)", add_arguments)
    if not args.out:
        refuse_unused(args, ["keep_split"], "no model to write (--out)", add_arguments)
    memory_budget(args.memory)
    cluster_of(args)
    if args.out:
        check_target(args.out)
    if args.work:
        _check_work(args)
    check_outputs(args, {"report": "a report"}, (args.data, args.test, args.backbone, args.engine))
    _check_places(args)


@contextmanager
def _checking_process(args: argparse.Namespace) -> Iterator[None]:
    """Start the process that checks an engine while this one is still importing, unless one may be there already."""
    from ..cache import user_cache

    cache = user_cache()
    if args.engine is not None or (cache is not None and any(entry.kind == "engine" for entry in cache.entries())):
        yield
        return
    from ..engine.child import lasting_child
    from ..engine.smoke import start_child

    with lasting_child():
        start_child(args.runtime or "auto", args.precision)
        yield


def _check_places(args: argparse.Namespace) -> None:
    """Refuse outputs that lie where they would be taken for something else."""
    from ..errors import UsageError

    for folder, kind in ((args.out, "model folder"), (args.work, "work folder")):
        if folder and args.report:
            if os.path.realpath(folder) == os.path.realpath(args.report):
                raise UsageError(f"--report {args.report} is the {kind} itself; give another place")
            refuse_inside("--report", args.report, folder, kind)
    for data in filter(None, (args.data, args.test)):
        if args.out and Path(data).is_dir():
            refuse_inside("--out", args.out, data, "data folder")


def _data(args: argparse.Namespace) -> "tuple[LabelledPaths, LabelledPaths | None, bool]":
    """Return training and test images, and whether the model is to be refitted on both."""
    from ..transfer.evaluate import split_data, training_images

    if args.no_test:
        return training_images(args.data), None, False
    found = split_data(args.data, args.test, args.seed)
    if found.apart:
        refuse_unused(args, ["keep_split"], f"{args.data}, which has test images of its own", add_arguments)
    return found.train, found.test, not (found.apart or args.keep_split) and args.out is not None


def _classifier(args: argparse.Namespace, names: "list[str]") -> "Classifier":
    from ..transfer.classifier import Classifier

    return Classifier(
        args.backbone,
        engine=args.engine,
        projection=args.projection,
        n_components=args.components,
        alphas=args.alphas,
        class_weight=class_weight(args.class_weight, names),
        ridge_device=args.ridge_device,
        memory_budget=args.memory,
        random_state=args.seed,
        verbose=not args.quiet,
        work=args.work,
        cluster=cluster_of(args),
        **engine_arguments(args),
    )


def _outcomes(classifier: "Classifier", images: "Training", scores: "np.ndarray") -> "Outcomes":
    from ..transfer.outcomes import Outcomes

    return Outcomes(classifier.classes_, images.labels, scores, classifier.probabilities(scores), images.paths)


def _left_out(classifier: "Classifier") -> "Outcomes":
    """Return what leave-one-out says of the training images."""
    return _outcomes(classifier, classifier.training_, classifier.loo_scores_.astype("float64"))


def _fitted(classifier: "Classifier", args: argparse.Namespace) -> dict[str, Any]:
    """Return what is known once the classifier has learnt from the training images."""
    assert classifier.engine_ is not None
    made = classifier.engine_.manifest
    return {
        "loo_accuracy": classifier.loo_accuracy_,
        "loo_accuracy_of": dict(classifier.path_.loo_accuracy_of),
        "alpha": classifier.alpha_,
        "alphas": _alphas(classifier.path_),
        "projection": classifier.projection_,
        "classes": classifier.classes_.tolist(),
        "class_weight": classifier.class_weight,
        "weighted": bool(classifier.class_weight) or len(set(classifier.training_.weights.tolist())) > 1,
        "train_images": len(classifier.training_),
        "backbone": made.backbone,
        "weights": made.weights,
        "precision": made.precision,
        "runtime": made.runtime,
        "cut": made.cut,
        **_choice(classifier.cut_choice_),
        "features": made.features,
        "normalization": made.normalization,
        "sign_agreement": made.sign_agreement,
        "in_float": list(made.in_float),
        # Those in a file were measured when it was built.
        "images_per_second": classifier.engine_.images_per_second if args.engine is None else {},
        "images_per_second_by_turn": classifier.engine_.images_per_second_by_turn if args.engine is None else {},
        "embedding": _pace(classifier.pace_),
        "engine_built": classifier.engine_.built,
        "timings": classifier.timings_,
        "test_seconds": None,
        "refit": None,
        "out": args.out,
        "report": args.report,
    }


def _pace(pace: "Pace") -> dict[str, float] | None:
    """Return how fast the training images went through the engine; None where one batch holds them all."""
    rate = pace.images_per_second
    return None if rate is None else {"images": pace.images, "images_per_second": rate}


def _alphas(path: "RidgePath") -> list[dict[str, Any]]:
    """Return what leave-one-out said of each alpha; None of those that the search skipped."""
    columns = (path.alphas, path.loo_accuracies, path.loo_errors)
    names = ("alpha", "loo_accuracy", "loo_error")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, (None if isnan(value) else value for value in row), strict=True)) for row in rows]


def _judged(outcomes: "Outcomes", tested: bool) -> dict[str, Any]:
    """Return the accuracies: on test images, or of the training images by leave-one-out."""
    classes = outcomes.classes.tolist()
    if outcomes.multilabel:
        from ..transfer.multilabel import evaluate_labels

        found = label_scores(evaluate_labels(outcomes.labels, outcomes.scores, {}), classes)
        del found["images"], found["classes"]
    else:
        found = {
            "accuracy": outcomes.accuracy,
            "accuracy_interval": list(outcomes.interval),
            "per_class": {each: of.accuracy for each, of in zip(classes, outcomes.per_class(), strict=True)},
            "confusion": outcomes.confusion.tolist(),
        }
    return {
        **found,
        "accuracy": found["accuracy"] if tested else None,
        "accuracy_of": "test images" if tested else "leave-one-out",
        "test_images": len(outcomes) if tested else 0,
    }


def _refitted(classifier: "Classifier", training: "Training") -> dict[str, Any]:
    """Refit on all images, and return what is then delivered."""
    classifier.refit_on(training)
    return {
        "images": len(training),
        "projection": classifier.projection_,
        "alpha": classifier.alpha_,
        "loo_accuracy": classifier.loo_accuracy_,
        "seconds": classifier.timings_["total"],
    }


def _choice(choice: "CutChoice | None") -> dict[str, Any]:
    """Return what cuts scored, and why one was chosen; nothing for a cut that was given."""
    from dataclasses import asdict

    if choice is None:
        return {}
    return {
        "cut_scores": [{"name": score.name, **asdict(score)} for score in choice.scores],
        "cut_layers": choice.layers,
        "cut_reason": choice.reason,
        "cut_lines": choice.lines(),
        "cut_images": choice.images,
    }


def _check_work(args: argparse.Namespace) -> None:
    """Refuse a work folder that cannot be one, or lies where it would be taken for something else."""
    from ..errors import UsageError
    from ..work import check_work

    work = Path(args.work).resolve()
    for other in filter(None, (args.out, args.data, args.test)):
        if work.is_relative_to(Path(other).resolve()):
            raise UsageError(f"--work {args.work} lies in {other}; give a folder outside it")
    check_work(args.work)


def _note_edge(path: "RidgePath") -> None:
    """Warn if the best of the alphas is the first or last one, and better than the next one to it."""
    from ..images.sources import warn

    order = path.alphas.argsort()
    scores = path.loo_accuracies[order]
    if len(scores) < 2:
        return
    for edge, inner, side in ((0, 1, "smallest"), (-1, -2, "largest")):
        if path.alphas[order[edge]] == path.alpha and not scores[inner] >= scores[edge]:
            other = "smaller" if side == "smallest" else "larger"
            warn(
                f"the best alpha, {path.alpha:.4g}, is the {side} of the {len(scores)} tried; a {other} one may be "
                "better: give such as well (--alphas)"
            )


def describe(result: dict[str, Any]) -> str:
    """Summarize the accuracy and the time of each stage."""
    spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["timings"].items())
    lines = [
        *skipped_lines(result["skipped"]),
        f"{result['train_images']} images of {len(result['classes'])} classes, {result['precision']} on "
        f"{result['runtime']}, {result['features']:,d} features, projection {result['projection']}, "
        f"alpha {result['alpha']:.4g}",
        f"normalization: {result['normalization']}",
        *_accuracy_lines(result),
    ]
    if result["loo_accuracy_of"]:
        scored = ", ".join(f"{name} {score:.4f}" for name, score in result["loo_accuracy_of"].items())
        lines.append(f"leave-one-out chose projection {result['projection']}: {scored}")
    if "cut_scores" in result:
        lines += [
            f"{result['cut_reason']}; on {result['cut_images']} images:",
            *(f"  {name(line)}" for line in result["cut_lines"]),
        ]
    if result["sign_agreement"] is not None:
        lines.append(f"sign agreement with fp32: {result['sign_agreement']:.1%}")
    lines += speed_lines(result["images_per_second"], len(result["in_float"]), result["images_per_second_by_turn"])
    if pace := result["embedding"]:
        lines.append(f"{result['precision']} on these images: {pace['images_per_second']:.1f} images/s")
    lines += built_lines(result["engine_built"])
    lines.append(f"training, seconds: {spent}")
    if result["test_seconds"] is not None:
        lines[-1] += f"; testing {result['test_seconds']:.1f}"
    if refit := result["refit"]:
        lines[-1] += f"; refitting {refit['seconds']:.1f}"
        lines.append(
            f"refitted on all {refit['images']} images: projection {refit['projection']}, alpha {refit['alpha']:.4g}, "
            f"leave-one-out {refit['loo_accuracy']:.4f}"
        )
    lines.append(f"model: {result['out'] or 'not kept; --out MODEL keeps it'}")
    lines += [f"report: {result['report']}"] if result["report"] else []
    return "\n".join(lines)


def _accuracy_lines(result: dict[str, Any]) -> list[str]:
    """Say how accurate the model is, on what, which classes are worst and which are mistaken for which."""
    low, high = result["accuracy_interval"]
    interval = f"({low:.3f} to {high:.3f} with 95 % confidence)"
    tested, several = result["accuracy"] is not None, "mean_average_precision" in result
    images = f"{result['test_images']} test images" if tested else "the training images"
    weighted = ", weighted" if result["weighted"] else ""
    loo = f"leave-one-out on the training images {result['loo_accuracy']:.4f}"
    loo += f"{' of the labels right' if several else ''}{weighted}"
    if several:
        right = (
            f", all labels right of {result['accuracy']:.1%} {interval}; {loo}"
            if tested
            else f"; no test images; {loo}"
        )
        return [f"{mean_text(result)} on {images}{right}"]
    confusion = result["confusion"]
    share = sum(row[index] for index, row in enumerate(confusion)) / sum(map(sum, confusion))
    first = f"leave-one-out accuracy {share:.4f} {interval} on {images}; no test images"
    first += f"; {result['loo_accuracy']:.4f}{weighted}" if weighted else ""
    if tested:
        first = f"accuracy {result['accuracy']:.4f} {interval} on {images}; {loo}"
    return [first, *_confusion_lines([name(each) for each in result["classes"]], result["confusion"])]


def _confusion_lines(names: list[str], confusion: list[list[int]]) -> list[str]:
    """Say which classes are least accurate, and which are most often taken for which; nothing without mistakes."""
    wrong = [
        (row[index] / sum(row), f"{names[index]} {row[index]} of {sum(row)}")
        for index, row in enumerate(confusion)
        if sum(row) > row[index]
    ]
    pairs = [
        (-count, f"{names[index]} as {names[other]} {count}")
        for index, row in enumerate(confusion)
        for other, count in enumerate(row)
        if count and other != index
    ]
    told = (("least accurate classes", wrong), ("most often confused", pairs))
    return [
        f"{what}: {', '.join(text for _, text in sorted(found, key=lambda each: each[0])[:WORST])}"
        for what, found in told
        if found
    ]
