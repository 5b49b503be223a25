# -*- coding: utf-8 -*-
"""The programs in bench/: that they run, and that the peers do the work that they are measured by.

How fast anything is is not judged here.
"""
from __future__ import unicode_literals

import json
import os
import re
import socket
import subprocess
import sys
import tempfile

import pytest
from conftest import PATIENCE, ROOT, audit, both, environment

import pgcluster
from constants import ITEMS

BENCH = os.path.join(ROOT, "bench")

only_3 = pytest.mark.skipif(sys.version_info < (3,), reason="bench/ runs on 3.x")


def run(script, *arguments):
    """What a program of bench/ prints."""
    process = subprocess.Popen([sys.executable, os.path.join(BENCH, script)] + list(arguments),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    out, err = process.communicate()
    assert process.returncode == 0, err.decode("utf-8")[-2000:]
    return out.decode("utf-8")


@only_3
def test_the_load_measures_a_server(program):
    port = "%d" % program.port
    for work in (["ping", "--depth", "3"], ["trade"], ["login"]):
        out = run("load.py", "--port", port, "--clients", "3", "--seconds", "0.05", *work)
        rate, = re.findall(r", 3 clients: (\d+) requests/s, p50 [\d.]+ ms, ", out)
        assert int(rate) > 0


@only_3
def test_the_load_is_spread_over_servers(start, tmpdir):
    programs = [start(directory=str(tmpdir.mkdir(name))) for name in ("one", "two", "three")]
    ports = [word for program in programs for word in ("--port", "%d" % program.port)]
    run("load.py", *ports + ["--clients", "6", "--seconds", "0.05", "trade"])
    for program in programs:
        assert len(re.findall("^.* login nickname=", program.log(), re.MULTILINE)) == 2
        assert program.stats()["trades"] > 2


@only_3
def test_the_servers_are_compared():
    """Those that need nothing installed; each does what it is asked, or its row would say so."""
    out = run("run.py", "--rounds", "1", "--seconds", "0.05", "--servers", "Lavka", "streams",
              "threads", "echo", "--works", "ping", "ping16", "trade1", "trade50")
    assert "failed" not in out
    rows = re.findall(
        r"^\|.*\| (?:[\d,]+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \| ([\d.]*) \| \d+% \|$",
        out, re.MULTILINE)
    assert len(rows) == 4 + 4 + 3 + 3 and rows.count("") == 4       # Lavka has no ratio to itself
    assert "`ping`, to a bare echo loop" in out and "| redis" not in out


@only_3
def test_servers_on_one_postgresql_are_compared(cluster):
    out = run("run.py", "--rounds", "1", "--seconds", "0.05", "--servers", "postgresql-1",
              "postgresql-2", "transactions-4", "--works", "trade50",
              "--directory", pgcluster.memory() or tempfile.gettempdir())
    assert "failed" not in out
    rows = re.findall(r"^\|.*, (\d servers?) \| [\d,]+ \|((?: [\d.]* \|){3}) \d+% \|$", out,
                      re.MULTILINE)
    assert [servers for servers, _ in rows] == ["1 server", "2 servers", "4 servers"]
    assert [len(ratios.split()) - 3 for _, ratios in rows] == [1, 2, 1]     # none to itself


@only_3
def test_a_server_that_does_not_start_is_a_row_that_says_so(tmpdir):
    """As one that is not installed is."""
    code = ("import sys, run\n"
            "run.SERVERS['streams'].command[1] = 'nothing.py'\n"
            "run.SERVERS['echo'].missing = 'install it'\n"
            "run.main()\n")
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--rounds", "1", "--seconds", "0.05", "--works", "ping",
         "--servers", "streams", "echo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=BENCH,
        env=dict(environment(), PYTHONPATH=BENCH))
    out = process.communicate()[0].decode("utf-8")
    assert process.returncode == 1
    assert re.search(r"\| asyncio streams \| failed in round 1: it ended: .*nothing\.py", out)
    assert "| a bare echo loop | not installed: install it |" in out


@only_3
@both
@pytest.mark.parametrize("script", ["streams.py", "threads.py"])
def test_a_peer_does_the_same_trades(script, database):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, os.path.join(BENCH, "peers", script), "127.0.0.1",
                                "%d" % port, database], env=environment())
    try:
        sock = None
        while sock is None:
            assert process.poll() is None
            try:
                sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
            except ConnectionRefusedError:
                pass
        with sock, sock.makefile("rb") as replies:
            def call(method, **params):
                request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
                sock.sendall(json.dumps(request).encode("ascii") + b"\n")
                reply = json.loads(replies.readline())
                assert (reply["jsonrpc"], reply["id"]) == ("2.0", 7)
                return reply["error"]["code"] if "error" in reply else reply["result"]

            assert call("ping") == "pong"
            assert call("buy", item="potion") == 1001
            opened = call("login", nickname="bob")
            assert opened["created"] and len(opened["catalog"]) == len(ITEMS)
            credits = opened["account"]["credits"]
            assert call("buy", item="potion")["account"] == {
                "nickname": "bob", "credits": credits - 25, "items": ["potion"]}
            assert call("buy", item="potion") == 2002
            assert call("buy", item="crown") == 2001
            assert call("sell", item="sword") == 2004
            assert call("sell", item="potion")["account"]["credits"] == credits
            assert call("steal") == -32601
            assert call("logout") is True
            assert call("login", nickname="bob")["created"] is False
        audit(database)
    finally:
        process.kill()
        process.wait()


def test_the_budget_is_told_for_ping_and_trade():
    out = run("budget.py", "--rounds", "5")
    for part in ("ping", "trade", "select, recv, send", "SQL: update, insert",
                 "fsync, shared by 50"):
        assert re.search(r"^ *%s +-?\d+\.\d\d" % re.escape(part), out, re.MULTILINE), part
