# -*- coding: utf-8 -*-
"""The event loop, tick by tick: real sockets and a real file, scripted errors and a scripted clock."""
from __future__ import unicode_literals

import contextlib
import errno
import json
import logging
import re
import socket
import sqlite3

import pytest
from conftest import Peer, both, connect, hold, reason, request, wait_for

import constants
import db
import protocol
import server
import session
from connection import NOT_NOW, PEER_GONE, READ, WRITE, Listener, Phase
from constants import ITEMS, TCP_USER_TIMEOUT
from sqlite import SQLite

CHEAP = "potion"
PING = request("ping")


class FaultySocket(object):
    """A connection's socket whose next calls do what a test says: an errno is raised, a size is
    the most that one send takes."""

    def __init__(self, sock, recv=(), send=()):
        self.sock = sock
        self.recv_faults = list(recv)
        self.send_faults = list(send)
        self.sent = []

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


class Most(int):
    """A number of bytes, not an errno."""


def faulty(connection, **faults):
    connection.sock = FaultySocket(connection.sock, **faults)
    return connection.sock


def locked(database):
    """Hold the database's write lock; returns the connection that holds it."""
    holder = connect(database)
    hold(holder)
    return holder


def account_of(database, nickname):
    with contextlib.closing(connect(database)) as connection:
        return connection.execute("SELECT credits, items FROM account WHERE nickname = ?",
                                  (nickname,)).fetchone()


# --- the methods ----------------------------------------------------------------------------------

@both
def test_a_session(ticker, database):
    bob, connection = ticker.client()
    reply = ticker.call(bob, "login", nickname="bob")
    account = reply["result"]["account"]
    assert reply["id"] == 1 and reply["jsonrpc"] == "2.0" and set(reply) == {"id", "jsonrpc", "result"}
    assert reply["result"]["created"] is True
    assert reply["result"]["catalog"] == [{"name": n, "price": p} for n, p in ITEMS.items()]
    assert account == {"nickname": "bob", "credits": account["credits"], "items": []}
    assert account_of(database, "bob") == (account["credits"], "")

    assert ticker.call(bob, "ping")["result"] == "pong"
    bought = ticker.call(bob, "buy", item=CHEAP)["result"]
    account.update(credits=account["credits"] - ITEMS[CHEAP], items=[CHEAP])
    assert bought == {"account": account}
    assert account_of(database, "bob") == (account["credits"], CHEAP)
    sold = ticker.call(bob, "sell", item=CHEAP)["result"]
    account.update(credits=account["credits"] + ITEMS[CHEAP], items=[])
    assert sold == {"account": account}
    assert ticker.call(bob, "logout")["result"] is True

    reply = ticker.call(bob, "login", nickname="bob")       # the connection may log in again
    assert reply["result"]["created"] is False
    assert reply["result"]["account"] == account


def test_what_needs_a_login(ticker):
    peer, _ = ticker.client()
    for method, params in [("buy", {"item": CHEAP}), ("sell", {"item": CHEAP}), ("logout", {})]:
        error = ticker.call(peer, method, **params)["error"]
        assert (error["code"], error["data"]["reason"]) == (1001, "not_logged_in")
    assert ticker.call(peer, "ping")["result"] == "pong"


@both
def test_refusals_become_replies(ticker, database):
    with contextlib.closing(connect(database)) as outside:
        outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', ?, '')",
                        (ITEMS[CHEAP],))
    bob, _ = ticker.client("bob")
    expected = [
        ("login", {"nickname": "ann"}, 1002, {"reason": "already_logged_in"}),
        ("login", {"nickname": "bob"}, 1002, {"reason": "already_logged_in"}),
        ("buy", {"item": "excalibur"}, 2001, {"reason": "unknown_item"}),
        ("buy", {"item": "horse"}, 2003, {"reason": "not_enough_credits", "credits": ITEMS[CHEAP],
                                          "price": ITEMS["horse"]}),
        ("sell", {"item": CHEAP}, 2004, {"reason": "item_not_owned"}),
    ]
    for method, params, code, data in expected:
        error = ticker.call(bob, method, **params)["error"]
        assert (error["code"], error["data"]) == (code, data)
        assert error["message"].endswith(".")


@both
def test_one_login_per_nickname(ticker):
    first, _ = ticker.client("bob")
    second, _ = ticker.client()
    for _ in range(2):
        error = ticker.call(second, "login", nickname="bob")["error"]
        assert (error["code"], error["data"]) == (1003, {"reason": "nickname_in_use"})
    assert ticker.call(first, "buy", item=CHEAP)["result"]      # the first is never thrown out
    ticker.call(first, "logout")
    assert ticker.call(second, "login", nickname="bob")["result"]["account"]["items"] == [CHEAP]


@both
def test_two_logins_in_one_tick_have_one_winner(ticker):
    peers = [ticker.client()[0] for _ in range(2)]
    for peer in peers:
        peer.send(request("login", nickname="bob"))
    replies = [ticker.replies(peer, 1)[0] for peer in peers]
    assert sorted("result" in reply for reply in replies) == [False, True]


@both
def test_a_notification_is_carried_out_and_not_answered(ticker, database):
    bob, _ = ticker.client("bob")
    bob.send(b'{"jsonrpc":"2.0","method":"buy","params":["potion"]}\n'
             b'{"jsonrpc":"2.0","method":"buy","params":["potion"]}\n'      # refused, unanswered
             b'{"jsonrpc":"2.0","method":"nonsense"}\n')
    assert ticker.exchange(bob, request("ping", id=9))["id"] == 9
    assert account_of(database, "bob")[1] == CHEAP


@both
def test_a_batch_is_one_line_of_replies(ticker):
    peer, _ = ticker.client()
    replies = ticker.exchange(peer, b'[{"jsonrpc":"2.0","id":"a","method":"login","params":["bob"]},'
                                    b'{"jsonrpc":"2.0","method":"buy","params":["potion"]},'
                                    b'{"jsonrpc":"2.0","id":"b","method":"sell","params":["potion"]},'
                                    b'1,{"jsonrpc":"2.0","id":"c","method":"ping"}]\n')
    assert [reply["id"] for reply in replies] == ["a", "b", None, "c"]
    assert replies[1]["result"]["account"] == replies[0]["result"]["account"]
    assert reason(replies[2]) == "invalid_request"


