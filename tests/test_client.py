# -*- coding: utf-8 -*-
"""client.py on terminals and in pipes, against the real server and against scripted ones."""
from __future__ import unicode_literals

import errno
import io
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pexpect
import pytest
from conftest import (CLIENT, PATIENCE, WAITING, open_account, player_environment, query,
                      wait_for)

import protocol
from client import Client, ServerGone, State
from constants import (REPLY_SECONDS, CREDITS_RANGE, NICKNAME_FREED_SECONDS, HOST, ITEMS, MAX_LINE,
                       MAX_NICKNAME, OPTIONS, PORT)

# Prompts on a terminal, as patterns.
NICKNAME = r"Nickname( \[[^\r\n]*\])?: "
OPTION = r"[^\r\n]* \d+> "
BUY = r"What do you buy\? \(or back\) "
SELL = r"What do you sell\? \(or back\) "
QUESTIONS = {"buy": BUY, "sell": SELL}
# Other interpreters, each with Lavka's requirements, separated by spaces.
PYTHONS = os.environ.get("LAVKA_TEST_PYTHONS", "").split()


# --- players ------------------------------------------------------------------------------------

class Player(pexpect.spawn):
    """client.py on a terminal that echoes nothing: all that it shows, the client wrote."""

    def __init__(self, port=None, *arguments, **variables):
        command = variables.pop("shell", []) + [sys.executable, CLIENT]
        command += (["--port", "%d" % port] if port else []) + list(arguments)
        self.recording = io.StringIO()
        super(Player, self).__init__(command[0], command[1:], timeout=PATIENCE, encoding="utf-8",
                                     echo=False, env=player_environment(**variables))
        self.logfile_read = self.recording
        self.delaybeforesend = None
        self.ptyproc.delayafterclose = 0

    def read_until(self, prompt):
        """The lines shown before a prompt, but for a notice that the client waits: a slow machine
        has more of them."""
        self.expect(prompt)
        return [line for line in self.before.splitlines() if line != WAITING]

    def enter(self, line, prompt):
        """Type a line; what is shown until the next prompt."""
        self.sendline(line)
        return self.read_until(prompt)

    def has_shown_more(self):
        return bool(self.buffer or select.select([self.child_fd], [], [], 0)[0])

    def interrupt(self):
        """Ctrl-C. It is lost on an interpreter that is just about to read, see signal(7) on races
        with blocking calls; so wait until it sleeps."""
        def sleeps():
            with open("/proc/%d/stat" % self.pid) as stat:
                return stat.read().rpartition(")")[2].split()[0] == "S"
        wait_for(sleeps, "the client to sleep")
        self.sendintr()

    def finish(self):
        """Its exit status, once it has ended by itself."""
        self.expect(pexpect.EOF)
        self.wait()
        return self.exitstatus

    def end(self):
        self.kill(signal.SIGKILL)
        self.wait()
        self.close()


@pytest.fixture
def without_readline(directory):
    """The variables of a Python that lacks the module."""
    with io.open(os.path.join(directory, "readline.py"), "w") as module:
        module.write("raise ImportError()\n")
    return {"PYTHONPATH": directory}


@pytest.fixture
def play():
    """A function that starts a Player; every one is ended, and none may have seen a traceback."""
    players = []

    def start_player(port=None, *arguments, **variables):
        player = Player(port, *arguments, **variables)
        players.append(player)
        player.read_until(NICKNAME)
        return player

    yield start_player
    for player in players:
        player.end()
    for player in players:
        assert "Traceback" not in player.recording.getvalue()


def run(port, lines, *arguments, **variables):
    """client.py in pipes: (exit status, standard output, standard error)."""
    python = variables.pop("python", sys.executable)
    end = variables.pop("end", "\n")
    arguments = (["--port", "%d" % port] if port else []) + list(arguments)
    process = piped([python, CLIENT] + arguments, **variables)
    data = b"\n".join(line if isinstance(line, bytes) else line.encode("utf-8") for line in lines)
    try:
        process.stdin.write(data + end.encode("ascii") if lines else b"")
        process.stdin.close()
        out, err = output(process)
    finally:
        end_process(process)
    return process.returncode, out, err


def piped(command, **variables):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=player_environment(**variables))


def output(process):
    """What a process wrote until it ended."""
    wait_for(lambda: process.poll() is not None, "the client to end")
    return process.stdout.read().decode("utf-8"), process.stderr.read().decode("utf-8")


def end_process(process):
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        try:
            pipe.close()
        except EnvironmentError:        # what was not written has no reader any more
            pass


def in_order(text, *fragments):
    """Whether each fragment comes after the one before it."""
    begin = 0
    for fragment in fragments:
        begin = text.find(fragment, begin)
        assert begin >= 0, "%r is missing, or not in its place, in:\n%s" % (fragment, text)
        begin += len(fragment)
    return True


# --- servers ------------------------------------------------------------------------------------

@pytest.fixture
def no_server():
    """A port where nothing listens, nor will while the test runs."""
    sock = socket.socket()
    sock.bind((HOST, 0))
    yield sock.getsockname()[1]
    sock.close()


@pytest.fixture
def full_backlog():
    """A port where connections are neither taken nor refused."""
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(0)
    waiting = [socket.socket() for _ in range(8)]
    for sock in waiting:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    yield listener.getsockname()[1]
    for sock in waiting + [listener]:
        sock.close()


