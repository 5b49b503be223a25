# -*- coding: utf-8 -*-
"""The real server.py in a subprocess: how it starts, serves several clients, and stops."""
from __future__ import unicode_literals

import contextlib
import io
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import torture
from conftest import ROOT, Peer, environment, free_port, query, reason, request, wait_for

import client
from constants import ITEMS, RECV_SIZE, STOP_SECONDS

CHEAP = "potion"


def run_server(*arguments, **options):
    """Run a server that is expected to end by itself: (exit status, what it logged)."""
    variables = options.pop("variables", {})
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, "server.py")] + list(arguments),
                               stderr=subprocess.PIPE, env=environment(**variables), **options)
    try:
        wait_for(lambda: process.poll() is not None, "the server to end by itself")
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, process.communicate()[1].decode("utf-8")


def stored(program, nickname):
    with sqlite3.connect(program.database) as connection:
        return connection.execute("SELECT credits, items FROM account WHERE nickname = ?",
                                  (nickname,)).fetchone()


# --- starting -------------------------------------------------------------------------------------

def test_the_log_tells_the_real_port(start):
    program = start("--port", "0")
    assert program.port
    assert "listening on 127.0.0.1:%d\n" % program.port in program.log()
    assert Peer(program.port).call("ping")["result"] == "pong"


@pytest.mark.parametrize("name", ["server.py", "db.py"])
def test_without_peewee_it_says_how_to_install_it(directory, name):
    with io.open(os.path.join(directory, "peewee.py"), "w") as module:
        module.write("raise ImportError()\n")
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, name)], stderr=subprocess.PIPE,
                               env=environment(PYTHONPATH=directory))
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.decode("ascii") == \
        "peewee is missing; install it with: pip install -r requirements.txt\n"


@pytest.mark.parametrize("arguments", [[], ["--database", "none.db"]])
def test_without_tables_it_names_the_command(directory, arguments):
    status, log = run_server(*arguments, cwd=directory)
    assert status == 1 and log.count("\n") == 1 and "python db.py" in log
    assert os.listdir(directory) == []                  # and leaves nothing behind


def test_a_file_that_is_no_database(directory):
    path = os.path.join(directory, "text.db")
    with io.open(path, "w") as file:
        file.write("I am not a database. " * 100)
    status, log = run_server("--database", path)
    assert status == 1 and log.count("\n") == 1 and "not a database" in log


def test_a_port_in_use(program, directory, tmpdir):
    other = str(tmpdir.mkdir("other").join("lavka.db"))
    subprocess.check_call([sys.executable, os.path.join(ROOT, "db.py"), "--database", other],
                          env=environment())
    status, log = run_server("--port", str(program.port), "--database", other)
    assert status == 1 and log.count("\n") == 1
    assert "cannot listen on 127.0.0.1:%d" % program.port in log and "in use" in log


def test_a_second_server_on_the_same_file(program):
    player = Peer(program.port, "bob")
    status, log = run_server("--port", "0", "--database", program.database)
    assert status == 1 and log.count("\n") == 1 and "another server" in log
    assert "result" in player.call("buy", item=CHEAP)   # the first is not disturbed


def test_a_crash_leaves_no_lock(start):
    start().kill()
    assert Peer(start().port).call("ping")["result"] == "pong"


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1", "a..b"])
def test_a_host_that_cannot_be_listened_on(database, host):
    status, log = run_server("--host", host, "--port", "0", "--database", database)
    assert status == 1 and log.count("\n") == 1 and "cannot listen on " + host in log


@pytest.mark.parametrize("port", ["x", "-1", "65536", ""])
def test_a_port_that_is_none(database, port):
    status, log = run_server("--port", port, "--database", database)
    assert status == 2 and "--port" in log and "Traceback" not in log
    if port:                                            # an empty variable is as good as none
        status, log = run_server("--database", database, variables={"LAVKA_PORT": port})
        assert status == 2 and "error: environment variable LAVKA_PORT: " in log


def test_the_environment_and_the_flags(database, directory):
    """The variables name a place where it cannot listen, and a file that is not there."""
    variables = {"LAVKA_HOST": "203.0.113.1", "LAVKA_PORT": "1234", "LAVKA_DATABASE": "none.db"}
    assert "none.db" in run_server(variables=variables, cwd=directory)[1]
    arguments = ["--database", database]
    assert "203.0.113.1:1234" in run_server(*arguments, variables=variables)[1]
    assert "203.0.113.2:1234" in run_server(
        "--host", "203.0.113.2", *arguments, variables=variables)[1]
    assert "203.0.113.1:5678" in run_server("--port", "5678", *arguments, variables=variables)[1]