def test_a_batch_of_notifications_is_not_answered(ticker):
    peer, _ = ticker.client()
    peer.send(b'[{"jsonrpc":"2.0","method":"ping"},{"jsonrpc":"2.0","method":"ping"}]\n')
    assert ticker.exchange(peer, PING)["result"] == "pong"


def test_a_defect_is_logged_and_not_shown(ticker, caplog):
    bob, _ = ticker.client("bob")
    ann, connection = ticker.client("ann")
    ticker.call(ann, "sell", item=CHEAP)
    connection.account.items = None                     # no refusal covers that
    ann.send(request("buy", item=CHEAP))
    assert ticker.call(bob, "buy", item=CHEAP)["result"]        # the others are unharmed
    error = ticker.replies(ann, 1)[0]["error"]
    assert (error["code"], error["data"]) == (-32603, {"reason": "internal_error"})
    assert "Traceback" in caplog.text and "Traceback" not in json.dumps(error)
    assert ticker.call(ann, "ping")["result"] == "pong"


# --- reading and writing --------------------------------------------------------------------------

def test_requests_byte_by_byte(ticker):
    peer, _ = ticker.client()
    for byte in [PING[i:i + 1] for i in range(len(PING))]:
        peer.send(byte)
        ticker.tick()
    assert ticker.replies(peer, 1)[0]["result"] == "pong"


def test_replies_in_portions(ticker):
    peer, connection = ticker.client()
    sock = faulty(connection, send=[Most(1), errno.EAGAIN, Most(3), errno.EINTR, Most(1)])
    assert ticker.call(peer, "login", nickname="bob")["result"]["created"]
    assert sock.sent[:3] == [1, 3, 1]
    assert not connection.output and connection.interest == READ


def test_pipelined_requests_are_answered_in_order_a_share_in_each_tick(ticker):
    pipeliner, connection = ticker.client()
    other, _ = ticker.client()
    number = constants.REQUEST_QUANTUM * 3 + 1
    pipeliner.send(b"".join(request("ping", id=id) for id in range(number)))
    wait_for(lambda: len(arrived(connection)) > len(PING) * number, "all to arrive")
    ticker.tick()
    assert connection in ticker.server.runnable
    other.send(PING)
    replies = ticker.replies(other, 1)                  # long before the pipeliner's last
    assert replies[0]["result"] == "pong" and connection in ticker.server.runnable
    replies = ticker.replies(pipeliner, number)
    assert [reply["id"] for reply in replies] == list(range(number))
    assert not ticker.server.runnable


def test_a_share_is_one_however_often_a_tick_looks(ticker):
    """More than one recv takes, so that the next look would find the rest."""
    peer, connection = ticker.client("bob")
    trades = request("buy", item=CHEAP) + request("sell", item=CHEAP)
    number = 2 * constants.RECV_SIZE // len(trades)
    peer.send(trades * number)
    wait_for(lambda: len(arrived(connection)) == number * len(trades), "the requests")
    ticker.tick()
    requests = ticker.service.requests
    assert requests["buy"] + requests["sell"] == constants.REQUEST_QUANTUM
    assert len(ticker.replies(peer, 2 * number)) == 2 * number


def arrived(connection):
    """What has come and is not yet read."""
    try:
        return connection.sock.recv(1 << 20, socket.MSG_PEEK)
    except socket.error as error:
        if error.errno not in NOT_NOW:
            raise
        return b""


def test_a_batch_takes_as_much_of_the_share_as_its_requests(ticker):
    peer, connection = ticker.client()
    batch = b"[" + b",".join([PING[:-1]] * constants.REQUEST_QUANTUM) + b"]\n"
    peer.send(batch * 2)
    wait_for(lambda: len(arrived(connection)) == 2 * len(batch), "the batches")
    ticker.tick()
    assert connection in ticker.server.runnable          # the second waits for the next tick
    assert [len(replies) for replies in ticker.replies(peer, 2)] == [constants.REQUEST_QUANTUM] * 2


def test_a_tick_ends_in_time_and_who_had_no_turn_is_next(ticker, monkeypatch):
    """Applying takes longer than a tick may: each of three clients has its turn all the same."""
    clients = [ticker.client("player %d" % number) for number in range(3)]
    for peer, connection in clients:
        peer.send(PING * 2)
        wait_for(lambda: len(arrived(connection)) == 2 * len(PING), "the requests")
    turns = []
    monkeypatch.setattr(session, "REQUEST_QUANTUM", 1)
    apply = ticker.service.apply

    def slow_apply(connection):
        turns.append(connection)
        ticker.clock.now += constants.TICK_SECONDS * 1.1
        apply(connection)

    ticker.service.apply = slow_apply
    for number in range(1, 7):
        ticker.tick()
        assert len(turns) == number
    assert set(turns[:3]) == set(turns[3:]) == {connection for _, connection in clients}
    for peer, _ in clients:
        assert len(ticker.replies(peer, 2)) == 2


def send_while_applied(ticker, method, send):
    """Have `send` called with the connection before each request of that method is applied."""
    apply = ticker.service.methods[method]

    def apply_later(connection, argument):
        send(connection)
        return apply(connection, argument)

    ticker.service.methods[method] = apply_later


def test_what_arrives_while_requests_are_applied_is_in_the_same_commit(ticker):
    first, _ = ticker.client("ann")
    second, later = ticker.client("bob")
    sent = []

    def send(connection):
        if not sent:
            sent.append(second.send(request("buy", item=CHEAP)))
            wait_for(lambda: arrived(later), "the request")

    send_while_applied(ticker, "buy", send)
    commits = ticker.shop.commits
    first.send(request("buy", item=CHEAP))
    replies = ticker.replies(first, 1) + ticker.replies(second, 1)
    assert all("result" in reply for reply in replies)
    assert ticker.shop.commits == commits + 1


