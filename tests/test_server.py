# -*- coding: utf-8 -*-
"""The event loop, tick by tick, over a service that echoes lines: real sockets, scripted errors and
a scripted clock. The last part is about what the loop and the real service do together."""
from __future__ import unicode_literals

import errno
import logging
import os
import select
import signal
import socket

import pytest
from conftest import (
    PATIENCE, Clock, Loop, Peer, account_of, both_storages, reason, request, wait_for)

import constants
import notify
import server
import session
from connection import NOT_NOW, PEER_GONE, READ, WRITE, Phase
from constants import TCP_USER_TIMEOUT
from log import LogRateLimiter
from session import FOREVER

LINE = b"forty bytes, as many as a request has.\n"


class Echo(object):
    """A service that answers each line with itself.

    "hello" is a login, "wait" begins its deadline again, "store" is answered after the commit,
    "bye" ends the session. `before` is called before each line is answered.
    """
    players = ()

    def __init__(self, clock):
        self.clock = clock
        self.before = lambda session, line: None
        self.changed = []           # sessions that the loop has to see to
        self.stored = []            # sessions with a "store" to commit
        self.commits = []           # number of "store" in each commit that had any
        self.ended = []             # reasons
        self.forgotten = []         # sessions whose connection is closed
        self.ticks = []             # seconds of each tick

    def open(self, session, is_full=False):
        session.deadline = self.clock() + constants.LOGIN_SECONDS
        if is_full:
            session.output += b"full\n"
            self.close(session, "server_full")

    def serve(self, sessions, deadline):
        for number, each in enumerate(sessions):
            if self.clock() > deadline:
                return number
            for _ in range(constants.REQUEST_QUANTUM if each.is_served() else 0):
                if each.reader.lines and each.close_reason is None:
                    self.answer(each, bytes(each.reader.lines.pop()))
            if each.input_ended and not each.reader.lines:
                self.close(each, "closed")
        return len(sessions)

    def answer(self, session, line):
        self.before(session, line)
        if line == b"store":
            self.stored.append(session)
            return
        session.output += line + b"\n"
        if line == b"hello":
            session.deadline = FOREVER
        elif line == b"wait":
            session.deadline = self.clock() + constants.LOGIN_SECONDS
            self.changed.append(session)
        elif line == b"bye":
            self.close(session, "bye")

    def has_changes(self):
        return bool(self.stored)

    def commit(self):
        if self.stored:
            self.commits.append(len(self.stored))
        for each in self.stored:
            each.output += b"stored\n"
        self.stored = []

    def close(self, session, reason):
        if session.close_reason is None:
            session.close_reason = reason
            self.ended.append(reason)
            self.changed.append(session)

    def forget(self, session):
        self.forgotten.append(session)

    def take_changed_sessions(self):
        changed, self.changed = self.changed, []
        return changed

    def end_tick(self, seconds):
        self.ticks.append(seconds)


@pytest.fixture
def make_loop():
    made = []

    def make(sources=(), **options):
        limiter = LogRateLimiter(Clock())
        made.append(Loop(Echo(limiter.clock), limiter, [limiter] + list(sources), **options))
        return made[-1]

    yield make
    for loop in made:
        loop.close()


@pytest.fixture
def loop(make_loop):
    return make_loop()


def exchange(loop, peer, line):
    """Send a line; the line that comes back."""
    peer.send(line)
    reply, = loop.lines(peer, 1)
    return reply


def logged_in(loop):
    """(Peer, its Connection, which has no deadline)"""
    peer, connection = loop.client()
    assert exchange(loop, peer, b"hello\n") == b"hello\n"
    return peer, connection


class Most(int):
    """The most bytes that one send takes."""


class FaultySocket(object):
    """A connection's socket whose next calls do what a test says: raise an errno, or send less."""

    def __init__(self, sock, recv=(), send=()):
        self.sock = sock
        self.recv_faults = list(recv)
        self.send_faults = list(send)
        self.sent = []              # bytes of each send

    def recv(self, size, *flags):
        if self.recv_faults:
            raise socket.error(self.recv_faults.pop(0), "scripted")
        return self.sock.recv(size, *flags)

    def send(self, data):
        fault = self.send_faults.pop(0) if self.send_faults else Most(len(data))
        if not isinstance(fault, Most):
            raise socket.error(fault, "scripted")
        self.sent.append(self.sock.send(data[:fault]))
        return self.sent[-1]

    def __getattr__(self, name):
        return getattr(self.sock, name)


def faulty(connection, **faults):
    connection.sock = FaultySocket(connection.sock, **faults)
    return connection.sock


def arrived(connection):
    """Return what has come and is not yet read."""
    try:
        return connection.sock.recv(1 << 20, socket.MSG_PEEK)
    except socket.error as error:
        if error.errno not in NOT_NOW:
            raise
        return b""


def send_and_wait(peer, connection, data):
    """Send bytes; return when the server could read them all."""
    peer.send(data)
    wait_for(lambda: len(arrived(connection)) >= len(data), "all to arrive")


def is_open(sock):
    try:
        return sock.fileno() >= 0                       # -1 on 3
    except socket.error:                                # 2.7
        return False


# --- reading and writing --------------------------------------------------------------------------

def test_a_line_may_arrive_byte_by_byte(loop):
    peer, connection = loop.client()
    for byte in [LINE[i:i + 1] for i in range(len(LINE))]:
        assert not connection.output
        send_and_wait(peer, connection, byte)
        loop.tick()
    assert loop.lines(peer, 1) == [LINE]


def test_replies_may_leave_in_portions(loop):
    peer, connection = loop.client()
    sock = faulty(connection, send=[Most(1), errno.EAGAIN, Most(3), errno.EINTR, Most(1)])
    peer.send(LINE)
    loop.until(lambda: connection.output)
    assert connection.interest & WRITE
    assert loop.lines(peer, 1) == [LINE]
    assert sock.sent[:3] == [1, 3, 1]
    assert not connection.output and connection.interest == READ
    assert connection.write_deadline == FOREVER


def test_a_poll_reads_one_portion_of_each_connection(loop):
    peer, connection = loop.client()
    send_and_wait(peer, connection, b"x" * (2 * constants.RECV_SIZE))
    loop.tick()
    assert len(arrived(connection)) == constants.RECV_SIZE


def test_new_connections_are_read_at_once(loop):
    peer = loop.peer()
    peer.send(LINE)
    loop.tick()
    assert peer.reader.readline() == LINE


