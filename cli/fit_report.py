"""The page of a fit: what it is worth, what it gets wrong, what was chosen, and how to use it."""

from collections.abc import Callable, Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ..benchmarks.harness.machine import Machine
from ..benchmarks.reporting.tables import machine_line
from ..benchmarks.reporting.text import shown
from ..images.thumbnail import thumbnails
from ..page import cards, cell, contents, listing, page, picture, row, section, table, tag
from ..transfer.outcomes import Outcomes
from ..transfer.review import suspicion
from .build import built_lines, speed_lines
from .reliability_diagram import reliability_diagram
from .text import name

IMAGES, CLASSES, MATRIX, ROWS, SKIPPED = 24, 40, 30, 20, 40
"""At most so many pictures of a kind, classes in a table, classes in the matrix, confusions, and unreadable files."""

STYLE = """
:root { --hit: #00897b; --miss: #d32f2f; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; padding: 0; }
.tiles > li { list-style: none; background: var(--soft); border-radius: .5rem; padding: .75rem .9rem; }
.tiles .of { font-size: .875rem; opacity: .85; }
.tiles .value { display: block; font-size: 1.6rem; font-weight: 650; line-height: 1.3; }
.matrix td, .matrix th { padding: .2rem .35rem; text-align: center; border: 1px solid var(--line); }
.matrix th[scope=row] { text-align: left; white-space: nowrap; max-width: 9rem; overflow: hidden; }
.matrix th[scope=row] { text-overflow: ellipsis; }
.matrix thead th { vertical-align: bottom; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem; overflow: hidden; }
.matrix .hit { background: color-mix(in srgb, var(--hit) var(--share), transparent); }
.matrix .miss { background: color-mix(in srgb, var(--miss) var(--share), transparent); }
.bar { display: inline-block; height: .7rem; background: var(--mark); border-radius: .15rem; vertical-align: middle; }
.chosen { font-weight: 650; }
.verdict { font-weight: 600; }
td:first-child { white-space: normal; min-width: 8rem; }
.diagram { max-width: 30rem; width: 100%; height: auto; }
"""


def fit_report(result: dict[str, Any], outcomes: Outcomes, trained_on: Outcomes, data: str) -> bytes:
    """Return the page.

    Parameters
    ----------
    result : dict
        What ``aurevoir fit`` prints.
    outcomes : Outcomes
        Of the test images, or without any of the training images by leave-one-out.
    trained_on : Outcomes
        Of the training images by leave-one-out.
    data : str
        What was given to train on.
    """
    tested = result["accuracy"] is not None
    if outcomes.multilabel:
        parts = [_label_summary(result), _labels(result)]
    else:
        parts = [_summary(result, outcomes), *_of_classes(outcomes, trained_on, tested)]
    parts += [
        _chosen(result),
        *_speed(result),
        _time(result),
        *_skipped(result["skipped"]),
        _machine(),
        _use(result, data),
    ]
    title = f"aurevoir: {len(result['classes'])} classes of images"
    return page(title, contents(parts), tag("main", *parts), style=STYLE)


def _of_classes(outcomes: Outcomes, trained_on: Outcomes, tested: bool) -> Iterator[Element]:
    """Yield what is told of images that have one label each."""
    root = _root([*(outcomes.paths or ()), *(trained_on.paths or ())])
    yield _classes(outcomes, tested)
    yield _mistakes(
        outcomes,
        root,
        "mistakes",
        "Test images that were labelled wrong" if tested else "Images that leave-one-out labels otherwise",
        "The surest mistakes first. Some may be wrong labels in the data rather than mistakes.",
        Outcomes.mistakes,
    )
    if tested:
        yield _mistakes(
            trained_on,
            root,
            "suspicious",
            "Suspicious training images",
            "Trained on all others, the classifier would label each of these otherwise (leave-one-out), the most "
            "suspicious first: look here first for wrong labels. aurevoir review asks three kernels, and lists some "
            "others.",
            _suspected,
        )
    yield _calibration(outcomes, tested)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _summary(result: dict[str, Any], outcomes: Outcomes) -> Element:
    tested = result["accuracy"] is not None
    whose = (
        "images that it was not trained on" if tested else "training images, each by a model that was not trained on it"
    )
    tiles = [
        (
            "Accuracy on test images" if tested else "Accuracy by leave-one-out",
            _percent(outcomes.accuracy),
            f"{_interval(outcomes.interval)} with 95 % confidence; {outcomes.right} of {len(outcomes)} right",
        )
    ]
    said = [f"Of {len(outcomes)} {whose}, {outcomes.right} were labelled right."]
    if worst := [each for each in _worst(outcomes) if each.right < each.images]:
        said.append(f"The hardest class is {name(worst[0].name)}: {worst[0].right} of {worst[0].images}.")
    if confusions := outcomes.confusions():
        most = confusions[0]
        said.append(f"Most often, {name(most.label)} was taken for {name(most.predicted)}: {most.images} times.")
    return _tiled(result, tiles, " ".join(said))


