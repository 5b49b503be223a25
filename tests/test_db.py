# -*- coding: utf-8 -*-
"""The shop with real faults: accounts, trades, commits, refresh, the tables; `python db.py`."""
from __future__ import unicode_literals

import contextlib
import io
import logging
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import (CHEAP, ROOT, account_rows, audit, both, connect, environment, hold,
                      ledger_rows, log_in_stored, refusal_of, run_in_shell, run_program)

import admin_database
import db
from constants import CREDITS_RANGE, ITEMS, MAX_CREDITS, MAX_NICKNAME, VERSION
from models import Account
from sqlite import SQLite

# --- accounts -----------------------------------------------------------------------------------

@both
def test_login_with_new_nickname_opens_account(shop, outside):
    account, created = shop.login("bob")
    assert created
    assert CREDITS_RANGE[0] <= account.credits <= CREDITS_RANGE[1]
    assert account.items == []
    assert account_rows(outside) == []                  # not before the commit
    assert shop.commit() == frozenset()
    assert account_rows(outside) == [("bob", account.credits, "")]


def test_credits_of_new_accounts_cover_the_whole_range(shop):
    credits = {shop.login("player %d" % number)[0].credits for number in range(20000)}
    assert min(credits) == CREDITS_RANGE[0] and max(credits) == CREDITS_RANGE[1]


@both
def test_login_with_known_nickname_loads_its_account(shop):
    first = log_in_stored(shop)
    shop.buy(first, CHEAP)
    shop.commit()
    account, created = shop.login("bob")
    assert not created and account is not first
    assert (account.credits, account.items) == (first.credits, [CHEAP])


NICKNAMES = ["bob", "Боб", "👩‍🚀", "'; DROP TABLE account; --", "\x01\x1b[31m", "a\nb", '"',
             " bob ", "BOB", "%s", "?", ",", "x" * MAX_NICKNAME, "\U0001f600" * MAX_NICKNAME]


@both
def test_nicknames_are_stored_exactly(shop, outside):
    stored = []
    for nickname in NICKNAMES:
        account = log_in_stored(shop, nickname)
        stored.append((nickname, account.credits, ""))
        assert account_rows(outside) == stored
        assert shop.login(nickname)[1] is False


@both
def test_uncommitted_account_is_opened_once(shop, outside):
    first, _ = shop.login("bob")
    second, created = shop.login("bob")                 # logged out and in again in one tick
    assert second is first and not created
    shop.commit()
    assert len(account_rows(outside)) == 1


@both
def test_prefetch_is_a_hint(shop, outside):
    """A login needs no prefetch, and a prefetch needs no login."""
    log_in_stored(shop, "ann", 500, outside)
    shop.prefetch(["ann", "bob"])
    shop.prefetch(["ann"])
    shop.prefetch([])
    ann, created = shop.login("ann")
    assert ann.row() == (500, "") and not created
    eve, created = shop.login("eve")                    # not prefetched
    assert created
    for account in (ann, eve):
        shop.buy(account, CHEAP)
    assert not shop.commit()
    assert account_rows(outside) == [("ann", 500 - ITEMS[CHEAP], CHEAP),
                                     ("eve", eve.credits, CHEAP)]


@both
def test_failed_read_refuses_login(shop):
    shop.storage.database.execute_sql("ALTER TABLE account RENAME TO elsewhere")
    assert refusal_of(shop.login, "bob").reason == "storage_failed"
    shop.storage.database.execute_sql("ALTER TABLE elsewhere RENAME TO account")
    shop.commit()
    assert shop.login("bob")[1]


@both
def test_failed_prefetch_is_logged_and_refuses_login(shop, caplog):
    shop.storage.database.execute_sql("ALTER TABLE account RENAME TO elsewhere")
    shop.prefetch(["bob"])
    assert refusal_of(shop.login, "bob").reason == "storage_failed"
    assert caplog.text.count("storage_failed error=") == 1


# --- trades -------------------------------------------------------------------------------------

@both
def test_purchase_takes_price_and_appends_item(shop, outside):
    account = log_in_stored(shop, credits=1000, outside=outside)
    for item in ("sword", CHEAP):
        shop.buy(account, item)
    assert account.credits == 1000 - ITEMS["sword"] - ITEMS[CHEAP]
    assert account_rows(outside) == [("bob", 1000, "")]     # not before the commit
    assert not shop.commit()
    assert account_rows(outside) == [
        ("bob", account.credits, "sword," + CHEAP)]         # in order of purchase


