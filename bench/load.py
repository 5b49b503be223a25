# -*- coding: utf-8 -*-
"""A closed-loop load: a number of clients that each send the next request after the last reply.

    python bench/load.py [--clients N] [--depth N] [--seconds S] [--port PORT] ping|trade|login

Prints the rate and the latency of one run against a server that runs already, or several, with a
`--port PORT` for each: the clients are spread evenly over them. It writes bytes and counts lines,
and knows nothing of Lavka's modules, so what it measures is the server, whichever that is: every
reply is one line, in JSON and, for what is asked here, in the protocol of redis.
"""
from __future__ import division, print_function

import argparse
import hashlib
import itertools
import os
import select
import socket
import time
from collections import namedtuple

WARM_UP_SECONDS = 0.4       # not measured: Node compiles in it, Python 3.11 and later specialises
TIMEOUT_SECONDS = 30        # for one answer; then the server counts as hanging

IP_BIND_ADDRESS_NO_PORT = 24            # ip(7); Python has it since 3.12
_sources = ("127.0.%d.1" % number for number in itertools.cycle(range(1, 255)))


class LoadError(Exception):
    """The server did not do what it was asked; the text is one sentence."""


class Lines(object):
    """The requests as Lavka and all peers but redis want them."""

    @staticmethod
    def _request(method, **params):
        params = "".join(',"params":{"%s":"%s"}' % item for item in params.items())
        text = '{"jsonrpc":"2.0","id":1,"method":"%s"%s}\n' % (method, params)
        return text.encode("ascii")

    def ping(self):
        return self._request("ping")

    def login(self, nickname):
        return self._request("login", nickname=nickname)

    def trades(self, nickname):
        """What a trading client sends in turn; it owns no potion before."""
        return [self._request("buy", item="potion"), self._request("sell", item="potion")]


class Redis(object):
    """The same for redis: RESP, and peers/trade.lua by its hash."""

    def __init__(self):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "trade.lua")
        with open(path, "rb") as script:
            self.script = script.read()
        self._hash = hashlib.sha1(self.script).hexdigest().encode("ascii")

    @staticmethod
    def _command(*words):
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word)
                                                  for word in words)

    def _call(self, nickname, *arguments):
        return self._command(b"EVALSHA", self._hash, b"1", nickname.encode("ascii"), *arguments)

    def set_up(self):
        return self._command(b"SCRIPT", b"LOAD", self.script)

    def ping(self):
        return self._command(b"PING")

    def login(self, nickname):
        return self._call(nickname, b"login", b"500")

    def trades(self, nickname):
        return [self._call(nickname, b"buy", b"potion"), self._call(nickname, b"sell", b"potion")]


# `rate` is requests/s, the latencies are seconds; `busy` is which part of the time the load itself
# computed: near 1 it could have been the limit, and not the server.
Result = namedtuple("Result", "rate p50 p99 p999 busy")


def _result(latencies, elapsed, computed, depth=1):
    if not latencies:
        raise LoadError("not one answer in time")
    latencies.sort()
    p50, p99, p999 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99, 0.999))
    return Result(len(latencies) * depth / elapsed, p50, p99, p999, computed / elapsed)


