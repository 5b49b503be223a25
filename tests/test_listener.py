# -*- coding: utf-8 -*-
"""The addresses that a server listens on, and how many connections each address may have."""
from __future__ import unicode_literals

import contextlib
import errno
import io
import json
import os
import signal
import socket
from collections import Counter

import pytest
from conftest import PATIENCE, Clock, Loop, Peer, free_port, reason, request, wait_for
from playing import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_programs import run_server, stop
from test_server import Echo, FaultyListener, faulty

import constants
import listener
from client import Client
from connection import READ
from log import LogRateLimiter
from protocol import RpcError

# Names of a scripted name service. This machine has no address of 2001:db8::/32 (RFC 3849).
HOSTS = {
    "both.test": ["127.0.0.1", "::1"],
    "reversed.test": ["::1", "127.0.0.1"],
    "twice.test": ["127.0.0.1", "127.0.0.1"],
    "everywhere.test": ["0.0.0.0", "::"],
    "half.test": ["2001:db8::1", "127.0.0.1"],
    "nowhere.test": ["2001:db8::1", "203.0.113.1"],
}
NAME_SERVICE = """
import json, socket
hosts, ask = json.loads(r'''%s'''), socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest: [
    found for one in hosts.get(host, [host]) for found in ask(one, *rest)]
""" % json.dumps(HOSTS)


@pytest.fixture
def names(directory):
    """Return variables for programs that resolve HOSTS."""
    with io.open(os.path.join(directory, "sitecustomize.py"), "w") as module:
        module.write(NAME_SERVICE)
    return {"PYTHONPATH": directory}


@pytest.fixture
def start_named(start, names):
    """Return a function that starts server.py, which resolves HOSTS."""
    return lambda *arguments: start(
        *arguments, wrapper=["env"] + ["%s=%s" % each for each in names.items()])


@pytest.fixture
def resolve(monkeypatch):
    """Let this process resolve HOSTS."""
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)      # put back after the test
    exec(NAME_SERVICE, {})


def connect(host, port):
    """Return a Peer at another address than 127.0.0.1."""
    peer = Peer.__new__(Peer)
    peer.sock = socket.create_connection((host, port), PATIENCE)
    peer.reader = peer.sock.makefile("rb")
    return peer


def is_served(host, port):
    with contextlib.closing(connect(host, port)) as peer:
        return peer.call("ping").get("result") == "pong"


def listening(program):
    """Return where the log says that it listens."""
    return [line.split(" listening on ")[1] for line in program.log().splitlines()
            if " listening on " in line]


# --- every address of a name ----------------------------------------------------------------------

@pytest.mark.parametrize("port", [(), ("--port", "0")])
def test_every_address_of_a_name_is_listened_on(start_named, names, port):
    program = start_named("--host", "both.test", *port)
    assert listening(program) == ["127.0.0.1:%d" % program.port, "[::1]:%d" % program.port]
    assert "passwords" not in program.log()
    for host in HOSTS["both.test"]:
        assert is_served(host, program.port)
    assert run(program.port, ["bob"], "--host", "both.test", **names)[0] == 0
    assert stop(program, signal.SIGTERM)[0] == 0
    for host in HOSTS["both.test"]:
        with pytest.raises(socket.error):
            connect(host, program.port)


def test_localhost_is_reached_by_its_ipv4_address(start):
    program = start("--host", "localhost")
    assert is_served("127.0.0.1", program.port)
    assert "127.0.0.1:%d" % program.port in listening(program)


def test_an_address_that_a_name_has_twice_is_one(start_named):
    program = start_named("--host", "twice.test")
    assert listening(program) == ["127.0.0.1:%d" % program.port]


def test_all_addresses_of_both_kinds(start_named):
    program = start_named("--host", "everywhere.test")
    assert listening(program) == ["0.0.0.0:%d" % program.port, "[::]:%d" % program.port]
    warnings = [line for line in program.log().splitlines() if " WARNING not_loopback " in line]
    assert len(warnings) == 2 and all('typed "protect"' in line for line in warnings)
    for host in ("127.0.0.1", "::1"):
        assert is_served(host, program.port)


