# -*- coding: utf-8 -*-
"""Locks of PostgreSQL that stand in a server's way, of a row, a new nickname, a table; and the room
that there is for locks."""
from __future__ import unicode_literals

import contextlib
import re
import threading

import pytest
from conftest import (CHEAP, Peer, account_of, advisory_locks, audit, connect, free_port,
                      log_in_stored, on_postgresql, reason, record_statements, refusal_of, request,
                      run_program, wait_for)

import db
import pgcluster
from constants import BUSY_SECONDS
from log import monotonic
from postgresql_database import PostgreSQLDatabase
from postgresql_locks import NicknameLocks
from session import FOREVER

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
    (PostgreSQLDatabase.SELECT_TO_CHANGE.replace("?", "'bob'"), "a grant"),
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
    """Its snapshot has the old row (READ COMMITTED); the row is compared anew once it is locked."""
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


# --- the lock table -------------------------------------------------------------------------------

ROOM = 180      # nine tenths of max_locks_per_transaction * max_connections below


@pytest.fixture
def small_cluster(cluster):
    """Return a cluster whose lock table has little room."""
    small = pgcluster.Cluster(free_port(), ["max_locks_per_transaction=10", "max_connections=20"])
    yield small
    small.close()


def count_again(shop):
    """Let the time pass after which the locks are counted again."""
    shop.storage._locks._count_at = 0


def log_in_many(shop, name, number):
    """Log in with so many nicknames in a tick; return the refused ones."""
    nicknames = ["%s %d" % (name, each) for each in range(number)]
    shop.prefetch(nicknames)
    refused = []
    for nickname in nicknames:
        try:
            shop.login(nickname)
        except db.Refusal as refusal:
            assert (refusal.reason, refusal.message) == (
                "storage_failed", "There is no room for another player now. Try again later.")
            refused.append(nickname)
    assert not shop.commit()
    return refused


def test_lock_table_is_filled_to_nine_tenths_by_all_servers_together(small_cluster, open_shop,
                                                                     caplog):
    database = small_cluster.url(small_cluster.template)
    one, two = open_shop(database), open_shop(database)
    assert caplog.text.count("few_locks room_for=%d:" % ROOM) == 2
    bob = log_in_stored(one)
    assert log_in_many(one, "one", 100) == [] and "locks_full" not in caplog.text
    refused = log_in_many(two, "two", 100)
    assert "ERROR" in caplog.text and caplog.text.count("locks_full room_for=%d" % ROOM) == 1
    locked = advisory_locks(database)
    assert locked == 201 - len(refused) and ROOM - 20 <= locked <= ROOM      # a few are of tables
    # Nothing is counted again and again, and a place that this server gives back is there.
    statements = record_statements(two)
    assert len(log_in_many(two, "late", 3)) == 3
    player = next(name for name in map("two {}".format, range(100)) if name not in refused)
    two.logout(two.login(player)[0])
    assert not two.commit() and len(log_in_many(two, "late", 3)) == 2
    assert NicknameLocks.COUNT not in statements
    # Players go on, and so do the commands.
    trade(one, [bob])
    assert not one.commit()
    for program, arguments in (("db.py", []), ("admin.py", ["grant", "bob", "5"]),
                               ("admin.py", ["verify"]), ("admin.py", ["show", "bob"])):
        assert run_program(program, *arguments, LAVKA_DATABASE=database)[0] == 0
    for shop in (one, two):
        count_again(shop)
        assert log_in_many(shop, "later", 1) == ["later 0"]
    # Places that other servers give back are found.
    for number in range(50):
        one.logout(one.login("one %d" % number)[0])
    assert not one.commit() and log_in_many(two, "later", 1) == ["later 0"]
    count_again(two)
    assert log_in_many(two, "later", 1) == []


def test_server_counts_again_after_an_eighth_of_the_room(small_cluster, open_shop):
    shop = open_shop(small_cluster.url(small_cluster.template))
    statements = record_statements(shop)
    for number in range(160):
        assert log_in_many(shop, "player %d" % number, 1) == []
    assert 5 <= statements.count(NicknameLocks.COUNT) <= 40
    del statements[:]
    for _ in range(50):                         # the same player comes and goes
        shop.logout(shop.login("player 7 0")[0])
        assert not shop.commit()
        assert not shop.login("player 7 0")[1] and not shop.commit()
    assert statements.count(NicknameLocks.COUNT) <= 1


def test_lock_table_that_others_fill_refuses_logins_and_frees_what_was_locked(
        small_cluster, open_shop, outside_of, caplog):
    database = small_cluster.url(small_cluster.template)
    shop = open_shop(database)
    bob = log_in_stored(shop)
    outside = outside_of(database)
    with pytest.raises(outside.connection.Error):
        for number in range(100000):
            outside.execute("SELECT pg_advisory_lock(?)", (number,))
    outside.execute("SELECT pg_advisory_unlock(number) FROM generate_series(0, 49) AS number")
    before = advisory_locks(database)
    shop.storage._locks._most = shop.storage._locks._count_at = FOREVER     # it does not know
    shop.prefetch(["player %d" % number for number in range(1000)])
    assert refusal_of(shop.login, "player 7").reason == "storage_failed"
    assert "out of shared memory" in caplog.text
    assert not shop.commit()
    trade(shop, [bob])
    assert not shop.commit() and not shop.storage.is_lost
    assert advisory_locks(database) == before
    outside.execute("SELECT pg_advisory_unlock_all()")
    assert shop.login("player 7")[1] and not shop.commit()