def test_the_socket_options(loop):
    _, connection = loop.client()
    option = connection.sock.getsockopt
    assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert 5 <= option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert option(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 20000


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the kernel has no such option")
def test_keepalive_of_a_login_storm_is_spread(loop):
    """10,000 probes at the same instant would be too many for loopback."""
    connections = [loop.client()[1] for _ in range(30)]
    assert len({connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                for connection in connections}) > 2


# --- a crowd --------------------------------------------------------------------------------------

def test_a_crowd_is_read_in_batches_and_whoever_asks_again_is_behind_it(loop, monkeypatch):
    monkeypatch.setattr(constants, "READ_BATCH", 2)
    clients = [logged_in(loop) for _ in range(5)]
    for peer, connection in clients:
        send_and_wait(peer, connection, LINE)
    loop.tick()
    waiting = [each for each in clients if arrived(each[1])]
    assert len(waiting) == 3
    for peer, connection in clients:
        if not arrived(connection):
            send_and_wait(peer, connection, LINE)
    loop.tick()
    assert len([peer for peer, connection in waiting if arrived(connection)]) == 1
    loop.tick()
    assert not any(arrived(connection) for _, connection in waiting)
    loop.until(lambda: not any(arrived(connection) for _, connection in clients))


def test_a_connection_that_was_closed_before_its_turn_is_not_read(loop, monkeypatch, caplog):
    monkeypatch.setattr(constants, "READ_BATCH", 1)
    first, second = logged_in(loop), loop.client()
    for peer, connection in (first, second):
        send_and_wait(peer, connection, LINE)
    loop.clock.now += constants.LOGIN_SECONDS
    loop.tick()
    assert loop.service.ended == ["login_timeout"] and loop.server.events
    loop.tick()
    assert not caplog.records and not loop.server.events


def test_a_connection_that_was_closed_before_its_turn_is_not_served(loop, monkeypatch):
    """Some of its lines are left; to wait for more of its socket would end the loop."""
    monkeypatch.setattr(constants, "READ_BATCH", 2)
    clients = [logged_in(loop) for _ in range(4)]
    (ending, ended), (storing, _) = clients[2:]
    ending.send(b"bye\n" + LINE)
    loop.until(lambda: ended.phase is Phase.LINGERING)
    loop.tick()                     # or its next event comes before those of the others
    for (peer, connection), line in zip(clients, [LINE, LINE, LINE, b"store\n"]):
        send_and_wait(peer, connection, line)
    loop.pass_time(constants.LINGER_SECONDS)
    assert ended.phase is Phase.CLOSED and ended in [key.data for key, _ in loop.server.events]
    loop.tick()
    assert storing.reader.readline() == b"stored\n"


def test_a_stop_forgets_a_newcomer_whose_turn_has_not_come(loop, monkeypatch, caplog):
    monkeypatch.setattr(constants, "READ_BATCH", 1)
    peer, connection = logged_in(loop)
    send_and_wait(peer, connection, LINE)
    loop.peer()
    loop.tick()
    assert loop.server.events
    peer.close()
    loop.server.stop_requested = True
    loop.server.run()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- fairness -------------------------------------------------------------------------------------

def test_pipelining_delays_nobody_else(loop):
    """A connection with lines beyond its quantum has a turn in each tick, without any event."""
    pipeliner, connection = loop.client()
    other, others = loop.client()
    number = constants.REQUEST_QUANTUM * 3 + 1
    lines = [b"%d\n" % id for id in range(number)]
    send_and_wait(pipeliner, connection, b"".join(lines))
    loop.tick()
    assert connection in loop.server.runnable
    send_and_wait(other, others, LINE)
    loop.tick()
    assert loop.lines(other, 1) == [LINE]               # long before the pipeliner's last
    assert connection in loop.server.runnable
    assert loop.lines(pipeliner, number) == lines
    assert not loop.server.runnable


def test_a_quantum_is_one_however_often_a_tick_polls(loop):
    """There is more than one recv takes, so that the next poll would find the rest."""
    peer, connection = loop.client()
    answered = []
    loop.service.before = lambda connection, line: answered.append(line)
    number = 3 * constants.RECV_SIZE // len(b"store\n")
    send_and_wait(peer, connection, b"store\n" * number)
    loop.tick()
    assert len(answered) == constants.REQUEST_QUANTUM and loop.service.commits == [64]
    assert loop.lines(peer, number) == [b"stored\n"] * number


def test_a_connection_that_is_also_writable_has_one_quantum_in_a_tick(loop):
    peer, connection = loop.client()
    faulty(connection, send=[Most(1)] * 3)
    answered = []
    loop.service.before = lambda connection, line: answered.append(line)
    send_and_wait(peer, connection, LINE * constants.REQUEST_QUANTUM * 3)
    for ticks in (1, 2, 3):
        loop.tick()
        assert len(answered) == ticks * constants.REQUEST_QUANTUM
        assert connection.interest & WRITE


def test_new_connections_are_served_last(loop):
    """One may be a player who has just closed another connection, and needs the nickname."""
    peer, connection = loop.client()
    served = []
    loop.service.before = lambda connection, line: served.append(line)
    for _ in range(3):                                  # whatever the order of events
        new = loop.peer()
        new.send(b"new\n")
        send_and_wait(peer, connection, b"old\n")
        loop.tick()
        assert served == [b"old", b"new"]
        del served[:]


def test_a_tick_ends_in_time_and_connections_not_served_come_first_in_the_next(loop):
    """Applying takes longer than a tick may: each of three clients has its turn all the same."""
    clients = [loop.client() for _ in range(3)]
    for peer, connection in clients:
        send_and_wait(peer, connection, LINE * constants.REQUEST_QUANTUM * 2)
    turns = []

    def serve_slowly(connection, line):
        if connection not in turns[-1:]:
            turns.append(connection)
            loop.clock.now += constants.TICK_SECONDS * 1.1

    loop.service.before = serve_slowly
    for number in range(1, 7):
        loop.tick()
        assert len(turns) == number
    assert set(turns[:3]) == set(turns[3:]) == {connection for _, connection in clients}
    for peer, _ in clients:
        assert len(loop.lines(peer, constants.REQUEST_QUANTUM * 2)) == constants.REQUEST_QUANTUM * 2


def test_the_time_for_reading_is_not_in_the_time_budget(loop):
    """Clients that send lines without end, slowly: there is a turn in each tick all the same."""
    player, connection = loop.client()
    dribblers = [loop.client() for _ in range(5)]
    read = loop.server.read

    def slow_read(connection):
        loop.clock.now += constants.TICK_SECONDS
        read(connection)

    loop.server.read = slow_read
    for peer, dribbler in dribblers:
        send_and_wait(peer, dribbler, b"x")
    send_and_wait(player, connection, LINE)
    loop.tick()
    assert player.reader.readline() == LINE


def test_the_service_is_told_how_long_a_tick_took(loop):
    """Without the sleep."""
    peer, connection = loop.client()
    send_and_wait(peer, connection, LINE)

    def serve_slowly(connection, line):
        loop.clock.now += 3

    loop.service.before = serve_slowly
    real_select = loop.server.selector.select

    def sleep(timeout):
        loop.clock.now += 100
        return real_select(timeout)

    loop.server.selector.select = sleep
    loop.tick()
    loop.tick()
    assert loop.service.ticks[-2:] == [3, 0]


# --- back-pressure --------------------------------------------------------------------------------

def test_back_pressure_stops_reading_a_client_that_takes_no_replies(loop, monkeypatch):
    monkeypatch.setattr(session, "HIGH_WATER", 15000)
    peer, connection = loop.client()
    sock = faulty(connection, send=[errno.EAGAIN] * 1000)
    number = 3000
    peer.send(LINE * number)
    loop.until(lambda: len(connection.output) >= session.HIGH_WATER)
    for _ in range(10):
        loop.tick()
    assert len(connection.output) < session.HIGH_WATER + constants.REQUEST_QUANTUM * len(LINE)
    assert connection.interest == WRITE and arrived(connection)
    assert connection not in loop.server.runnable
    del sock.send_faults[:]
    assert loop.lines(peer, number) == [LINE] * number
    assert connection.interest == READ


def test_back_pressure_holds_while_no_line_is_left_either(loop, monkeypatch):
    monkeypatch.setattr(session, "HIGH_WATER", 1000)
    peer, connection = loop.client()
    sock = faulty(connection, send=[errno.EAGAIN] * 1000)
    send_and_wait(peer, connection, LINE * constants.REQUEST_QUANTUM)
    loop.tick()
    assert len(connection.output) > session.HIGH_WATER and not connection.reader.lines
    send_and_wait(peer, connection, LINE)
    loop.tick()
    assert connection.interest == WRITE and arrived(connection) == LINE
    del sock.send_faults[:]
    assert len(loop.lines(peer, constants.REQUEST_QUANTUM + 1)) == constants.REQUEST_QUANTUM + 1


def test_a_client_that_sends_faster_than_it_is_served_is_not_read(loop):
    peer, connection = loop.client()
    send_and_wait(peer, connection, LINE * constants.REQUEST_QUANTUM * 2)
    loop.tick()
    assert connection.interest == 0 and connection in loop.server.runnable
    send_and_wait(peer, connection, LINE)
    loop.tick()
    assert arrived(connection) == LINE and connection.interest == READ
    number = constants.REQUEST_QUANTUM * 2 + 1
    assert len(loop.lines(peer, number)) == number


# --- every end of a connection --------------------------------------------------------------------

@pytest.mark.parametrize("leave, why", [(Peer.close, "closed"), (Peer.reset, "ECONNRESET")])
def test_the_end_of_a_connection_is_seen_in_the_next_tick(loop, caplog, leave, why):
    peer, connection = loop.client()
    leave(peer)
    loop.tick()
    assert connection.phase is not Phase.OPEN and loop.service.ended == [why]
    loop.until(lambda: connection not in loop.server.connections)
    assert not caplog.records


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset], ids=["close", "reset"])
def test_a_connection_knows_that_its_peer_has_closed_before_it_is_read(loop, leave):
    peer, connection = loop.client()
    assert not connection.peer_has_closed()
    send_and_wait(peer, connection, LINE)
    assert not connection.peer_has_closed()             # there is something to read first
    loop.tick()
    assert loop.lines(peer, 1) == [LINE] and not connection.peer_has_closed()
    leave(peer)
    assert select.select([connection.sock], [], [], PATIENCE)[0]
    assert connection.peer_has_closed()                 # at the first look: the error comes once
    assert not connection.input_ended and connection.close_reason is None


