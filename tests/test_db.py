# -*- coding: utf-8 -*-
"""db.py on real SQLite files, with real faults: locks, full disks, rows changed from outside."""
from __future__ import unicode_literals

import logging
import os
import sqlite3
import subprocess
import sys

import pytest
from conftest import ROOT, environment

import db
from constants import CREDITS_RANGE, ITEMS, MAX_NICKNAME
from models import Account

CHEAP = "potion"


@pytest.fixture
def shop(database):
    shop = db.Shop(database)
    yield shop
    shop.close()


@pytest.fixture
def outside(database):
    """Another program's connection to the file."""
    connection = sqlite3.connect(database, isolation_level=None)
    yield connection
    connection.close()


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


def test_a_known_nickname_gets_its_account(shop):
    first = open_account(shop)
    shop.buy(first, CHEAP)
    shop.commit()
    account, created = shop.login("bob")
    assert not created and account is not first
    assert (account.credits, account.items) == (first.credits, [CHEAP])


@pytest.mark.parametrize("nickname", [
    "Боб", "👩‍🚀", "'; DROP TABLE account; --", "\x01\x1b[31m", "a\nb", '"', " bob ", "BOB", "%s", "?", ",",
    "x" * MAX_NICKNAME, "\U0001f600" * MAX_NICKNAME])
def test_a_nickname_is_kept_exactly(shop, outside, nickname):
    open_account(shop, "bob")
    account = open_account(shop, nickname)
    assert rows(outside)[1:] == [(nickname, account.credits, "")]
    assert shop.login(nickname)[1] is False


def test_an_account_that_is_not_committed_yet_is_one_account(shop, outside):
    first, _ = shop.login("bob")
    second, created = shop.login("bob")                 # logged out and in again in one tick
    assert second is first and not created
    shop.commit()
    assert len(rows(outside)) == 1


# --- trades -------------------------------------------------------------------------------------

def test_buying(shop, outside):
    account = open_account(shop, credits=1000, outside=outside)
    for item in ("sword", CHEAP):
        shop.buy(account, item)
    assert account.credits == 1000 - ITEMS["sword"] - ITEMS[CHEAP]
    assert rows(outside) == [("bob", 1000, "")]         # not before the commit
    assert not shop.commit()
    assert rows(outside) == [("bob", account.credits, "sword," + CHEAP)]     # in order of purchase


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


def test_credits_may_be_spent_to_the_last(shop, outside):
    account = open_account(shop, credits=ITEMS[CHEAP], outside=outside)
    shop.buy(account, CHEAP)
    assert account.credits == 0
    assert not shop.commit()


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
    assert not account.unsaved and account.row() == (1, "sword")
    assert not shop.commit()
    assert rows(outside) == before


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
        shop._database.connection().set_trace_callback(statements.append)
    assert not shop.commit()
    if sys.version_info[0] > 2:
        assert [s for s in statements if s.startswith(("BEGIN", "COMMIT"))] == [
            "BEGIN IMMEDIATE", "COMMIT"]
    assert len(rows(outside)) == 100
    assert all((a.nickname,) + a.row() in rows(outside) for a in accounts + new)


def test_a_commit_without_changes_opens_no_transaction(shop, outside):
    outside.execute("BEGIN IMMEDIATE")                  # it would fail
    assert shop.commit() == frozenset()
    outside.execute("ROLLBACK")


def lock(outside, shop):
    outside.execute("BEGIN IMMEDIATE")
    return lambda: outside.execute("ROLLBACK")


def fill_disk(outside, shop):
    pages, = shop._database.execute_sql("PRAGMA page_count").fetchone()
    shop._database.execute_sql("PRAGMA max_page_count = %d" % pages)
    return lambda: shop._database.execute_sql("PRAGMA max_page_count = 1000000")


def make_read_only(outside, shop):
    shop._database.execute_sql("PRAGMA query_only = 1")
    return lambda: shop._database.execute_sql("PRAGMA query_only = 0")


