# -*- coding: utf-8 -*-
"""Keys: an account that only its owner can play, and the takeover of a nickname."""
from __future__ import unicode_literals

import contextlib
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys

import pytest
from conftest import (CHEAP, ROOT, Driver, Peer, account_of, audit, both, both_storages, connect,
                      environment, hold, on_postgresql, reason, record_statements, request,
                      run_program, wait_for)

import admin_database
import constants
import db
from session import FOREVER, Session

KEY = "0123456789abcdef0123456789ABCDEF"
OTHER_KEY = "~" * 128
BUY, SELL = request("buy", item=CHEAP), request("sell", item=CHEAP)
PING, LOGOUT = request("ping"), request("logout")


def login(nickname, key=None):
    return request("login", nickname=nickname, **({} if key is None else {"key": key}))


def protect(key):
    return request("protect", key=key)


def hash_of(key):
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def outcomes(replies):
    """Return the reasons of errors, and the items of accounts or other results."""
    found = []
    for reply in replies:
        result = reply.get("result")
        found.append(reason(reply) if result is None else
                     result["account"]["items"] if type(result) is dict else result)
    return found


def stored_keys(database):
    """Return {nickname: hash} of the database."""
    with contextlib.closing(connect(database)) as connection:
        return dict(connection.execute(
            "SELECT nickname, hash FROM account JOIN account_key ON account.id = account_id"
        ).fetchall())


def owner(driver, nickname="bob", key=KEY):
    """Return the session of a player who has just protected the account."""
    session = driver.login(nickname)
    assert driver.call(session, "protect", key=key)["result"] is True
    return session


def answer(driver, session, data):
    """Send lines, tick; the outcomes of the replies."""
    driver.send(session, data)
    driver.tick()
    return outcomes(driver.replies(session))


def is_closed(session):
    return session.close_reason == "taken_over" and not session.output


# --- a key for the login --------------------------------------------------------------------------

@both_storages
def test_protected_account_opens_with_its_key_alone(driver, database):
    bob = owner(driver)
    assert stored_keys(database) == {"bob": hash_of(KEY)}
    assert answer(driver, bob, LOGOUT) == [True]
    guest = driver.open()
    for line, code, expected in [(login("bob"), 1004, "key_required"),
                                 (login("bob", OTHER_KEY), 1005, "wrong_key"),
                                 (login("bob", KEY.swapcase()), 1005, "wrong_key")]:
        error = driver.exchange(guest, line)["error"]
        assert (error["code"], error["data"]) == (code, {"reason": expected})
        assert error["message"].endswith(".")
        assert not driver.service.players
    assert answer(driver, guest, login("bob", KEY)) == [[]]


@both
def test_key_outlives_the_server(make_driver, database):
    with contextlib.closing(Driver(database)) as first:
        owner(first)
    driver = make_driver()
    guest = driver.open()
    assert answer(driver, guest, login("bob") + login("bob", KEY)) == ["key_required", []]


@both_storages
def test_key_of_an_unprotected_account_is_ignored(driver, database):
    bob = driver.open()
    assert answer(driver, bob, login("bob", KEY) + LOGOUT + login("bob", OTHER_KEY) + LOGOUT
                  + login("bob")) == [[], True, [], True, []]
    assert stored_keys(database) == {}


@both_storages
def test_another_key_replaces_the_first(driver, database):
    bob = owner(driver)
    assert answer(driver, bob, protect(OTHER_KEY) + LOGOUT + login("bob", KEY)) == [
        True, True, "wrong_key"]
    assert stored_keys(database) == {"bob": hash_of(OTHER_KEY)}
    assert answer(driver, bob, login("bob", OTHER_KEY)) == [[]]


@both_storages
def test_account_key_and_trade_are_one_transaction(driver, database):
    guest = driver.open()
    assert answer(driver, guest, login("bob") + protect(KEY) + BUY) == [[], True, [CHEAP]]
    assert driver.shop.commits == 1
    assert stored_keys(database) == {"bob": hash_of(KEY)}
    assert account_of(database, "bob")[1] == CHEAP
    audit(database)


@both
def test_keys_of_many_players_are_stored_with_their_accounts(driver, database):
    players = [driver.open() for _ in range(20)]
    for number, player in enumerate(players):
        driver.send(player, login("player %d" % number) + (protect(KEY[:-2] + "%02d" % number)
                                                           if number % 2 else BUY))
    driver.tick()
    assert stored_keys(database) == {
        "player %d" % number: hash_of(KEY[:-2] + "%02d" % number) for number in range(1, 20, 2)}
    audit(database)


