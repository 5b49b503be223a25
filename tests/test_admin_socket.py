# -*- coding: utf-8 -*-
"""The admin socket: whom it serves and when, and what happens to the file in the file system."""
from __future__ import unicode_literals

import contextlib
import errno
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest
from conftest import (ROOT, Peer, both, both_storages, environment, free_port, needs_strace,
                      on_postgresql, reason, request, wait_for)

import admin_socket
import constants
from admin_socket import AdminClient, AdminListener
from listener import CannotListen
from protocol import ErrorCode, RpcError, ServerGone, encode_error

CHEAP = min(constants.ITEMS, key=constants.ITEMS.get)
LIMITED = ["sh", "-c", 'ulimit -n 120; exec "$@"', "sh"]    # descriptors of a server
# Without root's right to write where nobody may.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []


def is_socket(path):
    return os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode)


# --- whom it serves, and when ---------------------------------------------------------------------

@both
def test_only_its_owner_may_connect(start, database):
    program = start(database=database, wrapper=["sh", "-c", 'umask 0; exec "$@"', "sh"])
    assert stat.S_IMODE(os.lstat(program.admin_path).st_mode) == 0o600
    assert program.stats()["version"] == constants.VERSION
    assert 'admin_socket="%s"' % program.admin_path.rsplit("/", 1)[1] in program.log() \
        or 'admin_socket="%s"' % os.path.realpath(program.admin_path) in program.log()


@needs_strace
def test_no_other_mode_is_ever_seen(start, directory):
    """The umask is set before bind(2), and nothing changes the mode afterwards."""
    trace = os.path.join(directory, "trace")
    start(wrapper=["strace", "-D", "-o", trace, "-e",
                   "trace=umask,bind,?chmod,fchmod,?fchmodat"])
    with io.open(trace) as file:
        calls = [line for line in file if line[0].isalpha() and "AF_INET" not in line]
    assert [call.split("(")[0] for call in calls] == ["umask", "bind", "umask"]
    assert calls[0].startswith("umask(0177)")


def test_full_server_answers_operators_and_does_not_count_them(make_ticker):
    ticker = make_ticker(max_clients=1)
    ticker.client("bob")
    guest = ticker.peer()
    ticker.until(lambda: guest.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                 if ticker.service.statistics.refusals else None)
    assert reason(guest.line()) == "server_full"
    operators = [ticker.operator() for _ in range(3)]
    for operator in operators:
        stats = ticker.call(operator, "stats")["result"]
        assert (stats["players"], stats["refusals"]) == (1, {"server_full": 1})
    guest.close()
    ticker.until(lambda: len(ticker.server.connections) == 1)
    assert ticker.call(operators[0], "stats")["result"]["clients"] == 1
    assert len(ticker.server.operators) == 3


def test_few_operators_are_served_at_once(ticker):
    """A program that never closes its connections takes no more descriptors."""
    operators = [ticker.operator() for _ in range(constants.MAX_OPERATORS)]
    for operator in operators:
        assert ticker.call(operator, "ping")["result"] == "pong"
    one_more = ticker.operator()
    refusal, = ticker.replies(one_more, 1)
    assert reason(refusal) == "server_full"
    assert refusal["error"]["message"] == "Too many operators are connected. Try again later."
    assert one_more.line() is None
    operators[3].close()
    ticker.until(lambda: len(ticker.server.operators) < constants.MAX_OPERATORS)
    assert ticker.call(ticker.operator(), "ping")["result"] == "pong"


def test_operators_who_come_at_once_wait_for_their_turn(directory):
    """A Unix socket whose listen queue is full refuses whoever does not wait in connect(2)."""
    listener = AdminListener(os.path.join(directory, "socket"), None)
    operators = [AdminClient(listener.path) for _ in range(5 * constants.MAX_OPERATORS)]
    for operator in operators:
        operator.close()
    listener.close()


def test_an_operator_may_be_idle(ticker):
    operator = ticker.operator()
    assert ticker.call(operator, "ping")["result"] == "pong"
    ticker.pass_time(10 * constants.LOGIN_SECONDS)
    assert ticker.call(operator, "ping")["result"] == "pong"


def test_out_of_descriptors_operators_are_served_one_by_one(start):
    """Also after clients have waited for the descriptors that become free."""
    program = start(wrapper=LIMITED)
    number = 120 - constants.SPARE_DESCRIPTORS - constants.SPARE_CLIENTS
    players = [Peer(program.port, "player %d" % each) for each in range(number)]
    used = len(os.listdir("/proc/%d/fd" % program.process.pid))
    limit_descriptors(program, used)
    waiting = [Peer(program.port) for _ in range(3)]
    wait_for(lambda: "accept_failed error=EMFILE" in program.log(), "the log line")
    for _ in range(10):
        assert program.stats()["clients"] == number
    with AdminClient(program.admin_path) as operator:
        assert operator.stats()["players"] == number
        late = Peer(program.admin_path)                 # waits until the first one has gone
        late.send(request("ping"))
    assert late.line()["result"] == "pong"
    late.close()
    players[0].close()
    assert reason(waiting[0].call("buy", item=CHEAP)) == "not_logged_in"
    assert program.stats()["players"] == number - 1