@pytest.mark.parametrize("method, looks", [("buy", constants.POLLS_PER_COMMIT), ("ping", 1)])
def test_a_tick_looks_for_more_a_few_times_and_only_before_a_commit(ticker, method, looks):
    peer, connection = ticker.client("bob")
    line = request(method, item="potion") if method == "buy" else PING
    asked = []

    def send(connection):
        asked.append(method)
        peer.send(line)
        wait_for(lambda: arrived(connection), "the next request")

    send_while_applied(ticker, method, send)
    peer.send(line)
    wait_for(lambda: arrived(connection), "the request")
    ticker.tick()
    assert len(asked) == looks and not ticker.server.runnable
    ticker.tick()
    assert len(asked) > looks           # the others came in the next tick


@both
@pytest.mark.parametrize("unread", [b"", PING, request("buy", item=CHEAP), b'{"half'])
def test_who_closes_and_connects_again_gets_the_nickname(ticker, unread):
    """Both come in the same tick, and so does the login; PostgreSQL is asked for the account of the
    one, and then of the other."""
    ticks = 1 if type(ticker.shop.storage) is SQLite else 3
    for _ in range(5):
        peer, connection = ticker.client("bob")
        peer.send(unread)
        peer.close()
        again = Peer(ticker.port)
        ticker.peers.append(again)
        again.send(request("login", nickname="bob"))
        for _ in range(ticks):
            ticker.tick()
        assert "result" in again.line()
        again.close()
        ticker.until(lambda: not ticker.service.players)


def test_a_nickname_whose_player_leaves_with_replies_unread_is_in_use(ticker, monkeypatch):
    """And to say so takes one tick, while that player's last requests wait."""
    monkeypatch.setattr(session, "HIGH_WATER", 1000)
    peer, connection = ticker.client("bob")
    faulty(connection, send=[errno.EAGAIN] * 50)
    peer.send(PING * 200)
    ticker.until(lambda: not connection.is_served() and connection.lines.lines)
    peer.sock.shutdown(socket.SHUT_WR)
    assert reason(ticker.call(ticker.client()[0], "login", nickname="bob")) == "nickname_in_use"


def test_who_connects_is_read_at_once(ticker):
    peer = Peer(ticker.port)
    ticker.peers.append(peer)
    peer.send(PING)
    ticker.tick()
    assert peer.line()["result"] == "pong"


def test_reading_takes_nobodys_turn(ticker):
    """Clients that send lines without end, slowly: there is a turn in each tick all the same."""
    player, connection = ticker.client("bob")
    dribblers = [ticker.client()[0] for _ in range(5)]
    read = ticker.server.read

    def slow_read(connection):
        ticker.clock.now += constants.TICK_SECONDS
        read(connection)

    ticker.server.read = slow_read
    player.send(PING)
    for _ in range(5):
        for dribbler in dribblers:
            dribbler.send(b"x")
        ticker.tick()
    player.sock.setblocking(False)
    assert b"pong" in player.sock.recv(1000)


def test_with_work_left_the_loop_does_not_sleep(ticker):
    peer, connection = ticker.client()
    assert ticker.server.poll_timeout(None) is not None     # until the login deadline is looked at
    ticker.server.runnable[connection] = None
    assert ticker.server.poll_timeout(None) == 0
    ticker.server.runnable.clear()


def test_a_loop_with_only_idle_players_sleeps_until_an_event(ticker):
    ticker.client("bob")
    ticker.clock.now += constants.SWEEP_SECONDS
    ticker.tick()
    assert ticker.server.poll_timeout(None) is None


def test_a_line_that_is_too_long_is_answered_after_those_before_it_and_closed(ticker):
    for tail in (b"", b"\n", b"\n" + PING):
        peer, connection = ticker.client("bob")
        peer.send(PING + b"x" * constants.MAX_LINE + b"x" + tail)
        replies = ticker.replies(peer, 2)
        assert replies[0]["result"] == "pong"
        assert replies[1]["id"] is None and replies[1]["error"]["code"] == -32600
        assert reason(replies[1]) == "line_too_long"
        assert "bob" not in ticker.service.players
        peer.sock.setblocking(True)
        assert peer.line() is None                      # the end comes after the reply
        peer.close()
        ticker.until(lambda: connection.phase is Phase.CLOSED)


def test_a_client_that_goes_on_sending_still_gets_the_reply(ticker):
    peer, connection = ticker.client()
    for _ in range(40):                                 # no reset by input that nobody reads
        peer.send(b"x" * constants.MAX_LINE)
        ticker.tick()
    assert reason(ticker.replies(peer, 1)[0]) == "line_too_long"
    assert connection.phase is Phase.LINGERING
    ticker.clock.now += constants.LINGER_SECONDS + constants.SWEEP_SECONDS
    ticker.tick()
    assert connection.phase is Phase.CLOSED and connection not in ticker.server.connections


def test_a_client_that_does_not_read_is_not_read(ticker, monkeypatch):
    monkeypatch.setattr(session, "HIGH_WATER", 15000)
    peer, connection = ticker.client("bob")
    sock = faulty(connection, send=[errno.EAGAIN] * 1000)
    peer.send(PING * 3000)
    ticker.until(lambda: len(connection.output) >= session.HIGH_WATER)
    for _ in range(10):
        ticker.tick()
    share = constants.REQUEST_QUANTUM * 60
    assert len(connection.output) < session.HIGH_WATER + share
    assert connection.interest == WRITE
    assert connection not in ticker.server.runnable
    del sock.send_faults[:]
    assert len(ticker.replies(peer, 3000)) == 3000


# --- every end of a connection frees the nickname -------------------------------------------------

def test_closing_frees_the_nickname_in_the_same_tick(ticker, caplog):
    for leave in (Peer.close, Peer.reset):
        peer, connection = ticker.client("bob")
        leave(peer)
        ticker.until(lambda: connection not in ticker.server.connections)
        assert ticker.service.players == {}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_half_closed_connection_gets_its_replies(ticker):
    peer, connection = ticker.client("bob")
    peer.send(PING * 100 + b'{"half a line')
    peer.sock.shutdown(socket.SHUT_WR)
    assert len(ticker.replies(peer, 100)) == 100
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert ticker.service.players == {}