@pytest.mark.skipif(sys.version_info < (3, 3), reason="sqlite3 cannot trace statements")
def test_login_reads_account_and_key_in_one_statement(driver):
    bob = owner(driver)
    assert answer(driver, bob, LOGOUT) == [True]
    statements = []
    driver.shop.storage.database.connection().set_trace_callback(statements.append)
    assert answer(driver, bob, login("bob", KEY)) == [[]]
    assert [one.split()[0] for one in statements] == ["BEGIN", "SELECT", "ROLLBACK"]


@on_postgresql
def test_login_on_postgresql_reads_account_and_key_in_one_statement(driver):
    bob = owner(driver)
    assert answer(driver, bob, LOGOUT) == [True]
    statements = record_statements(driver.shop)
    assert answer(driver, bob, login("bob", KEY)) == [[]]
    assert len(statements) == 2 and "pg_try_advisory_lock" in statements[0]


@both_storages
def test_failed_commit_leaves_the_old_key(driver, database, log_lines):
    bob = owner(driver)
    log_lines()
    with contextlib.closing(connect(database)) as holder:
        hold(holder)
        assert answer(driver, bob, protect(OTHER_KEY)) == ["storage_failed"]
        holder.execute("ROLLBACK")
    assert stored_keys(database) == {"bob": hash_of(KEY)}
    assert not [line for line in log_lines() if line.startswith("protect")]
    assert answer(driver, bob, LOGOUT + login("bob", OTHER_KEY) + login("bob", KEY)) == [
        True, "wrong_key", []]


@both_storages
def test_failed_commit_of_two_keys_leaves_the_old_key(driver, database):
    bob, guest = owner(driver), driver.open()
    with contextlib.closing(connect(database)) as holder:
        hold(holder)
        assert answer(driver, bob, protect(KEY[::-1]) + protect(OTHER_KEY)) == [
            "storage_failed"] * 2
        holder.execute("ROLLBACK")
    driver.send(bob, BUY)               # an account with a change is not read again
    driver.send(guest, login("bob", KEY[::-1]) + login("bob", KEY))
    driver.tick()
    assert outcomes(driver.replies(guest)) == ["wrong_key", [CHEAP]]


@both_storages
def test_failed_commit_of_a_first_key_leaves_the_account_unprotected(driver, database):
    bob, guest = driver.login("bob"), driver.open()
    with contextlib.closing(connect(database)) as holder:
        hold(holder)
        assert answer(driver, bob, protect(KEY)) == ["storage_failed"]
        holder.execute("ROLLBACK")
    assert answer(driver, guest, login("bob")) == ["nickname_in_use"]
    assert answer(driver, bob, LOGOUT + login("bob")) == [True, []]


@both
def test_row_changed_outside_keeps_its_key(driver, database):
    """Optimistic locking skips the whole account, key included."""
    bob = owner(driver)
    driver.send(bob, protect(OTHER_KEY) + BUY)
    driver.serve()
    with contextlib.closing(connect(database)) as outside:
        outside.execute("UPDATE account SET credits = credits + 1 WHERE nickname = 'bob'")
    driver.commit()
    assert outcomes(driver.replies(bob)) == ["storage_failed"] * 2
    assert stored_keys(database) == {"bob": hash_of(KEY)}


@on_postgresql
def test_locked_key_stops_only_its_owner(driver, database, outside):
    bob, ann = owner(driver), driver.login("ann")
    outside.execute("BEGIN")
    outside.execute("SELECT * FROM account_key FOR UPDATE")
    driver.shop.storage.query("SET lock_timeout = 0")
    driver.send(bob, protect(OTHER_KEY))
    driver.send(ann, BUY)
    driver.tick()
    assert outcomes(driver.replies(bob)) == ["storage_failed"]
    assert outcomes(driver.replies(ann)) == [[CHEAP]]
    outside.execute("ROLLBACK")
    assert answer(driver, bob, protect(OTHER_KEY)) == [True]