def test_a_half_closed_connection_gets_its_replies(loop):
    """What it asked is more than a quantum; half a line at the end is of no use."""
    peer, connection = loop.client()
    send_and_wait(peer, connection, LINE * 100 + b"half a line")
    peer.sock.shutdown(socket.SHUT_WR)
    assert loop.lines(peer, 100) == [LINE] * 100
    loop.until(lambda: connection.phase is Phase.CLOSED)
    assert loop.service.ended == ["closed"] and peer.line() is None


def test_a_half_closed_connection_waits_for_room_to_send_alone(loop):
    """The end of its input stays readable, and would wake the loop up again and again."""
    peer, connection = loop.client()
    faulty(connection, send=[errno.EAGAIN] * 1000)
    send_and_wait(peer, connection, LINE)
    peer.sock.shutdown(socket.SHUT_WR)
    loop.until(lambda: connection.input_ended)
    assert connection.output and connection.interest == WRITE


def test_a_session_that_ended_is_closed_after_its_replies_are_flushed(loop):
    peer, connection = loop.client()
    sock = faulty(connection, send=[errno.EAGAIN] * 3)
    send_and_wait(peer, connection, LINE + b"bye\n" + LINE)
    loop.tick()
    assert connection.phase is Phase.FLUSHING and connection.interest == READ | WRITE
    del sock.send_faults[:]
    loop.tick()
    assert connection.phase is Phase.LINGERING
    assert peer.reader.read() == LINE + b"bye\n"        # and the end of the stream
    peer.close()
    loop.until(lambda: connection.phase is Phase.CLOSED)
    assert connection not in loop.server.connections and loop.service.ended == ["bye"]


def test_a_connection_whose_peer_has_closed_does_not_linger(loop):
    peer, connection = loop.client()
    sock = faulty(connection)
    sock.shutdown = None            # not called
    send_and_wait(peer, connection, LINE)
    peer.sock.shutdown(socket.SHUT_WR)
    loop.until(lambda: connection not in loop.server.connections)
    assert peer.reader.read() == LINE


