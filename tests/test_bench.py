# -*- coding: utf-8 -*-
"""The programs in bench/: that they run, and that the peers do the work that they are measured by.

How fast anything is is not judged here.
"""
from __future__ import unicode_literals

import gc
import json
import os
import re
import socket
import subprocess
import sys
import tempfile

import pytest
from conftest import PATIENCE, ROOT, audit, both, environment, request

import pgcluster
from constants import ITEMS
from log import LogRateLimiter
from session import FOREVER, Session

BENCH = os.path.join(ROOT, "bench")
sys.path.append(BENCH)

only_3 = pytest.mark.skipif(sys.version_info < (3,), reason="bench/ runs on 3.x")


def run(*arguments, **options):
    """What Python prints in bench/ with these arguments; it ends with `status`, or 0."""
    process = subprocess.Popen([sys.executable] + list(arguments), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd=BENCH,
                               env=environment(PYTHONPATH=BENCH))
    out, err = process.communicate()
    assert process.returncode == options.get("status", 0), err.decode("utf-8")[-2000:]
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
        r"^\|.*\| [\d,]+(?: \\\*)? \| [\d.]+ \| [\d.]+ \| [\d.]+ \| ([\d.]*) \| [\d.]+ \| \d+% \|$",
        out, re.MULTILINE)
    assert len(rows) == 4 + 4 + 3 + 3 and rows.count("") == 4       # Lavka has no ratio to itself
    assert "`ping`, to a bare echo loop" in out and "| redis" not in out


@only_3
def test_servers_on_one_postgresql_are_compared(cluster):
    out = run("run.py", "--rounds", "1", "--seconds", "0.05", "--servers", "postgresql-1",
              "postgresql-2", "transactions-4", "--works", "trade50",
              "--directory", pgcluster.memory() or tempfile.gettempdir())
    assert "failed" not in out
    rows = re.findall(
        r"^\|.*, (\d servers?) \| [\d,]+(?: \\\*)? \|((?: [\d.]* \|){3}) \d+ \| \d+% \|$", out,
        re.MULTILINE)
    assert [servers for servers, _ in rows] == ["1 server", "2 servers", "4 servers"]
    assert [len(ratios.split()) - 3 for _, ratios in rows] == [1, 2, 1]     # none to itself
    assert "| durable trades, 50 clients, to redis | | >= 1.25 | not measured |" in out


@only_3
def test_a_server_that_does_not_start_is_a_row_that_says_so():
    """As one that is not installed is."""
    code = ("import run\n"
            "run.SERVERS['streams'].command[1] = 'nothing.py'\n"
            "run.SERVERS['echo'].missing = 'install it'\n"
            "run.main()\n")
    out = run("-c", code, "--rounds", "1", "--seconds", "0.05", "--works", "ping", "--servers",
              "streams", "echo", status=1)
    assert re.search(r"\| asyncio streams \| failed in round 1: it ended: .*nothing\.py", out)
    assert "| a bare echo loop | not installed: install it |" in out


@only_3
def test_the_peak_memory_of_a_crowd_is_told():
    code = "import run, works; works.CROWD_PLAYERS = 1200; run.main()"
    out = run("-c", code, "--rounds", "1", "--servers", "Lavka", "--works", "crowd")
    peak, afterwards = re.search(r"\*\*Lavka\*\* \| ([\d.]+) KB each at the peak, ([\d.]+) after",
                                 out).groups()
    assert 20 > float(peak) >= float(afterwards) > 0.5
    assert re.search(r"^\| KB at the peak .*\| %s \| <= 1.5 \| (met|missed) \|$" % peak, out,
                     re.MULTILINE)


