# -*- coding: utf-8 -*-
"""Lavka beside its peers: starts each server in turn, drives all with one load, and compares.

    python bench/run.py [--rounds N] [--seconds S] [--servers NAME ...] [--works NAME ...]

A round starts every server once, so that a machine that is slow for a while is slow for all of
them. Servers run on one core, the load on another; those on PostgreSQL, which are compared among
themselves, run on all cores, as it does. A figure is the median of the rounds, a ratio the median
of the rounds' ratios. Progress goes to stderr, the tables, in Markdown, to stdout, and with --chart
FILE a picture of the first to a file.
"""
from __future__ import division, print_function

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict, namedtuple
from statistics import median
from types import SimpleNamespace

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
STORM_PLAYERS = 10000
STORM_AT_ONCE = 200         # of them, who wait for the answer to their login
IDLE_PLAYERS = 15000
CROWD_PLAYERS = 15000       # who log in at once
LIMITING = 0.85             # part of the time; a load that computes longer may be the limit
SLOW_SECONDS = 0.01         # of a tick, to be told with what it did


# --- the servers ----------------------------------------------------------------------------

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
FRESH = ["idle", "crowd", "ticks"]      # each gets a fresh server, whose memory holds nothing freed

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
CHART = ["ping", "ping16", "trade50", "trade500", "new", "returning"]


# --- the works ------------------------------------------------------------------------------

# How long to measure, and to look at every tick.
Seconds = namedtuple("Seconds", "work ticks")


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


def ping(clients, depth):
    def work(running):
        socks = load.connections(running.addresses, clients)
        try:
            return load.drive(socks, [[running.peer.lines.ping()]] * clients, running.seconds.work,
                              depth, running.computed)
        finally:
            close(socks)
    return work


def trade(clients, length=lambda seconds: seconds.work):
    def work(running):
        nicknames = running.peer.nicknames(clients)
        socks = load.traders(running.addresses, running.peer.lines, nicknames)
        try:
            return load.drive(socks, [running.peer.lines.trades(one) for one in nicknames],
                              length(running.seconds), server_time=running.computed)
        finally:
            leave(running, socks)
    return work


def storm(running):
    requests = [running.peer.lines.login("storm %d" % one) for one in range(STORM_PLAYERS)]
    result, socks = load.storm(running.addresses, requests, STORM_AT_ONCE, running.computed)
    leave(running, socks)
    return result


Idle = namedtuple("Idle", "kilobytes alone among")     # per player; p50 of ping, in seconds


def idle(running):
    alone = WORKS["ping"].work(running).p50
    before = running.memory()
    requests = [running.peer.lines.login("idle %d" % one) for one in range(IDLE_PLAYERS)]
    _, socks = load.storm(running.addresses, requests, STORM_AT_ONCE)
    grown = running.memory() - before
    among = WORKS["ping"].work(running).p50
    close(socks)
    return Idle(grown / IDLE_PLAYERS, alone, among)


Crowd = namedtuple("Crowd", "peak kilobytes")           # per player: at the most, and afterwards


def crowd(running):
    """All requests are there before the server goes on, or it would serve the first meanwhile."""
    before, few = running.memory(), running.descriptors()

    def accepted(number):
        wait_until(lambda: running.descriptors() >= few + number, "the server accepts nobody")

    requests = [running.peer.lines.login("crowd %d" % one) for one in range(CROWD_PLAYERS)]
    socks = load.crowd(running.addresses, requests, accepted,
                       lambda: running.send_signal(signal.SIGSTOP),
                       lambda: running.send_signal(signal.SIGCONT))
    grown = [running.memory(field) - before for field in ("VmHWM", "VmRSS")]
    close(socks)
    return Crowd(*[kilobytes / CROWD_PLAYERS for kilobytes in grown])


class Ticks(object):
    """All ticks of a server that served a request, as timed_server.py describes them."""

    def __init__(self, ticks):
        durations = sorted(tick.seconds for tick in ticks)
        self.p50, self.p99, self.p999, self.slowest = (
            durations[min(int(len(ticks) * part), len(ticks) - 1)]
            for part in (0.5, 0.99, 0.999, 1))
        self.slow = [tick for tick in ticks if tick.seconds > SLOW_SECONDS]
        # One that takes several ticks is one.
        self.checkpoints = sum(tick.checkpoint and not before.checkpoint
                               for before, tick in zip(ticks, ticks[1:]))


def ticks(running):
    """Trade, and have the server write down its ticks as it stops."""
    trade(50, lambda seconds: seconds.ticks)(running)
    process, = running.processes
    process.terminate()
    process.wait(START_SECONDS)
    with open(os.path.join(running.directory, "ticks")) as lines:
        return Ticks([SimpleNamespace(**json.loads(line)) for line in lines])


