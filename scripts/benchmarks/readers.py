"""How a client's content is read: through a mount by another process, or over HTTP."""
import http.client
import json
import os
import time

from .host import MIB, PYTHON, Child, Failed


class FileReader:
    """peers/reader.py, started before the client so that its own start counts nowhere."""

    def __init__(self, stage, prefix=()):
        self.child = Child([*prefix, PYTHON, os.path.join(stage, "scripts/reader.py")], ready=False)

    def order(self, within, key, **words):
        return self.child.ask(json.dumps(words), key, within)

    def wait_listed(self, path, patience):
        """When the file was first there, by the monotonic clock; it is open then."""
        return self.order(patience + 5, "at", order="await", path=path, patience=patience)["at"]

    def open(self, path):
        self.order(30, "size", order="open", path=path)

    def read(self, offset, length, limit):
        """Seconds and bytes."""
        answer = self.order(limit, "bytes", order="read", offset=offset, length=length)
        return answer["seconds"], self.child.payload(answer["bytes"], 30)

    def sequence(self, offset, length, limit):
        """Seconds, and how many bytes came within the limit."""
        answer = self.order(limit + 30, "bytes", order="sequence", offset=offset, length=length, limit=limit)
        return answer["seconds"], answer["bytes"]

    def random_reads(self, length, count, limit):
        return self.order(limit + 30, "latencies", order="random", length=length, count=count, limit=limit)["latencies"]

    def ends(self, folder, head, tail, limit):
        return self.order(limit, "files", order="ends", folder=folder, head=head, tail=tail)

    def close(self):
        self.child.stop()


class HttpReader:
    """Range requests, each on a connection of its own as players make them."""

    def __init__(self, host, path):
        self.host, self.path = host, path

    def request(self, offset, length, limit):
        connection = http.client.HTTPConnection(self.host, timeout=limit)
        connection.request("GET", self.path, headers={"Range": "bytes=%d-%d" % (offset, offset + length - 1)})
        response = connection.getresponse()
        if response.status not in (200, 206):
            raise Failed("HTTP status %d" % response.status)
        return connection, response

    def read(self, offset, length, limit):
        began = time.monotonic()
        try:
            connection, response = self.request(offset, length, limit)
            data = response.read(length)
        except (OSError, http.client.HTTPException) as error:
            raise Failed("HTTP: %s" % error) from None
        connection.close()
        return time.monotonic() - began, data

    def sequence(self, offset, length, limit):
        began, done, buffer = time.monotonic(), 0, bytearray(MIB)
        try:
            connection, response = self.request(offset, length, limit)
            while done < length and time.monotonic() - began < limit:
                got = response.readinto(buffer)
                if not got:
                    raise Failed("HTTP: ends at %d" % done)
                done += got
        except (OSError, http.client.HTTPException) as error:
            raise Failed("HTTP: %s" % error) from None
        connection.close()
        return time.monotonic() - began, done

    def close(self):
        pass