@both
def test_closing_between_request_and_reply(ticker, database):
    peer, connection = ticker.client("bob")
    peer.send(request("buy", item=CHEAP))
    peer.close()
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert account_of(database, "bob")[1] == CHEAP      # it was asked for, and it happened once
    assert ticker.service.players == {}


def test_closing_during_login(ticker):
    for leave in (Peer.close, Peer.reset):
        peer, connection = ticker.client()
        peer.send(request("login", nickname="bob"))
        leave(peer)
        ticker.until(lambda: connection.phase is Phase.CLOSED)
        assert ticker.service.players == {}


@pytest.mark.parametrize("number", sorted(PEER_GONE))
@pytest.mark.parametrize("operation", ["recv", "send"])
def test_errors_of_a_peer_that_is_gone_end_the_connection_quietly(ticker, caplog, number, operation):
    peer, connection = ticker.client("bob")
    peer.send(PING)
    faulty(connection, **{str(operation): [number]})
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert ticker.service.players == {} and connection not in ticker.server.connections
    assert not caplog.records


@pytest.mark.parametrize("number", sorted(NOT_NOW))
def test_errors_that_mean_not_now_change_nothing(ticker, number):
    peer, connection = ticker.client("bob")
    faulty(connection, recv=[number], send=[number])
    assert ticker.exchange(peer, PING)["result"] == "pong"


def test_an_error_that_nobody_expects_is_logged_and_ends_the_connection(ticker, caplog):
    peer, connection = ticker.client("bob")
    faulty(connection, recv=[errno.EIO])
    peer.send(PING)
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    assert ticker.service.players == {}
    assert "socket_failed error=EIO peer=127.0.0.1:" in caplog.text


def test_a_descriptor_that_is_used_again_in_the_same_tick(ticker):
    """The number of a closed socket is the next one's; a stale event must not reach it."""
    old, _ = ticker.client("bob")
    for _ in range(20):
        old.reset()
        new, connection = ticker.client()
        new.send(request("login", nickname="bob"))
        reply = ticker.replies(new, 1)[0]
        assert "result" in reply, reply
        old = new


# --- deadlines ------------------------------------------------------------------------------------

def pass_time(ticker, seconds):
    ticker.clock.now += seconds
    ticker.tick()


def test_who_does_not_log_in_is_closed(ticker):
    peer, connection = ticker.client()
    player, logged_in = ticker.client("bob")
    pass_time(ticker, constants.LOGIN_SECONDS - 1)
    peer.send(b"x")                                     # a byte now and then buys no time
    ticker.tick()
    assert connection in ticker.server.connections
    pass_time(ticker, 1)
    assert connection not in ticker.server.connections
    pass_time(ticker, 3600)
    assert logged_in in ticker.server.connections       # a player may take all the time


def test_who_does_not_log_in_again_is_closed(ticker):
    peer, connection = ticker.client("bob")
    pass_time(ticker, 3600)
    ticker.call(peer, "logout")
    pass_time(ticker, constants.LOGIN_SECONDS - 1)
    assert connection in ticker.server.connections
    pass_time(ticker, 1)
    assert connection not in ticker.server.connections


def test_who_takes_no_reply_is_closed(ticker):
    peer, connection = ticker.client("bob")
    sock = faulty(connection, send=[errno.EAGAIN] * 1000)
    peer.send(PING)
    ticker.until(lambda: connection.output)
    pass_time(ticker, constants.WRITE_STALL_SECONDS - 1)
    sock.send_faults.insert(0, Most(1))                         # one byte is progress
    ticker.tick()
    pass_time(ticker, constants.WRITE_STALL_SECONDS - 1)
    assert connection in ticker.server.connections
    pass_time(ticker, 1)
    assert connection not in ticker.server.connections
    assert ticker.service.players == {}


# --- too many clients -----------------------------------------------------------------------------

def test_a_full_server_says_so_and_closes(make_ticker):
    ticker = make_ticker(max_clients=2)
    players = [ticker.client("player %d" % number) for number in range(2)]
    peer, connection = ticker.client()
    reply = ticker.replies(peer, 1)[0]
    assert reply["id"] is None
    assert (reply["error"]["code"], reason(reply)) == (-32001, "server_full")
    peer.sock.setblocking(True)
    assert peer.line() is None
    peer.close()
    ticker.until(lambda: connection.phase is Phase.CLOSED)
    for player, _ in players:
        assert ticker.call(player, "ping")["result"] == "pong"
    players[0][0].close()
    ticker.until(lambda: len(ticker.server.connections) == 1)
    ticker.client("newcomer")


def test_beyond_the_refused_the_next_wait_in_the_kernel(make_ticker, monkeypatch):
    monkeypatch.setattr(constants, "SPARE_CLIENTS", 1)
    ticker = make_ticker(max_clients=1)
    player, _ = ticker.client("bob")
    refused, _ = ticker.client()
    waiting = Peer(ticker.port)
    for _ in range(5):
        ticker.tick()
    assert len(ticker.server.connections) == 2 and not ticker.listener.is_registered
    refused.close()
    assert reason(ticker.replies(waiting, 1)[0]) == "server_full"
    waiting.close()


class FaultyListener(object):
    """The listener, with scripted errors of accept."""

    def __init__(self, listener, faults):
        self.listener = listener
        self.faults = faults
        self.accepts = 0

    def accept(self):
        self.accepts += 1
        if self.faults:
            raise socket.error(self.faults.pop(0), "scripted")
        return self.listener.accept()

    def __getattr__(self, name):
        return getattr(self.listener, name)


def fail_accept(ticker, *faults):
    ticker.server.selector.unregister(ticker.listener.sock)
    ticker.listener.sock = FaultyListener(ticker.listener.sock, list(faults))
    ticker.server.selector.register(ticker.listener.sock, READ, ticker.listener)
    return ticker.listener.sock


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
                                    errno.EPERM])