def limit_descriptors(program, number):
    """Set the limit of a process that runs; prlimit(2) is not in every Python."""
    subprocess.check_call(["prlimit", "--pid", str(program.process.pid),
                           "--nofile=%d:%d" % (number, number)])


@on_postgresql
def test_without_its_database_the_server_answers_operators(ticker, outside):
    ticker.client("bob")
    outside.execute("ALTER TABLE trade RENAME TO elsewhere")
    outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                    "application_name = 'lavka' AND datname = current_database()")
    ticker.until(lambda: ticker.shop.storage.is_lost)
    assert ticker.ask("stats")["players"] == 0
    assert ticker.ask("players") == []
    outside.execute("ALTER TABLE elsewhere RENAME TO trade")


def test_stopping_server_answers_operators(program):
    """A client that takes no replies makes the stop as long as it may be."""
    silent = Peer(program.port, receive_buffer=4096)
    silent.send(request("login", nickname="bob") + request("buy", item="nothing") * 20000)
    wait_for(lambda: program.stats()["unsent_bytes"], "replies that are not taken")
    operator = Peer(program.admin_path)
    assert operator.call("ping")["result"] == "pong"
    program.process.terminate()
    wait_for(lambda: "stop clients=1" in program.log(), "the stop")
    assert program.stats()["clients"] == 1              # through a connection made now
    assert program.wait() == 0
    assert operator.line() is None


# --- players --------------------------------------------------------------------------------------

@both_storages
def test_players_have_their_peer_and_their_seconds(ticker):
    ticker.client("bob")
    ticker.pass_time(90)
    eve, _ = ticker.client("eve")
    ticker.client()
    ticker.pass_time(9.5)
    ports = [peer.sock.getsockname()[1] for peer in ticker.peers]
    assert ticker.ask("players") == [
        {"nickname": "bob", "peer": "127.0.0.1:%d" % ports[0], "seconds": 99},
        {"nickname": "eve", "peer": "127.0.0.1:%d" % ports[1], "seconds": 9}]
    assert ticker.ask("players", after="bob") == ticker.ask("players")[1:]
    assert ticker.ask("players", after="eve") == []
    assert reason(ticker.call(ticker.operator(), "players", after=5)) == "invalid_params"
    ticker.call(eve, "logout")
    ticker.call(eve, "login", nickname="ann")
    assert [(player["nickname"], player["seconds"]) for player in ticker.ask("players")] == [
        ("ann", 0), ("bob", 99)]


@pytest.mark.parametrize("begin", ["", "\U0001f600" * 250])
def test_all_players_are_told_in_pages_that_fit_into_a_line(program, begin):
    """A page ends at a number of players, or at a number of bytes."""
    nicknames = [begin + "%04d" % number for number in range(1100 if not begin else 40)]
    peers = [Peer(program.port) for _ in nicknames]
    for peer, nickname in zip(peers, nicknames):
        peer.send(request("login", nickname=nickname))
    for peer in peers:
        assert "result" in peer.line()
    with AdminClient(program.admin_path) as operator:
        players = operator.players()
        assert [next(players)["nickname"] for _ in range(10)] == nicknames[:10]
        peers[0].close()                    # somebody who was told already leaves
        wait_for(lambda: operator.stats()["players"] == len(nicknames) - 1, "the end of a login")
        assert [player["nickname"] for player in players] == nicknames[10:]
        pages = operator.stats()["requests"]["players"]
    assert pages == 6 if not begin else pages > 3       # the last one is empty


# --- kicks ----------------------------------------------------------------------------------------

@both_storages
def test_kick_ends_the_login_and_the_connection(ticker, log_lines):
    bob, connection = ticker.client("bob")
    log_lines()
    assert ticker.ask("kick", nickname="bob") is True
    assert bob.line() is None
    assert log_lines() == ['logout nickname="bob" peer=127.0.0.1:N reason=kicked']
    bob.close()
    ticker.until(lambda: connection not in ticker.server.connections)
    assert ticker.ask("players") == []
    again, _ = ticker.client("bob")
    assert "result" in ticker.call(again, "buy", item=CHEAP)


