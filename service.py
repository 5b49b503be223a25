# -*- coding: utf-8 -*-
"""What requests do: sessions, methods, errors as replies, replies that wait for the commit.

The event loop (`server`) feeds each session's lines, and in each tick calls `Service.serve` and
`Service.commit`; then it sends what is in the sessions' outputs. Sockets are its business alone.
"""
from __future__ import unicode_literals

import functools
import logging

import admin_methods
from constants import HIGH_WATER, ITEMS, LOGIN_SECONDS, MAX_CLIENTS, PARSE_BATCH
from db import NICKNAME_IN_USE, Refusal
from log import log_defect, monotonic
from players import Players
from protocol import (CLOSING_REASONS, METHODS, TCP_METHODS, ErrorCode, RpcError, encode_account,
                      encode_error, encode_json, encode_result, refused)
from session import FOREVER, GroupCommit, PendingBatch, PendingReply, peer
from stats import Stats
from storage import ConnectionLost
from text import excerpt

log = logging.getLogger("lavka.service")

CATALOG = encode_json([{"name": name, "price": price}
                       for name, price in ITEMS.items()]).encode("ascii")
DEFECT = ErrorCode.INTERNAL_ERROR.error("The server has a defect; it was logged.")
SERVER_FULL = ErrorCode.SERVER_FULL.error("The server is full. Try again later.")
OPERATORS_FULL = ErrorCode.SERVER_FULL.error("Too many operators are connected. Try again later.")
STORAGE_FAILED = ErrorCode.STORAGE_FAILED.error(
    "This could not be stored; nothing was changed. Try again later.")


