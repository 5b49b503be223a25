# -*- coding: utf-8 -*-
"""db.py on real SQLite files, with real faults: locks, full disks, rows changed from outside."""
from __future__ import unicode_literals

import contextlib
import fcntl
import io
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pexpect
import pytest
from conftest import PATIENCE, ROOT, audit, both, environment, hold

import admin
import db
from constants import CREDITS_RANGE, ITEMS, MAX_NICKNAME, PAGE_SIZE, WAL_SIZE
from models import Account
from sqlite import SQLite
from storage import CannotOpen

CHEAP = "potion"


@pytest.fixture
def shop(database):
    shop = db.Shop(database)
    yield shop
    shop.close()


def rows(outside):
    return outside.execute("SELECT nickname, credits, items FROM account ORDER BY id").fetchall()


def open_account(shop, nickname="bob", credits=None, outside=None):
    """An account that is stored."""
    account, _ = shop.login(nickname)
    assert not shop.commit()
    if credits is not None:
        outside.execute("UPDATE account SET credits = ? WHERE nickname = ?", (credits, nickname))
        account, _ = shop.login(nickname)
    return account


def refused(call, *arguments):
    with pytest.raises(db.Refusal) as caught:
        call(*arguments)
    assert caught.value.message.endswith(".")
    return caught.value


# --- accounts -----------------------------------------------------------------------------------

@both
def test_a_new_nickname_opens_an_account(shop, outside):
    account, created = shop.login("bob")
    assert created
    assert CREDITS_RANGE[0] <= account.credits <= CREDITS_RANGE[1]
    assert account.items == []
    assert rows(outside) == []                          # not before the commit
    assert shop.commit() == frozenset()
    assert rows(outside) == [("bob", account.credits, "")]


def test_the_credits_of_new_accounts_are_random_and_reach_the_whole_range(shop):
    credits = {shop.login("player %d" % number)[0].credits for number in range(20000)}
    assert min(credits) == CREDITS_RANGE[0] and max(credits) == CREDITS_RANGE[1]


@both
def test_a_known_nickname_gets_its_account(shop):
    first = open_account(shop)
    shop.buy(first, CHEAP)
    shop.commit()
    account, created = shop.login("bob")
    assert not created and account is not first
    assert (account.credits, account.items) == (first.credits, [CHEAP])


@both
@pytest.mark.parametrize("nickname", [
    "Боб", "👩‍🚀", "'; DROP TABLE account; --", "\x01\x1b[31m", "a\nb", '"', " bob ", "BOB", "%s", "?", ",",
    "x" * MAX_NICKNAME, "\U0001f600" * MAX_NICKNAME])
def test_a_nickname_is_kept_exactly(shop, outside, nickname):
    open_account(shop, "bob")
    account = open_account(shop, nickname)
    assert rows(outside)[1:] == [(nickname, account.credits, "")]
    assert shop.login(nickname)[1] is False


@both
def test_an_account_that_is_not_committed_yet_is_one_account(shop, outside):
    first, _ = shop.login("bob")
    second, created = shop.login("bob")                 # logged out and in again in one tick
    assert second is first and not created
    shop.commit()
    assert len(rows(outside)) == 1


# --- trades -------------------------------------------------------------------------------------

@both
def test_buying(shop, outside):
    account = open_account(shop, credits=1000, outside=outside)
    for item in ("sword", CHEAP):
        shop.buy(account, item)
    assert account.credits == 1000 - ITEMS["sword"] - ITEMS[CHEAP]
    assert rows(outside) == [("bob", 1000, "")]         # not before the commit
    assert not shop.commit()
    assert rows(outside) == [("bob", account.credits, "sword," + CHEAP)]     # in order of purchase


@both
def test_selling_returns_the_full_price(shop, outside):
    account = open_account(shop, credits=1000, outside=outside)
    for item in ("sword", CHEAP, "bow"):
        shop.buy(account, item)
    shop.commit()
    shop.sell(account, CHEAP)
    shop.commit()
    assert rows(outside) == [("bob", 1000 - ITEMS["sword"] - ITEMS["bow"], "sword,bow")]
    shop.sell(account, "bow")
    shop.sell(account, "sword")
    shop.commit()
    assert rows(outside) == [("bob", 1000, "")]


@both
def test_credits_may_be_spent_to_the_last(shop, outside):
    account = open_account(shop, credits=ITEMS[CHEAP], outside=outside)
    shop.buy(account, CHEAP)
    assert account.credits == 0
    assert not shop.commit()


@both
def test_refusals_change_nothing(shop, outside):
    account = open_account(shop, credits=ITEMS["sword"] + 1, outside=outside)
    shop.buy(account, "sword")
    shop.commit()
    before = rows(outside)
    assert refused(shop.buy, account, "excalibur").reason == "unknown_item"
    assert refused(shop.buy, account, "Sword").reason == "unknown_item"     # exact on the wire
    assert refused(shop.buy, account, "").reason == "unknown_item"
    assert refused(shop.buy, account, "sword").reason == "item_already_owned"
    refusal = refused(shop.buy, account, CHEAP)
    assert refusal.reason == "not_enough_credits"
    assert refusal.data == {"credits": 1, "price": ITEMS[CHEAP]}
    assert refused(shop.sell, account, CHEAP).reason == "item_not_owned"
    assert refused(shop.sell, account, "excalibur").reason == "item_not_owned"
    assert not account.is_dirty and account.row() == (1, "sword")
    assert not shop.commit()
    assert rows(outside) == before


