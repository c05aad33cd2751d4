"""What is to be reached, in the order of the table."""
import statistics
from dataclasses import dataclass

# Read-ahead goes this far at most (btfs mount --help), and a piece is begun before it ends.
WINDOW_AND_PIECE_MIB = 64 + 1


@dataclass(frozen=True)
class Measure:
    """One row: the figure of a scenario, for one of its clients.

    `goal` is a bound in `unit`, from above unless `higher`. With `times` it bounds the ratio of our figure to that of `beside`
    instead. Without `beside` the best of the peers is shown beside ours. `scale` turns the figure into the unit."""
    label: str
    scenario: str
    figure: str
    unit: str
    goal: float
    client: str = "ours"
    higher: bool = False
    times: bool = False
    beside: str | None = None
    scale: float = 1
    group: str = ""


GROUPS = [
    ("WAN: 8 peers, 60 ms, 2 MB/s each", [
        Measure("first 64 KiB after listing", "wan", "first", "s", 0.27),
        Measure("launch to first byte", "wan", "launch", "s", 0.36),
        Measure("seek to 1 MiB, misses: median", "wan", "seek", "s", 0.26),
        Measure("seek to 1 MiB: slowest", "wan", "seek_max", "s", 0.5),
        Measure("seek as ordinary user: median", "wan", "seek", "s", 0.33, client="ours-user"),
        Measure("seek as ordinary user: slowest", "wan", "seek_max", "s", 0.6, client="ours-user"),
        Measure("64 MiB in sequence, of 16 MB/s", "wan", "stream", "MB/s", 15.4, higher=True),
        Measure("fetched beyond what was read", "wan", "excess", "MiB", WINDOW_AND_PIECE_MIB),
        Measure("wasted of what was fetched", "wan", "wasted_percent", "%", 2),
        Measure("first seek after 90 s of pause", "wan-pause", "after_pause", "s", 0.35),
    ]),
    ("4 good peers, 4 with 600 ms and 50 kB/s", [
        Measure("seek, misses: median", "hetero", "seek", "s", 0.45),
        Measure("seek: slowest", "hetero", "seek_max", "s", 0.9),
        Measure("64 MiB in sequence, of 8.2 MB/s", "hetero", "stream", "MB/s", 7.5, higher=True),
        Measure("wasted of what was fetched", "hetero", "wasted_percent", "%", 6),
    ]),
    ("WAN with one silent peer of 8", [
        Measure("first 64 KiB after listing", "dead", "first", "s", 0.5),
    ]),
    ("One seed, no delay: 1 GiB through the mount", [
        Measure("sequential", "cold-1", "rate", "MB/s", 1.15, higher=True, times=True, beside="libtorrent"),
        Measure("user CPU", "cold-1", "user", "s/GiB", 0.9, beside="libtorrent"),
        Measure("user and system CPU", "cold-1", "cpu", "s/GiB", 1, times=True, beside="libtorrent"),
        Measure("4 seeds: sequential", "cold-4", "rate", "MB/s", 1.1, higher=True, times=True, beside="libtorrent"),
        Measure("pieces of 4 MiB: sequential", "cold-4mib", "rate", "MB/s", 1.1, higher=True, times=True, beside="libtorrent"),
        Measure("cold random 64 KiB: median", "random", "p50", "ms", 9, scale=1e3),
        Measure("cold random 64 KiB: 95th percentile", "random", "p95", "ms", 15, scale=1e3),
    ]),
    ("Both ends ours: 1 GiB", [
        Measure("read through the mount", "ours-read", "rate", "MB/s", 700, higher=True),
        Measure("without a reader (--fill all)", "ours-fill", "rate", "MB/s", 1000, higher=True),
    ]),
    ("Complete file", [
        Measure("root: read again", "complete", "again", "MB/s", 0.8, higher=True, times=True, beside="plain"),
        Measure("root: 4 KiB at random, median", "complete", "page", "µs", 2, times=True, beside="plain", scale=1e6),
        Measure("user: read again", "complete-user", "again", "MB/s", 0.55, client="ours-user", higher=True, times=True,
                beside="plain"),
        Measure("user: caches dropped", "complete-user", "dropped", "MB/s", 0.65, client="ours-user", higher=True, times=True,
                beside="plain"),
    ]),
    ("Seeding 1 GiB to libtorrent", [
        Measure("rate", "seeding", "rate", "MB/s", 1.6, higher=True, times=True, beside="libtorrent"),
        Measure("user and system CPU", "seeding", "cpu", "s/GiB", 0.5),
    ]),
    ("Small cost", [
        Measure("peak of memory, in all but the 100,000 files", "*", "peak", "MiB", 40),
        Measure("idle CPU", "idle", "idle_percent", "%", 0.1),
    ]),
    ("Zip of 4,096 entries in 512 MiB on the WAN", [
        Measure("list", "zip", "list", "s", 0.25),
        Measure("list, then one member", "zip", "member", "s", 0.5),
        Measure("fetched", "zip", "fetched_mb", "MB", 2),
    ]),
    ("Film with its index at the end, on the WAN", [
        Measure("ffprobe", "video", "probe", "s", 0.7),
        Measure("2 s from the middle", "video", "middle", "s", 0.6),
        Measure("fetched", "video", "fetched_mb", "MB", 15),
    ]),
    ("100,000 files", [
        Measure("mount", "many", "listed", "s", 2),
        Measure("find with sizes", "many", "find", "s", 1),
        Measure("peak of memory", "many", "peak", "MiB", 120),
    ]),
    ("Scanning 200 films of 4 MiB on the WAN, for each file", [
        # The MiB of head and that of tail which it asks for, a piece for what the kernel reads ahead, the protocol.
        Measure("file *, which reads 1 MiB at both ends: fetched", "scan", "file_mib", "MiB", 2.3),
        # A piece of each, one ahead, and the protocol.
        Measure("head and tail: fetched", "scan", "ends_mib", "MiB", 0.8),
    ]),
]


