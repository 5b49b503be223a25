# -*- coding: utf-8 -*-
"""What the tests share: the real programs in subprocesses, and peers that speak bytes to them."""
from __future__ import unicode_literals

import atexit
import contextlib
import fcntl
import io
import json
import logging
import os
import random
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import time

import pytest

import pgcluster

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLIENT = os.path.join(ROOT, "client.py")
WAITING = "Waiting for the server ..."     # what it says when an answer takes long
sys.path.insert(0, ROOT)

import admin_database   # noqa: E402
import admin_socket     # noqa: E402
import db           # noqa: E402
import listener     # noqa: E402
import log          # noqa: E402
import server       # noqa: E402
import service      # noqa: E402
from protocol import ADMIN_METHODS      # noqa: E402
from session import FOREVER, Session    # noqa: E402

MAX_WORKERS = 64    # of pytest-xdist; each has ports of its own, and so has a run without it
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw%d" % os.getpid())[2:]) % MAX_WORKERS
DATA_HOME = tempfile.mkdtemp("lavka")       # for the keys of players: the tests leave no others
atexit.register(shutil.rmtree, DATA_HOME)
PATIENCE = 20       # seconds until a condition that never comes fails its test


def wait_for(condition, what):
    """Return the first true value of condition()."""
    deadline = time.time() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        assert time.time() < deadline, "waited in vain for %s" % what
        time.sleep(0.005)


def environment(**variables):
    """The environment for a program: this one, without Lavka's own variables and the real keys."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LAVKA_")}
    clean.pop("PYTHONDONTWRITEBYTECODE", None)      # or hundreds of programs compile their modules
    clean["XDG_DATA_HOME"] = DATA_HOME
    clean.update((str(name), str(value)) for name, value in variables.items())
    return clean


def player_environment(**variables):
    """A player's, whatever it is where the tests run: buffered output, UTF-8, no colours."""
    return environment(**dict(
        {"PYTHONUNBUFFERED": "", "LC_ALL": "C.UTF-8", "NO_COLOR": "", "TERM": "dumb"}, **variables))


def audit(database):
    """Hold the ledger of a database against its accounts, as `python admin.py verify` does."""
    out = io.StringIO()
    assert admin_database.verify(db.open_storage(database), out) == 0, out.getvalue()


