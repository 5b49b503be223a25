# -*- coding: utf-8 -*-
"""What a server counts of its work, for its operators."""
from __future__ import unicode_literals

from bisect import bisect_left
from collections import Counter, OrderedDict

from constants import HISTOGRAM_BOUNDS, VERSION
from log import lost_lines
from protocol import METHODS


class Histogram(object):
    """How many durations were at most each of HISTOGRAM_BOUNDS, and how many above the last."""

    def __init__(self):
        self.counts = [0] * (len(HISTOGRAM_BOUNDS) + 1)     # each without those of smaller bounds
        self.sum = 0.0                  # seconds

    def add(self, seconds):
        """Count something that took so long."""
        self.counts[bisect_left(HISTOGRAM_BOUNDS, seconds)] += 1
        self.sum += seconds

    def figures(self):
        """Return the bounds, the counts and the sum, by name."""
        return OrderedDict([("bounds", HISTOGRAM_BOUNDS), ("counts", self.counts),
                            ("sum", round(self.sum, 6))])


class Stats(object):
    """The statistics of one server, which serves at most `max_clients` at once.

    `clock` returns seconds.
    """

    def __init__(self, clock, max_clients):
        self.clock = clock
        self.max_clients = max_clients
        self.started = clock()
        self.requests = dict.fromkeys(METHODS, 0)       # number by method, refused ones included
        self.refusals = Counter()       # number by reason
        self.commit_seconds = Histogram()       # of commits that had something to do
        self.tick_seconds = Histogram()         # of ticks, without the sleep

    def figures(self, shop, sessions, players):
        """Return all figures, by name; the shop, the sessions and the players have their own."""
        return OrderedDict([
            ("version", VERSION),
            ("uptime_seconds", round(self.clock() - self.started, 3)),
            ("clients", len(sessions)),
            ("max_clients", self.max_clients),
            ("players", len(players)),
            ("requests", self.requests),
            ("trades", shop.trades),
            ("refusals", self.refusals),
            ("commits", shop.commits),
            ("largest_batch", shop.largest_batch),
            ("commit_seconds", self.commit_seconds.figures()),
            ("tick_seconds", self.tick_seconds.figures()),
            ("wal_bytes", shop.storage.wal_size),
            ("unsent_bytes", sum(len(session.output) for session in sessions)),
            ("log_lost", lost_lines()),
        ])
