# -*- coding: utf-8 -*-
"""What PostgreSQL alone has: URLs and their passwords, nicknames that several servers share, and how
often it is asked. What the shop does on both databases is in the other files."""
from __future__ import unicode_literals

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import (ROOT, Peer, Ticker, audit, connect, environment, free_port,
                      hold, on_postgresql, reason, request, wait_for)

import db
import pgcluster
import torture
from constants import ITEMS, STATEMENT_SECONDS, TICK_SECONDS
from log import monotonic
from storage import CannotBackUp, ConnectionLost

CHEAP = "potion"


@pytest.fixture
def new_database(cluster):
    """The URL of a database without tables."""
    return cluster.url(cluster.create_database())


@pytest.fixture
def open_shop():
    """A function that opens a shop, to be closed after the test."""
    opened = []

    def open_shop(database):
        opened.append(db.Shop(database))
        return opened[-1]

    yield open_shop
    for shop in opened:
        shop.close()


def run(program, *arguments, **variables):
    """(status, everything it said) of one of Lavka's programs."""
    process = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, program)] + list(arguments), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=environment(**variables))
    said = process.communicate()[0].decode("utf-8")
    return process.returncode, said


def session(database, program):
    """What PostgreSQL knows of a server's session."""
    with contextlib.closing(connect(database)) as outside:
        return outside.execute("SELECT " + program + " FROM pg_stat_activity WHERE application_name "
                               "= 'lavka' AND datname = current_database()").fetchall()


def terminate(cluster, database, shop):
    """End the session of a shop, which has not noticed yet."""
    pid, _ = shop.storage._session
    cluster.execute("SELECT pg_terminate_backend(%d)" % pid)
    wait_for(lambda: (pid,) not in session(database, "pid"), "the session to end")


# --- URLs -----------------------------------------------------------------------------------------

NOBODY = "postgresql://lavka:5ecret@127.0.0.1:1/shop"     # where nobody listens


@pytest.mark.parametrize("url, says", [
    (NOBODY, "refused"),
    (NOBODY.replace("127.0.0.1", "no.such.host.invalid"), "no.such.host.invalid"),
    ("mysql://lavka:5ecret@127.0.0.1/shop", "a database is a file, or postgresql://"),
    ("postgresql://lavka:5ecret/x@127.0.0.1/shop", "this is no URL of a database"),
    ("postgresql://lavka:5ecret@5ecret@127.0.0.1/shop", "this is no URL of a database"),
    ("postgresql://lavka:5ecret%@127.0.0.1/shop", "this is no URL of a database"),
    ("postgresql://lavka:5ecret%zz@127.0.0.1/shop", "this is no URL of a database"),
    ("postgresql://lavka:5ecret", "this is no URL of a database"),
    ("postgresql://lavka:5ecret#x@127.0.0.1/shop", "this is no URL of a database"),
    ("postgresql://127.0.0.1/shop?password=5ecret&pass", "this is no URL of a database"),
    ("postgresql://127.0.0.1/shop?passwort=5ecret", "this is no URL of a database"),
    ("postgresql://127.0.0.1:x/shop", "this is no URL of a database"),
    ("postgresql://lavka:5ecret@127.0.0.1", "this is no URL of a database"),
    ("postgresql://lavka:5ecret@127.0.0.1/", "this is no URL of a database"),
    ("postgresql://", "this is no URL of a database"),
    ("postgresql:lavka:5ecret@127.0.0.1/shop", "this is no URL of a database"),
    (" postgresql://lavka:5ecret@127.0.0.1/shop", "a database is a file, or postgresql://"),
    ('"postgresql://lavka:5ecret@127.0.0.1/shop"', "a database is a file, or postgresql://"),
    ("//lavka:5ecret@127.0.0.1/shop", "a database is a file, or postgresql://"),
    ("lavka:5ecret@127.0.0.1/shop", "a database is a file, or postgresql://"),
    ("postgresql//lavka:5ecret@127.0.0.1/shop", "a database is a file, or postgresql://"),
    ("dbname=lavka user=lavka password=5ecret", "a database is a file, or postgresql://"),
    ("postgresql://lavka:5ecret%00@127.0.0.1/shop", "this is no URL of a database")])