@both
def test_an_item_that_left_the_catalog_cannot_be_sold(shop, outside):
    open_account(shop)
    outside.execute("UPDATE account SET items = 'excalibur,sword'")
    account, _ = shop.login("bob")
    assert refused(shop.sell, account, "excalibur").reason == "unknown_item"
    shop.sell(account, "sword")
    shop.commit()
    assert rows(outside)[0][2] == "excalibur"


# --- commits ------------------------------------------------------------------------------------

def test_one_commit_stores_all_changes_in_one_transaction(shop, outside):
    accounts = [open_account(shop, "player %d" % number) for number in range(50)]
    before = outside.execute("PRAGMA data_version").fetchone()
    for account in accounts:
        shop.buy(account, CHEAP)
        shop.sell(account, CHEAP)
        shop.buy(account, CHEAP)
    new = [shop.login("new %d" % number)[0] for number in range(50)]
    assert outside.execute("PRAGMA data_version").fetchone() == before
    statements = []
    if sys.version_info[0] > 2:                         # 2.7 cannot trace
        shop.storage.database.connection().set_trace_callback(statements.append)
    assert not shop.commit()
    if sys.version_info[0] > 2:
        assert [s for s in statements if s.startswith(("BEGIN", "COMMIT"))] == [
            "BEGIN IMMEDIATE", "COMMIT"]
    assert len(rows(outside)) == 100
    assert all((a.nickname,) + a.row() in rows(outside) for a in accounts + new)


@both
def test_a_commit_without_changes_opens_no_transaction(shop, outside):
    unlock = lock(outside, shop)                        # it would fail
    assert shop.commit() == frozenset()
    unlock()


def lock(outside, shop):
    hold(outside)
    return lambda: outside.execute("ROLLBACK")


def fill_disk(outside, shop):
    pages, = shop.storage.database.execute_sql("PRAGMA page_count").fetchone()
    shop.storage.database.execute_sql("PRAGMA max_page_count = %d" % pages)
    return lambda: shop.storage.database.execute_sql("PRAGMA max_page_count = 1000000")


def make_read_only(outside, shop):
    read_only = ("PRAGMA query_only = %d" if type(shop.storage) is SQLite
                 else "SET default_transaction_read_only = %d")
    shop.storage.query(read_only % 1)
    return lambda: shop.storage.query(read_only % 0)


def refuse_the_ledger(outside, shop):
    """It fails when the accounts are written already."""
    outside.execute("ALTER TABLE trade ADD CONSTRAINT broken CHECK (false) NOT VALID")
    return lambda: outside.execute("ALTER TABLE trade DROP CONSTRAINT broken")


faults = pytest.mark.parametrize("database, fault", [
    ("sqlite", lock), ("sqlite", fill_disk), ("sqlite", make_read_only),
    ("postgresql", lock), ("postgresql", refuse_the_ledger), ("postgresql", make_read_only)],
    indirect=["database"])


