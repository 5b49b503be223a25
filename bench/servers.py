# -*- coding: utf-8 -*-
"""The servers that are compared: how each is started, and what it is called in the tables."""
from __future__ import division, print_function

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict

import load

BENCH = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(BENCH)
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

import pgcluster           # noqa: E402

HOST = "127.0.0.1"
SERVER = [os.path.join(ROOT, "server.py")]
TIMED_SERVER = [os.path.join(BENCH, "timed_server.py"), "{dir}/ticks"]
PYTHON2 = os.path.join(ROOT, ".venv-2.7", "bin", "python")
START_SECONDS = 20          # for a server to answer after its start


class Peer(object):
    """A server to measure.

    `command` is its command line, with {host}, {port}, {dir}, a directory of its own, and
    {database}; `missing` says what to install before it can run; `works` are the names of what is
    measured on it; `processes` is how many of it share a database, and the clients.
    """
    lines = load.Lines()
    processes = 1
    has_all_cores = False

    def __init__(self, command, works, missing=None):
        self.command = command
        self.works = works
        self.missing = missing

    @contextlib.contextmanager
    def database(self, directory):
        """Have the database while the server runs; gives what it is to call it."""
        yield os.path.join(directory, "peer.db")

    def set_up(self, address):
        """What is left to do once it answers."""

    def nicknames(self, number):
        """The players who trade."""
        return ["player %d" % one for one in range(1, number + 1)]


