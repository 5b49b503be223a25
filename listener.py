# -*- coding: utf-8 -*-
"""The sockets that listen, and how many connections each address has."""
from __future__ import unicode_literals

import errno
import itertools
import logging
import socket
import sys
from collections import Counter, OrderedDict

import constants
from connection import NOT_NOW, PEER_GONE, READ
from protocol import TCP_METHODS, address
from session import FOREVER
from text import excerpt

log = logging.getLogger("lavka.listener")


class Listener(object):
    """Accepts clients on listening, non-blocking sockets.

    Out of descriptors a socket stays readable, and the loop would spin; so the listener pauses.
    """
    methods = TCP_METHODS               # for those who are accepted
    batch = constants.ACCEPT_BATCH      # how many are accepted at once

    def __init__(self, sockets, limiter):
        self.sockets = sockets
        self.limiter = limiter              # of log lines
        self.is_open = True                 # whether further clients are to be accepted
        self.is_registered = False          # whether the loop waits for its sockets
        self.resume_at = -FOREVER           # time at which the pause ends
        # Of the next client, until it is probed; they take turns, so that a storm is spread.
        self.idle_seconds = itertools.cycle(range(
            constants.KEEPALIVE_IDLE_SECONDS - constants.KEEPALIVE_SPREAD_SECONDS,
            constants.KEEPALIVE_IDLE_SECONDS + 1))

    def register(self, selector, now):
        """Register its sockets at the selector while it accepts clients, else unregister them."""
        accepts = self.is_open and now >= self.resume_at
        if accepts != self.is_registered:
            for sock in self.sockets:
                if accepts:
                    selector.register(sock, READ, self)
                else:
                    selector.unregister(sock)
            self.is_registered = accepts

    def accept(self, sock, now):
        """Accept a batch of clients on one of the sockets; returns their [(socket, address)].

        `now` is the time.
        """
        accepted = []
        while now >= self.resume_at and len(accepted) < self.batch:
            try:
                accepted.append(self.accept_one(sock))
            except socket.error as error:
                if error.errno in PEER_GONE:            # a client that has given up
                    continue
                if error.errno not in NOT_NOW:
                    self.resume_at = now + constants.ACCEPT_PAUSE_SECONDS
                    if self.limiter.is_first(logging.ERROR, "accept_failed"):
                        log.error("accept_failed error=%s",
                                  errno.errorcode.get(error.errno, error.errno))
                break
        return accepted

    def accept_one(self, sock):
        """Return (socket, address of its peer) of the next client. Raises socket.error."""
        accepted, place = sock.accept()
        if hasattr(socket, "TCP_KEEPIDLE"):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, next(self.idle_seconds))
        return accepted, place

    def log_addresses(self):
        """Log where clients are accepted, with the real port."""
        places = [sock.getsockname()[:2] for sock in self.sockets]
        for host, _ in places:
            if network(host) is not None:
                log.warning("not_loopback address=%s: a nickname is no password; whoever reaches "
                            "it can play all accounts whose owners have not typed \"protect\"",
                            excerpt(host))
        log.info("\n".join(["listening on %s" % address(*place) for place in places]))

    def close(self):
        for sock in self.sockets:
            sock.close()


# --- how many connections an address has ------------------------------------------------------

class AddressCounts(object):
    """Counts the open connections of each network; loopback is not counted.

    The first of those beyond `limit` is logged.
    """

    def __init__(self, limit, limiter):
        self.limit = limit
        self.limiter = limiter              # of log lines
        self.counts = Counter()             # network -> connections; none has 0

    def add(self, host):
        """Count a connection; returns whether its network has more than the limit now."""
        key = network(host)
        if key is None:
            return False
        self.counts[key] += 1
        is_crowded = self.counts[key] > self.limit
        if is_crowded and self.limiter.is_first(logging.WARNING, "address_full"):
            log.warning("address_full address=%s", excerpt(host))
        return is_crowded

    def discard(self, host):
        """Count a connection that has ended."""
        key = network(host)
        if key is not None:
            self.counts[key] -= 1
            if not self.counts[key]:
                del self.counts[key]


def network(host):
    """Return what counts as one address; None for loopback, where players are behind a proxy.

    It is an IPv4 address, or the /64 of an IPv6 one: a machine uses any address of its subnet
    (RFC 4291, section 2.5.4; RFC 8981).
    """
    if host.startswith("::ffff:") and "." in host:      # IPv4 on a socket of both kinds
        host = host[len("::ffff:"):]
    if ":" not in host:
        return None if host.startswith("127.") else host
    if host == "::1":
        return None
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]    # 2.7: % and the scope


# --- where to listen --------------------------------------------------------------------------

class CannotListen(Exception):
    """An address cannot be served; the text is one sentence for whoever started the program."""

    def __init__(self, place, reason, host=None, errno=None):
        super(CannotListen, self).__init__("cannot listen on %s: %s" % (place, reason))
        self.host = host
        self.errno = errno


# Errnos of socket(2) and bind(2): this machine has no such address, or none of that family.
ADDRESS_MISSING = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def listen(host, port):
    """Return listening, non-blocking sockets, one for each address that the host resolves to.

    Port 0 is a free port, the same for all. An address that this machine does not have is logged
    and left out if there is another one. Raises CannotListen, and leaves no socket open then.
    """
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    except (socket.error, UnicodeError) as error:       # UnicodeError: a host name that is none
        raise CannotListen(address(host, port), getattr(error, "strerror", "no such host"))
    places = list(OrderedDict.fromkeys((family, place) for family, _, _, _, place in found))
    attempts = 1 if port else constants.PORT_ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _listen_on_all(places, port)
        except CannotListen as error:
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def _listen_on_all(places, port):
    """Return a socket for each (family, address) that this machine has."""
    has_ipv4 = any(family == socket.AF_INET for family, _ in places)
    sockets, missing = [], []
    for family, place in places:
        try:
            sock = _listen_on(family, place[:1] + (port,) + place[2:], has_ipv4)
        except CannotListen as error:
            if error.errno in ADDRESS_MISSING:
                missing.append(error)
                continue
            for sock in sockets:
                sock.close()
            raise
        sockets.append(sock)
        port = sock.getsockname()[1]
    if not sockets:
        raise missing[0]
    for error in missing:
        log.warning("address_missing address=%s error=%s", excerpt(error.host),
                    errno.errorcode[error.errno])
    return sockets


def _listen_on(family, place, has_ipv4):
    """Return a socket that listens on one address."""
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:       # "::" serves IPv4, too, unless another socket does
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, has_ipv4)
        set_options(sock)
        sock.bind(place)
        sock.listen(constants.LISTEN_QUEUE)
        sock.setblocking(False)
        return sock
    except socket.error as error:
        if sock is not None:
            sock.close()
        raise CannotListen(address(*place[:2]), error.strerror, place[0], error.errno)


def set_options(sock):
    """Have small replies sent at once, and a peer that vanished noticed (tcp(7)).

    Connections inherit these options from their listener.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, constants.KEEPALIVE_IDLE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL,
                        constants.KEEPALIVE_INTERVAL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, constants.KEEPALIVE_PROBES)
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, constants.TCP_USER_TIMEOUT,
                        constants.USER_TIMEOUT_SECONDS * 1000)
