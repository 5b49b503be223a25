# -*- coding: utf-8 -*-
"""What a request costs, by the part of the program that takes the time; also on Python 2.7.

    python bench/budget.py [--rounds N]

A real server with fifty TCP connections, in this process: all fifty send a request, then one
`Server.tick` is timed, which serves them all. In between the parts are timed alone, on the same
requests. What the parts leave of the whole is the loop itself: turns, deadlines, pending replies,
interest. No server in Python could do without the system calls, the statements and their fsync; the
last line tells how much of a trade they are.
Figures are microseconds a request, the median of many rounds.
"""
from __future__ import division, print_function, unicode_literals

import argparse
import logging
import os
import shutil
import socket
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import db                                   # noqa: E402
import protocol                             # noqa: E402
from admin_socket import AdminListener      # noqa: E402
from connection import select               # noqa: E402
from constants import ITEMS                 # noqa: E402
from listener import Listener, listen       # noqa: E402
from log import LogRateLimiter              # noqa: E402
from models import Trade                    # noqa: E402
from protocol import TCP_METHODS            # noqa: E402
from server import Server                   # noqa: E402
from service import Service                 # noqa: E402

CLIENTS = 50
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
BUY = b'{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":"potion"}}\n'
SELL = BUY.replace(b"buy", b"sell")
UNAVOIDABLE = ["select, recv, send", "SQL: update, insert", "fsync, shared by %d" % CLIENTS]
UNAVOIDABLE_GOAL = 0.75     # part of a trade
LOGIN = '{"jsonrpc":"2.0","id":1,"method":"login","params":{"nickname":"player %d"}}\n'

clock = getattr(time, "perf_counter", time.time)


