"""Draw docs/figures/report.png, the page of a fit on a desk and on a phone.

Called as ``python docs/figures/report.py PAGE.html`` with the page of the README's example. Needs a Chromium (`make
browser`).
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fakes"))

import chromium  # type: ignore[import-not-found, unused-ignore]  # noqa: E402

HEIGHT, GAP = 1110, 24


def main(page: Path) -> None:
    """Show the page in both, in light and dark, and write the picture next to this file."""
    with tempfile.TemporaryDirectory() as profile:
        browser = chromium.Chromium(chromium.find(), profile)
        shots = [
            Image.fromarray(browser.show(page, width, HEIGHT, scheme).pixels)
            for width, scheme in ((1000, "light"), (360, "dark"))
        ]
        browser.close()
    sheet = Image.new("RGB", (sum(shot.width for shot in shots) + GAP, HEIGHT), "white")
    sheet.paste(shots[0], (0, 0))
    sheet.paste(shots[1], (shots[0].width + GAP, 0))
    sheet.quantize(128, dither=Image.Dither.NONE).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