def test_key_that_is_no_text_of_the_shop_opens_nothing(driver, outside):
    bob = owner(driver)
    assert answer(driver, bob, LOGOUT) == [True]
    outside.execute("UPDATE account_key SET hash = 7")
    assert answer(driver, bob, login("bob") + login("bob", KEY)) == ["key_required", "wrong_key"]
    outside.execute("UPDATE account_key SET hash = x'ff'")
    assert answer(driver, bob, login("bob") + login("bob", KEY)) == ["storage_failed"] * 2
    outside.execute("UPDATE account_key SET hash = 'Ж'")
    assert answer(driver, bob, login("bob") + login("bob", KEY)) == ["key_required", "wrong_key"]


def test_protect_needs_a_login(driver):
    assert answer(driver, driver.open(), protect(KEY)) == ["not_logged_in"]


# --- the takeover ---------------------------------------------------------------------------------

@both_storages
def test_right_key_takes_the_nickname_over(driver, database, log_lines):
    old, new = owner(driver), driver.open()
    log_lines()
    assert answer(driver, new, login("bob", KEY)) == [[]]
    assert driver.service.players == {"bob": new}
    assert old.close_reason == "taken_over" and old.account is None
    assert [line.split(" peer=")[0] for line in log_lines()] == [
        'logout nickname="bob"', 'login nickname="bob"']
    assert answer(driver, new, BUY) == [[CHEAP]]
    audit(database)


@both_storages
def test_without_the_right_key_the_first_login_stays(driver, database):
    old, new = owner(driver), driver.open()
    assert answer(driver, new, login("bob") + login("bob", OTHER_KEY)) == [
        "key_required", "wrong_key"]
    assert driver.service.players == {"bob": old} and answer(driver, old, PING) == ["pong"]


@both_storages
def test_unprotected_nickname_is_not_taken_over(driver, database):
    old, new = driver.login("bob"), driver.open()
    assert answer(driver, new, login("bob", KEY)) == ["nickname_in_use"]
    assert driver.service.players == {"bob": old}


@both_storages
def test_what_the_old_connection_asked_before_is_applied(driver, database):
    old, new = owner(driver), driver.open()
    driver.send(old, BUY + PING)
    driver.send(new, login("bob", KEY))
    driver.tick()
    assert outcomes(driver.replies(new)) == [[CHEAP]] and is_closed(old)
    assert account_of(database, "bob")[1] == CHEAP
    audit(database)


@both_storages
def test_requests_whose_turn_comes_later_in_the_tick_are_applied_first(driver, database):
    number = 2 * constants.REQUEST_QUANTUM
    old, new = owner(driver), driver.open()
    driver.send(old, PING * number + BUY)
    driver.send(new, login("bob", KEY))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert outcomes(driver.replies(new)) == [[CHEAP]] and is_closed(old)


@both_storages
def test_takeover_of_a_connection_that_takes_no_replies(driver, database):
    old, new = owner(driver), driver.open()
    driver.send(old, BUY)
    old.output += b"x" * constants.HIGH_WATER
    driver.send(new, login("bob", KEY))
    driver.tick()
    assert outcomes(driver.replies(new)) == [[CHEAP]] and is_closed(old)
    assert account_of(database, "bob")[1] == CHEAP


@both_storages
def test_takeover_in_the_tick_of_the_logout_leaves_the_connection(driver, database):
    old, new = owner(driver), driver.open()
    driver.send(old, BUY + LOGOUT + login("ann") + PING)
    driver.send(new, login("bob", KEY))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert outcomes(driver.replies(new)) == [[CHEAP]]
    assert outcomes(driver.replies(old)) == [[CHEAP], True, [], "pong"]
    assert driver.service.players == {"bob": new, "ann": old}


@both_storages
def test_takeover_in_the_tick_of_logout_and_login(driver, database):
    """The old connection has the nickname again by then, as another login."""
    old, new = owner(driver), driver.open()
    driver.send(old, LOGOUT + login("bob", KEY))
    driver.send(new, login("bob", KEY))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert outcomes(driver.replies(new)) == [[]] and is_closed(old)
    assert driver.service.players == {"bob": new}


@both_storages
def test_takeover_with_a_key_that_is_replaced_in_the_same_tick(driver, database):
    old, new = owner(driver), driver.open()
    driver.send(old, PING + protect(OTHER_KEY))
    driver.send(new, login("bob", KEY) + login("bob", OTHER_KEY))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert outcomes(driver.replies(new)) == ["wrong_key", []] and is_closed(old)
    assert stored_keys(database) == {"bob": hash_of(OTHER_KEY)}