def test_a_session_that_ends_on_behalf_of_another_is_closed_in_the_same_tick(loop):
    """Without an event of its own; what is in its output is sent."""
    idle, idles = logged_in(loop)
    peer, connection = loop.client()

    def end_other(session, line):
        idles.output += b"last words\n"
        loop.service.close(idles, "kicked")

    loop.service.before = end_other
    send_and_wait(peer, connection, LINE)
    loop.tick()
    assert idles.phase is Phase.LINGERING
    assert idle.reader.read() == b"last words\n"
    loop.pass_time(constants.LINGER_SECONDS)
    assert idles not in loop.server.connections and connection in loop.server.connections


def test_lingering_close_lets_a_client_that_goes_on_sending_read_its_last_reply(loop):
    """No reset by input that nobody reads; and the linger has an end."""
    peer, connection = loop.client()
    peer.send(b"bye\n")
    for _ in range(40):
        peer.send(b"x" * constants.MAX_LINE)
        loop.tick()
    assert loop.lines(peer, 1) == [b"bye\n"]
    assert connection.phase is Phase.LINGERING and not connection.reader.lines
    loop.pass_time(constants.LINGER_SECONDS - constants.SWEEP_SECONDS)
    assert connection.phase is Phase.LINGERING
    loop.pass_time(constants.SWEEP_SECONDS)
    assert connection.phase is Phase.CLOSED and connection not in loop.server.connections


@pytest.mark.parametrize("number", sorted(PEER_GONE))
@pytest.mark.parametrize("operation", ["recv", "send"])
def test_errors_of_a_peer_that_is_gone_end_the_connection_quietly(loop, caplog, number, operation):
    peer, connection = loop.client()
    peer.send(LINE)
    faulty(connection, **{str(operation): [number]})
    loop.until(lambda: connection.phase is Phase.CLOSED)
    assert connection not in loop.server.connections and not is_open(connection.sock)
    assert loop.service.ended == [errno.errorcode[number]]
    assert not caplog.records


@pytest.mark.parametrize("number", sorted(NOT_NOW))
def test_errors_that_mean_not_now_change_nothing(loop, number):
    peer, connection = loop.client()
    sock = faulty(connection, recv=[number], send=[number])
    assert exchange(loop, peer, LINE) == LINE
    assert not sock.recv_faults and not sock.send_faults and not loop.service.ended


@pytest.mark.parametrize("operation", ["recv", "send"])
def test_an_unexpected_error_ends_the_connection_and_is_logged_once(loop, caplog, operation):
    for _ in range(2):
        peer, connection = loop.client()
        faulty(connection, **{str(operation): [errno.EIO]})
        peer.send(LINE)
        loop.until(lambda: connection.phase is Phase.CLOSED)
    assert loop.service.ended == ["EIO", "EIO"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "socket_failed error=EIO peer=127.0.0.1:" in caplog.text


def test_a_descriptor_that_is_used_again_in_the_same_tick(loop):
    """The number of a closed socket is the next one's; a stale event must not reach it."""
    old, _ = loop.client()
    for number in range(20):
        old.reset()
        new = loop.peer()
        assert exchange(loop, new, b"%d\n" % number) == b"%d\n" % number
        old = new
    assert len(loop.server.connections) == 1


# --- deadlines ------------------------------------------------------------------------------------

def test_login_deadline_closes_a_connection_without_a_login(loop):
    peer, connection = loop.client()
    _, player = logged_in(loop)
    loop.pass_time(constants.LOGIN_SECONDS - 1)
    send_and_wait(peer, connection, b"x")               # a byte now and then buys no time
    loop.tick()
    assert connection in loop.server.connections
    loop.pass_time(1)
    assert connection not in loop.server.connections and loop.service.ended == ["login_timeout"]
    loop.pass_time(3600)
    assert player in loop.server.connections            # a player may take all the time


def test_after_a_suspension_arrived_input_is_served_before_deadlines_are_checked(loop):
    """Suspended in its sleep, select(2) returns without events when it goes on."""
    peer, connection = loop.client()
    real_select = loop.server.selector.select

    def suspended_select(timeout):
        loop.clock.now += 3600
        peer.send(LINE)
        wait_for(lambda: arrived(connection), "the line")
        loop.server.selector.select = real_select
        return []

    loop.server.selector.select = suspended_select
    loop.tick()
    assert connection in loop.server.connections
    loop.tick()
    assert peer.reader.readline() and connection in loop.server.connections
    loop.pass_time(constants.SWEEP_SECONDS)             # and then they are
    assert connection not in loop.server.connections


def test_a_deadline_that_the_service_sets_later_counts(loop):
    peer, connection = logged_in(loop)
    loop.pass_time(3600)
    assert not loop.server.timed
    assert exchange(loop, peer, b"wait\n") == b"wait\n"
    loop.pass_time(constants.LOGIN_SECONDS - 1)
    assert connection in loop.server.connections
    loop.pass_time(1)
    assert connection not in loop.server.connections


def test_write_stall_timeout_closes_the_connection(loop):
    peer, connection = logged_in(loop)
    loop.pass_time(3600)
    assert not loop.server.timed                        # it had no deadline before
    sock = faulty(connection, send=[errno.EAGAIN] * 1000)
    send_and_wait(peer, connection, LINE)
    loop.until(lambda: connection.output)
    loop.pass_time(constants.WRITE_STALL_SECONDS - 1)
    sock.send_faults.insert(0, Most(1))                 # one byte is progress
    loop.tick()
    loop.pass_time(constants.WRITE_STALL_SECONDS - 1)
    assert connection in loop.server.connections
    loop.pass_time(1)
    assert connection not in loop.server.connections and loop.service.ended == ["write_stall"]


def test_a_reply_that_was_taken_ends_the_write_stall(loop):
    peer, connection = logged_in(loop)
    sock = faulty(connection, send=[errno.EAGAIN] * 1000)
    send_and_wait(peer, connection, LINE)
    loop.until(lambda: connection.output)
    del sock.send_faults[:]
    loop.until(lambda: not connection.output)
    loop.pass_time(3600)
    assert connection in loop.server.connections


def test_a_write_stall_ends_a_session_that_has_ended_too(loop):
    peer, connection = logged_in(loop)
    faulty(connection, send=[errno.EAGAIN] * 1000)
    send_and_wait(peer, connection, b"bye\n")
    loop.until(lambda: connection.phase is Phase.FLUSHING)
    loop.pass_time(constants.WRITE_STALL_SECONDS - 1)
    assert connection in loop.server.connections
    loop.pass_time(1)
    assert connection not in loop.server.connections and loop.service.ended == ["bye"]


# --- accepting ------------------------------------------------------------------------------------

def test_a_full_server_says_so_and_closes(make_loop):
    loop = make_loop(max_clients=2)
    players = [loop.client() for _ in range(2)]
    peer, connection = loop.client()
    assert loop.lines(peer, 1) == [b"full\n"]
    assert peer.line() is None
    peer.close()
    loop.until(lambda: connection.phase is Phase.CLOSED)
    for player, _ in players:
        assert exchange(loop, player, LINE) == LINE
    players[0][0].close()
    loop.until(lambda: len(loop.server.connections) == 1)
    newcomer, _ = loop.client()
    assert exchange(loop, newcomer, LINE) == LINE
    assert loop.service.ended == ["server_full", "closed"]


def test_beyond_the_spare_clients_the_next_are_closed_without_lingering(make_loop, monkeypatch):
    monkeypatch.setattr(constants, "SPARE_CLIENTS", 1)
    loop = make_loop(max_clients=1)
    loop.client()
    refused = [loop.peer() for _ in range(3)]                           # all at once
    for _ in range(5):
        loop.tick()
        assert len(loop.server.connections) == 2
    assert loop.listener.is_registered
    for peer in refused:
        assert loop.lines(peer, 1) == [b"full\n"]
        assert peer.reader.read() == b""
    assert loop.service.ended == ["server_full"] * 3


def test_a_poll_accepts_a_bounded_number(loop, monkeypatch):
    monkeypatch.setattr(loop.listener, "batch", 3)
    for _ in range(7):
        loop.peer()
    sizes = []
    for _ in range(4):
        loop.tick()
        sizes.append(len(loop.server.connections))
    assert sizes == [3, 6, 7, 7]


class FaultyListener(object):
    """A listening socket with scripted errors of accept."""

    def __init__(self, sock, faults):
        self.sock = sock
        self.faults = faults
        self.accepts = 0

    def accept(self):
        self.accepts += 1
        if self.faults:
            raise socket.error(self.faults.pop(0), "scripted")
        return self.sock.accept()

    def __getattr__(self, name):
        return getattr(self.sock, name)


def fail_accept(loop, *faults):
    sock, = loop.listener.sockets
    loop.server.selector.unregister(sock)
    loop.listener.sockets = [FaultyListener(sock, list(faults))]
    loop.server.selector.register(loop.listener.sockets[0], READ, loop.listener)
    return loop.listener.sockets[0]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
                                    errno.EPERM])