Work = namedtuple("Work", "name unit work")
WORKS = OrderedDict([
    ("ping", Work("`ping`, 50 clients", "requests/s", ping(50, 1))),
    ("ping16", Work("`ping`, 50 clients, 16 deep", "requests/s", ping(50, 16))),
    ("trade1", Work("durable trades, 1 client", "trades/s", trade(1))),
    ("trade50", Work("durable trades, 50 clients", "trades/s", trade(50))),
    ("trade500", Work("durable trades, 500 clients", "trades/s", trade(500))),
    ("new", Work("10,000 new players connect and log in", "logins/s", storm)),
    ("returning", Work("10,000 returning players", "logins/s", storm)),
    ("idle", Work("15,000 idle players", None, idle)),
    ("crowd", Work("15,000 players log in at once", None, crowd)),
    ("ticks", Work("every tick, 50 trading clients", None, ticks)),
])


def close(socks):
    for sock in socks:
        sock.close()


def leave(running, socks):
    """Close connections, and wait until the server has noticed: nicknames are free then."""
    few = running.descriptors() - len(socks)
    close(socks)
    wait_until(lambda: running.descriptors() <= few, "the server keeps connections")


# --- running them ---------------------------------------------------------------------------

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


def measure(names, works, rounds, seconds, directory):
    """{(work, server): [a Result, Idle, Crowd or Ticks for each round]}, {server: what went
    wrong}."""
    results, failures = {}, {}
    cores = sorted(os.sched_getaffinity(0))
    scratch = tempfile.mkdtemp(prefix=".bench-", dir=directory)
    try:
        for number in range(rounds):
            # Another one begins each time: what depends on the place in a round evens out.
            first = number % len(names)
            for name in names[first:] + names[:first]:
                peer = SERVERS[name]
                if peer.missing:
                    failures[name] = "not installed: %s" % peer.missing
                chosen = [one for one in peer.works if one in works]
                for todo in [[one for one in chosen if one not in FRESH]] + [
                        [one] for one in chosen if one in FRESH]:
                    if not todo or name in failures:
                        continue
                    try:
                        with started(peer, scratch, cores, seconds) as running:
                            for work in todo:
                                say("round %d of %d: %s: %s" % (number + 1, rounds, name, work))
                                result = WORKS[work].work(running)
                                results.setdefault((work, name), []).append(result)
                    except (load.LoadError, OSError, AssertionError) as error:
                        failures[name] = "failed in round %d: %s" % (number + 1, error)
    finally:
        shutil.rmtree(scratch)
        say("")
    return results, failures


def say(text):
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K%s" % text)
    elif text:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()


# --- what is told ---------------------------------------------------------------------------

def middle(results, field):
    return median(getattr(result, field) for result in results)


def ratio(results, others):
    """Of the rates of two servers, by rounds; None where one of them was not measured."""
    if not results or not others:
        return None
    return median(one.rate / other.rate for one, other in zip(results, others))


def table(names, works, results, failures):
    """Lines of Markdown."""
    yield ("| work | server | per second | p50 ms | p99 ms | p99.9 ms | Lavka : it | server µs "
           "| load busy |")
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    for work in works:
        title = WORKS[work].name
        for name in names:
            figures = results.get((work, name))
            if figures:
                server = NAMES.get(name, "**%s**" % name)
                if name in failures:
                    server += " (%s)" % failures[name]
                to_it = None if name == "Lavka" else ratio(results.get((work, "Lavka")), figures)
                cells = CELLS.get(work, rate_cells)(figures, to_it)
            elif name in failures and work in SERVERS[name].works:
                server, cells = NAMES.get(name, name), [failures[name]]
            else:
                continue
            yield "| %s | %s | %s |" % (title, server, " | ".join(cells + [""] * (7 - len(cells))))
            title = ""


def rate_cells(figures, to_it):
    return [marked("{:,.0f}".format(middle(figures, "rate")), figures)] + milliseconds(figures) + [
        "%.2f" % to_it if to_it else "", "%.1f" % (1e6 * middle(figures, "cost")),
        "%.0f%%" % (100 * middle(figures, "busy"))]


def idle_cells(figures, _):
    return ["%.2f KB each" % middle(figures, "kilobytes"), "%.2f (`ping`; %.2f without them)" % (
        1000 * middle(figures, "among"), 1000 * middle(figures, "alone"))]


def crowd_cells(figures, _):
    return ["%.2f KB each at the peak, %.2f afterwards" % (
        middle(figures, "peak"), middle(figures, "kilobytes"))]


def tick_cells(figures, _):
    return ["%d checkpoints" % middle(figures, "checkpoints")] + milliseconds(figures)


CELLS = {"idle": idle_cells, "crowd": crowd_cells, "ticks": tick_cells}