@faults
def test_a_failed_commit_changes_nothing_and_recovers(shop, outside, fault, caplog, monkeypatch):
    monkeypatch.setattr(db, "RECOVERY_SECONDS", 0)
    account = open_account(shop, credits=100, outside=outside)
    before = rows(outside)
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
            assert rows(outside) == before
            assert shop.login("bob")[0].row() == (100, "")      # reads go on
        recover()
        shop.buy(account, CHEAP)
        assert not shop.commit()
    assert rows(outside) == [("bob", 100 - ITEMS[CHEAP], CHEAP)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2                                   # one of the fault, not a flood
    assert messages[0].startswith('storage_failed error="')
    assert messages[1] == "storage_recovered failures=3"


@both
def test_a_database_that_cannot_be_read_refuses_logins(shop, caplog):
    shop.storage.database.execute_sql("ALTER TABLE account RENAME TO elsewhere")
    assert refused(shop.login, "bob").reason == "storage_failed"
    shop.storage.database.execute_sql("ALTER TABLE elsewhere RENAME TO account")
    shop.commit()
    assert shop.login("bob")[1]


@both
def test_a_row_changed_from_outside_is_never_overwritten(shop, outside, caplog):
    ann, bob = [open_account(shop, name, 500, outside) for name in ("ann", "bob")]
    new, _ = shop.login("new")
    shop.buy(ann, CHEAP)
    shop.buy(bob, CHEAP)
    outside.execute("UPDATE account SET credits = 7 WHERE nickname = 'bob'")
    assert shop.commit() == frozenset([bob])            # the others' changes are stored
    assert bob.row() == (7, "")
    assert rows(outside) == [("ann", 500 - ITEMS[CHEAP], CHEAP), ("bob", 7, ""),
                             ("new", new.credits, "")]
    assert "bob" in caplog.text and "ann" not in caplog.text
    outside.execute("UPDATE account SET credits = 70 WHERE nickname = 'bob'")
    shop.sell(ann, CHEAP)
    assert not shop.commit()
    shop.buy(bob, CHEAP)                                # changed before, not in this very tick
    assert not shop.commit()
    assert bob.row() == (70 - ITEMS[CHEAP], CHEAP)


@both
def test_a_row_deleted_from_outside_is_not_brought_back(shop, outside):
    account = open_account(shop)
    outside.execute("DELETE FROM trade")
    outside.execute("DELETE FROM account")
    shop.buy(account, CHEAP)
    assert shop.commit() == frozenset([account])
    assert account.stored is None
    assert rows(outside) == []


@both
def test_an_account_opened_from_outside_meanwhile_is_not_overwritten(shop, outside):
    account, _ = shop.login("bob")
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', 7, 'bow')")
    assert shop.commit() == frozenset([account])
    assert rows(outside) == [("bob", 7, "bow")]
    assert account.row() == (7, "bow")


# --- the file -----------------------------------------------------------------------------------

def test_commits_are_durable(shop):
    value = {name: shop.storage.database.execute_sql("PRAGMA " + name).fetchone()[0]
             for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")}
    assert value["journal_mode"] == "wal" and value["synchronous"] == 2     # FULL
    assert value["foreign_keys"] == 1
    assert value["busy_timeout"] <= 250


@both
def test_the_models_constraints_are_in_the_file(shop, outside):
    open_account(shop)
    for statement in ("UPDATE account SET credits = -1",
                      "UPDATE account SET credits = NULL",
                      "UPDATE account SET items = NULL",
                      "INSERT INTO account (nickname, credits, items) VALUES ('bob', 1, '')"):
        with pytest.raises(Exception) as caught:        # of either driver
            outside.execute(statement)
        assert "IntegrityError" in [kind.__name__ for kind in type(caught.value).__mro__]


@both
def test_creating_the_tables_again_keeps_the_accounts(database, outside):
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', 7, 'bow')")
    db.create_tables(database)
    assert rows(outside) == [("bob", 7, "bow")]


@pytest.mark.parametrize("page_size", [PAGE_SIZE, 4096])
def test_a_new_file_has_small_pages_and_the_log_is_emptied_in_time(database, directory, page_size):
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as outside:
        assert outside.execute("PRAGMA page_size").fetchone() == (PAGE_SIZE,)
        if page_size != PAGE_SIZE:              # as files were before
            outside.execute("PRAGMA journal_mode = delete")
            outside.execute("PRAGMA page_size = %d" % page_size)
            outside.execute("VACUUM")
    shop = db.Shop(database)
    accounts = [shop.login("player %d" % number)[0] for number in range(500)]
    assert not shop.commit()
    size = written = 0
    while written < 2 * WAL_SIZE:
        for account in accounts:
            (shop.sell if CHEAP in account.items else shop.buy)(account, CHEAP)
        assert not shop.commit()
        written += 40000                    # a commit of 500 rows and their ledger is more
        size = max(size, os.path.getsize(database + "-wal"))
    shop.close()
    assert 0.9 * WAL_SIZE < size < 1.2 * WAL_SIZE


@both
def test_the_tables_are_created_beside_a_running_shop(database, shop):
    account = open_account(shop)
    db.create_tables(database)
    shop.buy(account, CHEAP)
    assert not shop.commit()


def test_the_models_name_the_contracts_columns():
    assert Account._meta.table_name == "account"
    assert {"nickname", "credits", "items"} <= set(Account._meta.columns)


def test_one_shop_at_a_time(database, shop, directory):
    link = os.path.join(directory, "link.db")
    os.symlink(database, link)
    for path in (database, link):
        with pytest.raises(CannotOpen) as caught:
            db.Shop(path)
        assert "another server" in str(caught.value)
    account = open_account(shop)                        # the first is not disturbed
    shop.buy(account, CHEAP)
    assert not shop.commit()
    shop.close()
    db.Shop(database).close()


def make_nothing(path):
    pass


def make_directory(path):
    os.mkdir(path)


def make_text(path):
    with open(path, "w") as file:
        file.write("I am not a database. " * 100)


def make_empty(path):
    open(path, "w").close()


def make_other_tables(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE account (name TEXT, money INTEGER)")
    connection.close()


@pytest.mark.parametrize("make, says", [
    (make_nothing, "python db.py"), (make_empty, "python db.py"), (make_directory, "cannot open"),
    (make_text, "not a database"), (make_other_tables, "not that of this program")])
def test_what_cannot_be_opened(directory, make, says):
    path = os.path.join(directory, "other.db")
    make(path)
    for _ in range(2):          # nor does the attempt leave a lock behind
        with pytest.raises(CannotOpen) as caught:
            db.Shop(path)
        assert says in str(caught.value) and path in str(caught.value)
    assert make is not make_nothing or not os.path.exists(path)


# --- python db.py -------------------------------------------------------------------------------

def run(*arguments, **variables):
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, "db.py")] + list(arguments),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               cwd=variables.pop("cwd"), env=environment(**variables))
    out, err = process.communicate()
    return process.returncode, out.decode("utf-8"), err.decode("utf-8")


