# -*- coding: utf-8 -*-
"""Faults injected into the real server: a short round of each of torture.py's, a disk that is full,
descriptors that run out, and the order of system calls."""
from __future__ import unicode_literals

import os
import random
import re
import sqlite3
import subprocess
import sys
import time

import pytest
import torture
from conftest import ROOT, Peer, audit, environment, reason, request, wait_for

from constants import ACCEPT_PAUSE_SECONDS, BUSY_SECONDS

CHEAP = "potion"


@pytest.mark.parametrize("fault, size", [
    (torture.kill_rounds, 4), (torture.fuzz_sessions, 60), (torture.churn, 2000),
    (torture.flood, 20000), (torture.never_read, 3), (torture.stop_under_load, 50)])
def test_a_short_round_of(start, fault, size):
    fault(start, random.Random(1), size)


@pytest.mark.parametrize("fault, size", [
    (torture.kill_a_server, 4), (torture.kill_the_database, 2), (torture.cut_a_connection, 4),
    (torture.race, 300)])
def test_a_short_round_on_several_servers_of(cluster, directory, fault, size):
    programs = []
    database = cluster.url(cluster.create_database(cluster.template))
    start = torture.starter(directory, programs, database=database)
    try:
        fault(start, random.Random(1), size, cluster)
    finally:
        for program in programs:
            program.kill()
    audit(programs[0].database)
    for program in programs:
        assert "Traceback" not in program.log()


def limit(program, name, number):
    """Set a soft limit of the running server; see prlimit(1)."""
    subprocess.check_call(["prlimit", "--pid", str(program.process.pid),
                           "--%s=%s:" % (name, number)])


def read(path):
    with open(path) as file:
        return file.read()


def limits(program):
    with open("/proc/%d/limits" % program.process.pid) as file:
        for line in file:
            if line.startswith("Max open files"):
                return line.split()[3:5]


# --- storage --------------------------------------------------------------------------------------

def fill_disk(program):
    """The log of SQLite may not grow any more; the server's own is far smaller."""
    limit(program, "fsize", os.path.getsize(program.database + "-wal"))
    return lambda: limit(program, "fsize", "unlimited")


def lock(program):
    holder = sqlite3.connect(program.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder.close


@pytest.mark.parametrize("fault", [fill_disk, lock])
def test_storage_that_fails_refuses_changes_goes_on_reading_and_recovers(program, fault):
    bob, ann = Peer(program.port, "bob"), Peer(program.port)
    before = bob.call("buy", item=CHEAP)["result"]["account"]
    begin = len(program.log())
    recover = fault(program)
    for _ in range(3):
        started = time.time()
        assert reason(bob.call("sell", item=CHEAP)) == "storage_failed"
        assert time.time() - started < BUSY_SECONDS + 1         # the slack of a busy machine
        assert reason(ann.call("login", nickname="ann")) == "storage_failed"
        assert bob.call("ping")["result"] == "pong"
        assert reason(bob.call("buy", item=CHEAP)) == "item_already_owned"
    assert ann.call("login", nickname="bob")["error"]["code"] == 1003
    with sqlite3.connect(program.database) as connection:
        rows = connection.execute("SELECT nickname, credits, items FROM account").fetchall()
        assert rows == [("bob", before["credits"], CHEAP)]
    recover()
    sold = bob.call("sell", item=CHEAP)["result"]["account"]
    assert sold["items"] == [] and sold["credits"] > before["credits"]
    assert ann.call("login", nickname="ann")["result"]["created"]
    errors = [line for line in program.log()[begin:].splitlines() if " ERROR " in line]
    assert len(errors) == 1 and "storage_failed error=" in errors[0]
    assert ("disk" in errors[0]) == (fault is fill_disk)        # it tells the cause
    def calm():
        bob.call("buy", item=CHEAP)
        bob.call("sell", item=CHEAP)
        return "storage_recovered failures=" in program.log()

    wait_for(calm, "the server to say that storage works again")


def test_commands_beside_a_server_that_trades(program, directory):
    """They see one state of the file, and the players hardly see them."""
    traders = [torture.Trader("trader %d" % number, random.Random(number)) for number in range(20)]
    for trader in traders:
        trader.log_in(program.port)
    copy = os.path.join(directory, "copy.db")
    for command in (["verify"], ["backup", copy], ["verify"], ["grant", "other", "5"]):
        if command[0] == "grant":
            Peer(program.port, "other").close()
        torture.drive(traders, 0.1, 4)
        process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "admin.py"), "--database", program.database] + command,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
        while process.poll() is None:
            torture.drive(traders, 0.02, 4)
        assert process.returncode == 0, process.stdout.read()
    audit(copy)
    for trader in traders:
        trader.peer.close()
    program.kill()
    audit(program.database)