def milliseconds(figures):
    return ["%.2f" % (1000 * middle(figures, field)) for field in ("p50", "p99", "p999")]


def is_limit(figures):
    """Whether the load, and not the server, may be what these were limited by."""
    return middle(figures, "busy") > LIMITING


def marked(rate, figures):
    return rate + " \\*" if is_limit(figures) else rate


def footnote(results):
    """Lines of Markdown: what the mark in the tables says, if one has it."""
    if any(isinstance(figures[0], load.Result) and is_limit(figures)
           for figures in results.values()):
        yield ("\\* The load was busy for over %.0f%% of the time, and limited what was measured: "
               "the server can do at least this." % (100 * LIMITING))


def cause(tick):
    """What made a tick slow: what took most of it."""
    waiting = tick.seconds - tick.computing
    if tick.checkpoint:
        return "a checkpoint"
    if tick.collecting > tick.seconds / 2:
        return "garbage collection"
    if waiting < tick.seconds / 2:
        return "computing"
    if tick.commit > tick.seconds / 2:
        return "the commit waited, mostly for the disk"
    return "it waited outside the commit, for its core"


def slow_ticks(results):
    """Lines of Markdown: what was slow in the ticks over SLOW_SECONDS."""
    causes = {}
    for figures in results:
        for tick in figures.slow:
            causes.setdefault(cause(tick), []).append(tick)
    yield "| ticks over %.0f ms | number | slowest ms | of it commit | of it computing |" % (
        1000 * SLOW_SECONDS)
    yield "|---|--:|--:|--:|--:|"
    for name, ticks in sorted(causes.items()):
        slowest = max(ticks, key=lambda tick: tick.seconds)
        yield "| %s | %d | %.1f | %.1f | %.1f |" % (
            name, len(ticks), 1000 * slowest.seconds, 1000 * slowest.commit,
            1000 * slowest.computing)


def rounded(figure):
    """With two digits: the kernel's choice of cores makes more of them chance."""
    return "{:,.9g}".format(float("%.2g" % figure))


def sharing_table(names, works, results, failures):
    """Lines of Markdown: those on one PostgreSQL, and their ratios to some of them."""
    others = ["transactions-1", "transactions-4", "postgresql-1"]
    yield "| work | on one PostgreSQL | per second | %s | servers µs | load busy |" % " | ".join(
        "it : " + NAMES[other].replace("*", "") for other in others)
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for work in works:
        title = WORKS[work].name
        for name in names:
            figures = results.get((work, name))
            if figures:
                ratios = [other != name and ratio(figures, results.get((work, other)))
                          for other in others]
                yield "| %s | %s%s | %s | %s | %.0f | %.0f%% |" % (
                    title, NAMES[name], " (%s)" % failures[name] if name in failures else "",
                    marked(rounded(middle(figures, "rate")), figures),
                    " | ".join(rounded(one) if one else "" for one in ratios),
                    1e6 * middle(figures, "cost"), 100 * middle(figures, "busy"))
            elif name in failures and work in SERVERS[name].works:
                yield "| %s | %s | %s | | | | | |" % (title, NAMES[name], failures[name])
            else:
                continue
            title = ""


def goals(results):
    """What the project wants to hold: (what, the figure or None, ">=" or "<=", the goal)."""
    def to(other, work, one="Lavka"):
        return ratio(results.get((work, one)), results.get((work, other)))

    def to_best_peer(work):
        known = [to(peer, work) for peer in PYTHON_PEERS]
        return min(known) if None not in known else None

    trades, idles = results.get(("trade50", "Lavka")), results.get(("idle", "Lavka"))
    crowds, timed = results.get(("crowd", "Lavka")), results.get(("ticks", "timed"))
    return [
        ("durable trades, 50 clients, to redis", to("redis", "trade50"), ">=", 1.25),
        ("durable trades, 50 clients, to the best Python peer", to_best_peer("trade50"), ">=", 25),
        ("durable trades, 500 clients, to redis", to("redis", "trade500"), ">=", 1.1),
        ("`ping`, to uvloop", to("uvloop", "ping"), ">=", 1.3),
        ("`ping`, to Node", to("node", "ping"), ">=", 1.0),
        ("`ping`, to a bare echo loop", to("echo", "ping"), ">=", 0.75),
        ("`ping`, 16 deep, to uvloop", to("uvloop", "ping16"), ">=", 2.5),
        ("returning players, to redis", to("redis", "returning"), ">=", 1.0),
        ("new players, to the best Python peer", to_best_peer("new"), ">=", 15),
        ("KB of memory for an idle player", idles and middle(idles, "kilobytes"), "<=", 1.5),
        ("KB at the peak for each of 15,000 players who log in at once",
         crowds and middle(crowds, "peak"), "<=", 1.5),
        ("p50 of `ping` among 15,000 idle players, to that without them",
         idles and median(one.among / one.alone for one in idles), "<=", 1.3),
        ("trades with 1,000,000 accounts, to 1,000",
         to("thousand", "trade50", "million"), ">=", 0.95),
        ("p99.9 of a trade, 50 clients, to its p50",
         trades and median(one.p999 / one.p50 for one in trades), "<=", 10),
        ("p99.9 of a tick, 50 clients, to its p50",
         timed and median(one.p999 / one.p50 for one in timed), "<=", 10),
        ("ms of the slowest tick of all rounds",
         timed and 1000 * max(one.slowest for one in timed), "<=", 50),
        ("`ping` on Python 2.7, to this Python", to("Lavka", "ping", "2.7"), ">=", 0.7),
        ("trades on Python 2.7, to this Python", to("Lavka", "trade50", "2.7"), ">=", 0.7),
        ("durable trades, 50 clients, on PostgreSQL, to a transaction a request",
         to("transactions-1", "trade50", "postgresql-1"), ">=", 20),
    ]