@both
def test_sale_returns_full_price(shop, outside):
    account = log_in_stored(shop, credits=1000, outside=outside)
    for item in ("sword", CHEAP, "bow"):
        shop.buy(account, item)
    shop.commit()
    shop.sell(account, CHEAP)
    shop.commit()
    assert account_rows(outside) == [("bob", 1000 - ITEMS["sword"] - ITEMS["bow"], "sword,bow")]
    shop.sell(account, "bow")
    shop.sell(account, "sword")
    shop.commit()
    assert account_rows(outside) == [("bob", 1000, "")]


@both
def test_last_credit_can_be_spent(shop, outside):
    account = log_in_stored(shop, credits=ITEMS[CHEAP], outside=outside)
    shop.buy(account, CHEAP)
    assert account.credits == 0
    assert not shop.commit()


@both
def test_refusal_changes_nothing(shop, outside):
    account = log_in_stored(shop, credits=ITEMS["sword"] + 1, outside=outside)
    shop.buy(account, "sword")
    shop.commit()
    before = account_rows(outside)
    assert refusal_of(shop.buy, account, "excalibur").reason == "unknown_item"
    assert refusal_of(shop.buy, account, "Sword").reason == "unknown_item"      # exact on the wire
    assert refusal_of(shop.buy, account, "").reason == "unknown_item"
    assert refusal_of(shop.buy, account, "sword").reason == "item_already_owned"
    refusal = refusal_of(shop.buy, account, CHEAP)
    assert refusal.reason == "not_enough_credits"
    assert refusal.data == {"credits": 1, "price": ITEMS[CHEAP]}
    assert refusal_of(shop.sell, account, CHEAP).reason == "item_not_owned"
    assert refusal_of(shop.sell, account, "excalibur").reason == "item_not_owned"
    assert not account.is_dirty and account.row() == (1, "sword")
    assert not shop.commit()
    assert account_rows(outside) == before


@both
def test_item_that_left_the_catalog_cannot_be_sold(shop, outside):
    log_in_stored(shop)
    outside.execute("UPDATE account SET items = 'excalibur,sword'")
    account, _ = shop.login("bob")
    assert refusal_of(shop.sell, account, "excalibur").reason == "unknown_item"
    shop.sell(account, "sword")
    shop.commit()
    assert account_rows(outside)[0][2] == "excalibur"


@both
def test_sale_above_the_most_credits_is_refused(shop, outside):
    log_in_stored(shop)
    outside.execute("UPDATE account SET items = ?, credits = ?",
                    (CHEAP, MAX_CREDITS - ITEMS[CHEAP] + 1))
    account, _ = shop.login("bob")
    assert refusal_of(shop.sell, account, CHEAP).reason == "storage_failed"
    assert not account.is_dirty and account.items == [CHEAP]


# --- commits ------------------------------------------------------------------------------------

@both
def test_commit_without_changes_opens_no_transaction(shop, outside):
    unlock = lock(outside, shop)                        # it would fail
    assert shop.commit() == frozenset()
    unlock()


def lock(outside, shop):
    hold(outside)
    return lambda: outside.execute("ROLLBACK")


def fill_disk(outside, shop):
    pages, = shop.storage.query("PRAGMA page_count").fetchone()
    shop.storage.query("PRAGMA max_page_count = %d" % pages)
    return lambda: shop.storage.query("PRAGMA max_page_count = 1000000")


def make_read_only(outside, shop):
    read_only = ("PRAGMA query_only = %d" if type(shop.storage) is SQLite
                 else "SET default_transaction_read_only = %d")
    shop.storage.query(read_only % 1)
    return lambda: shop.storage.query(read_only % 0)


def refuse_ledger(outside, shop):
    """Let the commit fail once the accounts are written."""
    outside.execute("ALTER TABLE trade ADD CONSTRAINT broken CHECK (false) NOT VALID")
    return lambda: outside.execute("ALTER TABLE trade DROP CONSTRAINT broken")


faults = pytest.mark.parametrize("database, fault", [
    ("sqlite", lock), ("sqlite", fill_disk), ("sqlite", make_read_only),
    ("postgresql", lock), ("postgresql", refuse_ledger), ("postgresql", make_read_only)],
    indirect=["database"])