def test_a_url_that_is_of_no_use(cluster, url, says):
    status, said = run("server.py", "--port", "0", "--database", url)
    assert (status, said.count("\n")) == (1, 1) and says in said and "5ecret" not in said
    code = ("import sys, admin, db\n"
            "commands = [['verify'], ['grant', 'bob', '5'], ['history', 'bob'], ['show', 'bob'],\n"
            "            ['backup', 'no/such/file']]\n"
            "statuses = [admin.main(command + ['--database', sys.argv[1]]) for command in commands]\n"
            "assert statuses + [db.main(['--database', sys.argv[1]])] == [1] * 6\n")
    process = subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.communicate()[0].decode("utf-8")
    assert process.returncode == 0 and "5ecret" not in said
    assert [says in line for line in said.splitlines()] == [True] * 6


@pytest.mark.parametrize("program, arguments", [
    ("db.py", ["postgresql://lavka:5ecret@127.0.0.1/shop"]),
    ("db.py", ["--databse", "postgresql://lavka:5ecret@127.0.0.1/shop"]),
    ("server.py", ["--databse=postgresql://lavka:5ecret@127.0.0.1/shop"]),
    ("server.py", ["postgresql://lavka:5ecret@127.0.0.1/shop"])])
def test_a_url_in_a_wrong_place(program, arguments):
    status, said = run(program, *arguments)
    assert status == 2 and "usage: " in said and "5ecret" not in said


def test_a_wrong_password(cluster, new_database):
    url = new_database.replace(cluster.QUOTED, "5ecret")
    for program in ("server.py", "db.py"):
        status, said = run(program, LAVKA_DATABASE=url)
        assert (status, said.count("\n")) == (1, 1)
        assert "password authentication failed" in said and "5ecret" not in said
        assert url.replace(":5ecret", "") in said


def test_a_database_that_is_not_there(cluster):
    for program in ("server.py", "db.py"):
        status, said = run(program, "--database", cluster.url("nothing"))
        assert (status, said.count("\n")) == (1, 1) and '"nothing" does not exist' in said


def test_without_the_driver(directory, cluster, new_database):
    with open(os.path.join(directory, "psycopg2.py"), "w") as file:
        file.write("raise ImportError('there is none')\n")
    for program in ("server.py", "db.py"):
        status, said = run(program, "--database", new_database, PYTHONPATH=directory)
        assert (status, said) == (1, said) and said.count("\n") == 1
        assert "pip install -r requirements-postgresql.txt" in said