def account(program, nickname):
    """(credits, items) as they are in the file."""
    row, = query(program.database, "SELECT credits, items FROM account WHERE nickname = ?", nickname)
    return row


CATALOG = [{"name": "Potion", "price": 25}, {"name": "Sword", "price": 200}]
ACCOUNT = {"nickname": "bob", "credits": 4321, "items": ["Sword"]}
RESULTS = {
    "login": {"account": ACCOUNT, "created": False, "catalog": CATALOG},
    "ping": "pong",
    "buy": {"account": dict(ACCOUNT, credits=4296, items=["Sword", "Potion"])},
    "sell": {"account": dict(ACCOUNT, credits=4521, items=[])},
    "logout": True,
}


class Script(object):
    """A server that does what a test says, for one connection at a time."""

    def __init__(self, host=HOST):
        self.listener = socket.socket()
        self.listener.bind((host, 0))
        self.listener.listen(8)
        self.listener.settimeout(PATIENCE)
        self.port = self.listener.getsockname()[1]
        self.sock = self.reader = self.last = None
        self.methods = []           # of all requests that have been read

    def has_caller(self):
        return bool(select.select([self.listener], [], [], 0)[0])

    def accept(self):
        self.hang_up()
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(PATIENCE)
        self.reader = self.sock.makefile("rb")

    def request(self):
        """The next request; None when the client has closed."""
        try:
            line = self.reader.readline()
        except socket.error as error:           # closed without reading all that was sent
            assert error.errno == errno.ECONNRESET
            return None
        if not line:
            return None
        self.last = json.loads(line.decode("ascii"))
        self.methods.append(self.last["method"])
        return self.last

    def send(self, data):
        self.sock.sendall(data)

    def answer(self, **members):
        """Answer the last request."""
        reply = dict({"jsonrpc": "2.0", "id": self.last["id"]}, **members)
        self.send(json.dumps(reply).encode("ascii") + b"\n")

    def serve(self, *methods):
        """Read these requests, answer each."""
        for method in methods:
            assert self.request()["method"] == method
            self.answer(result=RESULTS[method])

    def admit(self, player):
        """Have a player log in."""
        player.sendline("bob")
        self.accept()
        self.serve("login")
        return player.read_until(OPTION)

    def hang_up(self):
        if self.sock:
            self.reader.close()
            self.sock.close()

    def close(self):
        self.hang_up()
        self.listener.close()


@pytest.fixture
def script():
    script = Script()
    yield script
    script.close()


# What a server can do instead of answering a request that it has read.

def hang_up(script):
    script.hang_up()


def reset(script):
    script.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    script.hang_up()


def half_a_line(script):
    script.send(b'{"jsonrpc": "2.0", "resu')
    script.hang_up()


def garbage(script):
    script.send(b"\xff\x00\xfe\x80{[\n")


def another_protocol(script):
    script.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def not_a_response(script):
    script.send(b"[1, null]\n")


def result_and_error(script):
    script.answer(result="pong", error={"code": 1, "message": "No."})


def malformed_error(script):
    script.answer(error={"code": "1", "message": None})


def wrong_id(script):
    script.answer(id=script.last["id"] + 1, result=RESULTS[script.last["method"]])


def another_answer_before(script):
    """As if what came too late for an earlier request came now."""
    script.answer(id=script.last["id"] - 1, result=RESULTS[script.last["method"]])
    script.answer(result=RESULTS[script.last["method"]])


def endless_line(script):
    script.send(b" " * (MAX_LINE + 1))


def deep_json(script):
    script.send(b"[" * (MAX_LINE - 1) + b"\n")


FAULTS = [hang_up, reset, half_a_line, garbage, another_protocol, not_a_response, result_and_error,
          malformed_error, wrong_id, another_answer_before, endless_line, deep_json]


# --- State.LOGIN --------------------------------------------------------------------------------

def test_the_states():
    assert {state.name for state in State} == {"LOGIN", "GAME_SESSION"}


def test_without_a_server_it_starts_and_asks_for_a_nickname_again_and_again(no_server, play):
    player = play(no_server)
    for _ in range(2):
        error, = player.enter("bob", NICKNAME)
        assert "no server" in error and str(no_server) in error


def test_it_connects_only_once_a_nickname_was_entered(script, play):
    player = play(script.port)
    assert not script.has_caller()
    for blank in ("", " ", " \t  "):
        error, = player.enter(blank, NICKNAME)
        assert "blank" in error
        assert not script.has_caller()
    assert script.admit(player)


NICKNAMES = ["a\tb", "Боб", "👩‍🚀", "'; DROP TABLE account; --", '"', " bob ", "%s %d", "back", "help", "1",
             "x" * MAX_NICKNAME, "\U0001f600" * MAX_NICKNAME]


@pytest.mark.parametrize("line_editing", [True, False])
def test_any_text_is_a_nickname(program, play, without_readline, line_editing):
    player = play(program.port, **({} if line_editing else without_readline))
    nicknames = NICKNAMES + ([] if line_editing else ["\x01\x1b[31m\x07"])   # keys of readline
    for number, nickname in enumerate(nicknames, 1):
        player.enter(nickname, OPTION)
        player.enter("logout", NICKNAME)
        stored = query(program.database, "SELECT nickname FROM account")
        assert len(stored) == number and (nickname,) in stored
        assert "Welcome back" in player.enter(nickname, OPTION)[0]
        player.enter("logout", NICKNAME)
    assert "\x1b" not in player.recording.getvalue()