@dataclass(frozen=True)
class Row:
    """A measure with what was found; `None` where nothing was."""
    measure: Measure
    ours: float | None
    peer: float | None
    peer_name: str | None
    ratio: float | None
    spread: tuple | None
    failed: int = 0  # runs of ours

    @property
    def verdict(self):
        if self.failed and self.ours is None:
            return "failed"
        value = self.ratio if self.measure.times else self.ours
        if value is None:
            return "not measured"
        reached = value >= self.measure.goal if self.measure.higher else value <= self.measure.goal
        return "reached" if reached else "short"


def row_of(measure, results):
    """What the results say of a measure."""
    if measure.scenario == "*":
        peaks = [result["peak"] for result in results
                 if result["client"].startswith("ours") and result["scenario"] != "many" and "peak" in result]
        peaks += [result["seed_peak"] for result in results if "seed_peak" in result]
        return Row(measure, max(peaks, default=None), None, None, None, None)
    figures = {}  # of each client, by round
    for result in results:
        if result["scenario"] == measure.scenario and measure.figure in result:
            figures.setdefault(result["client"], {})[result["round"]] = result[measure.figure] * measure.scale
    own = figures.pop(measure.client, {})
    peers = {name: values for name, values in figures.items() if not name.startswith("ours")}
    if measure.beside:
        name = measure.beside if measure.beside in peers else None
    else:
        # A plain file is a floor, to be shown where there is no rival.
        rivals = [name for name in peers if name != "plain"] or peers
        best = max if measure.higher else min
        name = best(rivals, key=lambda name: statistics.median(peers[name].values()), default=None)
    # The slowest of all rounds, where it is the slowest that is asked for.
    middle = max if measure.figure.endswith("_max") else statistics.median
    ours = middle(own.values()) if own else None
    peer = middle(peers[name].values()) if name else None
    # Of neighbours in time where there are such: what disturbs the one disturbs the other, too.
    pairs = [own[number] / peers[name][number] for number in own if name and peers[name].get(number)]
    ratio = statistics.median(pairs) if pairs else ours / peer if ours is not None and peer else None
    failed = sum("error" in result for result in results
                 if result["scenario"] == measure.scenario and result["client"] == measure.client)
    return Row(measure, ours, peer, name, ratio, (min(own.values()), max(own.values())) if len(own) > 1 else None,
               failed)


def table_rows(results):
    """Groups with their rows, of the scenarios that were run."""
    run = {result["scenario"] for result in results}
    for title, measures in GROUPS:
        found = [row_of(measure, results) for measure in measures if measure.scenario in run | {"*"}]
        if any(row.ours is not None or row.failed for row in found):
            yield title, found
