# -*- coding: utf-8 -*-
"""A closed-loop load: a number of clients that each send the next request after the last reply.

    python bench/load.py [--clients N] [--seconds S] [--port PORT] ping|trade

Prints the rate and the latency of one run. It starts no server and knows nothing of Lavka's
modules: it writes bytes and counts lines, so that what it measures is the server.
"""
from __future__ import division, print_function

import argparse
import select
import socket
import time

PING = [b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n']
TRADE = [b'{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":"potion"}}\n',
         b'{"jsonrpc":"2.0","id":1,"method":"sell","params":{"item":"potion"}}\n']
LOGIN = '{"jsonrpc":"2.0","id":1,"method":"login","params":{"nickname":"load-%d"}}\n'


def connect(address, number):
    """A connection that is logged in, with no potion."""
    sock = socket.create_connection(address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = sock.makefile("rb")
    sock.sendall((LOGIN % number).encode("ascii"))
    if b'"result"' not in reader.readline():
        raise SystemExit("load.py: login refused")
    sock.sendall(TRADE[1])
    reader.readline()
    return sock


def run(address, clients, seconds, requests):
    """Drive the server; returns (requests/s, sorted latencies in seconds)."""
    socks = {}
    for number in range(clients):
        sock = connect(address, number)
        socks[sock.fileno()] = sock
    poll = select.epoll()
    turn = dict.fromkeys(socks, 0)
    sent = {}
    latencies = []
    clock = time.perf_counter
    begin = clock()
    end = begin + seconds
    for number, sock in socks.items():
        poll.register(number, select.EPOLLIN)
        sent[number] = clock()
        sock.sendall(requests[0])
    while True:
        for number, _ in poll.poll():
            sock = socks[number]
            reply = sock.recv(65536)
            if b'"error"' in reply or not reply.endswith(b"\n"):
                raise SystemExit("load.py: unexpected reply: %r" % reply)
            now = clock()
            latencies.append(now - sent[number])
            turn[number] += 1
            sent[number] = now
            sock.sendall(requests[turn[number] % len(requests)])
        if now > end:
            break
    elapsed = now - begin
    for sock in socks.values():
        sock.close()
    latencies.sort()
    return len(latencies) / elapsed, latencies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=["ping", "trade"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7777)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    try:
        rate, latencies = run((options.host, options.port), options.clients, options.seconds,
                              PING if options.work == "ping" else TRADE)
    except OSError as error:
        raise SystemExit("load.py: %s" % error)
    print("%s, %d clients: %.0f requests/s, p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms" % (
        options.work, options.clients, rate,
        *(1000 * latencies[int(len(latencies) * part)] for part in (0.5, 0.99, 0.999))))


if __name__ == "__main__":
    main()
