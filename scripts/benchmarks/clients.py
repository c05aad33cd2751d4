"""Who is measured: this program, and the peers it is compared with. One object is one process in a folder of its own."""
import json
import os
import shutil
import subprocess
import time
import urllib.request

from .host import (AS_USER, LIBTORRENT_PYTHON, ORDINARY_USER, PEERS, ROOT, Child, Failed, Usage, end_process,
                   run_bounded, wait_until)
from .readers import FileReader, HttpReader

PORT, OTHER_PORT, HTTP = 7001, 7101, "127.0.0.1:3030"
LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


class Client:
    """`stage` is what host.run_isolated has prepared. Folders are made anew, so no two clients with one `place` at a time."""
    prefix = []
    slow = False  # measured once, whatever the number of rounds

    def __init__(self, stage, payload, place="run"):
        self.stage, self.payload = stage, payload
        self.place = os.path.join(stage, "work", place)
        self.mountpoint, self.data = os.path.join(self.place, "mnt"), os.path.join(self.place, "data")
        shutil.rmtree(self.place, ignore_errors=True)
        for folder in (self.place, self.mountpoint, self.data):
            os.makedirs(folder)
            if self.prefix:
                os.chown(folder, ORDINARY_USER, ORDINARY_USER)
        self.environment = dict(os.environ, HOME=self.place)
        for variable in ("CACHE", "CONFIG", "DATA", "STATE"):
            self.environment["XDG_%s_HOME" % variable] = self.place
        self.environment["XDG_RUNTIME_DIR"] = self.place
        self.process = self.log = self.reader = None

    def argv(self):
        raise NotImplementedError

    def launch(self, **more):
        self.log = open(os.path.join(self.place, "log"), "ab")
        self.launched = time.monotonic()
        self.process = subprocess.Popen([*self.prefix, *self.argv()], cwd=self.place, env=self.environment,
                                        stdin=subprocess.DEVNULL, stderr=self.log, **{"stdout": self.log, **more})

    @property
    def pid(self):
        return self.process.pid

    def usage(self):
        return Usage(self.pid)

    def last_words(self):
        try:
            with open(os.path.join(self.place, "log"), errors="replace") as log:
                return log.read()[-200:].strip()
        except OSError:
            return ""

    def stop(self):
        if self.process:
            if self.process.poll() is None:
                self.process.terminate()
            end_process(self.process, 10)
        if self.reader:
            self.reader.close()
        if self.log:
            self.log.close()
        shutil.rmtree(self.place, ignore_errors=True)


class Mounted(Client):
    """Whoever mounts."""

    def launch(self):
        self.reader = FileReader(self.stage, self.prefix)
        super().launch()

    def wait_listed(self, patience=60):
        """Seconds from the launch until the file is listed."""
        return self.reader.wait_listed(self.source(), patience) - self.launched

    def source(self):
        return os.path.join(self.mountpoint, self.payload.name)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            end_process(self.process, 10)
        subprocess.call(["umount", "-l", self.mountpoint], stderr=subprocess.DEVNULL)
        super().stop()


class Ours(Mounted):
    """btfs mount, as root."""
    options = []

    def program(self):
        return os.path.join(self.stage, "bin", os.environ["BTFS_BENCH_NAME"])

    def argv(self):
        return [self.program(), "mount", "--foreground", "--cache-dir", self.data, "--bind", "127.0.0.1", *self.options,
                self.payload.torrent, self.mountpoint]

    def status(self):
        """Of its torrent."""
        argv = [*self.prefix, self.program(), "status", "--json", self.mountpoint]
        return json.loads(run_bounded(argv, 10, env=self.environment)[1].splitlines()[0])["torrents"][0]


class OursAsUser(Ours):
    """btfs mount by fusermount3, without privilege."""
    prefix = AS_USER


class OursFilling(Ours):
    """Fetches everything, whoever reads."""
    options = ["--fill", "all"]


class OursFillingAsUser(OursFilling):
    prefix = AS_USER


class Debian(Mounted):
    """Debian's btfs (C++, libtorrent)."""
    slow = True

    def argv(self):
        return ["/usr/bin/btfs", "-f", "--data-directory=" + self.data, "--min-port=%d" % PORT, "--max-port=%d" % OTHER_PORT,
                self.payload.torrent, self.mountpoint]


