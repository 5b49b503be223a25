# -*- coding: utf-8 -*-
"""The library of client.py, against real servers and scripted ones."""
from __future__ import unicode_literals

import io
import json
import os
import select
import signal
import ssl
import subprocess
import sys
import threading
import time

import pytest
from conftest import PATIENCE, ROOT, environment, open_account, wait_for
from playing import ACCOUNT, RESULTS, sleeps_or_ended

import client
from client import Client, ClientClosed, LavkaError, RpcError, ServerGone
from constants import HOST, ITEMS, MAX_REPLY_SECONDS

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
        with pytest.raises(RpcError) as caught:
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
            with pytest.raises(RpcError) as caught:
                call(argument)
            assert caught.value.reason == reason
        assert connection.ping() == "pong"


def test_late_response_is_not_taken_for_another(script, impatient):
    with pytest.raises(ServerGone) as caught:
        impatient.login("bob")
    assert "0.3 seconds" in str(caught.value)
    script.serve("login")
    for call in (impatient.ping, impatient.logout):
        with pytest.raises(ClientClosed):
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


# --- its arguments and names --------------------------------------------------------------------

@pytest.mark.parametrize("arguments, problem", [
    ({"host": ""}, "host is text"), ({"host": None}, "host is text"), ({"host": 1}, "host is text"),
    ({"host": "a\0b"}, "no NUL"),
    ({"port": 0}, "from 1 to 65535, not 0."), ({"port": 65536}, "65535, not 65536."),
    ({"port": -1}, "not -1."), ({"port": "7777"}, "not %r." % "7777"), ({"port": True}, "not True"),
    ({"port": 7777.0}, "not 7777.0."), ({"port": None}, "not None."),
    ({"timeout": None}, "above 0"), ({"timeout": 0}, "not 0."), ({"timeout": -1}, "not -1."),
    ({"timeout": float("nan")}, "not nan."), ({"timeout": float("inf")}, "not inf."),
    ({"timeout": MAX_REPLY_SECONDS + 1}, "at most %d," % MAX_REPLY_SECONDS),
    ({"timeout": True}, "not True."), ({"timeout": "5"}, "not %r." % "5"),
    ({"tls": True}, "tls is None or an ssl.SSLContext, not True.")])
def test_unusable_arguments_are_value_errors(arguments, problem):
    with pytest.raises(ValueError) as caught:
        Client(**arguments)
    assert problem in "%s" % caught.value and ("%s" % caught.value).endswith(".")


def test_longest_timeout_suits_a_socket(program):
    with Client(HOST, program.port, MAX_REPLY_SECONDS) as connection:
        assert connection.ping() == "pong"


def test_repr_has_the_address(script):
    connection = Client(HOST, script.port)
    assert repr(connection) == "<Client 127.0.0.1:%d>" % script.port
    connection.close()
    assert repr(connection) == "<Client 127.0.0.1:%d, closed>" % script.port


def test_star_import_brings_the_library_alone():
    assert all(type(name) is str for name in client.__all__)        # 2.7 takes no unicode
    names = {}
    exec("from client import *", names)
    assert set(names) - {"__builtins__"} == {
        "Client", "LavkaError", "RpcError", "ServerGone", "ClientClosed", "new_key"}


# --- closing, and threads ----------------------------------------------------------------------

def test_every_error_is_a_lavka_error(program, no_server):
    with Client(HOST, program.port) as connection:
        with pytest.raises(LavkaError) as refusal:
            connection.buy("potion")
    with pytest.raises(LavkaError) as closed:
        connection.buy("potion")
    with pytest.raises(LavkaError) as gone:
        Client(HOST, no_server)
    told = [(type(error), error.code, error.reason, "%s" % error == error.message)
            for error in (caught.value for caught in (refusal, closed, gone))]
    assert told == [(RpcError, 1001, "not_logged_in", True), (ClientClosed, None, "closed", True),
                    (ServerGone, None, "not_running", True)]