def test_out_of_descriptors_the_listener_rests(ticker, caplog, number):
    player, _ = ticker.client("bob")
    listener = fail_accept(ticker, number)
    waiting = Peer(ticker.port)
    ticker.until(lambda: listener.accepts)
    for _ in range(10):
        ticker.tick()
    assert listener.accepts == 1                        # no spinning
    assert ticker.server.poll_timeout(None) > 0
    assert ticker.call(player, "buy", item=CHEAP)["result"]
    ticker.clock.now += constants.ACCEPT_PAUSE_SECONDS
    ticker.tick()
    ticker.until(lambda: len(ticker.server.connections) == 2)
    assert len(caplog.records) == 1 and "accept_failed" in caplog.text
    waiting.close()


@pytest.mark.parametrize("number", sorted(NOT_NOW | PEER_GONE))
def test_other_errors_of_accept_cost_nobody_else(ticker, caplog, number):
    fail_accept(ticker, number)
    peer = Peer(ticker.port)
    ticker.until(lambda: len(ticker.server.connections) == 1)
    assert not caplog.records
    peer.close()


def test_clients_are_accepted_a_bounded_number_in_a_tick(ticker, monkeypatch):
    monkeypatch.setattr(constants, "ACCEPT_BATCH", 3)
    peers = [Peer(ticker.port) for _ in range(7)]
    sizes = []
    while len(ticker.server.connections) < 7:
        ticker.tick()
        sizes.append(len(ticker.server.connections))
    assert sizes[-3:] == [3, 6, 7]
    for peer in peers:
        peer.close()


# --- one commit a tick ----------------------------------------------------------------------------

@both
def test_replies_leave_after_the_commit(ticker, database):
    """While the commit cannot be made, the socket has nothing to read, not even a refusal."""
    bob, connection = ticker.client("bob")
    seen = []
    commit = ticker.shop.commit

    def watch_commit():
        bob.sock.setblocking(False)
        with pytest.raises(socket.error):
            bob.sock.recv(1, socket.MSG_PEEK)
        seen.append(account_of(database, "bob")[1])
        return commit()

    ticker.shop.commit = watch_commit
    assert ticker.call(bob, "buy", item=CHEAP)["result"]["account"]["items"] == [CHEAP]
    assert "" in seen


def test_a_tick_commits_once_for_all_its_players(ticker, database):
    players = [ticker.client("player %d" % number)[0] for number in range(20)]
    commits = []
    write = ticker.shop.storage._write
    ticker.shop.storage._write = lambda accounts: commits.append(len(accounts)) or write(accounts)
    for player in players:
        player.send(request("buy", item=CHEAP) + request("sell", item=CHEAP))
    wait_for(lambda: all(arrived(c) for c in ticker.server.connections), "the requests")
    ticker.tick()
    assert commits == [20]
    for player in players:
        assert len(ticker.replies(player, 2)) == 2


@both
def test_a_failed_commit_fails_what_depends_on_it_and_nothing_else(ticker, database):
    bob, bobs = ticker.client("bob")
    before = account_of(database, "bob")
    reader, _ = ticker.client()
    holder = locked(database)
    bob.send(request("ping", id=1) + request("buy", id=2, item=CHEAP)
             + request("buy", id=3, item=CHEAP)         # refused only because of the one before
             + request("ping", id=4) + b"nonsense\n" + request("sell", id=5, item=CHEAP)
             + request("steal", id=6)
             + b'[{"jsonrpc":"2.0","id":7,"method":"ping"},'
               b'{"jsonrpc":"2.0","id":8,"method":"buy","params":["potion"]}]\n')
    reader.send(PING)
    replies = ticker.replies(bob, 8)
    outcomes = [(r["id"], r.get("result") or reason(r)) for r in replies[:7] + replies[7]]
    assert outcomes == [(1, "pong"), (2, "storage_failed"), (3, "storage_failed"), (4, "pong"),
                        (None, "parse_error"), (5, "storage_failed"), (6, "method_not_found"),
                        (7, "pong"), (8, "storage_failed")]
    assert ticker.replies(reader, 1)[0]["result"] == "pong"
    assert replies[1]["error"]["code"] == -32000
    assert account_of(database, "bob") == before == bobs.account.row()
    assert ticker.call(bob, "sell", item=CHEAP)["error"]["code"] == 2004    # and reads go on
    holder.execute("ROLLBACK")
    assert ticker.call(bob, "buy", item=CHEAP)["result"]["account"]["items"] == [CHEAP]
    holder.close()


@both
def test_logins_and_a_failed_commit(ticker, database):
    ticker.call(ticker.client("known")[0], "logout")
    known, knowns = ticker.client()
    new, news = ticker.client()
    quiet, quiets = ticker.client()
    holder = locked(database)
    known.send(request("login", nickname="known"))
    new.send(request("login", nickname="new"))
    quiet.send(b'{"jsonrpc":"2.0","method":"login","params":["quiet"]}\n' + PING)
    assert "result" in ticker.replies(known, 1)[0]      # nothing to store
    assert reason(ticker.replies(new, 1)[0]) == "storage_failed"
    assert ticker.replies(quiet, 1)[0]["result"] == "pong"
    assert set(ticker.service.players) == {"known"}
    assert news.account is None and quiets.account is None
    assert account_of(database, "new") is None
    assert reason(ticker.call(new, "buy", item=CHEAP)) == "not_logged_in"
    holder.execute("ROLLBACK")
    assert ticker.call(new, "login", nickname="new")["result"]["created"] is True
    pass_time(ticker, constants.LOGIN_SECONDS)
    assert quiets not in ticker.server.connections      # it has a login deadline again
    holder.close()


@both
def test_a_login_in_the_tick_of_a_trade_that_fails(ticker, database):
    """Another client logs in with what the first one has not stored yet: both fail."""
    first, firsts = ticker.client("bob")
    second, seconds = ticker.client()
    before = account_of(database, "bob")
    holder = locked(database)
    first.send(request("buy", item=CHEAP) + request("logout")
               + request("login", nickname="bob") + request("logout"))
    ticker.until(lambda: "bob" not in ticker.service.players)
    replies = ticker.replies(first, 4)
    assert [r.get("result") or reason(r) for r in replies] == [
        "storage_failed", True, "storage_failed", True]
    first.send(request("login", nickname="bob") + request("buy", item=CHEAP) + request("logout")
               + request("login", nickname="bob"))
    replies = ticker.replies(first, 4)
    assert "result" in replies[0]                       # the row was there, and was told truly
    assert [reason(replies[1]), replies[2]["result"], reason(replies[3])] == [
        "storage_failed", True, "storage_failed"]
    assert ticker.service.players == {} and firsts.account is None
    assert account_of(database, "bob") == before
    holder.execute("ROLLBACK")
    assert ticker.call(second, "login", nickname="bob")["result"]["account"]["credits"] == before[0]
    holder.close()


