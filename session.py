# -*- coding: utf-8 -*-
"""One client as the service knows it, and the replies that wait for the commit."""
from __future__ import unicode_literals

from constants import HIGH_WATER, REQUEST_QUANTUM
from protocol import METHODS, LineReader, RpcError, parse, refused

FOREVER = float("inf")


class Session(object):
    """One client: what it asks, what it is told, and its login. `server.Connection` adds a socket."""
    __slots__ = ("address", "lines", "requests", "output", "account", "has_pending", "input_ended",
                 "close_reason", "deadline")

    def __init__(self, address):
        self.address = address          # of the peer: (host, port, ...)
        self.lines = LineReader()       # lines not yet parsed
        self.requests = ()              # read queue: requests not yet applied, lists for batches
        self.output = bytearray()       # write queue: replies that may be sent
        self.account = None             # OpenAccount of the login
        self.has_pending = False        # whether a reply waits for the commit
        self.input_ended = False        # whether the peer has closed its side
        self.close_reason = None        # why it ended, once it has; the rest of the output is sent
        self.deadline = FOREVER         # time at which it is closed, unless it logs in

    def is_served(self):
        """Return whether requests are applied: it has not ended, and takes its replies."""
        return self.close_reason is None and len(self.output) < HIGH_WATER

    def has_requests(self):
        """Return whether something is left to parse or to apply."""
        return bool(self.requests or self.lines.lines)

    def parse(self):
        """Turn lines into requests, up to a quantum; returns how many requests there are."""
        requests, count = [], 0
        next_line = self.lines.next_line
        while count < REQUEST_QUANTUM:
            try:
                line = next_line()
            except RpcError as error:           # too long; the reply to it ends the session
                requests.append(refused(error))
                break
            if line is None:
                break
            request = parse(line)
            requests.append(request)
            count += len(request) if type(request) is list else 1
        self.requests = requests
        return count

    def peer_has_closed(self):
        """Return whether the peer has closed the connection; it may not have been read yet."""
        return self.input_ended


# --- what waits for the commit ------------------------------------------------------------------

class PendingReply(object):
    """The reply to one request, which is sent after the commit of its tick."""
    __slots__ = ("session", "request", "body", "account")

    def __init__(self, session, request, body):
        self.session = session
        self.request = request
        self.body = body                # if the account's changes are stored
        account = session.account
        tells_account = request.method is not None and METHODS[request.method].tells_account
        # The account whose changes the reply tells of; None when it depends on no commit.
        self.account = account if tells_account and account is not None and account.is_dirty \
            else None

    def accounts(self):
        """Return the accounts that the reply depends on."""
        return () if self.account is None else (self.account,)

    def final_body(self, failed, fail):
        """Return the body to send; `fail` makes that of a request whose account is in `failed`."""
        return fail(self.session, self.request) if self.account in failed else self.body


class PendingBatch(object):
    """The replies to a batch, which are sent as one array."""
    __slots__ = ("session", "replies")

    def __init__(self, session, replies):
        self.session = session
        self.replies = replies

    def accounts(self):
        return [account for reply in self.replies for account in reply.accounts()]

    def final_body(self, failed, fail):
        return b"[%s]" % b",".join([reply.final_body(failed, fail) for reply in self.replies])


class GroupCommit(object):
    """What waits for the commit of a tick: replies, logins, and the log lines that go with them."""

    def __init__(self):
        self.replies = []               # PendingReply and PendingBatch, in order
        self.lines = []                 # log lines: (level, text, account to be stored or None)
        self.uncommitted_logins = set()     # sessions whose login depends on the commit

    def add(self, reply):
        self.replies.append(reply)
        reply.session.has_pending = True

    def publish(self, failed, fail):
        """Move the replies to the sessions' outputs."""
        for reply in self.replies:
            reply.session.has_pending = False
            reply.session.output += reply.final_body(failed, fail) + b"\n"
        self.replies = []

    def finish(self, failed):
        """Drop the log lines of failed accounts; what is left is certain."""
        if failed:
            self.lines = [line for line in self.lines if line[2] not in failed]
        self.uncommitted_logins.clear()

    def dependent_sessions(self):
        """Return the sessions that have a reply which depends on the commit."""
        return {reply.session for reply in self.replies if reply.accounts()}

    def abandon(self, sessions):
        """Drop the replies to these sessions, and all log lines that depend on the commit."""
        self.replies = [reply for reply in self.replies if reply.session not in sessions]
        self.lines = [line for line in self.lines if line[2] is None]

    def take_lines(self):
        """Return the log lines, as (level, text, account), and forget them."""
        lines, self.lines = self.lines, []
        return lines
