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
CROWD_STEP = 500            # connections until the server has accepted them: those that its listen
                            # queue has no room for would be tried again after a second

ONE_EVENT = select.EPOLLIN | select.EPOLLONESHOT        # one reply, and nothing to unregister

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
# computed: near 1 it could have been the limit, and not the server. `cost` is what the servers
# computed for a request, in seconds.
Result = namedtuple("Result", "rate p50 p99 p999 busy cost")


class Stopwatch(object):
    """Measure from now on; `server_time` returns the seconds that the servers have computed."""

    def __init__(self, server_time):
        self.server_time = server_time
        self.begin = self._times()

    def _times(self):
        return time.perf_counter(), time.process_time(), self.server_time()

    def result(self, latencies, depth=1):
        """Return the Result of what was measured until now, `depth` requests a latency."""
        if not latencies:
            raise LoadError("not one answer in time")
        elapsed, computed, served = (now - then for now, then in zip(self._times(), self.begin))
        latencies.sort()
        p50, p99, p999 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99, 0.999))
        requests = len(latencies) * depth
        return Result(requests / elapsed, p50, p99, p999, computed / elapsed, served / requests)


def unknown():
    """The time of servers that nobody looks at."""
    return 0


def connect(address, source=None):
    """A connection, from an address of this machine if `source` names one.

    It has no need of TCP_NODELAY: nobody sends while a reply, which acknowledges what was sent, is
    still to come.
    """
    sock = socket.socket()
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


def drive(socks, requests, seconds, depth=1, server_time=unknown):
    """Have each connection send its requests in turn, `depth` of the same at once, after the
    replies to those before; returns a Result. `requests` are lists of bytes, one a connection."""
    ends = {}                   # descriptor -> (recv, send, what returns the next request)
    for sock, cycle in zip(socks, requests):
        sock.setblocking(False)         # one with a timeout would wait in a system call of its own
        bursts = itertools.cycle([request * depth for request in cycle])
        ends[sock.fileno()] = sock.recv, sock.send, bursts.__next__
    partly = {}                 # descriptor -> lines that have come of those that belong together
    checked = {}                # reply -> its lines; most replies are the same, time and again
    sent = {}
    latencies = []
    poll = select.epoll()
    clock = time.perf_counter
    stopwatch = Stopwatch(server_time)
    end = clock() + min(WARM_UP_SECONDS, seconds)       # a measurement that short is only a trial
    warm = False
    for number, (_, send, following) in ends.items():
        poll.register(number, select.EPOLLIN)
        sent[number] = clock()
        send(following())
    while True:
        for number, _ in answered(poll):
            recv, send, following = ends[number]
            reply = recv(65536)
            lines = checked.get(reply)
            if lines is None:
                check(reply)
                lines = checked[reply] = reply.count(b"\n")
            if lines != depth:
                lines += partly.pop(number, 0)
                if lines != depth:
                    partly[number] = lines
                    continue
            now = clock()
            latencies.append(now - sent[number])
            sent[number] = now
            send(following())
        now = clock()
        if now > end:
            if warm:
                break
            warm = True
            del latencies[:]
            stopwatch, end = Stopwatch(server_time), now + seconds
    result = stopwatch.result(latencies, depth)
    for sock in socks:                              # nobody is left in the middle of a request
        sock.settimeout(TIMEOUT_SECONDS)
        lines = partly.get(sock.fileno(), 0)
        while lines < depth:
            reply = sock.recv(65536)
            check(reply)
            lines += reply.count(b"\n")
    return result


def joining(addresses, requests):
    """Connect a player for each login request; yields (socket, request), spread over the servers.

    Every thousand comes from an address of its own: where most ports of an address are taken, or
    were a minute ago, the kernel looks longer for a free one than all else takes.
    """
    for number, (request, address) in enumerate(zip(requests, itertools.cycle(addresses))):
        if number % 1000 == 0:
            source = next(_sources)
        yield connect(address, source), request


def storm(addresses, requests, at_once, server_time=unknown):
    """Connect a player for each login request, `at_once` of them waiting for the answer at a time;
    returns (a Result, whose rate is logins/s, their sockets)."""
    poll = select.epoll()
    socks, sent, latencies = {}, {}, []
    clock = time.perf_counter
    stopwatch = Stopwatch(server_time)
    players = joining(addresses, requests)

    def join(count):
        begin = clock()
        for sock, request in itertools.islice(players, count):
            number = sock.fileno()
            socks[number] = sock
            sent[number] = begin
            poll.register(number, ONE_EVENT)
            sock.send(request)
            begin = clock()

    join(at_once)
    while len(latencies) < len(requests):
        ready = answered(poll)
        for number, _ in ready:
            check_login(socks[number])
            latencies.append(clock() - sent[number])
        join(len(ready))
    return stopwatch.result(latencies), list(socks.values())


def crowd(address, requests, ping, pause, go_on):
    """Connect a player for each login request; when all are connected, all send theirs before the
    first is read. Returns their sockets when all are logged in.

    `pause` stops the server, `go_on` has it go on.
    """
    players = []
    for sock, request in joining([address], requests):
        players.append((sock, request))
        if len(players) % CROWD_STEP == 0 or len(players) == len(requests):
            check(call(sock, ping))     # accepted, and so were all before it
    waiting = {sock.fileno(): sock for sock, _ in players}
    poll = select.epoll()
    pause()
    for sock, request in players:
        poll.register(sock, ONE_EVENT)
        sock.send(request)
    go_on()
    while waiting:
        for number, _ in answered(poll):
            check_login(waiting.pop(number))
    return [sock for sock, _ in players]


def answered(poll):
    """Wait for replies; returns what epoll has: (descriptor, event) of each."""
    ready = poll.poll(TIMEOUT_SECONDS)
    if not ready:
        raise LoadError("no answer for %d seconds" % TIMEOUT_SECONDS)
    return ready


def check_login(sock):
    reply = sock.recv(65536)
    check(reply)
    if not reply.endswith(b"\n"):
        raise LoadError("unexpected reply: %r" % reply[:200])


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
