"""Without delay: how fast everything comes, what it costs, and how fast it is given to others."""
import os
import random
import time

from ..clients import OTHER_PORT, PORT, Libtorrent, Mounted, OursSeed, Rqbit
from ..host import wait_until
from ..run import Nothing, Span, percentile, rate

RANDOM_BYTES, RANDOM_READS = 64 * 1024, 100


def sequential(run):
    """All of the file: who can be read is read, after the seeds are connected; others download it from their launch on.

    A read that takes longer than the limit is cut, and counted by what came."""
    run.warm()
    run.start()
    if isinstance(run.client, (Mounted, Rqbit)):
        run.swarm.wait_connected()
        span = Span(run.client)
        seconds, size = run.client.reader.sequence(0, run.payload.size, run.limit)
        figures = {"rate": rate(size, seconds), **span.per_gib(size), "read": size}
        if size == run.payload.size and isinstance(run.client, Mounted):
            run.compare()
        return figures
    span = Nothing(run.client)
    size, seconds = run.payload.size, run.client.wait_complete(run.limit)
    return {"rate": rate(size, seconds), **span.per_gib(size), "read": size}


def random_reads(run):
    """100 reads of 64 KiB, the first apart."""
    run.start()
    run.swarm.wait_connected()
    lot = random.Random(100 + run.round)
    places = [lot.randrange((run.payload.size - RANDOM_BYTES) // 4096) * 4096 for _ in range(RANDOM_READS)]
    first, *times = [run.read(place, RANDOM_BYTES) for place in places]
    return {"first": first, "p50": percentile(times, 50), "p95": percentile(times, 95), "fetched": run.fetched_mib(),
            "peak": run.client.usage().peak_mib}


def with_our_seed(run):
    """Our seed first, and its address for the mount."""
    run.warm()
    seed = run.another(OursSeed)
    seed.launch()
    seed.wait_ready()
    run.client.options = [*run.client.options, "--peer", "127.0.0.1:%d" % PORT, "--port", str(OTHER_PORT)]
    return seed


def ours_read(run):
    """From our seed through our mount to a reader."""
    seed = with_our_seed(run)
    run.start()
    wait_until(lambda: run.client.status()["peers"], 15, "connecting")
    spans = Span(run.client), Span(seed)
    seconds, size = run.client.reader.sequence(0, run.payload.size, run.limit)
    ours, seeding = (span.per_gib(size) for span in spans)
    run.compare()
    return {"rate": rate(size, seconds), **ours, "seed_cpu": seeding["cpu"], "seed_peak": seeding["peak"]}


def ours_fill(run):
    """From our seed into the cache, nobody reads; from the launch until everything is there."""
    seed = with_our_seed(run)
    span = Span(seed)
    run.start()
    wait_until(lambda: run.client.status()["left_bytes"] == 0, run.limit, "filling", 0.02)
    seconds, size = time.monotonic() - run.client.launched, run.payload.size
    ours, seeding = Nothing(run.client).per_gib(size), span.per_gib(size)
    run.compare()
    return {"rate": rate(size, seconds), **ours, "seed_cpu": seeding["cpu"], "seed_peak": seeding["peak"]}


def seeding(run):
    """A libtorrent leech takes everything from the client, which has it: rate by the leech's own clock."""
    run.warm()
    run.client.launch()
    run.client.wait_ready()
    leech = run.another(Libtorrent)
    leech.port, leech.peers = OTHER_PORT, [["127.0.0.1", PORT]]
    span = Span(run.client)
    leech.launch()
    leech.wait_listed()
    seconds, size = leech.wait_complete(run.limit), run.payload.size
    received = os.path.getsize(os.path.join(leech.data, run.payload.name))
    assert received == size, "a leech that is complete has all of the file"
    return {"rate": rate(size, seconds), **span.per_gib(size), "leech_cpu": leech.usage().user + leech.usage().system}
