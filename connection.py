# -*- coding: utf-8 -*-
"""One client's connection, what the errors of its socket mean, and the socket that listens."""
from __future__ import unicode_literals

import errno
import logging
import socket
import sys
from enum import Enum

try:
    import selectors
except ImportError:                                     # 2.7
    import selectors2 as selectors

import constants
from protocol import address
from session import FOREVER, Session

log = logging.getLogger("lavka.connection")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# What the errnos of accept(2), recv(2) and send(2) mean; accept also passes on network errors of
# the new connection. Any other, such as EMFILE (out of descriptors), is a fault of this machine,
# and is logged.
NOT_NOW = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR}
PEER_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN,
             errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH,
             errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP}


class Phase(Enum):
    """How far a connection has come; it only goes down this list."""
    OPEN = "its requests are served"
    FLUSHING = "its session has ended; the last replies are being sent"
    LINGERING = "all is sent; further input is discarded until the peer closes"
    CLOSED = "its descriptor is freed at the end of this tick"


# Before 3.12, to look a member up by its name takes longer than all that is done with it.
OPEN, FLUSHING, LINGERING, CLOSED = Phase.OPEN, Phase.FLUSHING, Phase.LINGERING, Phase.CLOSED


class Connection(Session):
    """A session over a socket."""
    __slots__ = ("sock", "phase", "interest", "write_deadline")

    def __init__(self, sock, address):
        super(Connection, self).__init__(address)
        self.sock = sock
        self.phase = OPEN
        self.interest = 0                   # events that the selector waits for
        self.write_deadline = FOREVER       # time at which a write stall closes the connection

    def peer_has_closed(self):
        try:
            return self.input_ended or not self.sock.recv(1, socket.MSG_PEEK)
        except socket.error as error:
            return error.errno in PEER_GONE

    def wanted_events(self):
        """Return the events to wait for: back-pressure, as one expression.

        A client that sends faster than it is served, or than it takes its replies, is not read.
        """
        reads = not self.input_ended
        if self.phase is OPEN:
            reads = reads and not self.has_requests() and self.is_served()
        return (READ if reads else 0) | (WRITE if self.output else 0)

    def register(self, selector):
        """Register the socket for the events that the connection wants.

        Without any it is unregistered: epoll reports a hang-up regardless, again and again.
        """
        events = self.wanted_events()
        if events == self.interest:
            return
        if not events:
            selector.unregister(self.sock)
        elif not self.interest:
            selector.register(self.sock, events, self)
        else:
            selector.modify(self.sock, events, self)
        self.interest = events


def select(selector, timeout):
    """Return the selector's events, after `timeout` seconds at most; None waits for ever."""
    try:
        return selector.select(timeout)
    except EnvironmentError as error:               # 2.7: selectors2, when SIGCONT comes late
        if error.errno != errno.ETIMEDOUT:
            raise
        return []


# --- the listening socket ---------------------------------------------------------------------

class Listener(object):
    """Accepts clients on a listening, non-blocking socket.

    Out of descriptors the socket stays readable, and the loop would spin; so the listener pauses.
    """

    def __init__(self, sock, limiter):
        self.sock = sock
        self.limiter = limiter              # of log lines
        self.is_registered = False          # whether the loop waits for it
        self.resume_at = -FOREVER           # time at which the pause ends

    def accept(self, room, now):
        """Accept up to `room` clients; returns their [(socket, address)]. `now` is the time."""
        accepted = []
        while now >= self.resume_at and len(accepted) < min(room, constants.ACCEPT_BATCH):
            try:
                accepted.append(self.sock.accept())
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

    def close(self):
        self.sock.close()


class CannotListen(Exception):
    """The address cannot be served; the text is one sentence for whoever started the program."""


def listen(host, port):
    """Return a listening, non-blocking socket, on a free port for port 0. Raises CannotListen."""
    sock = None
    try:
        family, kind, proto, _, place = socket.getaddrinfo(
            host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_options(sock)
        sock.bind(place)
        sock.listen(constants.LISTEN_QUEUE)
        sock.setblocking(False)
        return sock
    except (socket.error, UnicodeError) as error:       # UnicodeError: a host name that is none
        if sock is not None:
            sock.close()
        raise CannotListen("cannot listen on %s: %s" % (address(host, port),
                                                        getattr(error, "strerror", "no such host")))


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