@faults
def test_failed_commit_changes_nothing_and_recovers(shop, outside, fault, caplog, monkeypatch):
    monkeypatch.setattr(db, "RECOVERY_SECONDS", 0)
    account = log_in_stored(shop, credits=100, outside=outside)
    before = account_rows(outside)
    recover = fault(outside, shop)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            # Enough new accounts that a full disk has no room for them.
            new = [shop.login("new %d %s" % (n, "x" * 200))[0] for n in range(50)]
            shop.buy(account, CHEAP)
            assert account.credits == 100 - ITEMS[CHEAP]
            failed = shop.commit()
            assert failed == frozenset([account] + new)
            assert account.row() == (100, "") and not account.is_dirty
            assert all(one.stored is None and not one.is_dirty for one in new)
            assert account_rows(outside) == before
            assert shop.login("bob")[0].row() == (100, "")      # reads go on
        recover()
        shop.buy(account, CHEAP)
        assert not shop.commit()
    assert account_rows(outside) == [("bob", 100 - ITEMS[CHEAP], CHEAP)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2                                   # one for the fault, not a flood
    assert messages[0].startswith('storage_failed error="')
    assert messages[1] == "storage_recovered failures=3"


@both
def test_log_of_a_failing_storage_is_debounced(shop, outside, caplog, monkeypatch):
    """A lock that comes and goes is one failure, until a second has passed without one."""
    now = [1000.0]
    monkeypatch.setattr(db, "monotonic", lambda: now[0])
    account = log_in_stored(shop, credits=1000, outside=outside)

    def commit_fails():
        unlock = lock(outside, shop)
        shop.buy(account, CHEAP)
        assert shop.commit() == frozenset([account])
        unlock()

    def commit_works(trade):
        trade(account, CHEAP)
        assert not shop.commit()

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            commit_fails()
            commit_works(shop.buy)
            commit_works(shop.sell)
            now[0] += 0.9 * db.RECOVERY_SECONDS
        commit_works(shop.buy)
        assert [record.getMessage().split()[0] for record in caplog.records] == ["storage_failed"]
        now[0] += db.RECOVERY_SECONDS
        commit_works(shop.sell)
    assert [record.getMessage() for record in caplog.records][1:] == [
        "storage_recovered failures=2"]


@both
def test_row_changed_by_another_program_is_never_overwritten(shop, outside, caplog):
    ann, bob = [log_in_stored(shop, name, 500, outside) for name in ("ann", "bob")]
    new, _ = shop.login("new")
    shop.buy(ann, CHEAP)
    shop.buy(bob, CHEAP)
    outside.execute("UPDATE account SET credits = 7 WHERE nickname = 'bob'")
    assert shop.commit() == frozenset([bob])            # the others' changes are stored
    assert bob.row() == (7, "")
    assert account_rows(outside) == [("ann", 500 - ITEMS[CHEAP], CHEAP), ("bob", 7, ""),
                                     ("new", new.credits, "")]
    assert "bob" in caplog.text and "ann" not in caplog.text
    outside.execute("UPDATE account SET credits = 70 WHERE nickname = 'bob'")
    shop.sell(ann, CHEAP)
    assert not shop.commit()
    shop.buy(bob, CHEAP)                                # the change is from an earlier tick
    assert not shop.commit()
    assert bob.row() == (70 - ITEMS[CHEAP], CHEAP)


@both
def test_row_deleted_by_another_program_is_not_inserted_again(shop, outside):
    account = log_in_stored(shop)
    outside.execute("DELETE FROM trade")
    outside.execute("DELETE FROM account")
    shop.buy(account, CHEAP)
    assert shop.commit() == frozenset([account])
    assert account.stored is None
    assert account_rows(outside) == []


@both
def test_row_inserted_by_another_program_before_the_commit_is_not_overwritten(shop, outside):
    account, _ = shop.login("bob")
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', 7, 'bow')")
    assert shop.commit() == frozenset([account])
    assert account_rows(outside) == [("bob", 7, "bow")]
    assert account.row() == (7, "bow")


# --- the ledger of a commit -----------------------------------------------------------------------

@both
def test_every_change_is_recorded_in_the_ledger(shop, outside, database):
    account, _ = shop.login("bob")
    first = account.credits = ITEMS["sword"] + ITEMS[CHEAP]
    shop._ledger[0] = shop._ledger[0][:4] + (first,)    # it is random
    for item in ("sword", CHEAP):
        shop.buy(account, item)
    shop.sell(account, "sword")
    refusal_of(shop.sell, account, "sword")
    refusal_of(shop.buy, account, "horse")
    assert ledger_rows(outside) == []                   # not before the commit
    begin = int(time.time())
    assert not shop.commit()
    assert ledger_rows(outside) == [
        ("opening", "", 0, first), ("purchase", "sword", ITEMS["sword"], ITEMS[CHEAP]),
        ("purchase", CHEAP, ITEMS[CHEAP], 0), ("sale", "sword", ITEMS["sword"], ITEMS["sword"])]
    first_time, = outside.execute("SELECT MIN(time) FROM trade").fetchone()
    assert begin <= first_time <= time.time()
    shop.buy(account, "sword")                          # in a commit of its own
    shop.sell(account, "sword")
    assert not shop.commit()
    assert len(ledger_rows(outside)) == 6
    assert account_rows(outside) == [("bob", ITEMS["sword"], CHEAP)]
    audit(database)
    assert (shop.commits, shop.trades, shop.largest_batch) == (2, 5, 4)


@faults
def test_failed_commit_records_nothing_in_the_ledger(shop, outside, fault, database):
    account = log_in_stored(shop)
    before = ledger_rows(outside)
    recover = fault(outside, shop)
    new = [shop.login("new %d %s" % (n, "x" * 200))[0] for n in range(50)]
    shop.buy(account, CHEAP)
    assert len(shop.commit()) == 51
    recover()
    assert not shop.commit()
    assert ledger_rows(outside) == before and all(one.id is None for one in new)
    assert outside.execute("SELECT COUNT(*) FROM trade").fetchone() == (1,)
    shop.buy(account, CHEAP)
    assert not shop.commit()
    audit(database)


@both
def test_conflict_records_nothing_in_the_ledger(shop, outside):
    ann, bob = [log_in_stored(shop, name) for name in ("ann", "bob")]
    new, _ = shop.login("new")
    shop.buy(ann, CHEAP)
    shop.buy(bob, CHEAP)
    outside.execute("UPDATE account SET credits = credits + 1 WHERE nickname = 'bob'")
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('new', ?, '')",
                    (new.credits,))                     # the very row that was to be written
    assert shop.commit() == frozenset([bob, new])
    assert [len(ledger_rows(outside, name)) for name in ("ann", "bob", "new")] == [2, 1, 0]