def test_the_tables_are_made_once(new_database):
    """By several at once, and again; without them it says which command makes them, and of the
    password nothing."""
    status, said = run("server.py", "--port", "0", "--database", new_database)
    assert status == 1 and "create it with: python db.py, with the same database" in said
    processes = [subprocess.Popen([sys.executable, os.path.join(ROOT, "db.py")],
                                  env=environment(LAVKA_DATABASE=new_database)) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert run("db.py", LAVKA_DATABASE=new_database)[0] == 0
    audit(new_database)


@on_postgresql
def test_no_password_is_told_by_anything(cluster, database, start):
    program = start("--log-level", "debug", database=database)
    peer = Peer(program.port, "bob")
    assert "result" in peer.call("buy", item=CHEAP)
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'lavka'")
    wait_for(lambda: "storage_reconnected" in program.log(), "the server to connect again")
    program.kill()
    said = [program.log(), run("db.py", LAVKA_DATABASE=database)[1],
            run("db.py", "--help", LAVKA_DATABASE=database)[1],
            run("admin.py", "steal", LAVKA_DATABASE=database)[1]]
    shown = database.replace(":" + cluster.QUOTED, "")
    assert 'database="%s"' % shown in said[0] and shown in said[1]
    assert not any(secret in text for text in said for secret in (cluster.PASSWORD, cluster.QUOTED))


# --- what it has to be ----------------------------------------------------------------------------

@on_postgresql
def test_the_settings_of_a_session(cluster, database, open_shop):
    """Whatever the database's own are."""
    with contextlib.closing(connect(database)) as outside:
        for setting in ("synchronous_commit = off", "statement_timeout = '1s'", "lock_timeout = '1h'",
                        "default_transaction_isolation = 'serializable'"):
            outside.execute("ALTER DATABASE %s SET %s" % (database.rsplit("/", 1)[1], setting))
    query = open_shop(database).storage.query
    assert [query("SHOW " + name).fetchone()[0] for name in (
        "synchronous_commit", "statement_timeout", "lock_timeout", "tcp_user_timeout",
        "default_transaction_isolation", "tcp_keepalives_idle")] == [
            "on", "0", "250ms", "20000", "read committed", "10"]


@on_postgresql
def test_a_stronger_setting_stays(cluster, database, open_shop):
    with contextlib.closing(connect(database)) as outside:
        outside.execute("ALTER DATABASE %s SET synchronous_commit = remote_apply"
                        % database.rsplit("/", 1)[1])
    shop = open_shop(database)
    assert shop.storage.query("SHOW synchronous_commit").fetchone() == ("remote_apply",)


@on_postgresql
@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_database_that_loses_commits_is_refused(cluster, database, setting):
    def reload_with(command):
        cluster.execute("ALTER SYSTEM " + command)
        cluster.execute("SELECT pg_reload_conf()")

    reload_with("SET %s = off" % setting)
    try:
        wait_for(lambda: "cannot be made durable" in run("db.py", "--database", database)[1],
                 "the setting to be read")
        status, said = run("server.py", "--database", database)
        assert (status, said.count("\n")) == (1, 1) and "cannot be made durable" in said
    finally:
        reload_with("RESET " + setting)
    wait_for(lambda: run("db.py", "--database", database)[0] == 0, "the setting to be read")


def test_a_database_that_has_no_unicode_is_refused(cluster):
    cluster.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    status, said = run("db.py", "--database", cluster.url("ascii"))
    assert status == 1 and "SQL_ASCII, it has to be UTF8" in said


# --- nicknames of several servers -------------------------------------------------------------------

def log_in_refused(shop, nickname="bob"):
    with pytest.raises(db.Refusal) as caught:
        shop.login(nickname)
    shop.commit()
    return caught.value.reason


@on_postgresql
def test_a_nickname_is_one_servers(database, open_shop):
    first, second = open_shop(database), open_shop(database)
    account, _ = first.login("bob")
    first.commit()
    assert log_in_refused(second) == "nickname_in_use"
    first.buy(account, CHEAP)
    first.logout(account)
    assert log_in_refused(second) == "nickname_in_use"  # until what was bought is stored
    assert not first.commit() and not first.has_changes()
    again, created = second.login("bob")
    assert not created and again.items == [CHEAP]
    second.commit()
    assert log_in_refused(first) == "nickname_in_use"
    second.storage.database.close()                     # it ends, without a word
    wait_for(lambda: len(session(database, "pid")) == 1, "its session to end")
    account, _ = first.login("bob")
    assert account.items == [CHEAP]


@on_postgresql
def test_who_lost_the_connection_can_store_nothing(database, open_shop, cluster):
    first, second = open_shop(database), open_shop(database)
    account, _ = first.login("bob")
    assert not first.commit()
    first.buy(account, CHEAP)
    terminate(cluster, database, first)
    again, created = second.login("bob")                # free at once
    assert not created and again.items == []
    with pytest.raises(ConnectionLost):
        first.commit()
    assert first.storage.is_lost and not first.has_changes()
    assert log_in_refused(first) == "storage_failed"
    second.buy(again, "torch")
    assert not second.commit()
    first.storage.do_pending_work(time.time)
    assert not first.storage.is_lost and log_in_refused(first) == "nickname_in_use"
    second.logout(again)
    second.commit()
    assert first.login("bob")[0].items == ["torch"]
    audit(database)


@on_postgresql
def test_a_login_of_this_very_tick_is_kept(database, open_shop):
    """Out and in again before the commit: the other server never gets it."""
    first, second = open_shop(database), open_shop(database)
    account, _ = first.login("bob")
    first.logout(account)
    account, _ = first.login("bob")
    assert not first.commit() and log_in_refused(second) == "nickname_in_use"
    for changed in (True, False):
        if changed:
            first.buy(account, CHEAP)
        first.logout(account)
        if changed:
            again, _ = first.login("bob")
            assert again is account
            assert not first.commit() and log_in_refused(second) == "nickname_in_use"
    assert not first.commit()
    assert not second.login("bob")[1]


def test_no_room_for_more_nicknames(directory, caplog):
    """What was locked when the room ended is freed again, and nobody else is disturbed."""
    cluster = pgcluster.Cluster(free_port(), ["max_locks_per_transaction=10", "max_connections=20"])
    with contextlib.closing(cluster):
        database = cluster.url(cluster.template)
        with contextlib.closing(db.Shop(database)) as shop:
            assert "few_locks room_for=200" in caplog.text
            bob, _ = shop.login("bob")
            assert not shop.commit()
            shop.prefetch(["player %d" % number for number in range(30000)])
            assert log_in_refused(shop, "player 7") == "storage_failed"
            assert "out of shared memory" in caplog.text
            shop.buy(bob, CHEAP)
            assert not shop.commit() and not shop.storage.is_lost
            with contextlib.closing(connect(database)) as outside:
                assert outside.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                                       ).fetchone() == (1,)
            assert shop.login("player 7")[1]
            assert not shop.commit()


