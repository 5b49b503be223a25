# -*- coding: utf-8 -*-
"""The real server.py, and the test in the place of systemd: a datagram socket and its variables."""
from __future__ import unicode_literals

import contextlib
import io
import os
import signal
import socket

import pytest
from conftest import PATIENCE, Peer, request, run_program, wait_for

import db
import notify

WATCHDOG_SECONDS = 0.6          # long enough for two sweeps


def service(name, *variables):
    """Return the command that starts another one as a service with this NOTIFY_SOCKET."""
    return ["env", "NOTIFY_SOCKET=" + name,
            "WATCHDOG_USEC=%d" % (1000000 * WATCHDOG_SECONDS)] + list(variables)


class Manager(object):
    """The socket of a service manager."""

    def __init__(self, name):
        self.name = name
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(notify.socket_address(str(name)))
        self.sock.settimeout(PATIENCE)

    def next(self):
        """Return the next state that the service sends."""
        return self.sock.recv(100)

    def take(self):
        """Return the states that have arrived."""
        states = []
        self.sock.setblocking(False)
        try:
            while True:
                states.append(self.next())
        except socket.error:
            self.sock.settimeout(PATIENCE)
            return states

    def fill(self):
        """Send until there is no more room."""
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.setblocking(False)
            with pytest.raises(socket.error):
                while True:
                    sender.sendto(b"x", notify.socket_address(str(self.name)))


@pytest.fixture(params=["path", "abstract"])
def manager(request, directory):
    name = os.path.join(directory, "notify")
    manager = Manager(name if request.param == "path" else "@" + name)
    yield manager
    manager.sock.close()


def test_server_tells_its_start_its_life_and_its_stop(start, manager):
    """Nobody plays, so the loop would sleep without the watchdog."""
    program = start(wrapper=service(manager.name))
    assert manager.next() == notify.READY and "listening on" in program.log()
    assert [manager.next() for _ in range(3)] == [notify.WATCHDOG] * 3
    player = Peer(program.port, "bob")          # the stop waits for the end of this connection
    program.process.terminate()
    assert next(state for state in iter(manager.next, None) if state != notify.WATCHDOG) \
        == notify.STOPPING
    player.close()
    assert program.wait() == 0 and manager.take() == []


def test_server_that_cannot_listen_is_never_ready(program, manager, directory):
    database = os.path.join(directory, "other.db")
    db.create_tables(database)
    status, _, err = run_program("server.py", "--port", str(program.port), "--database", database,
                                 NOTIFY_SOCKET=manager.name)
    assert status == 1 and " ERROR cannot listen " in err and manager.take() == []


def test_server_under_load_pings(start, manager):
    program = start(wrapper=service(manager.name))
    player, pings = Peer(program.port), 0
    while pings < 3:
        player.send(request("ping") * 500)
        assert all(player.line()["result"] == "pong" for _ in range(500))
        pings += manager.take().count(notify.WATCHDOG)


def test_frozen_server_does_not_ping(start, manager):
    program = start(wrapper=service(manager.name))
    assert manager.next() == notify.READY       # sent just after the log's line
    program.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(program), "the server to be stopped")
    manager.take()
    manager.sock.settimeout(WATCHDOG_SECONDS)
    with pytest.raises(socket.timeout):
        manager.next()
    program.process.send_signal(signal.SIGCONT)
    manager.sock.settimeout(PATIENCE)
    assert manager.next() == notify.WATCHDOG


def is_stopped(program):
    with io.open("/proc/%d/stat" % program.process.pid) as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "T"


def test_state_without_room_is_sent_when_there_is_some(start, manager):
    """systemd would wait for READY=1 in vain, and end the server."""
    manager.fill()
    program = start(wrapper=service(manager.name))
    assert Peer(program.port).call("ping")["result"] == "pong"
    assert notify.READY not in manager.take()
    assert [manager.next(), manager.next()] == [notify.READY, notify.WATCHDOG]


def full(path):
    manager = Manager(path)
    manager.fill()
    return manager.sock


def stream(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(1)
    return sock


def closed(path):
    Manager(path).sock.close()


def plain_file(path):
    return io.open(path, "w")


@pytest.mark.parametrize("name", ["notify", "x" * 200, "@" + "x" * 200, "@", "\u0431"])
def test_socket_that_is_none_does_no_harm(start, directory, name):
    lives_and_stops(start, name if name.startswith("@") else os.path.join(directory, name))


@pytest.mark.parametrize("make", [full, stream, closed, plain_file])
def test_socket_that_takes_nothing_does_no_harm(start, directory, make):
    path = os.path.join(directory, "notify")
    with contextlib.closing(make(path) or io.BytesIO()):
        lives_and_stops(start, path)


def lives_and_stops(start, name):
    program = start(wrapper=service(name))
    assert Peer(program.port).call("ping")["result"] == "pong"
    program.process.terminate()
    assert program.wait() == 0 and " ERROR " not in program.log()


@pytest.mark.parametrize("variables, interval", [
    ({"WATCHDOG_USEC": "60000000"}, 30),
    ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "%d" % os.getpid()}, 30),
    ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "%d" % os.getppid()}, None),
    ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "soon"}, None), ({}, None)])
def test_pings_come_at_half_of_the_time_of_a_watchdog_that_is_ours(variables, interval):
    assert notify.ping_interval(variables) == interval


def test_without_a_manager_there_is_nothing_to_do():
    notifier = notify.Notifier({"WATCHDOG_USEC": "1000000"})
    notifier.send(notify.READY)
    assert not notifier.has_pending_work()
    notifier.close()