def test_out_of_descriptors_the_listener_pauses(loop, caplog, number):
    player, _ = logged_in(loop)
    listener = fail_accept(loop, number, number)
    loop.peer()
    for attempt in (1, 2):
        loop.until(lambda: listener.accepts)
        for _ in range(10):
            loop.tick()
        assert listener.accepts == attempt              # no spinning
        assert loop.server.poll_timeout(None) > 0
        assert exchange(loop, player, LINE) == LINE
        loop.pass_time(constants.ACCEPT_PAUSE_SECONDS - 0.01)
        assert listener.accepts == attempt
        loop.pass_time(0.01)
        loop.tick()
    loop.until(lambda: len(loop.server.connections) == 2)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "accept_failed error=%s" % errno.errorcode[number] in caplog.text


def test_a_listener_that_pauses_is_not_tried_again_by_further_polls_of_the_tick(loop):
    player, connection = logged_in(loop)
    listener = fail_accept(loop, errno.EMFILE)
    loop.peer()
    send_and_wait(player, connection, b"store\n")       # so that the tick polls again
    loop.tick()
    assert listener.accepts == 1 and loop.service.commits == [1]


@pytest.mark.parametrize("number", sorted(NOT_NOW | PEER_GONE))
def test_other_errors_of_accept_cost_nobody_else(loop, caplog, number):
    listener = fail_accept(loop, number)
    loop.peer()
    loop.until(lambda: len(loop.server.connections) == 1)
    assert not listener.faults and not caplog.records
    assert loop.listener.resume_at < loop.clock.now


# --- how long a tick sleeps -----------------------------------------------------------------------

def test_with_work_left_the_loop_does_not_sleep(loop):
    _, connection = loop.client()
    assert loop.server.poll_timeout(None) > 0
    loop.server.runnable[connection] = None
    assert loop.server.poll_timeout(None) == loop.server.poll_timeout(5) == 0
    loop.server.runnable.clear()
    loop.service.stored.append(connection)
    assert loop.server.poll_timeout(None) == loop.server.poll_timeout(5) == 0


def test_a_loop_with_only_idle_players_sleeps_until_an_event(loop):
    logged_in(loop)
    loop.pass_time(constants.SWEEP_SECONDS)
    assert loop.server.poll_timeout(None) is None
    assert loop.server.poll_timeout(0.1) == 0.1


def test_with_a_deadline_the_loop_sleeps_until_the_next_sweep(loop):
    loop.client()
    loop.pass_time(constants.SWEEP_SECONDS)
    assert loop.server.poll_timeout(None) == constants.SWEEP_SECONDS
    assert loop.server.poll_timeout(0.1) == 0.1
    loop.clock.now += constants.SWEEP_SECONDS + 1
    assert loop.server.poll_timeout(None) == 0


def test_while_the_listener_pauses_the_loop_wakes_up_to_end_the_pause(loop):
    assert loop.server.poll_timeout(None) is None
    loop.listener.resume_at = loop.clock.now + constants.ACCEPT_PAUSE_SECONDS
    loop.tick()
    assert not loop.listener.is_registered
    assert loop.server.poll_timeout(None) <= constants.SWEEP_SECONDS
    loop.pass_time(constants.ACCEPT_PAUSE_SECONDS)
    assert loop.listener.is_registered and loop.server.poll_timeout(None) is None


def test_with_lines_left_out_of_the_log_the_loop_wakes_up_to_count_them(loop, log_lines):
    assert loop.server.poll_timeout(None) is None
    for _ in range(3):
        loop.server.limiter.is_first(logging.INFO, "kind")
    assert loop.server.poll_timeout(None) <= constants.SWEEP_SECONDS
    loop.pass_time(constants.LOG_SUMMARY_SECONDS)
    assert log_lines() == ["kind times=2"]


def test_a_select_that_timed_out_has_no_events(loop):
    """selectors2 on 2.7 passes the error on when SIGCONT comes late."""
    def fail(timeout):
        raise EnvironmentError(number, "scripted")

    loop.server.selector.select = fail
    number = errno.ETIMEDOUT
    loop.tick()
    number = errno.EBADF
    with pytest.raises(EnvironmentError):
        loop.tick()