@both_storages
def test_takeover_after_a_trade_of_the_same_tick_that_changed_nothing(driver):
    """PostgreSQL has read the account for the trade then, without its key."""
    old, new = owner(driver), driver.open()
    driver.send(old, SELL)
    driver.serve()
    driver.send(new, login("bob", OTHER_KEY) + login("bob", KEY))
    driver.tick()
    assert outcomes(driver.replies(new)) == ["wrong_key", []] and is_closed(old)


@both_storages
def test_refused_takeover_keeps_the_replies_of_the_old_connection(driver, database):
    old, new = owner(driver), driver.open()
    driver.send(old, PING + protect(OTHER_KEY) + BUY)
    driver.send(new, login("bob", KEY))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert outcomes(driver.replies(new)) == ["wrong_key"]
    assert outcomes(driver.replies(old)) == ["pong", True, [CHEAP]]
    assert driver.service.players == {"bob": old}


def test_refused_takeover_keeps_the_order_of_unsent_replies(driver):
    """More than a quantum, before and after which something is unsent."""
    old, new = owner(driver), driver.open()
    number = 2 * constants.REQUEST_QUANTUM
    old.output += b"0\n" * constants.HIGH_WATER
    driver.send(old, b"".join(request("ping", id=n) for n in range(number)) + protect(OTHER_KEY))
    driver.send(new, login("bob", KEY))
    driver.tick()
    assert outcomes(driver.replies(new)) == ["wrong_key"]
    replies = driver.replies(old)
    assert replies[:constants.HIGH_WATER] == [0] * constants.HIGH_WATER
    assert [reply["id"] for reply in replies[constants.HIGH_WATER:]] == list(range(number)) + [1]


@both_storages
def test_takeover_in_a_tick_whose_commit_fails(driver, database):
    old, new = owner(driver), driver.open()
    driver.send(old, BUY)
    driver.send(new, login("bob", KEY) + SELL)
    with contextlib.closing(connect(database)) as holder:
        hold(holder)
        driver.tick()
        holder.execute("ROLLBACK")
    assert outcomes(driver.replies(new)) == ["storage_failed"] * 2 and is_closed(old)
    assert not driver.service.players and account_of(database, "bob")[1] == ""
    assert answer(driver, new, login("bob", KEY) + BUY) == [[], [CHEAP]]
    audit(database)


@both_storages
def test_takeover_of_a_login_that_is_not_stored_yet(driver, database):
    """Opened, protected and taken over in one tick."""
    old, new = driver.open(), driver.open()
    driver.send(old, login("bob") + protect(KEY) + BUY)
    driver.send(new, login("bob", KEY))
    driver.tick()
    assert outcomes(driver.replies(new)) == [[CHEAP]] and is_closed(old)
    assert stored_keys(database) == {"bob": hash_of(KEY)} and driver.shop.commits == 1
    audit(database)


@both_storages
def test_login_that_is_not_stored_is_not_taken_over_either(driver, database):
    old, new = driver.open(), driver.open()
    driver.send(old, login("bob") + protect(KEY))
    driver.send(new, login("bob", KEY))
    with contextlib.closing(connect(database)) as holder:
        hold(holder)
        driver.tick()
        holder.execute("ROLLBACK")
    assert outcomes(driver.replies(new)) == ["storage_failed"] and is_closed(old)
    assert not driver.service.players and account_of(database, "bob") is None
    assert answer(driver, new, login("bob")) == [[]]


@both
@pytest.mark.parametrize("line, why", [(b"GET / HTTP/1.1\n", "http"),
                                       (b"x" * 65536 + b"\n", "line_too_long")])
def test_takeover_of_a_connection_whose_last_lines_end_it(driver, line, why):
    old, new = owner(driver), driver.open()
    driver.send(old, BUY + line + PING)
    driver.send(new, login("bob", KEY))
    assert driver.service.serve([new, old], FOREVER) == 2
    driver.commit()
    assert outcomes(driver.replies(new)) == [[CHEAP]] and old.close_reason == why


@both_storages
def test_two_takeovers_in_one_tick(driver, database):
    first, second, third = owner(driver), driver.open(), driver.open()
    driver.send(second, login("bob", KEY) + BUY)
    driver.send(third, login("bob", KEY))
    driver.tick()
    assert outcomes(driver.replies(third)) == [[CHEAP]]
    assert is_closed(first) and is_closed(second)
    assert driver.service.players == {"bob": third}
    assert not driver.service.group.taken_over          # nothing is kept of them
    assert account_of(database, "bob")[1] == CHEAP
    audit(database)


