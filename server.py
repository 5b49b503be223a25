# -*- coding: utf-8 -*-
"""The server: every client's connection on one event loop, in one thread.

    python server.py [--host HOST] [--port PORT] [--database DATABASE] [--log-level LEVEL]

One pass of the loop, `Server.tick`, reads, applies what was read, commits once, and only then
writes the replies; docs/architecture.md follows a request through it.
"""
from __future__ import unicode_literals

import signal

if __name__ == "__main__":      # Ctrl-C is quiet from the first moment; `main` makes it graceful
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import errno
import itertools
import logging
import operator
import os
import resource
import socket
import sys
import time
import traceback
from collections import Counter, OrderedDict
from enum import Enum

try:
    import selectors
except ImportError:                                     # 2.7
    import selectors2 as selectors

import constants
import db
import protocol
from db import printable, quoted
from protocol import METHODS, ErrorCode, RpcError, encode_account, encode_json

log = logging.getLogger("lavka.server")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
FOREVER = float("inf")
monotonic = getattr(time, "monotonic", time.time)       # 2.7

# What the errno of a socket operation means, for every place that gets one: accept(2), with the
# errors of the network that it passes on, recv(2) and send(2). Any other is trouble of our own,
# such as EMFILE, out of descriptors: it is logged.
NOT_NOW = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR}
PEER_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN,
             errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH,
             errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP}

# Who may ask for the statistics. A proxy on this machine that connects from another address of the
# loopback network, say 127.0.0.2, is not among them, and nor are those who come through it.
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)      # 2.7 on Linux; tcp(7)


class Phase(Enum):
    """How far a connection has come; it only goes down this list."""
    OPEN = "its requests are served"
    FINISHING = "no more requests are served; the last replies are being written"
    LINGERING = "all is written; what still comes is thrown away until the peer closes"
    CLOSED = "it is closed, or will be at the end of this tick"


# Looking a member up by its name takes longer than all that is done with it.
OPEN, FINISHING, LINGERING, CLOSED = Phase.OPEN, Phase.FINISHING, Phase.LINGERING, Phase.CLOSED


class Connection(object):
    """One client: its socket, what it sent, and what is still to be sent to it."""
    __slots__ = ("sock", "address", "lines", "output", "account", "phase", "input_ended",
                 "interest", "close_by", "progress_by")

    def __init__(self, sock, address, close_by):
        self.sock = sock
        self.address = address          # of the peer: (host, port, ...)
        self.lines = protocol.LineReader()
        self.output = bytearray()       # replies that may leave, and the kernel has not yet taken
        self.account = None             # the db.OpenAccount of its login
        self.phase = OPEN
        self.input_ended = False        # the peer has closed its side
        self.interest = 0               # the events it is registered for
        self.close_by = close_by        # when it is closed for being nobody's
        self.progress_by = FOREVER      # when it is closed for not taking its replies

    def is_served(self):
        """Whether requests are applied: there is room for their replies."""
        return self.phase is OPEN and len(self.output) < constants.HIGH_WATER

    def wanted_events(self):
        """What to wait for. A client that asks faster than it reads the replies is not read."""
        reads = not self.input_ended
        if self.phase is OPEN:
            reads = reads and not self.lines.lines and self.is_served()
        return (READ if reads else 0) | (WRITE if self.output else 0)