def test_the_command_creates_the_tables_and_is_safe_to_run_again(directory):
    for _ in range(2):
        assert run(cwd=directory) == (0, "", "the tables are ready in lavka.db\n")
    db.Shop(os.path.join(directory, "lavka.db")).close()


def test_the_environment_names_the_file_and_the_flag_overrides_it(directory):
    run(cwd=directory, LAVKA_DATABASE="env.db")
    assert os.path.exists(os.path.join(directory, "env.db"))
    run("--database", "flag.db", cwd=directory, LAVKA_DATABASE="none.db")
    assert os.path.exists(os.path.join(directory, "flag.db"))
    assert not os.path.exists(os.path.join(directory, "none.db"))


def test_an_empty_name_is_refused_and_an_empty_variable_is_none(directory):
    status, _, err = run("--database", "", cwd=directory)
    assert status == 2 and "cannot be empty" in err and "Traceback" not in err
    assert run(cwd=directory, LAVKA_DATABASE="")[0] == 0
    assert os.path.exists(os.path.join(directory, "lavka.db"))


def test_a_name_that_looks_like_a_uri_is_a_name(directory):
    assert run("--database", "file:x.db", cwd=directory)[0] == 0
    assert os.path.exists(os.path.join(directory, "file:x.db"))


@pytest.mark.parametrize("path", ["no/such/directory.db", ".", "\u0436/\u0436.db"])
def test_the_command_says_in_one_line_why_it_cannot(directory, path):
    status, out, err = run("--database", path, cwd=directory, LC_ALL="C.UTF-8")
    assert (status, out) == (1, "")
    assert err.startswith("cannot ") and err.count("\n") == 1 and path in err


# --- the ledger ---------------------------------------------------------------------------------

def ledger(outside, nickname="bob"):
    return outside.execute(
        "SELECT what, item, price, trade.credits FROM trade JOIN account ON account.id = account_id "
        "WHERE nickname = ? ORDER BY trade.id", (nickname,)).fetchall()


@both
def test_every_change_is_a_row_of_the_ledger(shop, outside, database):
    account, _ = shop.login("bob")
    first = account.credits = ITEMS["sword"] + ITEMS[CHEAP]
    shop._ledger[0] = shop._ledger[0][:4] + (first,)    # it is random
    for item in ("sword", CHEAP):
        shop.buy(account, item)
    shop.sell(account, "sword")
    refused(shop.sell, account, "sword")
    refused(shop.buy, account, "horse")
    assert ledger(outside) == []                        # not before the commit
    begin = int(time.time())
    assert not shop.commit()
    assert ledger(outside) == [
        ("opening", "", 0, first), ("purchase", "sword", ITEMS["sword"], ITEMS[CHEAP]),
        ("purchase", CHEAP, ITEMS[CHEAP], 0), ("sale", "sword", ITEMS["sword"], ITEMS["sword"])]
    first_time, = outside.execute("SELECT MIN(time) FROM trade").fetchone()
    assert begin <= first_time <= time.time()
    shop.buy(account, "sword")                          # in a commit of its own
    shop.sell(account, "sword")
    assert not shop.commit()
    assert len(ledger(outside)) == 6 and rows(outside) == [("bob", ITEMS["sword"], CHEAP)]
    audit(database)
    assert (shop.commits, shop.trades, shop.largest_batch) == (2, 5, 4)


@faults
def test_what_was_not_stored_is_not_in_the_ledger(shop, outside, fault, database):
    account = open_account(shop, credits=None)
    before = ledger(outside)
    recover = fault(outside, shop)
    new = [shop.login("new %d %s" % (n, "x" * 200))[0] for n in range(50)]
    item = CHEAP
    shop.buy(account, item)
    assert len(shop.commit()) == 51
    recover()
    assert not shop.commit()
    assert ledger(outside) == before and all(one.id is None for one in new)
    assert outside.execute("SELECT COUNT(*) FROM trade").fetchone() == (1,)
    shop.buy(account, item)
    assert not shop.commit()
    audit(database)


@both
def test_the_ledger_has_nothing_of_an_account_that_failed(shop, outside):
    ann, bob = [open_account(shop, name) for name in ("ann", "bob")]
    new, _ = shop.login("new")
    shop.buy(ann, CHEAP)
    shop.buy(bob, CHEAP)
    outside.execute("UPDATE account SET credits = credits + 1 WHERE nickname = 'bob'")
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('new', ?, '')",
                    (new.credits,))                     # the very row that was to be written
    assert shop.commit() == frozenset([bob, new])
    assert [len(ledger(outside, name)) for name in ("ann", "bob", "new")] == [2, 1, 0]