def _tiled(result: dict[str, Any], tiles: list[tuple[str, str, str]], said: str) -> Element:
    """Return the summary: tiles of what it is worth and of what every fit has, and a sentence or two."""
    refit, several = result["refit"], "mean_average_precision" in result
    if result["accuracy"] is not None:
        what = "of the labels" if several else "each labelled by a model that did not see it"
        tiles.append(
            ("Leave-one-out", _percent(result["loo_accuracy"]), f"of {result['train_images']} training images, {what}")
        )
    kept = refit["images"] if refit else result["train_images"]
    tiles.append(("Trained on", f"{kept:,d} images", "all of them, after the test" if refit else _trained_on(result)))
    if pace := result["embedding"]:
        of = f"through the {result['precision']} network on this machine"
        tiles.append(("Speed", f"{pace['images_per_second']:,.0f} images/s", of))
    tiles.append(("Took", f"{_seconds(result):.1f} s", "from files to the model"))
    boxes = [
        tag("li", tag("span", what, class_="of"), tag("span", value, class_="value"), tag("span", of, class_="of"))
        for what, value, of in tiles
    ]
    return section("Summary", tag("ul", *boxes, class_="tiles"), tag("p", said), anchor="summary")


def _label_summary(result: dict[str, Any]) -> Element:
    """Return the summary where images may have several labels."""
    tested, precision = result["accuracy"] is not None, result["mean_average_precision"]
    images = f"{result['test_images']} test images" if tested else f"{result['train_images']} training images"
    whose = f"on {images}" + ("" if tested else ", by leave-one-out")
    tiles = [("Mean average precision", "-" if precision is None else _percent(precision), whose)]
    if tested:
        interval = _interval(result["accuracy_interval"])
        tiles.append(("All labels right", _percent(result["accuracy"]), f"{interval} with 95 % confidence; {whose}"))
    return _tiled(result, tiles, "Images may have several labels. An image is given those whose score is above 0.")


def _labels(result: dict[str, Any]) -> Element:
    """Return how right each label is, where images may have several, the least precise first."""
    columns = ("average_precision", "precision", "recall")
    found = sorted(result["per_label"].items(), key=lambda each: each[1]["average_precision"] or 0.0)
    rows = [
        row(
            name(each),
            of["images"],
            *(cell("-" if of[key] is None else _percent(of[key]), "number") for key in columns),
        )
        for each, of in found[:CLASSES]
    ]
    header = ["label", "images", "average precision", "precision", "recall"]
    title = _first("Labels, the worst first", len(found), CLASSES)
    return section("Labels", table(title, header, rows), anchor="classes")


def _trained_on(result: dict[str, Any]) -> str:
    return "the test images are not among them" if result["accuracy"] is not None else "all of them; none was tested on"


def _seconds(result: dict[str, Any]) -> float:
    refit = result["refit"]
    return float(result["timings"]["total"] + (result["test_seconds"] or 0) + (refit["seconds"] if refit else 0))


def _worst(outcomes: Outcomes) -> list[Any]:
    """Return the classes that have images, the least accurate first."""
    return sorted((each for each in outcomes.per_class() if each.images), key=lambda each: each.accuracy or 0.0)


