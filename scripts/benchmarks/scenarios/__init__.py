"""What is measured, scenario by scenario: each takes a Run and gives back figures by name.

Times are in seconds, rates in MB/s (10^6 bytes), memory and traffic in MiB unless a name says otherwise. A key "beside" holds
the figures of others that were measured in the same run, by name."""
from dataclasses import dataclass
from typing import Callable

from .. import clients
from . import bulk, local, wan

STREAMING = {"ours": clients.Ours, "libtorrent": clients.LibtorrentDeadlines, "rqbit": clients.Rqbit}
DOWNLOADING = {"ours": clients.Ours, "libtorrent": clients.Libtorrent}


@dataclass(frozen=True)
class Scenario:
    """`clients` by the name they have in the table; `profile` and `payload` as swarm and payload know them."""
    function: Callable
    payload: str
    profile: str
    clients: dict
    pairs: bool = False  # measured by ratios of neighbours: wants more rounds


SCENARIOS = {
    "wan": Scenario(wan.streaming, "big", "wan",
                    {**STREAMING, "ours-user": clients.OursAsUser, "debian": clients.Debian}),
    "wan-pause": Scenario(wan.pause, "big", "wan", STREAMING),
    "hetero": Scenario(wan.streaming, "big", "hetero", STREAMING),
    "dead": Scenario(wan.first_bytes, "big", "dead", {**STREAMING, "debian": clients.Debian}),
    "cold-1": Scenario(bulk.sequential, "big", "one",
                       {**DOWNLOADING, "aria2": clients.Aria2, "debian": clients.Debian, "rqbit": clients.Rqbit}, pairs=True),
    "cold-4": Scenario(bulk.sequential, "big", "four", DOWNLOADING, pairs=True),
    "cold-4mib": Scenario(bulk.sequential, "big_pieces", "one", DOWNLOADING, pairs=True),
    "random": Scenario(bulk.random_reads, "big", "one", STREAMING),
    "ours-read": Scenario(bulk.ours_read, "big", "none", {"ours": clients.Ours}),
    "ours-fill": Scenario(bulk.ours_fill, "big", "none", {"ours": clients.OursFilling}),
    "seeding": Scenario(bulk.seeding, "big", "none",
                        {"ours": clients.OursSeed, "libtorrent": clients.LibtorrentSeed, "aria2": clients.Aria2Seed}, pairs=True),
    "complete": Scenario(local.complete, "big", "one", {"ours": clients.OursFilling}),
    "complete-user": Scenario(local.complete, "big", "one", {"ours-user": clients.OursFillingAsUser}),
    "idle": Scenario(local.idle, "big", "wan", {"ours": clients.Ours, "rqbit": clients.Rqbit}),
    "zip": Scenario(wan.archive, "archive", "wan", STREAMING),
    "video": Scenario(wan.video, "video", "wan", {"ours": clients.Ours, "rqbit": clients.Rqbit, "debian": clients.Debian}),
    "many": Scenario(local.many, "many", "none", {"ours": clients.Ours, "debian": clients.Debian}),
    "scan": Scenario(local.scan, "media", "wan", {"ours": clients.Ours, "debian": clients.Debian}),
}