# --- refresh --------------------------------------------------------------------------------------

@both
def test_trade_refreshes_an_account_that_was_granted_credits(shop, database):
    account = log_in_stored(shop)
    grant(database, "bob", 5000)
    for item in ITEMS:
        shop.buy(account, item)
        assert not shop.commit()
    assert account.items == list(ITEMS)
    grant(database, "bob", -account.credits)
    shop.sell(account, CHEAP)
    grant(database, "bob", 9)                           # before this sale is stored
    assert shop.commit() == frozenset([account])
    shop.sell(account, CHEAP)
    assert not shop.commit() and account.credits == 9 + ITEMS[CHEAP]
    audit(database)


def grant(database, nickname, credits):
    admin_database.grant(db.open_storage(database), io.StringIO(), nickname, credits)


@both
def test_failed_refresh_is_repeated_by_the_next_trade(shop, outside):
    account = log_in_stored(shop, credits=0, outside=outside)
    outside.execute("UPDATE account SET credits = 5000")
    reload = shop.storage.reload

    def fail_once(nickname):
        shop.storage.reload = reload
        raise sqlite3.OperationalError("disk I/O error")

    shop.storage.reload = fail_once
    assert refusal_of(shop.buy, account, "horse").reason == "not_enough_credits"
    shop.commit()
    shop.buy(account, "horse")
    assert not shop.commit()


# --- the tables -----------------------------------------------------------------------------------

def test_models_name_the_columns_of_the_contract():
    assert Account._meta.table_name == "account"
    assert {"nickname", "credits", "items"} <= set(Account._meta.columns)


@both
def test_database_enforces_the_constraints_of_the_models(shop, outside):
    log_in_stored(shop)
    for statement in ("UPDATE account SET credits = -1",
                      "UPDATE account SET credits = NULL",
                      "UPDATE account SET items = NULL",
                      "INSERT INTO account (nickname, credits, items) VALUES ('bob', 1, '')"):
        with pytest.raises(Exception) as caught:        # of either driver
            outside.execute(statement)
        assert "IntegrityError" in [kind.__name__ for kind in type(caught.value).__mro__]


@both
def test_creating_tables_again_keeps_accounts(database, outside):
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', 7, 'bow')")
    db.create_tables(database)
    assert account_rows(outside) == [("bob", 7, "bow")]


@both
def test_tables_are_created_beside_an_open_shop(database, shop):
    account = log_in_stored(shop)
    db.create_tables(database)
    shop.buy(account, CHEAP)
    assert not shop.commit()


# --- python db.py -------------------------------------------------------------------------------

def test_program_creates_tables_and_is_safe_to_run_again(directory, open_shop):
    for _ in range(2):
        assert run_program("db.py", cwd=directory) == (0, "", "the tables are ready in lavka.db\n")
    open_shop(os.path.join(directory, "lavka.db"))