def _classes(outcomes: Outcomes, tested: bool) -> Element:
    kind = "test images" if tested else "training images"
    parts: list[Element] = []
    if len(outcomes.classes) <= MATRIX:
        said = f"A row is the {kind} of one class, a column those that were labelled so."
        parts += [tag("p", said, class_="note"), _matrix(outcomes)]
    worst = _worst(outcomes)
    rows = [
        row(
            name(each.name),
            each.images,
            each.right,
            cell(_percent(each.accuracy or 0.0), "number"),
            cell(_interval(each.interval), "number"),
            name(each.mistaken_for or ""),
        )
        for each in worst[:CLASSES]
    ]
    header = ["class", "images", "right", "accuracy", "with 95 % confidence", "most often taken for"]
    parts.append(table(_first("Classes, the worst first", len(worst), CLASSES), header, rows))
    confusions = outcomes.confusions()
    if len(outcomes.classes) > MATRIX and confusions:
        rows = [row(name(each.label), name(each.predicted), each.images) for each in confusions[:ROWS]]
        parts.append(table(_first("Confusions", len(confusions), ROWS), ["class", "taken for", "images"], rows))
    return section("Classes and confusions", *parts, anchor="classes")


def _first(title: str, there: int, most: int) -> str:
    return title if there <= most else f"{title}: {most} of {there:,d}"


def _matrix(outcomes: Outcomes) -> Element:
    names = [name(each) for each in outcomes.classes.tolist()]
    head = [tag("th", "class", scope="col"), *(tag("th", tag("span", each), scope="col") for each in names)]
    body = []
    for index, (label, counts) in enumerate(zip(names, outcomes.confusion.tolist(), strict=True)):
        total = max(1, sum(counts))
        cells = [
            tag(
                "td",
                str(count) if count else "",
                class_="hit" if index == other else "miss",
                style=f"--share: {round(70 * count / total)}%",
            )
            for other, count in enumerate(counts)
        ]
        body.append(tag("tr", tag("th", label, scope="row", title=label), *cells))
    box = table("Confusion matrix", head, body)
    box[0].set("class", "matrix")
    return box


def _root(paths: Sequence[str]) -> str:
    """Return the folder that all files are in, which the page leaves out of their names."""
    try:
        return commonpath([str(Path(path).parent) for path in paths])
    except ValueError:  # none, or relative and absolute ones
        return ""


def _suspected(outcomes: Outcomes) -> np.ndarray:
    """Return the indices of the images that were labelled otherwise, ranked as a review ranks them."""
    order = np.argsort(suspicion(outcomes.scores, outcomes.labels), kind="stable")
    found: np.ndarray = order[outcomes.predicted[order] != outcomes.labels[order]]
    return found


def _mistakes(
    outcomes: Outcomes, root: str, anchor: str, title: str, note: str, ranked: Callable[[Outcomes], np.ndarray]
) -> Element:
    wrong = ranked(outcomes)
    if not len(wrong):
        return section(title, tag("p", f"None of {len(outcomes):,d}."), anchor=anchor)
    chosen = wrong[:IMAGES].tolist()
    paths = [outcomes.paths[index] if outcomes.paths is not None else None for index in chosen]
    pictures = iter(thumbnails([path for path in paths if path is not None]))
    items = [
        _card(outcomes, index, path, root, None if path is None else next(pictures))
        for index, path in zip(chosen, paths, strict=True)
    ]
    count = f"{len(wrong):,d} of {len(outcomes):,d} images"
    count += f", of which the first {len(chosen)} are shown. " if len(wrong) > len(chosen) else ". "
    return section(title, tag("p", count + note, class_="note"), cards(items), anchor=anchor)


def _card(outcomes: Outcomes, index: int, path: str | None, root: str, data: bytes | None) -> Iterator[Element]:
    own = name(outcomes.name(index))
    chances = [(name(each), chance) for each, chance in outcomes.most_probable(index, 2)]
    if data is not None:
        yield picture(data, f"{own}, labelled {chances[0][0]}", "jpeg")
    yield tag("div", own, " → ", tag("span", chances[0][0], class_="error verdict"))
    others = [f"{each} {_percent(chance)}" for each, chance in chances if each != own]
    chance = float(outcomes.probabilities[index, outcomes.labels[index]])
    yield tag("div", f"{', '.join(others)}; {own} {_percent(chance)}")
    if path is not None:
        yield tag("div", name(path.removeprefix(root).lstrip("/")), class_="file")


