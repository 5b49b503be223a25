# -*- coding: utf-8 -*-
"""The event loop: every client's connection, in one thread.

    python server.py [--host HOST] [--port PORT] [--database DATABASE] [--admin-socket PATH]
                     [--log-level LEVEL]

One pass of the loop, `Server.tick`, reads, has the service apply what was read and commit once, and
only then sends the replies; docs/architecture.md follows a request through it.
"""
from __future__ import unicode_literals

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))     # PYTHONSAFEPATH omits it
    import cli
    cli.prepare_process()

import errno
import logging
import re
import resource
import signal
import socket
from collections import OrderedDict

try:
    import selectors
except ImportError:                                     # 2.7
    import selectors2 as selectors

import cli
import constants
from admin_socket import AdminListener, chosen_path
from connection import (CLOSED, FLUSHING, LINGERING, NOT_NOW, OPEN, PEER_GONE, READ, Connection,
                        select)
from db import Shop
from listener import AddressCounts, CannotListen, Listener, listen
from log import LogRateLimiter, log_to_stderr, monotonic
from notify import READY, STOPPING, Notifier
from service import Service
from session import FOREVER, peer
from storage import CannotOpen
from text import excerpt

log = logging.getLogger("lavka.server")


class Server(object):
    """The event loop over a service, a `Listener` for clients and one for operators.

    At most `max_clients` connections are served at once, `max_clients_per_address` of one address.
    `sources` are further sources of events: each has `socket`, None or what to watch, with
    `on_readable()` to call when it is readable, and `has_pending_work()` and
    `do_pending_work(clock)` for periodic work. `clock` returns seconds.
    """

    def __init__(self, service, listener, admin_listener, limiter, sources=(),
                 max_clients=constants.MAX_CLIENTS,
                 max_clients_per_address=constants.MAX_CLIENTS_PER_ADDRESS, clock=monotonic):
        self.service = service
        self.listener, self.admin_listener = self.listeners = listener, admin_listener
        self.limiter = limiter              # of log lines
        self.sources = sources
        self.max_clients = max_clients
        self.clock = clock
        self.now = clock()                  # time of the last poll
        self.connections = set()            # of clients
        self.operators = set()              # connections to the admin socket
        self.addresses = AddressCounts(max_clients_per_address, limiter)    # of these clients
        self.events = []                    # events of the selector that the next poll sees to
        self.runnable = OrderedDict()       # connections with a turn in the next tick; values None
        self.timed = set()                  # connections that may have a deadline
        self.closing = []                   # connections to close at the end of this tick
        self.next_sweep = self.now          # time to check the deadlines
        self.source_sockets = {}            # source -> its socket that is registered
        self.stop_requested = False         # set by a signal, at any moment
        self.is_stopping = False            # set between two ticks
        self.selector = selectors.DefaultSelector()
        self.update_listeners()
        self.update_sources()

    # --- the loop -----------------------------------------------------------------------------

    def run(self):
        """Serve until a stop is requested; then answer what was read, and close everything."""
        while not self.stop_requested:
            self.tick()
        self.is_stopping = True
        log.info("stop clients=%d players=%d", len(self.connections), len(self.service.players))
        self.listener.is_open = False
        self.events = []                    # the selector tells those of connections again
        self.update_listeners()
        self.listener.close()
        deadline = self.clock() + constants.STOP_SECONDS
        for connection in list(self.connections):
            self.update_interest(connection)
        self.service.end_tick(0)
        while self.connections and self.clock() < deadline:
            self.tick(deadline - self.clock())
        for connection in self.connections | self.operators:
            self.abort(connection, "stop")
            self.close(connection)
        self.admin_listener.close()
        self.service.end_tick(0)

    def tick(self, timeout=None):
        """One pass: poll, serve, commit, flush, close. It sleeps `timeout` seconds at most."""
        ready = list(self.runnable) + self.poll(self.poll_timeout(timeout))
        begin, served = self.now, 0
        deadline = self.clock() + constants.TICK_SECONDS
        for polls in range(1, constants.POLLS_PER_COMMIT + 1):
            first = served
            while served < len(ready) and self.clock() <= deadline:
                served += self.service.serve(ready[served:], deadline)
            if served < len(ready) or polls == constants.POLLS_PER_COMMIT \
                    or not self.service.has_changes():
                break
            self.pause_unfinished(ready[first:])
            ready += self.poll(0)           # more requests for the same commit
        self.service.commit()
        self.runnable.clear()
        for connection in ready[served:] + ready[:served]:      # those not served come first
            self.flush(connection)
            self.update_interest(connection)
        if self.now >= self.next_sweep:
            self.sweep()
        self.update_changed()
        while self.closing:
            self.close(self.closing.pop())
        self.update_listeners()
        self.update_sources()
        self.service.end_tick(self.clock() - begin)

    def poll_timeout(self, timeout):
        """Return how long this tick may sleep: until something is to be done without any event."""
        if self.runnable or self.events or self.service.has_changes():
            return 0
        if self.timed or any(listener.resume_at > self.now for listener in self.listeners) \
                or any(source.has_pending_work() for source in self.sources):
            until_sweep = max(0, self.next_sweep - self.clock())
            return until_sweep if timeout is None else min(timeout, until_sweep)
        return timeout

    # --- poll ---------------------------------------------------------------------------------

    def poll(self, timeout):
        """Read and accept what is ready; returns the connections that may have something to do.

        Connections accepted now come last: one may be a player who has just closed another
        connection, and needs the nickname.
        """
        begin = self.clock()
        events = self.events or select(self.selector, timeout)
        self.events = events[constants.READ_BATCH:]
        self.now = self.clock()
        if timeout is not None and self.now - begin > timeout + constants.SWEEP_SECONDS:
            # The process was suspended: serve what has arrived before deadlines are checked.
            self.next_sweep = self.now + constants.SWEEP_SECONDS
        ready, accepted = [], []
        for key, mask in events[:constants.READ_BATCH]:
            target = key.data
            if type(target) is Connection:
                mask &= target.interest         # none, if it was closed since an earlier poll
                if mask and target not in self.runnable:
                    ready.append(target)
                if mask & READ:
                    self.read(target)
            elif isinstance(target, Listener):
                accepted += [self.add_connection(sock, address, target.methods) for sock, address
                             in target.accept(key.fileobj, self.now)]
            else:
                target()
        return ready + accepted

    def pause_unfinished(self, connections):
        """Do not read connections that have used up their quantum of this tick."""
        for connection in connections:
            if connection.reader.lines:
                self.runnable[connection] = None        # `poll` gives these no second turn
                connection.register(self.selector)

    def add_connection(self, sock, address, methods):
        """Begin a connection on an accepted socket; returns it."""
        sock.setblocking(False)
        connection = Connection(sock, address, methods)
        if connection.is_operator():
            self.operators.add(connection)
            excess, is_crowded = 0, len(self.operators) > constants.MAX_OPERATORS
        else:
            self.connections.add(connection)
            self.timed.add(connection)
            excess = len(self.connections) - self.max_clients
            is_crowded = self.addresses.add(address[0])
        self.service.open(connection, is_full=is_crowded or excess > 0)
        self.read(connection)               # its first request has mostly arrived by now
        if is_crowded or excess > constants.SPARE_CLIENTS:
            # Without lingering close, or these connections would take the others' places.
            self.flush(connection)
            self.abort(connection, "server_full")
            self.close(self.closing.pop())
        return connection

    def read(self, connection):
        """Read what one recv brings."""
        try:
            data = connection.sock.recv(constants.RECV_SIZE)
        except socket.error as error:
            self.socket_failed(connection, error)
        else:
            if not data:
                connection.input_ended = True
            elif connection.close_reason is None:
                connection.reader.feed(data)

    # --- flush --------------------------------------------------------------------------------

    def flush(self, connection):
        """Send what the kernel takes."""
        output = connection.output
        if not output or connection.phase is CLOSED:
            return
        try:
            sent = connection.sock.send(output)
        except socket.error as error:
            self.socket_failed(connection, error)
            sent = 0
        del output[:sent]
        if not output:
            connection.write_deadline = FOREVER
        elif sent or connection.write_deadline == FOREVER:
            connection.write_deadline = self.now + constants.WRITE_STALL_SECONDS
            self.timed.add(connection)

    def socket_failed(self, connection, error):
        """Sort the error of a socket operation; all but "not now" abort the connection."""
        if error.errno in NOT_NOW:
            return
        reason = errno.errorcode.get(error.errno, "%s" % error.errno)
        if error.errno not in PEER_GONE \
                and self.limiter.is_first(logging.ERROR, "socket_failed error=%s" % reason):
            log.error("socket_failed error=%s peer=%s", reason, peer(connection))
        self.abort(connection, reason)

    # --- what a connection waits for, and how it ends -----------------------------------------

    def update_interest(self, connection):
        """Decide what a connection does next, and register it for that."""
        if connection.close_reason is None:
            has_requests = connection.requests or connection.reader.lines
            if connection.interest == READ and not (has_requests or connection.output or
                                                    connection.input_ended or self.is_stopping):
                return                      # the usual case, kept short
            if has_requests:
                if connection.is_served():
                    self.runnable[connection] = None
            elif connection.input_ended or self.is_stopping and not connection.is_operator():
                self.service.close(connection, "closed" if connection.input_ended else "stop")
        if connection.close_reason is not None:
            self.close_after_flush(connection)
        if connection.phase is not CLOSED:
            connection.register(self.selector)

    def update_changed(self):
        """See to connections that the service has ended, or given a new deadline."""
        for connection in self.service.take_changed_sessions():
            if connection.phase is not CLOSED:
                self.timed.add(connection)
                self.flush(connection)
                self.update_interest(connection)

    def close_after_flush(self, connection):
        """Go on with the end of a connection whose session has ended."""
        if connection.phase is OPEN:
            connection.phase = FLUSHING
        if not connection.output:
            if connection.input_ended:
                self.abort(connection, "closed")
            elif connection.phase is FLUSHING:
                self.linger(connection)

    def linger(self, connection):
        """Lingering close: half-close, and give the peer a moment to close. Closing a socket with
        unread input resets the connection, and the last reply may be lost."""
        connection.phase = LINGERING
        connection.deadline = self.now + constants.LINGER_SECONDS
        self.timed.add(connection)
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except socket.error as error:
            self.socket_failed(connection, error)

    def abort(self, connection, reason):
        """End the session; close the connection at the end of this tick, with replies unsent."""
        self.service.close(connection, reason)
        if connection.phase is not CLOSED:
            connection.phase = CLOSED
            self.closing.append(connection)

    def close(self, connection):
        """Free the descriptor of a connection that was aborted."""
        if connection.interest:             # first: its number is soon another connection's
            self.selector.unregister(connection.sock)
            connection.interest = 0
        connection.sock.close()
        self.service.forget(connection)
        if connection.is_operator():
            self.operators.discard(connection)
        else:
            self.connections.discard(connection)
            self.addresses.discard(connection.address[0])
        self.admin_listener.keep_spare()    # the descriptor that is free now, if it has none
        self.timed.discard(connection)
        self.runnable.pop(connection, None)

    def sweep(self):
        """Do periodic work, and abort the connections whose deadline has passed."""
        self.next_sweep = self.now + constants.SWEEP_SECONDS
        if not self.is_stopping:
            for source in self.sources:
                source.do_pending_work(self.clock)
        for connection in list(self.timed):
            deadline = min(connection.deadline, connection.write_deadline)
            if deadline <= self.now:        # a lingering connection has its reason already
                self.abort(connection, "login_timeout" if connection.deadline <= self.now
                           else "write_stall")
            elif deadline == FOREVER:
                self.timed.discard(connection)

    # --- the other sources of events ----------------------------------------------------------

    def update_listeners(self):
        """Register each listener, or not, by the same rule in every tick."""
        for listener in self.listeners:
            listener.register(self.selector, self.now)

    def update_sources(self):
        """Register the sockets that the sources have now; one that was replaced is closed."""
        for source in self.sources:
            registered = self.source_sockets.get(source)
            if source.socket is registered:
                continue
            if registered is not None:
                self.selector.unregister(registered)
                registered.close()
            self.source_sockets[source] = source.socket
            if source.socket is not None:
                self.selector.register(source.socket, READ, source.on_readable)


