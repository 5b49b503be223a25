# -*- coding: utf-8 -*-
"""Fault injection against the real server, without end; the suite runs a short round of each fault.

    python tests/torture.py [--seconds S] [--seed N] [--only NAME ...]

Each round has a seed of its own. A finding prints it; `--seed N --only NAME` repeats that round.
"""
from __future__ import division, print_function, unicode_literals

import argparse
import collections
import contextlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

from conftest import (PATIENCE, ROOT, WHY_NO_POSTGRESQL, Peer, Program, audit, connect,
                      environment, free_port, query, reason, request, wait_for)
from model import Model

import pgcluster
import protocol
from constants import (CREDITS_RANGE, HIGH_WATER, ITEMS, LOG_LINE, MAX_BATCH, MAX_LINE,
                       REQUEST_QUANTUM)

THINGS = sorted(ITEMS) + ["excalibur"]
KEYS = ["%032x" % number for number in (1, 2)]


class Finding(Exception):
    """The server broke the contract."""


def expect(condition, *words):
    """Raise Finding, with these words, unless the condition holds."""
    if not condition:
        raise Finding(" ".join("%s" % (word,) for word in words))


# --- players that check each reply ----------------------------------------------------------------

class Trader(object):
    """A player that trades at random, and checks each reply against the model."""

    def __init__(self, nickname, rng):
        self.nickname = nickname
        self.rng = rng
        self.state = None               # last acknowledged (credits, items); None before a login
        self.pending = collections.deque()      # requests in flight: (id, result, state afterwards)
        self.next_id = 0
        self.total = None               # credits plus prices of the items; never changes
        self.key = None                 # of the account, if it is protected
        self.refusals = None            # number of changes that could not be stored; None where
                                        # none is expected. Then one request at a time

    def log_in(self, port):
        """Log in. The account is as before the requests in flight, or as after one of them."""
        self.peer = Peer(port)
        self.received = b""
        account = wait_for(self.ask_for_login, "a login of " + self.nickname)["account"]
        state = account["credits"], account["items"]
        if self.state is None:
            self.total = state[0] + sum(ITEMS[item] for item in state[1])
        possible = [self.state or state] + [after for _, _, after in self.pending]
        expect(state in possible, self.nickname, "has", state, "stored, possible are", possible)
        self.state = state
        self.pending.clear()

    def ask_for_login(self):
        """Return the result of a login, None where it has to be tried again.

        Another server may not have noticed that the player left it; this one may have no database.
        """
        key = {"key": self.key} if self.key else {}
        reply = self.peer.call("login", nickname=self.nickname, **key)
        expect("result" in reply or reason(reply) in ("nickname_in_use", "storage_failed"), reply)
        return reply.get("result")

    def trade(self, most=1):
        """Send up to `most` requests at once."""
        lines = []
        for _ in range(self.rng.randint(1, most)):
            method = self.rng.choice(["buy", "sell", "ping"])
            item = self.rng.choice(THINGS)
            self.next_id += 1
            before = self.pending[-1][2] if self.pending else self.state
            if method == "ping":
                expected, after = "pong", before
                lines.append(request("ping", id=self.next_id))
            else:
                model = Model()
                model.logins[self] = self.nickname
                model.accounts[self.nickname] = before
                expected = getattr(model, method)(self, item)
                after = model.accounts[self.nickname]
                lines.append(request(method, id=self.next_id, item=item))
            self.pending.append((self.next_id, expected, after))
        self.peer.send(b"".join(lines))

    def take(self):
        """Read once; return the number of replies, None at the end of the connection."""
        try:
            data = self.peer.sock.recv(1 << 16)
        except socket.error:
            return None
        lines = (self.received + data).split(b"\n")
        self.received = lines.pop()
        for line in lines:
            id, expected, after = self.pending.popleft()
            reply = json.loads(line.decode("ascii"))
            result = reply.get("result")
            found = reason(reply) if "error" in reply else result
            if type(found) is dict:
                found = found["account"]["credits"], found["account"]["items"]
            if found == "storage_failed" and self.refusals is not None:
                self.refusals += 1
                continue
            expect((reply["id"], found) == (id, expected), self.nickname, "got", reply,
                   "instead of", (id, expected))
            expect(after[0] + sum(ITEMS[item] for item in after[1]) == self.total)
            self.state = after
        return len(lines) if data else None

    def leave(self):
        """Read up to the end of the connection; return the number of replies."""
        self.peer.sock.settimeout(PATIENCE)
        replies = sum(iter(self.take, None))
        self.peer.close()
        return replies

    def trade_and_wait(self):
        """Send one request and read its reply."""
        self.trade()
        self.peer.sock.settimeout(PATIENCE)
        while self.pending:
            expect(self.take() is not None, "the connection ended")