def test_the_ipv6_wildcard_serves_ipv4_too(start):
    program = start("--host", "::")
    assert listening(program) == ["[::]:%d" % program.port]
    for host in ("127.0.0.1", "::1"):
        assert is_served(host, program.port)


def test_an_address_that_the_machine_does_not_have_is_left_out(start_named, names, database):
    program = start_named("--host", "half.test")
    assert listening(program) == ["127.0.0.1:%d" % program.port]
    assert program.log().count(" WARNING ") == 1
    assert ' WARNING address_missing address="2001:db8::1" error=EADDRNOTAVAIL\n' in program.log()
    assert is_served("127.0.0.1", program.port)
    program.kill()
    status, log = run_server("--host", "nowhere.test", "--port", "0", "--database", database,
                             variables=names)
    assert status == 1 and log.count("\n") == 1 and "cannot listen on [2001:db8::1]:" in log


def test_a_port_in_use_on_one_address_is_an_error(names, database):
    port = free_port()
    with contextlib.closing(socket.socket(socket.AF_INET6)) as other:
        other.bind(("::1", port))
        other.listen(1)
        status, log = run_server("--host", "both.test", "--port", "%d" % port, "--database",
                                 database, variables=names)
    assert status == 1 and log.count("\n") == 1
    assert "cannot listen on [::1]:%d: Address already in use" % port in log


def test_an_empty_host_is_none(database):
    """A script whose variable is not set must not open the shop to every network."""
    status, log = run_server("--host", "", "--port", "7777", "--database", database)
    assert status == 1 and log.count("\n") == 1 and "cannot listen on :7777: " in log


class FaultySockets(object):
    """Sockets of which the first IPv6 ones cannot be opened, or bound."""

    def __init__(self, monkeypatch, in_socket=(), in_bind=()):
        self.opened, self.in_socket, self.in_bind = [], list(in_socket), list(in_bind)
        faults = self

        class Socket(socket.socket):
            def __init__(self, family=socket.AF_INET, *rest, **options):
                if family == socket.AF_INET6 and faults.in_socket:
                    raise socket.error(faults.in_socket.pop(0), "scripted")
                super(Socket, self).__init__(family, *rest, **options)
                if not options:             # not an accepted one
                    faults.opened.append(self)

            def bind(self, place):
                if self.family == socket.AF_INET6 and faults.in_bind:
                    raise socket.error(faults.in_bind.pop(0), "scripted")
                super(Socket, self).bind(place)

        monkeypatch.setattr(socket, "socket", Socket)


def is_closed(sock):
    try:
        return sock.fileno() < 0                        # -1 on 3
    except socket.error:                                # 2.7
        return True