# --- one commit for several polls -----------------------------------------------------------------

def test_lines_that_arrive_while_others_are_served_are_in_the_same_commit(loop):
    (first, firsts), (second, seconds) = loop.client(), loop.client()

    def send_once(connection, line):
        loop.service.before = lambda connection, line: None
        send_and_wait(second, seconds, b"store\n")

    loop.service.before = send_once
    send_and_wait(first, firsts, b"store\n")
    loop.tick()
    assert loop.service.commits == [2]
    assert loop.lines(first, 1) == loop.lines(second, 1) == [b"stored\n"]


@pytest.mark.parametrize("line, polls", [(b"store\n", constants.POLLS_PER_COMMIT), (LINE, 1)])
def test_a_tick_polls_a_few_times_and_only_while_there_are_changes(loop, line, polls):
    """Each line has the next one sent before it is answered."""
    peer, connection = loop.client()
    answered = []

    def send_next(connection, _):
        answered.append(line)
        send_and_wait(peer, connection, line)

    loop.service.before = send_next
    send_and_wait(peer, connection, line)
    loop.tick()
    assert len(answered) == polls and not loop.server.runnable
    loop.tick()
    assert len(answered) == 2 * polls                   # the others came in the next tick
    assert loop.service.commits == ([polls] * 2 if line == b"store\n" else [])


# --- other sources of events ----------------------------------------------------------------------

class Source(object):
    """A source of events, with a socket that has a peer."""

    def __init__(self):
        self.socket, self.sender = socket.socketpair()
        self.received = []
        self.is_pending = False
        self.work = []              # times at which the work was done

    def on_readable(self):
        self.received.append(self.socket.recv(100))

    def has_pending_work(self):
        return self.is_pending

    def do_pending_work(self, clock):
        self.work.append(clock())


@pytest.fixture
def source():
    source = Source()
    yield source
    for sock in (source.socket, source.sender):
        if sock is not None:
            sock.close()


def test_a_source_is_called_when_its_socket_is_readable(make_loop, source):
    loop = make_loop([source])
    loop.tick()
    assert source.received == []
    source.sender.send(b"one")
    loop.tick()
    loop.tick()
    assert source.received == [b"one"]


def test_a_socket_that_its_source_has_replaced_is_unregistered_and_closed(make_loop, source):
    loop = make_loop([source])
    old, old_sender = source.socket, source.sender
    source.socket, source.sender = socket.socketpair()
    loop.tick()
    assert not is_open(old)
    source.sender.send(b"two")
    loop.tick()
    assert source.received == [b"two"] and is_open(source.socket)
    last, source.socket = source.socket, None
    loop.tick()
    assert not is_open(last)
    source.sender.close()
    loop.tick()
    source.socket, source.sender = socket.socketpair()
    loop.tick()
    source.sender.send(b"three")
    loop.tick()
    assert source.received == [b"two", b"three"]
    old_sender.close()


def test_pending_work_is_done_at_each_sweep(make_loop, source):
    loop = make_loop([source])
    assert loop.server.poll_timeout(None) is None
    source.is_pending = True
    assert loop.server.poll_timeout(None) <= constants.SWEEP_SECONDS
    begin = loop.clock.now
    loop.tick()
    for _ in range(8):
        loop.pass_time(constants.SWEEP_SECONDS / 2.0)
    assert source.work == [begin + n * constants.SWEEP_SECONDS for n in range(5)]


def test_a_signal_ends_the_sleep_by_the_self_pipe(make_loop):
    previous = signal.signal(signal.SIGUSR1, lambda signum, frame: None)
    descriptor = signal.set_wakeup_fd(-1)
    pipe = server.SelfPipe()
    try:
        loop = make_loop([pipe])
        loop.tick()
        os.kill(os.getpid(), signal.SIGUSR1)
        events = []
        real_select = loop.server.selector.select

        def select_and_tell(timeout):
            events.append(real_select(20))
            return events[-1]

        loop.server.selector.select = select_and_tell
        loop.server.tick()
        assert [key.fileobj for key, _ in events[0]] == [pipe.socket]
        loop.server.selector.select = real_select
        with pytest.raises(socket.error) as caught:     # it was emptied
            pipe.socket.recv(1)
        assert caught.value.errno in NOT_NOW
        assert not pipe.has_pending_work()
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGUSR1, previous)
        pipe.socket.close()
        pipe.sender.close()


# --- the stop -------------------------------------------------------------------------------------

def stop(loop, on_sleep=lambda: None):
    """Run the loop to its end, asleep in the scripted clock alone; return the seconds it took."""
    real_select = loop.server.selector.select

    def sleep(timeout):
        events = real_select(0)
        if events:
            loop.clock.now += 0.001                     # each tick takes a moment
        else:
            on_sleep()
            assert timeout is not None, "the loop would sleep for ever"
            loop.clock.now += timeout
        return events

    loop.server.selector.select = sleep
    loop.server.stop_requested = True
    begin = loop.clock.now
    loop.server.run()
    return loop.clock.now - begin


def test_a_stop_answers_what_was_read_and_closes(loop):
    """Lines beyond a quantum, and beyond one recv: those read are answered."""
    peer, connection = loop.client()
    idle, _ = loop.client()
    send_and_wait(peer, connection, LINE * 1000)
    loop.tick()
    assert arrived(connection)
    stop(loop)
    assert peer.reader.read() == LINE * (constants.RECV_SIZE // len(LINE))
    assert idle.line() is None
    assert loop.service.ended == ["stop", "stop"] and not loop.server.connections


def test_a_stop_takes_a_bounded_time_whatever_clients_do(loop):
    """One takes no replies, one does not close, and one sends lines without end."""
    silent, stalled = loop.client()
    sock = faulty(stalled, send=[errno.EAGAIN] * 100000)
    send_and_wait(silent, stalled, LINE)
    loop.until(lambda: stalled.output)
    loop.client()
    sender, _ = loop.client()
    seconds = stop(loop, lambda: sender.send(LINE))
    assert sock.send_faults and constants.STOP_SECONDS <= seconds < constants.STOP_SECONDS + 0.01
    assert not loop.server.connections and len(loop.service.ended) == 3


def test_a_stop_ends_when_all_clients_have_closed(loop):
    peers = [loop.client()[0] for _ in range(3)]
    assert stop(loop, lambda: [peer.close() for peer in peers]) < constants.STOP_SECONDS
    assert not loop.server.connections


def test_a_stop_accepts_nobody_and_does_no_pending_work(make_loop, source):
    loop = make_loop([source])
    loop.client()
    waiting = loop.peer()
    loop.tick()
    del source.work[:]
    refused = []

    def connect():
        with pytest.raises(socket.error):
            Peer(loop.port)
        refused.append(True)

    stop(loop, connect)
    assert refused and source.work == [] and waiting.line() is None


def test_the_first_signal_requests_the_stop_and_the_second_ends_at_once(loop):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [signal.getsignal(number) for number in numbers]
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)    # whatever started the tests
        server.stop_on_signals(loop.server, notify.Notifier({}))
        assert not loop.server.stop_requested
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
        assert loop.server.stop_requested
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_DFL] * 3
    finally:
        for number, handler in zip(numbers, previous):
            signal.signal(number, handler)