PROGRAMS = ["server.py", "client.py", "db.py", "admin.py"]
WAYS_TO_START = [["-OO"], ["-W", "error"], ["-s", "-B"]]
WAYS_TO_START += [["-3"], ["-R"]] if str is bytes else [["-bb", "-W", "error"], ["-I"]]
if sys.version_info >= (3, 11):
    WAYS_TO_START += [["-P"]]


@pytest.mark.parametrize("flags", WAYS_TO_START, ids=" ".join)
def test_programs_start_however_python_is_started(directory, flags):
    """Each through a symbolic link, in another directory."""
    for name in PROGRAMS:
        os.symlink(os.path.join(ROOT, name), os.path.join(directory, name))
    python = [sys.executable] + flags + (["-B"] if "-OO" in flags else [])
    processes = [subprocess.Popen(python + [name, "--help"], cwd=directory, env=environment(),
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for name in PROGRAMS]
    for name, process in zip(PROGRAMS, processes):
        out, err = [stream.decode("utf-8") for stream in process.communicate()]
        assert process.returncode == 0 and "Traceback" not in err
        assert out.startswith("usage: " + name)


def test_stop_leaves_nothing_open_that_python_would_warn_of(start):
    program = start(wrapper=["env", "PYTHONWARNINGS=error"])
    Peer(program.port, "bob").close()
    assert stop(program, signal.SIGTERM)[0] == 0
    assert "Warning" not in program.log()


# --- serving --------------------------------------------------------------------------------------

def test_players_survive_a_restart(start):
    first = start()
    player = Peer(first.port, "bob")
    account = player.call("buy", item=CHEAP)["result"]["account"]
    first.kill()
    player = Peer(start().port)
    reply = player.call("login", nickname="bob")["result"]
    assert reply["account"] == account and reply["created"] is False


def test_several_clients_at_once(program):
    """Threads of clients trade at the same time; what each was told is what is on disk."""
    accounts = {}

    def play(name):
        peer = Peer(program.port)
        accounts[name] = peer.call("login", nickname=name)["result"]["account"]
        for _ in range(20):
            for method in ("buy", "sell", "buy"):
                reply = peer.call(method, item=CHEAP)
                if "result" in reply:
                    accounts[name] = reply["result"]["account"]
        peer.close()

    threads = [threading.Thread(target=play, args=("player %d" % number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(accounts) == 10
    for name, account in accounts.items():
        assert account["items"] == [CHEAP]
        assert stored(program, name) == (account["credits"], CHEAP)


def test_a_killed_client_frees_its_nickname_at_once(program):
    script = ("import socket, sys, time\n"
              "sock = socket.create_connection(('127.0.0.1', %d))\n"
              "sock.sendall(%r)\n"
              "sock.recv(1000)\n"
              "sys.stdout.write('in')\n"
              "sys.stdout.flush()\n"
              "time.sleep(100)\n" % (program.port, str(request("login", nickname="bob").decode())))
    script = script.replace("sendall('", "sendall(b'")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.read(2) == b"in"
    assert not program.free("bob")
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for(lambda: program.free("bob"), "the nickname")


def test_a_nickname_of_any_kind_over_the_wire(program):
    for nickname in ("Боб", "👩‍🚀", "'; DROP TABLE account; --", "\x01\x1b[31m\n", '"\\',
                     "x" * 255):
        reply = Peer(program.port).call("login", nickname=nickname)["result"]
        assert reply["account"]["nickname"] == nickname
        assert stored(program, nickname) == (reply["account"]["credits"], "")
    peer = Peer(program.port)
    for nickname in ("", " \t", "a\0", "\ud800", "x" * 256, 5, None):
        assert reason(peer.call("login", nickname=nickname)) == "invalid_params"


def test_a_row_may_be_changed_between_logins(program):
    player = Peer(program.port, "bob")
    player.call("logout")
    with sqlite3.connect(program.database) as connection:
        connection.execute("UPDATE account SET credits = 5000, items = 'bow'")
    account = player.call("login", nickname="bob")["result"]["account"]
    assert account == {"nickname": "bob", "credits": 5000, "items": ["bow"]}
    for item in ITEMS:
        player.call("buy", item=item)
    items = ["bow"] + [item for item in ITEMS if item != "bow"]
    assert stored(program, "bob")[1] == ",".join(items)


# --- stopping -------------------------------------------------------------------------------------

def stop(program, *numbers):
    """Send signals; returns (exit status, the seconds that it took)."""
    begin = time.time()
    for number in numbers:
        program.process.send_signal(number)
    status = program.wait()
    return status, time.time() - begin


# Starts a program with SIGHUP as usual, even if the tests themselves run under nohup(1).
HEEDS_HANGUP = [sys.executable, "-c", "import os, signal, sys\n"
                "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
                "os.execvp(sys.argv[1], sys.argv[1:])\n"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it(start, number):
    program = start(wrapper=HEEDS_HANGUP)
    status, seconds = stop(program, number)
    assert status == 0 and seconds < 2
    assert program.log().rstrip().endswith("stopped")
    assert not os.path.exists(program.database + "-wal")        # the file was closed, too


def test_ignored_hangup_stays_ignored(start):
    """As nohup(1) has it."""
    program = start(wrapper=["nohup"])
    program.process.send_signal(signal.SIGHUP)
    assert Peer(program.port).call("ping")["result"] == "pong"
    assert stop(program, signal.SIGTERM)[0] == 0 and program.log().count(" stop clients=") == 1


def test_idle_players_do_not_delay_the_stop(program):
    players = [Peer(program.port, "player %d" % number) for number in range(20)]
    players[0].send(b'{"jsonrpc":"2.0","id":1,')        # one is in the middle of a line
    status, seconds = stop(program, signal.SIGTERM)
    assert status == 0 and seconds < 2
    assert all(player.line() is None for player in players)


def test_a_stop_accepts_nobody_and_serves_no_new_request(program):
    player = Peer(program.port, "bob")
    program.process.send_signal(signal.SIGTERM)
    assert player.line() is None                        # it has said that all is written
    with pytest.raises(socket.error):
        Peer(program.port)
    try:
        player.send(request("buy", item=CHEAP))
    except socket.error:
        pass
    player.close()
    assert program.wait() == 0
    assert stored(program, "bob")[1] == ""


def test_a_stop_under_load_answers_what_it_has_read(program):
    """Whole lines only: each trade that is on disk was told, and no other one.

    What a player sends arrives at once, and is more than a quantum, but not more than one recv.
    """
    players = [Peer(program.port, "player %d" % number) for number in range(15)]
    data = (request("buy", item=CHEAP) + request("sell", item=CHEAP)) * 100
    assert len(data) <= RECV_SIZE
    for player in players:
        player.send(data)
    first = players[0].line()                           # it has begun
    assert first["result"]["account"]["items"] == [CHEAP]
    program.process.send_signal(signal.SIGTERM)
    received = [all_lines(player) for player in players]
    for player in players:
        player.close()                                  # or the server waits for that
    assert program.wait() == 0
    trades = dict(query(program.database, "SELECT nickname, count(*) FROM trade JOIN account ON "
                        "account.id = account_id WHERE what != 'opening' GROUP BY nickname"))
    for number, player in enumerate(players):
        nickname = "player %d" % number
        replies = [first] if player is players[0] else []
        replies += received[number]
        assert len(replies) == trades.get(nickname, 0)
        assert len(replies) in (0, 200)                 # nothing was read, or all
        assert [reply["result"]["account"]["items"] for reply in replies] == \
            ([[CHEAP], []] * 100)[:len(replies)]
        if replies:
            account = replies[-1]["result"]["account"]
            assert stored(program, nickname) == (account["credits"], ",".join(account["items"]))
    assert trades["player 0"] == 200


def all_lines(peer):
    """Return what the peer gets until its connection ends, which half a line would fail."""
    replies = []
    try:
        for reply in iter(peer.line, None):
            replies.append(reply)
    except socket.error:                                # a reset
        pass
    return replies


def test_clients_that_do_not_read_do_not_delay_the_stop(program):
    other = torture.Trader("other", random.Random(1))
    other.log_in(program.port)
    torture.fill([Peer(program.port, "player %d" % number, receive_buffer=4096)
                  for number in range(5)], other)
    status, seconds = stop(program, signal.SIGINT)
    assert status == 0 and seconds < 2


def test_a_second_signal_stops_it_at_once(program):
    player = Peer(program.port, "bob")                  # who makes the first one take its time
    begin = time.time()
    program.process.send_signal(signal.SIGTERM)
    assert player.line() is None                        # said at once, with a second to leave
    status, _ = stop(program, signal.SIGTERM)
    assert status == -signal.SIGTERM and time.time() - begin < STOP_SECONDS


# --- the log and the statistics -------------------------------------------------------------------

FORGER = ("eve\n2026-01-01T00:00:00.000Z INFO login nickname=\"admin\"\x1b[31m\u202e\" reason=\"",
          "\x9b31m")


def test_no_nickname_forges_a_line_or_colours_a_terminal(program):
    begin = len(program.log())
    players = [Peer(program.port, nickname) for nickname in FORGER]
    other = Peer(program.port)
    for nickname in FORGER:
        assert reason(other.call("login", nickname=nickname)) == "nickname_in_use"
    for player in players:
        player.close()
    wait_for(lambda: program.log().count("reason=closed") == 2, "both to be gone")
    lines = program.log()[begin:].splitlines()
    assert len(lines) == 5                              # two logins, two logouts, a refusal
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z INFO (login|logout|refused) ", line)
               for line in lines)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", program.log())
    assert 'nickname="eve\\u000a2026-01-01' in program.log()


def test_start_and_stop_are_logged(start):
    program = start("--log-level", "info")
    assert " max_clients=%d " % program.stats()["max_clients"] in program.log()
    player = Peer(program.port, "bob")
    program.process.send_signal(signal.SIGTERM)
    assert player.line() is None
    player.close()                                      # or the server waits for that
    assert program.wait() == 0
    lines = [line.split(None, 2)[2] for line in program.log().splitlines()]
    assert re.match(r'start version=\S+ python=\S+ engine="SQLite [\d.]+" database=".*lavka\.db" '
                    r'admin_socket=".*lavka\.db\.sock" max_clients=\d+ '
                    r'max_clients_per_address=\d+$', lines[0])
    assert lines[1].startswith("listening on ") and lines[2].startswith('login nickname="bob"')
    assert lines[3] == "stop clients=1 players=1"
    assert lines[4].startswith('logout nickname="bob"') and lines[4].endswith(" reason=stop")
    assert lines[5:] == ["stopped"]


def test_log_levels(start):
    program = start("--log-level", "debug")
    player = Peer(program.port, "bob")
    assert "result" in player.call("buy", item="potion")
    wait_for(lambda: 'DEBUG trade nickname="bob" method=buy item="potion"' in program.log(),
             "the trade in the log")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_it_says_what_a_nickname_is(start, host):
    log = start("--host", host).log()
    assert "a nickname is no password" in log and 'have not typed "protect"' in log


def test_on_loopback_it_does_not(start):
    assert "passwords" not in start("--host", "127.0.0.1").log()


# --- make play ------------------------------------------------------------------------------------

needs_make = pytest.mark.skipif(not any(
    os.access(os.path.join(path, "make"), os.X_OK)
    for path in os.environ["PATH"].split(os.pathsep)), reason="there is no make here")


@pytest.fixture
def make_play(directory):
    """Return a function that begins `make play` in a directory with the programs.

    Its client ends at once, or with what is given as standard input.
    """
    for name in PROGRAMS:
        os.symlink(os.path.join(ROOT, name), os.path.join(directory, name))

    def begin(port, stdin=subprocess.PIPE):
        return subprocess.Popen(
            ["make", "-f", os.path.join(ROOT, "Makefile"), "-o", ".venv/play",
             "PY=" + sys.executable, "play"], cwd=directory, stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, close_fds=True,
            env=environment(LAVKA_PORT=port))

    return begin


def server_log(directory):
    with io.open(os.path.join(directory, "server.log"), encoding="utf-8") as file:
        return file.read()


@needs_make
def test_make_play_appends_to_the_log(make_play, directory):
    port = free_port()
    for number in (1, 2):
        output = make_play(port).communicate()[0]
        assert b"Nickname" in output
        log = server_log(directory)
        assert log.count(" INFO listening on 127.0.0.1:%d\n" % port) == number
        assert log.count(" INFO stopped\n") == number
    # An earlier line is not one of this start.
    with contextlib.closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)     # its clients have gone
        other.bind(("127.0.0.1", port))
        other.listen(1)
        output = make_play(port).communicate()[0].decode("utf-8")
    assert "cannot listen on" in output and "LAVKA_PORT=7778" in output
    assert "Nickname" not in output and "listening on" not in output
    assert server_log(directory).startswith(log)


@needs_make
def test_of_two_make_play_at_once_one_serves(make_play, directory):
    """The other one does not take that server's line for its own server's."""
    port = free_port()
    reader, writer = os.pipe()                          # the players type nothing for now
    try:
        both = [make_play(port, reader) for _ in range(2)]
        wait_for(lambda: [process for process in both if process.poll() is not None], "the second")
        loser, = [process for process in both if process.poll() is not None]
        assert b"Is there a server already?" in loser.communicate()[0]
    finally:
        os.close(writer)
        os.close(reader)
    assert b"Nickname" in b"".join(process.communicate()[0] for process in both
                                   if process is not loser)
    assert server_log(directory).count(" INFO listening on ") == 1


# --- IPv6 -----------------------------------------------------------------------------------------

def test_ipv6(start):
    program = start("--host", "::1")
    assert "listening on [::1]:%d\n" % program.port in program.log()
    assert "passwords" not in program.log()
    with client.Client("::1", program.port) as player:
        assert player.login("bob")["created"]
        assert player.buy("potion")["items"] == ["potion"]
        assert re.search(r'nickname="bob" peer=\[::1\]:\d+ ', program.log())
    assert program.stats()["players"] == 0
    with pytest.raises(client.ServerGone) as caught:
        client.Client("::1", free_port())
    assert str(caught.value).startswith("There is no server at [::1]:")