class Peer(object):
    """A client that sends any bytes and reads lines; at a port, or at the path of a Unix socket."""

    def __init__(self, place, nickname=None, receive_buffer=None):
        is_port = isinstance(place, int)
        self.sock = socket.socket(socket.AF_INET if is_port else socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if is_port:
            self.sock.connect(("127.0.0.1", place))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            with admin_socket.short_name(place) as name:
                self.sock.connect(name)
        self.reader = self.sock.makefile("rb")
        if nickname is not None:
            assert "result" in self.call("login", nickname=nickname)

    def send(self, data):
        self.sock.sendall(data)

    def line(self):
        """The next line's JSON value; None when the server has closed."""
        line = self.reader.readline()
        if not line:
            return None
        assert line.endswith(b"\n")
        return json.loads(line.decode("utf-8"))

    def exchange(self, data):
        """Send bytes, read the reply to them."""
        self.send(data)
        return self.line()

    def call(self, method, **params):
        return self.exchange(request(method, **params))

    def reset(self):
        """Leave with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self):
        self.reader.close()
        self.sock.close()


def request(method, id=1, **params):
    """The line of a request."""
    value = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
    return json.dumps(value).encode("ascii") + b"\n"


def reason(reply):
    """The reason of an error's reply."""
    return reply["error"]["data"]["reason"]


def free_port():
    """A port that nobody serves, below those that the kernel gives away: nobody gets it meanwhile,
    which matters to who connects to a server that has gone."""
    while True:
        port = random.randrange(10000 + WORKER, 30000, MAX_WORKERS)
        with contextlib.closing(socket.socket()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except socket.error:
                pass


class Program(object):
    """server.py in a subprocess, serving a free port, with its directory as working directory.

    Its log is in a file, or goes to the option `stderr`, as subprocess.Popen has it.
    """

    def __init__(self, directory, *arguments, **options):
        self.database = options.get("database") or os.path.join(directory, "lavka.db")
        port = free_port()
        # A server that shares its database may share the directory, too.
        self.log_path = os.path.join(
            directory, "server %d.log" % port if "database" in options else "server.log")
        python = options.get("python", sys.executable)
        if "database" not in options and not os.path.exists(self.database):
            db.create_tables(self.database)
        with open(self.log_path, "ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                options.get("wrapper", [])
                + [python, os.path.join(ROOT, "server.py"), "--port", str(port),
                   "--database", self.database] + list(arguments),
                stderr=options.get("stderr", log), env=environment(), close_fds=True,
                cwd=directory)
        if "stderr" in options:
            self.port = port
            wait_for(self.answers, "the server to answer")
        else:
            line = wait_for(lambda: self.listening(begin), "the server to listen")
            self.port = int(line.rsplit(":", 1)[1])
        self.admin_path = os.path.join(
            directory, admin_socket.default_path(self.database, self.port))

    def stats(self):
        """Its statistics."""
        with admin_socket.AdminClient(self.admin_path) as operator:
            return operator.stats()

    def answers(self):
        """Whether its loop turns: it has a socket before it handles signals."""
        assert self.process.poll() is None
        try:
            with contextlib.closing(Peer(self.port)) as peer:
                return peer.call("ping")["result"] == "pong"
        except socket.error:
            return False

    def listening(self, begin):
        assert self.process.poll() is None, self.log()
        lines = [line for line in self.log()[begin:].splitlines(True) if "listening on" in line]
        return lines[0] if lines and lines[0].endswith("\n") else None

    def log(self):
        with io.open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def wait(self):
        """The exit status, once it has ended by itself."""
        wait_for(lambda: self.process.poll() is not None, "the server to end")
        return self.process.returncode

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()

    def free(self, nickname):
        """Whether a login with the nickname succeeds; it is logged out again."""
        peer = Peer(self.port)
        reply = peer.call("login", nickname=nickname)
        peer.close()
        assert "result" in reply or reason(reply) == "nickname_in_use"
        return "result" in reply


def query(database, statement, *values):
    """The rows of an SQL statement on an SQLite file."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def open_account(database, nickname, credits, items=""):
    query(database, "INSERT INTO account (nickname, credits, items) VALUES (?, ?, ?)",
          nickname, credits, items)


@pytest.fixture
def directory(tmpdir):
    return str(tmpdir)


@pytest.fixture
def start(directory):
    """A function that starts server.py; every one is ended, and none may have logged a defect."""
    started = []

    def start_program(*arguments, **options):
        program = Program(options.pop("directory", directory), *arguments, **options)
        started.append(program)
        return program

    yield start_program
    for program in started:
        program.kill()
        assert "Traceback" not in program.log()


@pytest.fixture
def program(start):
    return start()


both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

# For tests of a service, with or without its loop: the prefetch is a hint, so leaving it out
# changes no reply.
both_storages = pytest.mark.parametrize(
    "database, prefetches", [("sqlite", True), ("postgresql", True), ("postgresql", False)],
    indirect=["database"], ids=["sqlite", "postgresql", "postgresql-without-prefetch"])

WHY_NO_POSTGRESQL = "PostgreSQL (initdb, postgres) is not installed"
if pgcluster.BINARIES is not None:
    try:
        import psycopg2         # noqa: F401
        WHY_NO_POSTGRESQL = None
    except ImportError:
        WHY_NO_POSTGRESQL = "psycopg2 is not installed"


def is_installed(program):
    """Return whether there is a program of this name in the PATH."""
    return any(os.access(os.path.join(path, program), os.X_OK)
               for path in os.environ["PATH"].split(os.pathsep))


needs_strace = pytest.mark.skipif(
    not is_installed("strace"), reason="there is no strace here")


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(
        "PostgreSQL: the tests on it were left out, %s." % WHY_NO_POSTGRESQL if WHY_NO_POSTGRESQL
        else "PostgreSQL: tested with %s" % pgcluster.BINARIES)


@pytest.fixture(scope="session")
def running_cluster():
    if WHY_NO_POSTGRESQL:
        assert "LAVKA_TEST_POSTGRESQL" not in os.environ, WHY_NO_POSTGRESQL
        pytest.skip(WHY_NO_POSTGRESQL)
    cluster = pgcluster.Cluster(free_port())
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(running_cluster):
    """A PostgreSQL that runs, whatever the test before has done to it."""
    if running_cluster.process.poll() is not None:
        running_cluster.start()
    return running_cluster


@pytest.fixture
def database(request, directory):
    """The path of an SQLite file, or the URL of a PostgreSQL database, that has its tables."""
    if getattr(request, "param", "sqlite") == "postgresql":
        cluster = request.getfixturevalue("cluster")
        name = cluster.create_database(cluster.template)
        yield cluster.url(name)
        cluster.unused.append(name)         # by the next test nobody is connected to it
    else:
        path = os.path.join(directory, "lavka.db")
        db.create_tables(path)
        yield path


def connect(database):
    """Another program's connection to a database, in autocommit."""
    if "://" in database:
        return pgcluster.Outside(database)
    return sqlite3.connect(database, isolation_level=None)


def hold(connection):
    """Let nobody else write, until it rolls back or is closed."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("BEGIN IMMEDIATE")
    else:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE account IN SHARE ROW EXCLUSIVE MODE")


@pytest.fixture
def prefetches():
    """Return whether services prefetch; `both_storages` says otherwise."""
    return True


def account_of(database, nickname):
    """Return (credits, items as text) of a stored account, None where there is none."""
    with contextlib.closing(connect(database)) as connection:
        return connection.execute("SELECT credits, items FROM account WHERE nickname = ?",
                                  (nickname,)).fetchone()


@pytest.fixture
def log_lines(caplog):
    """Return a function: the lines logged since its last call, with N for the ports of peers."""
    caplog.set_level(logging.INFO)

    def since():
        lines = [re.sub(r"(peer=127\.0\.0\.1:)\d+", r"\1N", line)
                 for record in caplog.records for line in record.getMessage().split("\n")]
        caplog.clear()
        return lines

    return since


@pytest.fixture
def outside_of():
    """`connect`, whose connections are closed after the test."""
    opened = []

    def connect_and_close(database):
        opened.append(connect(database))
        return opened[-1]

    yield connect_and_close
    for each in opened:
        each.close()


@pytest.fixture
def outside(database, outside_of):
    """Another program's connection."""
    return outside_of(database)


class Clock(object):
    """Time that passes when a test says so."""
    now = 1000.0

    def __call__(self):
        return self.now


class Driver(object):
    """A service without an event loop: bytes go into sessions, and bytes come out of them.

    A statement that has to wait for a lock fails at once.
    """

    def __init__(self, database, prefetches=True, shop=db.Shop):
        self.clock = Clock()
        self.shop = shop(database)
        self.shop.storage.query("SET lock_timeout = 1" if "://" in database
                                else "PRAGMA busy_timeout = 0")
        if not prefetches:
            self.shop.prefetch = lambda logins, trades: None
        self.limiter = log.LogRateLimiter(self.clock)
        self.service = service.Service(self.shop, self.limiter, self.clock)
        self.sessions = []

    def open(self, session=None, is_full=False):
        """Begin a session, of a guest."""
        session = session or Session(("127.0.0.1", 1))
        self.service.open(session, is_full)
        self.sessions.append(session)
        return session

    def login(self, nickname, session=None):
        """Begin a session and log in with it."""
        session = self.open(session)
        assert "result" in self.call(session, "login", nickname=nickname)
        return session

    def send(self, session, data):
        session.reader.feed(data)

    def serve(self):
        """Apply a quantum of each session's requests, as the loop does before the commit."""
        served = 0
        while served < len(self.sessions):
            served += self.service.serve(self.sessions[served:], FOREVER)

    def commit(self):
        """End the tick, as the loop does; returns the sessions that the loop has to see to."""
        self.service.commit()
        self.service.end_tick(0)
        return self.service.take_changed_sessions()

    def tick(self):
        self.serve()
        return self.commit()

    def replies(self, session):
        """Take the replies from the session's output."""
        output = bytes(session.output)
        del session.output[:]
        assert not output or output.endswith(b"\n")
        return [json.loads(line.decode("utf-8")) for line in output.splitlines()]

    def exchange(self, session, data):
        """Send bytes, tick; the one reply to them."""
        self.send(session, data)
        self.tick()
        reply, = self.replies(session)
        return reply

    def call(self, session, method, **params):
        return self.exchange(session, request(method, **params))

    def ask(self, method, **params):
        """The result of an operator's request."""
        session = self.open(Session(("admin", "socket"), ADMIN_METHODS))
        reply = self.call(session, method, **params)
        self.sessions.remove(session)
        return reply["result"]

    def pass_time(self, seconds):
        """Let time pass, and have the log's limiter do what is due."""
        self.clock.now += seconds
        self.limiter.do_pending_work(self.clock)

    def close(self):
        self.shop.close()


@pytest.fixture
def make_driver(database, prefetches):
    made = []

    def make(**options):
        made.append(Driver(database, prefetches, **options))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def driver(make_driver):
    return make_driver()


class Loop(object):
    """An event loop in this process, whose ticks the test makes, and the sockets of its clients."""

    def __init__(self, service, limiter, sources=(), **options):
        self.service = service
        self.clock = limiter.clock
        self.listener = listener.Listener(
            listener.listen(options.pop("host", "127.0.0.1"), 0), limiter)
        self.port = self.listener.sockets[0].getsockname()[1]
        self.folder = tempfile.mkdtemp()
        self.admin_path = os.path.join(self.folder, "admin.sock")
        self.admin_listener = admin_socket.AdminListener(self.admin_path, limiter)
        self.server = server.Server(service, self.listener, self.admin_listener, limiter, sources,
                                    clock=self.clock, **options)
        self.peers = []

    def peer(self):
        """Connect a client that is not accepted yet."""
        self.peers.append(Peer(self.port))
        return self.peers[-1]

    def client(self):
        """(Peer, its Connection in the server)"""
        known = set(self.server.connections)
        peer = self.peer()
        self.until(lambda: set(self.server.connections) - known)
        connection, = set(self.server.connections) - known
        return peer, connection

    def operator(self):
        """Connect to the admin socket; it may not be accepted yet."""
        self.peers.append(Peer(self.admin_path))
        return self.peers[-1]

    def tick(self):
        self.server.tick(0)

    def pass_time(self, seconds):
        self.clock.now += seconds
        self.tick()

    def until(self, condition):
        """Tick until condition() holds."""
        def ticked():
            self.tick()
            return condition()
        return wait_for(ticked, "a condition after ticks")

    def lines(self, peer, number):
        """The next `number` lines that the peer gets, with their ends."""
        received = [b""]

        def complete():
            peer.sock.setblocking(False)
            try:
                received[0] += peer.sock.recv(1 << 20)
            except socket.error:
                pass
            return received[0].count(b"\n") >= number
        self.until(complete)
        peer.sock.setblocking(True)
        peer.sock.settimeout(PATIENCE)
        lines = received[0].splitlines(True)
        assert len(lines) == number and lines[-1].endswith(b"\n")
        return lines

    def close(self):
        for peer in self.peers:
            peer.close()
        for each in list(self.server.connections):
            self.server.abort(each, "test")
            self.server.close(each)
        self.server.selector.close()
        self.listener.close()
        self.admin_listener.close()
        shutil.rmtree(self.folder)


class Ticker(Loop):
    """The loop with the real service; it speaks JSON."""

    def __init__(self, database, clock=None, prefetches=True, **options):
        self.shop = db.Shop(database)
        if not prefetches:
            self.shop.prefetch = lambda logins, trades: None
        limiter = log.LogRateLimiter(clock or Clock())
        super(Ticker, self).__init__(service.Service(self.shop, limiter, limiter.clock), limiter,
                                     [self.shop.storage, limiter], **options)

    def client(self, nickname=None):
        """(Peer, its Connection in the server)"""
        peer, connection = super(Ticker, self).client()
        if nickname is not None:
            assert "result" in self.call(peer, "login", nickname=nickname)
        return peer, connection

    def replies(self, peer, number):
        """The next `number` replies that the peer gets."""
        return [json.loads(line.decode("utf-8")) for line in self.lines(peer, number)]

    def exchange(self, peer, data):
        """Send bytes; the one reply that comes back."""
        peer.send(data)
        return self.replies(peer, 1)[0]

    def call(self, peer, method, **params):
        return self.exchange(peer, request(method, **params))

    def ask(self, method, **params):
        """The result of an operator's request."""
        operator = self.operator()
        reply = self.call(operator, method, **params)
        operator.close()
        return reply["result"]

    def close(self):
        super(Ticker, self).close()
        self.shop.close()


@pytest.fixture
def make_ticker(database, prefetches):
    made = []

    def make(**options):
        made.append(Ticker(database, prefetches=prefetches, **options))
        return made[-1]

    yield make
    for ticker in made:
        ticker.close()


@pytest.fixture
def ticker(make_ticker):
    return make_ticker()


# --- players of the client, and servers that follow a script (playing.py) ------------------------

import playing      # noqa: E402    (it imports names from above)


@pytest.fixture
def start_player():
    """Return a function that starts a `playing.Player`.

    Every player is ended after the test. None may have seen a traceback.
    """
    started = []

    def start(port=None, *arguments, **variables):
        prompt = variables.pop("prompt", playing.NICKNAME)
        player = playing.Player(port, *arguments, **variables)
        started.append(player)
        player.read_until(prompt)
        return player

    yield start
    for player in started:
        player.end()
    for player in started:
        assert "Traceback" not in player.recording.getvalue()


@pytest.fixture
def player(program, start_player):
    """Return a player with 100 credits, a sword and a torch, who has just logged in."""
    open_account(program.database, "bob", 100, "sword,torch")
    player = start_player(program.port)
    player.enter("bob", playing.OPTION)
    return player


@pytest.fixture
def script():
    """Return a `playing.Script`, closed after the test."""
    script = playing.Script()
    yield script
    script.close()


@pytest.fixture
def no_server():
    """Return a port where nothing listens as long as the test runs."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    yield sock.getsockname()[1]
    sock.close()


@pytest.fixture
def full_listen_queue():
    """Return a port where connections are neither accepted nor refused."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    connecting = [socket.socket() for _ in range(8)]
    for sock in connecting:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    yield listener.getsockname()[1]
    for sock in connecting + [listener]:
        sock.close()


# --- the shop in this process, and the programs on its database ----------------------------------

PAGE = 4096                 # bytes; what a small pipe has room for
CHEAP = "potion"            # an item that every new account can afford


def run_program(program, *arguments, **options):
    """Run one of Lavka's programs; return (exit status, standard output, standard error).

    `cwd` is its working directory; the other keyword arguments are environment variables.
    """
    cwd = options.pop("cwd", None)
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, program)] + list(arguments),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd,
                               env=environment(**options))
    out, err = process.communicate()
    return process.returncode, out.decode("utf-8"), err.decode("utf-8")