def test_a_free_port_is_free_on_every_address(resolve, monkeypatch):
    faults = FaultySockets(monkeypatch, in_bind=[errno.EADDRINUSE] * 2)
    sockets = listener.listen("both.test", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    assert faults.opened[-2:] == sockets and len(faults.opened) == 6
    assert all(is_closed(sock) for sock in faults.opened[:-2])
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("port, faults", [
    (0, [errno.EADDRINUSE] * constants.PORT_ATTEMPTS), (1, [errno.EADDRINUSE]),
    (0, [errno.EACCES])])
def test_all_addresses_are_listened_on_or_none(resolve, monkeypatch, port, faults):
    faults = FaultySockets(monkeypatch, in_bind=faults)
    with pytest.raises(listener.CannotListen) as caught:
        listener.listen("both.test", port and free_port())
    assert "cannot listen on [::1]:" in str(caught.value)
    assert faults.opened and all(is_closed(sock) for sock in faults.opened)
    assert not faults.in_bind


@pytest.mark.parametrize("fault", [{"in_socket": [errno.EAFNOSUPPORT]},
                                   {"in_bind": [errno.EADDRNOTAVAIL]}])
def test_without_ipv6_the_ipv4_address_is_served(resolve, monkeypatch, log_lines, fault):
    FaultySockets(monkeypatch, **fault)
    sock, = listener.listen("both.test", 0)
    assert sock.getsockname()[0] == "127.0.0.1"
    (_, (number,)), = fault.items()
    assert log_lines() == [
        'address_missing address="::1" error=%s' % errno.errorcode[number]]
    sock.close()


def test_the_pause_after_an_error_is_one_for_all_sockets(resolve, make_ticker, log_lines):
    ticker = make_ticker(host="both.test")
    sockets = ticker.listener.sockets
    for sock in sockets:
        ticker.server.selector.unregister(sock)
    ticker.listener.sockets = [FaultyListener(sock, [errno.EMFILE]) for sock in sockets]
    for sock in ticker.listener.sockets:
        ticker.server.selector.register(sock, READ, ticker.listener)
    peers = [connect(host, ticker.port) for host in HOSTS["both.test"]]
    ticker.peers += peers
    ticker.until(lambda: not ticker.listener.is_registered)
    ticker.tick()
    assert sum(sock.accepts for sock in ticker.listener.sockets) == 1
    for _ in range(2):                      # the other one fails once, too
        ticker.pass_time(constants.ACCEPT_PAUSE_SECONDS)
        ticker.tick()
    ticker.pass_time(constants.ACCEPT_PAUSE_SECONDS)
    ticker.until(lambda: len(ticker.server.connections) == 2)
    assert log_lines() == ["accept_failed error=EMFILE"]


def test_a_client_tries_every_address_of_a_name(program, resolve):
    """The server listens on one of them, and the other one refuses."""
    with Client("reversed.test", program.port) as player:
        assert player.ping() == "pong"


# --- what counts as one address -------------------------------------------------------------------

@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1",
                                  "::ffff:127.0.0.1", "::ffff:127.8.8.8"])
def test_loopback_is_not_counted(host):
    assert listener.network(host) is None


@pytest.mark.parametrize("host, other, is_same", [
    ("203.0.113.5", "203.0.113.5", True),
    ("203.0.113.5", "203.0.113.6", False),
    ("203.0.113.5", "::ffff:203.0.113.5", True),
    ("::ffff:203.0.113.5", "::ffff:203.0.113.6", False),
    ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
    ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
    ("fe80::1%eth0", "fe80::2", True),
    ("::2", "::1", False),
    ("12.7.0.1", "127.0.0.1", False)])
def test_an_ipv4_address_or_a_64_bit_prefix_is_one_address(host, other, is_same):
    assert (listener.network(host) == listener.network(other)) is is_same


# --- how many connections an address may have -----------------------------------------------------

class Addressed(object):
    """A listening socket whose peers come from other addresses than they do."""

    def __init__(self, sock):
        self.sock = sock
        self.hosts = {}             # port of a peer -> its address

    def accept(self):
        sock, (host, port) = self.sock.accept()
        return sock, (self.hosts.get(port, host), port)

    def __getattr__(self, name):
        return getattr(self.sock, name)


class Network(object):
    """A loop whose peers come from any address."""

    def __init__(self, loop):
        self.loop = loop
        sock, = loop.listener.sockets
        self.listener = Addressed(sock)
        loop.listener.sockets = [self.listener]
        loop.server.selector.unregister(sock)
        loop.server.selector.register(self.listener, READ, loop.listener)

    def peer(self, host):
        """Connect a client from an address; it is not accepted yet."""
        peer = self.loop.peer()
        self.listener.hosts[peer.sock.getsockname()[1]] = host
        return peer

    def served(self, host):
        """Return the number of its connections."""
        return sum(each.address[0] == host for each in self.loop.server.connections)

    def is_counted_exactly(self):
        server = self.loop.server
        networks = Counter(listener.network(each.address[0]) for each in server.connections)
        del networks[None]
        return server.addresses.counts == networks


BAD, GOOD, OTHER = "203.0.113.5", "203.0.113.6", "2001:db8::1"


@pytest.fixture
def make_network(make_ticker):
    return lambda **options: Network(make_ticker(**options))