# --- the loop and the real service ----------------------------------------------------------------

CHEAP = "potion"
PING = request("ping")
BUY = request("buy", item=CHEAP)


@both_storages
def test_replies_leave_after_the_commit(ticker, database):
    """While the commit is made, the player's socket has nothing to read."""
    bob, _ = ticker.client("bob")
    seen = []
    commit = ticker.shop.commit

    def watch_commit():
        bob.sock.setblocking(False)
        with pytest.raises(socket.error):
            bob.sock.recv(1, socket.MSG_PEEK)
        before, has_changes = account_of(database, "bob")[1], bool(ticker.shop._dirty)
        failed = commit()
        seen.append((has_changes, before, account_of(database, "bob")[1]))
        return failed

    ticker.shop.commit = watch_commit
    assert ticker.call(bob, "buy", item=CHEAP)["result"]["account"]["items"] == [CHEAP]
    assert [commit for commit in seen if commit[0]] == [(True, "", CHEAP)]


def test_requests_that_arrive_while_others_are_applied_are_in_the_same_commit(ticker):
    first, firsts = ticker.client("ann")
    second, seconds = ticker.client("bob")
    buy = ticker.service.methods["buy"]

    def send_and_buy(connection, item):
        ticker.service.methods["buy"] = buy
        send_and_wait(second, seconds, BUY)
        return buy(connection, item)

    ticker.service.methods["buy"] = send_and_buy
    commits = ticker.shop.commits
    send_and_wait(first, firsts, BUY)
    ticker.tick()
    replies = ticker.replies(first, 1) + ticker.replies(second, 1)
    assert all("result" in reply for reply in replies)
    assert ticker.shop.commits == commits + 1


def test_a_quantum_of_trades_is_one_however_often_a_tick_polls(ticker):
    peer, connection = ticker.client("bob")
    trades = BUY + request("sell", item=CHEAP)
    number = 2 * constants.RECV_SIZE // len(trades)
    send_and_wait(peer, connection, trades * number)
    ticker.tick()
    requests = ticker.service.requests
    assert requests["buy"] + requests["sell"] == constants.REQUEST_QUANTUM
    assert len(ticker.replies(peer, 2 * number)) == 2 * number


@both_storages
@pytest.mark.parametrize("unread", [b"", PING, BUY, b'{"half'], ids=["none", "ping", "buy", "half"])
def test_a_player_who_closes_and_connects_again_gets_the_nickname_in_the_same_tick(ticker, unread):
    for _ in range(2):
        peer, connection = ticker.client("bob")
        peer.send(unread)
        peer.close()
        again = ticker.peer()
        again.send(request("login", nickname="bob"))
        ticker.tick()
        assert "result" in again.line()
        assert ticker.service.players["bob"] is not connection
        again.close()
        ticker.until(lambda: not ticker.service.players)


def test_a_nickname_whose_player_leaves_replies_unread_is_in_use(ticker, monkeypatch):
    """To say so takes one tick, while that player's last requests wait."""
    monkeypatch.setattr(session, "HIGH_WATER", 1000)
    peer, connection = ticker.client("bob")
    faulty(connection, send=[errno.EAGAIN] * 50)
    peer.send(PING * 200)
    ticker.until(lambda: not connection.is_served() and connection.reader.lines)
    peer.sock.shutdown(socket.SHUT_WR)
    other = ticker.peer()
    other.send(request("login", nickname="bob"))
    ticker.tick()
    assert reason(other.line()) == "nickname_in_use"


def test_players_of_a_crowd_who_close_and_connect_again_get_the_nickname(ticker, monkeypatch):
    """The listener had its event before them, for the first newcomer."""
    monkeypatch.setattr(constants, "READ_BATCH", 1)
    peer, connection = ticker.client("bob")
    ticker.tick()                   # or its next event comes before that of the listener
    ticker.peer()
    send_and_wait(peer, connection, PING)
    peer.close()
    other = ticker.peer()
    other.send(request("login", nickname="bob"))
    assert "result" in ticker.replies(other, 1)[0]


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset], ids=["close", "reset"])
def test_closing_frees_the_nickname_in_the_same_tick(ticker, caplog, leave):
    peer, connection = ticker.client("bob")
    leave(peer)
    ticker.tick()
    assert ticker.service.players == {}
    ticker.until(lambda: connection not in ticker.server.connections)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset], ids=["close", "reset"])
def test_closing_during_the_login_frees_the_nickname(ticker, leave):
    peer, connection = ticker.client()
    peer.send(request("login", nickname="bob"))
    leave(peer)
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert ticker.service.players == {} and not ticker.service.sessions


@both_storages
def test_closing_between_request_and_reply(ticker, database):
    peer, connection = ticker.client("bob")
    peer.send(BUY)
    peer.close()
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert account_of(database, "bob")[1] == CHEAP      # it was asked for, and it happened once
    assert ticker.service.players == {}


def test_a_half_closed_player_gets_all_replies_and_frees_the_nickname(ticker):
    peer, connection = ticker.client("bob")
    peer.send(PING * 100 + b'{"half a line')
    peer.sock.shutdown(socket.SHUT_WR)
    assert len(ticker.replies(peer, 100)) == 100
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert ticker.service.players == {}


