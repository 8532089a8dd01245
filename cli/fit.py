"""``aurevoir fit``."""

import argparse
from typing import TYPE_CHECKING, Any

from .build import speed_lines
from .label_scores import mean_text
from .options import (
    CUT,
    DATA,
    MIN_ACCURACY,
    above_zero,
    add_engine_options,
    engine_arguments,
    fraction,
    positive,
    refuse_unused,
    skipped_lines,
)
from .outputs import save
from .text import name

if TYPE_CHECKING:
    from ..kernels.ridge import RidgePath
    from ..transfer.cut_choice import CutChoice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "alpha is the ridge's penalty, chosen by leave-one-out on the training images; seconds are of reading images "
        "(decode), int8 thresholds (calibrate), making and checking the engine (build), running it (engine), the "
        "projection (project), the Gram matrix (gram) and the ridge (solve)."
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
        help="auto (default), none, exact, pooled, rbf, bits+rbf, exact+rbf, hadamard, dense, dense-signs, "
        "opu (LightOn's hardware), opu-simulated",
    )
    parser.add_argument(
        "--components", type=positive, metavar="K", help="number of projection outputs (default: half the features)"
    )
    parser.add_argument(
        "--alphas",
        type=above_zero,
        nargs="+",
        metavar="A",
        help="ridge penalties to choose from (default: 15 by the data)",
    )
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


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Split the data, train, test, and write the model."""
    from pathlib import Path

    from ..kernels.readout import POOLED
    from ..transfer.classifier import OpticalClassifier
    from ..transfer.evaluate import evaluate, train_and_test
    from ..transfer.model import check_target
    from ..transfer.multilabel import LabelEvaluation

    if args.engine is not None and Path(args.engine).exists():
        refuse_unused(args, ("backbone", *engine_arguments(args)), "a built engine (--engine)", add_arguments)
    if args.projection in ("none", "exact", *POOLED):
        refuse_unused(args, ["components"], f"projection {args.projection}", add_arguments)
    if args.out:
        check_target(args.out)
    if args.work:
        _check_work(args)
    train, test = train_and_test(args.data, args.test, args.seed)
    classifier = OpticalClassifier(
        args.backbone,
        engine=args.engine,
        projection=args.projection,
        n_components=args.components,
        alphas=args.alphas,
        random_state=args.seed,
        verbose=True,
        work=args.work,
        **engine_arguments(args),
    ).fit(train.paths, train.labels, train.weights)
    _note_edge(classifier.path_)
    tested = evaluate(classifier, test, args.work)
    saved: dict[str, Any] = {"out": args.out}
    if args.out:
        save(saved, args.out, lambda: classifier.save(args.out), key="out")
    assert classifier.engine_ is not None
    made = classifier.engine_.manifest
    return {
        "accuracy": tested.accuracy,
        **({"mean_average_precision": tested.mean_average_precision} if isinstance(tested, LabelEvaluation) else {}),
        "loo_accuracy": classifier.loo_accuracy_,
        "loo_accuracy_of": dict(classifier.path_.loo_accuracy_of),
        "alpha": classifier.alpha_,
        "projection": classifier.projection_,
        "classes": classifier.classes_.tolist(),
        "train_images": len(train.paths) - len(classifier.skipped_),
        "test_images": len(test.paths) - len(tested.skipped),
        "skipped": {**classifier.skipped_, **tested.skipped},
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
        "timings": classifier.timings_,
        **saved,
    }


def _choice(choice: "CutChoice | None") -> dict[str, Any]:
    """Return what cuts scored, and why one was chosen; nothing for a cut that was given."""
    from dataclasses import asdict

    if choice is None:
        return {}
    scores = [asdict(score) for score in choice.scores]
    return {"cut_scores": scores, "cut_reason": choice.reason, "cut_lines": choice.lines(), "cut_images": choice.images}


def _check_work(args: argparse.Namespace) -> None:
    """Refuse a work folder that cannot be one, or lies where it would be taken for something else."""
    from pathlib import Path

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


def _accuracy_line(result: dict[str, Any]) -> str:
    loo = f"leave-one-out on the training images {result['loo_accuracy']:.4f}"
    if "mean_average_precision" in result:
        right = (
            f"{mean_text(result)} on {result['test_images']} test images, all labels right of {result['accuracy']:.1%}"
        )
        return f"{right}; {loo} of the labels right"
    return f"accuracy {result['accuracy']:.4f} on {result['test_images']} test images; {loo}"


def describe(result: dict[str, Any]) -> str:
    """Summarize the accuracy and the time of each stage."""
    spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["timings"].items())
    lines = [
        *skipped_lines(result["skipped"]),
        f"{result['train_images']} images of {len(result['classes'])} classes, {result['precision']} on "
        f"{result['runtime']}, {result['features']:,d} features, projection {result['projection']}, "
        f"alpha {result['alpha']:.4g}",
        f"normalization: {result['normalization']}",
        _accuracy_line(result),
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
    lines.append(f"training, seconds: {spent}")
    if result["out"]:
        lines.append(f"model: {result['out']}")
    return "\n".join(lines)
