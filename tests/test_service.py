# -*- coding: utf-8 -*-
"""What requests do, without an event loop or sockets: lines in, replies out, on both databases."""
from __future__ import unicode_literals

import contextlib
import json
import logging
import re

import pytest
from conftest import (account_of, both_storages, connect, hold, on_postgresql, reason, request,
                      wait_for)

import constants
import db
import protocol
from constants import ITEMS
from protocol import ADMIN_METHODS
from session import FOREVER, Session
from stats import Histogram
from storage import ConnectionLost

CHEAP = "potion"
PING = request("ping")
BUY = request("buy", item=CHEAP)
SELL = request("sell", item=CHEAP)
LOGOUT = request("logout")
BUY_NOTIFICATION = b'{"jsonrpc":"2.0","method":"buy","params":["potion"]}\n'


def login(nickname):
    return request("login", nickname=nickname)


def batch(*lines):
    """One line with these requests as a batch."""
    return b"[" + b",".join(line.rstrip(b"\n") for line in lines) + b"]\n"


def outcome(reply):
    return reason(reply) if "error" in reply else reply["result"]


def outcomes(replies):
    """Return the reasons of errors, and "done" for results."""
    return [reason(reply) if "error" in reply else "done" for reply in replies]


@contextlib.contextmanager
def locked(database):
    """Hold the database's write lock."""
    with contextlib.closing(connect(database)) as holder:
        hold(holder)
        yield
        holder.execute("ROLLBACK")


def execute(database, statement, *values):
    """Execute an SQL statement from outside."""
    with contextlib.closing(connect(database)) as connection:
        connection.execute(statement, values)


# --- the methods ----------------------------------------------------------------------------------

@both_storages
def test_login_buy_sell_logout_and_login_again(driver, database):
    bob = driver.open()
    reply = driver.call(bob, "login", nickname="bob")
    account = reply["result"]["account"]
    assert set(reply) == {"id", "jsonrpc", "result"}
    assert reply["id"] == 1 and reply["jsonrpc"] == "2.0"
    assert reply["result"]["created"] is True
    assert reply["result"]["catalog"] == [{"name": n, "price": p} for n, p in ITEMS.items()]
    assert account == {"nickname": "bob", "credits": account["credits"], "items": []}
    assert account_of(database, "bob") == (account["credits"], "")

    assert driver.call(bob, "ping")["result"] == "pong"
    bought = driver.call(bob, "buy", item=CHEAP)["result"]
    account.update(credits=account["credits"] - ITEMS[CHEAP], items=[CHEAP])
    assert bought == {"account": account}
    assert account_of(database, "bob") == (account["credits"], CHEAP)
    sold = driver.call(bob, "sell", item=CHEAP)["result"]
    account.update(credits=account["credits"] + ITEMS[CHEAP], items=[])
    assert sold == {"account": account}
    assert account_of(database, "bob") == (account["credits"], "")
    assert driver.call(bob, "logout")["result"] is True

    reply = driver.call(bob, "login", nickname="bob")
    assert reply["result"]["created"] is False
    assert reply["result"]["account"] == account


def test_every_method_of_the_table_is_served(driver):
    assert set(driver.service.methods) == set(protocol.METHODS)


def test_methods_that_need_a_login_are_refused_to_guests(driver):
    guest = driver.open()
    for method, params in [("buy", {"item": CHEAP}), ("sell", {"item": CHEAP}), ("logout", {})]:
        error = driver.call(guest, method, **params)["error"]
        assert (error["code"], error["data"]["reason"]) == (1001, "not_logged_in")
    assert driver.call(guest, "ping")["result"] == "pong"


@both_storages
def test_refusals_become_replies(driver, database):
    execute(database, "INSERT INTO account (nickname, credits, items) VALUES ('bob', ?, '')",
            ITEMS[CHEAP])
    bob = driver.login("bob")
    expected = [
        ("login", {"nickname": "ann"}, 1002, {"reason": "already_logged_in"}),
        ("login", {"nickname": "bob"}, 1002, {"reason": "already_logged_in"}),
        ("buy", {"item": "excalibur"}, 2001, {"reason": "unknown_item"}),
        ("buy", {"item": "horse"}, 2003, {"reason": "not_enough_credits", "credits": ITEMS[CHEAP],
                                          "price": ITEMS["horse"]}),
        ("sell", {"item": CHEAP}, 2004, {"reason": "item_not_owned"}),
    ]
    for method, params, code, data in expected:
        error = driver.call(bob, method, **params)["error"]
        assert (error["code"], error["data"]) == (code, data)
        assert error["message"].endswith(".")
    assert "result" in driver.call(bob, "buy", item=CHEAP)
    error = driver.call(bob, "buy", item=CHEAP)["error"]
    assert (error["code"], error["data"]) == (2002, {"reason": "item_already_owned"})


@both_storages
def test_one_login_per_nickname(driver):
    first, second = driver.login("bob"), driver.open()
    for _ in range(2):
        error = driver.call(second, "login", nickname="bob")["error"]
        assert (error["code"], error["data"]) == (1003, {"reason": "nickname_in_use"})
    assert "result" in driver.call(first, "buy", item=CHEAP)    # the first is never thrown out
    assert "result" in driver.call(first, "logout")
    assert driver.call(second, "login", nickname="bob")["result"]["account"]["items"] == [CHEAP]


@both_storages
def test_two_logins_in_one_tick_have_one_winner(driver):
    guests = [driver.open() for _ in range(2)]
    for guest in guests:
        driver.send(guest, login("bob"))
    driver.tick()
    replies = [reply for guest in guests for reply in driver.replies(guest)]
    assert outcomes(replies) == ["done", "nickname_in_use"]


@both_storages
def test_a_notification_is_carried_out_and_not_answered(driver, database):
    bob = driver.login("bob")
    driver.send(bob, BUY_NOTIFICATION
                + BUY_NOTIFICATION                              # refused, unanswered
                + b'{"jsonrpc":"2.0","method":"nonsense"}\n')
    assert driver.exchange(bob, request("ping", id=9))["id"] == 9
    assert account_of(database, "bob")[1] == CHEAP