def small_pipe():
    """Return the ends of a pipe of one page whose writer does not block, as Node makes them."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, PAGE)                     # F_SETPIPE_SZ
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    return reader, writer


def is_full(pipe):
    """Return whether a small pipe has no room for another line."""
    return struct.unpack(str("i"), fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0] > PAGE - 100


def account_rows(outside):
    """Return (nickname, credits, items) of all accounts, in the order in which they were opened."""
    return outside.execute("SELECT nickname, credits, items FROM account ORDER BY id").fetchall()


def ledger_rows(outside, nickname="bob"):
    """Return (kind, item, price, credits afterwards) of an account's rows of the ledger."""
    return outside.execute(
        "SELECT what, item, price, trade.credits FROM trade "
        "JOIN account ON account.id = account_id WHERE nickname = ? ORDER BY trade.id",
        (nickname,)).fetchall()


def log_in_stored(shop, nickname="bob", credits=None, outside=None):
    """Return an OpenAccount whose row is stored, with these credits if any are given."""
    account, _ = shop.login(nickname)
    assert not shop.commit()
    if credits is not None:
        outside.execute("UPDATE account SET credits = ? WHERE nickname = ?", (credits, nickname))
        account, _ = shop.login(nickname)
    return account


def refusal_of(call, *arguments):
    """Return the Refusal that a call raises; its message is a sentence."""
    with pytest.raises(db.Refusal) as caught:
        call(*arguments)
    assert caught.value.message.endswith(".")
    return caught.value