def test_a_nickname_that_is_too_long(program, play):
    player = play(program.port)
    error, = player.enter("x" * (MAX_NICKNAME + 1), NICKNAME)
    assert str(MAX_NICKNAME) in error
    assert query(program.database, "SELECT * FROM account") == []
    player.enter("bob", OPTION)


def test_a_nul_in_a_pipe_is_refused(program):
    status, out, err = run(program.port, ["a\0b", "bob"])
    assert (status, err) == (0, "")
    assert in_order(out, "NUL", "Welcome")
    assert query(program.database, "SELECT nickname FROM account") == [("bob",)]


@pytest.mark.parametrize("nickname", ["\0", "a\0b"])
def test_a_nul_on_a_terminal_is_refused(program, play, without_readline, nickname):
    player = play(program.port, **without_readline)     # readline has another use for that key
    error, = player.enter(nickname, NICKNAME)
    assert "NUL" in error
    player.enter("bob", OPTION)
    assert query(program.database, "SELECT nickname FROM account") == [("bob",)]


def test_a_nickname_in_use(program, play):
    first, second = play(program.port), play(program.port)
    first.enter("bob", OPTION)
    for _ in range(2):
        error, = second.enter("bob", NICKNAME)
        assert "in use" in error and "%d seconds" % NICKNAME_FREED_SECONDS in error
    first.enter("buy", BUY)                             # the first is not disturbed
    assert "Congratulations" in first.enter("potion", OPTION)[0]
    second.enter("ann", OPTION)
    first.enter("logout", NICKNAME)
    second.enter("logout", NICKNAME)
    assert "  items    potion" in second.enter("bob", OPTION)


def test_login_shows_the_account_and_the_options(program, play):
    open_account(program.database, "bob", 77, "sword,bow")
    player = play(program.port)
    lines = player.enter("bob", OPTION)
    assert lines == ["Welcome back, bob!", "  credits  77", "  items    sword, bow",
                     "Options: 1 balance, 2 items, 3 buy, 4 sell, 5 logout.",
                     "Type ? for help; Ctrl-C or Ctrl-D leaves the game."]
    player.enter("logout", NICKNAME)
    lines = player.enter("ann", OPTION)                 # a new one
    credits, items = account(program, "ann")
    assert CREDITS_RANGE[0] <= credits <= CREDITS_RANGE[1] and items == ""
    assert "ann" in lines[0] and "back" not in lines[0]
    assert lines[1:3] == ["  credits  %d" % credits, "  items    none"]


def test_a_full_server_says_so(script, play):
    player = play(script.port)
    for _ in range(2):
        player.sendline("bob")
        script.accept()
        script.request()
        script.answer(id=None, error={"code": -32001, "message": "The server is full.",
                                      "data": {"reason": "server_full"}})
        script.hang_up()
        assert player.read_until(NICKNAME) == ["The server is full."]
    script.admit(player)


@pytest.mark.parametrize("error", [{"code": -32000, "message": "Нет.", "data": {"reason": "x"}},
                                   {"code": -32603, "message": "Нет."}])
def test_a_login_may_be_refused_for_any_reason(script, play, error):
    player = play(script.port)
    player.sendline("bob")
    script.accept()
    script.request()
    script.answer(error=error)
    assert player.read_until(NICKNAME) == ["Нет."]
    assert script.request() is None
    script.admit(player)


# --- State.GAME_SESSION -------------------------------------------------------------------------

@pytest.fixture
def player(program, play):
    """One with 100 credits, a sword and a torch, who has just logged in."""
    open_account(program.database, "bob", 100, "sword,torch")
    player = play(program.port)
    player.enter("bob", OPTION)
    return player


def test_balance_and_items(player):
    assert player.enter("balance", OPTION) == ["You have 100 credits."]
    assert player.enter("items", OPTION) == ["Your items: sword, torch."]


def test_options_in_any_case(player):
    assert player.enter("BALANCE", OPTION) == ["You have 100 credits."]
    assert player.enter("  Items ", OPTION) == ["Your items: sword, torch."]
    player.enter("bUy", BUY)
    player.enter("Back", OPTION)
    player.enter("SELL", SELL)
    player.enter(" BACK ", OPTION)
    player.enter("LogOut", NICKNAME)


def test_an_unknown_option_is_an_error(player):
    for line in ("dance", "balances", "back", "potion", "exit", "quit", "0", "6", "-1", "²",
                 "balance please", "help me", "3 potion", "танец", "'; DROP TABLE account; --",
                 "%s", "x" * 1000):
        shown = player.enter(line, OPTION)
        assert "no option" in shown[0] and line in shown[0]
        assert player.enter("balance", OPTION) == ["You have 100 credits."]


def test_an_empty_line_is_no_option_and_no_error(player):
    assert player.enter("", OPTION) == []
    assert player.enter("  ", OPTION) == []


SWORD_AND_TORCH = ["  #  item   price", "  1  sword    200", "  2  torch     40"]


