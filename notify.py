# -*- coding: utf-8 -*-
"""Tells systemd how the server is, in three datagrams.

They are READY=1, STOPPING=1 and WATCHDOG=1 (sd_notify(3)). Without the variable NOTIFY_SOCKET there
is nobody to tell, and nothing is sent.
"""
from __future__ import unicode_literals

import errno
import os
import re
import socket

from constants import WATCHDOG_PINGS

READY = b"READY=1"              # the server listens
STOPPING = b"STOPPING=1"        # a signal has asked it to stop
WATCHDOG = b"WATCHDOG=1"        # its loop turns

NO_ROOM = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS}      # it passes


class Notifier(object):
    """Sends the server's states to systemd; never waits, and never fails.

    `variables` is the environment. To the event loop the notifier is a source of periodic work: it
    pings systemd's watchdog. A loop that no longer turns sends no pings, and systemd ends it. While
    there is a watchdog, work is always pending, so that an idle loop turns as well.
    """
    socket = None

    def __init__(self, variables=os.environ):
        self.address = socket_address(variables.get("NOTIFY_SOCKET", ""))
        self.interval = ping_interval(variables) if self.address else None
        self.ping_at = 0                # time of the next ping
        self.unsent = None              # state for which the socket had no room
        self.sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def send(self, state):
        """Send a state. One for which there is no room is sent with the periodic work."""
        self.unsent = None
        if not self.address:
            return
        try:
            self.sender.sendto(state, socket.MSG_DONTWAIT, self.address)
        except socket.error as error:   # whatever it is, the shop goes on
            if error.errno in NO_ROOM:
                self.unsent = state

    def has_pending_work(self):
        return self.interval is not None or self.unsent is not None

    def do_pending_work(self, clock):
        if self.unsent is not None:
            self.send(self.unsent)
        elif self.interval is not None and clock() >= self.ping_at:
            self.ping_at = clock() + self.interval
            self.send(WATCHDOG)

    def close(self):
        self.sender.close()


def socket_address(name):
    """Return the address of a Unix socket; `@` begins the name of an abstract one (unix(7))."""
    return str("\0") + name[1:] if name.startswith(str("@")) else name


def ping_interval(variables):
    """Return the seconds between two pings; None without a watchdog for this process.

    A parent's watchdog is inherited with the environment; WATCHDOG_PID says whose it is.
    """
    microseconds = variables.get("WATCHDOG_USEC", "")
    is_ours = variables.get("WATCHDOG_PID", "%d" % os.getpid()) == "%d" % os.getpid()
    if not is_ours or not re.match("[1-9][0-9]*$", microseconds):
        return None
    return int(microseconds) / 1e6 / WATCHDOG_PINGS