@both_storages
def test_a_kicked_player_gets_the_replies_to_what_was_asked_before(ticker, database):
    """Whether it waits for the commit, was not sent yet, or not even parsed."""
    bob, connection = ticker.client("bob")
    requests = [request("buy", item=CHEAP), request("sell", item=CHEAP)] * 100
    bob.send(b"".join(requests))
    operator = ticker.operator()
    operator.send(request("kick", nickname="bob"))
    assert ticker.replies(operator, 1)[0]["result"] is True
    replies = ticker.replies(bob, 200)
    assert all("result" in reply for reply in replies)
    assert bob.line() is None
    assert ticker.shop.trades == 200


def test_kick_is_logged_even_if_the_quota_of_the_address_is_used_up(ticker, log_lines):
    """Who logs in and out again and again uses it up, and is kicked for that."""
    ticker.client("bob")
    while ticker.server.limiter.has_quota("logout", "127.0.0.1"):
        pass
    log_lines()
    ticker.ask("kick", nickname="bob")
    assert log_lines() == ['logout nickname="bob" peer=127.0.0.1:N reason=kicked']


def test_kick_of_a_player_who_takes_no_replies(program):
    silent = Peer(program.port, receive_buffer=4096)
    silent.send(request("login", nickname="bob") + request("buy", item="nothing") * 20000)
    wait_for(lambda: program.stats()["unsent_bytes"], "replies that are not taken")
    with AdminClient(program.admin_path) as operator:
        assert operator.kick("bob") is True
    assert program.free("bob")


def test_kick_of_nobody(ticker):
    ticker.client()
    reply = ticker.call(ticker.operator(), "kick", nickname="bob")
    assert reason(reply) == "not_logged_in"
    assert reason(ticker.call(ticker.operator(), "kick")) == "invalid_params"


def test_a_batch_of_kicks(ticker):
    for nickname in ("ann", "bob", "eve"):
        ticker.client(nickname)
    operator = ticker.operator()
    calls = [{"jsonrpc": "2.0", "id": each, "method": "kick", "params": [each]}
             for each in ("ann", "bob", "ann", "nobody")]
    replies = ticker.exchange(operator, json.dumps(calls).encode("ascii") + b"\n")
    assert ["result" in reply for reply in replies] == [True, True, False, False]
    assert [player["nickname"] for player in ticker.ask("players")] == ["eve"]


# --- the file -------------------------------------------------------------------------------------

def test_the_socket_is_removed_at_a_stop(program):
    assert is_socket(program.admin_path)
    program.process.terminate()
    assert program.wait() == 0
    assert not os.path.lexists(program.admin_path)


def test_a_stale_socket_is_replaced(start):
    program = start()
    program.kill()
    assert is_socket(program.admin_path)
    with pytest.raises(ServerGone) as caught:
        program.stats()
    assert caught.value.reason == "not_running"
    again = start()
    assert again.admin_path == program.admin_path and again.stats()["uptime_seconds"] < 20


def run_server(*arguments):
    """The exit status and the output of a server that does not start."""
    process = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, "server.py"), "--port", str(free_port())]
        + list(arguments), stderr=subprocess.PIPE, env=environment())
    return process.communicate()[1].decode("utf-8"), process.returncode


@both
def test_a_socket_that_a_server_listens_on_is_not_replaced(start, database, directory, program):
    """A second server says so, and ends. The first one goes on."""
    other = os.path.join(directory, "other.db")
    subprocess.check_call([sys.executable, os.path.join(ROOT, "db.py"), "--database", other],
                          stderr=subprocess.PIPE, env=environment())
    said, status = run_server("--database", other, "--admin-socket", program.admin_path)
    assert status == 1 and said.endswith(
        "ERROR cannot listen on the admin socket %s: another server listens on it; --admin-socket "
        "names another one\n" % program.admin_path) and said.count("\n") == 1
    assert program.stats()["players"] == 0


@contextlib.contextmanager
def occupied(path, kind):
    """Have something else at the path."""
    if kind == "directory":
        os.mkdir(path)
    elif kind == "link":
        os.symlink("elsewhere", path)
    elif kind == "file":
        io.open(path, "w").close()
    else:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
            sock.bind(str(path))
            yield
        return
    yield


@pytest.mark.parametrize("kind", ["directory", "link", "file", "datagram socket"])
def test_nothing_else_is_replaced(directory, kind):
    path = os.path.join(directory, "occupied")
    with occupied(path, kind):
        before = os.lstat(path)
        with pytest.raises(CannotListen) as caught:
            AdminListener(path, None)
        assert "--admin-socket names another one" in "%s" % caught.value
        assert os.lstat(path) == before


def test_a_directory_that_is_missing(directory):
    with pytest.raises(CannotListen) as caught:
        AdminListener(os.path.join(directory, "missing", "socket"), None)
    assert os.strerror(errno.ENOENT) in "%s" % caught.value