def test_buying(program, player):
    catalog = player.enter("buy", BUY)[1:]
    assert [line.split()[1:3] for line in catalog] == [[n, str(p)] for n, p in ITEMS.items()]
    lines = player.enter("pOtIoN", OPTION)
    assert lines == ["Congratulations! You bought the potion.", "You have 75 credits."]
    assert account(program, "bob") == (75, "sword,torch,potion")
    assert player.enter("balance", OPTION) == ["You have 75 credits."]      # the cache, too
    assert player.enter("items", OPTION) == ["Your items: sword, torch, potion."]


def test_selling(program, player):
    assert player.enter("sell", SELL) == SWORD_AND_TORCH
    lines = player.enter("SWORD", OPTION)
    assert lines == ["Congratulations! You sold the sword.", "You have 300 credits."]
    assert account(program, "bob") == (300, "torch")
    assert player.enter("balance", OPTION) == ["You have 300 credits."]
    assert player.enter("items", OPTION) == ["Your items: torch."]
    player.enter("sell", SELL)
    player.enter("torch", OPTION)
    assert player.enter("items", OPTION) == ["You have no items."]
    warning, = player.enter("sell", OPTION)             # at once: nothing is asked
    assert "nothing to sell" in warning


def test_a_refused_purchase_asks_again(program, player):
    player.enter("buy", BUY)
    for item, why in [("excalibur", "in the catalog"), ("sword", "already"),
                      ("Horse", "costs 500 credits, you have 100"), ("sword", "already")]:
        error, = player.enter(item, BUY)
        assert why in error
    assert player.enter("", BUY) == []
    assert account(program, "bob") == (100, "sword,torch")
    assert "You have 75 credits." in player.enter("potion", OPTION)


def test_a_refused_sale_asks_again(program, player):
    player.enter("sell", SELL)
    for item, why in [("excalibur", "in the catalog"), ("potion", "not own"), ("BOW", "not own")]:
        error, = player.enter(item, SELL)
        assert why in error
    assert account(program, "bob") == (100, "sword,torch")
    assert "You have 140 credits." in player.enter("torch", OPTION)


def test_an_option_typed_at_the_question_for_an_item_is_carried_out(program, player):
    player.enter("buy", BUY)
    assert player.enter("Balance", OPTION) == ["You have 100 credits."]
    player.enter("sell", SELL)
    assert player.enter("items", OPTION) == ["Your items: sword, torch."]
    player.enter("buy", BUY)
    assert player.enter("sell", SELL) == SWORD_AND_TORCH
    assert len(player.enter("buy", BUY)) == 1 + len(ITEMS)
    player.enter("buy", BUY)
    player.enter("logout", NICKNAME)
    assert program.free("bob")
    assert account(program, "bob") == (100, "sword,torch")


def test_an_item_that_left_the_catalog_is_refused_and_shown(program, play):
    open_account(program.database, "bob", 100, "excalibur,меч")
    player = play(program.port)
    assert "  items    excalibur, меч" in player.enter("bob", OPTION)
    assert player.enter("sell", SELL)[1:] == ["  1  excalibur      -", "  2  меч            -"]
    for item in ("excalibur", "МЕЧ"):
        error, = player.enter(item, SELL)
        assert "in the catalog" in error
    assert account(program, "bob") == (100, "excalibur,меч")


def test_logout_frees_the_nickname_and_the_next_login_may_be_another(program, player):
    player.enter("logout", NICKNAME)
    assert program.free("bob")
    assert "ann" in player.enter("ann", OPTION)[0]
    assert not program.free("ann")
    player.enter("logout", NICKNAME)
    assert "  items    sword, torch" in player.enter("bob", OPTION)


def test_a_killed_client_frees_its_nickname(program, player):
    assert not program.free("bob")
    player.kill(signal.SIGKILL)
    wait_for(lambda: program.free("bob"), "the nickname to be free")


def test_every_option_asks_first_whether_the_server_is_there(script, play):
    player = play(script.port)
    script.admit(player)

    def choose(option, prompt, *more):
        """Enter an option; nothing is shown before its ping is answered."""
        player.sendline(option)
        assert script.request()["method"] == "ping"
        assert not player.has_shown_more()
        script.answer(result="pong")
        script.serve(*more)
        return player.read_until(prompt)

    assert choose("balance", OPTION) == ["You have 4321 credits."]      # only the login has told
    assert choose("items", OPTION) == ["Your items: Sword."]
    choose("buy", BUY)
    player.sendline("pOTION")
    script.serve("buy")
    assert script.last["params"] == {"item": "Potion"}      # exact on the wire
    player.read_until(OPTION)
    choose("sell", SELL)
    player.sendline("sword")
    script.serve("sell")
    assert script.last["params"] == {"item": "Sword"}
    player.read_until(OPTION)
    choose("sell", OPTION)                                  # nothing to sell
    choose("balance", OPTION)
    choose("logout", NICKNAME, "logout")
    assert script.request() is None                         # closed
    assert script.methods == ["login", "ping", "ping", "ping", "buy", "ping", "sell", "ping",
                              "ping", "ping", "logout"]


