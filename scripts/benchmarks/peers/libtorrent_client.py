"""libtorrent as a client to compare with.

One argument: JSON {torrent, save, port, mode, peers: [[ip, port]]}. Modes:
  leech      takes everything, rarest first
  deadlines  takes what is asked for, by the library's own means for streaming: piece deadlines, with 16 MiB of read-ahead
  seed       has everything
Says {"listed": true} once the torrent is there, {"complete": SECONDS since then} for a leech. With deadlines, to a line
"OFFSET LENGTH" it answers {"bytes": N} and the bytes. Ends with standard input. Other than for seeds named in `peers`, it asks
the torrent's tracker."""
import json
import os
import select
import sys
import time

import libtorrent as lt

READ_AHEAD_BYTES, LATER_MILLISECONDS = 16 << 20, 200
order = json.loads(sys.argv[1])
mode = order["mode"]
session = lt.session({
    "listen_interfaces": "127.0.0.1:%d" % order["port"], "outgoing_interfaces": "127.0.0.1",
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_incoming_utp": False, "enable_outgoing_utp": False, "in_enc_policy": 1, "out_enc_policy": 2, "prefer_rc4": False,
    "alert_mask": lt.alert.category_t.status_notification, "unchoke_slots_limit": -1, "max_out_request_queue": 1500,
    "max_allowed_in_request_queue": 4000, "allow_multiple_connections_per_ip": bool(order["peers"]),
    # "finished", between two reads, must not part it from the seeds.
    "close_redundant_connections": mode != "deadlines",
})
parameters = lt.add_torrent_params()
metainfo = parameters.ti = lt.torrent_info(order["torrent"])
parameters.save_path = order["save"]
parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
if mode == "seed":
    parameters.flags |= lt.torrent_flags.seed_mode
torrent = session.add_torrent(parameters)
began = time.monotonic()
if order["peers"]:
    torrent.replace_trackers([])


def say(words, payload=b""):
    sys.stdout.buffer.write(json.dumps(words).encode() + b"\n" + payload)
    sys.stdout.buffer.flush()


def asked():
    """What came on standard input meanwhile; ends the process when that has ended."""
    if not select.select([0], [], [], 0)[0]:
        return b""
    came = os.read(0, 65536)
    if not came:
        os._exit(0)
    return came


class Streaming:
    """One read at a time; pieces of the read are handed out as soon as they are there."""

    def __init__(self):
        torrent.prioritize_pieces([0] * metainfo.num_pieces())
        self.length = metainfo.piece_length()
        self.pieces, self.read, self.text = {}, None, b""

    def begin(self, offset, count):
        first, last = offset // self.length, (offset + count - 1) // self.length
        self.read = offset, count, range(first, last + 1)
        torrent.clear_piece_deadlines()
        for piece in self.read[2]:
            if piece not in self.pieces:
                self.demand(piece)
        ahead = last + max(1, READ_AHEAD_BYTES // self.length)
        for piece in range(last + 1, min(metainfo.num_pieces(), ahead + 1)):
            if not torrent.have_piece(piece):
                torrent.set_piece_deadline(piece, LATER_MILLISECONDS * (piece - last))

    def demand(self, piece):
        torrent.set_piece_deadline(piece, 0, lt.deadline_flags_t.alert_when_available)

    def arrived(self, alert):
        if alert.error.value():
            self.demand(alert.piece)
        else:
            self.pieces[alert.piece] = alert.buffer

    def turn(self):
        self.text += asked()
        if self.read is None and b"\n" in self.text:
            line, self.text = self.text.split(b"\n", 1)
            self.begin(*map(int, line.split()))
        if self.read is not None and all(piece in self.pieces for piece in self.read[2]):
            offset, count, wanted = self.read
            begin = offset - wanted[0] * self.length
            payload = b"".join(self.pieces[piece] for piece in wanted)[begin:begin + count]
            say({"bytes": len(payload)}, payload)
            self.pieces = {piece: data for piece, data in self.pieces.items() if piece >= wanted[0]}
            self.read = None


streaming = Streaming() if mode == "deadlines" else None
say({"listed": True})
for ip, port in order["peers"]:
    torrent.connect_peer((ip, port))
while True:
    if streaming:
        streaming.turn()
    else:
        asked()
    session.wait_for_alert(2 if streaming else 20)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.torrent_finished_alert) and mode == "leech":
            say({"complete": time.monotonic() - began})
        elif isinstance(alert, lt.read_piece_alert):
            streaming.arrived(alert)
