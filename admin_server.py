# -*- coding: utf-8 -*-
"""The operators' commands on a running server, which they ask through its admin socket.

Each gets an open `admin_socket.AdminClient`, a text stream for its output, and its arguments. It
raises RpcError or ServerGone.
"""
from __future__ import unicode_literals

import json

from text import quote


def stats(server, out, as_json):
    """Print what the server counts of its work, a line each; with --json as one line of JSON."""
    figures = server.stats()
    if as_json:
        out.write(json.dumps(figures, sort_keys=True) + "\n")
        return
    for name, value in sorted(figures.items()):
        out.write("%-16s %s\n" % (name, describe_figure(value)))


def describe_figure(value):
    """Return a figure for people: those by name in a row, of a histogram its shares."""
    if type(value) is not dict:
        return value
    if "bounds" in value:
        bounds = value["bounds"] + ["more than %s" % value["bounds"][-1]]
        return _describe_histogram(bounds, value["counts"], value["sum"])
    return ", ".join("%s %s" % item for item in sorted(value.items())) or "none"


def _describe_histogram(bounds, counts, seconds):
    """Return how many there were, their mean, and the bounds that half and 99 % are under."""
    number = sum(counts)
    if not number:
        return "none"
    shares, passed = [], 0
    for bound, count in zip(bounds, counts):
        shares += [bound for share in (0.5, 0.99) if passed < share * number <= passed + count]
        passed += count
    return "%d, mean %.6f, 50 %% up to %s, 99 %% up to %s" % (
        number, seconds / number, shares[0], shares[1])


def players(server, out):
    """Print who is logged in: the seconds since the login, the client's address, the nickname."""
    for player in server.players():
        out.write("%9d s  %-21s  %s\n" % (
            player["seconds"], player["peer"], quote(player["nickname"])))


def kick(server, out, nickname):
    """Log a player out, and close the connection. The player can log in again."""
    server.kick(nickname)
    out.write("%s is logged out\n" % quote(nickname))