def test_flag_overrides_environment(directory):
    run_program("db.py", cwd=directory, LAVKA_DATABASE="env.db")
    assert os.path.exists(os.path.join(directory, "env.db"))
    run_program("db.py", "--database", "flag.db", cwd=directory, LAVKA_DATABASE="none.db")
    assert os.path.exists(os.path.join(directory, "flag.db"))
    assert not os.path.exists(os.path.join(directory, "none.db"))


def test_empty_file_name_is_refused_and_empty_variable_is_ignored(directory):
    status, _, err = run_program("db.py", "--database", "", cwd=directory)
    assert status == 2 and "cannot be empty" in err and "Traceback" not in err
    assert run_program("db.py", cwd=directory, LAVKA_DATABASE="")[0] == 0
    assert os.path.exists(os.path.join(directory, "lavka.db"))


@pytest.mark.parametrize("path", ["no/such/directory.db", ".", "\u0436/\u0436.db"])
def test_failure_is_one_line_with_status_1(directory, path):
    status, out, err = run_program("db.py", "--database", path, cwd=directory, LC_ALL="C.UTF-8")
    assert (status, out) == (1, "")
    assert err.startswith("cannot ") and err.count("\n") == 1 and path in err


def refuse_upgrade(directory, database):
    status, out, err = run_program("db.py", "--upgrade", "--database", database, cwd=directory)
    assert (status, out, err.count("\n")) == (1, "", 1) and "create it with: python db.py" in err


def test_upgrade_never_creates_a_file_nor_its_tables(directory):
    refuse_upgrade(directory, "none.db")
    assert os.listdir(directory) == []
    io.open(os.path.join(directory, "empty.db"), "w").close()
    refuse_upgrade(directory, "empty.db")
    with contextlib.closing(sqlite3.connect(os.path.join(directory, "empty.db"))) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_upgrade_never_creates_tables_in_postgresql(cluster, directory):
    database = cluster.url(cluster.create_database())
    refuse_upgrade(directory, database)
    with contextlib.closing(connect(database)) as connection:
        assert connection.execute("SELECT to_regclass('account')").fetchone() == (None,)


def test_upgrade_adds_what_is_missing(old_database, directory, open_shop):
    assert run_program("db.py", "--upgrade", cwd=directory) == (
        0, "", "the tables are ready in lavka.db\n")
    assert open_shop(old_database).login("ann")[0].credits == 240


@both
def test_upgrade_of_current_tables_changes_nothing(database, outside, directory):
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', 7, 'bow')")
    status, _, err = run_program("db.py", "--upgrade", "--database", database, cwd=directory)
    assert status == 0 and err.startswith("the tables are ready in ")
    assert account_rows(outside) == [("bob", 7, "bow")]


def test_full_disk_is_shown_and_changes_nothing(old_database, directory):
    """SQLite rolls back itself; another rollback would fail, too, and hide why.

    The limit has room for the file of shared memory, but not for the ledger's first rows.
    """
    with contextlib.closing(sqlite3.connect(old_database)) as connection:
        connection.executemany("INSERT INTO account (nickname, credits, items) VALUES (?, 1, '')",
                               [("player %d" % number,) for number in range(3000)])
        connection.commit()
    assert run_limited("--fsize=40000", directory) == (
        1, "cannot create the tables in lavka.db: disk I/O error\n")
    with contextlib.closing(sqlite3.connect(old_database)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'trade'") \
            .fetchall() == []


def run_limited(limit, directory):
    """Run db.py under a limit, see prlimit(1); return (exit status, standard error)."""
    process = subprocess.Popen(["prlimit", limit, sys.executable, os.path.join(ROOT, "db.py")],
                               cwd=directory, env=environment(), stderr=subprocess.PIPE)
    return process.wait(), process.stderr.read().decode("utf-8")


@pytest.mark.parametrize("arguments", [("verify",), ("create",), ("--databse", "lavka.db")])
def test_wrong_arguments_create_nothing(directory, arguments):
    status, out, err = run_program("db.py", *arguments, cwd=directory)
    assert (status, out) == (2, "") and err.startswith("usage: db.py")
    assert os.listdir(directory) == []


def test_version_and_help_create_nothing(directory):
    status, out, err = run_program("db.py", "--version", cwd=directory)
    assert (status, out + err) == (0, "Lavka %s\n" % VERSION)               # 2.7: standard error
    status, out, err = run_program("db.py", "--help", cwd=directory)
    assert (status, err) == (0, "") and "--database" in out
    assert os.listdir(directory) == []


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_program_works_without_standard_streams(directory, closed):
    status, err = run_in_shell("db.py " + closed, directory)
    assert status == 0 and "Traceback" not in err
    audit(os.path.join(directory, "lavka.db"))