def test_what_the_server_says_cannot_steer_the_terminal(script, play):
    player = play(script.port)
    player.sendline("bob")
    script.accept()
    script.request()
    evil = "\x1b]0;evil\x07\r\x9b2J\ud800"
    catalog = [{"name": evil, "price": 1}]
    items = {"nickname": evil, "credits": 1, "items": [evil]}
    script.answer(result={"account": items, "created": False, "catalog": catalog})
    player.read_until(OPTION)
    player.sendline("buy")
    script.serve("ping")
    player.read_until(BUY)
    player.sendline("logout")
    script.serve("ping", "logout")
    player.read_until(NICKNAME)
    shown = player.recording.getvalue()
    assert "evil" in shown
    assert not set(shown) & set("\x1b\x07\x9b")


# --- the server is lost -------------------------------------------------------------------------

# What a player has entered, and what then asks for more.
PLACES = {
    "an option": [],
    "an item to buy": [("buy", BUY)],
    "an item to sell": [("sell", SELL)],
}


def is_lost(lines, item=None):
    """Whether these lines tell that the server is gone and, if an item was asked for, that it may
    have changed hands."""
    assert len(lines) == (2 if item else 1) and "server" in lines[0]
    if item:
        assert "may or may not" in lines[1] and item in lines[1] and "next login" in lines[1]
    return True


@pytest.mark.parametrize("place, lines", [
    ("an option", OPTIONS + ("dance", "", "?", "bal", "buy excalibur")),
    ("an item to buy", ("potion", "back", "excalibur", "", "items")),
    ("an item to sell", ("sword", "back", "excalibur", "", "items"))])
def test_a_killed_server_shows_at_the_next_input(start, program, player, place, lines):
    for line in lines:
        for option, question in PLACES[place]:
            player.enter(option, question)
        program.kill()
        assert not player.has_shown_more()
        is_lost(player.enter(line, NICKNAME), line if line in ITEMS else None)
        program = start("--port", str(program.port))
        assert "  credits  100" in player.enter("bob", OPTION)
        assert player.enter("items", OPTION) == ["Your items: sword, torch."]


def test_a_server_killed_before_the_login(start, program, play):
    player = play(program.port)
    program.kill()
    for _ in range(2):
        error, = player.enter("bob", NICKNAME)
        assert "no server" in error
    start("--port", str(program.port))
    player.enter("bob", OPTION)


def test_a_server_that_answers_no_more(program, play):
    open_account(program.database, "bob", 100)
    idle, buyer = play(program.port), play(program.port)
    idle.enter("ann", OPTION)
    buyer.enter("bob", OPTION)
    buyer.enter("buy", BUY)
    program.process.send_signal(signal.SIGSTOP)
    idle.sendline("balance")
    buyer.sendline("potion")
    assert idle.read_until(NICKNAME) == [
        "The server has not answered for %d seconds. Try to log in again." % REPLY_SECONDS]
    assert is_lost(buyer.read_until(NICKNAME), "potion")
    assert WAITING in idle.before and WAITING in buyer.before
    program.process.send_signal(signal.SIGCONT)
    wait_for(lambda: program.free("bob"), "the nickname to be free")
    lines = buyer.enter("bob", OPTION)                  # and that shows it
    credits, items = account(program, "bob")
    assert (credits, items) in [(100, ""), (75, "potion")]
    assert "  credits  %d" % credits in lines
    assert ("  items    potion" in lines) == bool(items)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails(script, play, fault):
    player = play(script.port)

    def fail(method, item=None):
        """The fault instead of an answer."""
        assert script.request()["method"] == method
        fault(script)
        assert is_lost(player.read_until(NICKNAME), item)

    player.sendline("bob")
    script.accept()
    fail("login")

    script.admit(player)
    player.sendline("balance")
    fail("ping")

    script.admit(player)
    player.sendline("logout")
    script.serve("ping")
    fail("logout")

    for verb in ("buy", "sell"):
        script.admit(player)
        player.sendline(verb)
        script.serve("ping")
        player.read_until(QUESTIONS[verb])
        player.sendline("sword")
        fail(verb, "%s the Sword" % verb)

    script.admit(player)
    player.sendline("balance")
    script.serve("ping")
    assert player.read_until(OPTION) == ["You have 4321 credits."]
    # Nothing was sent twice.
    assert script.methods == ["login", "login", "ping", "login", "ping", "logout",
                              "login", "ping", "buy", "login", "ping", "sell", "login", "ping"]


def test_a_trades_answer_of_the_wrong_shape_may_or_may_not_mean_a_trade(script, play):
    player = play(script.port)
    for result in (None, {}, {"account": dict(ACCOUNT, credits="1")}):
        script.admit(player)
        player.sendline("buy")
        script.serve("ping")
        player.read_until(BUY)
        player.sendline("potion")
        script.request()
        script.answer(result=result)
        assert is_lost(player.read_until(NICKNAME), "Potion")
    assert script.methods.count("buy") == 3


@pytest.mark.parametrize("id", ["the request's", None])
def test_a_server_that_refuses_a_ping(script, play, id):
    player = play(script.port)
    script.admit(player)
    player.sendline("balance")
    script.request()
    script.answer(error={"code": -32603, "message": "A defect.",
                         "data": {"reason": "internal_error"}},
                  **({} if id else {"id": id}))
    player.expect([OPTION, NICKNAME])                   # no matter which: the player plays on
    assert len(player.before.splitlines()) == 1