@pytest.mark.parametrize("operation", ["recv", "send"])
@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EPIPE, errno.EIO])
def test_errors_of_a_socket_free_the_nickname(ticker, operation, number):
    peer, connection = ticker.client("bob")
    faulty(connection, **{str(operation): [number]})
    peer.send(PING)
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert ticker.service.players == {}


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n" + PING], ids=["no end", "end", "more"])
def test_line_too_long_closes_the_connection_after_its_reply(ticker, tail):
    peer, connection = ticker.client("bob")
    peer.send(PING + b"x" * constants.MAX_LINE + b"x" + tail)
    replies = ticker.replies(peer, 2)
    assert replies[0]["result"] == "pong" and reason(replies[1]) == "line_too_long"
    assert ticker.service.players == {}
    assert peer.line() is None                          # the end comes after the reply
    peer.close()
    ticker.until(lambda: connection.phase is Phase.CLOSED)


def test_a_client_that_goes_on_with_its_long_line_gets_the_reply(ticker):
    peer, connection = ticker.client()
    for _ in range(40):
        peer.send(b"x" * constants.MAX_LINE)
        ticker.tick()
    assert reason(ticker.replies(peer, 1)[0]) == "line_too_long"
    assert connection.phase is Phase.LINGERING


def test_a_full_server_refuses_with_server_full(make_ticker):
    ticker = make_ticker(max_clients=1)
    player, _ = ticker.client("bob")
    peer, _ = ticker.client()
    reply, = ticker.replies(peer, 1)
    assert (reply["error"]["code"], reason(reply)) == (-32001, "server_full")
    assert peer.line() is None
    assert ticker.call(player, "ping")["result"] == "pong"


def test_a_logout_begins_the_login_deadline(ticker):
    peer, connection = ticker.client("bob")
    ticker.pass_time(3600)
    assert ticker.call(peer, "logout")["result"] is True
    ticker.pass_time(constants.LOGIN_SECONDS - 1)
    assert connection in ticker.server.connections
    ticker.pass_time(1)
    assert connection not in ticker.server.connections


def test_a_login_that_was_undone_has_a_deadline_again(ticker, outside):
    ticker.shop.storage.query("PRAGMA busy_timeout = 0")
    peer, connection = ticker.client()
    ticker.pass_time(1)
    outside.execute("BEGIN IMMEDIATE")
    assert reason(ticker.call(peer, "login", nickname="bob")) == "storage_failed"
    outside.execute("ROLLBACK")
    ticker.pass_time(constants.LOGIN_SECONDS - 1)
    assert connection in ticker.server.connections
    ticker.pass_time(1)
    assert connection not in ticker.server.connections


def test_the_statistics_have_the_time_of_a_tick(ticker):
    commit = ticker.shop.commit

    def slow_commit():
        ticker.clock.now += 0.25
        return commit()

    peer, _ = ticker.client()
    ticker.shop.commit = slow_commit
    ticker.call(peer, "ping")
    stats = ticker.ask("stats")
    slow = stats["tick_seconds"]["counts"][constants.HISTOGRAM_BOUNDS.index(0.25)]
    assert slow > 0 and stats["tick_seconds"]["sum"] == 0.25 * slow
    assert stats["commit_seconds"]["sum"] == 0          # there was nothing to store


def close(ticker, peer, connection):
    peer.close()


def reset(ticker, peer, connection):
    peer.reset()


def send_too_much(ticker, peer, connection):
    peer.send(b"x" * constants.MAX_LINE + b"\n")


def take_nothing(ticker, peer, connection):
    faulty(connection, send=[errno.EAGAIN] * 50)
    peer.send(PING)
    ticker.until(lambda: connection.output)
    ticker.pass_time(constants.WRITE_STALL_SECONDS)


@pytest.mark.parametrize("end, why", [
    (close, "closed"), (reset, "ECONNRESET"), (send_too_much, "line_too_long"),
    (take_nothing, "write_stall")])
def test_the_log_tells_why_a_connection_ended(ticker, log_lines, end, why):
    """Of a player, and of a guest."""
    for nickname in ("bob", None):
        peer, connection = ticker.client(nickname)
        end(ticker, peer, connection)
        ticker.until(lambda: connection.phase is not Phase.OPEN)
    lines = [line for line in log_lines() if line.startswith(("logout", "closed"))]
    assert lines == ['logout nickname="bob" peer=127.0.0.1:N reason=%s' % why,
                     "closed reason=%s peer=127.0.0.1:N" % why]


def test_the_log_tells_why_a_guest_was_closed(make_ticker, log_lines):
    ticker = make_ticker(max_clients=1)
    ticker.client()
    ticker.client()
    assert log_lines()[-1] == "closed reason=server_full peer=127.0.0.1:N"
    ticker.pass_time(constants.LOGIN_SECONDS)
    assert log_lines() == ["closed reason=login_timeout peer=127.0.0.1:N"]


def test_a_flood_is_counted_in_the_log_by_the_loop(ticker, log_lines):
    peer, _ = ticker.client("bob")
    log_lines()
    for _ in range(7):
        ticker.exchange(peer, b"?\n")
    assert len(log_lines()) == 1
    assert ticker.server.poll_timeout(None) <= constants.SWEEP_SECONDS  # the count comes in time
    ticker.pass_time(constants.LOG_SUMMARY_SECONDS)
    assert log_lines() == ["refused reason=parse_error times=6"]
    ticker.pass_time(constants.LOG_SUMMARY_SECONDS)
    assert ticker.server.poll_timeout(None) is None     # calm again


def test_a_pipelining_client_has_one_quantum_in_a_tick_while_others_trade(ticker):
    """Though it is writable when the tick polls again for the same commit."""
    pipeliner, connection = ticker.client()
    trader, other = ticker.client("bob")
    number = 3 * constants.REQUEST_QUANTUM
    pipeliner.send(PING * number)
    trader.send(BUY)
    wait_for(lambda: len(arrived(connection)) == number * len(PING) and arrived(other), "requests")
    pings = ticker.service.requests["ping"]
    ticker.tick()
    assert ticker.service.requests["ping"] - pings == constants.REQUEST_QUANTUM
    assert len(ticker.replies(pipeliner, number)) == number


def test_a_connection_whose_second_send_of_a_tick_fails_leaves_nothing_behind(ticker):
    """A logout gives it a new deadline, and with replies left it is flushed once more."""
    peer, connection = ticker.client("bob")
    faulty(connection, send=[Most(1), errno.ECONNRESET])
    send_and_wait(peer, connection, request("logout"))
    ticker.tick()
    ticker.tick()
    assert connection not in ticker.server.connections and connection not in ticker.server.timed
    assert not ticker.server.timed