def _calibration(outcomes: Outcomes, tested: bool) -> Element:
    said = (
        f"Each point is the {'test' if tested else 'training'} images whose highest probability lies in one tenth"
        f"{'' if tested else ', by leave-one-out'}. On the diagonal, four of five images at 80 % are labelled right. "
        "Lines are 95 % confidence; few images make long ones."
    )
    facts = {
        "expected calibration error": _percent(outcomes.calibration_error()),
        "log-loss": f"{outcomes.log_loss():.3f}",
    }
    return section(
        "Can the probabilities be trusted?",
        reliability_diagram(outcomes.calibration(10)),
        tag("p", said, class_="note"),
        listing(facts),
        anchor="probabilities",
    )


def _chosen(result: dict[str, Any]) -> Element:
    facts = {
        "network": f"{name(result['backbone'])}, weights {name(result['weights'])}, cut at {name(result['cut'])}",
        "features": f"{result['features']:,d}, of which the signs are kept",
        "normalization": result["normalization"],
        "projection": result["projection"],
        "alpha": f"{result['alpha']:.4g}, the ridge's penalty",
    }
    if result["class_weight"]:
        weights = result["class_weight"]
        given = (
            weights if isinstance(weights, str) else ", ".join(f"{name(each)} {weights[each]:g}" for each in weights)
        )
        facts["class weights"] = given
    if refit := result["refit"]:
        facts["delivered model"] = (
            f"the same engine, and the ridge on all {refit['images']:,d} images: projection {refit['projection']}, "
            f"alpha {refit['alpha']:.4g}, leave-one-out {_percent(refit['loo_accuracy'])}"
        )
    parts = [listing(facts)]
    if kernels := result["loo_accuracy_of"]:
        rows = [_scored(each, score, each == result["projection"]) for each, score in kernels.items()]
        parts.append(table("Projections, by leave-one-out", ["projection", "accuracy"], rows))
    if "cut_scores" in result:
        parts += [tag("p", name(result["cut_reason"])), _cuts(result)]
    parts.append(_alphas(result))
    return section("What was chosen, and why", *parts, anchor="choice")


def _scored(what: str, score: float | None, chosen: bool, *more: Element) -> Element:
    """Return a row of an accuracy; the chosen one is bold."""
    kind = ["chosen"] if chosen else []
    cells = [cell(what + (" ✓" if chosen else ""), *kind)]
    if score is None:
        return row(*cells, cell("not tried on all images"), *more)
    return row(*cells, cell(_percent(score), "number", *kind), *more)


def _cuts(result: dict[str, Any]) -> Element:
    rows = [
        _scored(
            name(each["name"]),
            each["loo_accuracy"],
            (each["cut"], each["layers"]) == (result["cut"], result["cut_layers"]),
            cell(f"{100 * each['behind']:.1f} ± {100 * each['standard_error']:.1f}", "number"),
            cell(f"{each['macs'] / 1e9:.3f}", "number"),
            cell(each["projection"]),
        )
        for each in result["cut_scores"]
    ]
    header = ["cut", "accuracy", "points below the best", "GMACs", "projection"]
    return table(f"Cuts, by leave-one-out on {result['cut_images']:,d} images", header, rows)