@both
def test_a_failed_login_does_not_end_the_next_one_in_its_tick(ticker, database):
    ticker.call(ticker.client("known")[0], "logout")
    peer, connection = ticker.client()
    holder = locked(database)
    peer.send(request("login", nickname="new") + request("logout")
              + request("login", nickname="known") + request("buy", item=CHEAP))
    replies = ticker.replies(peer, 4)
    assert [reply.get("result") is not None or reason(reply) for reply in replies] == [
        "storage_failed", True, True, "storage_failed"]
    assert ticker.service.players == {"known": connection}
    holder.execute("ROLLBACK")
    assert "result" in ticker.call(peer, "buy", item=CHEAP)
    holder.close()


UNUSABLE = ["credits = x'ff00'", "items = x'ff00'", "credits = 'many'", "credits = 1.5",
            "items = CAST(x'ff00' AS TEXT)"]


@pytest.mark.parametrize("change", UNUSABLE)
def test_a_row_that_cannot_be_used_costs_only_its_player(ticker, database, change):
    bob, _ = ticker.client("bob")
    ann, _ = ticker.client("ann")
    outside = connect(database)
    outside.execute("UPDATE account SET %s WHERE nickname = 'bob'" % change)
    bob.send(request("buy", item=CHEAP))
    ann.send(request("buy", item=CHEAP))
    assert reason(ticker.replies(bob, 1)[0]) == "storage_failed"
    assert "result" in ticker.replies(ann, 1)[0]
    assert reason(ticker.call(bob, "buy", item=CHEAP)) == "not_logged_in"
    assert reason(ticker.call(bob, "login", nickname="bob")) == "storage_failed"
    assert set(ticker.service.players) == {"ann"}
    outside.execute("UPDATE account SET credits = 50, items = '' WHERE nickname = 'bob'")
    assert "result" in ticker.call(bob, "login", nickname="bob")
    outside.close()


@both
def test_credits_beyond_what_can_be_stored(ticker, database):
    bob, _ = ticker.client("bob")
    ticker.call(bob, "logout")
    with contextlib.closing(connect(database)) as connection:
        connection.execute("UPDATE account SET items = 'sword', credits = ?",
                           (constants.MAX_CREDITS - ITEMS["sword"] + 1,))
    ticker.call(bob, "login", nickname="bob")
    assert reason(ticker.call(bob, "sell", item="sword")) == "storage_failed"
    assert "result" in ticker.call(bob, "buy", item=CHEAP)
    assert "result" in ticker.call(bob, "sell", item="sword")


@both
def test_a_row_deleted_from_outside_ends_the_login(ticker, database):
    bob, _ = ticker.client("bob")
    with contextlib.closing(connect(database)) as connection:
        connection.execute("DELETE FROM trade")
        connection.execute("DELETE FROM account")
    assert reason(ticker.call(bob, "buy", item=CHEAP)) == "storage_failed"
    assert reason(ticker.call(bob, "buy", item=CHEAP)) == "not_logged_in"
    assert account_of(database, "bob") is None
    assert ticker.call(bob, "login", nickname="bob")["result"]["created"] is True


@both
def test_what_changed_outside_counts_from_the_next_request_on(ticker, database):
    bob, _ = ticker.client("bob")
    for credits in (99, 77):
        with contextlib.closing(connect(database)) as connection:
            connection.execute("UPDATE account SET credits = ?, items = 'bow'", (credits,))
        account = ticker.call(bob, "buy", item=CHEAP)["result"]["account"]
        assert account["items"] == ["bow", CHEAP] and account["credits"] == credits - ITEMS[CHEAP]


@both
def test_a_row_changed_from_outside_in_a_tick_fails_one_player_once(ticker, database):
    bob, _ = ticker.client("bob")
    ann, _ = ticker.client("ann")
    commit = ticker.shop.commit

    def change_and_commit():
        if ticker.shop._dirty:
            ticker.shop.commit = commit
            with contextlib.closing(connect(database)) as connection:
                connection.execute("UPDATE account SET credits = 99, items = 'bow' "
                                   "WHERE nickname = 'bob'")
        return commit()

    ticker.shop.commit = change_and_commit
    bob.send(request("buy", item=CHEAP))
    ann.send(request("buy", item=CHEAP))
    assert reason(ticker.replies(bob, 1)[0]) == "storage_failed"
    assert "result" in ticker.replies(ann, 1)[0]
    account = ticker.call(bob, "buy", item=CHEAP)["result"]["account"]
    assert account["items"] == ["bow", CHEAP] and account["credits"] == 99 - ITEMS[CHEAP]


# --- the specification's examples -----------------------------------------------------------------
# https://www.jsonrpc.org/specification, section 7. Its methods do not exist here; what the examples
# show of ids, notifications, batches and errors does.

NOT_FOUND = {"code": -32601}
PARSE_ERROR = {"code": -32700}
INVALID = {"code": -32600}

EXAMPLES = [
    (['{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}'], (NOT_FOUND, 1)),
    (['{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, '
      '"id": 3}'], (NOT_FOUND, 3)),
    (['{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}'], None),
    (['{"jsonrpc": "2.0", "method": "foobar"}'], None),
    (['{"jsonrpc": "2.0", "method": "foobar", "id": "1"}'], (NOT_FOUND, "1")),
    (['{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]'], (PARSE_ERROR, None)),
    (['{"jsonrpc": "2.0", "method": 1, "params": "bar"}'], (INVALID, None)),
    (['[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},',
      '{"jsonrpc": "2.0", "method"]'], (PARSE_ERROR, None)),
    (['[]'], (INVALID, None)),
    (['[1]'], [(INVALID, None)]),
    (['[1,2,3]'], [(INVALID, None)] * 3),
    (['[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},',
      '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},',
      '{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},',
      '{"foo": "boo"},',
      '{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},',
      '{"jsonrpc": "2.0", "method": "get_data", "id": "9"}]'],
     [(NOT_FOUND, "1"), (NOT_FOUND, "2"), (INVALID, None), (NOT_FOUND, "5"), (NOT_FOUND, "9")]),
    (['[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},',
      '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]'], None),
]


