"""Draws ratios as horizontal bars: the median, a whisker from the lowest to the highest round, a line at limit and aim.

Plain SVG with text in it, and colours for light and dark.
"""

import html

from figures import RATIO, show

WIDTH = 960
LABELS = 430
RIGHT = 70
ROW = 26
BAR = 14
TOP = 64
BOTTOM = 34
# Beyond this a bar is cut off: its number stands beside it anyway.
SCALE_MAX = 4.0
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.head { font-weight: 600 }
.bar { fill: #4b7bb5 }
.missed { fill: #c4554d }
.axis { stroke: #d1d9e0; stroke-width: 1 }
.whisker { stroke: #1f2328; stroke-width: 1.5; fill: none }
.limit { stroke: #b35900; stroke-width: 2.5 }
.aim { stroke: #1a7f37; stroke-width: 2.5; stroke-dasharray: 3 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  .bar { fill: #5b94d6 }
  .missed { fill: #e5736b }
  .axis { stroke: #3d444d }
  .whisker { stroke: #f0f6fc }
  .limit { stroke: #f0a04b }
  .aim { stroke: #3fb950 }
}
"""


def rows_of(sections):
    """The ratios, and a heading before those of each section."""
    for section, figures in sections.items():
        drawn = [figure for figure in figures if figure.unit == RATIO]
        if drawn:
            yield section, None
            for figure in drawn:
                yield section, figure


def nice_end(rows):
    """Where the scale ends: a whole number above all that is drawn, up to the most."""
    highest = max([max(figure.values) for _, figure in rows if figure] + [figure.limit or 0 for _, figure in rows if figure])
    return min(SCALE_MAX, float(int(highest) + 1))


class Drawing:
    """Lines of SVG, with a scale from 0 to its end."""

    def __init__(self, end):
        self.lines, self.end = [], end

    def x(self, ratio):
        return LABELS + (WIDTH - LABELS - RIGHT) * min(ratio, self.end) / self.end

    def text(self, x, y, words, classes="", anchor="start"):
        self.lines.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" text-anchor="{anchor}">{html.escape(words)}</text>')

    def line(self, x, y, x2, y2, classes):
        self.lines.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>')

    def row(self, y, figure):
        middle = y + ROW / 2
        self.text(LABELS - 10, middle + 4, figure.name, anchor="end")
        missed = " missed" if figure.verdict == "missed" else ""
        width = self.x(figure.value) - LABELS
        self.lines.append(
            f'<rect x="{LABELS}" y="{middle - BAR / 2:.1f}" width="{width:.1f}" height="{BAR}" class="bar{missed}">'
            f"<title>{html.escape(figure.name)}: {show(figure.value, figure.unit)}</title></rect>"
        )
        low, high = self.x(min(figure.values)), self.x(max(figure.values))
        self.line(low, middle, high, middle, "whisker")
        for end in (low, high):
            self.line(end, middle - 4, end, middle + 4, "whisker")
        for value, classes in ((figure.limit, "limit"), (figure.aim, "aim")):
            if value is not None:
                self.line(self.x(value), middle - 10, self.x(value), middle + 10, classes)
        self.text(WIDTH - 6, middle + 4, show(figure.value, figure.unit), anchor="end")


def legend(drawing):
    drawing.text(12, 22, "Ratios: the broker's figure to what it is compared with", "head")
    words = "bar: median; whisker: lowest to highest round; red: limit missed (of cores: the least, else the most)"
    drawing.text(12, 42, words, "small")
    for x, kind in ((LABELS + 350, "limit"), (LABELS + 420, "aim")):
        drawing.line(x, 30, x, 46, kind)
        drawing.text(x + 8, 42, kind, "small")


def draw(sections):
    rows = list(rows_of(sections))
    if not rows:
        raise ValueError("nothing to draw: no section with ratios was measured")
    drawing = Drawing(nice_end(rows))
    height = TOP + ROW * len(rows) + BOTTOM
    bottom = TOP + ROW * len(rows)
    steps = int(drawing.end * 2) if drawing.end <= 3 else int(drawing.end)
    for step in range(steps + 1):
        ratio = drawing.end * step / steps
        drawing.line(drawing.x(ratio), TOP, drawing.x(ratio), bottom, "axis")
        drawing.text(drawing.x(ratio), bottom + 18, f"{ratio:g}", "small", "middle")
    for index, (section, figure) in enumerate(rows):
        if figure is None:
            drawing.text(12, TOP + ROW * index + ROW / 2 + 4, section, "head")
        else:
            drawing.row(TOP + ROW * index, figure)
    legend(drawing)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Ratios measured">'
    return "\n".join([opening, f"<style>{STYLE}</style>", *drawing.lines, "</svg>", ""])