@both_storages
def test_a_batch_is_answered_with_one_array(driver, database):
    guest = driver.open()
    replies = driver.exchange(guest, batch(
        b'{"jsonrpc":"2.0","id":"a","method":"login","params":["bob"]}', BUY_NOTIFICATION,
        b'{"jsonrpc":"2.0","id":"b","method":"sell","params":["potion"]}',
        b"1", b'{"jsonrpc":"2.0","id":"c","method":"ping"}'))
    assert [reply["id"] for reply in replies] == ["a", "b", None, "c"]
    assert replies[1]["result"]["account"] == replies[0]["result"]["account"]
    assert reason(replies[2]) == "invalid_request"
    assert account_of(database, "bob") == (replies[0]["result"]["account"]["credits"], "")


def test_a_batch_of_notifications_is_not_answered(driver):
    guest = driver.open()
    notification = b'{"jsonrpc":"2.0","method":"ping"}'
    driver.send(guest, batch(notification, notification))
    assert driver.exchange(guest, PING)["result"] == "pong"


def test_a_defect_is_logged_and_not_shown(driver, caplog):
    bob, ann = driver.login("bob"), driver.login("ann")
    driver.call(ann, "sell", item=CHEAP)                # so that the row is not loaded again
    ann.account.items = None                            # no refusal covers that
    driver.send(ann, BUY)
    driver.send(bob, BUY)
    driver.tick()
    reply, = driver.replies(bob)
    assert "result" in reply                            # the others are unharmed
    reply, = driver.replies(ann)
    assert reply["error"]["code"] == -32603
    assert reply["error"]["data"] == {"reason": "internal_error"}
    assert "Traceback" in caplog.text and "Traceback" not in json.dumps(reply)
    assert driver.call(ann, "ping")["result"] == "pong"


def test_a_flood_of_defects_is_one_traceback(driver, caplog):
    guest = driver.open()
    driver.service.methods["ping"] = lambda session, _: 1 // 0
    for _ in range(5):
        assert reason(driver.call(guest, "ping")) == "internal_error"
    driver.pass_time(constants.LOG_SUMMARY_SECONDS)
    assert caplog.text.count("Traceback") == 1
    kind = caplog.records[0].getMessage()
    assert re.match(r"defect error=ZeroDivisionError at=test_service\.py:\d+$", kind)
    assert [record.getMessage() for record in caplog.records] == [kind, kind + " times=4"]


# --- sessions: how they begin and end -------------------------------------------------------------

def test_a_full_server_says_so_and_ends_the_session(driver):
    guest = driver.open(is_full=True)
    reply, = driver.replies(guest)
    assert reply["id"] is None
    assert (reply["error"]["code"], reason(reply)) == (-32001, "server_full")
    assert guest.close_reason == "server_full" and guest.requests == ()
    assert driver.commit() == [guest]


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n" + PING])
def test_line_too_long_is_answered_after_the_lines_before_it_and_ends_the_session(driver, tail):
    bob = driver.login("bob")
    driver.send(bob, PING + b"x" * (constants.MAX_LINE + 1) + tail)
    changed = driver.tick()
    replies = driver.replies(bob)
    assert replies[0]["result"] == "pong" and len(replies) == 2
    assert replies[1]["id"] is None and replies[1]["error"]["code"] == -32600
    assert reason(replies[1]) == "line_too_long"
    assert bob.close_reason == "line_too_long" and bob in changed
    assert driver.service.players == {}
    driver.tick()
    assert not bob.output                               # what came after it is not served


@both_storages
def test_the_peer_that_has_closed_is_served_and_frees_its_nickname(driver, database):
    bob = driver.login("bob")
    driver.send(bob, BUY)
    bob.input_ended = True
    driver.tick()
    assert bob.close_reason == "closed" and driver.service.players == {}
    assert account_of(database, "bob")[1] == CHEAP
    assert driver.login("bob").account.items == [CHEAP]


def test_a_half_closed_session_is_served_over_several_ticks(driver):
    """Its lines are more than a quantum."""
    bob = driver.login("bob")
    driver.send(bob, PING * (2 * constants.REQUEST_QUANTUM))
    bob.input_ended = True
    driver.tick()
    assert bob.close_reason is None and len(driver.replies(bob)) == constants.REQUEST_QUANTUM
    driver.tick()
    assert bob.close_reason == "closed" and len(driver.replies(bob)) == constants.REQUEST_QUANTUM


def test_the_login_deadline_begins_with_the_session_and_with_the_logout(driver):
    guest = driver.open()
    assert guest.deadline == driver.clock.now + constants.LOGIN_SECONDS
    driver.clock.now += 1
    bob = driver.login("bob", guest)
    assert bob.deadline == FOREVER
    driver.clock.now += 3600
    driver.send(bob, LOGOUT)
    assert driver.tick() == [bob]
    assert bob.deadline == driver.clock.now + constants.LOGIN_SECONDS


def test_a_session_that_has_ended_stays_ended(driver):
    """Its first reason is kept, and nothing more is applied."""
    bob = driver.login("bob")
    driver.service.close(bob, "kicked")
    driver.service.close(bob, "closed")
    driver.send(bob, PING)
    assert driver.tick().count(bob) >= 1
    assert bob.close_reason == "kicked" and not bob.output
    assert driver.tick() == []


class VanishedSession(Session):
    """A session whose peer has closed, which nobody has read yet."""
    has_vanished = False

    def peer_has_closed(self):
        return self.has_vanished


def vanished(driver, nickname, lines=b""):
    """Return a player's session whose peer sends some lines and closes."""
    player = driver.login(nickname, VanishedSession(("127.0.0.1", 1)))
    driver.send(player, lines)
    player.has_vanished = True
    return player


@both_storages
def test_the_login_of_a_closed_connection_is_reaped_in_the_same_tick(driver, database):
    """What it asked before is applied first."""
    old = vanished(driver, "bob", BUY)
    new = driver.open()
    driver.send(new, login("bob"))
    driver.tick()
    reply, = driver.replies(new)
    assert reply["result"]["account"]["items"] == [CHEAP]
    assert old.close_reason == "closed" and driver.service.players == {"bob": new}
    assert account_of(database, "bob")[1] == CHEAP