# --- python server.py -------------------------------------------------------------------------

def client_limit():
    """Raise the limit of descriptors to the hard one; returns how many clients it is enough for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return constants.MAX_CLIENTS
    spare = constants.SPARE_DESCRIPTORS + constants.SPARE_CLIENTS
    return max(1, min(constants.MAX_CLIENTS, hard - spare))


def client_limit_per_address(parser, max_clients):
    """Return how many of these clients one address may have; ends the program for a wrong number.

    It is LAVKA_MAX_CLIENTS_PER_ADDRESS, else the same share as in constants.py.
    """
    word = os.environ.get("LAVKA_MAX_CLIENTS_PER_ADDRESS")
    if not word:
        return max(1, max_clients * constants.MAX_CLIENTS_PER_ADDRESS // constants.MAX_CLIENTS)
    if not re.match("0*[1-9][0-9]{0,8}$", word):
        parser.error("LAVKA_MAX_CLIENTS_PER_ADDRESS is not a number of clients")
    return int(word)


class SelfPipe(object):
    """A source of events that a signal makes readable, which ends the sleep of the loop.

    A handler alone does not end the sleep of select (PEP 475).
    """

    def __init__(self):
        self.socket, self.sender = socket.socketpair()
        self.socket.setblocking(False)
        self.sender.setblocking(False)
        signal.set_wakeup_fd(self.sender.fileno())

    def close(self):
        signal.set_wakeup_fd(-1)
        self.socket.close()
        self.sender.close()

    def on_readable(self):
        self.socket.recv(constants.RECV_SIZE)

    def has_pending_work(self):
        return False

    def do_pending_work(self, clock):
        pass


def stop_on_signals(server, notifier):
    """Let a signal stop the server gracefully, and a second one end it at once."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:       # nohup(1)
        numbers.append(signal.SIGHUP)

    def stop(signum, frame):
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        server.stop_requested = True
        notifier.send(STOPPING)

    for number in numbers:
        signal.signal(number, stop)


