"""One client in one swarm, from launch to clean-up, and the order in which they take turns."""
import os
import subprocess
import sys
import time

from .host import GIB, MB, MIB, Failed, Usage, touch_memory
from .payload import Payloads
from .swarm import Swarm


class Bench:
    """What all runs share. `stage` is what host.run_isolated has prepared."""

    def __init__(self, stage, quick, limit):
        self.stage, self.quick, self.limit = stage, quick, limit
        self.work = os.path.join(stage, "work")
        self.payloads = Payloads(os.path.join(self.work, "payload"), quick)


class Run:
    """A swarm and a client that is not launched yet; leaving it stops both."""

    def __init__(self, bench, scenario, client_class, round_number):
        self.bench, self.round, self.quick, self.limit = bench, round_number, bench.quick, bench.limit
        self.payload = bench.payloads.get(scenario.payload)
        self.client_class, self.profile = client_class, scenario.profile
        self.swarm = self.client = None
        self.more = []

    def __enter__(self):
        try:
            self.swarm = Swarm(self.bench.work, self.payload, self.profile)
            self.client = self.client_class(self.bench.stage, self.payload)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for what in [*self.more, self.client, self.swarm]:
            if what:
                what.stop()

    def another(self, client_class):
        """A second client beside the first."""
        self.more.append(client_class(self.bench.stage, self.payload, "run-%d" % (len(self.more) + 2)))
        return self.more[-1]

    def start(self):
        """Launches the client: seconds until the file is listed."""
        self.client.launch()
        return self.client.wait_listed()

    def read(self, offset, length):
        """Seconds that a read took; the bytes are compared with the original."""
        seconds, data = self.client.reader.read(offset, length, self.limit)
        with open(self.payload.file, "rb") as original:
            original.seek(offset)
            if data != original.read(length):
                raise Failed("wrong bytes at %d (got %d of %d)" % (offset, len(data), length))
        return seconds

    def compare(self):
        """All of the file with the original."""
        argv = [*self.client.prefix, "cmp", "-s", self.client.source(), self.payload.file]
        if subprocess.call(argv, timeout=4 * self.limit):
            raise Failed("the file differs from the original")

    def warm(self):
        touch_memory(self.bench.work, (2 * self.payload.size + GIB // 2) // MIB)

    def fetched_mib(self):
        return self.swarm.fetched() / MIB


class Span:
    """CPU that a client uses from now on."""

    def __init__(self, client):
        self.client, self.before = client, client.usage()

    def per_gib(self, size):
        """Seconds of user and system time per GiB, and the peak of memory."""
        after, gib = self.client.usage(), size / GIB
        user, system = (after.user - self.before.user) / gib, (after.system - self.before.system) / gib
        return {"user": user, "system": system, "cpu": user + system, "peak": after.peak_mib}


class Nothing:
    """As Span, for a client that is launched only now."""

    def __init__(self, client):
        self.client = client
        self.before = object.__new__(Usage)
        self.before.user = self.before.system = 0.0

    per_gib = Span.per_gib


def rate(size, seconds):
    return size / MB / seconds


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def measure(bench, names, scenarios, rounds, peers, record):
    """Runs the scenarios. Within a round the clients take turns, and another one begins in each; `record` gets each result."""
    for name in names:
        scenario = scenarios[name]
        clients = [client for client in scenario.clients if client.startswith("ours") or client in peers]
        for number in range(max(rounds, 5) if scenario.pairs and not bench.quick else rounds):
            turn = number % len(clients)
            for client in clients[turn:] + clients[:turn]:
                client_class = scenario.clients[client]
                if not (client_class.slow and number):
                    for result in attempt(bench, name, scenario, client, client_class, number):
                        record(result)


def attempt(bench, name, scenario, client, client_class, number):
    """The results of one run: that of the client, and those of who was measured beside it."""
    began = time.monotonic()
    run = Run(bench, scenario, client_class, number)
    try:
        with run:
            try:
                figures = scenario.function(run)
            except Failed as failure:
                last = run.client.last_words()
                figures = {"error": "%s%s" % (failure, " (log: %s)" % last if last else "")}
    except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
        figures = {"error": "%s: %s" % (type(error).__name__, error)}
    others = figures.pop("beside", {})
    took = time.monotonic() - began
    print("%-14s %-11s round %d, %5.1f s: %s" % (name, client, number + 1, took, brief(figures)), file=sys.stderr, flush=True)
    for who, what in [(client, figures), *others.items()]:
        yield {"scenario": name, "client": who, "round": number, **what}


def brief(figures):
    words = ["%s %s" % (key, "%.4g" % value if isinstance(value, float) else value) for key, value in figures.items()
             if not isinstance(value, (list, dict))]
    return ", ".join(words)
