# -*- coding: utf-8 -*-
"""What operators ask of a running server: its statistics, its players, and to end a login.

As the methods of `service.Service`, each gets the service and a tuple of the values of its params,
and returns its result as JSON, in bytes.
"""
from __future__ import unicode_literals

import heapq
from collections import OrderedDict

from constants import PLAYERS_PAGE, PLAYERS_PAGE_SIZE
from protocol import ErrorCode, encode_json
from session import KICKED, peer


def stats(service, _, arguments):
    """Return the statistics."""
    figures = service.statistics.figures(service.shop, service.sessions, service.players)
    return encode_json(figures).encode("ascii")


def players(service, _, arguments):
    """Return a page of the players in order of their nicknames, the first of them behind `after`.

    A page fits into a line; the last one is empty. The client asks for the next page with the last
    nickname of this one. So 20,000 players take many short ticks instead of a long one.
    """
    after, = arguments
    nicknames = service.players if after is None else \
        [nickname for nickname in service.players if nickname > after]
    page, size = [], 0
    for nickname in heapq.nsmallest(PLAYERS_PAGE, nicknames):
        session = service.players[nickname]
        entry = encode_json(OrderedDict([
            ("nickname", nickname), ("peer", peer(session)),
            ("seconds", int(service.clock() - session.login_time))]))
        size += len(entry)
        if size > PLAYERS_PAGE_SIZE:
            break
        page.append(entry)
    return ("[%s]" % ",".join(page)).encode("ascii")


def kick(service, _, arguments):
    """End the login and the connection of a player; what it asked before is applied and answered.

    Raises RpcError where nobody is logged in with the nickname.
    """
    nickname, = arguments
    session = service.players.get(nickname)
    if session is None:
        raise ErrorCode.NOT_LOGGED_IN.error("Nobody is logged in here with this nickname.")
    service.finish(session)
    service.close(session, KICKED)
    return b"true"


METHODS = {"stats": stats, "players": players, "kick": kick}