def test_a_failover(start):
    """The primary dies under load, its replica takes over: nothing that was told is lost."""
    primary = pgcluster.Cluster(free_port())
    replica = pgcluster.Cluster(free_port(), primary=primary)
    with contextlib.closing(primary), contextlib.closing(replica):
        # Each commit waits for the replica's disk.
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        database = primary.url(primary.template).replace(
            ":%d/" % primary.port, ":%d,127.0.0.1:%d/" % (primary.port, replica.port))
        assert "is a replica" in run("server.py", "--database", replica.url(primary.template))[1]
        program = start(database=database)
        traders = [torture.Trader("trader %d" % number, random.Random(number)) for number in range(10)]
        for trader in traders:
            trader.log_in(program.port)
        assert torture.drive(traders, 0.3, 4)
        primary.kill()
        for trader in traders:
            trader.leave()
        replica.execute("SELECT pg_promote()")
        for trader in traders:
            trader.log_in(program.port)             # checks what is there
        assert torture.drive(traders, 0.1, 4)
        program.kill()
        audit(database)


# --- a tick -----------------------------------------------------------------------------------------

@on_postgresql
def test_a_tick_asks_a_few_times_whatever_it_does(database, directory):
    ticker = Ticker(database)
    with contextlib.closing(ticker):
        counts = {}
        run_ = ticker.shop.storage._run
        asked = []
        ticker.shop.storage._run = lambda sql, *values: asked.append(sql) or run_(sql, *values)
        for number in (2, 100):
            peers = [Peer(ticker.port) for _ in range(number)]
            ticker.peers += peers
            ticker.until(lambda: len(ticker.server.connections) == number)
            for name, lines in [
                    ("log in", lambda n: request("login", nickname="player %d" % n)),
                    ("trade", lambda n: request("buy", item=CHEAP) + request("sell", item=CHEAP)),
                    ("log out", lambda n: request("logout")),
                    ("all", lambda n: request("login", nickname="player %d" % n)
                     + request("buy", item=CHEAP) + request("logout")
                     + request("login", nickname="player %d" % n)),
                    ("batch", lambda n: b"[" + request("sell", item=CHEAP) + b","
                     + request("logout") + b"," + request("login", nickname="player %d" % n)
                     + b"," + request("logout") + b"]\n")]:
                for n, peer in enumerate(peers):
                    peer.sock.setblocking(True)
                    peer.send(lines(n).replace(b"\n", b"") + b"\n" if name == "batch" else lines(n))
                wait_for(lambda: all(server_has_input(connection)
                                     for connection in ticker.server.connections), "the requests")
                ticks = 0
                del asked[:]
                ticker.tick()
                while ticker.server.runnable or ticker.shop.has_changes():
                    ticks += 1
                    ticker.tick()
                counts[number, name] = len(asked), ticks
            for peer in peers:
                peer.close()
            ticker.until(lambda: not ticker.server.connections)
        for name in ("log in", "trade", "log out", "all", "batch"):
            assert counts[100, name] == counts[2, name] and counts[2, name][0] <= 4, counts
        # Even of one who wants one nickname after the other.
        peer, _ = ticker.client()
        peer.send(b"".join(request("login", nickname="n %d" % n) + request("logout")
                           for n in range(20)))
        wait_for(lambda: all(server_has_input(c) for c in ticker.server.connections), "input")
        del asked[:]
        ticker.tick()
        assert len(asked) <= 4
        assert len(ticker.replies(peer, 40)) == 40
        audit(database)


