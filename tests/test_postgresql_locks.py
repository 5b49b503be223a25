# -*- coding: utf-8 -*-
"""Locks of PostgreSQL that stand in a server's way: of a row, a new nickname, a table."""
from __future__ import unicode_literals

import contextlib
import re
import threading
import time

import pytest
from conftest import (CHEAP, Peer, account_of, audit, connect, log_in_stored, on_postgresql, reason,
                      record_statements, request, run_program, wait_for)

from constants import BUSY_SECONDS
from log import monotonic
from postgresql import PostgreSQL

AT_ONCE = BUSY_SECONDS / 2      # seconds; a wait for the lock would take longer


def commit(shop):
    """Commit; return (the nicknames that could not be stored, the seconds that it took)."""
    begin = monotonic()
    failed = shop.commit()
    return {account.nickname for account in failed}, monotonic() - begin


def trade(shop, accounts):
    """Have each account buy or sell, in this tick."""
    for account in accounts:
        (shop.sell if CHEAP in account.items else shop.buy)(account, CHEAP)


def not_stored(caplog):
    """Return the log's lines about accounts that were not stored, and forget them."""
    lines = [line for record in caplog.records for line in record.getMessage().split("\n")
             if re.match("row_locked|changed_outside|storage_failed", line)]
    caplog.clear()
    return lines


# --- rows -----------------------------------------------------------------------------------------

LOCKS = [
    ("SELECT * FROM account WHERE nickname = 'bob' FOR UPDATE", "an open console"),
    (PostgreSQL.SELECT_TO_CHANGE.replace("?", "'bob'"), "a grant"),
    ("SELECT * FROM account WHERE nickname = 'bob' FOR SHARE", "another reader"),
    ("UPDATE account SET credits = credits + 1 WHERE nickname = 'bob'", "a change"),
    ("DELETE FROM account WHERE nickname = 'bob'", "a deletion")]


@on_postgresql
@pytest.mark.parametrize("lock", [lock for lock, _ in LOCKS], ids=[who for _, who in LOCKS])
def test_locked_row_fails_its_player_alone_and_nobody_waits(shop, database, outside, caplog, lock):
    bob, ann = log_in_stored(shop, "bob"), log_in_stored(shop, "ann")
    before = bob.row()
    outside.execute("DELETE FROM trade")        # of which a row would refer to the deleted account
    outside.execute("BEGIN")
    outside.execute(lock)
    for number in range(3):
        trade(shop, [bob, ann])
        shop.login("new %d" % number)
        failed, seconds = commit(shop)
        assert failed == {"bob"} and seconds < AT_ONCE
        assert bob.row() == before and account_of(database, "bob") == before
        assert account_of(database, "ann") == ann.row()
        assert account_of(database, "new %d" % number) is not None
        assert not_stored(caplog) == ['row_locked nickname="bob"']
    outside.execute("ROLLBACK")
    trade(shop, [bob, ann])
    assert not shop.commit()
    assert account_of(database, "bob") == bob.row() != before


@on_postgresql
def test_row_that_was_changed_under_the_lock_is_never_overwritten(shop, database, outside, caplog):
    bob, ann = log_in_stored(shop, "bob"), log_in_stored(shop, "ann")
    outside.execute("BEGIN")
    outside.execute("UPDATE account SET credits = 5000 WHERE nickname = 'bob'")
    trade(shop, [bob, ann])
    shop.storage.data_version = lambda: 0       # the row is not loaded again in the second tick
    assert commit(shop)[0] == {"bob"}
    outside.execute("COMMIT")
    bob.version = shop._version = 0
    trade(shop, [bob, ann])
    assert commit(shop)[0] == {"bob"}
    assert bob.credits == 5000 and account_of(database, "bob") == (5000, "")
    assert not_stored(caplog) == ['row_locked nickname="bob"', 'changed_outside nickname="bob"']


@on_postgresql
def test_row_that_changes_while_the_statement_runs_is_never_overwritten(shop, database, outside):
    """Its snapshot has the old row (READ COMMITTED); the row is compared again when it is locked."""
    bob, ann = log_in_stored(shop, "bob"), log_in_stored(shop, "ann")
    outside.execute("CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$")
    outside.execute("CREATE TRIGGER pause BEFORE INSERT ON account "
                    "FOR EACH ROW EXECUTE PROCEDURE pause()")

    def change():
        with contextlib.closing(connect(database)) as other:
            wait_for(lambda: other.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = "
                                           "'PgSleep' AND datname = current_database()").fetchone(),
                     "the statement to begin")
            other.execute("UPDATE account SET credits = 5000 WHERE nickname = 'bob'")

    thread = threading.Thread(target=change)
    thread.start()
    trade(shop, [bob, ann])
    shop.login("new")                           # inserted first, after a pause
    assert commit(shop)[0] == {"bob"}
    thread.join()
    assert account_of(database, "bob") == (5000, "") and account_of(database, "ann") == ann.row()