class Lavka(Peer):
    """Lavka itself, on some Python, with some accounts on file.

    `program` is SERVER or TIMED_SERVER.
    """

    def __init__(self, works, python=sys.executable, accounts=None, missing=None,
                 program=SERVER):
        command = [python] + program + ["--host", "{host}", "--port", "{port}",
                                        "--database", "{database}"]
        Peer.__init__(self, command, works, missing)
        self.python = python
        self.accounts = accounts
        self.filled = None          # a database with so many accounts; made once

    @contextlib.contextmanager
    def database(self, directory):
        path = os.path.join(directory, "lavka.db")
        if self.accounts is None:
            run([self.python, os.path.join(ROOT, "db.py"), "--database", path])
        else:
            self.copy_accounts(path)
        yield path

    def copy_accounts(self, path):
        if self.filled is None:
            filled = os.path.join(os.path.dirname(os.path.dirname(path)), "%d.db" % self.accounts)
            run([sys.executable, os.path.join(BENCH, "fill.py"), "--accounts",
                 "%d" % self.accounts, "--trades", "0", filled])
            self.filled = filled
        shutil.copyfile(self.filled, path)
        os.sync()                   # or the server's first commits wait for it

    def nicknames(self, number):
        if self.accounts is None:
            return Peer.nicknames(self, number)
        # Spread over the file.
        return ["player %d" % (1 + one * self.accounts // number) for one in range(number)]


class Redis(Peer):
    lines = load.Redis()

    def set_up(self, address):
        with contextlib.closing(load.connect(address)) as sock:
            load.check(load.call(sock, self.lines.set_up()))


class OnPostgreSQL(Peer):
    """Some servers, as another Peer has one, on a PostgreSQL of their own, which is new as well."""
    has_all_cores = True

    def __init__(self, peer, processes):
        missing = module("psycopg2") if pgcluster.BINARIES else "install postgresql"
        Peer.__init__(self, peer.command, ["trade50", "trade500"], missing)
        self.processes = processes

    @contextlib.contextmanager
    def database(self, directory):
        for path in (os.path.dirname(directory), directory):
            os.chmod(path, 0o711)           # root's PostgreSQL is another user's
        with contextlib.closing(pgcluster.Cluster(free_port(), parent=directory)) as cluster:
            os.sync()                       # or the first commits wait for it
            yield cluster.url(cluster.template)


def python_peer(script, *modules):
    return Peer([sys.executable, os.path.join(BENCH, "peers", script), "{host}", "{port}",
                 "{database}"], LOOP + SHOP, module(*modules))


def module(*names):
    if None in [importlib.util.find_spec(name) for name in names]:
        return "pip install -r bench/requirements.txt"
    return None


def program(name, package):
    return None if shutil.which(name) else "install %s" % package


LOOP = ["ping", "ping16"]
SHOP = ["trade1", "trade50", "trade500", "new", "returning"]

SERVERS = OrderedDict([
    ("Lavka", Lavka(LOOP + SHOP + ["idle", "crowd"])),
    ("redis", Redis(["redis-server", "--bind", "{host}", "--port", "{port}", "--dir", "{dir}",
                     "--protected-mode", "no", "--save", "", "--appendonly", "yes",
                     "--appendfsync", "always"],
                    LOOP + SHOP, program("redis-server", "redis-server"))),
    ("uvloop", python_peer("uvloop_protocol.py", "uvloop")),
    ("streams", python_peer("streams.py")),
    ("twisted", python_peer("twisted_lines.py", "twisted")),
    ("threads", python_peer("threads.py")),
    ("node", Peer(["node", os.path.join(BENCH, "peers", "ping.js"), "{host}", "{port}"], LOOP,
                  program("node", "nodejs"))),
    ("echo", Peer([sys.executable, os.path.join(BENCH, "peers", "echo.py"), "{host}", "{port}"],
                  LOOP)),
    ("2.7", Lavka(["ping", "trade50"], PYTHON2,
                  missing=None if os.path.exists(PYTHON2) else "python2.7 on the path")),
    ("thousand", Lavka(["trade50"], accounts=1000)),
    ("million", Lavka(["trade50"], accounts=1000000)),
    ("timed", Lavka(["ticks"], program=TIMED_SERVER)),
])
SHARING = OrderedDict([
    ("postgresql-1", OnPostgreSQL(SERVERS["Lavka"], 1)),
    ("postgresql-2", OnPostgreSQL(SERVERS["Lavka"], 2)),
    ("postgresql-4", OnPostgreSQL(SERVERS["Lavka"], 4)),
    ("transactions-1", OnPostgreSQL(SERVERS["streams"], 1)),
    ("transactions-4", OnPostgreSQL(SERVERS["streams"], 4)),
])
SERVERS.update(SHARING)

# Their names in the table, where these are not those above.
NAMES = {
    "redis": "redis, `appendfsync always`",
    "uvloop": "asyncio protocol on uvloop",
    "streams": "asyncio streams",
    "twisted": "Twisted",
    "threads": "a thread for each client",
    "node": "Node",
    "echo": "a bare echo loop",
    "2.7": "Lavka on Python 2.7",
    "thousand": "Lavka with 1,000 accounts",
    "million": "Lavka with 1,000,000 accounts",
    "timed": "**Lavka**, its ticks timed",
    "postgresql-1": "**Lavka**, 1 server",
    "postgresql-2": "**Lavka**, 2 servers",
    "postgresql-4": "**Lavka**, 4 servers",
    "transactions-1": "a transaction a request, 1 server",
    "transactions-4": "a transaction a request, 4 servers",
}
PYTHON_PEERS = ["uvloop", "streams", "twisted", "threads"]


# --- running them ---------------------------------------------------------------------------

class Running(object):
    """A server that runs: the Peer, its directory, the addresses and processes of it; `seconds`
    are those to measure."""

    def __init__(self, peer, directory, seconds):
        self.peer = peer
        self.directory = directory
        self.addresses = []
        self.processes = []
        self.seconds = seconds

    def files(self, name):
        """Yield that file of each process in /proc, as text (proc(5))."""
        for process in self.processes:
            with open("/proc/%d/%s" % (process.pid, name)) as file:
                yield file.read()

    def descriptors(self):
        return sum(len(os.listdir("/proc/%d/fd" % process.pid)) for process in self.processes)

    def memory(self, field="VmRSS"):
        """The resident memory, in KB; with VmHWM, the most that it ever was."""
        return sum(int(re.search(field + r":\s*(\d+) kB", text).group(1))
                   for text in self.files("status"))

    def computed(self):
        """The seconds that all threads have computed."""
        ticks = 0
        for text in self.files("stat"):
            user, system = text.rpartition(")")[2].split()[11:13]
            ticks += int(user) + int(system)
        return ticks / os.sysconf("SC_CLK_TCK")

    def send_signal(self, number):
        for process in self.processes:
            process.send_signal(number)


def run(command):
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             universal_newlines=True)
    if process.returncode:
        raise load.LoadError("it could not be prepared: %s" % process.stdout.strip()[-200:])


def wait_until(condition, complaint):
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise load.LoadError(complaint)
        time.sleep(0.01)


def free_port():
    with contextlib.closing(socket.socket()) as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


def answers(address):
    try:
        load.connect(address).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def started(peer, scratch, cores, seconds):
    """Run a server in a new directory, on its cores; gives a Running."""
    directory = tempfile.mkdtemp(dir=scratch)
    running = Running(peer, directory, seconds)
    try:
        os.sched_setaffinity(0, cores if peer.has_all_cores else cores[:1])     # inherited
        with peer.database(directory) as database:
            try:
                for _ in range(peer.processes):
                    start(running, database)
                os.sched_setaffinity(0, cores[-1:])
                peer.set_up(running.addresses[0])
                yield running
            finally:
                for process in running.processes:
                    process.kill()
                    process.wait()
    finally:
        shutil.rmtree(directory)


def start(running, database):
    """Start one process of a server, and wait until it answers."""
    address = HOST, free_port()
    command = [word.format(host=HOST, port=address[1], dir=running.directory, database=database)
               for word in running.peer.command]
    path = os.path.join(running.directory, "%d.log" % address[1])
    with open(path, "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   cwd=running.directory)
    running.addresses.append(address)
    running.processes.append(process)
    wait_until(lambda: process.poll() is not None or answers(address), "it does not answer")
    if process.poll() is not None:
        with open(path, errors="replace") as log:
            raise load.LoadError("it ended: %s" % log.read().strip()[-200:])