def test_an_address_with_its_maximum_is_told_so_and_closed(make_network, log_lines):
    network = make_network(max_clients_per_address=2)
    ticker = network.loop
    players = [network.peer(BAD) for _ in range(2)]
    ticker.until(lambda: network.served(BAD) == 2)
    for number in range(1, 4):
        peer = network.peer(BAD)
        peer.send(request("login", nickname="bob"))
        reply, = ticker.replies(peer, 1)
        assert (reply["id"], reply["error"]["code"], reason(reply)) == (None, -32001, "server_full")
        assert peer.line() is None
        assert network.served(BAD) == 2 and not ticker.service.players
        assert ticker.service.statistics.refusals == {"server_full": number}
    full, refused, closed = log_lines()
    assert full == 'address_full address="203.0.113.5"'
    assert refused.startswith("refused reason=server_full method=- param=- nickname=- peer=203.0.")
    assert closed.startswith("closed reason=server_full peer=203.0.113.5:")
    for player in players:
        assert ticker.call(player, "ping")["result"] == "pong"
    players[0].close()
    ticker.until(lambda: network.served(BAD) == 1)
    newcomer = network.peer(BAD)
    assert ticker.call(newcomer, "ping")["result"] == "pong"


@pytest.mark.parametrize("host, others, number", [
    ("127.0.0.1", ["127.0.0.2"], 5),                        # a proxy on this machine
    ("2001:db8::1", ["2001:db8::2", "2001:db8::ffff:1"], 2),
    ("203.0.113.5", ["::ffff:203.0.113.5"], 2)])
def test_the_maximum_is_one_of_a_network(make_network, host, others, number):
    network = make_network(max_clients_per_address=2)
    peers = [network.peer(each) for each in (([host] + others) * 5)[:5]]
    refusals = network.loop.service.statistics.refusals
    network.loop.until(lambda: refusals["server_full"] == 5 - number)
    assert len(network.loop.server.connections) == number
    for peer in peers[:number]:
        assert network.loop.call(peer, "ping")["result"] == "pong"


def test_an_address_that_connects_again_and_again_keeps_nobody_out(make_network, monkeypatch):
    """Its peers neither read nor close; the others are served in the tick in which they come."""
    monkeypatch.setattr(constants, "ACCEPT_BATCH", 8)
    network = make_network(max_clients=12, max_clients_per_address=2)
    ticker = network.loop
    for served in range(1, 11):
        for _ in range(5):
            network.peer(BAD)
        peer = network.peer("203.0.113.%d" % (100 + served))
        peer.send(request("ping"))
        ticker.tick()
        assert ticker.listener.is_registered
        assert len(ticker.server.connections) == served + 2
        assert json.loads(peer.reader.readline().decode("ascii"))["result"] == "pong"


def test_a_full_server_goes_on_telling_it(make_network, monkeypatch):
    """Beyond the spare clients it is told without lingering: no newcomer waits for a place."""
    monkeypatch.setattr(constants, "SPARE_CLIENTS", 1)
    network = make_network(max_clients=3, max_clients_per_address=2)
    ticker = network.loop
    players = [network.peer(host) for host in (BAD, BAD, GOOD)]
    ticker.until(lambda: len(ticker.server.connections) == 3)
    refused = [network.peer(host) for host in (BAD, OTHER, OTHER, OTHER)]
    ticker.tick()
    assert network.served(BAD) == 2 and network.served(OTHER) == 1      # which lingers
    for peer in refused:
        assert reason(json.loads(peer.reader.readline().decode("ascii"))) == "server_full"
        assert peer.line() is None
    refused[1].close()
    players[2].close()
    ticker.until(lambda: len(ticker.server.connections) == 2)
    newcomer = network.peer(GOOD)
    for _ in range(3):
        network.peer(BAD)
    assert ticker.call(newcomer, "ping")["result"] == "pong"


def test_a_refused_connection_that_is_gone_already(make_network):
    """Whatever the socket says when it is told."""
    network = make_network(max_clients_per_address=1)
    network.peer(BAD)
    network.loop.tick()
    network.peer(BAD).reset()
    network.peer(BAD).close()
    network.peer(BAD).send(b"x" * 100000)
    network.loop.until(lambda: network.loop.service.statistics.refusals["server_full"] == 3)
    assert network.served(BAD) == len(network.loop.service.sessions) == 1
    assert network.is_counted_exactly() and not network.loop.server.closing


def half_close(loop, peer, connection):
    peer.sock.shutdown(socket.SHUT_WR)


