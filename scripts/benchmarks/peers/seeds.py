"""Seeds of one torrent, each a libtorrent session on an address of its own.

One argument: JSON {torrent, save, port, seeds: [{ip, rate}]}. A rate (bytes per second) is that of the link in front of
the seed: such a seed keeps little in its socket, as behind a slow uplink, and dials nobody, as that would go around the
link. Says {"ready": true}; answers each line with {"connected": seeds that have a peer, "sent": payload bytes of all}.
Ends with standard input."""
import json
import sys

import libtorrent as lt

order = json.loads(sys.argv[1])


def settings(ip, rate):
    words = {
        "listen_interfaces": "%s:%d" % (ip, order["port"]), "outgoing_interfaces": ip, "alert_mask": 0,
        "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        "enable_incoming_utp": False, "enable_outgoing_utp": False, "enable_outgoing_tcp": not rate,
        "in_enc_policy": 1, "out_enc_policy": 2, "prefer_rc4": False,
        "allow_multiple_connections_per_ip": True, "close_redundant_connections": False, "peer_turnover": 0,
        "unchoke_slots_limit": -1, "max_allowed_in_request_queue": 4000, "aio_threads": 2, "file_pool_size": 4000,
    }
    if rate:
        words["send_socket_buffer_size"] = max(8192, rate // 20)
    else:
        words.update(send_buffer_watermark=4 << 20, send_buffer_watermark_factor=100)
    return words


def start(ip, rate):
    session = lt.session(settings(ip, rate))
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(order["torrent"])
    parameters.save_path = order["save"]
    flags = lt.torrent_flags
    parameters.flags |= flags.seed_mode
    parameters.flags &= ~(flags.auto_managed | flags.paused | flags.apply_ip_filter)
    torrent = session.add_torrent(parameters)
    torrent.replace_trackers([])
    return session, torrent


def is_connected(torrent):
    under_way = lt.peer_info.handshake | lt.peer_info.connecting
    return any(not peer.flags & under_way for peer in torrent.get_peer_info())


running = [start(seed["ip"], seed["rate"]) for seed in order["seeds"]]
print(json.dumps({"ready": True}), flush=True)
for _ in sys.stdin:
    print(json.dumps({"connected": sum(is_connected(torrent) for _, torrent in running),
                      "sent": sum(torrent.status().total_payload_upload for _, torrent in running)}), flush=True)