def costs(parts, number):
    """Return [(name, microseconds a request)] of [(name, function that returns seconds of a tick)].

    The first part is the whole. All are measured in each of `number` rounds; the last line is what
    the others leave of it.
    """
    rounds = [[measure() for _, measure in parts] for _ in range(number)]
    rounds = [times + [times[0] - sum(times[1:])] for times in rounds]
    names = [name for name, _ in parts] + ["the loop, what is left"]
    return [(name, 1e6 * sorted(times)[number // 2] / CLIENTS)
            for name, times in zip(names, zip(*rounds))]


def timed(work):
    begin = clock()
    work()
    return clock() - begin


class Bench(object):
    """A server on a new file, and its clients, who are logged in."""

    def __init__(self, directory):
        path = os.path.join(directory, "lavka.db")
        db.create_tables(path)
        self.shop = db.Shop(path)
        limiter = LogRateLimiter()
        listening, = listen("127.0.0.1", 0)
        self.service = Service(self.shop, limiter)
        self.server = Server(self.service, Listener([listening], limiter),
                             AdminListener(path + ".sock", limiter), limiter)
        self.clients = [socket.create_connection(listening.getsockname()) for _ in range(CLIENTS)]
        for number, client in enumerate(self.clients):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall((LOGIN % number).encode("ascii"))
        while len(self.service.players) < CLIENTS:
            self.server.tick()
        self.read_replies()
        self.accounts = [connection.account for connection in self.server.connections]

    def read_replies(self):
        for client in self.clients:
            assert b'"result"' in client.recv(65536)

    def send(self, line):
        for client in self.clients:
            client.sendall(line)

    def tick(self, line):
        """Seconds of the one tick that serves a request of each client."""
        self.send(line)
        served = sum(self.service.requests.values())
        seconds = timed(self.server.tick)
        assert sum(self.service.requests.values()) == served + CLIENTS
        self.read_replies()
        return seconds

    def system_calls(self, line, reply):
        """Seconds of select, and of recv and send on each connection, without anything between."""
        self.send(line)

        def work():
            ready = select(self.server.selector, None)
            assert len(ready) == CLIENTS
            for key, _ in ready:
                key.fileobj.recv(16384)
            for key, _ in ready:
                key.fileobj.send(reply)

        seconds = timed(work)
        self.read_replies()
        return seconds

    def set_synchronous(self, value):
        self.shop.storage.database.execute_sql("PRAGMA synchronous = %s" % value)

    def trade(self):
        """Seconds of a trade of each player, in memory, and of the commit; half that of two."""
        seconds = [0, 0]
        for trade in (self.shop.buy, self.shop.sell):
            def all_trade():
                for account in self.accounts:
                    trade(account, "potion")
            seconds[0] += timed(all_trade) / 2
            seconds[1] += timed(self.shop.commit) / 2
        return seconds

    def without_fsync(self, work):
        """Return what `work` returns, called while a commit makes no fsync."""
        self.set_synchronous("off")
        result = work()
        self.set_synchronous("full")
        return result

    def statements(self):
        """Seconds of the statements of a commit, with parameters at hand, but for the fsync.

        They buy and sell, so the accounts are afterwards as the shop knows them.
        """
        now = int(time.time())
        before = [account.stored for account in self.accounts]
        after = [(id, credits - ITEMS["potion"], "potion") for id, credits, _ in before]
        connection = self.shop.storage.database.connection()
        seconds = 0
        for kind, old, new in ((Trade.PURCHASE, before, after), (Trade.SALE, after, before)):
            updates = [row[1:] + known for row, known in zip(new, old)]
            records = [(row[0], now, kind, "potion", ITEMS["potion"], row[1]) for row in new]

            def store():
                connection.execute("BEGIN IMMEDIATE")
                updated = connection.executemany(self.shop.storage.UPDATE, updates).rowcount
                connection.executemany(self.shop.storage.RECORD, records)
                connection.execute("COMMIT")
                assert updated == CLIENTS

            seconds += timed(store) / 2
        return seconds

    def sql(self):
        return self.without_fsync(self.statements)

    def commit(self):
        """Seconds of a commit, but for the statements and the fsync."""
        return self.without_fsync(self.trade)[1] - self.sql()

    def fsync(self):
        return self.trade()[1] - self.without_fsync(self.trade)[1]


def each(function, *arguments):
    """What returns the seconds of calling it once for each client."""
    def work():
        for _ in range(CLIENTS):
            function(*arguments)
    return lambda: timed(work)


def read_line(reader, line):
    reader.feed(line)
    reader.lines.pop()


def measure(bench, rounds):
    """(the costs of a ping, those of a trade)."""
    account = bench.accounts[0]
    reader = protocol.LineReader()

    def reply():
        return protocol.encode_result(b"1", b'{"account":%s}' % protocol.encode_account(account))

    pong, told = protocol.encode_result(b"1", b'"pong"'), reply()
    return costs([
        ("ping", lambda: bench.tick(PING)),
        ("select, recv, send", lambda: bench.system_calls(PING, pong)),
        ("bytes to a line", each(read_line, reader, PING)),
        ("line to a request", each(protocol.parse, PING[:-1], TCP_METHODS)),
        ("reply to bytes", each(protocol.encode_result, b"1", b'"pong"')),
    ], rounds), costs([
        ("trade", lambda: (bench.tick(BUY) + bench.tick(SELL)) / 2),
        ("select, recv, send", lambda: bench.system_calls(BUY, told)),
        ("bytes to a line", each(read_line, reader, BUY)),
        ("line to a request", each(protocol.parse, BUY[:-1], TCP_METHODS)),
        ("reply to bytes", each(reply)),
        ("the shop: rules, ledger", lambda: bench.trade()[0]),
        ("the commit's own Python", bench.commit),
        ("SQL: update, insert", bench.sql),
        ("fsync, shared by %d" % CLIENTS, bench.fsync),
    ], rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=401)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    directory = tempfile.mkdtemp(str(""), str(".bench-"), str(ROOT))     # where fsync is one
    try:
        tables = measure(Bench(directory), options.rounds)
    finally:
        shutil.rmtree(directory)
    print("Python %s, microseconds a request" % sys.version.split()[0])
    for table in tables:
        (name, total), parts = table[0], table[1:]
        print("\n%-36s%6.2f" % (name, total))
        for part, cost in parts:
            print("  %-34s%6.2f  %3.0f%%" % (part, cost, 100 * cost / total))
    part = sum(cost for name, cost in parts if name in UNAVOIDABLE) / total
    print("\nWhat cannot be avoided is %.2f of a trade (goal: >= %.2f)." % (part, UNAVOIDABLE_GOAL))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
