# -*- coding: utf-8 -*-
"""The write-ahead log of the real server while another program reads, and after it."""
from __future__ import unicode_literals

import contextlib
import io
import os
import signal
import subprocess

import pytest
from conftest import CHEAP, Peer, audit, connect, wait_for

from constants import WAL_LARGE


@contextlib.contextmanager
def reader_of(database):
    """Another program that reads an old state, while the log grows to over twice WAL_LARGE."""
    with contextlib.closing(connect(database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM account").fetchall()
        with contextlib.closing(connect(database)) as writer:
            writer.execute("PRAGMA wal_autocheckpoint = 0")
            writer.execute("CREATE TABLE filler (bytes)")
            for _ in range(2):
                writer.execute("INSERT INTO filler VALUES (zeroblob(%d))" % WAL_LARGE)
        yield


def wal_size(program):
    return os.path.getsize(program.database + "-wal")


def trade(player):
    """Buy and sell, so that there is a commit."""
    for method in ("buy", "sell"):
        assert "result" in player.call(method, item=CHEAP)


def test_log_that_a_reader_held_back_becomes_short_again(program):
    player = Peer(program.port, "bob")
    with reader_of(program.database):
        trade(player)
        wait_for(lambda: "wal_large bytes=" in program.log(), "the warning")
        assert program.stats()["wal_bytes"] > 2 * WAL_LARGE
        for _ in range(200):
            trade(player)                       # the log cannot be copied, and nobody waits
        assert wal_size(program) > 2 * WAL_LARGE
    def is_short():
        trade(player)
        return "wal_shrunk bytes=" in program.log()

    wait_for(is_short, "the log to shrink")
    assert wal_size(program) <= WAL_LARGE
    assert program.stats()["wal_bytes"] <= WAL_LARGE
    for _ in range(20):
        trade(player)
    assert program.log().count("wal_large bytes=") == 1
    assert "checkpoint_failed" not in program.log()
    program.kill()
    audit(program.database)


def test_log_that_a_rolled_back_transaction_made_large_becomes_short_again(program):
    """Its file is large, while there is little in it to copy."""
    player = Peer(program.port, "bob")
    with contextlib.closing(connect(program.database)) as writer:
        writer.execute("PRAGMA cache_size = 10")            # or it would stay in memory
        writer.execute("BEGIN")
        writer.execute("CREATE TABLE filler (bytes)")
        for _ in range(2):
            writer.execute("INSERT INTO filler VALUES (zeroblob(%d))" % WAL_LARGE)
        writer.execute("ROLLBACK")
    assert wal_size(program) > WAL_LARGE

    def is_short():
        trade(player)
        return "wal_shrunk bytes=" in program.log()

    wait_for(is_short, "the log to shrink")
    assert wal_size(program) <= WAL_LARGE


def test_commits_make_no_checkpoint_while_the_log_is_large(shop, database, log_lines):
    """They would have to copy all of it, as soon as nobody reads any more."""
    def checkpoint_at():
        return shop.storage.query("PRAGMA wal_autocheckpoint").fetchone()[0]

    account, _ = shop.login("bob")
    assert not shop.commit()
    pages = checkpoint_at()
    assert pages > 0
    with reader_of(database):
        commit_a_trade(shop, account)
        assert checkpoint_at() == 0
        with contextlib.closing(connect(database)) as writer:
            for _ in range(4):
                writer.execute("INSERT INTO filler VALUES (zeroblob(%d))" % WAL_LARGE)
        commit_a_trade(shop, account)
    told = log_lines()
    assert len(told) == 2 and all(line.startswith("wal_large bytes=") for line in told)

    def is_short():
        commit_a_trade(shop, account)
        return checkpoint_at() == pages

    wait_for(is_short, "the log to shrink")
    assert log_lines()[-1].startswith("wal_shrunk bytes=")


def commit_a_trade(shop, account):
    shop.buy(account, CHEAP)
    shop.sell(account, CHEAP)
    assert not shop.commit()


def test_stop_with_a_large_log_is_quick_and_the_next_start_shortens_it(start):
    program = start()
    player = Peer(program.port, "bob")
    with reader_of(program.database):
        assert "result" in player.call("buy", item=CHEAP)
    program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0
    assert wal_size(program) > 2 * WAL_LARGE   # its checkpoint would have taken longer than a stop
    again = start()
    assert wal_size(again) == 0
    account = Peer(again.port).call("login", nickname="bob")["result"]["account"]
    assert account["items"] == [CHEAP]


def test_stop_with_a_log_that_grew_without_the_server_is_quick(program):
    with reader_of(program.database):
        pass
    program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0
    assert wal_size(program) > 2 * WAL_LARGE   # its checkpoint would have taken longer than a stop


def test_log_is_copied_once_a_thread_can_be_started(program):
    player = Peer(program.port, "bob")
    pid = str(program.process.pid)
    with io.open("/proc/%s/statm" % pid) as statm:
        size = int(statm.read().split()[0]) * os.sysconf(str("SC_PAGE_SIZE"))
    subprocess.check_call(["prlimit", "--pid", pid, "--as=%d:" % (size + 4000000)])
    with reader_of(program.database):
        trade(player)
    wait_for(lambda: "checkpoint_failed" in program.log(), "a thread that cannot be started")
    trade(player)
    subprocess.check_call(["prlimit", "--pid", pid, "--as=unlimited:"])

    def is_short():
        trade(player)
        return "wal_shrunk bytes=" in program.log()

    wait_for(is_short, "the log to shrink")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_end_of_the_server_while_the_thread_copies(start, number):
    program = start()
    player = Peer(program.port, "bob")
    with reader_of(program.database):
        trade(player)
    size = os.path.getsize(program.database)

    def is_copying():
        assert "result" in player.call("buy", item=CHEAP)
        if os.path.getsize(program.database) > size:
            return True
        assert "result" in player.call("sell", item=CHEAP)
        return False

    wait_for(is_copying, "the thread to copy")
    program.process.send_signal(number)
    program.wait()
    audit(program.database)
    account = Peer(start().port).call("login", nickname="bob")["result"]["account"]
    assert account["items"] == [CHEAP]
