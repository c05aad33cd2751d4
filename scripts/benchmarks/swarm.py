"""The swarm of a scenario on loopback: seeds, the links in front of them, a silent peer, a tracker that names them.

Seeds sit at 127.0.1.N, links at 127.0.2.N, the silent peer at 127.0.3.1, the tracker and who is measured at 127.0.0.1."""
import http.server
import json
import os
import socket
import subprocess
import threading
from dataclasses import dataclass

from .host import LIBTORRENT_PYTHON, PEERS, Child, wait_until
from .payload import bencode

PORT, TRACKER = 6881, ("127.0.0.1", 6969)
SILENT = "127.0.3.1"


@dataclass(frozen=True)
class Link:
    """An access link: milliseconds one way, bytes per second each way."""
    delay: int
    rate: int


@dataclass(frozen=True)
class Peer:
    link: Link | None = None
    silent: bool = False


GOOD, SLOW = Link(30, 2_000_000), Link(300, 50_000)
PROFILES = {
    "none": [],
    "one": [Peer()],
    "four": [Peer()] * 4,
    "wan": [Peer(GOOD)] * 8,
    "hetero": [Peer(GOOD), Peer(SLOW)] * 4,
    # Not the last one that the tracker names.
    "dead": [Peer(GOOD)] * 2 + [Peer(GOOD, silent=True)] + [Peer(GOOD)] * 5,
}


class Tracker:
    """Tells everybody of the same peers."""

    def __init__(self, addresses):
        peers = b"".join(socket.inet_aton(ip) + port.to_bytes(2, "big") for ip, port in addresses)
        body = bencode({"interval": 1800, "min interval": 60, "complete": len(addresses), "incomplete": 1, "peers": peers})

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that hangs up

        self.server = Server(TRACKER, Handler)
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Swarm:
    def __init__(self, work, payload, profile):
        self.children, self.seeds, self.links, self.tracker = [], None, None, None
        self.peers = PROFILES[profile]
        try:
            self.start(work, payload)
        except BaseException:
            self.stop()
            raise

    def start(self, work, payload):
        seeds, links, addresses = [], [], []
        for number, peer in enumerate(self.peers, 1):
            ip = SILENT if peer.silent else "127.0.1.%d" % number
            if peer.silent:
                self.child([LIBTORRENT_PYTHON, os.path.join(PEERS, "silent.py"),
                            json.dumps({"torrent": payload.torrent, "ip": ip, "port": PORT})])
            else:
                seeds.append({"ip": ip, "rate": peer.link.rate if peer.link else 0})
            if peer.link:
                here = "127.0.2.%d" % number
                links += ["%s:%d" % (here, PORT), "%s:%d" % (ip, PORT), str(peer.link.delay * 1000), str(peer.link.rate)]
                ip = here
            addresses.append((ip, PORT))
        self.addresses, self.live = addresses, len(seeds)
        if seeds:
            self.seeds = self.child([LIBTORRENT_PYTHON, os.path.join(PEERS, "seeds.py"), json.dumps(
                {"torrent": payload.torrent, "save": payload.folder, "port": PORT, "seeds": seeds})])
        if links:
            self.links = self.child([emulator(work), *links])
        self.tracker = Tracker(addresses)

    def child(self, argv):
        self.children.append(Child(argv))
        return self.children[-1]

    def fetched(self):
        """Bytes that came to the client: over the links with all of the protocol, from direct seeds payload only."""
        if self.links:
            return self.links.ask("carried", "to_client")["to_client"]
        return self.seeds.ask("state", "sent")["sent"] if self.seeds else 0

    def wait_connected(self, seconds=15):
        """Until every live seed has the client, so that a client's way of dialling is not taken for its throughput."""
        wait_until(lambda: self.seeds.ask("state", "connected")["connected"] >= self.live, seconds, "connecting", 0.01)

    def stop(self):
        if self.tracker:
            self.tracker.stop()
        for child in reversed(self.children):
            child.stop()


def emulator(work):
    """The compiled link emulator."""
    source, program = os.path.join(PEERS, "link.c"), os.path.join(work, "link")
    if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
        subprocess.check_call([os.environ.get("CC", "cc"), "-O2", "-o", program, source])
    return program
