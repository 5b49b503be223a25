# -*- coding: utf-8 -*-
"""One client as the service knows it, and the replies that wait for the commit."""
from __future__ import unicode_literals

import itertools
import logging
import operator

from constants import HIGH_WATER, REQUEST_QUANTUM
from protocol import ADMIN_METHODS, METHODS, TCP_METHODS, LineReader, address, parse

log = logging.getLogger("lavka.session")

FOREVER = float("inf")
KICKED = "kicked"       # reason of an end that an operator has asked for
CHANGES = frozenset(["buy", "sell", "protect"])     # methods that change the account of the login


class Session(object):
    """One client: what it asks, what it is told, and its login.

    `connection.Connection` adds a socket.
    """
    __slots__ = ("address", "methods", "reader", "requests", "output", "account", "login_time",
                 "has_pending", "input_ended", "close_reason", "deadline")

    def __init__(self, address, methods=TCP_METHODS):
        self.address = address          # of the peer: (host, port, ...)
        self.methods = methods          # those of its socket
        self.reader = LineReader()      # cuts bytes into lines; keeps those not yet parsed
        self.requests = ()              # read queue: requests not yet applied, lists for batches
        self.output = bytearray()       # write queue: replies that may be sent
        self.account = None             # OpenAccount of the login
        self.login_time = None          # time of the login
        self.has_pending = False        # whether a reply waits for the commit
        self.input_ended = False        # whether the peer has closed its side
        self.close_reason = None        # reason of its end; None while it is open
        self.deadline = FOREVER         # time to close it: it has not logged in, or lingers

    def is_operator(self):
        """Return whether it came through the admin socket."""
        return self.methods is ADMIN_METHODS

    def is_served(self):
        """Return whether requests are applied: it has not ended, and takes its replies."""
        return self.close_reason is None and len(self.output) < HIGH_WATER

    def has_requests(self):
        """Return whether something is left to parse or to apply."""
        return bool(self.requests or self.reader.lines)

    def parse(self):
        """Turn lines into requests, up to a quantum; returns how many there were.

        Does nothing while requests of the last tick are left, or the session is not served.
        """
        # The last two conditions are `not self.is_served()`, written out to save the call.
        if self.requests or self.close_reason is not None or len(self.output) >= HIGH_WATER:
            return 0
        self.requests = requests = []
        lines, methods, count = self.reader.lines, self.methods, 0
        while lines and count < REQUEST_QUANTUM:
            request = parse(lines.pop(), methods)
            if request is not None:
                requests.append(request)
            count += len(request) if type(request) is list else 1       # an empty line is one, too
        if not lines:
            self.reader.lines = ()      # an empty list takes memory
        return count

    def add_needed(self, logins, trades):
        """Add the nicknames that the parsed requests log in with, or trade for, to these sets."""
        is_logged_in = self.account is not None
        for request in self.requests:
            for one in request if type(request) is list else (request,):
                if one.method == "login" and not is_logged_in:      # else it will be refused
                    logins.add(one.arguments[0])
                    is_logged_in = True
                elif one.method == "logout":
                    is_logged_in = False
                elif self.account is not None and one.method in CHANGES:
                    trades.add(self.account.nickname)

    def peer_has_closed(self):
        """Return whether the peer has closed the connection; even if that was not read yet."""
        return self.input_ended


def peer(session):
    """Return the other end of a session, for the log."""
    return address(*session.address[:2])


# --- what waits for the commit ----------------------------------------------------------------

class PendingReply(object):
    """The reply to one request, which is sent after the commit of its tick."""
    __slots__ = ("session", "request", "line", "account")

    def __init__(self, session, request, line, account):
        self.session = session
        self.request = request
        self.line = line                # line to send, if the account's changes are stored
        self.account = account          # with uncommitted changes; None if it depends on none

    def accounts(self):
        """Return the accounts that the reply may depend on."""
        return () if self.account is None else (self.account,)

    def line_after(self, failed, fail):
        """Return the line, after a commit that has not stored the accounts in `failed`.

        `fail(session, request)` returns the line for a request whose reply tells of one of them.
        """
        method = self.request.method
        if self.account in failed and method is not None and METHODS[method].tells_account:
            return fail(self.session, self.request)
        return self.line


class PendingBatch(object):
    """The replies to a batch, which are sent as one array."""
    __slots__ = ("session", "replies", "line")

    def __init__(self, session, replies):
        self.session = session
        self.replies = replies
        self.line = self.line_after((), None)

    def accounts(self):
        return [account for reply in self.replies for account in reply.accounts()]

    def line_after(self, failed, fail):
        lines = [reply.line_after(failed, fail).rstrip() for reply in self.replies]
        return b"[" + b",".join(lines) + b"]\n"


class GroupCommit(object):
    """What waits for the commit of a tick: replies, logins, and the log lines that go with them."""

    def __init__(self):
        self.replies = []               # PendingReply and PendingBatch, in order
        self.log_lines = []             # (level, text, account to be stored or None)
        self.uncommitted_logins = set()     # sessions whose login depends on the commit
        self.taken_over = []            # sessions whose replies are dropped

    def publish(self, failed, fail):
        """Move the replies to the sessions' outputs; drop all of the sessions taken over."""
        for reply in self.replies:
            session = reply.session
            session.has_pending = False
            session.output += reply.line_after(failed, fail) if failed else reply.line
        self.replies = []
        for session in self.taken_over:
            del session.output[:]
        self.taken_over = []

    def finish(self, failed):
        """Drop the log lines of failed accounts; what is left is certain."""
        if failed:
            self.log_lines = [line for line in self.log_lines if line[2] not in failed]
        self.uncommitted_logins.clear()

    def dependent_sessions(self):
        """Return the sessions that have a reply which depends on the commit."""
        return {reply.session for reply in self.replies if reply.accounts()}

    def abandon(self, sessions):
        """Drop the replies to these sessions, and all log lines that depend on the commit."""
        self.replies = [reply for reply in self.replies if reply.session not in sessions]
        self.log_lines = [line for line in self.log_lines if line[2] is None]

    def log(self, level, text, *arguments, **options):
        """Have a line logged at the end of the tick, unless `account` cannot be stored."""
        if log.isEnabledFor(level):
            self.log_lines.append((level, text % arguments, options.get("account")))

    def write_log_lines(self):
        """Log the lines, as one record for each level: a record costs more than a login."""
        lines, self.log_lines = self.log_lines, []
        for level, group in itertools.groupby(lines, operator.itemgetter(0)):
            log.log(level, "\n".join(text for _, text, _ in group))