@on_postgresql
def test_takeover_prefetches_what_the_old_connection_asked(driver):
    """A statement for each of its logins would stop the loop: many fit what was read of it."""
    old, new = owner(driver), driver.open()
    number = constants.REQUEST_QUANTUM      # two quanta: a login and a logout each
    driver.send(old, LOGOUT + b"".join(login("guest %d" % n) + LOGOUT for n in range(number)))
    driver.send(new, login("bob", KEY))
    statements = record_statements(driver.shop)
    assert driver.service.serve([new, old], FOREVER) == 2
    assert len(statements) < number / 4
    driver.commit()
    assert outcomes(driver.replies(new)) == [[]] and len(driver.replies(old)) == 2 * number + 1


def test_takeovers_of_a_tick_are_bounded_by_its_time(driver):
    """What is applied of an old connection may be a hundred requests more."""
    class Slow(Session):
        def peer_has_closed(self):
            driver.clock.now += 1
            return False

    for nickname in ("ann", "bob"):
        driver.call(driver.login(nickname, Slow(("127.0.0.1", 1))), "protect", key=KEY)
    newcomers = [driver.open(), driver.open()]
    for newcomer, nickname in zip(newcomers, ("ann", "bob")):
        driver.send(newcomer, login(nickname, KEY))
    assert driver.service.serve(newcomers, driver.clock.now + 0.5) == 1
    assert driver.service.serve(newcomers[1:], driver.clock.now + 0.5) == 1
    driver.commit()
    assert [outcomes(driver.replies(newcomer)) for newcomer in newcomers] == [[[]]] * 2


def test_takeover_that_cannot_read_the_account_leaves_the_first_login(driver, outside):
    old, new = owner(driver), driver.open()
    outside.execute("UPDATE account_key SET hash = x'ff'")
    assert answer(driver, new, login("bob", KEY)) == ["storage_failed"]
    assert driver.service.players == {"bob": old} and answer(driver, old, PING) == ["pong"]


def test_chain_of_takeovers_does_not_recurse(driver):
    """Each logs out and takes over the nickname of the one before; one is finished at a time."""
    number = 1500                                   # more than an interpreter's stack has room for
    chain = [driver.open() for _ in range(number)]
    for n, player in enumerate(chain):
        driver.send(player, login("player %d" % n) + protect(KEY))
    driver.tick()
    for n, player in enumerate(chain):
        driver.send(player, LOGOUT + login("player %d" % (n - 1), KEY) if n else b"")
    newcomer = driver.open()
    driver.send(newcomer, login("player %d" % (number - 1), KEY))
    sessions = [newcomer] + chain[:0:-1]
    served = 0
    while served < len(sessions):
        served += driver.service.serve(sessions[served:], FOREVER)
    driver.commit()
    assert outcomes(driver.replies(newcomer)) == [[]]
    assert not driver.service.is_finishing
    assert not driver.service.statistics.refusals["internal_error"]
    assert len(driver.service.players) == len(set(driver.service.players.values()))


def test_takeover_inside_a_batch(driver):
    old, new = owner(driver), driver.open()
    lines = b"[" + b",".join(line.strip() for line in (BUY, login("bob", KEY), BUY)) + b"]\n"
    driver.send(new, lines)
    driver.tick()
    assert outcomes(driver.replies(new)[0]) == ["not_logged_in", [], [CHEAP]] and is_closed(old)


@on_postgresql
def test_database_lost_in_the_tick_of_a_takeover(driver, outside):
    """Nobody has the nickname then; the replies of both connections are dropped."""
    old, new = owner(driver), driver.open()
    driver.send(old, BUY)
    driver.send(new, login("bob", KEY))
    driver.serve()
    outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid != pg_backend_pid()")
    driver.commit()
    assert not driver.replies(new) and new.close_reason == "storage_lost" and is_closed(old)
    assert not driver.service.players


@both
def test_unprotected_by_an_operator_during_a_login(driver, database):
    old, new = owner(driver), driver.open()
    admin_database.unprotect(db.open_storage(database), io.StringIO(), "bob")
    assert answer(driver, new, login("bob", KEY) + login("bob")) == ["nickname_in_use"] * 2
    assert answer(driver, old, BUY + LOGOUT) == [[CHEAP], True]
    assert answer(driver, new, login("bob")) == [[CHEAP]]
    audit(database)