@both
def test_what_was_granted_meanwhile_is_spent(shop, outside, database):
    """A player who could not afford it is not refused by what the server remembers."""
    account = open_account(shop)
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


def grant(path, nickname, credits):
    admin.grant(db.open_storage(path), io.StringIO(), nickname, credits)


# --- python db.py: upgrade ------------------------------------------------------------------------

OLD_SCHEMA = """
    CREATE TABLE account (id INTEGER NOT NULL PRIMARY KEY, nickname VARCHAR(255) NOT NULL,
                          credits INTEGER NOT NULL CHECK (credits >= 0), items TEXT NOT NULL);
    CREATE UNIQUE INDEX account_nickname ON account (nickname);
    INSERT INTO account (nickname, credits, items) VALUES ('ann', 240, 'torch,sword');
    INSERT INTO account (nickname, credits, items) VALUES ('bob', 0, '');
"""


@pytest.fixture
def old_database(directory):
    """A file from before the ledger."""
    path = os.path.join(directory, "lavka.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_SCHEMA)
    return path


def test_a_file_from_before_the_ledger_is_upgraded(old_database, directory, outside_of):
    with pytest.raises(CannotOpen) as caught:
        db.Shop(old_database)
    assert "python db.py" in str(caught.value)
    for _ in range(2):                                  # the second time, nothing happens
        assert run(cwd=directory) == (0, "", "the tables are ready in lavka.db\n")
        outside = outside_of(old_database)
        assert rows(outside) == [("ann", 240, "torch,sword"), ("bob", 0, "")]
        assert ledger(outside, "ann") == [("opening", "torch,sword", 0, 240)]
        assert ledger(outside, "bob") == [("opening", "", 0, 0)]
    shop = db.Shop(old_database)
    account, created = shop.login("ann")
    shop.sell(account, "torch")
    assert not shop.commit() and not created
    shop.close()
    audit(old_database)


def test_no_upgrade_under_a_server_that_keeps_no_ledger(old_database, directory, outside_of):
    with open(old_database + ".lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, _, err = run(cwd=directory)
        assert status == 1 and "another server" in err and err.count("\n") == 1
    tables = outside_of(old_database).execute("SELECT name FROM sqlite_master").fetchall()
    assert ("trade",) not in tables


# --- python db.py COMMAND -------------------------------------------------------------------------

@pytest.fixture
def played(shop, outside, database):
    """A file on which a shop is open, and ann has traded and bob has not."""
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('ann', 500, '')")
    outside.execute("INSERT INTO trade (account_id, time, what, item, price, credits) "
                    "VALUES (1, 1767323045, 'opening', '', 0, 500)")
    account, _ = shop.login("ann")
    shop.buy(account, "sword")
    shop.buy(account, CHEAP)
    shop.commit()
    shop.sell(account, "sword")
    shop.commit()
    shop.account = account
    open_account(shop)
    audit(database)
    return shop


@both
def test_show(played, directory, database):
    assert run("show", "ann", cwd=directory, LAVKA_DATABASE=database) == (
        0, 'nickname  "ann"\ncredits   475\nitems     %s\n' % CHEAP, "")
    assert "items     none\n" in run("show", "bob", cwd=directory, LAVKA_DATABASE=database)[1]


@both
def test_history(played, directory, database):
    status, out, err = run("history", "ann", cwd=directory, LAVKA_DATABASE=database)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[:2] == ["time (UTC)           what        price    credits  item",
                         "2026-01-02 03:04:05  opening                  500"]
    assert [line.split()[2:] for line in lines[2:]] == [
        ["purchase", "200", "300", "sword"], ["purchase", "25", "275", "potion"],
        ["sale", "200", "475", "sword"]]


@both
@pytest.mark.parametrize("command", [("show",), ("history",), ("grant", "5")])
def test_nobody_of_that_name(played, directory, command, database):
    arguments = [command[0], "no\x1b[31mbody"] + list(command[1:])
    assert run(*arguments, cwd=directory, LAVKA_DATABASE=database) == (
        1, "", 'there is no account "no\\u001b[31mbody"\n')


@pytest.mark.parametrize("damage", ["credits = 'many'", "items = x'00ff'"])
def test_a_row_that_cannot_be_used(played, outside, directory, damage):
    outside.execute("UPDATE account SET %s WHERE nickname = 'ann'" % damage)
    for command in (["show", "ann"], ["grant", "ann", "5"]):
        assert run(*command, cwd=directory) == (
            1, "", 'the row of account "ann" cannot be used; verify tells more\n')


@both
def test_a_nickname_is_shown_so_that_it_is_no_command(shop, directory, database):
    nickname = "\x1b[31m\n\u202eБоб\"\\ \x9b1m"
    open_account(shop, nickname)
    status, out, _ = run("show", "--", nickname, cwd=directory, LAVKA_DATABASE=database,
                         LC_ALL="C.UTF-8")
    assert status == 0 and out.count("\n") == 3
    assert 'nickname  "\\u001b[31m\\u000a\\u202eБоб\\"\\\\ \\u009b1m"\n' in out


@both
def test_a_grant_to_a_player_who_is_logged_in(played, directory, database, outside):
    assert run("grant", "ann", "100", cwd=directory, LAVKA_DATABASE=database) == (
        0, '"ann" has 575 credits now\n', "")
    assert run("grant", "ann", "-75", cwd=directory, LAVKA_DATABASE=database) == (
        0, '"ann" has 500 credits now\n', "")
    played.buy(played.account, "sword")
    assert not played.commit()
    assert ledger(outside, "ann")[-3:] == [
        ("grant", "", 100, 575), ("grant", "", -75, 500), ("purchase", "sword", 200, 300)]
    audit(database)


def test_a_grant_whose_output_cannot_be_written_says_that_it_is_done(played, directory, outside):
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "db.py"), "grant", "ann", "5"], cwd=directory,
            stdout=full, stderr=subprocess.PIPE, env=environment())
        _, err = process.communicate()
    assert process.returncode == 1 and err.startswith(b"it is done, but")
    assert ledger(outside, "ann")[-1] == ("grant", "", 5, 480)


