# -*- coding: utf-8 -*-
"""Faults injected into the real server: a short round of each of torture.py's, a disk that is full,
a log that nobody reads, descriptors that run out, and the order of system calls."""
from __future__ import unicode_literals

import fcntl
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import termios
import time

import pytest
import torture
from conftest import ROOT, Peer, audit, environment, needs_strace, reason, request, wait_for

from constants import LOG_ADDRESS_LINES, LOG_LINE, REPLY_SECONDS

CHEAP = "potion"


@pytest.mark.parametrize("fault, size", [
    (torture.kill_rounds, 4), (torture.lose_files, 4), (torture.stop_reading_the_log, 1),
    (torture.fuzz_sessions, 60), (torture.take_over, 2), (torture.churn, 2000),
    (torture.flood, 20000), (torture.never_read, 3), (torture.stop_under_load, 50)])
def test_a_short_round_of(start, fault, size):
    fault(start, random.Random(1), size)


@pytest.mark.parametrize("fault, size", [
    (torture.kill_a_server, 4), (torture.kill_the_database, 1), (torture.cut_a_connection, 4),
    (torture.race, 300)])
def test_a_short_round_on_several_servers_of(cluster, directory, fault, size):
    programs = []
    database = cluster.url(cluster.create_database(cluster.template))
    start = torture.starter(directory, programs, database=database)
    try:
        fault(start, random.Random(1), size, cluster)
    finally:
        for program in programs:
            program.kill()
    audit(programs[0].database)
    for program in programs:
        assert "Traceback" not in program.log()


def limit(program, name, number):
    """Set a soft limit of the running server; see prlimit(1)."""
    subprocess.check_call(["prlimit", "--pid", str(program.process.pid),
                           "--%s=%s:" % (name, number)])


def read(path):
    with open(path) as file:
        return file.read()


def limits(program):
    with open("/proc/%d/limits" % program.process.pid) as file:
        return next(line.split()[3:5] for line in file if line.startswith("Max open files"))


# --- storage --------------------------------------------------------------------------------------

def fill_disk(program):
    """The log of SQLite may not grow any more; the server's own is far smaller."""
    limit(program, "fsize", os.path.getsize(program.database + "-wal"))
    return lambda: limit(program, "fsize", "unlimited")


