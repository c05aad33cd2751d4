"""The results as a Markdown table, and their place in docs/performance.md."""
from .goals import table_rows

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
NAMES = {"libtorrent": "libtorrent", "debian": "Debian's btfs", "rqbit": "rqbit", "aria2": "aria2", "plain": "plain file"}


def number(value):
    """Three digits that count."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return format(round(value), ",d")
    return ("%.3f" if abs(value) < 1 else "%.2f" if abs(value) < 10 else "%.1f") % value


def goal(measure):
    return "%s %s%s" % ("≥" if measure.higher else "≤", "%g" % measure.goal, " ×" if measure.times else " " + measure.unit)


def markdown(results):
    lines = ["| measure | ours | goal | peer | ours ÷ peer | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for title, found in table_rows(results):
        lines.append("| **%s** | | | | | |" % title)
        for row in found:
            ours = "%s %s" % (number(row.ours), row.measure.unit) if row.ours is not None else "–"
            if row.spread and row.ours is not None:
                ours += " (%s to %s)" % tuple(map(number, row.spread))
            peer = "%s %s" % (NAMES[row.peer_name], number(row.peer)) if row.peer_name else "–"
            lines.append("| %s | %s | %s | %s | %s | %s |" % (
                row.measure.label, ours, goal(row.measure), peer, number(row.ratio), verdict(row)))
    return "\n".join(lines)


def verdict(row):
    if row.failed and row.ours is not None:
        return "%s; %d run%s failed" % (row.verdict, row.failed, "s" * (row.failed > 1))
    return row.verdict


def failures(results):
    """What did not work out, as a list; nothing if all did."""
    lines = ["* failed: %s, %s, round %d: %s" % (result["scenario"], NAMES.get(result["client"], result["client"]),
                                                 result["round"] + 1, " ".join(result["error"].split()))
             for result in results if "error" in result]
    return "\n".join(["", ""] + lines) if lines else ""


def insert(path, text):
    """Puts the figures between the two marks of a document."""
    with open(path) as file:
        before, rest = file.read().split(BEGIN)
    after = rest.split(END)[1]
    with open(path, "w") as out:
        out.write("%s%s\n%s\n%s%s" % (before, BEGIN, text, END, after))