def test_a_look_that_failed_is_repeated(shop, outside, database):
    account = open_account(shop, credits=0, outside=outside)
    outside.execute("UPDATE account SET credits = 5000")
    load = shop.storage.load

    def fail_once(nickname):
        shop.storage.load = load
        raise sqlite3.OperationalError("disk I/O error")

    shop.storage.load = fail_once
    assert refused(shop.buy, account, "horse").reason == "not_enough_credits"
    shop.commit()
    shop.buy(account, "horse")
    assert not shop.commit()


@both
@pytest.mark.parametrize("credits", [-476, 2 ** 63 - 475])
def test_a_grant_that_cannot_be(played, directory, outside, credits, database):
    before = rows(outside), ledger(outside, "ann")
    status, out, err = run("grant", "ann", "%d" % credits, cwd=directory, LAVKA_DATABASE=database)
    assert (status, out, err.count("\n")) == (1, "", 1) and "475 credits" in err
    assert (rows(outside), ledger(outside, "ann")) == before


@pytest.mark.parametrize("arguments", [
    ("grant", "ann"), ("grant", "ann", "many"), ("history",), ("steal", "ann"), ("backup", "")])
def test_wrong_arguments(played, directory, arguments):
    status, _, err = run(*arguments, cwd=directory)
    assert status == 2 and err.startswith("usage: db.py")


def test_the_file_may_be_named_before_and_after_the_command(played, directory):
    for arguments in (["--database", "lavka.db", "verify"], ["verify", "--database=lavka.db"]):
        assert run(*arguments, cwd=directory)[0] == 0
        assert run(*[word.replace("lavka", "none") for word in arguments], cwd=directory) == (
            1, "", "there is no database none.db: create it with: "
            "python db.py --database none.db\n")


def test_each_command_is_described(directory):
    for command in ("create", "verify", "history", "show", "backup", "grant"):
        assert "  %s " % command in run("--help", cwd=directory)[1]
        assert len(run(command, "--help", cwd=directory)[1].splitlines()) > 5


DAMAGE = [
    ("UPDATE account SET credits = 999 WHERE nickname = 'ann'",
     'account "ann": it has 999 credits, by the ledger it should have 475'),
    ("UPDATE account SET items = 'horse' WHERE nickname = 'ann'",
     'account "ann": its items are "horse", by the ledger they should be "potion"'),
    ("INSERT INTO account (nickname, credits, items) VALUES ('eve', 7, '')",
     'account "eve": it has no opening in the ledger'),
    ("DELETE FROM trade WHERE id = 1", "row 2 of the ledger is no opening"),
    ("DELETE FROM trade WHERE id = 2", "row 4 of the ledger sells \"sword\", which was not owned"),
    ("DELETE FROM trade WHERE id = 3", "row 4 of the ledger should have 500 credits, it has 475"),
    ("DELETE FROM trade WHERE id = 4", "it has 475 credits, by the ledger it should have 275"),
    ("UPDATE trade SET price = 1 WHERE id = 2", "row 2 of the ledger should have 499 credits"),
    ("UPDATE trade SET price = 0 WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET item = 'potion' WHERE id = 2", 'row 3 of the ledger buys "potion", which was'),
    ("UPDATE trade SET what = 'gift' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET id = -7 WHERE id = 2", "row -7 of the ledger is no opening"),
    ("UPDATE trade SET item = 'bow' WHERE id = 2", "its items are"),
    ("UPDATE trade SET what = 'opening', price = 0 WHERE id = 2",
     "row 2 of the ledger is another opening"),
    # The order of the items is part of the account.
    ("UPDATE account SET items = 'sword,potion' WHERE nickname = 'bob'", 'account "bob": its items'),
    ("UPDATE trade SET account_id = 2 WHERE id = 4", "row 4 of the ledger"),
]
SQLITE_DAMAGE = [       # what PostgreSQL does not take
    ("UPDATE account SET credits = 'many' WHERE nickname = 'ann'", "it has \"many\" credits"),
    ("UPDATE account SET items = x'00ff' WHERE nickname = 'ann'", "its items are"),
    ("UPDATE account SET items = CAST(x'ff' AS TEXT) WHERE nickname = 'ann'", "its items are"),
    ("DELETE FROM account WHERE nickname = 'ann'", "is of account 1, which is not there"),
    ("UPDATE trade SET price = 'x' WHERE id = 2", "row 2 of the ledger is none that the shop writes"),
    ("UPDATE trade SET price = 200.5 WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET item = x'00' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET what = x'ff' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET time = 'yesterday' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE account SET nickname = x'ff' WHERE nickname = 'ann'", "its nickname is no text"),
    ("UPDATE account SET credits = '\x1b[31mred' WHERE nickname = 'ann'",
     'it has "\\u001b[31mred" credits'),
    ("UPDATE trade SET account_id = 'x' WHERE id = 2", 'is of account "x", which is not there'),
    ("UPDATE trade SET account_id = 1.5 WHERE id = 2", "is of account 1.5, which is not there"),
]


