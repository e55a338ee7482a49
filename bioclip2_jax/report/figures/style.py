"""What all figures share: colours, sizes, and the way to SVG; narrow enough for a phone."""

import html
import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; shapes repeat the message.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#B8A000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
OTHER_COLOR = "#B0B0B0"
BAR_COLOR = "#A8CBE3"
GRID_COLOR = "#E4E7EB"
# Those that are hard to see in a dark page follow its scheme.
_PAGE_COLORS = {
    "#000000": "currentColor",
    "#FFFFFF": "var(--paper)",
    GRID_COLOR: "var(--line)",
    BAR_COLOR: "var(--bars)",
    COLORS[0]: "var(--blue)",
}
_ID = r'(id="|href="#|url\(#)'  # where an SVG names or uses one
WIDTH = 4.0  # inches: with 9.5 points text stays readable at the width of a phone
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "svg.fonttype": "path",
    "svg.hashsalt": "report",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID_COLOR,
    "legend.frameon": False,
    "legend.columnspacing": 1.0,
    "legend.handletextpad": 0.5,
    "text.parse_math": False,  # a dollar in a name is a dollar
}


def svg(figure: Figure, description: str) -> str:
    """The figure as an SVG element that scales with the page and speaks to screen readers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # Ids repeat between figures of one page.
    prefix = re.sub(r"\W+", "-", description.lower())[:40]
    text = re.sub(_ID, rf"\g<1>{prefix}-", text)
    label = html.escape(description, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def inline(drawing: str, prefix: str) -> str:
    """A figure as part of a page: with ids of its own, in the page's colours of ink and paper.

    Args:
      drawing: as `svg` returns it.
      prefix: another one for every figure of the page.
    """
    drawing = re.sub(_ID, rf"\g<1>{prefix}-", drawing)
    return re.sub(
        r"#[0-9a-f]{6}\b", lambda match: _PAGE_COLORS.get(match[0].upper(), match[0]), drawing
    )