def server_has_input(connection):
    import select
    return select.select([connection.sock], [], [], 0)[0]


@on_postgresql
def test_a_batch_is_carried_out_once(database):
    """Though it has to wait for accounts, its own and those that it logs in with."""
    ticker = Ticker(database)
    with contextlib.closing(ticker):
        peer, _ = ticker.client("bob")
        begin = ticker.call(peer, "buy", item=CHEAP)["result"]["account"]["credits"] + ITEMS[CHEAP]
        calls = [request("sell", item=CHEAP), request("logout"), request("login", nickname="ann"),
                 request("buy", item=CHEAP), request("logout"), request("login", nickname="bob"),
                 request("buy", item=CHEAP), request("login", nickname="eve")]
        replies = ticker.exchange(peer, b"[" + b",".join(calls).replace(b"\n", b"") + b"]\n")
        assert [list(reply)[1] if "error" not in reply else reason(reply) for reply in replies] == \
            ["result"] * 7 + ["already_logged_in"]
        assert replies[5]["result"]["account"] == {
            "nickname": "bob", "credits": begin, "items": []}
        stats = ticker.call(peer, "stats")["result"]
        assert (stats["requests"]["login"], stats["requests"]["buy"], stats["trades"]) == (4, 3, 4)
        audit(database)


@on_postgresql
def test_an_idle_server_notices_at_once(database, start, cluster):
    """Without a request, that its players may be another's."""
    program = start(database=database)
    player, stranger = Peer(program.port, "bob"), Peer(program.port)
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'lavka'")
    assert player.line() is None
    assert stranger.call("ping")["result"] == "pong"    # who is no player stays
    wait_for(lambda: "result" in stranger.call("login", nickname="bob"), "the database")
    log = program.log()
    assert 'logout nickname="bob"' in log and "reason=storage_lost" in log and "storage_lost error=" in log
    program.kill()


@on_postgresql
def test_a_statement_that_is_cancelled_is_a_failure_like_others(database, open_shop, outside):
    shop = open_shop(database)
    account, _ = shop.login("bob")
    assert not shop.commit()
    shop.storage.query("SET statement_timeout = 50")
    hold(outside)
    shop.buy(account, CHEAP)
    assert shop.commit() == frozenset([account]) and account.items == []
    outside.execute("ROLLBACK")
    shop.buy(account, CHEAP)
    assert not shop.commit()


@on_postgresql
def test_accounts_that_cannot_even_be_read_are_refused(database, outside):
    """An ALTER TABLE waits for nobody: each statement gives up after a quarter of a second, longer
    than a tick has for requests."""
    ticker = Ticker(database, clock=monotonic)
    with contextlib.closing(ticker):
        peer, _ = ticker.client("bob")
        outside.execute("BEGIN")
        outside.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        assert reason(ticker.call(peer, "buy", item=CHEAP)) == "storage_failed"
        assert reason(ticker.call(ticker.client()[0], "login", nickname="ann")) == "storage_failed"
        outside.execute("ROLLBACK")
        assert ticker.call(peer, "buy", item=CHEAP)["result"]["account"]["items"] == [CHEAP]


