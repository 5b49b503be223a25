# -*- coding: utf-8 -*-
"""What only an SQLite file has: pragmas, pages, checkpoints, the lock of its one server, the
upgrade from before the ledger, damage."""
from __future__ import unicode_literals

import contextlib
import fcntl
import os
import random
import sqlite3
import subprocess
import sys

import pytest
from conftest import (CHEAP, ROOT, account_rows, audit, environment, ledger_rows, log_in_stored,
                      run_program)

import db
from constants import PAGE_SIZE, STREAM_ROWS, WAL_SIZE
from files import HeldFiles
from progress import Progress
from sqlite import SQLite
from sqlite_file import BrokenText
from storage import CannotOpen


def why_not_open(path):
    """Return why a shop cannot be opened on a file."""
    with pytest.raises(CannotOpen) as caught:
        db.Shop(path)
    return "%s" % caught.value


# --- streams --------------------------------------------------------------------------------------

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT "
BROKEN = "CAST(x'61ff' AS TEXT)"


@pytest.fixture
def reading(shop, database):
    """A storage that reads one state of the database."""
    storage = SQLite(database)
    with storage.reading():
        storage.begin_reading(Progress("reading"))
        yield storage


@pytest.mark.parametrize("place", [1, 2, STREAM_ROWS, STREAM_ROWS + 1, 2000])
def test_stream_has_each_row_once_whatever_text_is_broken(reading, place):
    rows = list(reading.stream(
        NUMBERS + "i, CASE i WHEN %d THEN %s ELSE 'text' END FROM n" % (place, BROKEN)))
    assert [number for number, _ in rows] == list(range(1, 2001))
    assert [text for _, text in rows] == ["text"] * (place - 1) + ["a\ufffd"] + ["text"] * (
        2000 - place)
    assert type(rows[place - 1][1]) is BrokenText


def test_stream_has_the_rows_before_an_error(reading):
    rows, failures = [], []

    def fail_once(number):
        if number == 700 and not failures:
            failures.append(number)
            raise ValueError()
        return number

    reading.database.connection().create_function("fail_once", 1, fail_once)
    with pytest.raises(sqlite3.Error):
        for row in reading.stream(NUMBERS + "fail_once(i) FROM n"):
            rows.append(row)
    assert rows in ([(i,) for i in range(1, 700)],
                    [(i,) for i in range(1, 699)])      # before 3.10, sqlite3 reads a row ahead


def test_broken_text_is_read_beside_streams(reading):
    streams = [reading.stream(NUMBERS + "i, 'text' FROM n") for _ in range(2)]
    for _ in range(2):
        assert [next(stream) for stream in streams] in ([(1, "text")] * 2, [(2, "text")] * 2)
        assert reading.query("SELECT " + BROKEN).fetchone() == ("a\ufffd",)


# --- pragmas and transactions ---------------------------------------------------------------------