STRACE = [path for path in os.environ["PATH"].split(os.pathsep)
          if os.access(os.path.join(path, "strace"), os.X_OK)]


@pytest.mark.skipif(not STRACE, reason="there is no strace here")
def test_no_reply_to_a_change_leaves_before_its_fsync(start, directory):
    """In the order of system calls: after the write of the log, an fsync that returned, then send."""
    trace = os.path.join(directory, "trace")
    program = start(wrapper=["strace", "-D", "-o", trace, "-s", "40",
                             "-e", "trace=sendto,pwrite64,fsync,fdatasync"])
    players = [Peer(program.port, "player %d" % number) for number in range(5)]
    for method in ["buy", "sell"] * 10:
        for player in players:
            player.send(request(method, item=CHEAP))
        for player in players:
            assert "result" in player.line()
    assert program.kill()
    wait_for(lambda: "+++ killed" in read(trace), "the end of the trace")
    calls = read(trace).splitlines()
    unsynced = replies = syncs = 0
    for call in calls:
        if call.startswith("pwrite64("):
            unsynced += 1
        elif re.match(r"f(data)?sync\(\d+\) += 0", call):
            unsynced = 0
            syncs += 1
        elif call.startswith("sendto(") and "account" in call:
            assert not unsynced, call
            replies += 1
    assert replies == 105 and 21 <= syncs <= replies    # with the logins


# --- descriptors ----------------------------------------------------------------------------------

def processor_seconds(program):
    with open("/proc/%d/stat" % program.process.pid) as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf(str("SC_CLK_TCK")))


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(start):
    program = start(wrapper=["prlimit", "--nofile=200:300"])
    assert limits(program) == ["300", "300"]
    peers = [Peer(program.port) for _ in range(260)]
    replies = [peer.call("ping") for peer in peers]
    assert {reply.get("result") or reason(reply) for reply in replies} == {"pong", "server_full"}
    assert "accept_failed" not in program.log()         # there are spare ones for all that


def test_out_of_descriptors(program):
    """Players who are in go on, newcomers wait, nothing spins, and it ends when there are more."""
    player = Peer(program.port, "bob")
    _, hard = limits(program)
    limit(program, "nofile", torture.descriptors_of(program))
    newcomers = [Peer(program.port) for _ in range(3)]
    for newcomer in newcomers:
        newcomer.send(request("ping"))
    wait_for(lambda: "accept_failed" in program.log(), "the server to notice")
    used, begin = processor_seconds(program), time.time()
    trades = 0
    while time.time() - begin < 2 * ACCEPT_PAUSE_SECONDS:       # over two of its attempts
        assert "result" in player.call("buy" if trades % 2 == 0 else "sell", item=CHEAP)
        trades += 1
        wait_for(lambda: time.time() - begin > trades * 0.1, "the next tenth of a second")
    assert processor_seconds(program) - used < 0.5 * (time.time() - begin)
    limit(program, "nofile", hard)
    begin = time.time()
    for newcomer in newcomers:
        assert newcomer.line()["result"] == "pong"
    assert time.time() - begin < 2 + 1                          # the slack of a busy machine
    assert program.log().count("accept_failed") == 1


# --- other peers ----------------------------------------------------------------------------------

def test_a_client_of_another_protocol(program):
    for data in (b"GET / HTTP/1.1\r\nHost: lavka\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 70000):
        peer = Peer(program.port)
        try:
            peer.send(data)
            peer.sock.shutdown(1)
            torture.check_replies(peer.reader.read())
        except EnvironmentError:
            pass
        peer.close()
    assert Peer(program.port).call("ping")["result"] == "pong"
    assert " ERROR " not in program.log()


def test_half_open_and_lingering_peers_cost_no_processor(program):
    peers = [Peer(program.port, "player %d" % number) for number in range(5)]
    for peer in peers[:2]:
        peer.send(b"x" * 70000 + b"\n")                 # now lingering
    for peer in peers[2:4]:
        peer.send(b'{"half')
    wait_for(lambda: program.free("player 0") and program.free("player 1"), "the lines to be refused")
    begin = time.time()
    used = processor_seconds(program)
    wait_for(lambda: time.time() - begin > 0.5, "half a second of the server's time to be looked at")
    assert processor_seconds(program) - used < 0.25