@pytest.mark.parametrize("database, damage, says", [
    (database, damage, says) for damage, says in DAMAGE for database in ("sqlite", "postgresql")]
    + [("sqlite", damage, says) for damage, says in SQLITE_DAMAGE], indirect=["database"])
def test_verify_finds(played, outside, database, damage, says):
    assert verify(database) == (0, "accounts: 2, rows of the ledger: 5, problems: 0\n")
    outside.execute(damage)
    status, out = verify(database)
    assert status == 1 and says in out and "rows of the ledger: " in out
    assert out.splitlines()[-1].endswith("problems: %d" % (out.count("\n") - 1))


def verify(database):
    out = io.StringIO()
    return admin.verify(db.open_storage(database), out), out.getvalue()


@both
def test_verify_finds_the_order_of_items(played, outside, directory, database):
    played.buy(played.account, "torch")
    assert not played.commit()
    outside.execute("UPDATE account SET items = 'torch,potion' WHERE nickname = 'ann'")
    status, out, _ = run("verify", cwd=directory, LAVKA_DATABASE=database)
    assert status == 1 and '"torch,potion", by the ledger they should be "potion,torch"' in out


def test_verify_finds_a_damaged_file(database, directory):
    shop = db.Shop(database)
    for number in range(200):
        shop.login("player %d" % number)
    shop.commit()
    shop.close()
    with open(database, "r+b") as file:
        size = len(file.read())
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))
    status, out, err = run("verify", cwd=directory)
    assert status == 1 and "Traceback" not in err and (out + err).count("\n") >= 1