class Rqbit(Client):
    """rqbit, by its HTTP interface. Goes on downloading in the background what nobody reads."""

    def argv(self):
        return [os.path.join(ROOT, "target/peers/rqbit/bin/rqbit"), "-v", "warn", "--disable-dht", "--disable-upnp-port-forward",
                "--disable-lsd", "--ipv4-only", "--listen-ip", "0.0.0.0", "--listen-port", str(PORT),
                "--http-api-listen-addr", HTTP, "server", "start", "--disable-persistence", self.data]

    def api(self, path, body=None):
        request = urllib.request.Request("http://%s%s" % (HTTP, path), data=body)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def tried(self, path):
        try:
            return self.api(path)
        except OSError:
            return None

    def wait_listed(self, patience=60):
        wait_until(lambda: self.tried("/"), 20, "rqbit's interface", 0.002)
        with open(self.payload.torrent, "rb") as torrent:
            self.api("/torrents?overwrite=true", torrent.read())
        wait_until(lambda: (self.tried("/torrents/0/stats/v1") or {}).get("state") == "live", patience, "listing", 0.002)
        names = ["/".join(file["components"]) for file in self.api("/torrents/0")["files"]]
        self.path = "/torrents/0/stream/%d" % names.index(os.path.relpath(self.payload.file, self.payload.content)
                                                          if os.path.isdir(self.payload.content) else self.payload.name)
        self.reader = HttpReader(HTTP, self.path)
        return time.monotonic() - self.launched

    def source(self):
        return "http://%s%s" % (HTTP, self.path)


class Libtorrent(Client):
    """peers/libtorrent_client.py."""
    mode, port, peers = "leech", PORT, []

    def launch(self):
        words = {"torrent": self.payload.torrent, "save": self.data, "port": self.port, "mode": self.mode, "peers": self.peers}
        self.launched = time.monotonic()
        self.child = Child([LIBTORRENT_PYTHON, os.path.join(PEERS, "libtorrent_client.py"), json.dumps(words)], ready=False)
        self.process = self.child.process

    def wait_listed(self, patience=60):
        self.child.hear("listed", patience)
        return time.monotonic() - self.launched

    def wait_complete(self, limit):
        """Seconds that the download took by its own clock."""
        return self.child.hear("complete", limit)["complete"]

    def stop(self):
        if self.process:
            self.child.stop()
        super().stop()


class LibtorrentDeadlines(Libtorrent):
    """libtorrent's own means for streaming, without FUSE or HTTP: what the library can do at best."""
    mode = "deadlines"

    def wait_listed(self, patience=60):
        took = super().wait_listed(patience)
        self.reader = self
        return took

    def read(self, offset, length, limit):
        began = time.monotonic()
        count = self.child.ask("%d %d" % (offset, length), "bytes", limit)["bytes"]
        data = self.child.payload(count, limit)
        return time.monotonic() - began, data

    def close(self):
        pass


class LibtorrentSeed(Libtorrent):
    mode = "seed"

    def __init__(self, stage, payload, place="run"):
        super().__init__(stage, payload, place)
        os.link(payload.file, os.path.join(self.data, payload.name))

    def wait_ready(self):
        self.wait_listed()
        wait_listening()


class Aria2(Client):
    """aria2, which ends when it has everything."""
    options = ["--seed-time=0"]

    def argv(self):
        return ["aria2c", "--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
                "--file-allocation=none", "--enable-peer-exchange=false",
                "--listen-port=%d" % PORT, "--dir", self.data, "--summary-interval=0",
                "--console-log-level=warn", "--show-console-readout=false", *self.options, self.payload.torrent]

    def wait_listed(self, patience=60):
        return 0.0

    def wait_complete(self, limit):
        def ended():
            pid, status, self.resources = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
            return pid
        wait_until(ended, limit, "download", 0.002)
        if self.process.returncode:
            raise Failed("aria2c: status %d" % self.process.returncode)
        return time.monotonic() - self.launched

    def usage(self):
        if self.process.returncode is None:
            return super().usage()
        usage = object.__new__(Usage)
        usage.user, usage.system = self.resources.ru_utime, self.resources.ru_stime
        usage.peak_mib = usage.resident_mib = self.resources.ru_maxrss / 1024
        return usage


class Aria2Seed(Aria2):
    options = ["--bt-seed-unverified=true", "--seed-ratio=0.0", "--seed-time=10"]

    def __init__(self, stage, payload, place="run"):
        super().__init__(stage, payload, place)
        os.link(payload.file, os.path.join(self.data, payload.name))

    def wait_ready(self):
        wait_listening()


class OursSeed(Ours):
    """btfs seed."""

    def argv(self):
        return [self.program(), "seed", "--json", "--cache-dir", self.data, "--bind", "127.0.0.1", "--port", str(PORT),
                self.payload.torrent, self.payload.content]

    def launch(self):
        Client.launch(self, stdout=subprocess.PIPE)

    def wait_ready(self):
        """It says so when all is checked."""
        wait_until(lambda: self.process.poll() is not None or is_listening(), 60, "listening")
        if not self.process.stdout.readline():
            raise Failed("btfs seed has ended")

    def stop(self):
        Client.stop(self)


def is_listening():
    """Whether somebody in this namespace listens at the port of who is measured; it is not bothered with a connection."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            for words in map(str.split, lines):
                if words[3] == LISTEN and words[1].endswith(":%04X" % PORT):
                    return True
    return False


def wait_listening():
    wait_until(is_listening, 30, "listening")