def lock(program):
    holder = sqlite3.connect(program.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder.close


@pytest.mark.parametrize("fault", [fill_disk, lock])
def test_storage_that_fails_refuses_changes_goes_on_reading_and_recovers(program, fault):
    bob, ann = Peer(program.port, "bob"), Peer(program.port)
    before = bob.call("buy", item=CHEAP)["result"]["account"]
    begin = len(program.log())
    recover = fault(program)
    for _ in range(3):
        started = time.time()
        assert reason(bob.call("sell", item=CHEAP)) == "storage_failed"
        assert time.time() - started < REPLY_SECONDS            # or clients would give up
        assert reason(ann.call("login", nickname="ann")) == "storage_failed"
        assert bob.call("ping")["result"] == "pong"
        assert reason(bob.call("buy", item=CHEAP)) == "item_already_owned"
    assert ann.call("login", nickname="bob")["error"]["code"] == 1003
    with sqlite3.connect(program.database) as connection:
        rows = connection.execute("SELECT nickname, credits, items FROM account").fetchall()
        assert rows == [("bob", before["credits"], CHEAP)]
    recover()
    sold = bob.call("sell", item=CHEAP)["result"]["account"]
    assert sold["items"] == [] and sold["credits"] > before["credits"]
    assert ann.call("login", nickname="ann")["result"]["created"]
    errors = [line for line in program.log()[begin:].splitlines() if " ERROR " in line]
    assert len(errors) == 1 and "storage_failed error=" in errors[0]
    assert ("disk" in errors[0]) == (fault is fill_disk)        # it tells the cause
    def calm():
        bob.call("buy", item=CHEAP)
        bob.call("sell", item=CHEAP)
        return "storage_recovered failures=" in program.log()

    wait_for(calm, "the server to say that storage works again")


def test_commands_beside_a_server_that_trades(program, directory):
    """They see one state of the file, and the players hardly see them."""
    traders = [torture.Trader("trader %d" % number, random.Random(number)) for number in range(20)]
    for trader in traders:
        trader.log_in(program.port)
    copy = os.path.join(directory, "copy.db")
    for command in (["verify"], ["backup", copy], ["verify"], ["grant", "other", "5"]):
        if command[0] == "grant":
            Peer(program.port, "other").close()
        torture.drive(traders, 0.1, 4)
        admin = [sys.executable, os.path.join(ROOT, "admin.py"), "--database", program.database]
        process = subprocess.Popen(
            admin + command,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
        while process.poll() is None:
            torture.drive(traders, 0.02, 4)
        assert process.returncode == 0, process.stdout.read()
    audit(copy)
    for trader in traders:
        trader.peer.close()
    program.kill()
    audit(program.database)


class Trace(object):
    """The system calls of a server, in order, from strace; `?name` is left out where unknown."""

    def __init__(self, start, directory, calls):
        self.path = os.path.join(directory, "trace")
        self.program = start(wrapper=["strace", "-D", "-o", self.path, "-s", "40",
                                      "-e", "trace=" + calls])

    def calls(self):
        return read(self.path).splitlines()


@needs_strace
def test_no_reply_to_a_change_leaves_before_its_fsync(start, directory):
    """The order of system calls: the write of the log, an fsync that returned, then the send."""
    trace = Trace(start, directory, "sendto,pwrite64,fsync,fdatasync")
    program = trace.program
    players = [Peer(program.port, "player %d" % number) for number in range(5)]
    for method in ["buy", "sell"] * 10:
        for player in players:
            player.send(request(method, item=CHEAP))
        for player in players:
            assert "result" in player.line()
    assert program.kill()
    wait_for(lambda: "+++ killed" in trace.calls()[-1], "the end of the trace")
    unsynced = replies = syncs = 0
    for call in trace.calls():
        if call.startswith("pwrite64("):
            unsynced += 1
        elif re.match(r"f(data)?sync\(\d+\) += 0", call):
            unsynced = 0
            syncs += 1
        elif call.startswith("sendto(") and "account" in call:
            assert not unsynced, call
            replies += 1
    assert replies == 105 and 21 <= syncs <= replies    # with the logins


# --- the log --------------------------------------------------------------------------------------

# Runs a program as a shell runs a background job of a terminal, which is its standard error.
IN_BACKGROUND = [sys.executable, "-c", "import fcntl, os, sys, termios\n"
                 "os.setsid()\n"
                 "fcntl.ioctl(2, termios.TIOCSCTTY, 0)\n"
                 "if os.fork():\n"
                 "    os.wait()\n"
                 "else:\n"
                 "    os.setpgid(0, 0)\n"
                 "    os.execvp(sys.argv[1], sys.argv[1:])\n",
                 "setpriv", "--pdeathsig", "KILL"]

WITHOUT_DESCRIPTORS = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]


def unread_pipe():
    return os.pipe()


def gone_reader():
    """A pipe whose reader has gone: EPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    return None, writer


def stopped_journal():
    """A socket, as systemd has it."""
    return [os.dup(end.fileno()) for end in socket.socketpair()]


def gone_journal():
    reader, writer = stopped_journal()
    os.close(reader)
    return None, writer


def unread_terminal():
    return os.openpty()


def stopped_terminal():
    """A terminal at which Ctrl-S was typed."""
    master, slave = os.openpty()
    os.write(master, b"\x13")
    return master, slave


def full_device():
    return None, os.open("/dev/full", os.O_WRONLY)


def unwritable():
    """A descriptor that is only for reading: EBADF."""
    return None, os.open(os.devnull, os.O_RDONLY)


def log_in_and_out(peer, times, nickname="\U0001f600" * 100):
    """Make two lines of the log each time, of half a kilobyte."""
    peer.send((request("login", nickname=nickname) + request("logout")) * times)
    for _ in range(2 * times):
        assert "result" in peer.line()


def stop_in_time(program):
    begin = time.time()
    program.process.terminate()
    assert program.wait() == 0 and time.time() - begin < 2


@pytest.mark.parametrize("stderr", [
    unread_pipe, gone_reader, stopped_journal, gone_journal, unread_terminal, stopped_terminal,
    full_device, unwritable])
def test_players_never_wait_for_whoever_reads_the_log(start, stderr):
    reader, writer = stderr()
    program = start(stderr=writer)
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    peer = Peer(program.port)
    begin = time.time()
    for _ in range(20):
        log_in_and_out(peer, 50)
    assert time.time() - begin < REPLY_SECONDS
    assert program.stats()["log_lost"] > 0
    peer.close()
    stop_in_time(program)
    # The shell and other programs have the same open file description.
    assert fcntl.fcntl(writer, fcntl.F_GETFL) == flags and not flags & os.O_NONBLOCK
    for descriptor in (reader, writer):
        if descriptor is not None:
            os.close(descriptor)
    audit(program.database)


def test_background_job_may_write_to_a_terminal_with_tostop(start):
    """SIGTTOU would stop it with its first line."""
    master, slave = os.openpty()
    modes = termios.tcgetattr(slave)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    program = start(stderr=slave, wrapper=IN_BACKGROUND)
    assert Peer(program.port, "bob").call("ping")["result"] == "pong"
    shown = b""
    while b'login nickname="bob"' not in shown:
        shown += os.read(master, 1000)
    program.kill()
    os.close(slave)
    os.close(master)


FULL = 32000000         # bytes of a log; the database is far smaller


def test_log_on_a_full_disk_goes_on_when_there_is_room(start, directory):
    """A line that was cut is completed, and the gap is told."""
    path = os.path.join(directory, "log")
    with open(path, "ab") as log:
        log.truncate(FULL)
        program = start(stderr=log)
    peer = Peer(program.port)
    limit(program, "fsize", os.path.getsize(path) + 100)
    for _ in range(20):
        log_in_and_out(peer, 50)
    lost = program.stats()["log_lost"]
    assert lost > 0
    limit(program, "fsize", "unlimited")
    wait_for(lambda: b"log_lost" in tail(path), "the line that tells the gap")
    lines = tail(path).splitlines()
    assert re.match(br"[\d:.TZ-]{24} WARNING log_lost lost=%d$" % lost, lines[-1])
    assert all(re.match(br"\d{4}-\d\d-\d\dT[\d:.]{12}Z [A-Z]+ [a-z]", line) for line in lines)
    stop_in_time(program)


def tail(path):
    with open(path, "rb") as log:
        log.seek(FULL)
        return log.read()


def test_server_without_standard_descriptors_opens_nothing_in_their_place(start):
    """Lines of the log would go into the database, or to a client."""
    program = start(wrapper=WITHOUT_DESCRIPTORS, stderr=None)
    peer = Peer(program.port)
    log_in_and_out(peer, 5)
    opened = [os.readlink("/proc/%d/fd/%d" % (program.process.pid, number)) for number in range(3)]
    assert opened == [os.devnull] * 3
    peer.close()
    stop_in_time(program)
    audit(program.database)


def test_one_address_cannot_fill_the_disk(start):
    """The log has so many of its logins and logouts, and then their number."""
    program = start()
    peer = Peer(program.port)
    for _ in range(30):
        log_in_and_out(peer, 100, "bob")
    peer.close()
    stop_in_time(program)
    for event in ("login", "logout"):
        written = program.log().count(" INFO %s nickname=" % event)
        counts = re.findall(r" INFO %s host=127\.0\.0\.1 times=(\d+)\n" % event, program.log())
        assert LOG_ADDRESS_LINES[0] <= written < 3000
        assert written + sum(map(int, counts)) == 3000


HOSTILE = ["a\u2028", "\x1b[31m", "\U0001f600" * 255, "\U000e0001" * 255, '"' * 255, "\\" * 254,
           "\u200d" * 255, '"...+5 peer=1.2.3.4', "\u0301" * 255]


def test_no_text_of_a_player_makes_a_long_line(start):
    """Each event is a line, under the limit, and says how its texts were cut."""
    program = start("--log-level", "debug")
    for nickname in HOSTILE:
        player = Peer(program.port, nickname)
        player.call("buy", item=CHEAP)
        player.call("buy", item="x" * 49000)
        other = Peer(program.port)
        other.call("login", nickname=nickname)
        player.close()
        other.close()
        wait_for(lambda: program.free(nickname), "the nickname")
    stop_in_time(program)
    for line in program.log().splitlines():
        assert len(line.encode("utf-8")) < LOG_LINE
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z (DEBUG|INFO) ", line)
        if re.search(" log(in|out) nickname=", line):
            assert re.search(r' nickname="([^"\\]|\\.)*"(\.\.\.\+\d+)? peer=127\.0\.0\.1:', line)
    assert 'param="%s"...+48200 nickname=' % ("x" * 800) in program.log()


# --- descriptors ----------------------------------------------------------------------------------

def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(start):
    program = start(wrapper=["prlimit", "--nofile=200:300"])
    assert limits(program) == ["300", "300"]
    peers = [Peer(program.port) for _ in range(260)]
    replies = [peer.call("ping") for peer in peers]
    assert {reply.get("result") or reason(reply) for reply in replies} == {"pong", "server_full"}
    assert "accept_failed" not in program.log()         # there are spare ones for all that


@needs_strace
def test_out_of_descriptors(start, directory):
    """Players who are in go on, newcomers wait, nothing spins, and it ends when there are more."""
    trace = Trace(start, directory, "?accept,?accept4,recvfrom")
    program = trace.program
    player = Peer(program.port, "bob")
    _, hard = limits(program)
    limit(program, "nofile", torture.descriptors_of(program))
    newcomers = [Peer(program.port) for _ in range(3)]
    for newcomer in newcomers:
        newcomer.send(request("ping"))
    wait_for(lambda: "accept_failed" in program.log(), "the server to notice")

    def trade_until_three_attempts():
        for method in ("buy", "sell"):
            assert "result" in player.call(method, item=CHEAP)
        return len(attempts()) >= 3

    def attempts():
        """The number of requests that the server had read before each attempt to accept."""
        numbers, requests = [], 0
        for call in trace.calls():
            requests += call.startswith("recvfrom(") and '"{' in call
            if call.startswith("accept") and "EMFILE" in call:
                numbers.append(requests)
        return numbers

    wait_for(trade_until_three_attempts, "two more attempts to accept")
    first, second, third = attempts()[:3]
    # Each request is a tick of its own: a listener that does not pause would try in every one.
    assert second - first > 2 and third - second > 2
    limit(program, "nofile", hard)
    for newcomer in newcomers:
        assert newcomer.line()["result"] == "pong"
    assert program.log().count("accept_failed error=") == 1


# --- the wall clock -------------------------------------------------------------------------------

# Has the wall clock step back by a day once there is a file.
STEP_BACK = """
import os, time
real = time.time
time.time = lambda: real() - (86400 if os.path.exists(%r) else 0)
"""


def test_step_back_of_the_wall_clock_disturbs_nothing(start, directory):
    """The first outage is over as soon as it is, and the second one is logged, too."""
    step = os.path.join(directory, "step")
    with open(os.path.join(directory, "sitecustomize.py"), "w") as module:
        module.write(STEP_BACK % str(step))
    program = start(wrapper=["env", "PYTHONPATH=" + directory])
    player = Peer(program.port, "bob")
    for outage in (1, 2):
        locker = sqlite3.connect(program.database, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        assert reason(player.call("buy", item=CHEAP)) == "storage_failed"
        open(step, "w").close()
        locker.close()

        def has_recovered():
            for method in ("buy", "sell"):
                assert "result" in player.call(method, item=CHEAP)
            return program.log().count("storage_recovered failures=") == outage

        wait_for(has_recovered, "the line that says so")
        assert program.log().count(" ERROR storage_failed error=") == outage


# --- other peers ----------------------------------------------------------------------------------

OTHER_PROTOCOLS = [
    ("http", b"GET / HTTP/1.1\r\nHost: lavka\r\n\r\n"),
    ("http", b"POST / HTTP/1.1\r\nHost: lavka\r\nContent-Length: 99\r\n\r\n"),
    ("http", b"Host: lavka\r\n"),
    ("tls", b"\x16\x03\x01\x02\x00\x01\x00"),
    ("proxy", b"PROXY TCP4 203.0.113.5 127.0.0.1 5000 7777\r\n"),
    ("proxy", b"\r\n\r\n\0\r\nQUIT\n"),
]


@pytest.mark.parametrize("reason, data", OTHER_PROTOCOLS)
def test_another_protocol_ends_the_connection_and_nothing_is_carried_out(program, reason, data):
    """A web page can make a browser post requests to a port of the player's own machine."""
    peer = Peer(program.port)
    try:
        peer.send(data + request("login", nickname="victim") + request("buy", item=CHEAP))
    except EnvironmentError:
        pass                            # closed already
    assert peer.reader.read() == b""
    with sqlite3.connect(program.database) as connection:
        assert connection.execute("SELECT * FROM account").fetchall() == []
    wait_for(lambda: "closed reason=%s peer=127.0.0.1:" % reason in program.log(), "the log line")
    assert "login" not in program.log()
    assert Peer(program.port, "bob").call("ping")["result"] == "pong"


def test_another_protocol_ends_the_connection_however_it_is_split(program):
    peer = Peer(program.port, "bob")
    for byte in b"POST / HTTP/1.1\r\n":
        peer.send(byte if isinstance(byte, bytes) else bytes(bytearray([byte])))
    assert peer.line() is None
    assert program.free("bob")


def test_bytes_of_no_protocol(program):
    peer = Peer(program.port)
    peer.send(b"\0" * 70000)
    assert reason(peer.line()) == "line_too_long" and peer.line() is None
    assert " ERROR " not in program.log()


def test_half_open_and_lingering_peers_wake_nobody_up(start, directory):
    """An event that comes again and again would come with each of another player's requests."""
    trace = Trace(start, directory, "?epoll_wait,?epoll_pwait")
    program = trace.program
    peers = [Peer(program.port, "player %d" % number) for number in range(5)]
    for peer in peers[:2]:
        peer.send(b"x" * 200000)                        # now lingering, with more to discard
    for peer in peers[2:4]:
        peer.send(b'{"half')
    for peer in peers[:2]:
        assert reason(peer.line()) == "line_too_long" and peer.line() is None
    assert peers[4].call("ping")["result"] == "pong"
    begin = len(trace.calls())
    pings = 200
    for _ in range(pings):
        assert peers[4].call("ping")["result"] == "pong"
    returned = [re.search(r"\) += (\d+)", call) for call in trace.calls()[begin:]]
    events = sum(int(match.group(1)) for match in returned if match)
    assert pings - 1 <= events <= pings + 40            # some for the rest of the long lines
