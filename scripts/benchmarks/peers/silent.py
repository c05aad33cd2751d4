"""A peer that claims to have everything, unchokes everybody and never sends a block.

One argument: JSON {torrent, ip, port}. Says {"ready": true}; ends with standard input."""
import asyncio
import json
import os
import struct
import sys

import libtorrent as lt

KEEP_ALIVE_SECONDS = 60
order = json.loads(sys.argv[1])
metainfo = lt.torrent_info(order["torrent"])
pieces = metainfo.num_pieces()
everything = bytearray(b"\xff" * (pieces // 8) + (bytes([0xFF << (8 - pieces % 8) & 0xFF]) if pieces % 8 else b""))
greeting = (b"\x13BitTorrent protocol" + bytes(8) + bytes.fromhex(str(metainfo.info_hashes().v1)) + b"-SI0001-" + os.urandom(12)
            + struct.pack(">IB", 1 + len(everything), 5) + bytes(everything) + struct.pack(">IB", 1, 1))


async def serve(reader, writer):
    try:
        await reader.readexactly(68)
        writer.write(greeting)
        while True:
            try:
                if not await asyncio.wait_for(reader.read(65536), KEEP_ALIVE_SECONDS):
                    return
            except asyncio.TimeoutError:
                writer.write(bytes(4))
    except (OSError, asyncio.IncompleteReadError):
        return
    finally:
        writer.close()


async def main():
    await asyncio.start_server(serve, order["ip"], order["port"])
    print(json.dumps({"ready": True}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