@both_storages
def test_requests_parsed_but_not_applied_are_applied_before_the_reap(driver, database):
    """The newcomer's turn comes first in this tick."""
    old, new = vanished(driver, "bob"), driver.open()
    driver.send(old, BUY)
    driver.send(new, login("bob"))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert len(driver.replies(old)) == 1
    reply, = driver.replies(new)
    assert reply["result"]["account"]["items"] == [CHEAP]
    assert old.close_reason == "closed" and account_of(database, "bob")[1] == CHEAP


def test_a_closed_connection_with_lines_beyond_its_quantum_is_reaped_after_all_of_them(driver):
    number = 2 * constants.REQUEST_QUANTUM + 1
    old, new = vanished(driver, "bob", PING * number), driver.open()
    driver.send(new, login("bob"))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert outcomes(driver.replies(new)) == ["done"]
    assert len(driver.replies(old)) == number and old.close_reason == "closed"


def test_a_closed_connection_whose_replies_nobody_takes_is_not_reaped(driver, monkeypatch):
    monkeypatch.setattr("session.HIGH_WATER", 1000)
    monkeypatch.setattr("service.HIGH_WATER", 1000)
    old, new = vanished(driver, "bob", PING * (constants.REQUEST_QUANTUM + 1)), driver.open()
    driver.send(new, login("bob"))
    driver.tick()
    assert outcomes(driver.replies(new)) == ["nickname_in_use"] and old.has_requests()


def test_a_connection_that_is_open_is_not_reaped(driver):
    old, new = vanished(driver, "bob"), driver.open()
    old.has_vanished = False
    assert outcomes([driver.exchange(new, login("bob"))]) == ["nickname_in_use"]
    assert old.close_reason is None


def test_a_chain_of_logins_by_closed_connections_does_not_recurse(driver):
    """Each logs out and in with the nickname of the one before; one is reaped at a time."""
    number = 2000                                   # more than an interpreter's stack has room for
    chain = [driver.open(VanishedSession(("127.0.0.1", 1))) for _ in range(number)]
    for n, player in enumerate(chain):
        driver.send(player, login("player %d" % n))
    driver.tick()
    for n, player in enumerate(chain):
        driver.send(player, LOGOUT + login("player %d" % (n - 1)) if n else b"")
        player.has_vanished = True
    newcomer = driver.open()
    driver.send(newcomer, login("player %d" % (number - 1)))
    depths = []
    reap = driver.service.reap_if_closed

    def counted(player):
        depths.append(depths[-1] + 1 if depths else 1)
        reap(player)
        depths.append(depths[-1] - 1)

    driver.service.reap_if_closed = counted
    sessions = [newcomer] + chain[:0:-1]
    served = 0
    while served < len(sessions):
        served += driver.service.serve(sessions[served:], FOREVER)
    driver.commit()
    assert outcomes(driver.replies(newcomer)) == ["done"]
    assert chain[-1].close_reason == "closed"
    assert max(depths) == 2                             # the second is refused as in use
    assert not driver.service.is_finishing


# --- a tick: quantum, time budget, prefetch -------------------------------------------------------

def test_pipelined_requests_are_answered_in_order_a_quantum_in_each_tick(driver):
    pipeliner, other = driver.open(), driver.open()
    number = constants.REQUEST_QUANTUM * 3 + 1
    driver.send(pipeliner, b"".join(request("ping", id=id) for id in range(number)))
    driver.send(other, PING)
    sizes, replies = [], []
    for _ in range(4):
        driver.tick()
        sizes.append(len(driver.replies(other)))
        replies.append(driver.replies(pipeliner))
    assert sizes == [1, 0, 0, 0]
    assert [len(some) for some in replies] == [constants.REQUEST_QUANTUM] * 3 + [1]
    assert [reply["id"] for some in replies for reply in some] == list(range(number))