def test_a_server_that_has_lost_the_login(script, play):
    player = play(script.port)
    not_logged_in = {"code": 1001, "message": "Log in first.", "data": {"reason": "not_logged_in"}}
    for option, item in [("buy", "potion"), ("sell", "sword"), ("logout", None)]:
        script.admit(player)
        player.sendline(option)
        script.serve("ping")
        if item:
            player.read_until(QUESTIONS[option])
            player.sendline(item)
        script.request()
        script.answer(error=not_logged_in)
        assert "Log in first." in player.read_until(NICKNAME)
    script.admit(player)


def test_the_cache_is_dropped_with_the_server(script, play):
    player = play(script.port)
    script.admit(player)
    script.hang_up()
    player.enter("balance", NICKNAME)
    player.sendline("ann")
    script.accept()
    script.request()
    script.answer(result={"account": {"nickname": "ann", "credits": 7, "items": []},
                          "created": True, "catalog": [{"name": "boat", "price": 3}]})
    assert "  credits  7" in player.read_until(OPTION)
    player.sendline("buy")
    script.serve("ping")
    assert player.read_until(BUY)[1:] == ["  1  boat      3  affordable"]


# --- the end of a session -----------------------------------------------------------------------

ENDS = dict(PLACES, **{"a nickname": None})


def reach(player, place):
    """From the nickname prompt to one of ENDS."""
    if ENDS[place] is not None:
        player.enter("bob", OPTION)
        for option, question in ENDS[place]:
            player.enter(option, question)


@pytest.mark.parametrize("place", sorted(ENDS))
def test_ctrl_c_ends_it(program, play, place):
    open_account(program.database, "bob", 100, "sword")
    player = play(program.port)
    reach(player, place)
    player.interrupt()
    assert player.finish() == 130
    assert player.before.strip() == ""                  # quietly
    wait_for(lambda: program.free("bob"), "the nickname to be free")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_two_quick_signals_are_no_traceback(play, no_server, second):
    for _ in range(5):
        player = play(no_server)
        player.interrupt()
        player.kill(second)
        status = player.finish()
        assert status in (130, 128 + second) or player.signalstatus in (signal.SIGINT, second)


def test_a_signal_after_the_end_of_the_input_is_no_traceback(no_server):
    for _ in range(5):
        process = piped([sys.executable, CLIENT, "--port", "%d" % no_server])
        try:
            assert process.stdout.readline() == b"Nickname:\n"
            process.stdin.close()
            process.send_signal(signal.SIGINT)
            _, err = output(process)
        finally:
            end_process(process)
        assert err == "" and process.returncode in (0, 130, -signal.SIGINT)


@pytest.mark.parametrize("place", sorted(ENDS))
def test_ctrl_d_ends_it(program, play, place):
    open_account(program.database, "bob", 100, "sword")
    player = play(program.port)
    reach(player, place)
    player.sendeof()
    assert player.finish() == 0
    assert player.before.strip() == ""
    wait_for(lambda: program.free("bob"), "the nickname to be free")


@pytest.mark.parametrize("method", ["login", "ping", "buy", "sell"])
def test_ctrl_c_ends_the_wait_for_an_answer(script, play, method):
    player = play(script.port)
    if method == "login":
        player.sendline("bob")
        script.accept()
    else:
        script.admit(player)
        player.sendline(method if method in QUESTIONS else "balance")
        if method in QUESTIONS:
            script.serve("ping")
            player.read_until(QUESTIONS[method])
            player.sendline("sword")
    assert script.request()["method"] == method
    player.interrupt()
    assert player.finish() == 130
    assert player.before.strip() == ""
    assert script.request() is None


def test_ctrl_c_ends_it_while_it_starts(directory):
    # A module of the standard library whose import lasts, as it may on a slow disk.
    started = os.path.join(directory, "started")
    with io.open(os.path.join(directory, "argparse.py"), "w") as module:
        module.write("import time\nopen(%s, 'w').close()\ntime.sleep(%d)\n"
                     % (json.dumps(started), 2 * PATIENCE))
    process = piped([sys.executable, CLIENT], PYTHONPATH=directory)
    try:
        wait_for(lambda: os.path.exists(started), "the import to begin")
        process.send_signal(signal.SIGINT)
        _, err = output(process)
    finally:
        end_process(process)
    assert err == ""
    assert process.returncode in (130, -signal.SIGINT)      # a shell's $? is 130 for both


SESSION = ["bob", "balance", "BUY", "Horse", "Potion", "items", "sell", "potion", "dance", "logout",
           "ann", "Items"]
SESSION_SHOWS = [
    "Nickname:\n", "Welcome back, bob!\n", "credits  100\n", "items    none\n", "Options",
    "\nbob 100>\n", "You have 100 credits", "price", "potion", "25", "horse", "500",
    "What do you buy? (or back)\n", "costs 500", "Congratulations", "75 credits", "\nbob 75>\n",
    "Your items: potion.\n", "potion", "25", "What do you sell? (or back)\n", "Congratulations",
    "100 credits", "\nbob 100>\n", "no option", "Good bye, bob.\n", "Nickname:\n", "ann",
    "Options", "ann ", "no items"]


def test_a_session_in_pipes(program):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, SESSION)
    assert (status, err) == (0, "")
    assert in_order(out, *SESSION_SHOWS)
    assert not set(out) & set("\x1b\r")
    assert out.count("Nickname:") == 2 and out.count("bob 100>") == 2
    assert not out.endswith("\n\n")
    assert account(program, "bob") == (100, "")


