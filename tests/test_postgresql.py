# -*- coding: utf-8 -*-
"""What only PostgreSQL has: URLs with passwords, sessions, advisory locks, fencing, prefetch.

What the shop does on both databases is in the other files, marked @both.
"""
from __future__ import unicode_literals

import contextlib
import itertools
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import (CHEAP, ROOT, Peer, Ticker, advisory_locks, audit, connect, environment,
                      free_port, hold, log_in_stored, on_postgresql, reason, record_statements,
                      refusal_of, request, run_program, wait_for)

import db
import pgcluster
import torture
from constants import (ITEMS, KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES,
                       STATEMENT_SECONDS, TCP_USER_TIMEOUT, TICK_SECONDS, USER_TIMEOUT_SECONDS)
from log import monotonic
from postgresql_locks import NicknameLocks
from session import FOREVER
from storage import CannotBackUp, ConnectionLost


@pytest.fixture
def new_database(cluster):
    """Return the URL of a database without tables."""
    return cluster.url(cluster.create_database())


def run(program, *arguments, **variables):
    """Run one of Lavka's programs; return (exit status, all output)."""
    status, out, err = run_program(program, *arguments, **variables)
    return status, out + err


def sessions(database):
    """Return the process ids of the servers' sessions on the database."""
    with contextlib.closing(connect(database)) as outside:
        return [pid for pid, in outside.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'lavka' "
            "AND datname = current_database()").fetchall()]


def terminate_session(cluster, database, shop):
    """End the session of a shop, which does not notice before its next statement."""
    pid, _ = shop.storage._session
    cluster.execute("SELECT pg_terminate_backend(%d)" % pid)
    wait_for(lambda: pid not in sessions(database), "the session to end")


def terminate_all_sessions(cluster):
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'lavka'")


def log_in_refused(shop, nickname="bob"):
    """Return the reason for which a login is refused in a tick of its own."""
    reason = refusal_of(shop.login, nickname).reason
    shop.commit()
    return reason


# --- URLs -----------------------------------------------------------------------------------------

NOBODY = "postgresql://lavka:5ecret@127.0.0.1:1/shop"     # where nobody listens


UNUSABLE_URLS = [
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
    ("postgresql://lavka:5ecret%00@127.0.0.1/shop", "this is no URL of a database")]


