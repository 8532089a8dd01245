"""What commands print of images with several labels each."""

from typing import TYPE_CHECKING, Any

from .options import skipped_lines
from .text import name

if TYPE_CHECKING:
    from ..transfer.multilabel import LabelEvaluation


def label_scores(tested: "LabelEvaluation", classes: list[Any]) -> dict[str, Any]:
    """Return what ``aurevoir evaluate`` prints of a classifier that gives several labels an image."""
    from dataclasses import asdict

    return {
        "accuracy": tested.accuracy,
        "accuracy_interval": list(tested.interval),
        "mean_average_precision": tested.mean_average_precision,
        "per_class": {each: score.recall for each, score in zip(classes, tested.labels, strict=True)},
        "per_label": {each: asdict(score) for each, score in zip(classes, tested.labels, strict=True)},
        "confusion": tested.confusion.tolist(),
        "classes": classes,
        "images": tested.images,
        "skipped": tested.skipped,
    }


def describe_label_scores(result: dict[str, Any]) -> str:
    """Format the average precision, precision and recall of each label."""
    names = [name(each) for each in result["classes"]]
    low, high = result["accuracy_interval"]
    width = max(map(len, ["label", *names]))
    lines = [
        *skipped_lines(result["skipped"]),
        f"{mean_text(result)} on {result['images']} images",
        f"all labels right of {result['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}",
        f"{'label':{width}s} images average-precision precision recall",
    ]
    for each, score in zip(names, result["per_label"].values(), strict=True):
        shares = (_share(score[key]) for key in ("average_precision", "precision", "recall"))
        cells = "".join(f" {share:>{wide}s}" for share, wide in zip(shares, (17, 9, 6), strict=True))
        lines.append(f"{each:{width}s} {score['images']:6d}{cells}")
    lines += [f"csv: {result['csv']}"] if result.get("csv") else []
    return "\n".join(lines)


def mean_text(result: dict[str, Any]) -> str:
    """Format the mean average precision."""
    return f"mean average precision {_share(result['mean_average_precision'], 4)}"


def _share(share: float | None, digits: int = 3) -> str:
    return "-" if share is None else f"{share:.{digits}f}"