def test_no_damage_of_a_file_is_too_much_for_the_commands(played, database, directory):
    """Bytes changed at random, in its schema, its accounts and its ledger."""
    played.close()
    with open(database, "rb") as file:
        whole = bytearray(file.read())
    rng = random.Random(4)
    paths = []
    for number in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3, 10, 100])):
            at = rng.choice([rng.randrange(len(damaged)), rng.randrange(PAGE_SIZE)])
            damaged[at] = rng.randrange(256)
        paths.append(os.path.join(directory, "damaged %d.db" % number))
        with open(paths[-1], "wb") as file:
            file.write(damaged)
    code = ("import sys, db\n"
            "for path in sys.argv[1:]:\n"
            "    for command in (['verify'], ['show', 'ann'], ['history', 'ann'], ['backup', path\n"
            "                    + ' copy'], ['grant', 'ann', '5'], ['create']):\n"
            "        assert db.main(command + ['--database', path]) in (0, 1)\n"
            "    try:\n"
            "        db.Shop(path).close()\n"
            "    except CannotOpen:\n"
            "        pass\n")
    process = subprocess.Popen([sys.executable, "-c", code] + paths, cwd=ROOT, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == 0 and b"Traceback" not in err, err[-2000:]
    assert b"problems: " in out


def test_nicknames_have_to_be_unique(database, outside):
    index, = [name for name, in outside.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE '%nickname%'")]
    outside.execute("DROP INDEX " + index)
    with pytest.raises(CannotOpen) as caught:
        db.Shop(database)
    assert "not that of this program" in str(caught.value)


def test_a_backup_of_a_file_from_before_the_ledger(old_database, directory, outside_of):
    assert run("backup", "copy.db", cwd=directory)[0] == 0
    assert len(rows(outside_of(os.path.join(directory, "copy.db")))) == 2


def test_no_upgrade_of_accounts_that_cannot_be_used(old_database, directory, outside_of):
    outside = outside_of(old_database)
    outside.execute("UPDATE account SET credits = 'many' WHERE nickname = 'ann'")
    status, out, err = run(cwd=directory)
    assert (status, out, err.count("\n")) == (1, "", 1) and 'account "ann" of' in err
    outside.execute("UPDATE account SET credits = 5 WHERE nickname = 'ann'")
    assert run(cwd=directory)[0] == 0
    audit(old_database)


def test_upgrades_at_the_same_time_are_one(old_database, directory):
    processes = [subprocess.Popen([sys.executable, os.path.join(ROOT, "db.py")], cwd=directory,
                                  env=environment(), stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert b"Traceback" not in process.communicate()[1]
    assert 0 in [process.returncode for process in processes]
    audit(old_database)


def test_an_upgrade_that_another_one_has_done_meanwhile(old_database, monkeypatch):
    """Between its first look and its transaction."""
    lock = SQLite._take_lock

    def upgrade_and_lock(storage):
        monkeypatch.setattr(SQLite, "_take_lock", lock)
        db.create_tables(old_database)
        return lock(storage)

    monkeypatch.setattr(SQLite, "_take_lock", upgrade_and_lock)
    db.create_tables(old_database)
    audit(old_database)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_without_standard_streams(played, directory, closed):
    for command in ("create", "verify", "show ann"):
        process = subprocess.Popen(
            ["sh", "-c", "%s %s/db.py %s %s" % (sys.executable, ROOT, command, closed)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=directory, env=environment())
        _, err = process.communicate()
        assert process.returncode == 0 and b"Traceback" not in err
    audit(os.path.join(directory, "lavka.db"))


def test_a_backup(played, directory, database):
    copy = os.path.join(directory, "copy.db")
    status, out, err = run("backup", copy, cwd=directory)
    assert (status, out, err) == (0, "%s has %d bytes\n" % (copy, os.path.getsize(copy)), "")
    played.buy(played.account, "torch")                 # is not in it
    assert not played.commit()
    with open(copy, "rb") as file:
        before = file.read()
    assert run("verify", "--database", copy, cwd=directory) == (
        0, "accounts: 2, rows of the ledger: 5, problems: 0\n", "")
    with open(copy, "rb") as file:
        assert file.read() == before                    # to look at it changes nothing
    assert sorted(os.listdir(directory)) == [
        "copy.db", "lavka.db", "lavka.db-shm", "lavka.db-wal", "lavka.db.lock"]
    status, out, err = run("backup", copy, cwd=directory)
    assert (status, out) == (1, "") and "exists already" in err and err.count("\n") == 1
    with open(copy, "rb") as file:
        assert file.read() == before
    restored = db.Shop(copy)
    assert not restored.login("ann")[1]
    restored.close()


def test_a_backup_that_cannot_be_written(played, directory):
    before = sorted(os.listdir(directory))
    status, out, err = run("backup", "no/such/directory.db", cwd=directory)
    assert (status, out, err.count("\n")) == (1, "", 1) and "No such file" in err
    assert sorted(os.listdir(directory)) == before


def test_a_backup_without_room_for_it(played, directory):
    before = sorted(os.listdir(directory))
    process = subprocess.Popen(
        ["sh", "-c", "ulimit -f 2; exec \"$@\"", "sh", sys.executable,
         os.path.join(ROOT, "db.py"), "backup", "copy.db"], cwd=directory, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert err.startswith(b"backup failed: ")
    assert sorted(os.listdir(directory)) == before


def test_a_reader_that_has_enough(played, directory):
    """`python db.py history ann | head -1` ends without a word."""
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, "db.py"), "history", "ann"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=directory,
                               env=environment())
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def fill(outside, number):
    """Open many accounts."""
    outside.execute("BEGIN")
    outside.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
                    "INSERT INTO account SELECT i, 'player ' || i, 100, '' FROM n" % number)
    outside.execute("INSERT INTO trade SELECT id, id, 1767323045, 'opening', '', 0, 100 "
                    "FROM account")
    outside.execute("COMMIT")


def on_a_terminal(directory, *arguments):
    terminal = pexpect.spawn(sys.executable, [os.path.join(ROOT, "db.py")] + list(arguments),
                             cwd=directory, env=environment(TERM="xterm"), encoding="utf-8",
                             timeout=PATIENCE)
    terminal.delaybeforesend = None
    return terminal


def test_a_long_command_shows_on_a_terminal_how_far_it_is(outside, directory):
    fill(outside, 20000)
    terminal = on_a_terminal(directory, "verify")
    for percent in (0, 25, 50, 75):
        terminal.expect(r"replaying the ledger \[#{%d}[.]+\] +%d %% \d s"
                        % (30 * percent // 100, percent))
    terminal.expect("\r\x1b.Kaccounts: 20000, rows of the ledger: 20000, problems: 0\r\n")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_ctrl_c_ends_a_long_command_quietly(outside, directory):
    fill(outside, 300000)
    before = sorted(os.listdir(directory))
    for command in (["verify"], ["backup", os.path.join(directory, "copy.db")]):
        terminal = on_a_terminal(directory, *command)
        terminal.expect("checking the file|copying")
        terminal.sendintr()
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert "Traceback" not in terminal.before
        if terminal.exitstatus == 0:                    # it was faster; then it is whole
            assert command[0] == "backup"
            audit(command[1])
            os.remove(command[1])
        else:
            assert terminal.exitstatus == 130 or terminal.signalstatus == signal.SIGINT
        assert sorted(os.listdir(directory)) == before
