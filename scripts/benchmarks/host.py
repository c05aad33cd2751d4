"""What the benchmarks need of the machine: places, child processes, their use of CPU and memory, page cache, isolation."""
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEERS = os.path.join(ROOT, "scripts/benchmarks/peers")
LIBTORRENT_PYTHON = os.path.join(ROOT, "target/peers/venv/bin/python")
# An interpreter that an ordinary user may run, too: the one in PATH may lie in root's home.
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
MIB, GIB, MB = 1 << 20, 1 << 30, 1e6
ORDINARY_USER = 65534
AS_USER = ["setpriv", "--reuid", str(ORDINARY_USER), "--regid", str(ORDINARY_USER), "--clear-groups"]
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A step of a scenario did not work out; what is measured next is not concerned."""


class Usage:
    """What a process has used so far: seconds of CPU in user and kernel mode, its peak of resident memory in MiB."""

    def __init__(self, pid):
        try:
            with open("/proc/%d/stat" % pid) as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            with open("/proc/%d/status" % pid) as status:
                memory = dict(re.findall(r"(\w+):\s+(\d+) kB", status.read()))
        except FileNotFoundError:
            raise Failed("the process has ended") from None
        self.user, self.system = int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND
        self.peak_mib = int(memory.get("VmHWM", 0)) / 1024
        self.resident_mib = int(memory.get("VmRSS", 0)) / 1024


def seconds_on_cpu(pid):
    """What all living threads of a process have run, in seconds, by the scheduler's own clock."""
    total = 0
    for thread in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/schedstat" % (pid, thread)) as file:
                total += int(file.read().split()[0])
        except OSError:
            pass
    return total / 1e9


class Child:
    """A helper of ours that is asked by lines and answers with lines of JSON."""

    def __init__(self, argv, ready=True, log=subprocess.DEVNULL, **more):
        self.name, self.rest = os.path.basename(argv[-2] if argv[-1].startswith("{") else argv[-1]), b""
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, **more)
        if ready:
            self.hear("ready", 30)

    def tell(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
        except OSError as error:
            raise Failed("%s: %s" % (self.name, error)) from None

    def more(self, end, most=1 << 20):
        if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
            raise Failed("%s: no answer in time" % self.name)
        came = os.read(self.process.stdout.fileno(), most)
        if not came:
            raise Failed("%s has ended" % self.name)
        return came

    def line(self, end):
        while b"\n" not in self.rest:
            self.rest += self.more(end)
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def hear(self, key, patience):
        """The next answer that has the key."""
        end = time.monotonic() + patience
        while True:
            words = self.line(end)
            if "error" in words:
                raise Failed("%s: %s" % (self.name, words["error"]))
            if key in words:
                return words

    def payload(self, count, patience):
        end, parts = time.monotonic() + patience, [self.rest[:count]]
        self.rest, count = self.rest[count:], count - len(parts[0])
        while count:
            parts.append(self.more(end, count))
            count -= len(parts[-1])
        return b"".join(parts)

    def ask(self, line, key, patience=30):
        self.tell(line)
        return self.hear(key, patience)

    def stop(self):
        self.process.stdin.close()
        end_process(self.process, 2)
        self.process.stdout.close()


def end_process(process, patience):
    """Waits for a process of ours, kills it when it takes too long."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            print("process %d does not end" % process.pid, file=sys.stderr)


def run_bounded(argv, seconds, **more):
    """Seconds that a program took; what it says on standard output is given back, too."""
    began = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failed("%s: not done in %g s" % (os.path.basename(argv[0]), seconds)) from None
    took = time.monotonic() - began
    if process.returncode:
        last = errors.decode(errors="replace").strip()[-200:]
        raise Failed("%s: status %d: %s" % (os.path.basename(argv[0]), process.returncode, last))
    return took, output


def wait_until(condition, seconds, what, pause=0.01):
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed("%s: not within %g s" % (what, seconds))
        time.sleep(pause)


def touch_memory(work, mib):
    """Makes the guest hold memory: one that has given free pages back to its host pays for their first touch, which can
    cost more than everything measured here."""
    path, block = os.path.join(work, "touched"), b"\1" * (8 * MIB)
    with open(path, "wb") as out:
        for _ in range(mib // 8):
            out.write(block)
    os.unlink(path)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as out:
        out.write("3\n")


def describe():
    """The machine in a line."""
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*:\s*(.*)", file.read())
    with open("/proc/meminfo") as file:
        memory = int(re.search(r"MemTotal:\s+(\d+)", file.read()).group(1)) / 1024 / 1024
    return "%d cores (%s), %.0f GiB, Linux %s" % (
        os.cpu_count(), model.group(1).strip() if model else os.uname().machine, memory, os.uname().release)


SURROUNDINGS = """
set -e
stage=$1 work=$2 bin=$3 scripts=$4; shift 4
ip link set lo up
mount -t tmpfs -o mode=755 none "$stage"
cd "$stage"
mkdir work bin scripts
mknod -m 666 fuse c 10 229
mount --bind fuse /dev/fuse
mount --bind "$work" work
mount --bind "$bin" bin
mount --bind "$scripts" scripts
exec "$@"
"""


def run_isolated(argv, work, binary):
    """Runs a command in namespaces of its own, and gives back its status. The network has loopback only: what a client
    cannot be told not to send (DHT, LSD) has nowhere to go. Mounts vanish and processes end with the command.

    Work folder, binary and scripts are shown below a folder every user can walk to, next to a /dev/fuse open to all; its path
    is the command's last argument."""
    stage = tempfile.mkdtemp(prefix="btfs-bench-")
    os.chmod(stage, 0o755)
    try:
        return subprocess.call(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
             "sh", "-c", SURROUNDINGS, "sh", stage, work, os.path.dirname(binary), PEERS, *argv, stage])
    finally:
        shutil.rmtree(stage, ignore_errors=True)