def check(reply, expected):
    error, id = expected
    assert set(reply) == {"jsonrpc", "error", "id"}
    assert reply["jsonrpc"] == "2.0" and reply["id"] == id
    assert reply["error"]["code"] == error["code"]
    assert set(reply["error"]) == {"code", "message", "data"}


@pytest.mark.parametrize("lines, expected", EXAMPLES, ids=[str(i) for i in range(len(EXAMPLES))])
def test_the_specifications_examples(ticker, lines, expected):
    peer, _ = ticker.client()
    peer.send("".join(lines).encode("ascii") + b"\n")
    peer.send(request("ping", id="after"))
    if expected is not None:
        reply = ticker.replies(peer, 2)[0]
        if type(expected) is list:
            assert len(reply) == len(expected)
            for one, its in zip(reply, expected):
                check(one, its)
        else:
            check(reply, expected)
    else:
        assert ticker.replies(peer, 1)[0]["id"] == "after"      # nothing came before it


def test_the_parse_error_of_every_kind_of_line_keeps_the_connection(ticker):
    peer, _ = ticker.client("bob")
    for line in (b"x", b"\xff\xfe", b"[" * 20000, b'{"id":NaN}', b"\0"):
        assert reason(ticker.exchange(peer, line + b"\n")) == "parse_error"
    assert ticker.call(peer, "buy", item=CHEAP)["result"]


def test_an_empty_line_is_ignored(ticker):
    peer, _ = ticker.client()
    assert ticker.exchange(peer, b"\n\r\n\n" + PING[:-1] + b"\r\n")["result"] == "pong"


