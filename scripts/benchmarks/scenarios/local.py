"""What is here: a complete file beside a plain one, a mount that idles, very many files, and who looks into all of them."""
import os
import statistics
import time

from ..clients import Mounted
from ..host import MIB, Failed, drop_caches, run_bounded, seconds_on_cpu, wait_until
from ..payload import MANY_FILES, MANY_FOLDERS
from ..run import percentile, rate

REPETITIONS = 5
PAGE, PAGE_READS = 4096, 2000
HEAD_BYTES, TAIL_BYTES = 64 * 1024, 64 * 1024
SETTLE_SECONDS = 5


def complete(run):
    """A file that is all there, and the original, in turns: read again, 4 KiB at random, read after caches were dropped."""
    run.warm()
    run.start()
    wait_until(lambda: run.client.status()["left_bytes"] == 0, 3 * run.limit, "filling", 0.1)
    mount, plain = run.client.source(), run.payload.file
    reader, size = run.client.reader, run.payload.size

    def whole(path):
        reader.open(path)
        seconds, got = reader.sequence(0, size, run.limit)
        if got < size:
            raise Failed("read %d MiB of %s in %g s" % (got // MIB, path, run.limit))
        return rate(size, seconds)

    def cold(path):
        drop_caches()
        return whole(path)

    def pages(path):
        reader.open(path)
        return percentile(reader.random_reads(PAGE, PAGE_READS, run.limit), 50)

    run.compare()
    again, random, dropped = {mount: [], plain: []}, {mount: [], plain: []}, {mount: [], plain: []}
    for path in (mount, plain):
        whole(path)
    for results, once in ((again, whole), (random, pages), (dropped, cold)):
        for number in range(REPETITIONS):
            for path in (mount, plain) if number % 2 else (plain, mount):
                results[path].append(once(path))

    def figures(path):
        return {"again": statistics.median(again[path]), "page": statistics.median(random[path]),
                "dropped": statistics.median(dropped[path])}

    return {**figures(mount), "peak": run.client.usage().peak_mib, "beside": {"plain": figures(plain)}}


def idle(run):
    """Something was read, the peers are connected, nobody asks for anything."""
    run.start()
    run.read(0, 64 * 1024)
    time.sleep(SETTLE_SECONDS)
    before, began = seconds_on_cpu(run.client.pid), time.monotonic()
    time.sleep(10 if run.quick else 30)
    percent = 100 * (seconds_on_cpu(run.client.pid) - before) / (time.monotonic() - began)
    usage = run.client.usage()
    return {"idle_percent": percent, "resident": usage.resident_mib, "peak": usage.peak_mib}


def many(run):
    """100,000 files: mounted, and found with their sizes; beside them as many on the disk."""
    files = MANY_FOLDERS * MANY_FILES
    listed = run.start()
    seconds = find(run, os.path.join(run.client.mountpoint, "many"), files)
    figures = {"listed": listed, "find": seconds, "peak": run.client.usage().peak_mib}
    plain = run.bench.payloads.made("many-files", lambda path: make_files(path))
    find(run, plain, files)
    return {**figures, "beside": {"plain": {"find": find(run, plain, files)}}}


def find(run, folder, files):
    seconds, output = run_bounded(["find", folder, "-type", "f", "-printf", "%s\\n"], run.limit)
    if output.count(b"\n") != files:
        raise Failed("find sees %d files" % output.count(b"\n"))
    return seconds


def make_files(path):
    for folder in range(MANY_FOLDERS):
        place = os.path.join(path, "folder-%04d" % folder)
        os.makedirs(place)
        for file in range(MANY_FILES):
            open(os.path.join(place, "file-%04d" % file), "wb").close()


def scan(run):
    """A folder of films is looked through by file(1), and, mounted anew, by who reads head and tail of each.

    file is told to read 1 MiB of each end, as it did before 5.44; of itself it asks for 7."""
    run.start()
    folder, films = os.path.dirname(run.client.source()), run.bench.payloads.films
    paths = sorted(entry.path for entry in os.scandir(folder))
    seconds, output = run_bounded(["file", "--brief", "--parameter", "bytes=%d" % MIB, *paths], 4 * run.limit)
    if output.count(b"ISO Media") != films:
        raise Failed("file knows %d films" % output.count(b"ISO Media"))
    time.sleep(2)  # for what was asked ahead
    fetched, peak = run.fetched_mib(), run.client.usage().peak_mib
    run.client.stop()

    again = run.client = run.client_class(run.bench.stage, run.payload)
    run.start()
    assert isinstance(again, Mounted)
    answer = again.reader.ends(folder, HEAD_BYTES, TAIL_BYTES, 4 * run.limit)
    time.sleep(2)
    return {"file_seconds": seconds, "file_mib": fetched / films, "ends_seconds": answer["seconds"],
            "ends_mib": (run.fetched_mib() - fetched) / films, "peak": max(peak, again.usage().peak_mib)}