@on_postgresql
def test_nickname_held_by_another_server_is_not_taken_over(make_driver, database):
    one, other = make_driver(), make_driver()
    old, new = owner(one), other.open()
    assert answer(other, new, login("bob", KEY) + login("bob")) == ["nickname_in_use"] * 2
    assert answer(one, old, BUY + LOGOUT) == [[CHEAP], True]
    assert answer(other, new, login("bob") + login("bob", KEY)) == ["key_required", [CHEAP]]


@on_postgresql
def test_refused_login_does_not_keep_the_nickname_from_other_servers(make_driver, database):
    one, other = make_driver(), make_driver()
    old, new = owner(one), other.open()
    assert answer(one, old, LOGOUT + login("bob", OTHER_KEY)) == [True, "wrong_key"]
    assert answer(other, new, login("bob", KEY)) == [[]]


@both
def test_old_connection_is_closed_and_its_unsent_replies_are_dropped(ticker, database):
    """On real sockets: it gets what the kernel had taken before, and the end."""
    old, connection = ticker.client("bob")
    assert ticker.call(old, "protect", key=KEY)["result"] is True
    new, _ = ticker.client()
    old.send(BUY)
    new.send(login("bob", KEY))
    reply, = ticker.replies(new, 1)
    assert outcomes([reply]) in ([[]], [[CHEAP]])       # whichever came first
    ticker.until(lambda: connection not in ticker.server.connections or ticker.pass_time(1))
    assert old.reader.read() in (b"", None) or outcomes([reply]) == [[CHEAP]]
    assert len(ticker.service.players) == 1
    audit(database)


def test_takeover_of_a_peer_that_reads_nothing(ticker, database, monkeypatch):
    """Its output is full, and its end does not wait for it."""
    monkeypatch.setattr("session.HIGH_WATER", 4096)
    monkeypatch.setattr("service.HIGH_WATER", 4096)
    old, connection = ticker.client("bob")
    assert ticker.call(old, "protect", key=KEY)["result"] is True
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def is_full():
        if connection.is_served():
            old.send(PING * 100)
        return not connection.is_served()

    ticker.until(is_full)
    new, _ = ticker.client()
    assert outcomes([ticker.call(new, "login", nickname="bob", key=KEY)]) == [[]]
    assert not connection.output
    old.reset()
    ticker.until(lambda: connection not in ticker.server.connections)


# --- the log, and who may see a key ---------------------------------------------------------------

def test_log_tells_of_keys_without_showing_them(driver, log_lines):
    bob, guest = owner(driver), driver.open()
    answer(driver, guest, login("bob") + login("bob", OTHER_KEY) * 3 + protect(OTHER_KEY)
           + request("protect", key="short") + request("login", nickname="bob", key="x"))
    answer(driver, guest, login("bob", KEY))
    driver.pass_time(constants.LOG_SUMMARY_SECONDS)
    peer = "peer=127.0.0.1:1"
    lines = [re.sub("peer=.*:[0-9N]+", peer, line) for line in log_lines()]
    assert lines[1:8] + sorted(lines[8:]) == [
        'protect nickname="bob" ' + peer,
        'refused reason=key_required method=login param="bob" nickname=- ' + peer,
        'refused reason=wrong_key method=login param="bob" nickname=- ' + peer,
        'refused reason=not_logged_in method=protect param=- nickname=- ' + peer,
        'refused reason=invalid_params method=- param=- nickname=- ' + peer,
        'logout nickname="bob" %s reason=taken_over' % peer,
        'login nickname="bob" %s created=no' % peer,
        'refused reason=invalid_params times=1',
        'refused reason=wrong_key times=2']
    assert bob.close_reason == "taken_over"


def test_flood_of_keys_is_counted(driver, log_lines, monkeypatch):
    monkeypatch.setattr("log.LOG_ADDRESS_LINES", (3, 1))
    bob = driver.login("bob")
    log_lines()
    assert answer(driver, bob, protect(KEY) * 10) == [True] * 10
    driver.pass_time(constants.LOG_SUMMARY_SECONDS)
    assert log_lines() == ['protect nickname="bob" peer=127.0.0.1:N'] * 3 + [
        'protect host=127.0.0.1 times=7']


def dump(database):
    """Return all texts of the ledger."""
    with contextlib.closing(connect(database)) as connection:
        return "%s" % (connection.execute("SELECT * FROM trade").fetchall(),)


