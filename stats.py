# -*- coding: utf-8 -*-
"""What a server counts of its work, for its operators."""
from __future__ import unicode_literals

from collections import Counter, OrderedDict

from constants import VERSION
from log import lost_lines
from protocol import METHODS


class Stats(object):
    """The statistics of one server. `clock` returns seconds."""

    def __init__(self, clock):
        self.clock = clock
        self.started = clock()
        self.requests = dict.fromkeys(METHODS, 0)       # number by method, refused ones included
        self.refusals = Counter()       # number by reason
        self.slowest_commit = 0         # seconds
        self.slowest_tick = 0           # seconds, without the sleep

    def add_commit(self, seconds):
        """Count a commit that took so long."""
        self.slowest_commit = max(self.slowest_commit, seconds)

    def add_tick(self, seconds):
        """Count a tick that took so long."""
        self.slowest_tick = max(self.slowest_tick, seconds)

    def figures(self, shop, sessions, players):
        """Return all figures, by name; the shop, the sessions and the players have their own."""
        return OrderedDict([
            ("version", VERSION),
            ("uptime_s", int(self.clock() - self.started)),
            ("clients", len(sessions)),
            ("players", len(players)),
            ("requests", self.requests),
            ("trades", shop.trades),
            ("refusals", self.refusals),
            ("commits", shop.commits),
            ("largest_batch", shop.largest_batch),
            ("slowest_commit_ms", round(1000 * self.slowest_commit, 3)),
            ("slowest_tick_ms", round(1000 * self.slowest_tick, 3)),
            ("wal_bytes", shop.storage.wal_size),
            ("unsent_bytes", sum(len(session.output) for session in sessions)),
            ("log_lost", lost_lines()),
        ])
