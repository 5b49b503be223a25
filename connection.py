# -*- coding: utf-8 -*-
"""One client's connection, and what the errors of its socket mean."""
from __future__ import unicode_literals

import errno
import socket
from enum import Enum

try:
    import selectors
except ImportError:                                     # 2.7
    import selectors2 as selectors

import constants
from session import FOREVER, Session

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

    def __init__(self, sock, address, methods):
        super(Connection, self).__init__(address, methods)
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
    """Return the selector's events, after `timeout` seconds at most; None waits for ever.

    Of more than READ_BATCH, those of connections come first: a newcomer may be a player who has
    just closed another connection, and needs the nickname.
    """
    try:
        events = selector.select(timeout)
    except EnvironmentError as error:               # 2.7: selectors2, when SIGCONT comes late
        if error.errno != errno.ETIMEDOUT:
            raise
        return []
    if len(events) > constants.READ_BATCH:
        events.sort(key=lambda event: type(event[0].data) is not Connection)
    return events
