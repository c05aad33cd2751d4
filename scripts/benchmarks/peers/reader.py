"""Reads a file as it is told, in a process of its own: under another user, and killable when the file system hangs.

Orders are lines of JSON on standard input, each answered by one: {"error": text} when it failed. Sizes in bytes, times in
seconds. Ends with standard input.
  {"order": "await", "path", "patience"}             opens it once it is listed; {"size", "at": CLOCK_MONOTONIC}
  {"order": "open", "path"}                           closes what is open, opens it anew; {"size"}
  {"order": "read", "offset", "length"}               {"seconds", "bytes": N} and the bytes
  {"order": "sequence", "offset", "length", "limit"}  reads by 1 MiB; {"seconds", "bytes"}, less if the limit has passed
  {"order": "random", "length", "count", "limit"}     reads at random multiples of the length; {"latencies"}
  {"order": "ends", "folder", "head", "tail"}         reads head and tail of every file in it; {"seconds", "bytes", "files"}
"""
import json
import os
import random
import sys
import time

BLOCK = 1 << 20
RELEASE_SECONDS = 0.05  # the kernel tells a file system of a close when it likes; the next open shall find it done
opened = None


def reopen(order):
    global opened
    if opened is not None:
        os.close(opened)
        opened = None
        time.sleep(RELEASE_SECONDS)
    opened = os.open(order["path"], os.O_RDONLY)
    return {"size": os.fstat(opened).st_size}


def wait_listed(order):
    end = time.monotonic() + order["patience"]
    while True:
        try:
            if os.stat(order["path"]).st_size:
                at = time.monotonic()
                return {**reopen(order), "at": at}
        except OSError:
            pass
        if time.monotonic() > end:
            raise OSError("not listed after %g s" % order["patience"])
        time.sleep(0.002)


def read_at(descriptor, offset, length):
    parts = []
    while length:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read(order):
    began = time.monotonic()
    data = read_at(opened, order["offset"], order["length"])
    return {"seconds": time.monotonic() - began, "bytes": len(data)}, data


def sequence(order):
    buffer = [bytearray(BLOCK)]
    done, began = 0, time.monotonic()
    while done < order["length"] and time.monotonic() - began < order["limit"]:
        if order["length"] - done < BLOCK:
            buffer = [bytearray(order["length"] - done)]
        got = os.preadv(opened, buffer, order["offset"] + done)
        if not got:
            raise OSError("ends at %d" % (order["offset"] + done))
        done += got
    return {"seconds": time.monotonic() - began, "bytes": done}


def random_reads(order):
    size, length, lot, latencies = os.fstat(opened).st_size, order["length"], random.Random(11), []
    end = time.monotonic() + order["limit"]
    while len(latencies) < order["count"] and time.monotonic() < end:
        offset = lot.randrange(size // length) * length
        began = time.perf_counter()
        got = os.pread(opened, length, offset)
        latencies.append(time.perf_counter() - began)
        if len(got) != length:
            raise OSError("short read at %d" % offset)
    return {"latencies": latencies}


def ends(order):
    began, total, files = time.monotonic(), 0, 0
    for entry in sorted(os.scandir(order["folder"]), key=lambda entry: entry.name):
        descriptor = os.open(entry.path, os.O_RDONLY)
        total += len(read_at(descriptor, 0, order["head"]))
        total += len(read_at(descriptor, os.fstat(descriptor).st_size - order["tail"], order["tail"]))
        os.close(descriptor)
        files += 1
    return {"seconds": time.monotonic() - began, "bytes": total, "files": files}


ORDERS = {"await": wait_listed, "open": reopen, "read": read, "sequence": sequence, "random": random_reads, "ends": ends}
for line in sys.stdin:
    words, payload = json.loads(line), b""
    try:
        answer = ORDERS[words["order"]](words)
        if isinstance(answer, tuple):
            answer, payload = answer
    except OSError as error:
        answer = {"error": str(error)}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + payload)
    sys.stdout.buffer.flush()
