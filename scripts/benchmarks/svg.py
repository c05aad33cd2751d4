"""The results as a drawing: for each measure how many times better than the goal we are, and where the peer is."""
import math
from html import escape

from .goals import table_rows
from .table import NAMES, number

WIDTH, LABELS, FIGURES = 960, 300, 240
ROW, TITLE, TOP, BOTTOM = 20, 30, 66, 24
# Times as good as the goal, at the left and right end; beyond that the bar is cut.
WORST, BEST = 1 / 16, 16
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-size: 15px; font-weight: 600 } .title { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
.back { fill: #ffffff } .goal { stroke: #24292f; stroke-width: 1.5 } .grid { stroke: #d0d7de }
.reached { fill: #2da44e } .short { fill: #d4722a } .peer { fill: none; stroke: #57606a; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
 text { fill: #e6edf3 } .small { fill: #8d96a0 } .back { fill: #0d1117 } .goal { stroke: #e6edf3 } .grid { stroke: #30363d }
 .peer { stroke: #8d96a0 } }
"""


def place(merit):
    """Where a merit (times as good as the goal) is drawn."""
    width = WIDTH - LABELS - FIGURES
    share = math.log(min(max(merit, WORST), BEST) / WORST) / math.log(BEST / WORST)
    return LABELS + share * width


def merit(value, bound, higher):
    """How many times as good as its bound a value is."""
    return value / bound if higher else bound / max(value, 1e-9)


def merits(row):
    """Ours and the peer's, times as good as the goal."""
    measure = row.measure
    if measure.times:
        return merit(row.ratio, measure.goal, measure.higher), merit(1, measure.goal, measure.higher)
    return (merit(row.ours, measure.goal, measure.higher),
            merit(row.peer, measure.goal, measure.higher) if row.peer is not None else None)


def draw(results, caption):
    parts, y = [], TOP
    text = lambda x, words, kind="", anchor="start": parts.append(
        '<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>' % (x, y, kind, anchor, escape(words)))
    for title, found in table_rows(results):
        found = [row for row in found if row.verdict in ("reached", "short")]
        if not found:
            continue
        y += TITLE - ROW
        text(12, title, "title")
        for row in found:
            y += ROW
            ours, peer = merits(row)
            text(LABELS - 10, row.measure.label, "", "end")
            left, right = sorted((place(1), place(ours)))
            parts.append('<rect x="%.1f" y="%d" width="%.1f" height="12" class="%s"/>' % (
                left, y - 10, max(2, right - left), row.verdict))
            if peer is not None:
                parts.append('<circle cx="%.1f" cy="%d" r="4" class="peer"/>' % (place(peer), y - 4))
            words = "%s %s" % (number(row.ours), row.measure.unit)
            if row.peer_name:
                words += " · %s %s" % (NAMES[row.peer_name], number(row.peer))
            text(WIDTH - FIGURES + 10, words)
        y += ROW
    height = y + BOTTOM
    grid = []
    for times in (1 / 16, 1 / 4, 1, 4, 16):
        grid.append('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" class="%s"/>' % (
            place(times), place(times), TOP - 8, height - BOTTOM, "goal" if times == 1 else "grid"))
        label = "goal" if times == 1 else "%g×" % times if times > 1 else "1/%d" % round(1 / times)
        grid.append('<text x="%.1f" y="%d" class="small" text-anchor="middle">%s</text>' % (place(times), TOP - 14, label))
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img">' % (WIDTH, height),
        "<title>btfs beside its goals and its peers</title>", "<style>%s</style>" % STYLE,
        '<rect width="100%" height="100%" class="back"/>',
        '<text x="12" y="22" class="head">Times as good as the goal: bar = btfs, ring = the peer</text>',
        '<text x="12" y="40" class="small">%s</text>' % escape(caption), *grid, *parts, "</svg>", ""])