@both
def test_neither_key_nor_hash_is_shown_anywhere(start, database, directory):
    """The log with all its lines, replies, the ledger, the commands' output and `ps`."""
    program = start("--log-level", "debug", database=database)
    replies = []
    bob, guest = Peer(program.port), Peer(program.port)
    for line in [login("bob"), protect(KEY), BUY, protect(OTHER_KEY), protect(KEY[1:]), SELL]:
        replies.append(bob.exchange(line))
    for line in [login("bob"), login("bob", KEY), login("bob", KEY + "\n"), protect(KEY),
                 login("bob", OTHER_KEY), protect(KEY)]:
        replies.append(guest.exchange(line))
    assert outcomes(replies[6:]) == ["key_required", "wrong_key", "invalid_params",
                                     "not_logged_in", [], True]
    with contextlib.closing(connect(database)) as holder:
        hold(holder)
        replies.append(guest.call("protect", key=OTHER_KEY))
        holder.execute("ROLLBACK")
    assert reason(replies[-1]) == "storage_failed"
    shown = [json.dumps(replies), program.log(), dump(database)]
    for command in ("show bob", "history bob", "verify"):
        shown.append("%s" % (run_program("admin.py", *command.split(), cwd=directory,
                                         LAVKA_DATABASE=database),))
    for name in ("cmdline", "environ"):
        with io.open("/proc/%d/%s" % (program.process.pid, name), "rb") as file:
            shown.append(file.read().decode("utf-8", "replace"))
    assert "protected yes" in shown[3] and "trade nickname" in shown[1]
    for secret in (KEY, OTHER_KEY, hash_of(KEY), hash_of(OTHER_KEY)):
        for text in shown:
            assert secret not in text and secret[1:] not in text


# --- the operator ---------------------------------------------------------------------------------

def run(*arguments, **options):
    return run_program("admin.py", *arguments, **options)


@both
def test_show_tells_whether_an_account_is_protected(driver, database, directory):
    bob = driver.login("bob")
    shown = "protected %s\n"
    assert shown % "no" in run("show", "bob", cwd=directory, LAVKA_DATABASE=database)[1]
    assert answer(driver, bob, protect(KEY)) == [True]
    assert shown % "yes" in run("show", "bob", cwd=directory, LAVKA_DATABASE=database)[1]


@both
def test_unprotect_removes_the_key_beside_a_server(driver, database, directory):
    bob, guest = owner(driver), driver.open()
    assert run("unprotect", "bob", cwd=directory, LAVKA_DATABASE=database) == (
        0, '"bob" needs no key now\n', "")
    assert stored_keys(database) == {}
    assert answer(driver, bob, LOGOUT) == [True]
    assert answer(driver, guest, login("bob")) == [[]]
    assert run("unprotect", "bob", cwd=directory, LAVKA_DATABASE=database) == (
        1, "", 'the account "bob" has no key\n')
    assert run("unprotect", "eve", cwd=directory, LAVKA_DATABASE=database) == (
        1, "", 'there is no account "eve"\n')


@both
def test_verify_tells_of_a_key_that_the_shop_did_not_write(driver, database, directory, outside):
    owner(driver)
    outside.execute("UPDATE account_key SET hash = 'secret'")
    status, out, err = run("verify", cwd=directory, LAVKA_DATABASE=database)
    assert (status, err) == (1, "")
    assert out == ('account "bob": the hash of its key is none that the shop writes\n'
                   'accounts: 1, rows of the ledger: 1, problems: 1\n')


def test_verify_tells_of_a_key_without_an_account(database, directory, outside):
    outside.execute("INSERT INTO account_key VALUES (7, ?)", (hash_of(KEY),))
    status, out, _ = run("verify", cwd=directory, LAVKA_DATABASE=database)
    assert status == 1
    assert out == ("a key belongs to account 7, which is not there\n"
                   "accounts: 0, rows of the ledger: 0, problems: 1\n")


# --- databases from before the keys ---------------------------------------------------------------

# What version 1.1 has: a ledger without notes, and no keys.
OLD_COLUMNS = {"id", "account_id", "time", "what", "item", "price", "credits"}


@pytest.fixture
def keyless(database, outside):
    """Return a database of version 1.1, with one account: the way back of the manual makes it."""
    with io.open(os.path.join(ROOT, "docs", "operations.md"), encoding="utf-8") as page:
        way_back, = re.findall("```sql\n(DROP TABLE account_key;\n.*?)```", page.read(), re.DOTALL)
    for statement in way_back.split(";\n"):
        if statement:
            outside.execute(statement)
    outside.execute("INSERT INTO account (id, nickname, credits, items) VALUES (1, 'bob', 500, '')")
    outside.execute("INSERT INTO trade (account_id, time, what, item, price, credits) "
                    "VALUES (1, 1767323045, 'opening', '', 0, 500)")
    return database