@on_postgresql
def test_a_nickname_that_is_taken_again_after_the_loss_is_not_kept(database, open_shop, cluster):
    """Logged out and in again in the very tick in which the connection ends: it has no lock."""
    first, second = open_shop(database), open_shop(database)
    account, _ = first.login("bob")
    assert not first.commit()
    first.buy(account, CHEAP)
    first.logout(account)
    terminate(cluster, database, first)
    assert log_in_refused_by_loss(first)
    first.login("bob")
    with pytest.raises(ConnectionLost):
        first.commit()
    first.storage.do_pending_work(time.time)
    assert second.login("bob")[0].items == []
    second.commit()
    assert log_in_refused(first) == "nickname_in_use"


def log_in_refused_by_loss(shop):
    with pytest.raises(db.Refusal) as caught:
        shop.login("another")
    return caught.value.reason == "storage_failed" and shop.storage.is_lost


@on_postgresql
def test_no_table_when_it_connects_again(database, outside):
    """The loop sleeps until the next attempt, and it is told once why."""
    ticker = Ticker(database)
    with contextlib.closing(ticker):
        peer, _ = ticker.client("bob")
        outside.execute("ALTER TABLE trade RENAME TO elsewhere")
        outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                        "application_name = 'lavka' AND datname = current_database()")
        ticker.until(lambda: ticker.shop.storage.is_lost)
        for _ in range(20):
            ticker.clock.now += 1
            ticker.tick()
            assert ticker.shop.storage.is_lost and ticker.shop.storage.socket is None
            assert ticker.server.poll_timeout(None) > 0
        outside.execute("ALTER TABLE elsewhere RENAME TO trade")
        ticker.clock.now += 10
        ticker.until(lambda: not ticker.shop.storage.is_lost)
        assert peer.line() is None
        assert "result" in ticker.call(ticker.client()[0], "login", nickname="bob")


@on_postgresql
def test_what_is_left_of_the_last_session_is_ended(cluster, database, open_shop, outside):
    """A commit that waits for a replica does not notice that its server has given up."""
    shop = open_shop(database)
    account, _ = shop.login("bob")
    assert not shop.commit()
    try:
        configure(cluster, outside, "synchronous_standby_names", "nobody")
        shop.storage._connector.answer_seconds = 0.2
        shop.buy(account, CHEAP)
        with pytest.raises(ConnectionLost):
            shop.commit()
        shop.storage._connector.answer_seconds = STATEMENT_SECONDS
        configure(cluster, outside, "full_page_writes", "off")
        shop.storage.do_pending_work(time.time)               # which it does not accept
        assert shop.storage.is_lost
        configure(cluster, outside, "full_page_writes", "on")
        shop.storage._retry_at = 0
        shop.storage.do_pending_work(time.time)
        assert not shop.storage.is_lost
        wait_for(lambda: outside.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                                         ).fetchone() == (0,), "the nickname to be free")
        assert not shop.login("bob")[1]
    finally:
        cluster.execute("ALTER SYSTEM RESET ALL")
        cluster.execute("SELECT pg_reload_conf()")


def configure(cluster, outside, name, value):
    """Change a setting of the whole cluster, and wait until all sessions have it."""
    cluster.execute("ALTER SYSTEM SET %s = '%s'" % (name, value))
    cluster.execute("SELECT pg_reload_conf()")
    wait_for(lambda: outside.execute("SHOW " + name).fetchone() == (value,), "the setting")


@on_postgresql
def test_a_nickname_changed_from_outside(database, open_shop, outside):
    """Nothing is stored that is told as failed."""
    shop = open_shop(database)
    account, _ = shop.login("bob")
    assert not shop.commit()
    outside.execute("UPDATE account SET nickname = 'robert'")
    before = outside.execute("SELECT * FROM account").fetchall()
    shop.buy(account, CHEAP)
    assert shop.commit() == frozenset([account]) and account.stored is None
    assert outside.execute("SELECT * FROM account").fetchall() == before
    audit(database)