def test_a_pipe_may_run_dry_anywhere(program):
    for length in range(len(SESSION)):
        status, out, err = run(program.port, SESSION[:length])
        assert (status, err) == (0, "")
        assert out.endswith("\n")


def test_the_last_line_of_a_pipe_needs_no_end(program):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, ["bob", "items"], end="")
    assert (status, err) == (0, "")
    assert in_order(out, "Options", "You have no items.")


def test_nobody_reads_what_it_says(program, directory):
    for lines_read in range(3):
        process = piped([sys.executable, CLIENT, "--port", str(program.port)])
        try:
            if lines_read:
                assert process.stdout.readline() == b"Nickname:\n"
            if lines_read > 1:
                process.stdin.write(b"bob\n")
                process.stdin.flush()
                process.stdout.readline()
            process.stdout.close()
            try:
                process.stdin.write(b"bob\nbalance\n")
                process.stdin.close()
            except EnvironmentError:        # it may have ended already
                pass
            wait_for(lambda: process.poll() is not None, "the client to end")
            assert process.stderr.read() == b""
        finally:
            end_process(process)
        wait_for(lambda: program.free("bob"), "the nickname to be free")


@pytest.mark.parametrize("redirection", [
    "<&-", ">&-", "<&- >&-", ">/dev/full", "</dev/null >/dev/full"])
def test_closed_and_full_files_are_no_traceback(no_server, redirection):
    process = shell(no_server, redirection)
    try:
        process.stdin.close()
        _, err = output(process)
    finally:
        end_process(process)
    assert err == ""


def test_it_plays_without_a_standard_error(program):
    process = shell(program.port, "2>&-")
    try:
        process.stdin.write(b"bob\nitems\n")
        process.stdin.close()
        out, _ = output(process)
    finally:
        end_process(process)
    assert process.returncode == 0
    assert in_order(out, "Nickname:", "bob", "Options", "bob ", "no items")


def shell(port, redirection):
    """client.py with its files redirected."""
    command = 'exec "$@" ' + redirection
    return piped(["sh", "-c", command, "sh", sys.executable, CLIENT, "--port", str(port)])


def test_a_redirected_standard_error_takes_no_prompts_along(program, play, directory):
    command = 'exec "$@" 2>' + os.path.join(directory, "errors")
    player = play(program.port, shell=["sh", "-c", command, "sh"])
    player.enter("bob", OPTION)


def test_a_terminal_without_a_standard_error(program, play):
    player = play(program.port, shell=["sh", "-c", 'exec "$@" 2>&-', "sh"])
    player.enter("bob", OPTION)
    player.enter("logout", NICKNAME)


# --- encodings ----------------------------------------------------------------------------------

STRICT = {"PYTHONIOENCODING": "utf-8"}      # as 3.x reads in every locale but C and C.UTF-8


def test_bytes_that_are_no_text(program, play):
    player = play(program.port, **STRICT)

    def enter_bytes(prompt):
        os.write(player.child_fd, b"b\xff\xfe\n")
        error, = player.read_until(prompt)
        assert "not text" in error

    enter_bytes(NICKNAME)
    enter_bytes(NICKNAME)
    player.enter("Боб", OPTION)
    enter_bytes(OPTION)
    player.enter("buy", BUY)
    enter_bytes(BUY)
    player.enter("potion", OPTION)
    assert account(program, "Боб")[1] == "potion"


def test_bytes_that_are_no_text_in_a_pipe(program):
    lines = [b"\xff\xfe", "Боб", b"\x80", "buy", b"\xc3", "potion"]
    status, out, err = run(program.port, lines, **STRICT)
    assert (status, err) == (0, "")
    assert in_order(out, "not text", "Боб", "Options", "not text", "(or back)", "not text",
                    "Congratulations")
    assert account(program, "Боб")[1] == "potion"


@pytest.mark.parametrize("variables", [
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])    # 3.x insists on UTF-8 else
def test_the_c_locale(program, script, play, variables):
    player = play(program.port, **variables)
    player.sendline("Боб")
    if player.expect([OPTION, NICKNAME]) == 0:
        assert query(program.database, "SELECT nickname FROM account") == [("Боб",)]
        player.enter("logout", NICKNAME)
    else:
        assert "not text" in player.before
    player.enter("bob", OPTION)

    status, out, err = run(program.port, ["Боб", "ann"], **variables)
    assert (status, err) == (0, "")
    assert in_order(out, "ann", "Options")

    open_account(program.database, "tim", 1, "меч")              # what cannot be typed can be shown
    status, out, err = run(program.port, ["tim", "items"], **variables)
    assert (status, err) == (0, "")
    assert "меч" in out or "\\u043c\\u0435\\u0447" in out


# --- the command --------------------------------------------------------------------------------

@pytest.fixture
def elsewhere():
    """A Script at an address that is not the default."""
    script = Script("127.0.0.2")
    yield script
    script.close()


def test_the_environment_names_the_server_and_flags_override_it(elsewhere, no_server, play):
    elsewhere.admit(play(LAVKA_HOST="127.0.0.2", LAVKA_PORT=elsewhere.port))
    elsewhere.admit(play(elsewhere.port, "--host", "127.0.0.2", LAVKA_HOST=HOST,
                         LAVKA_PORT=no_server))
    elsewhere.admit(play(elsewhere.port, LAVKA_HOST="127.0.0.2", LAVKA_PORT=no_server))
    elsewhere.admit(play(None, "--host", "127.0.0.2", LAVKA_HOST=HOST, LAVKA_PORT=elsewhere.port))
    for variables in ({}, {"LAVKA_HOST": "", "LAVKA_PORT": ""}):
        error, = play(elsewhere.port, **variables).enter("bob", NICKNAME)
        assert "%s:%s" % (HOST, elsewhere.port) in error            # the default host