def columns(database, outside):
    """Return the columns of the ledger."""
    return {column[0] for column in outside.execute("SELECT * FROM trade").description}


@both
def test_database_from_before_the_keys_is_refused_with_the_command_that_upgrades_it(keyless,
                                                                                    directory):
    for program, arguments in [("server.py", ["--port", "0"]), ("admin.py", ["show", "bob"])]:
        status, out, err = run_program(program, *arguments, cwd=directory, LAVKA_DATABASE=keyless)
        assert (status, out) == (1, "") and err.count("\n") == 1
        assert "is from an older version" in err and "python db.py" in err


@both
@pytest.mark.parametrize("arguments", [[], ["--upgrade"]])
def test_database_from_before_the_keys_is_upgraded(keyless, directory, make_driver, arguments,
                                                   outside):
    for _ in range(2):
        status, _, err = run_program("db.py", *arguments, cwd=directory, LAVKA_DATABASE=keyless)
        assert status == 0 and "ready" in err
    assert columns(keyless, outside) == OLD_COLUMNS | {"note"}
    driver = make_driver()
    bob = owner(driver)
    assert answer(driver, bob, BUY) == [[CHEAP]]
    admin_database.grant(db.open_storage(keyless), io.StringIO(), "bob", 5)
    audit(keyless)


@both
def test_database_with_keys_but_without_notes_is_upgraded(database, directory, outside):
    outside.execute("ALTER TABLE trade DROP COLUMN note")
    assert run_program("db.py", cwd=directory, LAVKA_DATABASE=database)[0] == 0
    assert columns(database, outside) == OLD_COLUMNS | {"note"}


def test_file_is_not_upgraded_under_a_server_that_asks_for_no_keys(keyless, directory, outside):
    with open(keyless + ".lock", "ab") as held:
        import fcntl
        fcntl.flock(held, fcntl.LOCK_EX)
        status, _, err = run_program("db.py", cwd=directory, LAVKA_DATABASE=keyless)
    assert status == 1 and err == "another server is serving %s\n" % os.path.realpath(keyless)
    assert columns(keyless, outside) == OLD_COLUMNS


@on_postgresql
@pytest.mark.parametrize("name, statement", [
    ("lavka", "SELECT 1"), ("another", "SELECT pg_advisory_lock(hashtextextended('bob', 0))")])
def test_postgresql_is_not_upgraded_under_a_server_that_asks_for_no_keys(keyless, directory,
                                                                         outside, name, statement):
    """It is known by its name, or by its players."""
    with contextlib.closing(connect(keyless + "?application_name=" + name)) as server:
        server.execute(statement)
        status, _, err = run_program("db.py", cwd=directory, LAVKA_DATABASE=keyless)
        assert status == 1 and "stop all of its servers" in err and err.count("\n") == 1
    assert columns(keyless, outside) == OLD_COLUMNS


@on_postgresql
def test_concurrent_upgrades_of_postgresql_all_succeed(keyless, directory, outside):
    """They wait for one another, and none takes another one for a server."""
    with contextlib.closing(connect(keyless)) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT pg_advisory_xact_lock(hashtextextended('', 0))")
        upgrades = [subprocess.Popen([sys.executable, os.path.join(ROOT, "db.py")], cwd=directory,
                                     env=environment(LAVKA_DATABASE=keyless)) for _ in range(2)]
        wait_for(lambda: outside.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = "
                                         "'advisory'").fetchone()[0] == 2, "both to wait")
        holder.execute("ROLLBACK")
    assert [upgrade.wait() for upgrade in upgrades] == [0, 0]
    assert columns(keyless, outside) == OLD_COLUMNS | {"note"}


@on_postgresql
def test_server_that_asks_for_no_keys_can_store_nothing_after_the_upgrade(keyless, outside):
    """One that hid under another name during the upgrade: this is its statement."""
    db.create_tables(keyless)
    import psycopg2
    with pytest.raises(psycopg2.Error):
        outside.execute("INSERT INTO trade (account_id, time, what, item, price, credits) "
                        "VALUES (1, 1767323046, 'purchase', 'potion', 25, 475)")