def drive(traders, seconds, most):
    """Have all traders trade for some seconds; return the number of replies."""
    end = time.time() + seconds
    by_socket = {trader.peer.sock: trader for trader in traders}
    replies = 0
    for trader in traders:
        trader.trade(most)
    while time.time() < end:
        for sock in select.select(list(by_socket), [], [], 1)[0]:
            trader = by_socket[sock]
            taken = trader.take()
            expect(taken is not None, "the connection of", trader.nickname, "ended")
            replies += taken
            if not trader.pending:
                trader.trade(most)
    return replies


# --- whoever reads the log -----------------------------------------------------------------------

class LogReader(object):
    """A pipe for a server's standard error, and a program that copies its bytes to a file.

    This process holds the end that is written to, too: so a pipe without a reader can get another.
    """
    COPY = ("import os, sys, time\n"
            "os.write(1, b'\\nreader\\n')\n"
            "while True:\n"
            "    data = os.read(0, int(sys.argv[1]))\n"
            "    if not data:\n"
            "        break\n"
            "    os.write(1, data)\n"
            "    time.sleep(float(sys.argv[2]))\n")

    def __init__(self):
        self.copy = tempfile.NamedTemporaryFile()
        reader, self.writer = os.pipe()
        self.start(reader)

    def start(self, reader=None, size=1 << 16, pause=0):
        """Read up to `size` bytes at a time, and pause so many seconds in between."""
        if reader is None:
            reader = os.open("/proc/self/fd/%d" % self.writer, os.O_RDONLY)
        self.process = subprocess.Popen([sys.executable, "-c", self.COPY, str(size), str(pause)],
                                        stdin=reader, stdout=self.copy, close_fds=True)
        os.close(reader)

    def stop(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def signal(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self):
        """Leave the pipe without a reader."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def restart(self):
        self.kill()
        self.start()

    def slow_down(self):
        self.kill()
        self.start(size=1000, pause=0.01)

    def lines(self):
        """Let it read to the end; return the lines, without those that a killed reader cut."""
        self.resume()
        os.close(self.writer)
        self.process.wait()
        with open(self.copy.name, "rb") as copy:
            parts = copy.read().split(b"\nreader\n")
        return [line for part in parts for line in part.split(b"\n")[1:-1]]


# --- the faults -----------------------------------------------------------------------------------
# Each takes a function that starts a server (always on the same database), a random.Random and a
# size. It returns {name of a figure: number}.

def kill_rounds(start, rng, rounds):
    """SIGKILL at a random moment under load: acknowledged changes are stored after the restart."""
    traders = [Trader("trader %d" % number, rng) for number in range(20)]
    replies = 0
    for _ in range(rounds):
        program = start()
        for trader in traders:
            trader.log_in(program.port)
        newcomers = [Peer(program.port) for _ in range(3)]
        replies += drive(traders, rng.uniform(0, 0.3), rng.choice([1, 1, 4, 16]))
        for newcomer in newcomers:          # the kill may come while these accounts are opened
            newcomer.nickname = "newcomer %d" % rng.randrange(10 ** 12)
            newcomer.send(request("login", nickname=newcomer.nickname))
        if rng.random() < 0.5:
            select.select([newcomers[0].sock], [], [], PATIENCE)
        program.kill()
        replies += sum(trader.leave() for trader in traders)    # replies in flight count, too
        with sqlite3.connect(program.database) as connection:
            damages = connection.execute("PRAGMA integrity_check").fetchall()
            expect(damages == [("ok",)], "the file is damaged:", damages)
            for newcomer in newcomers:
                check_newcomer(newcomer, connection)
        expect("Traceback" not in program.log(), "a traceback in the log")
    return {"kills": rounds, "acknowledged": replies}


def check_newcomer(newcomer, connection):
    """Check that an acknowledged account is stored; another one is whole or missing."""
    try:
        line = newcomer.reader.readline()
    except socket.error:
        line = b""
    newcomer.close()
    row = connection.execute("SELECT credits, items FROM account WHERE nickname = ?",
                             (newcomer.nickname,)).fetchone()
    if line:
        account = json.loads(line.decode("ascii"))["result"]["account"]
        expect(row == (account["credits"], ""), account, "was acknowledged,", row, "is stored")
    elif row:
        expect(CREDITS_RANGE[0] <= row[0] <= CREDITS_RANGE[1] and row[1] == "", row)


def mutated(rng, line):
    """Return a line with a random mutation, or the line itself."""
    how = rng.randrange(12)
    at = rng.randrange(len(line) + 1)
    if how == 0:
        return line[:at] + line[at + rng.randrange(1, 5):]
    if how == 1:
        return line[:at] + bytes(bytearray([rng.randrange(256)])) + line[at:]
    if how == 2:
        return line[:at] + bytes(bytearray([rng.randrange(256)])) + line[at + 1:]
    if how == 3:
        return line[:at] + b"\n" + line[at:]
    if how == 4:
        return line[:at] + rng.choice([b"[", b"{", b'"', b"\\u", b"\\ud800", b"\0", b"\xed\xa0\x80",
                                       b"NaN", b"1e999", b"null", b"true"]) + line[at:]
    if how == 5:
        return line[:-1] + rng.choice([b"\r\n", b"\n\n", b" \n", b"]\n", b"}\n"])
    if how == 6:
        return line * rng.randrange(1, 4)
    if how == 7 and rng.random() < 0.1:
        return rng.choice([b"x", b"[", b" "]) * (MAX_LINE + rng.randrange(-3, 3)) + b"\n"
    return line


def session_bytes(rng):
    """Return (what one hostile client sends, its number of lines)."""
    lines = []
    for _ in range(rng.randrange(1, 12)):
        calls = []
        for _ in range(rng.choice([1, 1, 1, 2, MAX_BATCH, MAX_BATCH + 1])):
            method, params = rng.choice([
                ("login", {"nickname": rng.choice(["a", "b", "bystander", "\U0001f600", " ", ""])}),
                ("login", {"nickname": rng.choice(["a", "b", "bystander"]),
                           "key": rng.choice(KEYS + ["short", 1, None])}),
                ("protect", {"key": rng.choice(KEYS)}), ("protect", [rng.choice(KEYS)]),
                ("buy", {"item": rng.choice(THINGS)}), ("sell", [rng.choice(THINGS)]),
                ("ping", {}), ("logout", []), ("ping", None), ("steal", {"item": 1})])
            call = {"jsonrpc": "2.0", "method": method}
            if params is not None:
                call["params"] = params
            if rng.random() < 0.9:
                call["id"] = rng.choice([1, -1, 0, 1.5, "x", None, 2 ** 70, "\ud800", [], True])
            calls.append(call)
        value = calls[0] if len(calls) == 1 and rng.random() < 0.8 else calls
        lines.append(mutated(rng, json.dumps(value).encode("ascii") + b"\n"))
    return b"".join(lines), len(lines)


def check_replies(data):
    """Check that each complete line of what the server sent is JSON-RPC."""
    lines = data.split(b"\n")
    lines.pop()         # cut off by the end of the connection
    for line in lines:
        value = json.loads(line.decode("ascii"))
        for reply in value if type(value) is list else [value]:
            protocol.parse_response(json.dumps(reply).encode("ascii"))


def fuzz_sessions(start, rng, sessions):
    """Mutated lines, split anywhere, on several connections: no defect; a bystander trades on."""
    program = start()
    bystander = Trader("bystander", rng)
    bystander.log_in(program.port)
    sent = 0
    for _ in range(sessions):
        peers = []
        for _ in range(rng.randrange(1, 5)):
            data, lines = session_bytes(rng)
            sent += lines
            peers.append((Peer(program.port), data))
        while any(data for _, data in peers):
            for number, (peer, data) in enumerate(peers):
                cut = rng.choice([1, 7, 100, 5000, 70000])
                try:
                    peer.send(data[:cut])
                    data = data[cut:]
                except socket.error:        # the server closes after an oversized line
                    data = b""
                peers[number] = peer, data
            if rng.random() < 0.2:
                bystander.trade_and_wait()
        for peer, _ in peers:
            leave = rng.choice(["read", "read", "close", "reset"])
            if leave == "read":
                try:
                    peer.sock.shutdown(socket.SHUT_WR)
                    check_replies(peer.reader.read())
                except socket.error:
                    pass
                peer.close()
            elif leave == "close":
                peer.close()
            else:
                peer.reset()
        bystander.trade_and_wait()
        expect(program.process.poll() is None, "the server ended")
    log = program.log()
    expect("Traceback" not in log and " ERROR " not in log, "in the log:", log[-2000:])
    wait_for(lambda: program.stats()["clients"] == 1, "the end of all but the bystander")
    query(program.database, "DELETE FROM account_key")      # some keys were mutated
    wait_for(lambda: all(program.free(name) for name in ("a", "b", "\U0001f600")), "free nicknames")
    return {"sessions": sessions, "lines": sent}


def take_over(start, rng, rounds):
    """Owners take their nicknames over from connections with requests in flight; some servers are
    killed at that moment. Nothing that was acknowledged to the old connection is undone."""
    counts = collections.Counter()
    traders = [Trader("owner %d" % number, rng) for number in range(10)]
    for _ in range(rounds):
        program = start()
        for trader in traders:
            trader.log_in(program.port)
            trader.key = trader.key or rng.choice(KEYS)
            expect(trader.peer.call("protect", key=trader.key).get("result") is True, "protect")
        for _ in range(rng.randrange(1, 5)):
            counts["acknowledged"] += drive(traders, rng.uniform(0, 0.1), rng.choice([1, 4, 16]))
            for trader in rng.sample(traders, rng.randrange(1, 10)):
                trader.trade(rng.choice([1, 16, 200]))
                old, before = trader.peer, len(trader.pending)
                trader.log_in(program.port)
                counts["takeovers"] += 1
                check_end(old, before)
        newcomers = [Peer(program.port) for _ in traders]
        for trader, newcomer in zip(traders, newcomers):
            trader.trade(4)
            newcomer.send(request("login", nickname=trader.nickname, key=trader.key))
        if rng.random() < 0.5:
            select.select([newcomers[0].sock], [], [], PATIENCE)
        program.kill()
        for trader, newcomer in zip(traders, newcomers):
            counts["acknowledged"] += trader.leave()
            newcomer.close()
    return dict(counts, rounds=rounds)


def check_end(peer, most):
    """Check that a connection ends, after some of the replies to so many requests."""
    peer.sock.settimeout(PATIENCE)
    try:
        lines = peer.reader.read().split(b"\n")
    except socket.error:                # a reset, with requests unread
        lines = [b""]
    peer.close()
    expect(len(lines) - 1 <= most, len(lines) - 1, "replies to", most, "requests")


def lose_files(start, rng, rounds):
    """A file of the server is removed, renamed or replaced under load.

    From then on each change is refused until the file is back; nothing acknowledged is lost.
    """
    counts = collections.Counter()
    traders = [Trader("trader %d" % number, rng) for number in range(10)]
    for _ in range(rounds):
        program = start()
        for trader in traders:
            trader.log_in(program.port)
        granted = Peer(program.port, "granted").call("logout") and stored_credits(program)
        counts["acknowledged"] += drive(traders, rng.uniform(0, 0.2), rng.choice([1, 4, 16]))
        for trader in traders:
            counts["acknowledged"] += finish(trader)
            trader.refusals = 0
            trader.trade()
        path = program.database + rng.choice(["", "-wal", "-shm", ".lock"])
        how = rng.choice([remove, rename, replace])
        how(path)
        for trader in traders:
            counts["acknowledged"] += finish(trader)        # sent before the fault: either is right
            counts["refused"] += refuse_changes(trader)
        if rng.random() < 0.3:
            admin = [sys.executable, os.path.join(ROOT, "admin.py"), "--database", program.database]
            expect(quiet_status(admin + ["grant", "granted", "1"]) == 1, "a grant was done")
            again = [sys.executable, os.path.join(ROOT, "server.py"), "--port", "0", "--database",
                     program.database]
            expect(quiet_status(again) == 1, "a second server began")
        if how is not remove and rng.random() < 0.5:
            os.rename(path + ".away", path)
            counts["put back"] += 1
            for trader in traders:
                trader.refusals = None
            counts["acknowledged"] += drive(traders, rng.uniform(0, 0.1), 4)
        counts["acknowledged"] += end_without_file(program, rng, traders,
                                                   path if how is remove else None)
        for trader in traders:
            trader.refusals = None
        if os.path.exists(path + ".away"):
            os.rename(path + ".away", path)
        audit(program.database)
        expect(stored_credits(program) == granted, "a grant that was refused is stored")
    return dict(counts, faults=rounds)


def remove(path):
    os.remove(path)


def rename(path):
    os.rename(path, path + ".away")


def replace(path):
    """Have the name mean a copy."""
    shutil.copy(path, path + ".copy")
    os.rename(path, path + ".away")
    os.rename(path + ".copy", path)


def finish(trader):
    """Read the replies to what the trader has sent; return their number."""
    count = len(trader.pending)
    trader.peer.sock.settimeout(PATIENCE)
    while trader.pending:
        expect(trader.take() is not None, "the connection ended")
    return count


def refuse_changes(trader):
    """Check that each change is refused; return how many of them were tried."""
    refused, begin = trader.refusals, trader.state
    while trader.refusals < refused + 3:
        trader.trade()
        finish(trader)
        expect(trader.state == begin, trader.nickname, "was told of a change:", trader.state)
    return 3


def stored_credits(program):
    """Return the credits of the account that grants are tried on."""
    with contextlib.closing(connect(program.database)) as outside:
        return outside.execute("SELECT credits FROM account WHERE nickname = 'granted'").fetchone()


def quiet_status(command):
    """Run a program; return its exit status."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=environment())
    process.communicate()
    return process.returncode


def end_without_file(program, rng, traders, removed):
    """End the server; save a removed database first, as the manual has it.

    Returns the number of replies that the traders still get.
    """
    if removed == program.database:
        folder = "/proc/%d/fd" % program.process.pid
        number = next(name for name in os.listdir(folder)
                      if os.readlink(os.path.join(folder, name)) == removed + " (deleted)")
        shutil.copy(os.path.join(folder, number), removed + ".saved")
    stops = rng.random() >= 0.5
    program.process.send_signal(signal.SIGTERM if stops else signal.SIGKILL)
    replies = sum(trader.leave() for trader in traders)
    program.wait()
    expect(not stops or program.process.returncode == 0, "status", program.process.returncode)
    if removed == program.database:
        for ending in ("-wal", "-shm"):
            if os.path.exists(removed + ending):
                os.remove(removed + ending)
        os.rename(removed + ".saved", removed)
    return replies


def memory_of(program):
    """Return the resident bytes of a server."""
    with open("/proc/%d/statm" % program.process.pid) as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def descriptors_of(program):
    """Return the number of open descriptors of a server."""
    return len(os.listdir("/proc/%d/fd" % program.process.pid))


def churn(start, rng, logins):
    """Many logins and logouts: memory and the number of descriptors do not grow."""
    program = start()
    descriptors = descriptors_of(program)
    nicknames = ["player %d" % number for number in range(100)]

    def round_of_logins(number):
        peer = Peer(program.port)
        lines = []
        for _ in range(number):
            lines += [request("login", nickname=rng.choice(nicknames)), request("logout")]
        peer.send(b"".join(lines))
        for _ in lines:
            expect("result" in peer.line(), "a refusal")
        rng.choice([peer.close, peer.reset])()

    for size in [100] * 20 + [1] * 200:
        round_of_logins(size)               # warm up: some memory is allocated once
    memory = memory_of(program)
    for _ in range(logins // 100):
        round_of_logins(100)
    connections = logins // 5
    for _ in range(connections):
        round_of_logins(1)
    wait_for(lambda: descriptors_of(program) == descriptors, "the same descriptors")
    growth = memory_of(program) - memory
    expect(growth < 256 << 10, "memory grew by", growth)
    return {"logins": logins + connections, "connections": logins // 100 + connections,
            "growth in KB": growth // 1024}


def is_stopped(program):
    """Return whether SIGSTOP has stopped a server."""
    with open("/proc/%d/stat" % program.process.pid) as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "T"


def expect_a_turn(program, flooder):
    """Check that one request waits for at most one quantum of another connection's flood.

    Both send while the server is stopped; its statistics then tell in which order it served them.
    """
    number = 10 * REQUEST_QUANTUM
    operator = Peer(program.admin_path)
    program.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(program), "the server to be stopped")
    flooder.send(request("ping") * number)
    operator.send(request("stats"))
    program.process.send_signal(signal.SIGCONT)
    before = operator.line()["result"]["requests"]["ping"]
    for _ in range(number):
        expect(flooder.line()["result"] == "pong", "no pong")
    pings = operator.call("stats")["result"]["requests"]["ping"]
    expect(pings - before >= number - REQUEST_QUANTUM, "an operator waited for",
           number - (pings - before), "requests of a flood")


def flood(start, rng, number):
    """One client pipelines: its replies come in order, and another player waits for a quantum."""
    program = start()
    other = Trader("other", rng)
    other.log_in(program.port)
    flooder = Peer(program.port, "flooder")
    for _ in range(10):
        expect_a_turn(program, flooder)
    data = b"".join(request("ping", id=id) for id in range(number))
    flooder.sock.setblocking(False)
    answered, latencies, received = 0, [], b""
    while answered < number:
        if data:
            try:
                data = data[flooder.sock.send(data[:1 << 16]):]
            except socket.error:
                pass
        try:
            received += flooder.sock.recv(1 << 16)
        except socket.error:
            pass
        lines = received.split(b"\n")
        received = lines.pop()
        for line in lines:
            expect(json.loads(line.decode("ascii"))["id"] == answered, "out of order:", line)
            answered += 1
        begin = time.time()
        other.trade_and_wait()
        latencies.append(time.time() - begin)
    latencies.sort()
    return {"pipelined": number, "other's trades": len(latencies),
            "other's p99 in ms": round(1000 * latencies[len(latencies) * 99 // 100], 2)}


def fill(peers, other):
    """Send from peers that never read, until back-pressure stops all of them.

    The other player then trades twenty times while the server takes no byte from any of them.
    """
    lines = request("login", id="x" * 1000, nickname="x") * 100     # refused, at some length
    quiet = 0
    while quiet < 20:
        for peer in peers:
            peer.sock.setblocking(False)
            try:
                peer.sock.send(lines)
                quiet = 0
            except socket.error:
                pass
        other.trade_and_wait()
        quiet += 1


def never_read(start, rng, peers):
    """Peers that send requests and never read: the high-water mark bounds their memory."""
    program = start()
    other = Trader("other", rng)
    other.log_in(program.port)
    silent = []
    for _ in range(2):              # the first round warms up: some memory is allocated once
        before = memory_of(program)
        silent += [Peer(program.port, "silent %d" % number)
                   for number in range(len(silent), len(silent) + peers)]
        fill(silent, other)
        for _ in range(1000):
            other.trade_and_wait()
        growth = (memory_of(program) - before) / peers
    expect(growth < 2.5 * HIGH_WATER, "each takes", growth)
    for peer in silent:
        peer.reset()
    wait_for(lambda: all(program.free("silent %d" % number) for number in range(2 * peers)),
             "the nicknames of peers that never read")
    return {"silent peers": 2 * peers, "KB each": round(growth / 1024)}


def stop_under_load(start, rng, clients):
    """SIGTERM with clients that trade and clients that never read: status 0 within 2 s."""
    program = start()
    traders = [Trader("trader %d" % number, rng) for number in range(clients * 4 // 5)]
    for trader in traders:
        trader.log_in(program.port)
    silent = [Peer(program.port, "silent %d" % number, receive_buffer=4096)
              for number in range(clients // 5)]
    fill(silent, traders[0])
    drive(traders, 0.2, 8)
    begin = time.time()
    program.process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]))
    status = program.wait()
    seconds = time.time() - begin
    for trader in traders:
        trader.peer.sock.settimeout(PATIENCE)
        while trader.take() is not None:
            pass
        expect(trader.received == b"", "half a line:", trader.received)
        trader.peer.close()
    expect(status == 0, "status", status, program.log()[-1000:])
    expect(seconds < 2, "it took", seconds)
    program = start()
    for trader in traders:
        trader.log_in(program.port)         # checks what is stored
        trader.peer.close()
    return {"clients": clients, "seconds": round(seconds, 2)}


def stop_reading_the_log(start, rng, rounds):
    """Whoever reads the log stops, is slow, is killed, comes back: no player notices.

    What it reads are whole lines. SIGTERM ends the server within 2 s while it is stopped.
    """
    traders = [Trader("trader %d" % number, rng) for number in range(20)]
    replies = copied = lost = slowest = 0
    for _ in range(rounds):
        reader = LogReader()
        program = start("--log-level", rng.choice(["info", "debug"]), stderr=reader.writer)
        for trader in traders:
            trader.log_in(program.port)
        guest = Peer(program.port)
        logins = (request("login", nickname="\U0001f600" * 200) + request("logout")) * 50
        for _ in range(rng.randint(3, 8)):
            rng.choice([reader.stop, reader.stop, reader.resume, reader.kill, reader.restart,
                        reader.slow_down])()
            replies += drive(traders, rng.uniform(0.05, 0.3), rng.choice([1, 4, 16]))
            guest.send(logins)
            for _ in range(100):
                expect("result" in guest.line(), "a refusal")
            begin = time.time()
            traders[0].trade_and_wait()
            slowest = max(slowest, time.time() - begin)
        expect(slowest < 1, "a trade took", slowest)
        reader.restart()
        reader.stop()
        replies += drive(traders, 0.1, 16)
        lost += program.stats()["log_lost"]
        begin = time.time()
        program.process.terminate()
        status = program.wait()
        seconds = time.time() - begin
        expect(status == 0 and seconds < 2, "status", status, "after", seconds)
        replies += sum(trader.leave() for trader in traders)
        guest.close()
        lines = reader.lines()
        copied += len(lines)
        for line in lines:
            expect(re.match(br"\d{4}-\d\d-\d\dT[\d:.]{12}Z [A-Z]+ [a-z]", line)
                   and len(line) < LOG_LINE, "no line:", line)
        program = start()
        for trader in traders:
            trader.log_in(program.port)         # checks what is stored
            trader.peer.close()
        program.kill()
    return {"stops": rounds, "acknowledged": replies, "lines read": copied, "lines lost": lost,
            "slowest in ms": round(1000 * slowest)}


def vanish(start, rng, peers):
    """The link to another network namespace goes down: its peers' nicknames are free in 30 s."""
    def ip(*arguments):
        subprocess.check_call(["ip"] + list(arguments))

    here, there = "lavka%d" % os.getpid(), "lavkb%d" % os.getpid()
    inside = ["ip", "netns", "exec", there]
    script = ("import socket, sys, time\n"
              "socks = []\n"
              "for number in range(%d):\n"
              "    sock = socket.create_connection(('10.77.0.1', %%d))\n"
              "    sock.sendall(('{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"login\",\"params\":'\n"
              "                  '[\"far %%%%d\"]}\\n' %%%% number).encode('ascii'))\n"
              "    assert b'result' in sock.recv(10000)\n"
              "    socks.append(sock)\n"
              "print('in')\n"
              "sys.stdout.flush()\n"
              "time.sleep(100)\n" % peers)
    client = None
    ip("netns", "add", there)
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", there)
        ip("addr", "add", "10.77.0.1/24", "dev", here)
        ip("link", "set", here, "up")
        subprocess.check_call(inside + ["ip", "addr", "add", "10.77.0.2/24", "dev", there])
        subprocess.check_call(inside + ["ip", "link", "set", there, "up"])
        program = start("--host", "0.0.0.0")
        client = subprocess.Popen(inside + [sys.executable, "-c", script % program.port],
                                  stdout=subprocess.PIPE)
        expect(client.stdout.readline() == b"in\n", "no login from the other namespace")
        nicknames = ["far %d" % number for number in range(peers)]
        expect(not any(program.free(nickname) for nickname in nicknames), "not logged in")
        ip("link", "set", here, "down")
        begin = time.time()
        while not all(program.free(nickname) for nickname in nicknames):
            expect(time.time() < begin + 35, "still in use after 35 s")
            time.sleep(0.5)
        seconds = time.time() - begin
        expect(seconds <= 30, "freed only after", seconds)
    finally:
        if client:
            client.kill()
            client.wait()
        subprocess.call(["ip", "link", "del", here])
        ip("netns", "del", there)
    return {"vanished": peers, "freed after s": round(seconds, 1)}


# --- several servers on one PostgreSQL ------------------------------------------------------------
# Each also takes the cluster; all its servers are on the same database.

def log_in_anywhere(traders, servers, rng):
    """Log each trader in on a random server."""
    for trader in traders:
        trader.server = rng.choice(servers)
        trader.log_in(trader.server.port)


def kill_a_server(start, rng, rounds, cluster):
    """SIGKILL of one of three servers under load: its players log in on the others at once.

    They find what was acknowledged; the players of the other servers notice nothing.
    """
    servers = [start() for _ in range(3)]
    traders = [Trader("trader %d" % number, rng) for number in range(20)]
    log_in_anywhere(traders, servers, rng)
    replies = 0
    for _ in range(rounds):
        replies += drive(traders, rng.uniform(0, 0.3), rng.choice([1, 1, 4, 16]))
        victim = servers.pop(rng.randrange(3))
        victim.kill()
        moving = [trader for trader in traders if trader.server is victim]
        replies += sum(trader.leave() for trader in moving)
        log_in_anywhere(moving, servers, rng)
        replies += drive(traders, 0.05, 1)
        servers.append(start())
    return {"kills": rounds, "acknowledged": replies}


def lose_the_database(traders, servers, rng, restore):
    """Check that servers close all players' connections, and serve them again after `restore`.

    Without a database they still answer a ping. Returns the number of replies.
    """
    replies = sum(trader.leave() for trader in traders)
    peers = [Peer(server.port) for server in servers]
    for peer in peers:
        expect(peer.call("ping")["result"] == "pong", "no pong")
    restore()
    for peer in peers:
        peer.close()
    log_in_anywhere(traders, servers, rng)
    return replies


def kill_the_database(start, rng, rounds, cluster):
    """SIGKILL and restart of PostgreSQL under load: every server loses it once a round."""
    servers = [start() for _ in range(2)]
    traders = [Trader("trader %d" % number, rng) for number in range(20)]
    log_in_anywhere(traders, servers, rng)
    replies = 0
    for _ in range(rounds):
        replies += drive(traders, rng.uniform(0, 0.3), rng.choice([1, 1, 4, 16]))
        cluster.kill()

        def restore():
            for server in servers:
                peer = Peer(server.port)
                expect(reason(peer.call("login", nickname="newcomer")) == "storage_failed")
                peer.close()
            cluster.start()

        replies += lose_the_database(traders, servers, rng, restore)
    for server in servers:
        expect(server.log().count("storage_lost error=") == rounds, "it was lost", rounds, "times")
        expect("storage_recovered" not in server.log(), "a lost connection counted as a failure")
        expect("Traceback" not in server.log(), "a traceback in the log")
    return {"kills of PostgreSQL": rounds, "acknowledged": replies}


def cut_a_connection(start, rng, rounds, cluster):
    """One server's session is terminated, under load or idle: its players are disconnected."""
    servers = [start() for _ in range(2)]
    traders = [Trader("trader %d" % number, rng) for number in range(20)]
    log_in_anywhere(traders, servers, rng)
    replies = 0
    with contextlib.closing(connect(servers[0].database)) as outside:
        for _ in range(rounds):
            if rng.random() < 0.7:
                replies += drive(traders, rng.uniform(0, 0.2), rng.choice([1, 1, 4, 16]))
            before = [server.log().count("storage_lost error=") for server in servers]
            outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                            "application_name = 'lavka' AND datname = current_database() "
                            "ORDER BY random() LIMIT 1")
            lost, = wait_for(
                lambda: [server for server, number in zip(servers, before)
                         if server.log().count("storage_lost error=") > number],
                "a server to notice")
            replies += lose_the_database([trader for trader in traders if trader.server is lost],
                                         [lost], rng, lambda: None)
    return {"cuts": rounds, "acknowledged": replies}


def race(start, rng, races, cluster):
    """Logins with one nickname at two servers at the same moment: exactly one succeeds."""
    servers = [start() for _ in range(2)]
    peers = [Peer(server.port) for server in servers]
    won = [0, 0]
    for _ in range(races):
        login = request("login", nickname="racer %d" % rng.randrange(races))
        for peer in rng.sample(peers, 2):
            peer.send(login)
        replies = [peer.line() for peer in peers]
        winners = [number for number in range(2) if "result" in replies[number]]
        expect(len(winners) == 1, "winners:", winners, replies)
        winner, loser = winners[0], 1 - winners[0]
        expect(reason(replies[loser]) == "nickname_in_use", replies[loser])
        won[winner] += 1
        if rng.random() < 0.5:
            peers[winner].call(rng.choice(["buy", "sell"]), item=rng.choice(THINGS))
        if rng.random() < 0.9:
            expect(peers[winner].call("logout")["result"] is True, "no logout")
            continue
        rng.choice([peers[winner].close, peers[winner].reset])()
        peers[winner] = Peer(servers[winner].port)
    with contextlib.closing(connect(servers[0].database)) as outside:
        wait_for(lambda: outside.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                                         ).fetchone() == (0,), "all nicknames to be free")
    expect(min(won) > 0 or races < 100, "one server won all races", won)
    return {"races": races, "won by the first": won[0]}


CLUSTER_FAULTS = {kill_a_server, kill_the_database, cut_a_connection, race}

FAULTS = collections.OrderedDict([      # name -> (function, size of one round, rounds or None)
    ("churn", (churn, 100000, 1)),
    ("flood", (flood, 100000, 1)),
    ("never-read", (never_read, 20, 1)),
    ("vanish", (vanish, 20, 1)),
    ("stop", (stop_under_load, 500, 5)),
    ("kill", (kill_rounds, 10, None)),
    ("log", (stop_reading_the_log, 5, None)),
    ("files", (lose_files, 10, None)),
    ("fuzz", (fuzz_sessions, 100, None)),
    ("takeover", (take_over, 10, None)),
    ("race", (race, 10000, 1)),
    ("kill-one", (kill_a_server, 10, None)),
    ("kill-postgresql", (kill_the_database, 5, None)),
    ("cut", (cut_a_connection, 10, None)),
])


def starter(directory, programs, **options):
    """Return a function that starts a server and appends it to the programs."""
    def start(*arguments, **more):
        programs.append(Program(directory, *arguments, **dict(options, **more)))
        return programs[-1]
    return start


def main():
    """Run the faults; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800,
                        help="for the faults without a number of rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10 ** 6))
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    options = parser.parse_args()
    endless = [name for name in options.only if FAULTS[name][2] is None]
    print("seed %d, Python %s" % (options.seed, sys.version.split()[0]))
    cluster = None                      # pgcluster.Cluster, started for the first fault on it
    for name in options.only:
        fault, size, rounds = FAULTS[name]
        if fault is vanish and os.geteuid():
            print("vanish     left out: making network namespaces with ip(8) takes root")
            continue
        if fault in CLUSTER_FAULTS and WHY_NO_POSTGRESQL:
            print("%-10s left out: %s" % (name, WHY_NO_POSTGRESQL))
            continue
        total = collections.OrderedDict()
        begin = time.time()
        number = 0
        while (number < rounds if rounds else time.time() < begin + options.seconds / len(endless)):
            seed = options.seed + number
            directory = tempfile.mkdtemp()
            programs = []
            try:
                if fault in CLUSTER_FAULTS:
                    cluster = cluster or pgcluster.Cluster(free_port())
                    database = cluster.url(cluster.create_database(cluster.template))
                    start = starter(directory, programs, database=database)
                    counted = fault(start, random.Random(seed), size, cluster)
                else:
                    counted = fault(starter(directory, programs), random.Random(seed), size)
                for program in programs:
                    program.kill()
                audit(programs[-1].database)
            except (Finding, AssertionError, ValueError, LookupError, socket.error) as finding:
                print("\n%s, seed %d: %s: %s" % (name, seed, type(finding).__name__, finding))
                print("again: python tests/torture.py --only %s --seed %d" % (name, seed))
                print("files: %s" % directory)
                return 1
            finally:
                for program in programs:
                    program.kill()
            shutil.rmtree(directory)
            number += 1
            for figure, count in counted.items():
                so_far = total.get(figure, 0)
                total[figure] = max(so_far, count) if rounds else so_far + count
            figures = ", ".join("%s %s" % item for item in sorted(total.items()))
            line = "%-10s %5.0f s, round %d: %s" % (name, time.time() - begin, number, figures)
            if sys.stdout.isatty():
                print(line, end="\r")
            elif number % 20 == 0:
                print(line)
            sys.stdout.flush()
        print("%-10s %5.0f s, %d rounds without a finding: %s"
              % (name, time.time() - begin, number, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