def test_help_names_the_defaults():
    status, out, err = run(None, [], "--help")
    assert (status, err) == (0, "")
    assert HOST in out and str(PORT) in out


@pytest.mark.parametrize("port", ["x", "", "-1", "65536", "1.5", "9" * 30])
def test_a_port_that_is_none(port):
    for arguments, variables in [(["--port", port], {}), ([], {"LAVKA_PORT": port})]:
        if variables == {"LAVKA_PORT": ""}:
            continue                    # an empty variable is as good as none
        status, out, err = run(None, [], *arguments, **variables)
        assert (status, out) == (2, "")
        assert "--port" in err and "Traceback" not in err


@pytest.mark.parametrize("host", ["x" * 64, "a..b", "no host", "хост..хост"])
def test_a_host_that_is_none(host):
    status, out, err = run(1, ["bob", "bob"], "--host", host)
    assert (status, err) == (0, "")
    assert out.count("no server") == 2


# --- the Client class ---------------------------------------------------------------------------

@pytest.fixture
def impatient(script):
    """A Client that waits 0.3 seconds, connected to the script."""
    with Client(HOST, script.port, timeout=0.3) as connection:
        script.accept()
        yield connection


@pytest.fixture
def meanwhile():
    """A function that calls others in threads of their own, which end with the test."""
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


def test_the_client_class(program):
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


def test_a_refusal_keeps_the_connection(program):
    with Client(HOST, program.port) as connection:
        for call, argument, reason in [(connection.buy, "potion", "not_logged_in"),
                                       (connection.login, " ", "invalid_params")]:
            with pytest.raises(protocol.RpcError) as caught:
                call(argument)
            assert caught.value.reason == reason
        assert connection.ping() == "pong"


def test_an_answer_that_comes_too_late_is_nobodys(script, impatient):
    with pytest.raises(ServerGone) as caught:
        impatient.login("bob")
    assert "0.3 seconds" in str(caught.value)
    script.serve("login")
    for call in (impatient.ping, impatient.logout):
        with pytest.raises(ServerGone):
            call()
    assert script.request() is None
    assert script.methods == ["login"]


def test_an_answer_in_drops_is_waited_for_no_longer(script, impatient, meanwhile):
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
    assert "not answered" in str(caught.value)


def test_an_empty_line_is_no_answer(script, impatient):
    script.send(b"\r\n\n")
    with pytest.raises(ServerGone) as caught:
        impatient.ping()
    assert "not answered" in str(caught.value)


def test_an_answer_in_pieces(script, impatient, meanwhile):
    def answer():
        script.request()
        script.send(b'{"jsonrpc": "2.0", "result": "po')
        script.send(b'ng", "id": %s}\r\n' % json.dumps(script.last["id"]).encode("ascii"))

    meanwhile(answer)
    assert impatient.ping() == "pong"


def test_a_good_login(script, impatient, meanwhile):
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
def test_a_login_of_the_wrong_shape(script, impatient, meanwhile, result):
    def answer():
        script.request()
        script.answer(result=result)

    meanwhile(answer)
    with pytest.raises(ServerGone) as caught:
        impatient.login("bob")
    assert "not a Lavka server" in str(caught.value)


def test_a_server_whose_backlog_is_full(full_backlog):
    begin = time.time()
    with pytest.raises(ServerGone) as caught:
        Client(HOST, full_backlog, timeout=0.3)
    assert time.time() < begin + PATIENCE               # TCP itself gives up after two minutes
    assert "no server" in str(caught.value) and caught.value.reason == "unreachable"


def test_a_server_that_is_silent_about_tls(script):
    with pytest.raises(ServerGone) as caught:
        Client(HOST, script.port, timeout=0.3, tls=ssl.create_default_context())
    assert caught.value.reason == "unreachable" and "no answer" in caught.value.message


# --- other Pythons ------------------------------------------------------------------------------

other_python = pytest.mark.parametrize("python", PYTHONS or [
    pytest.param(None, marks=pytest.mark.skip(reason="LAVKA_TEST_PYTHONS names no other Python"))])


@other_python
def test_another_pythons_client(program, python):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, SESSION + ["buy", "potion", "logout"], python=python)
    assert (status, err) == (0, "")
    assert in_order(out, *SESSION_SHOWS)
    assert account(program, "bob") == (100, "")
    assert account(program, "ann")[1] == "potion"
    assert program.free("ann")


@other_python
def test_another_pythons_server(start, python):
    program = start(python=python)
    open_account(program.database, "Боб", 100)
    status, out, err = run(program.port, ["Боб"] + SESSION[1:] + ["buy", "potion", "logout"])
    assert (status, err) == (0, "")
    assert in_order(out, *[fragment.replace("bob", "Боб") for fragment in SESSION_SHOWS])
    assert account(program, "Боб") == (100, "")
    assert account(program, "ann")[1] == "potion"
    assert program.free("ann")