def _alphas(result: dict[str, Any]) -> Element:
    # Of several labels an image the error decides, and of one the accuracy.
    several = "mean_average_precision" in result
    header = ["alpha", "weighted accuracy" if result["weighted"] else "accuracy"]
    header += ["mean squared error, the least of which was chosen"] if several else []
    rows = [
        _scored(f"{each['alpha']:.4g}", each["loo_accuracy"], each["alpha"] == result["alpha"], *errors)
        for each in sorted(result["alphas"], key=lambda each: float(each["alpha"]))
        for errors in [[cell(_error(each["loo_error"]), "number")] if several else []]
    ]
    return tag("details", tag("summary", "Alphas"), table("Alphas, by leave-one-out", header, rows))


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _speed(result: dict[str, Any]) -> Iterator[Element]:
    """Yield what was measured of the precision: nothing where nothing was."""
    speeds, turns = result["images_per_second"], result["images_per_second_by_turn"]
    agreement = result["sign_agreement"]
    if not speeds and agreement is None:
        return
    parts = []
    if agreement is not None:
        parts.append(
            tag("p", f"{_percent(agreement)} of the features' signs are those of fp32, on images not calibrated on.")
        )
    if speeds:
        rows = [
            row(each, cell(f"{rate:,.1f}", "number"), cell(_spread(turns.get(each)), "number"))
            for each, rate in speeds.items()
        ]
        parts += [tag("p", line) for line in speed_lines(speeds, len(result["in_float"]), turns)]
        parts += [tag("p", line) for line in built_lines(result["engine_built"])]
        parts.append(table("The network on this machine", ["precision", "images/s", "in turns"], rows))
    yield section(f"Precision: {result['precision']} on {result['runtime']}", *parts, anchor="precision")


def _spread(turns: Sequence[float] | None) -> str:
    return f"{min(turns):,.1f} to {max(turns):,.1f}" if turns else ""


STAGES = {
    "decode": "waiting for images",
    "calibrate": "int8 thresholds",
    "build": "making and checking the engine",
    "engine": "running the engine",
    "project": "projection",
    "gram": "Gram matrix",
    "solve": "ridge",
}


def _time(result: dict[str, Any]) -> Element:
    spent = {STAGES.get(stage, stage): seconds for stage, seconds in result["timings"].items() if stage != "total"}
    known = sum(spent.values())
    spent["other"] = max(0.0, result["timings"]["total"] - known)
    if result["test_seconds"] is not None:
        spent["test images"] = result["test_seconds"]
    if result["refit"]:
        spent["refit on all images"] = result["refit"]["seconds"]
    most = max(1e-9, *spent.values())
    rows = [
        row(what, cell(f"{seconds:.2f}", "number"), _bar(6 * seconds / most))
        for what, seconds in spent.items()
        if seconds >= 0.005
    ]
    return section("Where the time went", table("Seconds", ["stage", "seconds", ""], rows), anchor="time")


def _bar(rem: float) -> Element:
    return tag("td", tag("span", class_="bar", style=f"width: {rem:.2f}rem"))


def _skipped(skipped: dict[str, str]) -> Iterator[Element]:
    """Yield the files that could not be read, if there are any."""
    if skipped:
        rows = [row(name(path), name(reason)) for path, reason in list(skipped.items())[:SKIPPED]]
        title = _first("Files", len(skipped), SKIPPED)
        yield section("Files that were left out", table(title, ["file", "why"], rows), anchor="skipped")


def _machine() -> Element:
    here = Machine.here().to_json()
    aside = {each: shown(here[each]) for each in ("date", "system", "python")} | here["versions"]
    return section(
        "Machine and versions",
        tag("p", machine_line(here)),
        tag("details", tag("summary", "Versions"), listing(aside)),
        anchor="machine",
    )


def _use(result: dict[str, Any], data: str) -> Element:
    if not result["out"]:
        said = "The model was not kept. To keep it, add this to the command:"
        return section("How to use it", tag("p", said), tag("pre", "--out MODEL"), anchor="use")
    model = result["out"]
    return section(
        "How to use it",
        tag("p", "Label images, each with its probability:"),
        tag("pre", f"aurevoir predict {model} IMAGES"),
        tag("p", "Measure the accuracy on other labelled images:"),
        tag("pre", f"aurevoir evaluate {model} DATA"),
        tag("p", "Look through its images, for wrong labels and copies:"),
        tag("pre", f"aurevoir review {model} --html review.html"),
        tag("p", "In Python:"),
        tag("pre", f"import aurevoir\n\nclassifier = aurevoir.load({model!r})\nlabels = classifier.predict(paths)"),
        tag("p", "As one engine, from an image to its label, such as for C++:"),
        tag("pre", f"aurevoir build {model} --out classifier.engine"),
        tag("p", f"It knows images like those of {name(data)}: one of none of its classes is labelled too."),
        anchor="use",
    )