def stall(loop, peer, connection):
    faulty(connection, send=[errno.EAGAIN] * 100)
    peer.send(b"x\n")
    loop.tick()
    loop.pass_time(constants.WRITE_STALL_SECONDS)


def fail(loop, peer, connection):
    faulty(connection, recv=[errno.EBADF])
    peer.send(b"x\n")


ENDS = {
    "close": lambda loop, peer, connection: peer.close(),
    "reset": lambda loop, peer, connection: peer.reset(),
    "half_close": half_close,
    "bye": lambda loop, peer, connection: peer.send(b"bye\n"),
    "bye_and_close": lambda loop, peer, connection: (peer.send(b"bye\n"), peer.close()),
    "bye_and_reset": lambda loop, peer, connection: (peer.send(b"bye\n"), peer.reset()),
    "login": lambda loop, peer, connection: peer.send(b"hello\n"),
    "stall": stall,
    "fail": fail,
    "wait": lambda loop, peer, connection: loop.pass_time(constants.LOGIN_SECONDS),
    "abort": lambda loop, peer, connection: loop.server.abort(connection, "abort"),
}
PEERS = st.sampled_from([BAD, BAD, GOOD, OTHER, "2001:db8::2", "::ffff:203.0.113.6", "127.0.0.2"])


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(st.lists(st.tuples(PEERS, st.sampled_from([None, None, None] + sorted(ENDS))), max_size=40))
def test_the_count_is_exact_whatever_ends_a_connection(steps):
    limiter = LogRateLimiter(Clock())
    network = Network(Loop(Echo(limiter.clock), limiter, max_clients=8, max_clients_per_address=2))
    loop, clients = network.loop, []
    with contextlib.closing(loop):
        for host, end in steps:
            known = set(loop.server.connections)
            peer = network.peer(host)
            loop.tick()
            clients += [(peer, each) for each in set(loop.server.connections) - known]
            if end is not None and clients:
                ENDS[end](loop, *clients.pop(0))
                loop.tick()
            assert network.is_counted_exactly()
            assert max([0] + list(loop.server.addresses.counts.values())) <= 2
        for peer in loop.peers:
            peer.close()
        loop.until(lambda: not loop.server.connections)
        assert loop.server.addresses.counts == {}


# --- the real program -----------------------------------------------------------------------------

def own_address():
    """Return an address of this machine that is not loopback, or None."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        try:
            sock.connect(("203.0.113.1", 9))            # sends nothing
        except socket.error:
            return None
        host = sock.getsockname()[0]
        return None if listener.network(host) is None else host


@pytest.mark.skipif(own_address() is None, reason="this machine has loopback addresses alone")
def test_the_environment_says_how_many_clients_an_address_may_have(start):
    program = start("--host", "0.0.0.0", wrapper=["env", "LAVKA_MAX_CLIENTS_PER_ADDRESS=2"])
    assert " max_clients_per_address=2\n" in program.log()
    players = [connect(own_address(), program.port) for _ in range(2)]
    for player in players:
        assert player.call("ping")["result"] == "pong"
    for _ in range(3):
        peer = connect(own_address(), program.port)
        assert reason(peer.line()) == "server_full" and peer.line() is None
    for _ in range(3):
        assert is_served("127.0.0.1", program.port)
    with pytest.raises(RpcError) as caught:
        with Client(own_address(), program.port) as client:
            client.login("bob")
    assert caught.value.reason == "server_full"
    players[0].close()
    wait_for(lambda: is_served(own_address(), program.port), "the player to be gone")


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "9" * 5000])
def test_a_wrong_maximum_of_an_address(database, number):
    status, log = run_server("--database", database,
                             variables={"LAVKA_MAX_CLIENTS_PER_ADDRESS": number})
    assert status == 2 and "LAVKA_MAX_CLIENTS_PER_ADDRESS is not a number" in log


def test_an_address_has_its_share_of_a_smaller_server(start):
    """The limit of descriptors makes the server smaller."""
    program = start(wrapper=["sh", "-c", 'ulimit -n 348; exec "$@"', "sh"])
    assert " max_clients=300 max_clients_per_address=30\n" in program.log()
