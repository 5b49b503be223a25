# -*- coding: utf-8 -*-
"""Copying a database, as the command `copy` and as another program, in all four directions."""
from __future__ import unicode_literals

import os
import signal
import subprocess
import sys

import pexpect
import pytest
from conftest import (PATIENCE, ROOT, Peer, audit, both, connect, environment, on_postgresql,
                      run_program, wait_for)

import db
from constants import ITEMS, MAX_CREDITS

TABLES = ("account", "account_key", "trade")
LEAST = -2 ** 63        # of a BIGINT

# Texts that quoting, COPY's format or a client's encoding could change.
ODD = ["tab\there", "line\nfeed", "\r\n", "\\N", "\\.", "\n\\.\n", "\\", "a\\tb", "\\\\n", "'", '"',
       "'; DROP TABLE account; --", "{}", "{\"a\",NULL}", "NULL", "%s %%", "?", "\x01\x1b[31m\x7f",
       "\x85\u2028\u202e", "\U0001f600\u200d\U0001f525", "e\u0301", "\xe9", "\ufeff", "\ufffd",
       "Ann", "ann", "ANN", " ann ", "x" * 255, "\U0001f600" * 255]

both_targets = pytest.mark.parametrize("target", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def target(request, directory):
    """Return a file that is not there, or the URL of a database without tables."""
    if request.param == "sqlite":
        yield os.path.join(directory, "copy.db")
    else:
        cluster = request.getfixturevalue("cluster")
        name = cluster.create_database()
        yield cluster.url(name)
        cluster.unused.append(name)


def copy(database, target, **options):
    return run_program("admin.py", "--database", database, "copy", target, **options)


def contents(outside):
    """Return all rows of all tables."""
    return [outside.execute("SELECT * FROM %s ORDER BY 1" % table).fetchall() for table in TABLES]


def is_empty(target):
    """Return whether a target has no rows, and perhaps no tables."""
    if "://" not in target and not os.path.exists(target):
        return True
    outside = connect(target)
    catalog = ("pg_tables WHERE schemaname = 'public'" if "://" in target else
               "(SELECT name AS tablename FROM sqlite_master WHERE type = 'table')")
    try:
        tables = [name for name, in outside.execute("SELECT tablename FROM " + catalog)]
        return not any(outside.execute("SELECT 1 FROM %s LIMIT 1" % table).fetchone()
                       for table in tables)
    finally:
        outside.close()


def open_account(outside, id, nickname, trade_id, credits=100, items="", note=""):
    """Store an account with its opening."""
    outside.execute("INSERT INTO account (id, nickname, credits, items) VALUES (?, ?, ?, ?)",
                    (id, nickname, credits, items))
    outside.execute(
        "INSERT INTO trade (id, account_id, time, what, item, price, credits, note) "
        "VALUES (?, ?, 1767323045, 'opening', ?, 0, ?, ?)", (trade_id, id, items, credits, note))


@pytest.fixture
def filled(database, outside):
    """Return a connection to a database with two accounts, of which bob is protected."""
    open_account(outside, 1, "ann", 1, 500, "bow")
    open_account(outside, 2, "bob", 2)
    if "://" in database:
        outside.execute("SELECT setval('account_id_seq', 2), setval('trade_id_seq', 2)")
    outside.execute("INSERT INTO account_key (account_id, hash) VALUES (2, '%s')" % ("0f" * 32))
    return outside


# --- what is copied -------------------------------------------------------------------------------

@both
@both_targets
def test_copy_has_every_row_as_it_was(database, target, outside, outside_of):
    for number, text in enumerate(ODD):
        open_account(outside, 900 - 7 * number, text, 11 + 3 * number,
                     [0, MAX_CREDITS][number % 2], text.replace(",", ""), text)
        outside.execute("INSERT INTO account_key (account_id, hash) VALUES (?, ?)",
                        (900 - 7 * number, "%064x" % number))
    before = contents(outside)
    status, out, err = copy(database, target)
    assert (status, err) == (0, "")
    assert out.count("accounts: 30, rows of the ledger: 30, problems: 0\n") == 2
    assert "has 30 accounts now, 30 rows of the ledger and 30 keys\n" in out
    assert contents(outside_of(target)) == before == contents(outside)
    for name in (database, target):
        audit(name)


@both
@both_targets
def test_shop_goes_on_with_a_copy(database, target, filled, open_shop, outside_of):
    assert copy(database, target)[0] == 0
    shop = open_shop(target)
    ann, is_new = shop.login("ann")
    assert not is_new
    eve, is_new = shop.login("eve")
    assert is_new
    shop.sell(ann, "bow")
    shop.buy(eve, "potion")
    assert not shop.commit()
    assert (ann.credits, eve.id) == (500 + ITEMS["bow"], 3)
    assert [id for id, in outside_of(target).execute("SELECT id FROM trade ORDER BY id")] == [
        1, 2, 3, 4, 5]
    with pytest.raises(db.Refusal):
        shop.login("bob")
    audit(target)


@both_targets
def test_damaged_ledger_is_copied_as_it_is_and_reported(database, target, filled, outside_of):
    filled.execute("UPDATE account SET credits = 7 WHERE id = 1")
    filled.execute("INSERT INTO trade VALUES (-5, 2, %d, 'nothing', '', %d, %d, '')"
                   % (LEAST, LEAST, MAX_CREDITS))
    before = contents(filled)
    status, out, err = copy(database, target)
    assert (status, err) == (1, "")
    assert out.count('account "ann": it has 7 credits, by the ledger it should have 500\n') == 2
    assert contents(outside_of(target)) == before


@both
@both_targets
def test_database_without_accounts_is_copied(database, target, open_shop):
    assert copy(database, target)[0] == 0
    assert open_shop(target).login("ann")[0].credits


@both_targets
def test_tables_that_are_there_are_filled(database, target, filled, outside_of):
    db.create_tables(target)
    assert copy(database, target)[0] == 0
    assert contents(outside_of(target)) == contents(filled)


@on_postgresql
@pytest.mark.parametrize("target", ["postgresql"], indirect=True)
def test_references_are_as_in_a_new_database(database, target, filled, outside_of):
    """They are dropped while rows are copied."""
    keys = ("SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
            "FROM pg_constraint ORDER BY 1, 2")
    expected = filled.execute(keys).fetchall()
    assert len(expected) > 5 and copy(database, target)[0] == 0
    assert outside_of(target).execute(keys).fetchall() == expected


@both
@both_targets
def test_server_on_the_source_goes_on_while_it_is_copied(database, target, start, filled):
    program = start(database=database)
    peer = Peer(program.port, "ann")
    assert copy(database, target)[0] == 0
    assert peer.call("sell", item="bow")["result"]["account"]["items"] == []
    peer.close()
    audit(database)
    audit(target)


# --- what is refused ------------------------------------------------------------------------------

ROWS = ["INSERT INTO account VALUES (5, 'eve', 1, '')",
        "INSERT INTO trade VALUES (5, 5, 1, 'opening', '', 0, 1, '')",
        "INSERT INTO account_key VALUES (5, 'x')"]


@both_targets
@pytest.mark.parametrize("row", ROWS)
def test_target_with_rows_is_refused(database, target, filled, outside_of, row):
    db.create_tables(target)
    outside = outside_of(target)
    if "://" in target:
        outside.execute("ALTER TABLE trade DROP CONSTRAINT trade_account_id_fkey; ALTER TABLE "
                        "account_key DROP CONSTRAINT account_key_account_id_fkey")
    outside.execute(row)
    before = contents(outside)
    status, out, err = copy(database, target)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "is not empty: its table %s has rows" % row.split()[2] in err
    assert contents(outside) == before


def test_older_target_is_upgraded_only_if_it_has_no_accounts(old_database, directory, outside_of):
    source, outside = os.path.join(directory, "source.db"), outside_of(old_database)
    db.create_tables(source)
    tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
    status, _, err = copy(source, old_database)
    assert status == 1 and "is not empty: its table account has rows" in err
    assert outside.execute(tables).fetchall() == [("account",)]
    outside.execute("DELETE FROM account")
    assert copy(source, old_database)[0] == 0
    assert len(outside.execute(tables).fetchall()) == 3


@both
def test_source_itself_is_refused(database, filled, directory):
    names = [database]
    if "://" in database:
        names.append(database.replace("127.0.0.1", "localhost") + "?application_name=other")
    else:
        os.symlink(database, os.path.join(directory, "link"))
        names += ["lavka.db", "link"]
    before = contents(filled)
    for name in names:
        status, out, err = copy(database, name, cwd=directory)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "is the database that is to be copied" in err and "w%25rd" not in err
    assert contents(filled) == before


@both_targets
def test_target_that_a_server_has_open_is_refused(database, target, filled, start):
    db.create_tables(target)
    start(database=target)
    status, out, err = copy(database, target)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "another server is serving" in err or "stop all of its servers first" in err
    assert is_empty(target)


def test_target_that_cannot_be_opened_is_one_sentence(database, filled, directory):
    for target, says in [("no/such/directory.db", "No such file or directory"),
                         ("postgresql://lavka:5ecret@127.0.0.1:1/shop", "cannot open the database"),
                         ("lavka:5ecret@host", "a database is a file, or")]:
        status, out, err = copy(database, target, cwd=directory)
        assert (status, out, err.count("\n")) == (1, "", 1), err
        assert says in err and "5ecret" not in err, err


def test_source_without_its_tables_is_refused(directory, database, outside):
    outside.execute("DROP TABLE account_key")
    status, out, err = copy(database, "copy.db", cwd=directory)
    assert (status, out, err.count("\n")) == (1, "", 1) and "no table account_key" in err
    assert not os.path.exists(os.path.join(directory, "copy.db"))


LEDGER, KEY, ACCOUNT = "row 2 of the ledger", "the key of account 2", "account 2"
UNUSABLE = [
    ("UPDATE trade SET item = NULL WHERE id = 2", LEDGER, "item is no text"),
    ("UPDATE trade SET item = x'00ff' WHERE id = 2", LEDGER, "item is no text"),
    ("UPDATE trade SET note = CAST(x'ff' AS TEXT) WHERE id = 2", LEDGER, "note is no text"),
    ("UPDATE trade SET note = CAST(x'eda080' AS TEXT) WHERE id = 2", LEDGER, "note "),
    ("UPDATE trade SET note = 'a' || char(0) WHERE id = 2", LEDGER, "note has a NUL"),
    ("UPDATE trade SET what = 'purchases' WHERE id = 2", LEDGER, "what has more than 8 characters"),
    ("UPDATE trade SET price = 1.5 WHERE id = 2", LEDGER, "price is no whole number"),
    ("UPDATE trade SET credits = -1 WHERE id = 2", LEDGER, "credits is below 0"),
    ("UPDATE trade SET account_id = NULL WHERE id = 2", LEDGER, "account_id is no whole number"),
    ("UPDATE account SET nickname = x'ff' WHERE id = 2", ACCOUNT, "nickname is no text"),
    ("UPDATE account SET credits = 'many' WHERE id = 2", ACCOUNT, "credits is no whole number"),
    ("UPDATE account_key SET hash = 5.5", KEY, "hash is no text"),
    ("UPDATE account_key SET hash = hash || '0'", KEY, "hash has more than 64 characters"),
]


@pytest.mark.parametrize("damage, row, problem", UNUSABLE)
def test_unusable_row_is_named_and_nothing_is_copied(database, directory, filled, damage, row,
                                                     problem):
    filled.execute("DROP TABLE trade")
    filled.execute("CREATE TABLE trade (id INTEGER PRIMARY KEY, account_id, time, what, item, "
                   "price, credits, note)")
    filled.execute("INSERT INTO trade SELECT id, id, 0, 'opening', items, 0, credits, '' "
                   "FROM account")
    filled.execute("CREATE TABLE untyped (account_id INTEGER PRIMARY KEY, hash)")
    filled.execute("INSERT INTO untyped SELECT * FROM account_key")
    filled.execute("DROP TABLE account_key")
    filled.execute("ALTER TABLE untyped RENAME TO account_key")
    target = os.path.join(directory, "copy.db")
    filled.execute(damage)
    status, out, err = copy(database, target)
    assert (status, out) == (1, "") and err.count("\n") == 1, err
    assert err.startswith("%s cannot be copied: its column %s" % (row, problem))
    assert is_empty(target)


@on_postgresql
def test_unusable_row_of_postgresql_is_named(database, directory, filled):
    filled.execute("ALTER TABLE trade ALTER COLUMN item DROP NOT NULL; "
                   "UPDATE trade SET item = NULL WHERE id = 2")
    assert copy(database, "copy.db", cwd=directory) == (
        1, "", "row 2 of the ledger cannot be copied: its column item is no text\n")


@pytest.mark.parametrize("row, says", [
    (ROWS[1], "row 5 of the ledger"), (ROWS[2], "the key of account 5")])
def test_row_without_an_account_is_copied_to_sqlite_alone(database, filled, directory, cluster,
                                                          outside_of, row, says):
    filled.execute(row)
    url = cluster.url(cluster.create_database())
    assert copy(database, url) == (
        1, "", "%s cannot be copied: there is no account 5\n" % says)
    assert is_empty(url)
    status, out, err = copy(database, "copy.db", cwd=directory)
    assert (status, err) == (1, "") and out.count("problems: 1\n") == 2
    assert contents(outside_of(os.path.join(directory, "copy.db"))) == contents(filled)


# --- what interrupts it ---------------------------------------------------------------------------

@pytest.fixture
def many(database, outside):
    """Return a database that takes long enough to copy."""
    outside.execute("BEGIN")
    outside.execute("INSERT INTO account (id, nickname, credits, items) WITH RECURSIVE n(i) AS "
                    "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) "
                    "SELECT i, 'player ' || i, 100, '' FROM n")
    outside.execute("INSERT INTO trade (id, account_id, time, what, item, price, credits, note) "
                    "SELECT id, id, 1767323045, 'opening', '', 0, 100, '' FROM account")
    outside.execute("COMMIT")
    return database


def start_copy(database, target):
    """Start `copy` on a terminal; return it when it copies the ledger."""
    terminal = pexpect.spawn(
        sys.executable, [os.path.join(ROOT, "admin.py"), "--database", database, "copy", target],
        env=environment(TERM="xterm"), encoding="utf-8", timeout=PATIENCE)
    terminal.delaybeforesend = None
    terminal.expect(r"copying the table trade \[#+")
    return terminal


def assert_ended_by(number, terminal):
    """Check that the program has ended by a signal, or as shells report that of Ctrl-C."""
    assert terminal.signalstatus == number or (
        number == signal.SIGINT and terminal.exitstatus == 130)
    assert "Traceback" not in terminal.before


@both_targets
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_copy_leaves_nothing_and_can_be_repeated(many, target, outside, number):
    terminal = start_copy(many, target)
    terminal.kill(number)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert_ended_by(number, terminal)
    wait_for(lambda: is_empty(target), "the rows to be gone")
    status, out, err = copy(many, target)
    assert (status, err, out.count("problems: 0\n")) == (0, "", 2)


@pytest.mark.parametrize("target", ["postgresql"], indirect=True)
def test_ctrl_c_ends_a_copy_whose_postgresql_hangs(many, target, outside_of):
    terminal = start_copy(many, target)
    session, = outside_of(target).execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND query LIKE 'COPY %'").fetchone()
    os.kill(session, signal.SIGSTOP)
    try:
        wait_for(lambda: is_asleep(terminal.pid), "the program to wait for PostgreSQL")
        terminal.kill(signal.SIGINT)
        terminal.expect(pexpect.EOF)
        terminal.close()
    finally:
        os.kill(session, signal.SIGCONT)
    assert_ended_by(signal.SIGINT, terminal)


def is_asleep(pid):
    with open("/proc/%d/stat" % pid) as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "S"


@pytest.mark.parametrize("target", ["postgresql"], indirect=True)
def test_lost_connection_leaves_nothing(many, target, cluster):
    terminal = start_copy(many, target)
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'"
                    % target.rsplit("/", 1)[1])
    terminal.expect(r"copy failed: .*\r\n")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 1 and "Traceback" not in terminal.before
    assert is_empty(target)
    assert copy(many, target)[0] == 0


def test_full_disk_leaves_nothing(many, directory):
    target = os.path.join(directory, "copy.db")
    process = subprocess.Popen(
        ["prlimit", "--fsize=3000000", sys.executable, os.path.join(ROOT, "admin.py"),
         "--database", many, "copy", target], cwd=directory, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert err.startswith(b"copy failed: ")
    assert is_empty(target)
    assert copy(many, target)[0] == 0


@both_targets
def test_no_server_starts_on_a_target_while_it_is_filled(many, target):
    db.create_tables(target)
    terminal = start_copy(many, target)
    terminal.kill(signal.SIGSTOP)
    status, out, err = run_program("server.py", "--port", "0", "--database", target)
    terminal.kill(signal.SIGCONT)
    assert (status, out, err.count("\n")) == (1, "", 1) and "Traceback" not in err
    terminal.expect(r"problems: 0\r\n[\s\S]*problems: 0\r\n")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
