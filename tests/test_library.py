# -*- coding: utf-8 -*-
"""The library of client.py, against real servers and scripted ones."""
from __future__ import unicode_literals

import io
import json
import os
import select
import ssl
import subprocess
import sys
import threading
import time

import pytest
from conftest import PATIENCE, ROOT, environment, open_account, wait_for
from playing import ACCOUNT, RESULTS

import protocol
from client import Client, ServerGone
from constants import HOST, ITEMS

@pytest.fixture
def impatient(script):
    """Return a Client with a timeout of 0.3 seconds, connected to the script."""
    with Client(HOST, script.port, timeout=0.3) as connection:
        script.accept()
        yield connection


@pytest.fixture
def meanwhile():
    """Return a function that calls another one in a thread, which ends with the test."""
    threads = []

    def start_thread(function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        thread.daemon = True
        thread.start()
        threads.append(thread)
        return thread

    yield start_thread
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_client_methods_return_results(program):
    open_account(program.database, "bob", 100, "sword")
    with Client(HOST, program.port) as connection:
        assert connection.ping() == "pong"
        login = connection.login("bob")
        assert login["account"] == {"nickname": "bob", "credits": 100, "items": ["sword"]}
        assert login["created"] is False
        assert login["catalog"] == [{"name": n, "price": p} for n, p in ITEMS.items()]
        assert connection.buy("potion")["items"] == ["sword", "potion"]
        assert connection.sell("sword") == {"nickname": "bob", "credits": 275, "items": ["potion"]}
        with pytest.raises(protocol.RpcError) as caught:
            connection.buy("horse")
        assert caught.value.reason == "not_enough_credits"
        assert connection.logout() is True
        assert connection.login("ann")["created"] is True       # on the same connection
        assert not program.free("ann")
    wait_for(lambda: program.free("ann"), "the nickname to be free")


def test_refusal_keeps_the_connection(program):
    with Client(HOST, program.port) as connection:
        for call, argument, reason in [(connection.buy, "potion", "not_logged_in"),
                                       (connection.login, " ", "invalid_params")]:
            with pytest.raises(protocol.RpcError) as caught:
                call(argument)
            assert caught.value.reason == reason
        assert connection.ping() == "pong"


def test_late_response_is_not_taken_for_another(script, impatient):
    with pytest.raises(ServerGone) as caught:
        impatient.login("bob")
    assert "0.3 seconds" in str(caught.value)
    script.serve("login")
    for call in (impatient.ping, impatient.logout):
        with pytest.raises(ServerGone):
            call()
    assert script.request() is None
    assert script.methods == ["login"]


def test_timeout_covers_a_response_that_comes_byte_by_byte(script, impatient, meanwhile):
    def drip():
        script.request()
        for _ in range(100):
            if select.select([script.sock], [], [], 0.05)[0]:       # the client has closed
                return
            script.send(b" ")
        script.hang_up()

    meanwhile(drip)
    with pytest.raises(ServerGone) as caught:
        impatient.ping()
    assert "did not answer" in str(caught.value)


def test_empty_line_is_not_a_response(script, impatient):
    script.send(b"\r\n\n")
    with pytest.raises(ServerGone) as caught:
        impatient.ping()
    assert "did not answer" in str(caught.value)


def test_response_in_pieces_is_read(script, impatient, meanwhile):
    def answer():
        script.request()
        script.send(b'{"jsonrpc": "2.0", "result": "po')
        script.send(b'ng", "id": %s}\r\n' % json.dumps(script.last["id"]).encode("ascii"))

    meanwhile(answer)
    assert impatient.ping() == "pong"


def test_well_formed_login_is_returned(script, impatient, meanwhile):
    meanwhile(script.serve, "login", "ping")
    assert impatient.login("bob") == RESULTS["login"]
    assert impatient.ping() == "pong"


def changed(**members):
    return dict(RESULTS["login"], **members)


@pytest.mark.parametrize("result", [
    None, [], {}, "pong", 1, changed(created=1), changed(created=None), changed(catalog=None),
    changed(catalog=1), changed(catalog=[1]), changed(catalog=[{}]),
    changed(catalog={"potion": 25}),
    changed(catalog=[{"name": 1, "price": 1}]), changed(catalog=[{"name": "potion", "price": "1"}]),
    changed(account=None), changed(account=[]), changed(account={}),
    changed(account=dict(ACCOUNT, nickname=None)), changed(account=dict(ACCOUNT, credits="1")),
    changed(account=dict(ACCOUNT, credits=True)), changed(account=dict(ACCOUNT, credits=1.5)),
    changed(account=dict(ACCOUNT, items="sword")), changed(account=dict(ACCOUNT, items=None)),
    changed(account=dict(ACCOUNT, items=[1])), changed(account=dict(ACCOUNT, items=[["sword"]]))])
def test_malformed_login_is_not_lavka(script, impatient, meanwhile, result):
    def answer():
        script.request()
        script.answer(result=result)

    meanwhile(answer)
    with pytest.raises(ServerGone) as caught:
        impatient.login("bob")
    assert "not a Lavka server" in str(caught.value)


def test_full_listen_queue_is_unreachable(full_listen_queue):
    begin = time.time()
    with pytest.raises(ServerGone) as caught:
        Client(HOST, full_listen_queue, timeout=0.3)
    assert time.time() < begin + PATIENCE               # TCP itself gives up after two minutes
    assert "no server" in str(caught.value) and caught.value.reason == "unreachable"


def test_tls_handshake_timeout_is_unreachable(script):
    with pytest.raises(ServerGone) as caught:
        Client(HOST, script.port, timeout=0.3, tls=ssl.create_default_context())
    assert caught.value.reason == "unreachable" and "no answer" in caught.value.message


# What a Python on Windows lacks, of what Lavka's modules use and of signals.
UNIX_MODULES = ["fcntl", "grp", "pwd", "readline", "resource", "termios"]
UNIX_NAMES = ["O_NOCTTY", "O_NONBLOCK", "fchmod", "fork", "getuid", "uname"]
WINDOWS_SIGNALS = ["SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"]


@pytest.fixture
def like_windows(directory):
    """Return the environment variables of a Python without what only Unix has.

    A stub module would not hide one that is built into the interpreter.
    """
    with io.open(os.path.join(directory, "sitecustomize.py"), "w") as module:
        module.write("""
import os, signal, socket, sys
sys.modules.update(dict.fromkeys(%s))
for name in %s:
    delattr(os, name)
for name in set(vars(signal)).difference(%s):
    if name.startswith("SIG") and isinstance(getattr(signal, name), int) and name[3] != "_":
        delattr(signal, name)
del socket.AF_UNIX
""" % tuple(map(json.dumps, (UNIX_MODULES, UNIX_NAMES, WINDOWS_SIGNALS))))
    return {"PYTHONPATH": os.pathsep.join([directory, ROOT])}


@pytest.mark.parametrize("redirection", ["", "<&- >&-"])
def test_library_can_be_imported_on_windows(like_windows, redirection):
    for missing in ("import termios", "from signal import SIGHUP", "from os import O_NONBLOCK"):
        assert python(missing, **like_windows)[0] == 1
    assert python("from client import *; from client import Console, State; Client, new_key",
                  redirection, **like_windows) == (0, "")


def python(code, redirection="", **variables):
    """Run code in a Python of its own; return (exit status, standard error)."""
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" ' + redirection, "sh", sys.executable, "-c", code],
        stderr=subprocess.PIPE, env=environment(**variables))
    _, err = process.communicate()
    return process.returncode, err.decode("utf-8")