@only_3
def test_every_tick_is_told_with_its_cause():
    code = ("import run, works\n"
            "works.SLOW_SECONDS = 0\n"
            "run.main()\n")
    out = run("-c", code, "--rounds", "1", "--tick-seconds", "0.2", "--servers", "timed", "--works",
              "ticks")
    p50, p99, p999 = map(float, re.search(
        r"ticks timed \| 0 checkpoints \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", out).groups())
    assert 0 < p50 <= p99 <= p999
    slow = re.findall(r"^\| [a-z, ]+ \| (\d+) \| ([\d.]+) \| [\d.]+ \| [\d.]+ \|$", out,
                      re.MULTILINE)
    assert sum(int(number) for number, _ in slow) > 10
    assert max(float(slowest) for _, slowest in slow) >= p999 - 0.1
    assert re.search(r"^\| ms of the slowest tick .* \| <= 50 \| (met|missed) \|$", out,
                     re.MULTILINE)


@only_3
def test_the_time_and_the_memory_of_a_server_are_those_of_its_processes():
    from servers import Running
    running = Running(None, None, None)
    code = ("import sys, time\n"
            "data = bytearray(50000000)\n"
            "del data\n"
            "while time.process_time() < 0.3: pass\n"
            "print(time.process_time(), flush=True)\n"
            "sys.stdin.read()\n")
    for _ in range(2):
        running.processes.append(subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    with running.processes[0], running.processes[1]:
        computed = sum(float(process.stdout.readline()) for process in running.processes)
        assert abs(running.computed() - computed) < 0.1
        assert running.memory("VmHWM") > running.memory() + 80000


@only_3
def test_a_timed_tick_knows_its_commit_and_its_checkpoint(database, open_shop):
    from timed_server import TimedService
    service = TimedService(open_shop(database), LogRateLimiter())
    try:
        service.end_tick(1)                 # has served nothing, and is not kept
        for makes_checkpoint in (False, True):
            session = Session(("127.0.0.1", 1))
            service.open(session)
            session.reader.feed(request("login", nickname="bob %s" % makes_checkpoint))
            service.serve([session], FOREVER)
            service.commit()
            if makes_checkpoint:
                service.shop.storage.query("PRAGMA wal_checkpoint(PASSIVE)")
                gc.collect()
            service.end_tick(2)
        first, second = service.ticks
        assert (first.seconds, second.seconds) == (2, 2)
        assert (first.checkpoint, second.checkpoint) == (False, True)
        assert first.commit > 0 and second.commit > 0
        assert first.collecting < second.collecting < 1
    finally:
        gc.callbacks.remove(service.on_collection)


@only_3
def test_the_cause_of_a_slow_tick_is_what_took_most_of_it():
    """Figures in milliseconds: the tick, its commit, garbage collection, computing."""
    out = run("-c", "import report, timed_server\n"
              "for tick in [(20, 18, 0, 12, True), (20, 2, 12, 19, False), (20, 2, 1, 15, False),\n"
              "             (20, 18, 0, 2, False), (20, 2, 0, 3, False)]:\n"
              "    print(report.cause(timed_server.Tick(*tick)))\n")
    assert out.splitlines() == [
        "a checkpoint", "garbage collection", "computing",
        "the commit waited, mostly for the disk", "it waited outside the commit, for its core"]


@only_3
def test_a_figure_that_the_load_has_limited_is_marked():
    out = run("-c", "import load, report\n"
              "for busy in (0.85, 0.86):\n"
              "    result = load.Result(1000, 1, 1, 1, busy, 1)\n"
              "    print(report.rate_cells([result], None)[0])\n"
              "    print(list(report.footnote({('ping', 'echo'): [result]})))\n")
    assert re.match(r"1,000\n\[\]\n1,000 \\\*\n\['.*at least this", out)


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
    costs = {}
    for part in ("ping", "trade", "select, recv, send", "the commit's own Python",
                 "SQL: update, insert", "fsync, shared by 50"):
        found = re.findall(r"^ *%s +(-?\d+\.\d\d)" % re.escape(part), out, re.MULTILINE)
        assert found, part
        costs[part] = float(found[-1])      # the last is that of a trade
    part, = re.findall(r"^What cannot be avoided is (\d\.\d\d) of a trade \(goal: >= 0\.75\)\.$",
                       out, re.MULTILINE)
    unavoidable = ("select, recv, send", "SQL: update, insert", "fsync, shared by 50")
    assert abs(float(part) - sum(costs[one] for one in unavoidable) / costs["trade"]) < 0.02