@on_postgresql
def test_locks_that_leave_the_credits_alone_fail_nothing(shop, outside):
    """Rows of the ledger, and what a foreign key's check locks."""
    bob = log_in_stored(shop)
    outside.execute("BEGIN")
    outside.execute("SELECT * FROM trade FOR UPDATE")
    outside.execute("SELECT * FROM account FOR KEY SHARE")
    statements = record_statements(shop)
    trade(shop, [bob])
    assert not shop.commit() and len(statements) == 2


@on_postgresql
def test_locked_row_can_be_read(shop, database, outside):
    log_in_stored(shop)
    shop.logout(shop.login("bob")[0])
    assert not shop.commit()
    outside.execute("BEGIN")
    outside.execute("SELECT * FROM account FOR UPDATE")
    assert not shop.login("bob")[1] and not shop.commit()
    for command in (["show", "bob"], ["history", "bob"], ["verify"]):
        assert run_program("admin.py", *command, LAVKA_DATABASE=database)[0] == 0


@on_postgresql
def test_real_server_answers_the_player_of_a_locked_row_and_all_others(start, database, outside):
    program = start(database=database)
    bob, others = Peer(program.port, "bob"), [Peer(program.port, "n %d" % n) for n in range(10)]
    outside.execute("BEGIN")
    outside.execute("SELECT * FROM account WHERE nickname = 'bob' FOR UPDATE")
    for method in ("buy", "sell", "buy"):
        begin = monotonic()
        for peer in [bob] + others:
            peer.send(request(method, item=CHEAP))
        assert all("result" in peer.line() for peer in others)
        assert monotonic() - begin < BUSY_SECONDS
        reply = bob.line()
        assert reason(reply) == ("item_not_owned" if method == "sell" else "storage_failed")
    outside.execute("ROLLBACK")
    assert bob.call("buy", item=CHEAP)["result"]["account"]["items"] == [CHEAP]
    assert program.log().count('WARNING row_locked nickname="bob"') == 1    # rate-limited
    assert "changed_outside" not in program.log() and "ERROR" not in program.log()
    audit(database)


# --- new nicknames --------------------------------------------------------------------------------

@on_postgresql
def test_nickname_that_somebody_inserts_fails_its_login_alone(shop, database, outside, caplog):
    bob = log_in_stored(shop)
    outside.execute("BEGIN")
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('eve', 7, '')")
    trade(shop, [bob])
    for nickname in ("ann", "eve", "dan", "joe"):
        assert shop.login(nickname)[1]
    failed, seconds = commit(shop)
    assert failed == {"eve"} and seconds < AT_ONCE
    assert not_stored(caplog) == ['row_locked nickname="eve"']
    assert account_of(database, "bob") == bob.row()
    assert None not in [account_of(database, nickname) for nickname in ("ann", "dan", "joe")]
    outside.execute("COMMIT")
    eve, created = shop.login("eve")
    assert not created and eve.credits == 7


@on_postgresql
def test_many_nicknames_that_somebody_inserts_take_a_bounded_time(shop, database, outside):
    bob = log_in_stored(shop)
    outside.execute("BEGIN")
    outside.execute("INSERT INTO account (nickname, credits, items) "
                    "SELECT 'n ' || n, 7, '' FROM generate_series(1, 400) AS n")
    trade(shop, [bob])
    for number in range(1, 401):
        shop.login("n %d" % number)
    failed, seconds = commit(shop)
    assert len(failed) == 400 and seconds < 2 * BUSY_SECONDS
    assert account_of(database, "bob") == bob.row()


# --- tables ---------------------------------------------------------------------------------------

@on_postgresql
@pytest.mark.parametrize("table, mode", [("account", "ACCESS EXCLUSIVE"), ("account", "SHARE"),
                                         ("trade", "ACCESS EXCLUSIVE"), ("trade", "EXCLUSIVE")])
def test_locked_table_is_waited_for_once(shop, database, outside, caplog, table, mode):
    bob, ann = log_in_stored(shop, "bob"), log_in_stored(shop, "ann")
    outside.execute("BEGIN")
    outside.execute("LOCK TABLE %s IN %s MODE" % (table, mode))
    waits = []
    for _ in range(4):
        begin = monotonic()
        shop.prefetch(["bob", "ann"])
        trade(shop, [bob, ann])
        assert commit(shop)[0] == {"bob", "ann"}
        waits.append(monotonic() - begin)
    assert BUSY_SECONDS <= waits[0] < 2 * BUSY_SECONDS and max(waits[1:]) < AT_ONCE
    line, = not_stored(caplog)
    assert line.startswith("storage_failed error=")
    outside.execute("ROLLBACK")
    trade(shop, [bob, ann])
    assert not shop.commit()
    outside.execute("BEGIN")
    outside.execute("LOCK TABLE %s IN %s MODE" % (table, mode))
    release = threading.Timer(BUSY_SECONDS / 2, outside.execute, ["ROLLBACK"])
    release.start()
    trade(shop, [bob, ann])
    assert not shop.commit()                    # it waits again: most locks of a table are short
    release.join()
    audit(database)