class Floods(object):
    """Which events of the log are the first of their kind, and how many others came after it.

    A kind, the text that its lines begin with, is forgotten when it has not come for a while.
    As a filter of the shop's logger it takes the first word of each message for its kind; only of
    storage_failed and storage_works every line counts.
    """

    def __init__(self, clock):
        self.clock = clock
        self.others = {}                # (level, kind) -> how many came since the last line
        self.tell_at = FOREVER          # when to log these numbers

    def filter(self, record):
        kind = record.msg.split(None, 1)[0]
        return kind.startswith("storage") or self.is_first(record.levelno, kind)

    def is_first(self, level, kind):
        """Whether this one gets a line of its own; otherwise it is counted."""
        if not self.others:
            self.tell_at = self.clock() + constants.LOG_SUMMARY_SECONDS
        number = self.others.get((level, kind), -1) + 1
        self.others[level, kind] = number
        return number == 0

    def tell(self):
        """Log the numbers."""
        self.tell_at = self.clock() + constants.LOG_SUMMARY_SECONDS
        for (level, kind), number in list(self.others.items()):
            if number:
                log.log(level, "%s times=%d", kind, number)
                self.others[level, kind] = 0
            else:
                del self.others[level, kind]


class Server(object):
    """The event loop over an open `db.Shop` and a listening, non-blocking socket.

    At most `max_clients` connections are served at once. `clock` returns seconds and does not go
    back, except on 2.7, which has no better than the wall clock: then deadlines come later.
    """

    def __init__(self, shop, listener, max_clients=constants.MAX_CLIENTS, clock=monotonic):
        self.shop = shop
        self.listener = listener
        self.max_clients = max_clients
        self.clock = clock
        self.now = clock()              # of this tick
        self.connections = set()
        self.players = {}               # nickname -> the Connection that is logged in with it
        self.methods = {"login": self.login, "ping": self.ping, "buy": self.buy,
                        "sell": self.sell, "logout": self.logout, "stats": self.stats}
        self.backlog = OrderedDict()    # connections with a turn in the next tick; values are None
        self.waiting = []               # connections whose next request waits for the storage
        self.staged = []                # this tick's: (connection, reply, what ends it, its
                                        # request, the account that is still to be stored)
        self.unsure = set()             # connections whose login depends on this tick's commit
        self.closing = []               # connections to close at the end of this tick
        self.timed = set()              # connections that may have a deadline
        self.next_sweep = self.now      # when to look at the deadlines
        self.accept_from = -FOREVER     # later than now after running out of descriptors
        self.accepting = False          # whether the listener is registered
        self.storage_socket = None      # what is registered of the storage
        self.stop_requested = False     # set by a signal, at any moment
        self.stopping = False           # set between two ticks

        self.started = self.now
        self.requests = dict.fromkeys(METHODS, 0)       # by method, those refused included
        self.refusals = Counter()       # by reason
        self.slowest_commit = 0         # seconds
        self.slowest_tick = 0           # seconds, without the sleep
        self.events = []                # of this tick, for the log: (level, account, line)
        self.floods = Floods(clock)
        self.logs_trades = log.isEnabledFor(logging.DEBUG)

        self.selector = selectors.DefaultSelector()
        self.woken, self.waker = socket.socketpair()    # a byte here ends the sleep
        self.woken.setblocking(False)
        self.waker.setblocking(False)
        self.selector.register(self.woken, READ)
        self.watch_listener()
        self.watch_storage()

    # --- the loop ---------------------------------------------------------------------------

    def run(self):
        """Serve until a stop is requested; then answer what was read, and close everything."""
        while not self.stop_requested:
            self.tick()
        self.stopping = True
        log.info("stop clients=%d players=%d", len(self.connections), len(self.players))
        self.watch_listener()
        self.listener.close()
        deadline = self.clock() + constants.STOP_SECONDS
        for connection in list(self.connections):
            self.settle(connection)
        self.log_events()
        while self.connections and self.clock() < deadline:
            self.tick(deadline - self.clock())
        for connection in list(self.connections):
            self.drop(connection, "stop")
            self.close(connection)
        self.floods.tell()
        self.log_events()

    def tick(self, timeout=None):
        """One pass: read, apply, commit, write, tidy up. It sleeps `timeout` seconds at most."""
        touched = list(self.backlog) + self.take_in(self.patience(timeout))
        self.shop.fetch()
        turns, begin, clock = 0, self.now, self.clock
        deadline = clock() + constants.TICK_SECONDS
        for looks in range(1, constants.POLLS_PER_COMMIT + 1):
            while turns < len(touched) and clock() <= deadline:
                self.apply(touched[turns])
                turns += 1
            if looks == constants.POLLS_PER_COMMIT or turns < len(touched):
                break
            if self.waiting:
                self.shop.fetch()
                deadline = clock() + constants.TICK_SECONDS     # the storage may take long
                touched += self.waiting
                self.waiting = []
            elif self.shop.has_changes():
                touched += self.take_in(0)
            else:
                break
        failed = self.commit()
        self.release(failed)
        self.backlog.clear()
        # Next are those for whom the storage is asked, and then who had no turn.
        for connection in self.waiting + touched[turns:] + touched[:turns]:
            self.write(connection)
            self.settle(connection)
        self.waiting = []
        if self.now >= self.next_sweep:
            self.sweep()
        while self.closing:
            self.close(self.closing.pop())
        self.watch_listener()
        self.watch_storage()
        self.log_events()
        self.slowest_tick = max(self.slowest_tick, self.clock() - begin)

    def wait(self, timeout):
        """What is ready, after `timeout` seconds at most; None is for ever."""
        try:
            return self.selector.select(timeout)
        except EnvironmentError as error:               # 2.7: selectors2, when SIGCONT comes late
            if error.errno != errno.ETIMEDOUT:
                raise
            return []

    def patience(self, timeout):
        """How long this tick may sleep: until there is something to do without any event."""
        if self.backlog or self.shop.has_changes():
            return 0
        if self.timed or self.accept_from > self.now or self.floods.others \
                or self.shop.storage.needs_care():
            sweep = max(0, self.next_sweep - self.clock())
            return sweep if timeout is None else min(timeout, sweep)
        return timeout

    # --- read -------------------------------------------------------------------------------

    def take_in(self, timeout):
        """Read and accept all that is ready, after `timeout` seconds at most; returns the
        connections that may have something to do. Those who connect come last: one of them may
        be a player who has just closed another connection, and needs the nickname."""
        events = self.wait(timeout)
        self.now = self.clock()
        touched, accepted = [], []
        for key, mask in events:
            connection = key.data
            if connection is not None:
                if connection not in self.backlog:
                    touched.append(connection)
                if mask & READ:
                    self.read(connection)
            elif key.fileobj is self.listener:
                accepted = self.accept()
            elif key.fileobj is self.storage_socket:
                self.shop.storage.listen()
            else:
                self.woken.recv(constants.RECV_SIZE)
        return touched + accepted

    def accept(self):
        """Take new clients, a bounded number; returns their connections."""
        accepted = []
        while len(accepted) < constants.ACCEPT_BATCH and self.has_room():
            try:
                sock, address = self.listener.accept()
            except socket.error as error:
                if error.errno in NOT_NOW:
                    break
                if error.errno not in PEER_GONE:        # else it gave up before its turn came
                    self.pause_accepting(error)
                    break
            else:
                connection = self.connect(sock, address)
                self.read(connection)           # who connects has mostly sent something by now
                accepted.append(connection)
        return accepted

    def pause_accepting(self, error):
        """Let the listener rest: out of descriptors it stays readable, and the loop would spin."""
        if self.floods.is_first(logging.ERROR, "accept_failed"):
            log.error("accept_failed error=%s", errno.errorcode.get(error.errno, error.errno))
        self.accept_from = self.now + constants.ACCEPT_PAUSE_SECONDS

    def connect(self, sock, address):
        """Take over an accepted socket; returns its connection."""
        sock.setblocking(False)
        connection = Connection(sock, address, self.now + constants.LOGIN_SECONDS)
        self.connections.add(connection)
        self.timed.add(connection)
        if len(self.connections) > self.max_clients:
            self.turn_away(connection, SERVER_FULL)
        return connection

    def read(self, connection):
        """Take in what one recv brings."""
        try:
            data = connection.sock.recv(constants.RECV_SIZE)
        except socket.error as error:
            self.socket_failed(connection, error)
        else:
            if not data:
                connection.input_ended = True
            elif connection.phase is OPEN:
                connection.lines.feed(data)

    def notice_end(self, connection):
        """End a login whose peer has closed the connection after what was read last: it may be the
        same player who comes again, and the end is read in a later tick. Raises NotYet if there are
        requests before the end, and they will be served."""
        try:
            if not connection.sock.recv(1, socket.MSG_PEEK):
                if not connection.lines.lines:
                    self.finish(connection, "closed")
                elif connection.is_served():
                    raise db.NotYet()
        except socket.error as error:
            self.socket_failed(connection, error)

    # --- apply ------------------------------------------------------------------------------

    def apply(self, connection):
        """Apply the connection's share of requests, and stage the replies."""
        if not connection.is_served():
            return
        share = constants.REQUEST_QUANTUM
        while connection.lines.lines:
            if share <= 0:
                self.watch(connection)      # it is not read again when this tick looks for more
                break
            try:
                line = connection.lines.next_line()
            except RpcError as error:           # too long, and where the next one begins is unknown
                self.turn_away(connection, error)
                break
            if line is None:
                break
            try:
                share -= self.answer(connection, line, b"\n")
            except db.NotYet:
                connection.lines.put_back(line)
                self.waiting.append(connection)
                break
        if connection.input_ended and not connection.lines.lines:
            self.finish(connection, "closed")

    def answer(self, connection, message, end):
        """Apply a message, a line or one Request of a batch, and stage the reply to it, if it wants
        one, with the bytes after it. Here exceptions become replies. Returns how many requests
        there were."""
        request = None
        try:
            request = protocol.parse(message) if type(message) is bytes else message
            if type(request) is list:
                return self.answer_batch(connection, request)
            method = request.method
            if method is None:
                reply = self.refuse(connection, request, request.error)
            else:
                self.requests[method] += 1
                if connection.account is None and METHODS[method].needs_login:
                    raise ErrorCode.NOT_LOGGED_IN.error("Log in first.")
                result = self.methods[method](connection, request.argument)
                reply = protocol.encode_result(request.id, result)
        except db.NotYet:
            if type(request) is list:
                raise
            self.requests[request.method] -= 1
            if type(message) is bytes:
                raise
            reply = self.refuse(connection, request, in_use())  # a batch cannot stop in the middle
        except RpcError as error:
            reply = self.refuse(connection, request, error)
        except db.Refusal as refusal:
            code = ErrorCode[refusal.reason.upper()]
            reply = self.refuse(connection, request, code.error(refusal.message, **refusal.data))
        except Exception as defect:
            self.log_defect(defect)
            reply = self.refuse(connection, request, DEFECT)
        if request is None or request.wants_reply:
            account = connection.account
            self.staged.append((connection, reply, end, request,
                                account if account is not None and account.unsaved else None))
        return 1

    def answer_batch(self, connection, requests):
        """Apply the requests of a batch, and stage one array of their replies, if there are any."""
        self.shop.need(connection.account, [request.argument for request in requests
                                            if request.method == "login"])
        asked = [request for request in requests if request.wants_reply]
        if asked:
            self.staged.append((connection, b"", b"[", None, None))
        for request in requests:
            self.answer(connection, request, b"]\n" if asked and request is asked[-1] else b",")
        return len(requests)

    def refuse(self, connection, request, error):
        """The reply that tells an error; the request is None where a line has none."""
        self.refused(connection, error.reason, request)
        return protocol.encode_error(request and request.id, error)

    def turn_away(self, connection, error):
        """Say why a client is not served any more, and close its connection after that."""
        self.staged.append((connection, self.refuse(connection, None, error), b"\n", None, None))
        self.finish(connection, error.reason)

    # The methods get the value of their param, or None; they return their result as JSON, in bytes.

    def login(self, connection, nickname):
        if connection.account is not None:
            raise ErrorCode.ALREADY_LOGGED_IN.error("This connection is logged in; log out first.")
        if nickname in self.players:
            self.notice_end(self.players[nickname])
        if nickname in self.players:
            raise in_use()
        account, created = self.shop.login(nickname)
        self.players[nickname] = connection
        connection.account = account
        connection.close_by = FOREVER
        if account.unsaved:
            self.unsure.add(connection)
        self.event(logging.INFO, account if account.unsaved else None,
                   "login nickname=%s peer=%s created=%s", quoted(nickname), peer(connection),
                   "yes" if created else "no")
        return b'{"account":%s,"created":%s,"catalog":%s}' % (
            encode_account(account), b"true" if created else b"false", CATALOG)

    def ping(self, connection, _):
        return b'"pong"'

    def buy(self, connection, item):
        self.shop.buy(connection.account, item)
        if self.logs_trades:
            self.event_of_trade("buy", item, connection.account)
        return b'{"account":%s}' % encode_account(connection.account)

    def sell(self, connection, item):
        self.shop.sell(connection.account, item)
        if self.logs_trades:
            self.event_of_trade("sell", item, connection.account)
        return b'{"account":%s}' % encode_account(connection.account)

    def logout(self, connection, _):
        self.end_login(connection, "logout")
        return b"true"

    def stats(self, connection, _):
        """What an operator wants to know; for nobody else there is such a method."""
        if connection.address[0] not in LOOPBACK:
            raise protocol.method_not_found()
        return encode_json(OrderedDict([
            ("version", constants.VERSION),
            ("uptime_s", int(self.now - self.started)),
            ("clients", len(self.connections)),
            ("players", len(self.players)),
            ("requests", self.requests),
            ("trades", self.shop.trades),
            ("refusals", self.refusals),
            ("commits", self.shop.commits),
            ("largest_batch", self.shop.largest_batch),
            ("slowest_commit_ms", round(1000 * self.slowest_commit, 3)),
            ("slowest_tick_ms", round(1000 * self.slowest_tick, 3)),
            ("unsent_bytes", sum(len(connection.output) for connection in self.connections)),
        ])).encode("ascii")

    def end_login(self, connection, why):
        """Free the nickname of a connection that is logged in."""
        self.event(logging.INFO, connection.account if connection in self.unsure else None,
                   "logout nickname=%s peer=%s why=%s", quoted(connection.account.nickname),
                   peer(connection), why)
        del self.players[connection.account.nickname]
        self.shop.logout(connection.account)
        connection.account = None
        connection.close_by = self.now + constants.LOGIN_SECONDS
        self.timed.add(connection)
        self.unsure.discard(connection)

    # --- what is counted and logged ---------------------------------------------------------

    def refused(self, connection, reason, request=None):
        """Note that a request, or a line that is none, was refused."""
        self.refusals[reason] += 1
        if self.floods.is_first(logging.INFO, "refused reason=%s" % reason):
            self.event(logging.INFO, None,
                       "refused reason=%s method=%s param=%s nickname=%s peer=%s", reason,
                       request and request.method or "-",
                       "-" if request is None or request.argument is None
                       else quoted(request.argument),
                       quoted(connection.account.nickname) if connection.account else "-",
                       peer(connection))

    def event(self, level, account, text, *arguments):
        """Have a line logged at the end of this tick: with all others at once, since logging costs
        more than a login. With an account it is dropped if that cannot be stored."""
        if log.isEnabledFor(level):
            self.events.append((level, account, text % arguments))

    def event_of_trade(self, method, item, account):
        self.event(logging.DEBUG, account, "trade nickname=%s method=%s item=%s credits=%d",
                   quoted(account.nickname), method, quoted(item), account.credits)

    def log_defect(self, defect):
        path, number = traceback.extract_tb(sys.exc_info()[2])[-1][:2]
        kind = "defect error=%s at=%s:%d" % (type(defect).__name__, os.path.basename(path), number)
        if self.floods.is_first(logging.ERROR, kind):
            log.exception(kind)

    def log_events(self):
        for level, events in itertools.groupby(self.events, operator.itemgetter(0)):
            log.log(level, "\n".join(line for _, _, line in events))
        del self.events[:]

    # --- commit and write -------------------------------------------------------------------

    def commit(self):
        """Store what this tick has changed; returns the accounts that could not be stored."""
        begin = self.clock()
        try:
            failed = self.shop.commit()
        except db.ConnectionLost:
            self.lose_players()
            failed = frozenset()
        self.slowest_commit = max(self.slowest_commit, self.clock() - begin)
        return failed

    def lose_players(self):
        """Close the connections of all players, who may be logged in elsewhere by now. Those whose
        changes may have been stored, or not, are told neither."""
        lost = set(self.players.values()) | {entry[0] for entry in self.staged if entry[4]}
        self.staged = [entry for entry in self.staged if entry[0] not in lost]
        self.events = [event for event in self.events if event[1] is None]
        for connection in lost:
            if connection.phase is OPEN:
                self.finish(connection, "storage_lost")
                self.settle(connection)

    def release(self, failed):
        """Let this tick's replies go, now that it is committed but for the `failed` accounts."""
        for connection, reply, end, request, account in self.staged:
            if account in failed and request and request.method \
                    and METHODS[request.method].tells_account:
                reply = self.refuse(connection, request, STORAGE_FAILED)
            output = connection.output
            output += reply
            output += end
        for account in failed:
            connection = self.players.get(account.nickname)
            if connection and (account.stored is None or connection in self.unsure):
                # Of an account that is not there, or not as its player was told.
                self.end_login(connection, STORAGE_FAILED.reason)
        self.events = [event for event in self.events if event[1] not in failed]
        del self.staged[:]
        self.unsure.clear()

    def write(self, connection):
        """Send what the kernel takes."""
        if not connection.output or connection.phase is CLOSED:
            return
        try:
            sent = connection.sock.send(connection.output)
        except socket.error as error:
            self.socket_failed(connection, error)
            sent = 0
        del connection.output[:sent]
        if not connection.output:
            connection.progress_by = FOREVER
        elif sent or connection.progress_by == FOREVER:
            connection.progress_by = self.now + constants.WRITE_STALL_SECONDS
            self.timed.add(connection)

    # --- tidy up ----------------------------------------------------------------------------

    def settle(self, connection):
        """Decide what a connection does next, and wait for that."""
        if connection.phase is OPEN:
            if connection.interest == READ and not (connection.lines.lines or connection.output or
                                                    connection.input_ended or self.stopping):
                return                  # so it nearly always is; the rest takes time
            if connection.lines.lines:
                if connection.is_served():
                    self.backlog[connection] = None
            elif connection.input_ended or self.stopping:
                self.finish(connection, "closed" if connection.input_ended else "stop")
        if connection.phase is not OPEN:
            if connection.phase is FINISHING and not connection.output:
                self.linger(connection)
            if connection.phase is LINGERING and connection.input_ended:
                self.drop(connection, "closed")
        if connection.phase is not CLOSED:
            self.watch(connection)

    def leave(self, connection, phase, why):
        """Go on to a later phase; with OPEN ends the login, and the reason is logged."""
        if connection.phase is OPEN:
            if connection.account is not None:
                self.end_login(connection, why)
            elif self.floods.is_first(logging.INFO, "closed why=%s" % why):
                self.event(logging.INFO, None, "closed why=%s peer=%s", why, peer(connection))
        connection.phase = phase

    def finish(self, connection, why):
        """Serve no more requests; close the connection once its replies are written."""
        self.leave(connection, FINISHING, why)

    def linger(self, connection):
        """Say that all is written, and wait a moment for the peer to close: a socket that is closed
        with input unread resets the connection, and the peer may never see the last reply."""
        connection.phase = LINGERING
        connection.close_by = self.now + constants.LINGER_SECONDS
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except socket.error as error:
            self.socket_failed(connection, error)

    def socket_failed(self, connection, error):
        """Sort the error of a socket operation; all but "not now" end the connection."""
        if error.errno in NOT_NOW:
            return
        why = errno.errorcode.get(error.errno, "%s" % error.errno)
        if error.errno not in PEER_GONE \
                and self.floods.is_first(logging.ERROR, "socket_failed error=%s" % why):
            log.error("socket_failed error=%s peer=%s", why, peer(connection))
        self.drop(connection, why)

    def drop(self, connection, why):
        """Close the connection at the end of this tick, unsent replies or not."""
        if connection.phase is not CLOSED:
            self.leave(connection, CLOSED, why)
            self.closing.append(connection)

    def close(self, connection):
        """Free the descriptor of a connection that was dropped."""
        if connection.interest:             # before the close: its number is soon another's
            self.selector.unregister(connection.sock)
        connection.sock.close()
        self.connections.discard(connection)
        self.timed.discard(connection)
        self.backlog.pop(connection, None)

    def sweep(self):
        """Drop the connections whose time is up, and log the counts of floods."""
        self.next_sweep = self.now + constants.SWEEP_SECONDS
        if not self.stopping:
            self.shop.storage.reconnect(self.clock)
        if self.floods.others and self.now >= self.floods.tell_at:
            self.floods.tell()
        for connection in list(self.timed):
            deadline = min(connection.close_by, connection.progress_by)
            if deadline <= self.now:
                self.drop(connection, "no_login" if connection.close_by <= self.now
                          else "no_progress")
            elif deadline == FOREVER:
                self.timed.discard(connection)

    # --- what is waited for -----------------------------------------------------------------

    def watch(self, connection):
        """Register the connection for what it wants. Without any event it is unregistered: epoll
        reports a peer that hangs up even to those who asked for nothing, again and again."""
        events = connection.wanted_events()
        if events == connection.interest:
            return
        if not events:
            self.selector.unregister(connection.sock)
        elif not connection.interest:
            self.selector.register(connection.sock, events, connection)
        else:
            self.selector.modify(connection.sock, events, connection)
        connection.interest = events

    def has_room(self):
        """Whether to accept: there is a slot, if only one for saying server_full."""
        return len(self.connections) < self.max_clients + constants.SPARE_CLIENTS

    def watch_listener(self):
        """Register the listener, or not, by the same rule in every tick."""
        accepting = not self.stopping and self.now >= self.accept_from and self.has_room()
        if accepting != self.accepting:
            if accepting:
                self.selector.register(self.listener, READ)
            else:
                self.selector.unregister(self.listener)
            self.accepting = accepting

    def watch_storage(self):
        """Notice at once when the connection to the database ends."""
        if self.shop.storage.socket is self.storage_socket:
            return
        if self.storage_socket is not None:
            self.selector.unregister(self.storage_socket)
            self.storage_socket.close()
        self.storage_socket = self.shop.storage.socket
        if self.storage_socket is not None:
            self.selector.register(self.storage_socket, READ)
            try:
                if type(self.storage_socket.getpeername()) is tuple:    # not a Unix socket
                    set_options(self.storage_socket)
            except socket.error:
                pass                        # it has ended already, and is readable