def test_the_socket_of_another_server_is_not_removed(directory):
    path = os.path.join(directory, "socket")
    old = AdminListener(path, None)
    os.remove(path)
    new = AdminListener(path, None)
    old.close()
    assert is_socket(path)
    new.close()
    assert not os.path.lexists(path)


def test_the_socket_is_removed_while_it_listens(directory):
    """Otherwise a server that starts meanwhile could replace it, and lose its own socket."""
    path = os.path.join(directory, "socket")
    listener = AdminListener(path, None)
    seen = []

    class Last(object):
        def close(self):
            seen.append(os.path.lexists(path))

    listener.sockets.append(Last())
    listener.close()
    assert seen == [False]


def test_a_socket_that_cannot_be_removed_does_not_disturb_a_stop(start, directory):
    """Its directory belongs to somebody else by now, say. The next server replaces it."""
    folder = os.path.join(directory, "run")
    os.mkdir(folder)
    path = os.path.join(folder, "socket")
    program = start("--admin-socket", path, wrapper=UNPRIVILEGED)
    os.chmod(folder, 0o555)
    program.process.terminate()
    assert program.wait() == 0
    assert is_socket(path)
    os.chmod(folder, 0o755)
    start("--admin-socket", path)


def test_servers_that_start_at_once_do_not_remove_each_others_socket(directory, start):
    """Of those that find the same stale socket one gets the path, the others end."""
    path = os.path.join(directory, "socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(path))
    code = ("import sys; sys.path.insert(0, %r)\n"
            "import admin_socket, listener\n"
            "sys.stdin.readline()\n"
            "try: mine = admin_socket.AdminListener(%r, None)\n"
            "except listener.CannotListen: print('refused')\n"
            "else: print('listens')\n"
            "sys.stdout.flush(); sys.stdin.read()\n" % (str(ROOT), str(path)))
    starters = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE) for _ in range(4)]
    for starter in starters:
        starter.stdin.write(b"go\n")
        starter.stdin.flush()
    said = [starter.stdout.readline().strip() for starter in starters]
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.connect(str(path))
    for starter in starters:
        starter.communicate()
    assert sorted(said) == [b"listens"] + [b"refused"] * 3


@pytest.mark.parametrize("name", ["d" * 120, "\u0416" * 60, "\U0001f600"])
def test_names_that_an_address_has_no_room_for(directory, name):
    """Such a path is reached through its directory; not only ASCII is a name."""
    folder = os.path.join(directory, name)
    os.mkdir(folder)
    listener = AdminListener(os.path.join(folder, "socket"), None)
    with contextlib.closing(Peer(listener.path)):
        assert listener.sockets[0].accept()
    with pytest.raises(CannotListen):
        AdminListener(listener.path, None)
    listener.close()
    assert os.listdir(folder) == []
    with pytest.raises(CannotListen) as caught:
        AdminListener(os.path.join(folder, "s" * 120), None)
    assert "its name is too long" in "%s" % caught.value


# --- the client -----------------------------------------------------------------------------------

def test_no_server(directory):
    for path in ("missing", "missing/too", "s" * 120):
        with pytest.raises(ServerGone) as caught:
            AdminClient(os.path.join(directory, path))
        assert "No server answers at the admin socket" in "%s" % caught.value


def test_a_server_that_is_stopped(program):
    program.process.send_signal(signal.SIGSTOP)
    with pytest.raises(ServerGone) as caught:
        with AdminClient(program.admin_path, timeout=0.2) as operator:
            operator.stats()
    program.process.send_signal(signal.SIGCONT)
    assert caught.value.reason == "no_answer"


def test_refusal_is_raised_though_the_server_has_closed_before_the_request(directory):
    """The server tells too many operators so at once, and closes."""
    path = os.path.join(directory, "socket")
    listener = AdminListener(path, None)
    client = AdminClient(path)
    connection, _ = listener.sockets[0].accept()
    connection.sendall(encode_error(b"null", ErrorCode.SERVER_FULL.error("Try again.")))
    connection.close()
    with pytest.raises(RpcError) as caught:
        client.stats()
    assert caught.value.reason == "server_full"
    listener.close()


def test_refusals_are_raised(program):
    with AdminClient(program.admin_path) as operator:
        with pytest.raises(RpcError) as caught:
            operator.kick("bob")
        assert caught.value.reason == "not_logged_in"
        with pytest.raises(RpcError) as caught:
            operator.kick(5)
        assert caught.value.reason == "invalid_params"
        assert operator.stats()["refusals"] == {"not_logged_in": 1, "invalid_params": 1}


def test_the_default_path():
    assert admin_socket.default_path("/srv/lavka.db", 7777) == "/srv/lavka.db.sock"
    assert admin_socket.default_path("postgresql://lavka@db/lavka", 7788) == "lavka-7788.sock"
