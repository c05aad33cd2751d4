"""What is shared: noise, archives, videos and many files, the same on every machine, each made when it is first needed."""
import hashlib
import os
import random
import subprocess
import zipfile
from dataclasses import dataclass

from .host import MIB, Failed

ANNOUNCE = "http://127.0.0.1:6969/announce"
ZIP_ENTRIES, ZIP_ENTRY_BYTES = 4096, 128 * 1024
MANY_FOLDERS, MANY_FILES = 1000, 100
MEDIA_BYTES = 4 * MIB


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


@dataclass(frozen=True)
class Payload:
    """A torrent and its content."""
    torrent: str
    content: str  # the file or folder that a seed shares
    name: str  # of the file that is read, below the mount
    piece_bytes: int

    @property
    def folder(self):
        return os.path.dirname(self.content)

    @property
    def file(self):
        return os.path.join(self.folder, self.name)

    @property
    def size(self):
        return os.path.getsize(self.file)


class Payloads:
    """Makes and remembers payloads below a folder. With `quick`, the big file has 256 MiB instead of 1024, and there are
    40 films instead of 200."""

    def __init__(self, folder, quick):
        self.folder, self.big_mib, self.films = folder, 256 if quick else 1024, 40 if quick else 200
        os.makedirs(folder, exist_ok=True)

    def get(self, name):
        return getattr(self, name)()

    def big(self, piece_bytes=MIB):
        file = self.made("noise-%d.bin" % self.big_mib, lambda path: write_noise(path, self.big_mib * MIB, 1))
        return self.torrent(file, piece_bytes)

    def big_pieces(self):
        return self.big(4 * MIB)

    def archive(self):
        return self.torrent(self.made("archive.zip", write_archive), MIB)

    def video(self):
        return self.torrent(self.made("film.mp4", lambda path: write_video(path, 240)), MIB)

    def media(self):
        name = "films-%d" % self.films
        folder = self.made(name, lambda path: write_media(path, self.films))
        return self.torrent(folder, 256 * 1024, name + "/film-000.mp4")

    def many(self):
        """100,000 files that nobody has: only what the torrent says of them is of interest."""
        path = self.made("many.torrent", write_many)
        return Payload(path, os.path.join(self.folder, "many"), "many/folder-0999/file-0099", MIB)

    def torrent(self, content, piece_bytes, name=None):
        path = self.made("%s-%d.torrent" % (os.path.basename(content), piece_bytes),
                         lambda path: write_torrent(path, content, piece_bytes))
        return Payload(path, content, name or os.path.basename(content), piece_bytes)

    def made(self, name, make):
        """Under another name until it is whole, so that what was interrupted is made again; the ending stays for ffmpeg."""
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            unfinished = os.path.join(self.folder, "unfinished-" + name)
            subprocess.call(["rm", "-rf", unfinished])
            make(unfinished)
            os.rename(unfinished, path)
        return path


def noise(size, seed):
    lot = random.Random(seed)
    for begin in range(0, size, MIB):
        yield lot.randbytes(min(MIB, size - begin))


def write_noise(path, size, seed):
    with open(path, "wb") as out:
        out.writelines(noise(size, seed))


def write_archive(path):
    lot = random.Random(5)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(ZIP_ENTRIES):
            entry = zipfile.ZipInfo(archive_member(number), (2020, 1, 1, 0, 0, 0))
            archive.writestr(entry, lot.randbytes(ZIP_ENTRY_BYTES))


def archive_member(number):
    return "folder-%02d/entry-%04d" % (number % 64, number)


def write_video(path, seconds):
    """8 Mbit/s; ffmpeg writes the index (moov) at the end unless told otherwise."""
    picture = ["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25", "-f", "lavfi", "-i", "sine=frequency=440"]
    codec = ["-vf", "noise=alls=40:allf=t", "-c:v", "mpeg4", "-b:v", "8M", "-g", "50", "-c:a", "aac", "-bitexact"]
    if subprocess.call(["ffmpeg", "-v", "error", "-y", *picture, "-t", str(seconds), *codec, path], stdin=subprocess.DEVNULL):
        raise Failed("ffmpeg did not make a video")


def write_media(folder, films):
    """Films of which head and tail are real and the middle is noise: enough for whoever looks what they are."""
    os.makedirs(folder)
    sample = os.path.join(folder, "sample.mp4")
    write_video(sample, 3)
    with open(sample, "rb") as file:
        real = file.read()
    os.unlink(sample)
    head, tail = real[:64 * 1024], real[-64 * 1024:]
    for number in range(films):
        with open(os.path.join(folder, "film-%03d.mp4" % number), "wb") as out:
            out.write(head)
            out.writelines(noise(MEDIA_BYTES - len(head) - len(tail), 1000 + number))
            out.write(tail)


def write_many(path):
    lot = random.Random(7)
    files = [{"length": lot.randrange(1024, 65537), "path": ["folder-%04d" % folder, "file-%04d" % file]}
             for folder in range(MANY_FOLDERS) for file in range(MANY_FILES)]
    pieces = -(-sum(file["length"] for file in files) // MIB)
    info = {"name": "many", "piece length": MIB, "pieces": lot.randbytes(20 * pieces), "files": files}
    write_metainfo(path, info)


def write_torrent(path, content, piece_bytes):
    """A v1 torrent of a file, or of the files in a folder."""
    info = {"name": os.path.basename(content), "piece length": piece_bytes}
    if os.path.isfile(content):
        files = [content]
        info["length"] = os.path.getsize(content)
    else:
        files = [os.path.join(content, name) for name in sorted(os.listdir(content))]
        info["files"] = [{"length": os.path.getsize(file), "path": [os.path.basename(file)]} for file in files]
    info["pieces"] = b"".join(hashlib.sha1(piece).digest() for piece in pieces_of(files, piece_bytes))
    write_metainfo(path, info)


def pieces_of(files, piece_bytes):
    rest = b""
    for path in files:
        with open(path, "rb") as file:
            while part := file.read(piece_bytes - len(rest)):
                rest += part
                if len(rest) == piece_bytes:
                    yield rest
                    rest = b""
    if rest:
        yield rest


def write_metainfo(path, info):
    with open(path, "wb") as out:
        out.write(bencode({"announce": ANNOUNCE, "info": info}))