@on_postgresql
def test_locks_that_cannot_be_given_back_are_not_ours(database, open_shop, outside):
    """Nobody is disconnected; it is tried again, and until then nobody gets them."""
    shop = open_shop(database)
    bob, _ = shop.login("bob")
    ann, _ = shop.login("ann")
    assert not shop.commit()
    unlock = shop.storage.UNLOCK
    shop.storage.UNLOCK = "SELECT 1 / 0 FROM unnest(%s::text[])"
    shop.logout(ann)
    assert not shop.commit() and shop.storage.has_pending_work() and not shop.has_changes()
    assert log_in_refused(shop, "ann") == "storage_failed"
    shop.buy(bob, CHEAP)
    assert not shop.commit()
    shop.storage.UNLOCK = unlock
    assert not shop.commit() and not shop.storage.has_pending_work()
    assert not open_shop(database).login("ann")[1]


@contextlib.contextmanager
def frozen(database):
    """Hold the process of PostgreSQL's that works for a server."""
    (pid,), = session(database, "pid")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@on_postgresql
def test_a_database_that_hangs_is_lost(database):
    ticker = Ticker(database)
    with contextlib.closing(ticker):
        peer, _ = ticker.client("bob")
        assert ticker.shop.storage._connector.answer_seconds == STATEMENT_SECONDS
        ticker.shop.storage._connector.answer_seconds = 0.1
        with frozen(database):
            peer.send(request("buy", item=CHEAP))
            ticker.until(lambda: ticker.shop.storage.is_lost)
            assert peer.line() is None
        ticker.shop.storage._connector.answer_seconds = STATEMENT_SECONDS
        wait_for(lambda: session(database, "pid") == [], "the session to end")
        ticker.clock.now += 1
        ticker.until(lambda: not ticker.shop.storage.is_lost)
        assert "result" in ticker.call(ticker.client()[0], "login", nickname="bob")


@on_postgresql
def test_a_second_signal_ends_it_though_the_database_hangs(database, start):
    program = start(database=database)
    peer = Peer(program.port, "bob")
    with frozen(database):
        peer.send(request("buy", item=CHEAP))
        program.process.send_signal(signal.SIGTERM)
        wait_for(lambda: signals_left(program) == [], "the first one to be handled")
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM


def signals_left(program):
    """The signals that the server has handlers for."""
    with open("/proc/%d/status" % program.process.pid) as status:
        caught, = [int(line.split()[1], 16) for line in status if line.startswith("SigCgt")]
    return [number for number in (signal.SIGTERM, signal.SIGINT) if caught >> number - 1 & 1]


@on_postgresql
def test_in_an_overload_everybodys_turn_comes(database):
    """Though a tick's time is over before all have had a turn, and what was fetched for it is
    forgotten then."""
    ticker = Ticker(database)
    with contextlib.closing(ticker):
        apply = ticker.service.apply

        def apply_slowly(connection):
            ticker.clock.now += TICK_SECONDS / 5
            apply(connection)

        ticker.service.apply = apply_slowly
        pingers = [ticker.client()[0] for _ in range(30)]
        traders = [ticker.client()[0] for _ in range(5)]
        for pinger in pingers:
            pinger.send(request("ping") * 6400)
        for number, trader in enumerate(traders):
            trader.send(request("login", nickname="trader %d" % number) + request("buy", item=CHEAP))
        for trader in traders:
            assert [list(reply)[1] for reply in ticker.replies(trader, 2)] == ["result", "result"]
        assert sum(bool(c.lines.lines) for c in ticker.server.connections) >= len(pingers) - 5


# --- the commands -----------------------------------------------------------------------------------