@pytest.mark.parametrize("fault", [lock, fill_disk, make_read_only])
def test_a_failed_commit_changes_nothing_and_recovers(shop, outside, fault, caplog):
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
            assert account.row() == (100, "") and not account.unsaved
            assert all(one.stored is None and not one.unsaved for one in new)
            assert rows(outside) == before
            assert shop.login("bob")[0].row() == (100, "")      # reads go on
        recover()
        shop.buy(account, CHEAP)
        assert not shop.commit()
    assert rows(outside) == [("bob", 100 - ITEMS[CHEAP], CHEAP)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2                                   # one of the fault, not a flood
    assert messages[0].startswith("storage failed: ")
    assert messages[1] == "storage works again after 3 failures"


def test_a_database_that_cannot_be_read_refuses_logins(shop, caplog):
    shop._database.execute_sql("ALTER TABLE account RENAME TO elsewhere")
    assert refused(shop.login, "bob").reason == "storage_failed"
    shop._database.execute_sql("ALTER TABLE elsewhere RENAME TO account")
    assert shop.login("bob")[1]


def test_a_row_changed_from_outside_is_never_overwritten(shop, outside, caplog):
    ann, bob = [open_account(shop, name, 500, outside) for name in ("ann", "bob")]
    outside.execute("UPDATE account SET credits = 7 WHERE nickname = 'bob'")
    new, _ = shop.login("new")
    shop.buy(ann, CHEAP)
    shop.buy(bob, CHEAP)
    assert shop.commit() == frozenset([bob])            # the others' changes are stored
    assert bob.row() == (7, "")
    assert rows(outside) == [("ann", 500 - ITEMS[CHEAP], CHEAP), ("bob", 7, ""),
                             ("new", new.credits, "")]
    assert "bob" in caplog.text and "ann" not in caplog.text
    outside.execute("UPDATE account SET credits = 70 WHERE nickname = 'bob'")
    shop.sell(ann, CHEAP)
    assert not shop.commit()
    assert bob.row() == (7, "")                         # until there is a reason to look again
    shop.buy(bob, CHEAP)
    assert not shop.commit()
    assert bob.row() == (70 - ITEMS[CHEAP], CHEAP)


def test_a_row_deleted_from_outside_is_not_brought_back(shop, outside):
    account = open_account(shop)
    outside.execute("DELETE FROM account")
    shop.buy(account, CHEAP)
    assert shop.commit() == frozenset([account])
    assert account.stored is None
    assert rows(outside) == []


def test_an_account_opened_from_outside_meanwhile_is_not_overwritten(shop, outside):
    account, _ = shop.login("bob")
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', 7, 'bow')")
    assert shop.commit() == frozenset([account])
    assert rows(outside) == [("bob", 7, "bow")]
    assert account.row() == (7, "bow")


# --- the file -----------------------------------------------------------------------------------

def test_commits_are_durable(shop):
    value = {name: shop._database.execute_sql("PRAGMA " + name).fetchone()[0]
             for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")}
    assert value["journal_mode"] == "wal" and value["synchronous"] == 2     # FULL
    assert value["foreign_keys"] == 1
    assert value["busy_timeout"] <= 250


def test_the_models_constraints_are_in_the_file(shop, outside):
    open_account(shop)
    for statement in ("UPDATE account SET credits = -1",
                      "UPDATE account SET credits = NULL",
                      "UPDATE account SET items = NULL",
                      "INSERT INTO account (nickname, credits, items) VALUES ('bob', 1, '')"):
        with pytest.raises(sqlite3.IntegrityError):
            outside.execute(statement)


def test_creating_the_tables_again_keeps_the_accounts(database, outside):
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('bob', 7, 'bow')")
    db.create_tables(database)
    assert rows(outside) == [("bob", 7, "bow")]


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
        with pytest.raises(db.CannotOpen) as caught:
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
        with pytest.raises(db.CannotOpen) as caught:
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