def test_unusable_urls_are_refused_without_their_passwords(cluster):
    """By each command, and by the server, which is a process of its own for each URL."""
    code = ("import os, sys, admin, db, server\n"
            "commands = [['verify'], ['grant', 'bob', '5'], ['history', 'bob'], ['show', 'bob'],\n"
            "            ['backup', 'no/such/file']]\n"
            "for url in sys.argv[1:]:\n"
            "    child = os.fork()\n"
            "    if not child:\n"
            "        os._exit(server.main(['--port', '0', '--database', url]))\n"
            "    assert os.waitpid(child, 0)[1] == 1 << 8\n"
            "for url in sys.argv[1:]:\n"
            "    statuses = [admin.main(command + ['--database', url]) for command in commands]\n"
            "    assert statuses + [db.main(['--database', url])] == [1] * 6\n")
    process = subprocess.Popen([sys.executable, "-c", code] + [url for url, _ in UNUSABLE_URLS],
                               cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    said = process.communicate()[0].decode("utf-8")
    assert process.returncode == 0 and "5ecret" not in said, said
    reasons = [says for _, says in UNUSABLE_URLS]
    reasons += [says for says in reasons for _ in range(6)]
    lines = said.splitlines()
    assert len(lines) == len(reasons)
    assert [line for line, says in zip(lines, reasons) if says not in line] == []


@pytest.mark.parametrize("program, arguments", [
    ("db.py", ["postgresql://lavka:5ecret@127.0.0.1/shop"]),
    ("db.py", ["--databse", "postgresql://lavka:5ecret@127.0.0.1/shop"]),
    ("server.py", ["--databse=postgresql://lavka:5ecret@127.0.0.1/shop"]),
    ("server.py", ["postgresql://lavka:5ecret@127.0.0.1/shop"]),
    ("admin.py", ["postgresql://lavka:5ecret@127.0.0.1/shop", "verify"]),
    ("admin.py", ["verify", "postgresql://lavka:5ecret@127.0.0.1/shop"])])
def test_url_in_a_wrong_place_is_hidden(program, arguments):
    status, said = run(program, *arguments)
    assert status == 2 and "usage: " in said and "5ecret" not in said


def test_wrong_password_is_one_line_without_it(cluster, new_database):
    url = new_database.replace(cluster.QUOTED, "5ecret")
    for program in ("server.py", "db.py"):
        status, said = run(program, LAVKA_DATABASE=url)
        assert (status, said.count("\n")) == (1, 1)
        assert "password authentication failed" in said and "5ecret" not in said
        assert url.replace(":5ecret", "") in said


def test_missing_database_is_one_line(cluster):
    for program in ("server.py", "db.py"):
        status, said = run(program, "--database", cluster.url("nothing"))
        assert (status, said.count("\n")) == (1, 1) and '"nothing" does not exist' in said


def test_missing_driver_is_one_line_with_the_command_that_installs_it(directory, cluster,
                                                                      new_database):
    with open(os.path.join(directory, "psycopg2.py"), "w") as file:
        file.write("raise ImportError('there is none')\n")
    says = "PostgreSQL needs a driver: pip install -r requirements-postgresql.txt\n"
    for program, arguments in (("db.py", []), ("admin.py", ["verify"])):
        assert run_program(program, *arguments, PYTHONPATH=directory, LAVKA_DATABASE=new_database) \
            == (1, "", says)
    status, out, err = run_program("server.py", "--port", "0", PYTHONPATH=directory,
                                   LAVKA_DATABASE=new_database)
    assert (status, out) == (1, "") and err.endswith(" ERROR " + says) and err.count("\n") == 1


def test_tables_are_created_once_by_concurrent_runs(new_database):
    status, said = run("server.py", "--port", "0", "--database", new_database)
    assert status == 1 and "create it with: python db.py, with the same database" in said
    processes = [subprocess.Popen([sys.executable, os.path.join(ROOT, "db.py")],
                                  env=environment(LAVKA_DATABASE=new_database)) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert run("db.py", LAVKA_DATABASE=new_database)[0] == 0
    audit(new_database)


@on_postgresql
def test_password_is_in_no_log_and_no_output(cluster, database, start):
    program = start("--log-level", "debug", database=database)
    peer = Peer(program.port, "bob")
    assert "result" in peer.call("buy", item=CHEAP)
    terminate_all_sessions(cluster)
    wait_for(lambda: "storage_reconnected" in program.log(), "the server to connect again")
    program.kill()
    said = [program.log(), run("db.py", LAVKA_DATABASE=database)[1],
            run("db.py", "--help", LAVKA_DATABASE=database)[1],
            run("admin.py", "steal", LAVKA_DATABASE=database)[1]]
    shown = database.replace(":" + cluster.QUOTED, "")
    assert 'database="%s"' % shown in said[0] and shown in said[1]
    assert not any(secret in text for text in said for secret in (cluster.PASSWORD, cluster.QUOTED))


# --- sessions -------------------------------------------------------------------------------------

@on_postgresql
def test_settings_of_a_session_override_those_of_the_database(database, open_shop):
    with contextlib.closing(connect(database)) as outside:
        for setting in ("synchronous_commit = off", "statement_timeout = '1s'",
                        "lock_timeout = '1h'", "default_transaction_isolation = 'serializable'"):
            outside.execute("ALTER DATABASE %s SET %s" % (database.rsplit("/", 1)[1], setting))
    query = open_shop(database).storage.query
    assert [query("SHOW " + name).fetchone()[0] for name in (
        "synchronous_commit", "statement_timeout", "lock_timeout", "tcp_user_timeout",
        "default_transaction_isolation", "tcp_keepalives_idle")] == [
            "on", "0", "250ms", "20000", "read committed", "10"]


@on_postgresql
def test_stronger_synchronous_commit_is_kept(database, open_shop):
    with contextlib.closing(connect(database)) as outside:
        outside.execute("ALTER DATABASE %s SET synchronous_commit = remote_apply"
                        % database.rsplit("/", 1)[1])
    shop = open_shop(database)
    assert shop.storage.query("SHOW synchronous_commit").fetchone() == ("remote_apply",)


@on_postgresql
def test_keepalive_options_are_set_on_the_clients_socket(shop):
    descriptor = shop.storage.database.connection().fileno()
    with contextlib.closing(socket.fromfd(descriptor, socket.AF_INET,
                                          socket.SOCK_STREAM)) as duplicate:
        option = duplicate.getsockopt
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_SECONDS == 10
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == KEEPALIVE_INTERVAL_SECONDS == 5
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == KEEPALIVE_PROBES == 3
        assert option(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 1000 * USER_TIMEOUT_SECONDS


@on_postgresql
def test_keepalive_options_of_the_url_override_the_defaults(database, open_shop):
    option = open_shop(database + "?keepalives_idle=77").storage.socket.getsockopt
    assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
    assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == KEEPALIVE_INTERVAL_SECONDS


@on_postgresql
@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_database_without_durable_commits_is_refused(cluster, database, setting):
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


def test_database_with_another_encoding_is_refused(cluster):
    cluster.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    status, said = run("db.py", "--database", cluster.url("ascii"))
    assert status == 1 and "SQL_ASCII, it has to be UTF8" in said


class Pooler(object):
    """A TCP proxy that, like a pooler, tells each client another process id than PostgreSQL's.

    The id is in the message BackendKeyData: K, its length, the id, a key
    (postgresql.org/docs/current/protocol-message-formats.html).
    """

    def __init__(self, port, changes_pid=True):
        self.port = port                # of PostgreSQL
        self.changes_pid = changes_pid
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(5)
        self.start(self.accept)

    def start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        thread.daemon = True
        thread.start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except socket.error:        # closed
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            self.start(self.copy, client, server, False)
            self.start(self.copy, server, client, self.changes_pid)

    def copy(self, source, target, changes_pid):
        try:
            for data in iter(lambda: source.recv(1 << 16), b""):
                key = data.find(b"K\0\0\0\x0c") if changes_pid else -1
                if key >= 0:
                    data = data[:key + 5] + b"\0\0\0\1" + data[key + 9:]
                    changes_pid = False
                target.sendall(data)
        except socket.error:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except socket.error:
                pass

    def url(self, database):
        return database.replace(":%d/" % self.port, ":%d/" % self.listener.getsockname()[1])

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@on_postgresql
def test_pooler_is_refused_with_one_line(cluster, database):
    with contextlib.closing(Pooler(cluster.port)) as pooler:
        url = pooler.url(database)
        for program, arguments in (("db.py", []), ("admin.py", ["verify"]),
                                   ("admin.py", ["grant", "bob", "5"]),
                                   ("server.py", ["--port", "0"])):
            status, said = run(program, *arguments, LAVKA_DATABASE=url)
            assert (status, said.count("\n")) == (1, 1) and "a pooler" in said, said
        pooler.changes_pid = False
        assert run("admin.py", "verify", LAVKA_DATABASE=url)[0] == 0


@on_postgresql
def test_pooler_at_reconnection_is_unreachable(cluster, database, caplog):
    with contextlib.closing(Pooler(cluster.port, changes_pid=False)) as pooler:
        with contextlib.closing(Ticker(pooler.url(database))) as ticker:
            ticker.client("bob")
            pooler.changes_pid = True
            terminate_all_sessions(cluster)
            ticker.until(lambda: ticker.shop.storage.is_lost)
            ticker.clock.now += 1
            ticker.until(lambda: "storage_unreachable" in caplog.text)
            assert "a pooler" in caplog.text and ticker.shop.storage.is_lost
            assert reason(ticker.call(ticker.client()[0], "login", nickname="bob")) == (
                "storage_failed")
            pooler.changes_pid = False
            ticker.clock.now += 10
            ticker.until(lambda: not ticker.shop.storage.is_lost)
            ticker.client("bob")


# --- advisory locks and fencing -------------------------------------------------------------------

@on_postgresql
def test_nickname_is_locked_from_login_to_the_commit_after_logout(database, open_shop):
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
    second.storage.database.close()                     # as when its server is killed
    wait_for(lambda: len(sessions(database)) == 1, "its session to end")
    account, _ = first.login("bob")
    assert account.items == [CHEAP]


@on_postgresql
def test_server_that_lost_its_session_is_fenced(database, open_shop, cluster):
    first, second = open_shop(database), open_shop(database)
    account, _ = first.login("bob")
    assert not first.commit()
    first.buy(account, CHEAP)
    terminate_session(cluster, database, first)
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
def test_logout_and_login_in_one_tick_keep_the_lock(database, open_shop):
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


def test_failover_to_a_synchronous_replica_loses_nothing_acknowledged(start):
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
        traders = [torture.Trader("trader %d" % number, random.Random(number))
                   for number in range(10)]
        for trader in traders:
            trader.log_in(program.port)
        assert torture.drive(traders, 0.3, 4)
        primary.kill()
        for trader in traders:
            trader.leave()
        replica.execute("SELECT pg_promote()")
        for trader in traders:
            trader.log_in(program.port)             # checks what is stored
        assert torture.drive(traders, 0.1, 4)
        program.kill()
        audit(database)


@on_postgresql
def test_login_after_the_loss_in_one_tick_has_no_lock(database, open_shop, cluster):
    first, second = open_shop(database), open_shop(database)
    account, _ = first.login("bob")
    assert not first.commit()
    first.buy(account, CHEAP)
    first.logout(account)
    terminate_session(cluster, database, first)
    assert refusal_of(first.login, "another").reason == "storage_failed" and first.storage.is_lost
    first.login("bob")
    with pytest.raises(ConnectionLost):
        first.commit()
    first.storage.do_pending_work(time.time)
    assert second.login("bob")[0].items == []
    second.commit()
    assert log_in_refused(first) == "nickname_in_use"


@on_postgresql
def test_failing_unlocks_are_one_log_line_and_a_count(cluster, database, start, outside):
    """Of a role that may lock, and may not unlock."""
    name = database.rsplit("/", 1)[1]
    role = "locker_" + name
    cluster.execute("CREATE ROLE %s LOGIN PASSWORD 'secret'" % role)
    for sql in ("REVOKE EXECUTE ON FUNCTION pg_advisory_unlock(bigint) FROM PUBLIC",
                "GRANT ALL ON ALL TABLES IN SCHEMA public TO " + role,
                "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO " + role):
        outside.execute(sql)
    program = start(database="postgresql://%s:secret@127.0.0.1:%d/%s" % (role, cluster.port, name))
    peer = Peer(program.port)
    for number in range(20):
        assert "result" in peer.call("login", nickname="player %d" % number)
        assert peer.call("logout")["result"] is True
    assert program.log().count("ERROR unlock_failed error=") == 1
    program.process.terminate()
    assert program.wait() == 0
    count, = re.findall(r"ERROR unlock_failed times=(\d+)\n", program.log())
    assert int(count) >= 19


@on_postgresql
def test_nickname_whose_unlock_failed_is_refused_until_it_is_unlocked(database, open_shop, outside):
    shop = open_shop(database)
    bob, _ = shop.login("bob")
    ann, _ = shop.login("ann")
    assert not shop.commit()
    unlock = shop.storage._locks.UNLOCK
    shop.storage._locks.UNLOCK = "SELECT 1 / 0 FROM unnest(%s::text[])"
    shop.logout(ann)
    assert not shop.commit() and shop.storage.has_pending_work() and not shop.has_changes()
    assert log_in_refused(shop, "ann") == "storage_failed"
    shop.buy(bob, CHEAP)
    assert not shop.commit()
    shop.storage._locks.UNLOCK = unlock
    assert not shop.commit() and not shop.storage.has_pending_work()
    assert not open_shop(database).login("ann")[1]


@on_postgresql
def test_renamed_account_stores_nothing_and_fails_its_requests(database, open_shop, outside):
    shop = open_shop(database)
    account, _ = shop.login("bob")
    assert not shop.commit()
    outside.execute("UPDATE account SET nickname = 'robert'")
    before = outside.execute("SELECT * FROM account").fetchall()
    shop.buy(account, CHEAP)
    assert shop.commit() == frozenset([account]) and account.stored is None
    assert outside.execute("SELECT * FROM account").fetchall() == before
    audit(database)


# --- prefetch: round trips of a tick --------------------------------------------------------------

def has_input(connection):
    return select.select([connection.sock], [], [], 0)[0]


def tick_until_served(ticker):
    """Tick once all connections have input, until it is served; return the number of ticks."""
    wait_for(lambda: all(map(has_input, ticker.server.connections)), "the requests")
    ticker.tick()
    ticks = 1
    while ticker.server.runnable or ticker.shop.has_changes():
        ticker.tick()
        ticks += 1
    return ticks


def batch(*lines):
    """Return the line of a JSON-RPC batch."""
    return b"[" + b",".join(lines).replace(b"\n", b"") + b"]\n"


# What a client sends in one tick, and what the number of statements must not depend on.
TICKS = [
    ("login", lambda n: request("login", nickname="player %d" % n)),
    ("trade", lambda n: request("buy", item=CHEAP) + request("sell", item=CHEAP)),
    ("logout", lambda n: request("logout")),
    ("all", lambda n: request("login", nickname="player %d" % n) + request("buy", item=CHEAP)
     + request("logout") + request("login", nickname="player %d" % n)),
    ("batch", lambda n: batch(request("sell", item=CHEAP), request("logout"),
                              request("login", nickname="player %d" % n), request("logout")))]


def open_peers(ticker, number):
    peers = [Peer(ticker.port) for _ in range(number)]
    ticker.peers += peers
    ticker.until(lambda: len(ticker.server.connections) == number)
    return peers


def send_tick(ticker, peers, lines):
    """Have each peer send its lines, and serve them; return the number of ticks."""
    for number, peer in enumerate(peers):
        peer.sock.setblocking(True)
        peer.send(lines(number))
    return tick_until_served(ticker)


@on_postgresql
def test_statements_of_a_tick_do_not_depend_on_the_number_of_requests(ticker, database):
    counts = {}
    statements = record_statements(ticker.shop)
    ticker.shop.storage._locks._count_at = FOREVER      # the locks are counted now and then
    for number in (1, 2, 100):          # statements are prepared when they are first needed
        peers = open_peers(ticker, number)
        for name, lines in TICKS:
            del statements[:]
            ticks = send_tick(ticker, peers, lines)
            counts[number, name] = len(statements), ticks
        for peer in peers:
            peer.close()
        ticker.until(lambda: not ticker.server.connections)
    for name, _ in TICKS:
        assert counts[100, name] == counts[2, name] and counts[2, name][0] <= 4, counts
    assert counts[2, "trade"] == (2, 1)         # to read the rows, and to save
    # Nor on the number of nicknames that one connection logs in with.
    peer, _ = ticker.client()
    peer.send(b"".join(request("login", nickname="n %d" % n) + request("logout")
                       for n in range(20)))
    wait_for(lambda: all(map(has_input, ticker.server.connections)), "the requests")
    del statements[:]
    ticker.tick()
    assert len(statements) <= 4
    assert len(ticker.replies(peer, 40)) == 40
    audit(database)


def test_without_prefetch_replies_are_the_same_and_statements_more(cluster, monkeypatch):
    monkeypatch.setattr(db, "CREDITS_RANGE", (500, 500))
    replies, counts = {}, {}
    for prefetches in (True, False):
        database = cluster.url(cluster.create_database(cluster.template))
        with contextlib.closing(Ticker(database, prefetches=prefetches)) as ticker:
            statements = record_statements(ticker.shop)
            peers = open_peers(ticker, 10)
            received = []
            for name, lines in TICKS:
                del statements[:]
                send_tick(ticker, peers, lines)
                counts[prefetches, name] = len(statements)
                received.append([ticker.replies(peer, lines(0).count(b"\n")) for peer in peers])
            replies[prefetches] = received
        audit(database)
    assert replies[True] == replies[False]
    assert all("result" in reply for tick in replies[True][:4] for received in tick
               for reply in received)
    for name in ("login", "trade", "all", "batch"):
        assert counts[False, name] >= counts[True, name] + 9, counts
    assert counts[False, "logout"] == counts[True, "logout"]        # it loads nothing


@on_postgresql
def test_missed_account_is_loaded_with_its_lock_in_two_statements(database, open_shop):
    first, second = open_shop(database), open_shop(database)
    first.logout(log_in_stored(first))
    assert not first.commit()
    statements = record_statements(first)
    account, created = first.login("bob")
    assert statements == [NicknameLocks.LOCK, first.storage.ROWS_AND_KEYS] and not created
    assert log_in_refused(second) == "nickname_in_use"
    assert not first.commit()
    del statements[:]
    first.buy(account, CHEAP)                   # in the next tick: the lock is held already
    assert statements == [first.storage.ROWS]
    first.sell(account, CHEAP)                  # in the same tick
    assert first.login("bob")[0] is account
    assert statements == [first.storage.ROWS]
    assert not first.commit() and log_in_refused(second) == "nickname_in_use"


@on_postgresql
def test_prefetched_account_is_loaded_without_a_statement(database, open_shop):
    first, second = open_shop(database), open_shop(database)
    log_in_stored(second, "ann")
    statements = record_statements(first)
    first.prefetch(["ann", "bob", "eve"])
    assert statements == [NicknameLocks.LOCK, first.storage.ROWS_AND_KEYS]
    assert first.login("bob")[1]
    assert refusal_of(first.login, "ann").reason == "nickname_in_use"
    first.prefetch(["bob", "ann"], ["bob"])     # known in this tick
    assert statements == [NicknameLocks.LOCK, first.storage.ROWS_AND_KEYS]
    assert not first.commit()


@on_postgresql
def test_lock_of_a_prefetched_nickname_that_did_not_log_in_is_given_back(database, open_shop):
    first, second = open_shop(database), open_shop(database)
    first.prefetch(["ann", "bob"])
    assert advisory_locks(database) == 2
    assert log_in_refused(second) == "nickname_in_use"
    first.login("ann")
    assert first.has_changes() and not first.commit()
    assert advisory_locks(database) == 1
    assert second.login("bob")[1]


@on_postgresql
def test_prefetch_is_forgotten_at_the_commit(database, open_shop, outside):
    shop = open_shop(database)
    account = log_in_stored(shop, credits=0, outside=outside)
    shop.commit()
    shop.prefetch(["bob"])
    assert refusal_of(shop.buy, account, CHEAP).reason == "not_enough_credits"
    outside.execute("UPDATE account SET credits = 500")
    assert not shop.commit()
    shop.prefetch(["bob"])
    shop.buy(account, CHEAP)
    assert not shop.commit() and account.credits == 500 - ITEMS[CHEAP]


@on_postgresql
def test_batch_that_logs_in_with_several_nicknames_is_applied_once(ticker, database):
    peer, _ = ticker.client("bob")
    begin = ticker.call(peer, "buy", item=CHEAP)["result"]["account"]["credits"] + ITEMS[CHEAP]
    calls = [request("sell", item=CHEAP), request("logout"), request("login", nickname="ann"),
             request("buy", item=CHEAP), request("logout"), request("login", nickname="bob"),
             request("buy", item=CHEAP), request("login", nickname="eve")]
    replies = ticker.exchange(peer, batch(*calls))
    assert ["result" if "result" in reply else reason(reply) for reply in replies] == (
        ["result"] * 7 + ["already_logged_in"])
    assert replies[5]["result"]["account"] == {
        "nickname": "bob", "credits": begin, "items": []}
    stats = ticker.ask("stats")
    assert (stats["requests"]["login"], stats["requests"]["buy"], stats["trades"]) == (4, 3, 4)
    audit(database)


@on_postgresql
def test_connections_beyond_the_time_budget_are_served_in_later_ticks(ticker):
    """Their prefetch is forgotten at the commit, and made again."""
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
        assert ["result" in reply for reply in ticker.replies(trader, 2)] == [True, True]
    assert sum(bool(c.reader.lines) for c in ticker.server.connections) >= len(pingers) - 5


# --- a database that fails, hangs, or is gone -----------------------------------------------------

@on_postgresql
def test_idle_server_notices_the_loss_and_closes_its_players(database, start, cluster):
    program = start(database=database)
    player, stranger = Peer(program.port, "bob"), Peer(program.port)
    terminate_all_sessions(cluster)
    assert player.line() is None
    assert stranger.call("ping")["result"] == "pong"    # it is no player
    wait_for(lambda: "result" in stranger.call("login", nickname="bob"), "the database")
    log = program.log()
    assert 'logout nickname="bob"' in log and "reason=storage_lost" in log
    assert "storage_lost error=" in log
    program.kill()


@on_postgresql
def test_cancelled_statement_is_a_failed_commit(database, open_shop, outside):
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
def test_accounts_that_cannot_be_read_are_refused(make_ticker, outside):
    """The lock is that of an ALTER TABLE. A statement waits for the busy timeout, which is longer
    than the time budget of a tick."""
    ticker = make_ticker(clock=monotonic)
    peer, _ = ticker.client("bob")
    outside.execute("BEGIN")
    outside.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
    assert reason(ticker.call(peer, "buy", item=CHEAP)) == "storage_failed"
    assert reason(ticker.call(ticker.client()[0], "login", nickname="ann")) == "storage_failed"
    outside.execute("ROLLBACK")
    assert ticker.call(peer, "buy", item=CHEAP)["result"]["account"]["items"] == [CHEAP]


@on_postgresql
def test_statement_first_needed_while_a_table_is_locked_is_prepared_later(ticker, outside):
    peer, _ = ticker.client("bob")
    outside.execute("BEGIN")
    outside.execute("LOCK TABLE account_key IN ACCESS EXCLUSIVE MODE")
    assert reason(ticker.call(peer, "protect", key="k" * 32)) == "storage_failed"
    outside.execute("ROLLBACK")
    assert ticker.call(peer, "protect", key="k" * 32)["result"] is True


@on_postgresql
def test_missing_table_at_reconnection_is_retried_without_spinning(ticker, outside):
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
def test_reconnection_terminates_the_last_session(cluster, database, open_shop, outside):
    """The session waits for a replica and does not notice that its client has gone."""
    shop = open_shop(database)
    account, _ = shop.login("bob")
    assert not shop.commit()
    try:
        configure(cluster, outside, "synchronous_standby_names", "nobody")
        shop.storage._connector.answer_seconds = 0.2
        with pytest.raises(ConnectionLost):
            # Commits begin to wait when PostgreSQL's checkpointer, too, has the setting.
            for trade in itertools.islice(itertools.cycle([shop.buy, shop.sell]), 1000):
                trade(account, CHEAP)
                shop.commit()
        shop.storage._connector.answer_seconds = STATEMENT_SECONDS
        configure(cluster, outside, "full_page_writes", "off")
        shop.storage.do_pending_work(time.time)               # it refuses this setting
        assert shop.storage.is_lost
        configure(cluster, outside, "full_page_writes", "on")
        shop.storage._retry_at = 0
        shop.storage.do_pending_work(time.time)
        assert not shop.storage.is_lost
        wait_for(lambda: advisory_locks(database) == 0, "the nickname to be free")
        assert not shop.login("bob")[1]
    finally:
        cluster.execute("ALTER SYSTEM RESET ALL")
        cluster.execute("SELECT pg_reload_conf()")


def configure(cluster, outside, name, value):
    """Change a setting of the cluster, and wait until all sessions have it."""
    cluster.execute("ALTER SYSTEM SET %s = '%s'" % (name, value))
    cluster.execute("SELECT pg_reload_conf()")
    wait_for(lambda: outside.execute("SHOW " + name).fetchone() == (value,), "the setting")


@contextlib.contextmanager
def frozen(database):
    """Stop PostgreSQL's process of a server's session."""
    pid, = sessions(database)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@on_postgresql
def test_database_that_hangs_counts_as_lost(ticker, database):
    peer, _ = ticker.client("bob")
    assert ticker.shop.storage._connector.answer_seconds == STATEMENT_SECONDS
    ticker.shop.storage._connector.answer_seconds = 0.1
    with frozen(database):
        peer.send(request("buy", item=CHEAP))
        ticker.until(lambda: ticker.shop.storage.is_lost)
        assert peer.line() is None
    ticker.shop.storage._connector.answer_seconds = STATEMENT_SECONDS
    wait_for(lambda: not sessions(database), "the session to end")
    ticker.clock.now += 1
    ticker.until(lambda: not ticker.shop.storage.is_lost)
    assert "result" in ticker.call(ticker.client()[0], "login", nickname="bob")


@on_postgresql
def test_second_signal_ends_a_server_whose_database_hangs(database, start):
    program = start(database=database)
    peer = Peer(program.port, "bob")
    with frozen(database):
        peer.send(request("buy", item=CHEAP))
        program.process.send_signal(signal.SIGTERM)
        wait_for(lambda: handled_signals(program) == [], "the first one to be handled")
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM


def handled_signals(program):
    """Return the signals that the server has handlers for."""
    with open("/proc/%d/status" % program.process.pid) as status:
        caught, = [int(line.split()[1], 16) for line in status if line.startswith("SigCgt")]
    return [number for number in (signal.SIGTERM, signal.SIGINT) if caught >> number - 1 & 1]


# --- the commands ---------------------------------------------------------------------------------

@on_postgresql
@pytest.mark.parametrize("command", [["grant", "bob", "5"], ["history", "bob"], ["verify"]])
def test_ctrl_c_ends_a_command_that_waits_for_a_lock(database, open_shop, outside, command):
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
def test_verify_streams_the_ledger(database):
    with contextlib.closing(connect(database)) as outside:
        outside.execute("INSERT INTO account (nickname, credits, items) "
                        "SELECT 'player ' || n, 100, '' FROM generate_series(1, 25000) AS n")
        outside.execute("INSERT INTO trade (account_id, time, what, item, price, credits, note) "
                        "SELECT id, 1767323045, 'opening', '', 0, 100, '' FROM account")
        assert run("admin.py", "verify", "--database", database) == (
            0, "accounts: 25000, rows of the ledger: 25000, problems: 0\n")
        outside.execute("UPDATE account SET credits = 7 WHERE nickname = 'player 24999'")
        status, said = run("admin.py", "verify", "--database", database)
        assert status == 1 and 'account "player 24999": it has 7 credits' in said


@on_postgresql
def test_backup_can_be_restored(cluster, database, directory, open_shop):
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
def test_backup_connects_to_the_same_hosts(cluster, directory, url, dsn):
    """A script in place of pg_dump prints its arguments."""
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
def test_backup_without_pg_dump_is_one_line_and_leaves_nothing_behind(database, directory):
    status, said = run("admin.py", "backup", os.path.join(directory, "copy"),
                       "--database", database, PATH=directory)
    assert (status, said.count("\n")) == (1, 1) and "pg_dump" in said
    assert os.listdir(directory) == []


@on_postgresql
def test_failed_backup_says_what_pg_dump_says_without_the_password(cluster, database, directory,
                                                                   open_shop):
    storage = open_shop(database).storage
    storage._connector.hosts[0]["port"] = "1"
    with pytest.raises(CannotBackUp) as caught:
        storage.copy_to(os.path.join(directory, "copy"), None)
    assert "refused" in "%s" % caught.value and cluster.PASSWORD not in "%s" % caught.value