def test_closed_client_says_so_and_sends_nothing(script, impatient):
    for _ in range(2):
        impatient.close()
        with pytest.raises(ClientClosed) as caught:
            impatient.buy("potion")
        assert "%s" % caught.value == "This client is closed: make a new one."
    assert script.request() is None


def test_threads_share_a_client(program, meanwhile):
    open_account(program.database, "bob", 100)
    outcomes = []
    with Client(HOST, program.port) as connection:
        connection.login("bob")

        def play():
            for _ in range(50):
                outcomes.append(connection.ping())
                outcomes.append(outcome_of(connection.buy, "potion"))

        for thread in [meanwhile(play) for _ in range(4)]:
            thread.join(PATIENCE)
    assert {outcome: outcomes.count(outcome) for outcome in outcomes} == {
        "pong": 200, 75: 1, "item_already_owned": 199}


def outcome_of(call, item):
    """Return the credits after a trade, or the reason of its refusal."""
    try:
        return call(item)["credits"]
    except RpcError as refusal:
        return refusal.reason


def test_close_waits_for_the_call_of_another_thread(script, meanwhile):
    results = []
    connection = Client(HOST, script.port, PATIENCE)
    script.accept()
    call = meanwhile(lambda: results.append(connection.ping()))
    script.request()
    closer = meanwhile(connection.close)
    wait_for(lambda: not closer.is_alive() or other_threads_sleep(), "the other thread to wait")
    script.answer(result="pong")
    for thread in (call, closer):
        thread.join(PATIENCE)
    assert results == ["pong"]
    assert script.request() is None             # it is closed by now


def other_threads_sleep():
    """Return whether all threads of this process sleep, but for the main one; see proc(5)."""
    return all(sleeps_or_ended(thread) for thread in map(int, os.listdir("/proc/self/task"))
               if thread != os.getpid())


def test_signal_handler_closes_a_client_that_waits(script, meanwhile):
    ended, signals = threading.Event(), []
    connection = Client(HOST, script.port, PATIENCE)
    script.accept()

    def interrupt():
        script.request()
        wait_for(lambda: ended.is_set() or os.kill(os.getpid(), signal.SIGUSR1), "the end")

    def close_at_third(number, frame):
        """Close at the third signal: the first may come before the client sleeps in recv."""
        signals.append(number)
        if len(signals) == 3:
            connection.close()

    before = signal.signal(signal.SIGUSR1, close_at_third)
    try:
        meanwhile(interrupt)
        with pytest.raises(ServerGone) as caught:       # the request may have been applied
            connection.ping()
    finally:
        ended.set()
        signal.signal(signal.SIGUSR1, before)
    assert caught.value.reason == "gone"


# --- imports ------------------------------------------------------------------------------------

# What a Python on Windows lacks, of what Lavka's modules use and of signals.
UNIX_MODULES = ["fcntl", "grp", "pwd", "readline", "resource", "termios"]
INSTALLED = ["peewee", "psycopg2", "selectors2", "wcwidth"]     # by pip
UNIX_NAMES = ["O_NOCTTY", "O_NONBLOCK", "fchmod", "fork", "getuid", "uname"]
WINDOWS_SIGNALS = ["SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"]


@pytest.fixture
def like_windows(directory):
    """Return the environment variables of a Python without what only Unix has, or pip installs.

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
""" % tuple(map(json.dumps, (UNIX_MODULES + INSTALLED, UNIX_NAMES, WINDOWS_SIGNALS))))
    return {"PYTHONPATH": os.pathsep.join([directory, ROOT])}


@pytest.mark.parametrize("redirection", ["", "<&- >&-"])
def test_library_can_be_imported_on_windows_without_requirements(like_windows, redirection):
    for missing in ("import termios", "import wcwidth", "from signal import SIGHUP",
                    "from os import O_NONBLOCK"):
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
