# -*- coding: utf-8 -*-
"""What a request costs, by the part of the program that takes the time; also on Python 2.7.

    python bench/budget.py

A real server with fifty TCP connections, in this process: all fifty send a request, then one
`Server.tick` is timed, which serves them all. Then the parts are timed alone, on the same requests.
What the parts leave of the whole is the loop itself: turns, deadlines, staging, interest. Figures
are microseconds a request, the median of many ticks.
"""
from __future__ import division, print_function, unicode_literals

import logging
import os
import shutil
import socket
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import db               # noqa: E402
import protocol         # noqa: E402
import server           # noqa: E402

CLIENTS = 50
TICKS = 1001
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
BUY = b'{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":"potion"}}\n'
SELL = BUY.replace(b"buy", b"sell")
LOGIN = '{"jsonrpc":"2.0","id":1,"method":"login","params":{"nickname":"player %d"}}\n'

clock = getattr(time, "perf_counter", time.time)


def per_request(measure):
    """The median of what `measure(number)` returns, in microseconds a request."""
    times = sorted(measure(number) for number in range(TICKS))
    return 1e6 * times[len(times) // 2] / CLIENTS


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
        listener = server.listen("127.0.0.1", 0)
        self.server = server.Server(self.shop, listener)
        self.clients = [socket.create_connection(listener.getsockname()) for _ in range(CLIENTS)]
        for number, client in enumerate(self.clients):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall((LOGIN % number).encode("ascii"))
        while len(self.server.players) < CLIENTS:
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
        served = sum(self.server.requests.values())
        seconds = timed(self.server.tick)
        assert sum(self.server.requests.values()) == served + CLIENTS
        self.read_replies()
        return seconds

    def system_calls(self, line, reply):
        """Seconds of select, and of recv and send on each connection, without anything between."""
        self.send(line)

        def work():
            ready = self.server.wait(None)
            assert len(ready) == CLIENTS
            for key, _ in ready:
                key.fileobj.recv(16384)
            for key, _ in ready:
                key.fileobj.send(reply)

        seconds = timed(work)
        self.read_replies()
        return seconds

    def trade(self, number):
        trade = self.shop.sell if number % 2 else self.shop.buy
        for account in self.accounts:
            trade(account, "potion")


def each(function, *arguments):
    """Seconds of calling it once for each client."""
    def work():
        for _ in range(CLIENTS):
            function(*arguments)
    return lambda number: timed(work)


def read_line(reader, line):
    reader.feed(line)
    reader.next_line()


def main():
    logging.disable(logging.CRITICAL)
    directory = tempfile.mkdtemp(str(""), str(".bench-"), str(ROOT))     # where fsync is one
    try:
        bench = Bench(directory)
        account = bench.accounts[0]
        pong = protocol.encode_result(1, b'"pong"') + b"\n"
        told = protocol.encode_result(1, b'{"account":%s}' % protocol.encode_account(account))
        reader = protocol.LineReader()

        def committed(number):
            bench.trade(number)
            return timed(bench.shop.commit)

        def reply():
            protocol.encode_result(1, b'{"account":%s}' % protocol.encode_account(account))

        ping = [
            ("select, recv, send", per_request(lambda number: bench.system_calls(PING, pong))),
            ("bytes to a line", per_request(each(read_line, reader, PING))),
            ("line to a request: JSON, checks", per_request(each(protocol.parse, PING[:-1]))),
            ("reply to bytes", per_request(each(protocol.encode_result, 1, b'"pong"'))),
        ]
        trade = [
            ("select, recv, send",
             per_request(lambda number: bench.system_calls(BUY, told + b"\n"))),
            ("bytes to a line", per_request(each(read_line, reader, BUY))),
            ("line to a request: JSON, checks", per_request(each(protocol.parse, BUY[:-1]))),
            ("reply to bytes", per_request(each(reply))),
            ("the shop: rules, ledger", per_request(lambda n: timed(lambda: bench.trade(n)))),
        ]
        # The trades of the last line wait for a commit; an even number of ticks begins anew.
        bench.trade(TICKS)
        bench.shop.commit()
        full = per_request(committed)
        bench.trade(TICKS)
        bench.shop.commit()
        whole = (per_request(lambda number: bench.tick(PING)),
                 per_request(lambda number: bench.tick(SELL if number % 2 else BUY)))
        bench.trade(TICKS)
        bench.shop.commit()
        bench.shop._database.execute_sql("PRAGMA synchronous = off")
        sql = per_request(committed)
        trade += [("SQL: update, insert", sql), ("fsync, shared by %d" % CLIENTS, full - sql)]
        print("Python %s, microseconds a request" % sys.version.split()[0])
        for name, parts, total in (("ping", ping, whole[0]), ("trade", trade, whole[1])):
            parts.append(("the loop, what is left", total - sum(cost for _, cost in parts)))
            print("\n%-36s%6.2f" % (name, total))
            for part, cost in parts:
                print("  %-34s%6.2f  %3.0f%%" % (part, cost, 100 * cost / total))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