def test_a_batch_counts_as_its_requests_in_the_quantum(driver):
    guest = driver.open()
    whole = batch(*[PING] * constants.REQUEST_QUANTUM)
    driver.send(guest, whole * 2)
    for _ in range(2):
        driver.tick()
        replies, = driver.replies(guest)                # the second waits for the next tick
        assert len(replies) == constants.REQUEST_QUANTUM
    half = batch(*[PING] * (constants.REQUEST_QUANTUM // 2))
    driver.send(guest, half * 3)
    driver.tick()
    assert len(driver.replies(guest)) == 2 and len(guest.reader.lines) == 1


def test_sessions_beyond_the_parse_batch_have_their_turn_in_the_next_call(driver, monkeypatch):
    """`serve` parses so many requests before it applies the first of them."""
    monkeypatch.setattr("service.PARSE_BATCH", 10)
    guests = [driver.open() for _ in range(7)]
    for guest in guests:
        driver.send(guest, PING * 4)
    served = []
    while sum(served) < len(guests):
        served.append(driver.service.serve(guests[sum(served):], FOREVER))
        answered = [len(driver.replies(guest)) for guest in guests]
        before, after = sum(served[:-1]), len(guests) - sum(served)
        assert answered == [0] * before + [4] * served[-1] + [0] * after
    assert served == [3, 3, 1]


def test_the_time_budget_ends_a_turn_and_those_not_served_are_told(driver, monkeypatch):
    """Their requests are parsed already; the next tick applies them once.

    The clock is looked at before every fourth session.
    """
    guests = [driver.open() for _ in range(6)]
    for guest in guests:
        driver.send(guest, PING * 2)
    apply = driver.service.apply

    def slow_apply(guest):
        driver.clock.now += 1
        apply(guest)

    driver.service.apply = slow_apply
    assert driver.service.serve(guests, driver.clock.now + 0.5) == 4
    assert [len(driver.replies(guest)) for guest in guests] == [2] * 4 + [0, 0]
    assert driver.service.serve(guests[4:], driver.clock.now + 1.5) == 2
    assert [len(driver.replies(guest)) for guest in guests] == [0] * 4 + [2, 2]
    assert driver.service.serve(guests, driver.clock.now - 1) == 0      # the time was up before


def test_parsing_takes_half_of_the_time_budget_at_most(driver):
    """Lines of 64 KB are few requests, and much to parse."""
    parsed = []

    class SlowSession(Session):
        def parse(self):
            driver.clock.now += 1
            parsed.append(self)
            return super(SlowSession, self).parse()

    slow = [driver.open(SlowSession(("127.0.0.1", 1))) for _ in range(10)]
    for each in slow:
        driver.send(each, PING)
    assert driver.service.serve(slow, driver.clock.now + 6) == 4
    assert parsed == slow[:4] and [len(driver.replies(each)) for each in slow] == [1] * 4 + [0] * 6


def test_a_defect_in_parsing_costs_its_line_alone(driver, caplog, monkeypatch):
    bob, ann = driver.login("bob"), driver.login("ann")
    parse = protocol.parse

    def parse_with_a_defect(line, methods):
        assert b"defect" not in line
        return parse(line, methods)

    monkeypatch.setattr("session.parse", parse_with_a_defect)
    driver.send(bob, PING + b"defect\n" + PING)
    driver.send(ann, BUY)
    driver.tick()
    driver.tick()
    assert outcomes(driver.replies(bob)) == ["done", "internal_error", "done"]
    assert outcomes(driver.replies(ann)) == ["done"]
    assert caplog.text.count("Traceback") == 1 and "defect error=AssertionError" in caplog.text


def test_parsed_requests_wait_while_replies_are_above_the_high_water_mark(driver, monkeypatch):
    guest = driver.open()
    driver.send(guest, PING)
    assert driver.service.serve([guest], driver.clock.now - 1) == 0     # parsed, and time was up
    monkeypatch.setattr("service.HIGH_WATER", 1000)
    guest.output += b"x" * 999 + b"\n"
    driver.tick()
    assert len(guest.output) == 1000 and guest.has_requests()
    del guest.output[:]
    driver.tick()
    assert len(driver.replies(guest)) == 1


def test_logins_that_will_be_refused_are_not_prefetched(driver):
    """On PostgreSQL they would lock a nickname that another server may want."""
    bob, guest = driver.login("bob"), driver.open()
    fetched = []
    driver.shop.prefetch = lambda logins, trades: fetched.append(sorted(logins | trades))
    driver.shop.storage.prefetches = True
    driver.send(bob, login("ann") + LOGOUT + login("eve"))
    driver.send(guest, login("pat") + login("zoe"))
    driver.serve()
    assert fetched == [["eve", "pat"]]


def test_sessions_are_counted_until_their_connection_is_closed(driver):
    """With what their peers have not taken yet."""
    bob = driver.login("bob")
    driver.open()
    driver.send(bob, PING)
    driver.tick()
    driver.service.close(bob, "test")
    stats = driver.ask("stats")
    assert (stats["clients"], stats["players"], stats["unsent_bytes"]) == (2, 0, len(bob.output))
    driver.service.forget(bob)
    stats = driver.ask("stats")
    assert (stats["clients"], stats["unsent_bytes"]) == (1, 0)


def test_the_wait_for_the_prefetch_is_not_in_the_time_budget(driver):
    """Or a slow database would leave no time to apply what was fetched."""
    guest = driver.open()
    driver.send(guest, PING)

    def slow_prefetch(logins, trades):
        driver.clock.now += 5

    driver.shop.prefetch = slow_prefetch
    driver.shop.storage.prefetches = True
    assert driver.service.serve([guest], driver.clock.now + 0.1) == 1
    assert len(driver.replies(guest)) == 1


def test_the_prefetch_is_told_the_nicknames_of_logins_and_of_trades(driver):
    """Of all sessions at once, and of the requests in batches."""
    bob, ann, eve = driver.login("bob"), driver.login("ann"), driver.login("eve")
    guest = driver.open()
    fetched = []
    driver.shop.prefetch = lambda logins, trades: fetched.append(sorted(logins | trades))
    driver.shop.storage.prefetches = True
    driver.send(bob, BUY)
    driver.send(ann, PING + LOGOUT)                     # need no row
    driver.send(eve, batch(PING, SELL, LOGOUT, login("zoe")))
    driver.send(guest, BUY + login("pat") + BUY)
    driver.serve()
    assert fetched == [["bob", "eve", "pat", "zoe"]]


@both_storages
def test_one_commit_for_all_players_of_a_tick(driver, database):
    players = [driver.login("player %d" % number) for number in range(20)]
    commits = driver.shop.commits
    for player in players:
        driver.send(player, BUY + SELL)
    driver.tick()
    assert driver.shop.commits == commits + 1 and driver.shop.largest_batch == 40
    for player in players:
        assert len(driver.replies(player)) == 2


# --- group commit: publish ------------------------------------------------------------------------

@both_storages
def test_replies_that_depend_on_the_commit_leave_after_it(driver, database):
    """So does all behind them on the same session; what depends on nothing leaves at once."""
    bob, ann, guest = driver.login("bob"), driver.login("ann"), driver.open()
    driver.send(bob, request("ping", id=1) + request("buy", id=2, item=CHEAP)
                + request("ping", id=3) + b"nonsense\n" + request("logout", id=5)
                + request("ping", id=6))
    driver.send(ann, request("sell", id=1, item=CHEAP))         # refused; nothing is to be stored
    driver.send(guest, PING)
    driver.serve()
    assert driver.service.has_changes()
    assert [reply["id"] for reply in driver.replies(bob)] == [1]
    assert outcomes(driver.replies(ann)) == ["item_not_owned"]
    assert outcomes(driver.replies(guest)) == ["done"]
    assert bob.has_pending and not ann.has_pending and not guest.has_pending
    assert account_of(database, "bob")[1] == ""
    driver.commit()
    assert [reply["id"] for reply in driver.replies(bob)] == [2, 3, None, 5, 6]
    assert account_of(database, "bob")[1] == CHEAP
    assert not bob.has_pending and not driver.service.has_changes()
    driver.send(bob, PING)
    driver.serve()
    assert outcomes(driver.replies(bob)) == ["done"]            # nothing is waited for any more


def test_a_reply_after_an_unanswered_change_waits_for_its_commit(driver):
    """The refusal tells of the notification's purchase."""
    bob = driver.login("bob")
    driver.send(bob, BUY_NOTIFICATION + BUY)
    driver.serve()
    assert not bob.output
    driver.commit()
    assert outcomes(driver.replies(bob)) == ["item_already_owned"]


def test_the_login_of_a_stored_account_waits_for_no_commit(driver):
    driver.call(driver.login("known"), "logout")
    known, new = driver.open(), driver.open()
    driver.send(known, login("known"))
    driver.send(new, login("new"))
    driver.serve()
    assert outcomes(driver.replies(known)) == ["done"] and not new.output
    driver.commit()
    assert outcomes(driver.replies(new)) == ["done"]


def test_replies_to_one_session_keep_their_order_over_several_serves_of_a_tick(driver):
    bob = driver.login("bob")
    for id in (1, 3):
        driver.send(bob, request("buy", id=id, item=CHEAP) + request("ping", id=id + 1))
        driver.serve()
        assert not bob.output
    driver.commit()
    assert [reply["id"] for reply in driver.replies(bob)] == [1, 2, 3, 4]


# --- group commit: fail ---------------------------------------------------------------------------

@both_storages
def test_a_failed_commit_fails_what_depends_on_it_and_nothing_else(driver, database):
    bob, reader = driver.login("bob"), driver.open()
    before = account_of(database, "bob")
    with locked(database):
        driver.send(bob, request("ping", id=1) + request("buy", id=2, item=CHEAP)
                    + request("buy", id=3, item=CHEAP)      # refused only because of the one before
                    + request("ping", id=4) + b"nonsense\n" + request("sell", id=5, item=CHEAP)
                    + request("steal", id=6)
                    + batch(request("ping", id=7), request("buy", id=8, item=CHEAP)))
        driver.send(reader, PING)
        driver.tick()
        replies = driver.replies(bob)
        assert [(r["id"], outcome(r)) for r in replies[:7] + replies[7]] == [
            (1, "pong"), (2, "storage_failed"), (3, "storage_failed"), (4, "pong"),
            (None, "parse_error"), (5, "storage_failed"), (6, "method_not_found"),
            (7, "pong"), (8, "storage_failed")]
        reply, = driver.replies(reader)
        assert reply["result"] == "pong"
        assert replies[1]["error"]["code"] == -32000
        assert account_of(database, "bob") == before == bob.account.row()
        assert driver.call(bob, "sell", item=CHEAP)["error"]["code"] == 2004    # and reads go on
    assert driver.call(bob, "buy", item=CHEAP)["result"]["account"]["items"] == [CHEAP]


@both_storages
def test_a_batch_with_failed_parts_is_one_array_in_order(driver, database):
    """Its requests depend on two accounts, of which another program has changed one."""
    bob = driver.login("bob")
    driver.send(bob, batch(request("ping", id=1), request("buy", id=2, item=CHEAP),
                           request("logout", id=3), request("login", id=4, nickname="ann"),
                           request("buy", id=5, item=CHEAP), request("steal", id=6)))
    driver.serve()
    assert not bob.output
    execute(database, "UPDATE account SET credits = 99 WHERE nickname = 'bob'")
    driver.commit()
    replies, = driver.replies(bob)
    assert [reply["id"] for reply in replies] == [1, 2, 3, 4, 5, 6]
    assert outcomes(replies) == [
        "done", "storage_failed", "done", "done", "done", "method_not_found"]
    assert account_of(database, "bob") == (99, "") and account_of(database, "ann")[1] == CHEAP
    assert driver.service.players == {"ann": bob}


@both_storages
def test_a_failed_commit_undoes_the_logins_that_opened_an_account(driver, database):
    driver.call(driver.login("known"), "logout")
    known, new, quiet = driver.open(), driver.open(), driver.open()
    driver.clock.now += 10
    with locked(database):
        driver.send(known, login("known"))
        driver.send(new, login("new"))
        driver.send(quiet, b'{"jsonrpc":"2.0","method":"login","params":["quiet"]}\n' + PING)
        changed = driver.tick()
        assert outcomes(driver.replies(known)) == ["done"]      # nothing to store
        assert outcomes(driver.replies(new)) == ["storage_failed"]
        assert outcomes(driver.replies(quiet)) == ["done"]
        assert driver.service.players == {"known": known}
        assert new.account is None and quiet.account is None
        assert account_of(database, "new") is None
        assert quiet in changed                                 # it has a login deadline again
        assert quiet.deadline == driver.clock.now + constants.LOGIN_SECONDS
        assert known.deadline == FOREVER
        assert reason(driver.call(new, "buy", item=CHEAP)) == "not_logged_in"
    assert driver.call(new, "login", nickname="new")["result"]["created"] is True


@both_storages
def test_a_login_in_the_tick_of_a_failed_trade_fails_with_it(driver, database):
    """It was told what the trade before it has not stored."""
    first, second = driver.login("bob"), driver.open()
    before = account_of(database, "bob")
    with locked(database):
        driver.send(first, BUY + LOGOUT + login("bob") + LOGOUT)
        driver.tick()
        assert outcomes(driver.replies(first)) == [
            "storage_failed", "done", "storage_failed", "done"]
        assert driver.service.players == {}
        driver.send(first, login("bob") + BUY + LOGOUT + login("bob"))
        driver.tick()
        assert outcomes(driver.replies(first)) == [
            "done",                                     # the row was there, and was told truly
            "storage_failed", "done", "storage_failed"]
        assert driver.service.players == {} and first.account is None
        assert account_of(database, "bob") == before
    account = driver.call(second, "login", nickname="bob")["result"]["account"]
    assert (account["credits"], account["items"]) == (before[0], [])


@both_storages
def test_a_failed_login_does_not_end_the_next_one_in_its_tick(driver, database):
    driver.call(driver.login("known"), "logout")
    guest = driver.open()
    with locked(database):
        driver.send(guest, login("new") + LOGOUT + login("known") + BUY)
        driver.tick()
        assert outcomes(driver.replies(guest)) == [
            "storage_failed", "done", "done", "storage_failed"]
        assert driver.service.players == {"known": guest}
    assert "result" in driver.call(guest, "buy", item=CHEAP)


UNUSABLE = ["credits = x'ff00'", "items = x'ff00'", "credits = 'many'", "credits = 1.5",
            "items = CAST(x'ff00' AS TEXT)"]


@pytest.mark.parametrize("change", UNUSABLE)
def test_a_row_that_cannot_be_used_costs_only_its_player(driver, database, change):
    bob, ann = driver.login("bob"), driver.login("ann")
    execute(database, "UPDATE account SET %s WHERE nickname = 'bob'" % change)
    driver.send(bob, BUY)
    driver.send(ann, BUY)
    driver.tick()
    assert outcomes(driver.replies(bob)) == ["storage_failed"]
    assert outcomes(driver.replies(ann)) == ["done"]
    assert reason(driver.call(bob, "buy", item=CHEAP)) == "not_logged_in"
    assert reason(driver.call(bob, "login", nickname="bob")) == "storage_failed"
    assert set(driver.service.players) == {"ann"}
    execute(database, "UPDATE account SET credits = 50, items = '' WHERE nickname = 'bob'")
    assert "result" in driver.call(bob, "login", nickname="bob")


@both_storages
def test_credits_beyond_what_can_be_stored_are_refused(driver, database):
    driver.call(driver.login("bob"), "logout")
    execute(database, "UPDATE account SET items = 'sword', credits = ?",
            constants.MAX_CREDITS - ITEMS["sword"] + 1)
    bob = driver.login("bob")
    assert reason(driver.call(bob, "sell", item="sword")) == "storage_failed"
    assert "result" in driver.call(bob, "buy", item=CHEAP)
    assert "result" in driver.call(bob, "sell", item="sword")


@both_storages
def test_a_row_deleted_from_outside_ends_the_login(driver, database):
    bob = driver.login("bob")
    execute(database, "DELETE FROM trade")
    execute(database, "DELETE FROM account")
    assert reason(driver.call(bob, "buy", item=CHEAP)) == "storage_failed"
    assert reason(driver.call(bob, "buy", item=CHEAP)) == "not_logged_in"
    assert account_of(database, "bob") is None
    assert driver.call(bob, "login", nickname="bob")["result"]["created"] is True


@both_storages
def test_a_row_changed_outside_counts_from_the_next_request_on(driver, database):
    bob = driver.login("bob")
    for credits in (99, 77):
        execute(database, "UPDATE account SET credits = ?, items = 'bow'", credits)
        account = driver.call(bob, "buy", item=CHEAP)["result"]["account"]
        assert account["items"] == ["bow", CHEAP] and account["credits"] == credits - ITEMS[CHEAP]


@both_storages
def test_a_row_changed_outside_within_a_tick_fails_one_player_once(driver, database):
    bob, ann = driver.login("bob"), driver.login("ann")
    driver.send(bob, BUY)
    driver.send(ann, BUY)
    driver.serve()
    execute(database, "UPDATE account SET credits = 99, items = 'bow' WHERE nickname = 'bob'")
    driver.commit()
    assert outcomes(driver.replies(bob)) == ["storage_failed"]
    assert outcomes(driver.replies(ann)) == ["done"]
    account = driver.call(bob, "buy", item=CHEAP)["result"]["account"]
    assert account["items"] == ["bow", CHEAP] and account["credits"] == 99 - ITEMS[CHEAP]


# --- group commit: abandon, when the connection to the database is lost ---------------------------

class LosingShop(db.Shop):
    """A shop whose next commit is stored, while the answer to it is lost."""
    loses = False

    def commit(self):
        failed = super(LosingShop, self).commit()
        if self.loses:
            self.loses = False
            raise ConnectionLost()
        return failed


def lose_connection(driver, database):
    """Lose the connection before the next commit."""
    if isinstance(driver.shop, LosingShop):
        driver.shop.loses = True
        return
    pid = driver.shop.storage._session[0]
    with contextlib.closing(connect(database)) as outside:
        outside.execute("SELECT pg_terminate_backend(?)", (pid,))
        wait_for(lambda: not outside.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ?",
                                             (pid,)).fetchone(), "the session to end")


@both_storages
def test_replies_with_an_unknown_outcome_are_dropped_and_players_closed(
        make_driver, database, log_lines):
    """Guests stay, and so do the replies that tell of nothing stored."""
    is_sqlite = "://" not in database
    driver = make_driver(shop=LosingShop) if is_sqlite else make_driver()
    bob, ann, eve = driver.login("bob"), driver.login("ann"), driver.login("eve")
    guest, leaver, new = driver.open(), driver.login("leaver"), driver.open()
    log_lines()
    driver.send(bob, request("ping", id=1) + request("buy", id=2, item=CHEAP)
                + request("ping", id=3))
    driver.send(ann, request("ping", id=4))
    driver.send(guest, request("ping", id=5) + batch(request("ping", id=6)))
    driver.send(leaver, batch(BUY, LOGOUT))
    driver.send(new, login("new"))
    driver.serve()
    lose_connection(driver, database)
    changed = driver.commit()
    assert [reply["id"] for reply in driver.replies(bob)] == [1]
    assert [reply["id"] for reply in driver.replies(ann)] == [4]
    guests_replies = driver.replies(guest)
    assert guests_replies[0]["id"] == 5 and [reply["id"] for reply in guests_replies[1]] == [6]
    assert driver.replies(leaver) == driver.replies(new) == driver.replies(eve) == []
    ended = {bob, ann, eve, leaver, new}
    assert ended.issubset(changed) and guest not in changed
    assert {player.close_reason for player in ended} == {"storage_lost"} and not guest.close_reason
    assert driver.service.players == {}
    assert [one for one in driver.service.sessions if one.close_reason is None] == [guest]
    lines = [line for line in log_lines() if "reason=storage_lost" in line]
    assert {'logout nickname="%s" peer=127.0.0.1:N reason=storage_lost' % name
            for name in ("bob", "ann", "eve")}.issubset(lines)
    assert "closed reason=storage_lost peer=127.0.0.1:N" in lines       # of who had logged out

    driver.shop.storage.do_pending_work(driver.clock)
    account = driver.call(guest, "login", nickname="bob")["result"]["account"]
    assert account["items"] == ([CHEAP] if is_sqlite else [])
    assert driver.tick() == []                          # told once for one loss


@both_storages
def test_no_line_tells_of_what_has_an_unknown_outcome(make_driver, database, caplog):
    """Neither of the trade, nor of the login that opened an account, nor of that login's end."""
    caplog.set_level(logging.DEBUG, "lavka")
    driver = make_driver(shop=LosingShop) if "://" not in database else make_driver()
    bob, new = driver.login("bob"), driver.open()
    caplog.clear()
    driver.send(bob, BUY)
    driver.send(new, login("new"))
    driver.serve()
    lose_connection(driver, database)
    driver.commit()
    lines = [line for record in caplog.records if record.name == "lavka.session"
             for line in record.getMessage().split("\n")]
    assert lines == ['logout nickname="bob" peer=127.0.0.1:1 reason=storage_lost']


@on_postgresql
def test_a_connection_lost_before_anything_changed_ends_the_players(driver, database):
    bob, guest = driver.login("bob"), driver.open()
    lose_connection(driver, database)
    driver.shop.storage.on_readable()
    driver.send(bob, PING)
    driver.send(guest, login("ann"))
    driver.tick()
    assert outcomes(driver.replies(bob)) == ["done"] and bob.close_reason == "storage_lost"
    assert outcomes(driver.replies(guest)) == ["storage_failed"] and not guest.close_reason


# --- the specification's examples -----------------------------------------------------------------
# https://www.jsonrpc.org/specification, section 7. Its methods do not exist here; what the examples
# show of ids, notifications, batches and errors does.

NOT_FOUND = -32601
PARSE_ERROR = -32700
INVALID = -32600

EXAMPLES = [
    ('{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}', (NOT_FOUND, 1)),
    ('{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, '
     '"id": 3}', (NOT_FOUND, 3)),
    ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', (NOT_FOUND, "1")),
    ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', (PARSE_ERROR, None)),
    ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', (INVALID, None)),
    ('[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
     '{"jsonrpc": "2.0", "method"]', (PARSE_ERROR, None)),
    ('[]', (INVALID, None)),
    ('[1]', [(INVALID, None)]),
    ('[1,2,3]', [(INVALID, None)] * 3),
    ('[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
     '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
     '{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},'
     '{"foo": "boo"},'
     '{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
     '{"jsonrpc": "2.0", "method": "get_data", "id": "9"}]',
     [(NOT_FOUND, "1"), (NOT_FOUND, "2"), (INVALID, None), (NOT_FOUND, "5"), (NOT_FOUND, "9")]),
    ('[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
     '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]', None),
]


def check_error(reply, expected):
    code, id = expected
    assert set(reply) == {"jsonrpc", "error", "id"}
    assert reply["jsonrpc"] == "2.0" and reply["id"] == id
    assert reply["error"]["code"] == code
    assert set(reply["error"]) == {"code", "message", "data"}


@pytest.mark.parametrize("line, expected", EXAMPLES, ids=[str(i) for i in range(len(EXAMPLES))])
def test_the_specifications_examples(driver, line, expected):
    guest = driver.open()
    driver.send(guest, line.encode("ascii") + b"\n" + request("ping", id="after"))
    driver.tick()
    replies = driver.replies(guest)
    assert replies.pop()["id"] == "after"
    if expected is None:
        assert replies == []
    elif type(expected) is list:
        reply, = replies
        assert len(reply) == len(expected)
        for one, its in zip(reply, expected):
            check_error(one, its)
    else:
        reply, = replies
        check_error(reply, expected)


def test_a_parse_error_of_every_kind_of_line_keeps_the_session(driver):
    bob = driver.login("bob")
    for line in (b"x", b"\xff\xfe", b"[" * 20000, b'{"id":NaN}', b"\0"):
        assert reason(driver.exchange(bob, line + b"\n")) == "parse_error"
    assert "result" in driver.call(bob, "buy", item=CHEAP)


def test_an_empty_line_is_ignored(driver):
    assert driver.exchange(driver.open(), b"\n\r\n\n" + PING[:-1] + b"\r\n")["result"] == "pong"


def test_an_empty_line_takes_time_as_a_request_does(driver):
    """A client that sends nothing else gets no more of it than others."""
    bob = driver.open()
    driver.send(bob, b"\n" * constants.REQUEST_QUANTUM + PING)
    driver.tick()
    assert not driver.replies(bob)
    driver.tick()
    assert len(driver.replies(bob)) == 1


# --- statistics -----------------------------------------------------------------------------------

@both_storages
def test_statistics_count_requests_trades_and_refusals(driver):
    before = driver.ask("stats")
    nothing = {"bounds": list(constants.HISTOGRAM_BOUNDS), "counts": [0] * 8, "sum": 0}
    assert before == {
        "version": constants.VERSION, "uptime_seconds": 0, "clients": 0,
        "max_clients": constants.MAX_CLIENTS, "players": 0, "trades": 0,
        "requests": {"login": 0, "ping": 0, "buy": 0, "sell": 0, "logout": 0, "protect": 0,
                     "stats": 1, "players": 0, "kick": 0},
        "refusals": {}, "commits": 0, "largest_batch": 0, "commit_seconds": nothing,
        "tick_seconds": nothing, "wal_bytes": 0, "unsent_bytes": 0, "log_lost": 0}
    players = [driver.login(name) for name in ("ann", "bob", "eve")]
    for player in players:
        driver.send(player, BUY + BUY + b"nonsense\n")
    driver.tick()
    for player in players:
        assert outcomes(driver.replies(player)) == ["done", "item_already_owned", "parse_error"]
    assert "result" in driver.call(players[0], "sell", item=CHEAP)
    assert "result" in driver.call(players[1], "logout")
    driver.clock.now += 90
    stats = driver.ask("stats")
    assert stats["requests"] == {
        "login": 3, "ping": 0, "buy": 6, "sell": 1, "logout": 1, "protect": 0, "stats": 2,
        "players": 0, "kick": 0}
    assert stats["refusals"] == {"item_already_owned": 3, "parse_error": 3}
    assert (stats["clients"], stats["players"], stats["trades"]) == (3, 2, 4)
    assert (stats["commits"], stats["largest_batch"]) == (5, 3)     # three logins, a tick, a sale
    assert stats["uptime_seconds"] == 90


def test_statistics_do_not_count_what_could_not_be_stored(driver, database):
    bob = driver.login("bob")
    with locked(database):
        assert reason(driver.call(bob, "buy", item=CHEAP)) == "storage_failed"
    stats = driver.ask("stats")
    assert (stats["commits"], stats["trades"]) == (1, 0)
    assert stats["refusals"] == {"storage_failed": 1} and stats["requests"]["buy"] == 1


def test_statistics_count_what_waits_to_be_sent(driver):
    silent = driver.open()
    driver.send(silent, PING)
    driver.tick()
    assert len(silent.output) > 0
    assert driver.ask("stats")["unsent_bytes"] == len(silent.output)


def test_histogram_counts_a_duration_in_the_bucket_of_its_upper_bound():
    histogram = Histogram()
    for bound in constants.HISTOGRAM_BOUNDS:
        histogram.add(bound)
        histogram.add(1.01 * bound)         # in the next bucket
    assert histogram.counts == [1] + 6 * [2] + [1]
    assert histogram.figures()["sum"] == round(2.01 * sum(constants.HISTOGRAM_BOUNDS), 6)


@both_storages
def test_statistics_have_the_times_of_commits_and_ticks(driver, database):
    """A commit counts if there is something to store, even if it fails."""
    bob = driver.login("bob")
    commit = driver.shop.commit

    def slow_commit():
        driver.clock.now += 0.125
        return commit()

    driver.shop.commit = slow_commit
    assert driver.call(bob, "ping")["result"] == "pong"
    assert "result" in driver.call(bob, "buy", item=CHEAP)
    with locked(database):
        assert reason(driver.call(bob, "sell", item=CHEAP)) == "storage_failed"
    driver.service.end_tick(60)
    stats = driver.ask("stats")
    assert stats["commit_seconds"]["counts"] == [1, 0, 0, 0, 0, 2, 0, 0]    # the first is the login
    assert stats["commit_seconds"]["sum"] == 0.25
    assert stats["tick_seconds"]["counts"][-1] == 1 and stats["tick_seconds"]["sum"] == 60


@pytest.mark.parametrize("method", ["stats", "players", "kick"])
def test_the_methods_of_operators_do_not_exist_for_clients(driver, method):
    """Whatever address they come from, and whatever params they send."""
    for host in ("127.0.0.1", "::1", "203.0.113.5"):
        guest = driver.open(Session((host, 1)))
        nothing = driver.call(guest, "steal")["error"]
        assert reason({"error": nothing}) == "method_not_found"
        for params in ({}, {"nickname": "bob"}, {"after": 5}):
            assert driver.call(guest, method, **params)["error"] == nothing
        assert driver.exchange(guest, PING.replace(b"ping", method.encode()))["error"] == nothing


@pytest.mark.parametrize("method, params", [
    ("login", {"nickname": "bob"}), ("buy", {"item": CHEAP}), ("sell", {"item": CHEAP}),
    ("logout", {}), ("protect", {"key": "k" * 32})])
def test_the_methods_of_players_do_not_exist_for_operators(driver, method, params):
    operator = driver.open(Session(("admin", "socket"), ADMIN_METHODS))
    assert driver.call(operator, "ping")["result"] == "pong"
    assert reason(driver.call(operator, method, **params)) == "method_not_found"


# --- the log --------------------------------------------------------------------------------------

def test_each_event_is_a_line(driver, log_lines):
    bob = driver.login("bob")
    assert log_lines() == ['login nickname="bob" peer=127.0.0.1:N created=yes']
    driver.call(bob, "buy", item=CHEAP)
    assert log_lines() == []
    driver.call(bob, "buy", item=CHEAP)
    assert log_lines() == ['refused reason=item_already_owned method=buy param="potion" '
                           'nickname="bob" peer=127.0.0.1:N']
    other = driver.open()
    driver.call(other, "login", nickname="bob")
    driver.exchange(other, b"?\n")
    assert log_lines() == [
        'refused reason=nickname_in_use method=login param="bob" nickname=- peer=127.0.0.1:N',
        'refused reason=parse_error method=- param=- nickname=- peer=127.0.0.1:N']
    driver.call(bob, "logout")
    driver.call(bob, "login", nickname="bob")
    assert log_lines() == ['logout nickname="bob" peer=127.0.0.1:N reason=logout',
                           'login nickname="bob" peer=127.0.0.1:N created=no']


@both_storages
def test_a_login_that_could_not_be_stored_has_no_line(driver, database, log_lines, monkeypatch):
    monkeypatch.setattr(db, "RECOVERY_SECONDS", 0)
    guest = driver.open()
    with locked(database):
        assert reason(driver.call(guest, "login", nickname="bob")) == "storage_failed"
        assert log_lines() == [
            'storage_failed error="%s"' % ("canceling statement due to lock timeout"
                                           if "://" in database else "database is locked"),
            'refused reason=storage_failed method=login param="bob" nickname="bob" '
            'peer=127.0.0.1:N']
        driver.send(guest, login("bob") + LOGOUT)
        driver.tick()
        assert outcomes(driver.replies(guest)) == ["storage_failed", "done"]
        assert log_lines() == []                        # one of a flood; and there was no login
    driver.send(guest, login("bob") + LOGOUT)
    driver.tick()
    assert log_lines() == ["storage_recovered failures=2",
                           'login nickname="bob" peer=127.0.0.1:N created=yes',
                           'logout nickname="bob" peer=127.0.0.1:N reason=logout']


def test_a_flood_of_refusals_is_one_line_and_a_count(driver, log_lines):
    bob = driver.login("bob")
    log_lines()
    for _ in range(7):
        driver.exchange(bob, b"?\n")
    assert log_lines() == [
        'refused reason=parse_error method=- param=- nickname="bob" peer=127.0.0.1:N']
    driver.pass_time(constants.LOG_SUMMARY_SECONDS)
    assert log_lines() == ["refused reason=parse_error times=6"]


def test_trades_are_logged_at_debug(make_driver, caplog, database):
    caplog.set_level(logging.DEBUG, "lavka")
    driver = make_driver()
    bob = driver.login("bob")
    driver.call(bob, "buy", item=CHEAP)
    driver.call(bob, "sell", item=CHEAP)
    credits = bob.account.credits
    with locked(database):
        assert reason(driver.call(bob, "buy", item=CHEAP)) == "storage_failed"
    assert [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"] == [
        'trade nickname="bob" method=buy item="potion" credits=%d' % (credits - ITEMS[CHEAP]),
        'trade nickname="bob" method=sell item="potion" credits=%d' % credits]