class Service(object):
    """The methods of the wire, for all sessions of an open `db.Shop`.

    `clock` returns seconds, and does not go back. `max_clients` is told in the statistics.
    """

    def __init__(self, shop, limiter, clock=monotonic, max_clients=MAX_CLIENTS):
        self.shop = shop
        self.limiter = limiter
        self.clock = clock
        self.sessions = set()           # clients whose connections are open
        self.changed_sessions = []      # sessions that ended, or have a new deadline, in this tick
        self.group = GroupCommit()
        self.players = Players(shop, self.group, limiter, clock)
        self.is_finishing = False       # whether `finish` applies the last requests of a session
        self.has_finished = False       # whether it has done so since `serve` was called
        self.methods = {name: getattr(self, name) for name in TCP_METHODS}
        self.methods.update((name, functools.partial(method, self))
                            for name, method in admin_methods.METHODS.items())
        self.logs_trades = log.isEnabledFor(logging.DEBUG)
        self.statistics = Stats(clock, max_clients)
        self.requests = self.statistics.requests        # kept at hand: counted for each request

    # --- what the event loop calls ------------------------------------------------------------

    def open(self, session, is_full=False):
        """Begin a session; if there is no room for another one, say so and end it."""
        if not session.is_operator():
            self.sessions.add(session)
            session.deadline = self.clock() + LOGIN_SECONDS
        if is_full:
            error = OPERATORS_FULL if session.is_operator() else SERVER_FULL
            session.output += self.refuse(session, refused(error), error)

    def serve(self, sessions, deadline):
        """Parse, prefetch and apply: a quantum of requests of each session, in this order.

        Returns how many sessions had their turn. The others come first in the next tick:
        PARSE_BATCH was reached, or `deadline` has passed, the wait for the prefetch not counted.
        """
        clock, apply = self.clock, self.apply
        parsed = self.parse(sessions, (clock() + deadline) / 2)     # the other half is for applying
        if self.shop.storage.prefetches:
            begin = clock()
            self.prefetch(sessions[:parsed])
            deadline += clock() - begin
        self.has_finished = False
        for number in range(parsed):
            # The clock every fourth time, as in `parse`; but `finish` may have taken many turns.
            if (number % 4 == 0 or self.has_finished) and clock() > deadline:
                return number
            apply(sessions[number])
        return parsed

    def has_changes(self):
        """Return whether a commit would have something to do."""
        return self.shop.has_changes()

    def commit(self):
        """Store what this tick has changed, and publish the replies that waited for it."""
        begin, has_changes = self.clock(), self.shop.has_changes()
        try:
            failed = self.shop.commit()
        except ConnectionLost:
            self.close_players()
            failed = frozenset()
        if has_changes:
            self.statistics.commit_seconds.add(self.clock() - begin)
        self.group.publish(failed, self.fail)
        for account in failed:
            session = self.players.get(account.nickname)
            # The account is gone, or is not as its player was told at the login.
            if session and (account.stored is None or session in self.group.uncommitted_logins):
                self.end_login(session, STORAGE_FAILED.reason)
        self.group.finish(failed)

    def close(self, session, reason):
        """End a session: no more requests are served. The loop sends the rest of its output."""
        if session.close_reason is not None:
            return
        session.close_reason = reason
        session.requests = ()
        self.changed_sessions.append(session)
        if session.account is not None:
            self.end_login(session, reason)
        elif not session.is_operator() \
                and self.limiter.is_first(logging.INFO, "closed reason=%s" % reason):
            self.group.log(logging.INFO, "closed reason=%s peer=%s", reason, peer(session))

    def forget(self, session):
        """Forget a session whose connection is closed."""
        self.sessions.discard(session)

    def take_changed_sessions(self):
        """Return the sessions that ended, or have a new deadline, since the last call."""
        changed, self.changed_sessions = self.changed_sessions, []
        return changed

    def end_tick(self, seconds):
        """Log what the tick has done, which took so many seconds."""
        self.statistics.tick_seconds.add(seconds)
        if self.group.log_lines:
            self.group.write_log_lines()

    # --- a tick -------------------------------------------------------------------------------

    def parse(self, sessions, deadline):
        """Parse a quantum of each session; returns how many had their turn, by count and time."""
        count = 0
        for number, session in enumerate(sessions):
            if session.reader.lines:
                try:
                    count += session.parse()
                except Exception as defect:             # costs its line alone, as in `execute`
                    log_defect(self.limiter, defect)
                    session.requests.append(refused(DEFECT))
                # The clock every fourth time: it costs a hundredth of a request.
                if count >= PARSE_BATCH or (number % 4 == 3 and self.clock() > deadline):
                    return number + 1
        return len(sessions)

    def prefetch(self, sessions):
        """Have the storage load at once what these sessions' requests need."""
        logins, trades = set(), set()
        for session in sessions:
            session.add_needed(logins, trades)
        self.shop.prefetch(logins, trades)

    def apply(self, session):
        """Apply the session's parsed requests; their replies go to its output, or wait."""
        output = session.output
        if len(output) >= HIGH_WATER:
            return                      # they stay until some of it is sent
        requests, session.requests = session.requests, ()
        replies = self.group.replies
        for request in requests:
            if session.close_reason is not None:
                return
            if type(request) is list:
                self.apply_batch(session, request)
                continue
            line = self.execute(session, request)
            if request.id:
                account = session.account
                if account is not None and account.is_dirty:
                    replies.append(PendingReply(session, request, line, account))
                    session.has_pending = True
                elif session.has_pending:           # after one that waits, in order
                    replies.append(PendingReply(session, request, line, None))
                else:
                    output += line
        if session.input_ended and not session.reader.lines:
            self.close(session, "closed")

    def apply_batch(self, session, requests):
        """Apply the requests of a batch; their replies are one array, if there are any."""
        replies = []
        for request in requests:
            line = self.execute(session, request)
            if request.id:
                replies.append(PendingReply(session, request, line, dirty_account(session)))
        if replies:
            self.group.replies.append(PendingBatch(session, replies))
            session.has_pending = True

    def execute(self, session, request):
        """Carry out a request; returns the line of its reply. Exceptions become replies here."""
        try:
            method = request.method
            if method is None:
                return self.refuse(session, request, request.error)
            self.requests[method] += 1
            if session.account is None and METHODS[method].needs_login:
                raise ErrorCode.NOT_LOGGED_IN.error("Log in first.")
            return encode_result(request.id, self.methods[method](session, request.arguments))
        except RpcError as error:
            return self.refuse(session, request, error)
        except Refusal as refusal:
            code = ErrorCode[refusal.reason.upper()]
            return self.refuse(session, request, code.error(refusal.message, **refusal.data))
        except Exception as defect:                     # costs its request alone
            log_defect(self.limiter, defect)
            return self.refuse(session, request, DEFECT)

    def refuse(self, session, request, error):
        """Count and log a refusal; returns the line of the reply that tells it."""
        reason = error.reason
        self.statistics.refusals[reason] += 1
        if self.limiter.is_first(logging.INFO, "refused reason=%s" % reason):
            subject = request.subject()
            self.group.log(
                logging.INFO, "refused reason=%s method=%s param=%s nickname=%s peer=%s",
                reason, request.method or "-", "-" if subject is None else excerpt(subject),
                excerpt(session.account.nickname) if session.account else "-", peer(session))
        if reason in CLOSING_REASONS:
            self.close(session, reason)
        return encode_error(request.id, error)

    def fail(self, session, request):
        """Return the line for a request whose changes could not be stored."""
        return self.refuse(session, request, STORAGE_FAILED)

    def close_players(self):
        """End the sessions of all players: another server may have their nicknames by now."""
        dependent = self.group.dependent_sessions()
        for session in dependent.union(self.players.values()):
            self.close(session, "storage_lost")
        self.group.abandon(dependent)

    # --- the methods ----------------------------------------------------------------------------
    # Each gets a tuple of the values of its params, and returns its result as JSON, in bytes.

    def login(self, session, arguments):
        nickname, key = arguments
        if session.account is not None:
            raise ErrorCode.ALREADY_LOGGED_IN.error("This connection is logged in; log out first.")
        if nickname in self.players:
            self.reap_if_closed(self.players[nickname])
        if nickname in self.players:
            self.take_over(self.players[nickname], key)
        is_new = self.players.log_in(session, nickname, key)
        return b'{"account":%s,"created":%s,"catalog":%s}' % (
            encode_account(session.account), b"true" if is_new else b"false", CATALOG)

    def reap_if_closed(self, session):
        """End a login whose peer has already closed, so that the player can log in again in this
        tick. What it asked before is applied first."""
        if session.peer_has_closed() and session.is_served() and self.finish(session):
            self.close(session, "closed")

    def take_over(self, session, key):
        """End the login of another session whose account is protected by this key.

        What it asked before is applied first; that may log out, or replace the key. Its unsent
        replies are dropped. Raises Refusal, or RpcError, unless the nickname is free then.
        """
        nickname = session.account.nickname
        self.shop.check_takeover(session.account, key)
        if not self.finish(session):
            raise ErrorCode.NICKNAME_IN_USE.error(NICKNAME_IN_USE)
        if nickname in self.players:
            self.shop.check_takeover(session.account, key)
            self.group.taken_over.append(session)
            self.close(session, "taken_over")

    def finish(self, session):
        """Apply what was read of a session, however many of its replies are unsent. Returns False
        inside another `finish`: the requests may log in with a nickname whose session has to be
        finished, and so on."""
        if self.is_finishing:
            return False
        self.is_finishing = self.has_finished = True
        unsent = bytearray()
        while session.has_requests() and session.close_reason is None:
            unsent += session.output
            del session.output[:]           # otherwise it would not be served
            self.parse([session], FOREVER)
            self.prefetch([session])
            self.apply(session)
        session.output[:0] = unsent
        self.is_finishing = False
        return True

    def ping(self, session, _):
        return b'"pong"'

    def buy(self, session, arguments):
        item, = arguments
        self.shop.buy(session.account, item)
        if self.logs_trades:
            log_trade(self.group, "buy", item, session.account)
        return b'{"account":%s}' % encode_account(session.account)

    def sell(self, session, arguments):
        item, = arguments
        self.shop.sell(session.account, item)
        if self.logs_trades:
            log_trade(self.group, "sell", item, session.account)
        return b'{"account":%s}' % encode_account(session.account)

    def protect(self, session, arguments):
        key, = arguments
        self.shop.protect(session.account, key)
        if self.limiter.has_quota("protect", session.address[0]):
            self.group.log(logging.INFO, "protect nickname=%s peer=%s",
                           excerpt(session.account.nickname), peer(session),
                           account=session.account)
        return b"true"

    def logout(self, session, _):
        self.end_login(session, "logout")
        return b"true"

    def end_login(self, session, reason):
        """Free the nickname of a session that is logged in."""
        self.players.log_out(session, reason)
        self.changed_sessions.append(session)


def log_trade(group, method, item, account):
    """Have a purchase or sale logged once it is stored."""
    group.log(logging.DEBUG, "trade nickname=%s method=%s item=%s credits=%d",
              excerpt(account.nickname), method, excerpt(item), account.credits, account=account)


def dirty_account(session):
    """Return the account of the session if it has uncommitted changes, None otherwise."""
    account = session.account
    return account if account is not None and account.is_dirty else None
