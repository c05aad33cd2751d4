"""Behind links with delay: the first bytes, seeks, a stream, a pause; an archive and a film, which are read in leaps."""
import io
import random
import time
import zipfile

from ..host import MIB, Failed, run_bounded
from ..payload import ZIP_ENTRIES, ZIP_ENTRY_BYTES, archive_member
from ..run import percentile, rate
from ..swarm import GOOD

FIRST_BYTES = 64 * 1024
SEEKS, SEEKS_AFTER_PAUSE = 20, 6
STREAM_BYTES = 64 * MIB
SETTLE_SECONDS = 6  # a client that fetches on its own never stops
PAUSE_SECONDS = 90  # a libtorrent seed drops who has asked for nothing for 60 s
# The stream begins here, eighths of the file; seeks stay before it, so that nothing of it has come with them.
STREAM_AT = 5
# What comes sooner than a round trip had been fetched before.
MISS_SECONDS = 2 * GOOD.delay / 1000
# The film lasts 240 s.
MIDDLE_OF_FILM, PLAYED_SECONDS = "120", "2"


def first_bytes(run):
    run.start()
    first = run.read(0, FIRST_BYTES)
    return {"first": first, "launch": time.monotonic() - run.client.launched, "peak": run.client.usage().peak_mib}


def streaming(run):
    """The first 64 KiB; two seconds later 20 seeks of 1 MiB; then 64 MiB in sequence."""
    figures = first_bytes(run)
    time.sleep(2)
    figures.update(misses(seeks(run, SEEKS, 200)))
    before, offset = run.swarm.fetched(), run.payload.size // 8 * STREAM_AT
    began = time.monotonic()
    for at in range(offset, offset + STREAM_BYTES, MIB):
        run.read(at, MIB)
        if time.monotonic() - began > run.limit:
            raise Failed("%d MiB of the stream within %g s" % ((at - offset) // MIB, run.limit))
    took = time.monotonic() - began
    excess = settled(run) - before - STREAM_BYTES
    figures.update(stream=rate(STREAM_BYTES, took), excess=excess / MIB, fetched=run.fetched_mib())
    if hasattr(run.client, "status"):
        status = run.client.status()
        figures["wasted_percent"] = 100 * status["wasted_bytes"] / max(1, status["downloaded_bytes"])
    return {**figures, "peak": run.client.usage().peak_mib}


def settled(run):
    """Bytes fetched once no more come: the reader is gone, what it would have wanted ahead may still be on its way."""
    fetched, end = run.swarm.fetched(), time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end:
        time.sleep(0.5)
        fetched, before = run.swarm.fetched(), fetched
        if fetched == before:
            break
    return fetched


def pause(run):
    """4 MiB in sequence, a pause, seeks."""
    run.start()
    for at in range(0, 4 * MIB, MIB):
        run.read(at, MIB)
    before = run.swarm.fetched()
    time.sleep(PAUSE_SECONDS)
    while_paused = run.swarm.fetched() - before
    times = seeks(run, SEEKS_AFTER_PAUSE, 900)
    return {"after_pause": times[0], "paused_fetched": while_paused / MIB, **misses(times), "peak": run.client.usage().peak_mib}


def seeks(run, count, seed):
    """Seconds of reads of 1 MiB at random places; as many as the limit allows."""
    lot, times, end = random.Random(seed + run.round), [], time.monotonic() + run.limit
    places = (run.payload.size // 8 * STREAM_AT - MIB) // 4096
    while len(times) < count and time.monotonic() < end:
        times.append(run.read(lot.randrange(places) * 4096, MIB))
    return times


def misses(times):
    missed = [seconds for seconds in times if seconds >= MISS_SECONDS] or times
    return {"seek": percentile(missed, 50), "seek_max": max(missed), "seeks_missed": len(missed), "seeks": times}


class Ranged(io.RawIOBase):
    """A seekable file over a client's reader."""

    def __init__(self, run):
        self.run, self.position = run, 0

    def readable(self):
        return True

    seekable = readable

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.run.payload.size}[whence]
        return self.position

    def readinto(self, buffer):
        count = max(0, min(len(buffer), self.run.payload.size - self.position))
        data = self.run.client.reader.read(self.position, count, self.run.limit)[1] if count else b""
        buffer[:len(data)] = data
        self.position += len(data)
        return len(data)


def archive(run):
    """Python's zipfile lists the archive, then reads one member, in each round another."""
    member_number = random.Random(run.round).randrange(ZIP_ENTRIES)
    run.start()
    began = time.monotonic()
    with zipfile.ZipFile(io.BufferedReader(Ranged(run), 64 * 1024)) as opened:
        entries = len(opened.namelist())
        listed = time.monotonic() - began
        member = opened.read(archive_member(member_number))
    took = time.monotonic() - began
    if entries != ZIP_ENTRIES or len(member) != ZIP_ENTRY_BYTES:
        raise Failed("%d entries, a member of %d bytes" % (entries, len(member)))
    return {"list": listed, "member": took, "fetched_mb": settled(run) / 1e6, "peak": run.client.usage().peak_mib}


def video(run):
    """ffprobe, then ffmpeg decodes two seconds from the start, and two from the middle."""
    run.start()
    source = run.client.source()
    probe = run_bounded(["ffprobe", "-v", "error", "-show_format", source], run.limit)[0]
    decode = lambda *where: run_bounded(
        ["ffmpeg", "-v", "error", *where, "-i", source, "-t", PLAYED_SECONDS, "-f", "null", "-"], run.limit)[0]
    begin, middle = decode(), decode("-ss", MIDDLE_OF_FILM)
    return {"probe": probe, "begin": begin, "middle": middle, "fetched_mb": settled(run) / 1e6,
            "peak": run.client.usage().peak_mib}