def goal_table(results):
    """Lines of Markdown."""
    yield "| | measured | goal | |"
    yield "|---|--:|--:|---|"
    for name, figure, sign, goal in goals(results):
        if figure is None:
            yield "| %s | | %s %s | not measured |" % (name, sign, goal)
        else:
            held = figure >= goal if sign == ">=" else figure <= goal
            yield "| %s | %.2f | %s %s | %s |" % (name, figure, sign, goal,
                                                  "met" if held else "missed")


def panels(names, results):
    """The figures for the chart."""
    for work in CHART:
        bars = [(name, middle(results[work, name], "rate")) for name in names
                if (work, name) in results and name not in ("2.7", "thousand", "million")]
        if bars:
            yield WORKS[work].name.replace("`", ""), WORKS[work].unit, bars


def machine():
    """What was measured on, in a line."""
    with open("/proc/cpuinfo") as cpuinfo:
        models = [line.split(":", 1)[1].strip() for line in cpuinfo
                  if line.startswith("model name")]
    parts = ["%d x %s" % (os.cpu_count(), models[0] if models else platform.machine()),
             "Linux " + platform.release(), "Python " + platform.python_version(),
             "SQLite " + sqlite3.sqlite_version]
    postgres = os.path.join(pgcluster.BINARIES or "", "postgres")
    for command, name in ((["redis-server", "--version"], "redis"), (["node", "--version"], "Node"),
                          ([postgres, "--version"], "PostgreSQL")):
        if shutil.which(command[0]):
            said = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True).stdout
            parts.append("%s %s" % (name, re.search(r"[0-9][0-9.]+", said).group()))
    return ", ".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=load.positive, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of a measurement (default: 2)")
    parser.add_argument("--tick-seconds", type=float, default=60,
                        help="of the load whose every tick is timed (default: 60)")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS),
                        metavar="NAME", help="these alone: %s" % ", ".join(SERVERS))
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS),
                        metavar="NAME", help="these alone: %s" % ", ".join(WORKS))
    parser.add_argument("--directory", default=ROOT,    # where fsync is one; not in /tmp
                        help="for the databases, on the disk to measure (default: this checkout)")
    parser.add_argument("--chart", metavar="FILE", help="write the chart to this SVG file")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = [name for name in SERVERS if name in options.servers]
    if "returning" in options.works:
        options.works.append("new")             # or nobody could return
    works = [work for work in WORKS if work in options.works]
    if options.chart:
        try:
            import chart
        except ImportError:
            raise SystemExit("no chart without matplotlib: pip install -r bench/requirements.txt")
        try:
            open(options.chart, "ab").close()
        except OSError as error:
            raise SystemExit("no chart: %s" % error)
    seconds = Seconds(options.seconds, options.tick_seconds)
    results, failures = measure(names, works, options.rounds, seconds, options.directory)
    shared = [name for name in names if name in SHARING]
    names = [name for name in names if name not in SHARING]
    tables = [table(names, works, results, failures)] if names else []
    if shared:
        tables.append(sharing_table(shared, works, results, failures))
    if ("ticks", "timed") in results:
        tables.append(slow_ticks(results["ticks", "timed"]))
    tables += [footnote(results), goal_table(results)]
    print(machine())
    for lines in filter(None, map(list, tables)):
        print()
        for line in lines:
            print(line)
    if any(failure.startswith("failed") for failure in failures.values()):
        raise SystemExit("Not every server got through.")
    drawn = list(panels(names, results))
    if options.chart and drawn:
        chart.draw(options.chart, drawn)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the servers, too\n")
        raise SystemExit(130)