CATALOG = encode_json([{"name": name, "price": price}
                       for name, price in constants.ITEMS.items()]).encode("ascii")
DEFECT = ErrorCode.INTERNAL_ERROR.error("The server has a defect; it was logged.")
SERVER_FULL = ErrorCode.SERVER_FULL.error("The server is full. Try again later.")
STORAGE_FAILED = ErrorCode.STORAGE_FAILED.error(
    "This could not be stored; nothing was changed. Try again later.")


def in_use():
    return ErrorCode.NICKNAME_IN_USE.error(db.NICKNAME_IN_USE)


def peer(connection):
    """The other end of a connection, for the log."""
    return protocol.address(*connection.address[:2])


def set_options(sock):
    """Send small replies at once, and notice a peer that vanished (tcp(7)). Connections inherit
    this from their listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, constants.KEEPALIVE_IDLE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL,
                        constants.KEEPALIVE_INTERVAL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, constants.KEEPALIVE_PROBES)
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, constants.USER_TIMEOUT_SECONDS * 1000)


# --- python server.py -------------------------------------------------------------------------

class CannotListen(Exception):
    """The address cannot be served; the text is one sentence for whoever started the program."""


def listen(host, port):
    """A listening socket, with a free port for port 0. Raises CannotListen."""
    sock = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_options(sock)
        sock.bind(address)
        sock.listen(constants.LISTEN_QUEUE)
        sock.setblocking(False)
        return sock
    except (socket.error, UnicodeError) as error:       # UnicodeError: a host name that is none
        if sock is not None:
            sock.close()
        raise CannotListen("cannot listen on %s: %s" % (protocol.address(host, port),
                                                        getattr(error, "strerror", "no such host")))


def client_limit():
    """How many clients the descriptors are enough for, after taking all that we may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return constants.MAX_CLIENTS
    spare = constants.SPARE_DESCRIPTORS + constants.SPARE_CLIENTS
    return max(1, min(constants.MAX_CLIENTS, hard - spare))


