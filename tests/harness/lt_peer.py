"""A libtorrent peer for tests. One argument: JSON {torrent, save, ip, port, mode: "seed"|"leech", trackers: bool,
connect: [[ip, port], ...], upload_limit: N, settings: {...}}. Says lines of JSON: {"port": N} once it listens, {"complete": true} when all
is there and written, {"state": {...}} after "state". Commands by lines: "connect IP PORT", "state", "upload BYTES_PER_SECOND". Ends
with its standard input. Uses TCP only, neither DHT nor LSD nor port mapping."""
import json
import os
import select
import sys

import libtorrent as lt

a = json.loads(sys.argv[1])
seed = a["mode"] == "seed"
address = "[%s]" % a["ip"] if ":" in a["ip"] else a["ip"]


def say(**words):
    print(json.dumps(words), flush=True)


session = lt.session({
    "listen_interfaces": "%s:%d" % (address, a.get("port", 0)), "outgoing_interfaces": a["ip"],
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_incoming_utp": False, "enable_outgoing_utp": False, "in_enc_policy": 1, "out_enc_policy": 2,
    "allow_multiple_connections_per_ip": True, "max_allowed_in_request_queue": 4000, "alert_mask": lt.alert.category_t.all_categories,
    "stop_tracker_timeout": 3, "min_reconnect_time": 2, **a.get("settings", {}),
})
p = lt.add_torrent_params()
p.ti = lt.torrent_info(a["torrent"])
p.save_path = a["save"]
flags = lt.torrent_flags
p.flags &= ~flags.auto_managed & ~flags.paused & ~flags.apply_ip_filter
p.flags &= ~flags.update_subscribe
if seed:
    p.flags |= flags.seed_mode
torrent = session.add_torrent(p)
if not a.get("trackers"):
    torrent.replace_trackers([])
torrent.set_upload_limit(a.get("upload_limit", 0))
for ip, port in a.get("connect", []):
    torrent.connect_peer((ip, port))

listening = flushing = complete = False
rest = ""
while True:
    session.wait_for_alert(20)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.listen_succeeded_alert) and not listening and "tcp" in str(alert.socket_type).lower():
            listening = True
            say(port=alert.port)
        elif isinstance(alert, lt.cache_flushed_alert) and flushing and not complete:
            complete = True
            say(complete=True)
        elif isinstance(alert, lt.listen_failed_alert):
            print(alert.message(), file=sys.stderr, flush=True)
        elif isinstance(alert, (lt.tracker_error_alert, lt.tracker_reply_alert, lt.peer_disconnected_alert, lt.peer_connect_alert)):
            print(alert.message(), file=sys.stderr, flush=True)
    if not flushing and torrent.status().is_seeding:
        flushing = True
        torrent.flush_cache()  # it is finished before its file is written
    if select.select([0], [], [], 0)[0]:
        more = os.read(0, 4096)
        if not more:
            break
        rest += more.decode()
    *lines, rest = rest.split("\n")
    for words in map(str.split, lines):
        if words[:1] == ["connect"]:
            torrent.connect_peer((words[1], int(words[2])))
        elif words[:1] == ["upload"]:
            torrent.set_upload_limit(int(words[1]))
        elif words[:1] == ["state"]:
            s = torrent.status()
            connected = [q for q in torrent.get_peer_info() if not q.flags & (lt.peer_info.handshake | lt.peer_info.connecting)]
            say(state={
                "progress": s.progress, "uploaded": s.total_payload_upload, "downloaded": s.total_payload_download,
                "failed": s.total_failed_bytes,
                "peers": [{"addr": "%s:%d" % q.ip, "client": str(q.client), "pieces": q.num_pieces} for q in connected],
            })