def advisory_locks(database):
    """Return how many advisory locks the sessions on the database have."""
    with contextlib.closing(connect(database)) as outside:
        return outside.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())").fetchone()[0]


def record_statements(shop):
    """Return a list that grows by each statement that a shop executes."""
    statements = []
    execute = shop.storage.database.execute_sql

    def record(sql, parameters=()):
        statements.append(sql)
        return execute(sql, parameters)

    shop.storage.database.execute_sql = record
    return statements


@pytest.fixture
def open_shop():
    """Return a function that opens a shop; every shop is closed after the test."""
    opened = []

    def open_and_close(database):
        opened.append(db.Shop(database))
        return opened[-1]

    yield open_and_close
    for shop in opened:
        if not shop.storage.database.is_closed():       # some tests close it
            shop.close()


@pytest.fixture
def shop(database, open_shop):
    """Return a shop on the database."""
    return open_shop(database)


@pytest.fixture
def old_database(directory):
    """Return the path of an SQLite file from before the ledger, with two accounts."""
    path = os.path.join(directory, "lavka.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE account (
                id INTEGER NOT NULL PRIMARY KEY, nickname VARCHAR(255) NOT NULL,
                credits INTEGER NOT NULL CHECK (credits >= 0), items TEXT NOT NULL);
            CREATE UNIQUE INDEX account_nickname ON account (nickname);
            INSERT INTO account (nickname, credits, items) VALUES ('ann', 240, 'torch,sword');
            INSERT INTO account (nickname, credits, items) VALUES ('bob', 0, '');
        """)
    return path


def run_in_shell(command, cwd):
    """Run `PROGRAM ARGUMENTS REDIRECTIONS` in a shell; return (exit status, standard error)."""
    process = subprocess.Popen(
        ["sh", "-c", "%s %s/%s" % (sys.executable, ROOT, command)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=cwd, env=environment())
    err = process.communicate()[1].decode("utf-8")
    return process.returncode, err