def test_the_socket_options(ticker):
    _, connection = ticker.client()
    option = connection.sock.getsockopt
    assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert option(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 20000


def test_every_method_of_the_table_is_served(ticker):
    assert set(ticker.service.methods) == set(protocol.METHODS)


# --- statistics -----------------------------------------------------------------------------------

@both
def test_stats(ticker):
    before = ticker.call(ticker.client()[0], "stats")["result"]
    assert before == {
        "version": constants.VERSION, "uptime_s": 0, "clients": 1, "players": 0, "trades": 0,
        "requests": {"login": 0, "ping": 0, "buy": 0, "sell": 0, "logout": 0, "stats": 1},
        "refusals": {}, "commits": 0, "largest_batch": 0, "slowest_commit_ms": 0,
        "slowest_tick_ms": 0, "unsent_bytes": 0}
    players = [ticker.client(name)[0] for name in ("ann", "bob", "eve")]
    for player in players:
        player.send(request("buy", item=CHEAP) + request("buy", item=CHEAP) + b"nonsense\n")
    for player in players:
        ticker.replies(player, 3)
    ticker.call(players[0], "sell", item=CHEAP)
    assert "result" in ticker.call(players[1], "logout")
    ticker.clock.now += 90
    stats = ticker.call(players[1], "stats")["result"]
    assert stats["requests"] == {
        "login": 3, "ping": 0, "buy": 6, "sell": 1, "logout": 1, "stats": 2}
    assert stats["refusals"] == {"item_already_owned": 3, "parse_error": 3}
    assert (stats["clients"], stats["players"], stats["trades"]) == (4, 2, 4)
    assert 4 <= stats["commits"] <= 7 and 1 <= stats["largest_batch"] <= 3
    assert stats["uptime_s"] == 90


def test_stats_count_what_waits_to_be_sent(ticker):
    silent, connection = ticker.client()
    faulty(connection, send=[errno.EAGAIN] * 50)
    silent.send(PING)
    ticker.until(lambda: connection.output)
    asking, _ = ticker.client()
    assert ticker.call(asking, "stats")["result"]["unsent_bytes"] == len(connection.output)


def test_stats_have_the_slowest_tick_and_commit(ticker):
    commit = ticker.shop.commit

    def slow_commit():
        ticker.clock.now += 0.25
        return commit()

    peer, _ = ticker.client()
    ticker.shop.commit = slow_commit
    ticker.call(peer, "ping")
    stats = ticker.call(peer, "stats")["result"]
    assert stats["slowest_commit_ms"] == stats["slowest_tick_ms"] == 250


@pytest.mark.parametrize("host, is_told", [
    ("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
    ("127.0.0.2", False), ("203.0.113.5", False), ("::2", False)])
def test_stats_are_for_the_machine_itself(ticker, host, is_told):
    peer, connection = ticker.client()
    connection.address = (host, 1)
    reply = ticker.call(peer, "stats")
    assert ("result" in reply) == is_told
    if not is_told:
        assert reply["error"] == ticker.call(peer, "steal")["error"]      # there is no such method


# --- the log --------------------------------------------------------------------------------------

@pytest.fixture
def lines(caplog):
    """A function: the lines logged since its last call, the ports of peers as N."""
    caplog.set_level(logging.INFO)

    def since():
        text = [re.sub(r"(peer=127\.0\.0\.1:)\d+", r"\1N", line)
                for record in caplog.records for line in record.getMessage().split("\n")]
        caplog.clear()
        return text

    return since


def test_each_event_is_a_line(ticker, lines):
    peer, _ = ticker.client("bob")
    assert lines() == ['login nickname="bob" peer=127.0.0.1:N created=yes']
    ticker.call(peer, "buy", item=CHEAP)
    assert lines() == []
    ticker.call(peer, "buy", item=CHEAP)
    assert lines() == ['refused reason=item_already_owned method=buy param="potion" '
                       'nickname="bob" peer=127.0.0.1:N']
    other, _ = ticker.client()
    ticker.call(other, "login", nickname="bob")
    ticker.exchange(other, b"?\n")
    assert lines() == [
        'refused reason=nickname_in_use method=login param="bob" nickname=- peer=127.0.0.1:N',
        'refused reason=parse_error method=- param=- nickname=- peer=127.0.0.1:N']
    ticker.call(peer, "logout")
    ticker.call(peer, "login", nickname="bob")
    assert lines() == ['logout nickname="bob" peer=127.0.0.1:N reason=logout',
                       'login nickname="bob" peer=127.0.0.1:N created=no']


def ends(ticker, how):
    """End the connections of a player and of a peer that is not logged in, in some way."""
    for nickname in ("bob", None):
        peer, connection = ticker.client(nickname)
        how(ticker, peer, connection)
        ticker.until(lambda: connection.phase is not Phase.OPEN)


def close(ticker, peer, connection):
    peer.close()


def reset(ticker, peer, connection):
    peer.reset()


def too_long(ticker, peer, connection):
    peer.send(b"x" * constants.MAX_LINE + b"\n")


def take_nothing(ticker, peer, connection):
    faulty(connection, send=[errno.EAGAIN] * 50)
    peer.send(PING)
    ticker.until(lambda: connection.output)
    ticker.clock.now += constants.WRITE_STALL_SECONDS
    ticker.tick()


@pytest.mark.parametrize("how, why", [
    (close, "closed"), (reset, "ECONNRESET"), (too_long, "line_too_long"),
    (take_nothing, "write_stall")])
def test_why_a_connection_ended(ticker, lines, how, why):
    ends(ticker, how)
    told = [line for line in lines() if line.startswith(("logout", "closed"))]
    assert told == ['logout nickname="bob" peer=127.0.0.1:N reason=%s' % why,
                    "closed reason=%s peer=127.0.0.1:N" % why]


def test_why_a_connection_without_a_login_ended(make_ticker, lines):
    ticker = make_ticker(max_clients=1)
    ticker.client()
    ticker.client()
    assert lines()[-1] == "closed reason=server_full peer=127.0.0.1:N"
    ticker.clock.now += constants.LOGIN_SECONDS
    ticker.tick()
    assert lines() == ["closed reason=login_timeout peer=127.0.0.1:N"]


@both
def test_a_login_that_could_not_be_stored(ticker, database, lines, monkeypatch):
    monkeypatch.setattr(db, "RECOVERY_SECONDS", 0)
    holder = locked(database)
    peer, _ = ticker.client()
    assert reason(ticker.call(peer, "login", nickname="bob")) == "storage_failed"
    assert lines() == [
        'storage_failed error="%s"' % ("database is locked" if type(holder) is sqlite3.Connection
                                       else "canceling statement due to lock timeout"),
        'refused reason=storage_failed method=login param="bob" nickname="bob" peer=127.0.0.1:N']
    peer.send(request("login", nickname="bob") + request("logout"))
    ticker.replies(peer, 2)
    assert lines() == []                                # one of a flood; and there was no login
    holder.close()
    peer.send(request("login", nickname="bob") + request("logout"))
    ticker.replies(peer, 2)
    assert lines() == ["storage_recovered failures=2",
                       'login nickname="bob" peer=127.0.0.1:N created=yes',
                       'logout nickname="bob" peer=127.0.0.1:N reason=logout']


def test_a_flood_is_one_line_and_a_count(ticker, lines):
    peer, _ = ticker.client("bob")
    lines()
    for _ in range(7):
        ticker.exchange(peer, b"?\n")
    assert len(lines()) == 1
    assert ticker.server.poll_timeout(None) <= constants.SWEEP_SECONDS      # the count comes in time
    ticker.clock.now += constants.LOG_SUMMARY_SECONDS
    ticker.tick()
    assert lines() == ["refused reason=parse_error times=6"]
    for _ in range(3):
        ticker.exchange(peer, b"?\n")
    ticker.clock.now += constants.LOG_SUMMARY_SECONDS
    ticker.tick()
    assert lines() == ["refused reason=parse_error times=3"]
    ticker.clock.now += constants.LOG_SUMMARY_SECONDS
    ticker.tick()
    assert not ticker.service.limiter.suppressed              # calm again: the next one has a line
    ticker.exchange(peer, b"?\n")
    assert lines() == ['refused reason=parse_error method=- param=- nickname="bob" peer=127.0.0.1:N']


def test_a_flood_from_the_storage_is_one_line_and_a_count(program):
    with sqlite3.connect(program.database) as connection:
        connection.execute("INSERT INTO account (nickname, credits, items) VALUES ('ann', 'x', ''), "
                           "('bob', 'x', '')")
    begin = len(program.log())
    peer = Peer(program.port)
    for _ in range(20):
        for nickname in ("ann", "bob"):
            assert reason(peer.call("login", nickname=nickname)) == "storage_failed"
    assert program.log()[begin:].count("unusable_row nickname=") == 1
    program.process.terminate()
    assert program.wait() == 0
    assert "ERROR unusable_row times=39" in program.log()


def test_a_flood_of_defects_is_one_traceback(ticker, caplog):
    peer, _ = ticker.client()
    ticker.service.methods["ping"] = lambda connection, _: 1 // 0
    for _ in range(5):
        assert reason(ticker.call(peer, "ping")) == "internal_error"
    ticker.clock.now += constants.LOG_SUMMARY_SECONDS
    ticker.tick()
    assert caplog.text.count("Traceback") == 1
    kind = caplog.records[0].getMessage()
    assert re.match(r"defect error=ZeroDivisionError at=test_server\.py:\d+$", kind)
    assert [record.getMessage() for record in caplog.records] == [
        "%s%s" % (kind, times) for times in ("", " times=4")]


def test_trades_are_logged_at_debug(make_ticker, caplog, database):
    caplog.set_level(logging.DEBUG, "lavka")
    ticker = make_ticker()
    peer, connection = ticker.client("bob")
    ticker.call(peer, "buy", item=CHEAP)
    ticker.call(peer, "sell", item=CHEAP)
    credits = connection.account.credits
    holder = locked(database)
    assert reason(ticker.call(peer, "buy", item=CHEAP)) == "storage_failed"
    holder.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"] == [
        'trade nickname="bob" method=buy item="potion" credits=%d' % (credits - ITEMS[CHEAP]),
        'trade nickname="bob" method=sell item="potion" credits=%d' % credits]
