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
import os
import platform
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict, namedtuple
from statistics import median

import load

BENCH = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(BENCH)
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

import pgcluster           # noqa: E402

HOST = "127.0.0.1"
PYTHON2 = os.path.join(ROOT, ".venv-2.7", "bin", "python")
START_SECONDS = 20          # for a server to answer after its start
STORM_PLAYERS = 10000
STORM_AT_ONCE = 200         # of them, who wait for the answer to their login
IDLE_PLAYERS = 15000


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
    """Lavka itself, on some Python, with some accounts on file."""

    def __init__(self, works, python=sys.executable, accounts=None, missing=None):
        command = [python, os.path.join(ROOT, "server.py"), "--host", "{host}", "--port", "{port}",
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
IDLE = ["idle"]

SERVERS = OrderedDict([
    ("Lavka", Lavka(LOOP + SHOP + IDLE)),
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
    "postgresql-1": "**Lavka**, 1 server",
    "postgresql-2": "**Lavka**, 2 servers",
    "postgresql-4": "**Lavka**, 4 servers",
    "transactions-1": "a transaction a request, 1 server",
    "transactions-4": "a transaction a request, 4 servers",
}
PYTHON_PEERS = ["uvloop", "streams", "twisted", "threads"]
CHART = ["ping", "ping16", "trade50", "trade500", "new", "returning"]


# --- the works ------------------------------------------------------------------------------

# A server that runs: the Peer, the addresses and processes of it, the seconds to measure.
Running = namedtuple("Running", "peer addresses processes seconds")


def ping(clients, depth):
    def work(running):
        socks = load.connections(running.addresses, clients)
        try:
            return load.drive(socks, [[running.peer.lines.ping()]] * clients, running.seconds,
                              depth)
        finally:
            close(socks)
    return work


def trade(clients):
    def work(running):
        nicknames = running.peer.nicknames(clients)
        socks = load.traders(running.addresses, running.peer.lines, nicknames)
        try:
            return load.drive(socks, [running.peer.lines.trades(one) for one in nicknames],
                              running.seconds)
        finally:
            leave(running, socks)
    return work


def storm(running):
    requests = [running.peer.lines.login("storm %d" % one) for one in range(STORM_PLAYERS)]
    result, socks = load.storm(running.addresses, requests, STORM_AT_ONCE)
    leave(running, socks)
    return result


Idle = namedtuple("Idle", "kilobytes alone among")     # per player; p50 of ping, in seconds


def idle(running):
    alone = WORKS["ping"].work(running).p50
    before = memory(running)
    requests = [running.peer.lines.login("idle %d" % one) for one in range(IDLE_PLAYERS)]
    _, socks = load.storm(running.addresses, requests, STORM_AT_ONCE)
    grown = memory(running) - before
    among = WORKS["ping"].work(running).p50
    close(socks)
    return Idle(grown / 1024 / IDLE_PLAYERS, alone, among)


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
])


def close(socks):
    for sock in socks:
        sock.close()


def leave(running, socks):
    """Close connections, and wait until the server has noticed: nicknames are free then."""
    def descriptors():
        return sum(len(os.listdir("/proc/%d/fd" % process.pid)) for process in running.processes)

    few = descriptors() - len(socks)
    close(socks)
    wait_until(lambda: descriptors() <= few, "the server keeps connections")


def memory(running):
    """The resident memory of its processes, in bytes (proc(5), statm)."""
    pages = 0
    for process in running.processes:
        with open("/proc/%d/statm" % process.pid) as statm:
            pages += int(statm.read().split()[1])
    return pages * resource.getpagesize()


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
    running = Running(peer, [], [], seconds)
    try:
        os.sched_setaffinity(0, cores if peer.has_all_cores else cores[:1])     # inherited
        with peer.database(directory) as database:
            try:
                for _ in range(peer.processes):
                    start(running, directory, database)
                os.sched_setaffinity(0, cores[-1:])
                peer.set_up(running.addresses[0])
                yield running
            finally:
                for process in running.processes:
                    process.kill()
                    process.wait()
    finally:
        shutil.rmtree(directory)