def stop_on_signals(server):
    """SIGINT and SIGTERM stop the server gracefully; a second one ends the process at once."""
    def stop(signum, frame):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        server.stop_requested = True

    # A handler alone does not end the sleep of select: Python calls it, and select goes on.
    signal.set_wakeup_fd(server.waker.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


class Lines(logging.Formatter):
    """Each line of a message is a line of the log, with time and level; a traceback's are indented.
    None is a command to the terminal that shows it."""

    def format(self, record):
        begin = "%s %s " % (self.formatTime(record), record.levelname)
        lines = [begin + line for line in record.getMessage().split("\n")]
        if record.exc_info:
            stack = self.formatException(record.exc_info)
            if isinstance(stack, bytes):                # 2.7
                stack = stack.decode("utf-8", "replace")
            lines += ["    " + line for line in stack.split("\n")]
        return "\n".join(printable(line) for line in lines)


def log_to_stderr(level):
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.getLogger().addHandler(handler)
    logging.getLogger("lavka").setLevel(level)          # peewee, too, has much to tell at DEBUG


def main(arguments=None):
    """Run the server; returns the exit status."""
    parser = db.Parser(description="Serve the shop until SIGINT or SIGTERM.")
    protocol.add_address_options(parser)
    db.add_database_option(parser)
    parser.add_argument("--log-level", type=lambda word: word.upper(), default="INFO",
                        metavar="LEVEL", choices=["DEBUG", "INFO", "WARNING", "ERROR"],
                        help="DEBUG (with every trade), INFO, WARNING or ERROR (default: INFO)")
    options = parser.parse_args(arguments)

    log_to_stderr(getattr(logging, options.log_level))
    try:
        shop = db.Shop(options.database)
        listener = listen(options.host, options.port)
    except (db.CannotOpen, CannotListen) as error:
        log.error("%s", error)
        return 1
    server = Server(shop, listener, client_limit())
    logging.getLogger("lavka.db").addFilter(server.floods)
    stop_on_signals(server)
    log.info("start version=%s python=%s engine=%s database=%s max_clients=%d", constants.VERSION,
             sys.version.split()[0], quoted(shop.storage.engine), quoted(shop.storage.name),
             server.max_clients)
    address, port = listener.getsockname()[:2]
    if not address.startswith("127.") and address != "::1":
        log.warning("not_loopback address=%s: nicknames are not passwords, whoever reaches the "
                    "port can play as anybody", quoted(address))
    log.info("listening on %s:%d", options.host, port)
    server.run()
    shop.close()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