def test_connection_of_a_server_is_durable_with_a_short_busy_timeout(shop):
    value = {name: shop.storage.query("PRAGMA " + name).fetchone()[0]
             for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")}
    assert value["journal_mode"] == "wal" and value["synchronous"] == 2     # FULL
    assert value["foreign_keys"] == 1
    assert value["busy_timeout"] <= 250


def test_file_that_cannot_be_made_durable_is_refused(database, monkeypatch):
    """SQLite keeps another journal mode silently where it can have no write-ahead log."""
    monkeypatch.setattr("sqlite.DURABLE", [("journal_mode", "delete"), ("synchronous", "full")])
    assert "cannot be made durable" in why_not_open(database)


def test_logins_of_a_tick_read_one_state_and_keep_it_no_longer(shop, outside):
    """Nobody could start the write-ahead log anew while a server waits for requests."""
    log_in_stored(shop, "known")
    outside.execute("PRAGMA busy_timeout = 0")
    for nickname in ("known", "new"):
        shop.logout(shop.login(nickname)[0])
        outside.execute("UPDATE account SET credits = credits + 1")
        assert outside.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 1     # busy
        shop.commit()
        outside.execute("UPDATE account SET credits = credits + 1")
        assert outside.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0


def test_login_that_cannot_be_read_leaves_nothing_behind(shop, outside):
    log_in_stored(shop, "bob")
    outside.execute("UPDATE account SET items = CAST(x'ff' AS TEXT)")
    outside.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(db.Refusal):
        shop.login("bob")
    assert outside.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0


def test_commit_is_one_immediate_transaction(shop, outside):
    accounts = [log_in_stored(shop, "player %d" % number) for number in range(50)]
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
    stored = account_rows(outside)
    assert len(stored) == 100
    assert all((account.nickname,) + account.row() in stored for account in accounts + new)


@pytest.mark.parametrize("page_size", [PAGE_SIZE, 4096])
def test_write_ahead_log_is_checkpointed_at_its_size_limit(database, page_size, open_shop):
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as outside:
        assert outside.execute("PRAGMA page_size").fetchone() == (PAGE_SIZE,)   # of a new file
        if page_size != PAGE_SIZE:              # as files were before
            outside.execute("PRAGMA journal_mode = delete")
            outside.execute("PRAGMA page_size = %d" % page_size)
            outside.execute("VACUUM")
    shop = open_shop(database)
    accounts = [shop.login("player %d" % number)[0] for number in range(500)]
    assert not shop.commit()
    size = written = 0
    while written < 2 * WAL_SIZE:
        for account in accounts:
            (shop.sell if CHEAP in account.items else shop.buy)(account, CHEAP)
        assert not shop.commit()
        written += 40000                    # a commit of 500 rows and their ledger is more
        size = max(size, os.path.getsize(database + "-wal"))
    assert 0.9 * WAL_SIZE < size < 1.2 * WAL_SIZE


def test_commands_leave_checkpoints_to_the_server(database):
    storage = SQLite(database)
    for context in (storage.reading, storage.changing):
        with context():
            assert storage.query("PRAGMA wal_autocheckpoint").fetchone() == (0,)


# --- opening --------------------------------------------------------------------------------------

def test_second_shop_on_the_file_is_refused(database, shop, directory, open_shop):
    link = os.path.join(directory, "link.db")
    os.symlink(database, link)
    for path in (database, link):
        assert "another server" in why_not_open(path)
    account = log_in_stored(shop)                       # the first is not disturbed
    shop.buy(account, CHEAP)
    assert not shop.commit()
    shop.close()
    open_shop(database)


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
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE account (name TEXT, money INTEGER)")


@pytest.mark.parametrize("make, says", [
    (make_nothing, "python db.py"), (make_empty, "python db.py"), (make_directory, "cannot open"),
    (make_text, "not a database"), (make_other_tables, "not that of this program")])
def test_unusable_file_is_refused_with_its_name_and_without_a_lock(directory, make, says):
    path = os.path.join(directory, "other.db")
    make(path)
    for _ in range(2):                          # a lock left behind would change the message
        message = why_not_open(path)
        assert says in message and path in message
    assert make is not make_nothing or not os.path.exists(path)


def test_file_without_unique_nicknames_is_refused(database, outside):
    index, = [name for name, in outside.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE '%nickname%'")]
    outside.execute("DROP INDEX " + index)
    assert "not that of this program" in why_not_open(database)


def test_file_name_that_looks_like_a_uri_is_a_file_name(directory):
    assert run_program("db.py", "--database", "file:x.db", cwd=directory)[0] == 0
    assert os.path.exists(os.path.join(directory, "file:x.db"))


# --- the upgrade of a file from before the ledger -------------------------------------------------

def test_file_from_before_the_ledger_is_upgraded(old_database, directory, outside_of, open_shop):
    assert "python db.py" in why_not_open(old_database)
    for _ in range(2):                                  # the second run changes nothing
        assert run_program("db.py", cwd=directory) == (0, "", "the tables are ready in lavka.db\n")
        outside = outside_of(old_database)
        assert account_rows(outside) == [("ann", 240, "torch,sword"), ("bob", 0, "")]
        assert ledger_rows(outside, "ann") == [("opening", "torch,sword", 0, 240)]
        assert ledger_rows(outside, "bob") == [("opening", "", 0, 0)]
    shop = open_shop(old_database)
    account, created = shop.login("ann")
    shop.sell(account, "torch")
    assert not shop.commit() and not created
    audit(old_database)


def test_file_is_not_upgraded_under_a_server_that_keeps_no_ledger(old_database, directory,
                                                                  outside_of):
    with open(old_database + ".lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, _, err = run_program("db.py", cwd=directory)
        assert status == 1 and "another server" in err and err.count("\n") == 1
    tables = outside_of(old_database).execute("SELECT name FROM sqlite_master").fetchall()
    assert ("trade",) not in tables


def test_file_with_unusable_accounts_is_not_upgraded(old_database, directory, outside_of):
    outside = outside_of(old_database)
    outside.execute("UPDATE account SET credits = 'many' WHERE nickname = 'ann'")
    status, out, err = run_program("db.py", cwd=directory)
    assert (status, out, err.count("\n")) == (1, "", 1) and 'account "ann" of' in err
    outside.execute("UPDATE account SET credits = 5 WHERE nickname = 'ann'")
    assert run_program("db.py", cwd=directory)[0] == 0
    audit(old_database)


def test_concurrent_upgrades_open_the_ledger_once(old_database, directory):
    processes = [subprocess.Popen([sys.executable, os.path.join(ROOT, "db.py")], cwd=directory,
                                  env=environment(), stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert b"Traceback" not in process.communicate()[1]
    assert 0 in [process.returncode for process in processes]
    audit(old_database)


def test_upgrade_by_another_process_before_the_transaction_is_noticed(old_database, monkeypatch):
    def upgrade_and_hold(path):
        monkeypatch.setattr("sqlite_file.HeldFiles", HeldFiles)
        db.create_tables(old_database)
        return HeldFiles(path)

    monkeypatch.setattr("sqlite_file.HeldFiles", upgrade_and_hold)
    db.create_tables(old_database)
    audit(old_database)


# --- damage ---------------------------------------------------------------------------------------

def test_damaged_file_ends_no_program_with_a_traceback(shop, database, directory):
    """Bytes changed at random, in the schema, the accounts and the ledger."""
    account = log_in_stored(shop, "ann")
    shop.buy(account, CHEAP)
    assert not shop.commit()
    log_in_stored(shop)
    shop.storage.database.close()               # moves everything from the write-ahead log
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
    code = ("import sys, admin, db, storage\n"
            "for path in sys.argv[1:]:\n"
            "    for command in (['verify'], ['show', 'ann'], ['history', 'ann'],\n"
            "                    ['backup', path + ' copy'], ['grant', 'ann', '5']):\n"
            "        assert admin.main(command + ['--database', path]) in (0, 1)\n"
            "    assert db.main(['--database', path]) in (0, 1)\n"
            "    try:\n"
            "        db.Shop(path).close()\n"
            "    except storage.CannotOpen:\n"
            "        pass\n")
    process = subprocess.Popen([sys.executable, "-c", code] + paths, cwd=ROOT, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == 0 and b"Traceback" not in err, err[-2000:]
    assert b"problems: " in out