def start(running, directory, database):
    """Start one process of a server, and wait until it answers."""
    address = HOST, free_port()
    command = [word.format(host=HOST, port=address[1], dir=directory, database=database)
               for word in running.peer.command]
    path = os.path.join(directory, "%d.log" % address[1])
    with open(path, "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   cwd=directory)
    running.addresses.append(address)
    running.processes.append(process)
    wait_until(lambda: process.poll() is not None or answers(address), "it does not answer")
    if process.poll() is not None:
        with open(path, errors="replace") as log:
            raise load.LoadError("it ended: %s" % log.read().strip()[-200:])


def measure(names, works, rounds, seconds, directory):
    """{(work, server): [a Result or an Idle for each round]}, {server: what went wrong}."""
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
                # Idle players get a fresh server, whose memory holds nothing that was freed.
                for todo in ([one for one in peer.works if one in works and one != "idle"],
                             [one for one in peer.works if one in works and one == "idle"]):
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
    yield "| work | server | per second | p50 ms | p99 ms | p99.9 ms | Lavka : it | load busy |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for work in works:
        if work == "idle":
            continue
        title = WORKS[work].name
        for name in names:
            figures = results.get((work, name))
            if figures:
                to_it = name != "Lavka" and ratio(results.get((work, "Lavka")), figures)
                yield "| %s | %s%s | %s | %.2f | %.2f | %.2f | %s | %.0f%% |" % (
                    title, NAMES.get(name, "**%s**" % name),
                    " (%s)" % failures[name] if name in failures else "",
                    "{:,.0f}".format(middle(figures, "rate")), 1000 * middle(figures, "p50"),
                    1000 * middle(figures, "p99"), 1000 * middle(figures, "p999"),
                    "%.2f" % to_it if to_it else "", 100 * middle(figures, "busy"))
            elif name in failures and work in SERVERS[name].works:
                yield "| %s | %s | %s | | | | | |" % (title, NAMES.get(name, name), failures[name])
            else:
                continue
            title = ""
    figures = results.get(("idle", "Lavka"))
    if figures:
        yield "| %s | **Lavka** | %.2f KB each | %.2f (`ping`; %.2f without them) | | | | |" % (
            WORKS["idle"].name, middle(figures, "kilobytes"), 1000 * middle(figures, "among"),
            1000 * middle(figures, "alone"))


def rounded(figure):
    """With two digits: the kernel's choice of cores makes more of them chance."""
    return "{:,.9g}".format(float("%.2g" % figure))


def sharing_table(names, works, results, failures):
    """Lines of Markdown: those on one PostgreSQL, and their ratios to some of them."""
    others = ["transactions-1", "transactions-4", "postgresql-1"]
    yield "| work | on one PostgreSQL | per second | %s | load busy |" % " | ".join(
        "it : " + NAMES[other].replace("*", "") for other in others)
    yield "|---|---|--:|--:|--:|--:|--:|"
    for work in works:
        title = WORKS[work].name
        for name in names:
            figures = results.get((work, name))
            if figures:
                ratios = [other != name and ratio(figures, results.get((work, other)))
                          for other in others]
                yield "| %s | %s%s | %s | %s | %.0f%% |" % (
                    title, NAMES[name], " (%s)" % failures[name] if name in failures else "",
                    rounded(middle(figures, "rate")),
                    " | ".join(rounded(one) if one else "" for one in ratios),
                    100 * middle(figures, "busy"))
            elif name in failures and work in SERVERS[name].works:
                yield "| %s | %s | %s | | | | |" % (title, NAMES[name], failures[name])
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
    return [
        ("durable trades, 50 clients, to redis", to("redis", "trade50"), ">=", 1.0),
        ("durable trades, 50 clients, to the best Python peer", to_best_peer("trade50"), ">=", 25),
        ("durable trades, 500 clients, to redis", to("redis", "trade500"), ">=", 1.2),
        ("`ping`, to uvloop", to("uvloop", "ping"), ">=", 1.3),
        ("`ping`, to Node", to("node", "ping"), ">=", 1.0),
        ("`ping`, to a bare echo loop", to("echo", "ping"), ">=", 0.75),
        ("`ping`, 16 deep, to uvloop", to("uvloop", "ping16"), ">=", 2.2),
        ("new players, to the best Python peer", to_best_peer("new"), ">=", 15),
        ("KB of memory for an idle player", idles and middle(idles, "kilobytes"), "<=", 1.5),
        ("p50 of `ping` among 15,000 idle players, to that without them",
         idles and median(one.among / one.alone for one in idles), "<=", 1.3),
        ("trades with 1,000,000 accounts, to 1,000",
         to("thousand", "trade50", "million"), ">=", 0.95),
        ("p99.9 of a trade, 50 clients, to its p50",
         trades and median(one.p999 / one.p50 for one in trades), "<=", 10),
        ("`ping` on Python 2.7, to this Python", to("Lavka", "ping", "2.7"), ">=", 0.7),
        ("trades on Python 2.7, to this Python", to("Lavka", "trade50", "2.7"), ">=", 0.7),
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
    results, failures = measure(names, works, options.rounds, options.seconds, options.directory)
    shared = [name for name in names if name in SHARING]
    names = [name for name in names if name not in SHARING]
    tables = []
    if names:
        tables += [table(names, works, results, failures), goal_table(results)]
    if shared:
        tables.append(sharing_table(shared, works, results, failures))
    print(machine())
    for lines in tables:
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
