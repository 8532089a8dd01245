"""A reliability diagram as inline SVG: accuracy against probability."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from ..page import tag
from ..transfer.outcomes import Bin

_LEFT, _TOP, _SIDE = 60, 8, 300
_LABELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def reliability_diagram(bins: Sequence[Bin]) -> Element:
    """Return the diagram: a point for each bin, as large as it has images, with its interval, and the diagonal."""
    largest = max((each.images for each in bins), default=1)
    drawing = tag(
        "svg",
        *_axes(),
        *(part for each in bins for part in _point(each, largest)),
        viewBox=f"0 0 {_LEFT + _SIDE + 24} {_TOP + _SIDE + 44}",
        class_="diagram",
        role="img",
        aria_label="Reliability diagram: " + "; ".join(_said(each) for each in bins),
        fill="currentColor",
        stroke="none",
        font_size="12",
    )
    return tag("figure", drawing)


def _said(each: Bin) -> str:
    return f"of {each.images} images at {100 * each.probability:.0f} % {100 * each.accuracy:.0f} % right"


def _across(share: float) -> str:
    return f"{_LEFT + _SIDE * share:.1f}"


def _up(share: float) -> str:
    return f"{_TOP + _SIDE * (1 - share):.1f}"


def _line(first: tuple[float, float], second: tuple[float, float], **more: str) -> Element:
    ends = {"x1": _across(first[0]), "y1": _up(first[1]), "x2": _across(second[0]), "y2": _up(second[1])}
    return tag("line", **ends, stroke="currentColor", **more)


def _axes() -> list[Element]:
    parts = [
        tag(
            "rect",
            x=str(_LEFT),
            y=str(_TOP),
            width=str(_SIDE),
            height=str(_SIDE),
            fill="none",
            stroke="currentColor",
            stroke_opacity="0.5",
        ),
        _line((0, 0), (1, 1), stroke_dasharray="5 5", stroke_opacity="0.6"),
    ]
    for each in _LABELS:
        text = f"{100 * each:.0f} %"
        parts.append(tag("text", text, x=_across(each), y=str(_TOP + _SIDE + 17), text_anchor="middle"))
        parts.append(tag("text", text, x=str(_LEFT - 6), y=f"{float(_up(each)) + 4:.1f}", text_anchor="end"))
    middle = f"{_TOP + _SIDE / 2:.1f}"
    parts.append(tag("text", "probability", x=_across(0.5), y=str(_TOP + _SIDE + 37), text_anchor="middle"))
    turned = f"rotate(-90 14 {middle})"
    parts.append(tag("text", "labelled right", x="14", y=middle, transform=turned, text_anchor="middle"))
    return parts


def _point(each: Bin, largest: int) -> list[Element]:
    low, high = each.interval
    radius = 3 + 7 * (each.images / largest) ** 0.5
    return [
        _line((each.probability, low), (each.probability, high), stroke_width="1.5", stroke_opacity="0.7"),
        tag(
            "circle",
            tag("title", _said(each)),
            cx=_across(each.probability),
            cy=_up(each.accuracy),
            r=f"{radius:.1f}",
            style="fill: var(--mark)",
        ),
    ]