@on_postgresql
@pytest.mark.parametrize("command", [["grant", "bob", "5"], ["history", "bob"], ["verify"]])
def test_ctrl_c_ends_a_command_that_waits(database, open_shop, outside, command):
    open_shop(database).login("bob")
    outside.execute("BEGIN")
    outside.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
    process = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, "admin.py"), "--database", database] + command,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
    with contextlib.closing(connect(database)) as other:
        wait_for(lambda: other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()").fetchone() == (1,), "the command to wait")
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == b"" and process.returncode == 130
    outside.execute("ROLLBACK")


@on_postgresql
def test_verify_of_many(database, open_shop):
    with contextlib.closing(connect(database)) as outside:
        outside.execute("INSERT INTO account (nickname, credits, items) "
                        "SELECT 'player ' || n, 100, '' FROM generate_series(1, 25000) AS n")
        outside.execute("INSERT INTO trade (account_id, time, what, item, price, credits) "
                        "SELECT id, 1767323045, 'opening', '', 0, 100 FROM account")
        assert run("admin.py", "verify", "--database", database) == (
            0, "accounts: 25000, rows of the ledger: 25000, problems: 0\n")
        outside.execute("UPDATE account SET credits = 7 WHERE nickname = 'player 24999'")
        status, said = run("admin.py", "verify", "--database", database)
        assert status == 1 and 'account "player 24999": it has 7 credits' in said


@on_postgresql
def test_a_backup_can_be_restored(cluster, database, directory, open_shop):
    shop = open_shop(database)
    account, _ = shop.login("Боб")
    shop.buy(account, CHEAP)
    assert not shop.commit()
    path = os.environ["PATH"] + os.pathsep + pgcluster.BINARIES
    copy = os.path.join(directory, "copy.dump")
    assert run("admin.py", "backup", copy, "--database", database, PATH=path) == (
        0, "%s has %d bytes\n" % (copy, os.path.getsize(copy)))
    assert os.listdir(directory) == ["copy.dump"]
    status, said = run("admin.py", "backup", copy, "--database", database, PATH=path)
    assert status == 1 and "exists already" in said
    restored = cluster.url(cluster.create_database())
    subprocess.check_call([os.path.join(pgcluster.BINARIES, "pg_restore"), "--exit-on-error",
                           "--dbname", restored, copy])
    audit(restored)
    assert open_shop(restored).login("Боб")[0].row() == account.row()


@pytest.mark.parametrize("url, dsn", [
    ("postgresql://lavka@one:5432,two/shop", "host=one,two port=5432,"),
    ("postgresql://lavka@one,two:5433/shop", "host=one,two port=,5433"),
    ("postgresql://lavka@one,two/shop", "host=one,two"),
    ("postgresql://lavka@:5433/shop", "port=5433")])
def test_a_backup_asks_the_same_hosts(cluster, directory, url, dsn):
    """Told by a program that stands where pg_dump would."""
    path = os.path.join(directory, "pg_dump")
    with open(path, "w") as file:
        file.write("#!/bin/sh\necho \"$@\" >&2; exit 1\n")
    os.chmod(path, 0o755)
    code = ("import sys, db, storage\n"
            "try:\n"
            "    db.open_storage(sys.argv[1]).copy_to('copy', None)\n"
            "except storage.CannotBackUp as failed:\n"
            "    sys.stdout.write('%s' % failed)\n")
    said = subprocess.check_output(
        [sys.executable, "-c", code, url], cwd=ROOT,
        env=environment(PATH=directory + os.pathsep + os.environ["PATH"])).decode("utf-8")
    assert " ".join(sorted(said.split("--dbname ")[1].split())) == " ".join(
        sorted((dsn + " user=lavka dbname=shop").split()))


@on_postgresql
def test_a_backup_without_pg_dump(database, directory):
    status, said = run("admin.py", "backup", os.path.join(directory, "copy"), "--database", database,
                       PATH=directory)
    assert (status, said.count("\n")) == (1, 1) and "pg_dump" in said and os.listdir(directory) == []


@on_postgresql
def test_a_backup_that_fails(cluster, database, directory, open_shop):
    """pg_dump is told what it needs, and says itself what is wrong."""
    storage = open_shop(database).storage
    storage._connector.hosts[0]["port"] = "1"
    with pytest.raises(CannotBackUp) as caught:
        storage.copy_to(os.path.join(directory, "copy"), None)
    assert "refused" in "%s" % caught.value and cluster.PASSWORD not in "%s" % caught.value