def connect(address, source=None):
    """A connection, from an address of this machine if `source` names one."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if source:
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
    sock.connect(address)
    return sock


def call(sock, request):
    """The reply to one request."""
    sock.settimeout(TIMEOUT_SECONDS)
    sock.sendall(request)
    reply = b""
    while not reply.endswith(b"\n"):
        data = sock.recv(65536)
        if not data:
            raise LoadError("the server hung up")
        reply += data
    return reply


def connections(addresses, number):
    """So many connections, spread evenly over the servers."""
    return [connect(address) for address in itertools.islice(itertools.cycle(addresses), number)]


def traders(addresses, dialect, nicknames):
    """A logged-in connection for each nickname, none of which owns a potion."""
    socks = connections(addresses, len(nicknames))
    for sock, nickname in zip(socks, nicknames):
        check(call(sock, dialect.login(nickname)))
        call(sock, dialect.trades(nickname)[1])     # sold if there was one
    return socks


def check(reply):
    if not reply:
        raise LoadError("the server hung up")
    if reply[:1] == b"-" or b'"error"' in reply:
        raise LoadError("unexpected reply: %r" % reply[:200])


def drive(socks, requests, seconds, depth=1):
    """Have each connection send its requests in turn, `depth` of the same at once, after the
    replies to those before; returns a Result. `requests` are lists of bytes, one a connection."""
    by_number = {sock.fileno(): sock for sock in socks}
    cycles = {sock.fileno(): itertools.cycle([request * depth for request in cycle])
              for sock, cycle in zip(socks, requests)}
    missing = dict.fromkeys(by_number, depth)
    sent = {}
    latencies = []
    poll = select.epoll()
    clock = time.perf_counter
    begin, computed = clock(), time.process_time()
    end = begin + min(WARM_UP_SECONDS, seconds)     # a measurement that short is only a trial
    warm = False
    for number, sock in by_number.items():
        sock.setblocking(False)         # one with a timeout would wait in a system call of its own
        poll.register(number, select.EPOLLIN)
        sent[number] = clock()
        sock.send(next(cycles[number]))
    while True:
        ready = poll.poll(TIMEOUT_SECONDS)
        if not ready:
            raise LoadError("no answer for %d seconds" % TIMEOUT_SECONDS)
        for number, _ in ready:
            sock = by_number[number]
            reply = sock.recv(65536)
            if reply[:1] == b"-" or b'"error"' in reply or not reply:
                check(reply)
            lines = reply.count(b"\n")
            if lines != missing[number]:
                missing[number] -= lines
                continue
            missing[number] = depth
            now = clock()
            latencies.append(now - sent[number])
            sent[number] = now
            sock.send(next(cycles[number]))
        now = clock()
        if now > end:
            if warm:
                break
            warm = True
            del latencies[:]
            begin, computed, end = now, time.process_time(), now + seconds
    result = _result(latencies, now - begin, time.process_time() - computed, depth)
    for number, sock in by_number.items():          # nobody is left in the middle of a request
        sock.settimeout(TIMEOUT_SECONDS)
        while missing[number]:
            reply = sock.recv(65536)
            check(reply)
            missing[number] -= reply.count(b"\n")
    return result


def storm(addresses, requests, at_once):
    """Connect a player for each login request, `at_once` of them waiting for the answer at a time;
    returns (a Result, whose rate is logins/s, their sockets).

    Every thousand comes from an address of its own: where most ports of an address are taken, or
    were a minute ago, the kernel looks longer for a free one than all else takes.
    """
    poll = select.epoll()
    socks, sent, latencies = {}, {}, []
    clock = time.perf_counter
    begin, computed = clock(), time.process_time()
    waiting = zip(requests, itertools.cycle(addresses))
    done = 0
    source = None

    def join(count):
        nonlocal source
        for _, (request, address) in zip(range(count), waiting):    # in this order none is lost
            now = clock()
            source = next(_sources) if len(socks) % 1000 == 0 else source
            sock = connect(address, source)
            number = sock.fileno()
            socks[number] = sock
            sent[number] = now
            poll.register(number, select.EPOLLIN)
            sock.sendall(request)

    join(at_once)
    while done < len(requests):
        ready = poll.poll(TIMEOUT_SECONDS)
        if not ready:
            raise LoadError("no answer for %d seconds" % TIMEOUT_SECONDS)
        for number, _ in ready:
            reply = socks[number].recv(65536)
            check(reply)
            if not reply.endswith(b"\n"):
                raise LoadError("unexpected reply: %r" % reply[:200])
            latencies.append(clock() - sent[number])
            poll.unregister(number)
        done += len(ready)
        join(len(ready))
    result = _result(latencies, clock() - begin, time.process_time() - computed)
    return result, list(socks.values())


def positive(argument):
    """A whole number from 1 on."""
    number = int(argument)
    if number < 1:
        raise argparse.ArgumentTypeError("%s is less than 1" % argument)
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=["ping", "trade", "login"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, action="append", metavar="PORT",
                        help="default: 7777; once more for each further server")
    parser.add_argument("--clients", type=positive, default=50,
                        help="connections (default: 50); for login, the players in all")
    parser.add_argument("--depth", type=positive, default=1,
                        help="pings that each client sends at once (default: 1)")
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    addresses = [(options.host, port) for port in options.port or [7777]]
    names = ["load-%d" % number for number in range(options.clients)]
    lines = Lines()
    try:
        if options.work == "ping":
            socks = connections(addresses, options.clients)
            result = drive(socks, [[lines.ping()]] * len(socks), options.seconds, options.depth)
        elif options.work == "trade":
            socks = traders(addresses, lines, names)
            result = drive(socks, [lines.trades(name) for name in names], options.seconds)
        else:
            result, _ = storm(addresses, [lines.login(name) for name in names], 200)
    except (OSError, LoadError) as error:
        raise SystemExit("load.py: %s: %s" % (
            ", ".join("%s:%d" % address for address in addresses), error))
    print("%s, %d clients: %.0f requests/s, p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms; load %.0f%% "
          "busy" % (options.work, options.clients, result.rate, 1000 * result.p50,
                    1000 * result.p99, 1000 * result.p999, 100 * result.busy))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130)
