# -*- coding: utf-8 -*-
"""What the servers are measured by: each work drives one that runs, and returns its figures."""
from __future__ import division, print_function

import json
import os
import signal
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import load
from servers import wait_until

STORM_PLAYERS = 10000
STORM_AT_ONCE = 200         # of them, who wait for the answer to their login
IDLE_PLAYERS = 15000
CROWD_PLAYERS = 15000       # who log in at once
SLOW_SECONDS = 0.01         # of a tick, to be told with what it did

# How long to measure, and to look at every tick.
Seconds = namedtuple("Seconds", "work ticks")


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
    before, lines = running.memory(), running.peer.lines
    requests = [lines.login("crowd %d" % one) for one in range(CROWD_PLAYERS)]
    socks = load.crowd(running.addresses[0], requests, lines.ping(),
                       lambda: running.send_signal(signal.SIGSTOP),
                       lambda: running.send_signal(signal.SIGCONT))
    left = running.memory()
    peak = running.memory("VmHWM")
    close(socks)
    return Crowd((peak - before) / CROWD_PLAYERS, (left - before) / CROWD_PLAYERS)


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
    wait_until(lambda: process.poll() is not None, "it does not stop")
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
FRESH = ["idle", "crowd", "ticks"]      # each gets a fresh server, whose memory holds nothing freed


def close(socks):
    for sock in socks:
        sock.close()


def leave(running, socks):
    """Close connections, and wait until the server has noticed: nicknames are free then."""
    few = running.descriptors() - len(socks)
    close(socks)
    wait_until(lambda: running.descriptors() <= few, "the server keeps connections")