def main(arguments=None):
    """Run the server; returns the exit status."""
    parser = cli.Parser(description="Serve the shop until SIGINT, SIGTERM or SIGHUP.")
    cli.add_address_options(parser)
    cli.add_database_option(parser)
    cli.add_admin_socket_option(parser)
    parser.add_argument("--log-level", type=lambda word: word.upper(), default="INFO",
                        metavar="LEVEL", choices=["DEBUG", "INFO", "WARNING", "ERROR"],
                        help="DEBUG (with every trade), INFO, WARNING or ERROR (default: INFO)")
    options = parser.parse_args(arguments)
    max_clients = client_limit()
    max_clients_per_address = client_limit_per_address(parser, max_clients)

    writer = log_to_stderr(getattr(logging, options.log_level))
    limiter = LogRateLimiter()
    for name in ("lavka.db", "lavka.checkpoint", "lavka.postgresql"):
        logging.getLogger(name).addFilter(limiter)
    try:
        shop = Shop(options.database)
        listener = Listener(listen(options.host, options.port), limiter)
        options.port = listener.sockets[0].getsockname()[1]     # the real one, if it was 0
        admin_listener = AdminListener(chosen_path(options), limiter)
    except (CannotOpen, CannotListen) as error:
        log.error("%s", error)
        return 1
    self_pipe, notifier = SelfPipe(), Notifier()
    sources = [shop.storage, limiter, writer, self_pipe, notifier]
    service = Service(shop, limiter, max_clients=max_clients)
    server = Server(service, listener, admin_listener, limiter, sources, max_clients,
                    max_clients_per_address)
    stop_on_signals(server, notifier)
    log_start(server)
    notifier.send(READY)
    server.run()
    limiter.log_counts()
    shop.close()
    self_pipe.close()
    notifier.close()
    log.info("stopped")
    return 0


def log_start(server):
    """Log what was started, and where it listens."""
    storage = server.service.shop.storage
    log.info("start version=%s python=%s engine=%s database=%s admin_socket=%s max_clients=%d "
             "max_clients_per_address=%d", constants.VERSION, sys.version.split()[0],
             excerpt(storage.engine), excerpt(storage.name), excerpt(server.admin_listener.path),
             server.max_clients, server.addresses.limit)
    server.listener.log_addresses()


if __name__ == "__main__":
    sys.exit(main())
