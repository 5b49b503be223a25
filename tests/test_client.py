# -*- coding: utf-8 -*-
"""client.py on terminals and in pipes, against the real server and against scripted ones."""
from __future__ import unicode_literals

import fcntl
import io
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import (CLIENT, PAGE, PATIENCE, WAITING, is_full, open_account, player_environment,
                      query, small_pipe, wait_for)
from playing import (ACCOUNT, BUY, NEW_ACCOUNT, NICKNAME, OPTION, QUESTIONS, RESULTS, SELL, Script,
                     end_process, in_order, read_output, run, shell, sleeps_or_ended,
                     start_in_pipes, stored_account)

from client import State
from constants import (CREDITS_RANGE, HOST, ITEMS, MAX_LINE, MAX_NICKNAME, NICKNAME_FREED_SECONDS,
                       OPTIONS, PORT, REPLY_SECONDS)

# Other interpreters, each with Lavka's requirements, separated by spaces.
PYTHONS = os.environ.get("LAVKA_TEST_PYTHONS", "").split()


@pytest.fixture
def without_readline(directory):
    """Return the environment variables of a Python without the module readline."""
    with io.open(os.path.join(directory, "readline.py"), "w") as module:
        module.write("raise ImportError()\n")
    return {"PYTHONPATH": directory}


# --- faults: what a server does instead of answering a request ----------------------------------

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


def without_id(script):
    script.answer(id=None, result=RESULTS[script.last["method"]])


def error_without_id(script):
    """What a server says to a line that is no request."""
    script.answer(id=None, error={"code": -32700, "message": "This is not JSON in UTF-8.",
                                  "data": {"reason": "parse_error"}})


def another_answer_before(script):
    """Send the late response to an earlier request first."""
    script.answer(id=script.last["id"] - 1, result=RESULTS[script.last["method"]])
    script.answer(result=RESULTS[script.last["method"]])


def endless_line(script):
    script.send(b" " * (MAX_LINE + 1))


def deep_json(script):
    script.send(b"[" * (MAX_LINE - 1) + b"\n")


FAULTS = [hang_up, reset, half_a_line, garbage, another_protocol, not_a_response, result_and_error,
          malformed_error, wrong_id, without_id, error_without_id, another_answer_before,
          endless_line, deep_json]


# --- State.LOGIN --------------------------------------------------------------------------------

def test_states_are_those_of_the_contract():
    assert {state.name for state in State} == {"LOGIN", "GAME_SESSION"}


def test_client_starts_without_server_and_asks_again(no_server, start_player):
    player = start_player(no_server)
    for _ in range(2):
        error, = player.enter("bob", NICKNAME)
        assert "no server" in error and str(no_server) in error


def test_connects_only_after_a_nickname_is_entered(script, start_player):
    player = start_player(script.port)
    assert not script.has_caller()
    for blank in ("", " ", " \t  "):
        error, = player.enter(blank, NICKNAME)
        assert "blank" in error
        assert not script.has_caller()
    assert script.admit(player)


NICKNAMES = ["a\tb", "Боб", "👩‍🚀", "'; DROP TABLE account; --", '"', " bob ", "%s %d", "back",
             "help", "1", "x" * MAX_NICKNAME, "\U0001f600" * MAX_NICKNAME]


@pytest.mark.parametrize("line_editing", [True, False])
def test_any_text_is_a_nickname(program, start_player, without_readline, line_editing):
    player = start_player(program.port, **({} if line_editing else without_readline))
    nicknames = NICKNAMES + ([] if line_editing else ["\x01\x1b[31m\x07"])  # readline has keys
    for number, nickname in enumerate(nicknames, 1):
        player.enter(nickname, OPTION)
        player.enter("logout", NICKNAME)
        stored = query(program.database, "SELECT nickname FROM account")
        assert len(stored) == number and (nickname,) in stored
        assert "Welcome back" in player.enter(nickname, OPTION)[0]
        player.enter("logout", NICKNAME)
    assert "\x1b" not in player.recording.getvalue()


def test_too_long_nickname_is_refused(program, start_player):
    player = start_player(program.port)
    error, = player.enter("x" * (MAX_NICKNAME + 1), NICKNAME)
    assert str(MAX_NICKNAME) in error
    assert query(program.database, "SELECT * FROM account") == []
    player.enter("bob", OPTION)


def test_nul_in_a_pipe_is_refused(program):
    status, out, err = run(program.port, ["a\0b", "bob"])
    assert (status, err) == (0, "")
    assert in_order(out, "NUL", "Welcome")
    assert query(program.database, "SELECT nickname FROM account") == [("bob",)]


@pytest.mark.parametrize("nickname", ["\0", "a\0b"])
def test_nul_on_a_terminal_is_refused(program, start_player, without_readline, nickname):
    player = start_player(program.port, **without_readline)     # readline uses the key itself
    error, = player.enter(nickname, NICKNAME)
    assert "NUL" in error
    player.enter("bob", OPTION)
    assert query(program.database, "SELECT nickname FROM account") == [("bob",)]


def test_nickname_in_use_is_refused(program, start_player):
    first, second = start_player(program.port), start_player(program.port)
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


def test_login_shows_the_account_and_the_options(program, start_player):
    open_account(program.database, "bob", 77, "sword,bow")
    player = start_player(program.port)
    lines = player.enter("bob", OPTION)
    assert lines == ["Welcome back, bob!", "  credits  77", "  items    sword, bow",
                     "Options: 1 balance, 2 items, 3 buy, 4 sell, 5 logout, 6 protect.",
                     "Type ? for help; Ctrl-C or Ctrl-D leaves the game."]
    player.enter("logout", NICKNAME)
    lines = player.enter("ann", OPTION)                 # a new account
    credits, items = stored_account(program, "ann")
    assert CREDITS_RANGE[0] <= credits <= CREDITS_RANGE[1] and items == ""
    assert lines[:4] == ["Welcome to Lavka, ann!", NEW_ACCOUNT, "  credits  %d" % credits,
                         "  items    none"]


def test_server_full_is_shown(script, start_player):
    player = start_player(script.port)
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
def test_refused_login_asks_for_a_nickname_again(script, start_player, error):
    player = start_player(script.port)
    player.sendline("bob")
    script.accept()
    script.request()
    script.answer(error=error)
    assert player.read_until(NICKNAME) == ["Нет."]
    assert script.request() is None
    script.admit(player)


# --- State.GAME_SESSION -------------------------------------------------------------------------

def test_balance_and_items_show_the_account(player):
    assert player.enter("balance", OPTION) == ["You have 100 credits."]
    assert player.enter("items", OPTION) == ["Your items: sword, torch."]


def test_options_are_accepted_in_any_case(player):
    assert player.enter("BALANCE", OPTION) == ["You have 100 credits."]
    assert player.enter("  Items ", OPTION) == ["Your items: sword, torch."]
    player.enter("bUy", BUY)
    player.enter("Back", OPTION)
    player.enter("SELL", SELL)
    player.enter(" BACK ", OPTION)
    player.enter("LogOut", NICKNAME)


OPTIONS_SHOWN = ["Options: 1 balance, 2 items, 3 buy, 4 sell, 5 logout, 6 protect.",
                 "Type ? for help; Ctrl-C or Ctrl-D leaves the game."]


def test_unknown_option_is_an_error_with_the_list(player):
    for line in ("dance", "balances", "back", "exit now", "exi", "0", "7", "-1", "²",
                 "balance please", "3 potion", "танец", "'; DROP TABLE account; --", "%s"):
        assert player.enter(line, OPTION) == ["There is no option \"%s\"." % line] + OPTIONS_SHOWN
        assert player.enter("balance", OPTION) == ["You have 100 credits."]


def test_unknown_options_in_a_row_do_not_repeat_the_list(player):
    player.enter("dance", OPTION)
    for line in ("foo", "bar"):
        assert player.enter(line, OPTION) == ["There is no option \"%s\"." % line]
    assert player.enter("help me", OPTION) == ["There is no option \"me\"."] + OPTIONS_SHOWN
    player.enter("balance", OPTION)
    assert player.enter("foo", OPTION)[1:] == OPTIONS_SHOWN


def test_long_wrong_word_is_shortened(player):
    shown = "x" * 37 + "..."
    assert player.enter("x" * 3000, OPTION)[0] == "There is no option \"%s\"." % shown
    player.enter("buy", BUY)
    assert player.enter("x" * 3000, BUY) == ["There is no \"%s\" in the catalog." % shown]
    player.enter("sell", SELL)
    assert player.enter("x" * 3000, SELL) == ["You do not own \"%s\"." % shown]


@pytest.mark.parametrize("word", ["exit", "quit", "EXIT"])
def test_exit_word_tells_how_to_leave(player, word):
    error = ["There is no %s option: press Ctrl-D to leave." % word.lower()]
    assert player.enter(word, OPTION) == error
    player.enter("buy", BUY)
    assert player.enter(word, BUY) == error             # the question goes on
    player.enter("sell", SELL)
    assert player.enter(word, SELL) == error
    assert "You have 300 credits." in player.enter("sword", OPTION)


def test_name_of_an_item_alone_tells_how_to_trade_it(player):
    for word, verb, item in [("potion", "buy", "potion"), ("BOW", "buy", "bow"),
                             ("Sword", "sell", "sword")]:
        assert player.enter(word, OPTION) == [
            "There is no option \"%s\". To %s the %s, type \"%s %s\"."
            % (word, verb, item, verb, item)]
    assert player.enter("pot", OPTION)[0] == "There is no option \"pot\"."


def test_empty_line_is_ignored(player):
    assert player.enter("", OPTION) == []
    assert player.enter("  ", OPTION) == []


SWORD_AND_TORCH = ["  #  item   price", "  1  sword    200", "  2  torch     40"]


def test_buy_shows_the_catalog_and_updates_the_cache(program, player):
    catalog = player.enter("buy", BUY)[1:]
    assert [line.split()[1:3] for line in catalog] == [[n, str(p)] for n, p in ITEMS.items()]
    lines = player.enter("pOtIoN", OPTION)
    assert lines == ["Congratulations! You bought the potion.", "You have 75 credits."]
    assert stored_account(program, "bob") == (75, "sword,torch,potion")
    assert player.enter("balance", OPTION) == ["You have 75 credits."]      # from the cache
    assert player.enter("items", OPTION) == ["Your items: sword, torch, potion."]


def test_sell_shows_the_owned_items_and_updates_the_cache(program, player):
    assert player.enter("sell", SELL) == SWORD_AND_TORCH
    lines = player.enter("SWORD", OPTION)
    assert lines == ["Congratulations! You sold the sword for 200 credits.",
                     "You have 300 credits."]
    assert stored_account(program, "bob") == (300, "torch")
    assert player.enter("balance", OPTION) == ["You have 300 credits."]
    assert player.enter("items", OPTION) == ["Your items: torch."]
    player.enter("sell", SELL)
    player.enter("torch", OPTION)
    assert player.enter("items", OPTION) == ["You have no items."]
    warning, = player.enter("sell", OPTION)             # no question follows
    assert "nothing to sell" in warning


def test_refused_buy_asks_again(program, player):
    player.enter("buy", BUY)
    for item, why in [("excalibur", "in the catalog"), ("sword", "already"),
                      ("Horse", "costs 500 credits; you have 100"), ("sword", "already")]:
        error, = player.enter(item, BUY)
        assert why in error
    assert player.enter("", BUY) == []
    assert stored_account(program, "bob") == (100, "sword,torch")
    assert "You have 75 credits." in player.enter("potion", OPTION)


def test_refused_sell_asks_again(program, player):
    player.enter("sell", SELL)
    for item, why in [("excalibur", "You do not own \"excalibur\"."),
                      ("3", "There is no number 3 in the list."),
                      ("potion", "You do not own the potion."), ("BOW", "You do not own the bow.")]:
        assert player.enter(item, SELL) == [why]
    assert stored_account(program, "bob") == (100, "sword,torch")
    assert "You have 140 credits." in player.enter("torch", OPTION)


def test_option_at_the_question_for_an_item_is_run(program, player):
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
    assert stored_account(program, "bob") == (100, "sword,torch")


def test_owned_item_outside_the_catalog_is_shown_and_refused(program, start_player):
    open_account(program.database, "bob", 100, "excalibur,меч")
    player = start_player(program.port)
    assert "  items    excalibur, меч" in player.enter("bob", OPTION)
    assert player.enter("sell", SELL)[1:] == ["  1  excalibur      -", "  2  меч            -"]
    for item in ("excalibur", "МЕЧ"):
        error, = player.enter(item, SELL)
        assert "in the catalog" in error
    assert stored_account(program, "bob") == (100, "excalibur,меч")


def test_item_named_like_an_option_can_be_bought(script, start_player):
    player = start_player(script.port)
    player.sendline("bob")
    script.accept()
    script.request()
    script.answer(result=dict(RESULTS["login"], catalog=[{"name": "Items", "price": 1}]))
    player.read_until(OPTION)
    player.sendline("buy")
    script.serve("ping")
    player.read_until(BUY)
    player.sendline("items")
    script.serve("buy")
    assert script.last["params"] == {"item": "Items"}


def test_logout_frees_the_nickname_for_another_login(program, player):
    player.enter("logout", NICKNAME)
    assert program.free("bob")
    assert "ann" in player.enter("ann", OPTION)[0]
    assert not program.free("ann")
    player.enter("logout", NICKNAME)
    assert "  items    sword, torch" in player.enter("bob", OPTION)


def test_killed_client_frees_its_nickname(program, player):
    assert not program.free("bob")
    player.kill(signal.SIGKILL)
    wait_for(lambda: program.free("bob"), "the nickname to be free")


def test_every_option_sends_ping_first(script, start_player):
    player = start_player(script.port)
    script.admit(player)

    def choose(option, prompt, *more):
        """Enter an option; check that nothing is shown before its ping is answered."""
        player.sendline(option)
        assert script.request()["method"] == "ping"
        assert not player.has_shown_more()
        script.answer(result="pong")
        script.serve(*more)
        return player.read_until(prompt)

    assert choose("balance", OPTION) == ["You have 4321 credits."]      # from the login's result
    assert choose("items", OPTION) == ["Your items: Sword."]
    choose("buy", BUY)
    player.sendline("pOTION")
    script.serve("buy")
    assert script.last["params"] == {"item": "Potion"}      # the exact name on the wire
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


def test_control_characters_from_the_server_are_escaped(script, start_player):
    player = start_player(script.port)
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

# Lines, each with the prompt that it leads to, from the prompt for an option to each place.
PLACES = {
    "an option": [],
    "an item to buy": [("buy", BUY)],
    "an item to sell": [("sell", SELL)],
}


# What a player reads of a trade whose outcome is unknown.
UNKNOWN = {verb: "The %s may or may not have gone through; your next login will show." % noun
           for verb, noun in [("buy", "purchase"), ("sell", "sale")]}


def is_lost(lines, trade=None):
    """Return True if the lines tell of a lost server, and of a trade whose outcome is unknown."""
    assert "server" in lines[0] and lines[1:] == ([UNKNOWN[trade]] if trade else [])
    return True


@pytest.mark.parametrize("place, lines", [
    ("an option", OPTIONS + ("dance", "", "?", "exit", "bal", "buy excalibur")),
    ("an item to buy", ("potion", "back", "excalibur", "", "items", "?", "exit")),
    ("an item to sell", ("sword", "back", "excalibur", "", "items", "?", "exit"))])
def test_killed_server_is_detected_at_the_next_input(start, program, player, place, lines):
    for line in lines:
        for option, question in PLACES[place]:
            player.enter(option, question)
        program.kill()
        assert not player.has_shown_more()
        is_lost(player.enter(line, NICKNAME),
                {"potion": "buy", "sword": "sell"}.get(line))
        program = start("--port", str(program.port))
        assert "  credits  100" in player.enter("bob", OPTION)
        assert player.enter("items", OPTION) == ["Your items: sword, torch."]


def test_server_killed_before_the_login_is_an_error(start, program, start_player):
    player = start_player(program.port)
    program.kill()
    for _ in range(2):
        error, = player.enter("bob", NICKNAME)
        assert "no server" in error
    start("--port", str(program.port))
    player.enter("bob", OPTION)


def test_stopped_server_is_given_up_after_the_reply_timeout(program, start_player):
    open_account(program.database, "bob", 100)
    idle, buyer = start_player(program.port), start_player(program.port)
    idle.enter("ann", OPTION)
    buyer.enter("bob", OPTION)
    buyer.enter("buy", BUY)
    program.process.send_signal(signal.SIGSTOP)
    idle.sendline("balance")
    buyer.sendline("potion")
    assert idle.read_until(NICKNAME) == [
        "The server did not answer within %d seconds. Try logging in again." % REPLY_SECONDS]
    assert is_lost(buyer.read_until(NICKNAME), "buy")
    assert WAITING in idle.before and WAITING in buyer.before
    program.process.send_signal(signal.SIGCONT)
    wait_for(lambda: program.free("bob"), "the nickname to be free")
    lines = buyer.enter("bob", OPTION)                  # the login shows the outcome
    credits, items = stored_account(program, "bob")
    assert (credits, items) in [(100, ""), (75, "potion")]
    assert "  credits  %d" % credits in lines
    assert ("  items    potion" in lines) == bool(items)


@pytest.mark.parametrize("fault", FAULTS)
def test_invalid_or_missing_response_ends_the_session(script, start_player, fault):
    player = start_player(script.port)

    def fail(method):
        """Let the fault be the answer to a request."""
        assert script.request()["method"] == method
        fault(script)
        assert is_lost(player.read_until(NICKNAME), method if method in UNKNOWN else None)

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
        fail(verb)

    script.admit(player)
    player.sendline("balance")
    script.serve("ping")
    assert player.read_until(OPTION) == ["You have 4321 credits."]
    # No request was sent twice.
    assert script.methods == ["login", "login", "ping", "login", "ping", "logout",
                              "login", "ping", "buy", "login", "ping", "sell", "login", "ping"]


def test_malformed_trade_result_leaves_the_outcome_open(script, start_player):
    player = start_player(script.port)
    for result in (None, {}, {"account": dict(ACCOUNT, credits="1")}):
        script.admit(player)
        player.sendline("buy")
        script.serve("ping")
        player.read_until(BUY)
        player.sendline("potion")
        script.request()
        script.answer(result=result)
        assert is_lost(player.read_until(NICKNAME), "buy")
    assert script.methods.count("buy") == 3


@pytest.mark.parametrize("id", ["the request's", None])
def test_refused_ping_is_one_error_line(script, start_player, id):
    player = start_player(script.port)
    script.admit(player)
    player.sendline("balance")
    script.request()
    script.answer(error={"code": -32603, "message": "A defect.",
                         "data": {"reason": "internal_error"}},
                  **({} if id else {"id": id}))
    player.expect([OPTION, NICKNAME])                   # either prompt: the game goes on
    assert len(player.before.splitlines()) == 1


def test_not_logged_in_ends_the_session(script, start_player):
    player = start_player(script.port)
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


def test_lost_server_drops_the_cache(script, start_player):
    player = start_player(script.port)
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
    """Go from the nickname prompt to one of ENDS."""
    if ENDS[place] is not None:
        player.enter("bob", OPTION)
        for option, question in ENDS[place]:
            player.enter(option, question)


@pytest.mark.parametrize("place", sorted(ENDS))
def test_ctrl_c_ends_the_client(program, start_player, place):
    open_account(program.database, "bob", 100, "sword")
    player = start_player(program.port)
    reach(player, place)
    player.interrupt()
    assert player.finish() == 130
    assert player.before.strip() == ""                  # no message
    wait_for(lambda: program.free("bob"), "the nickname to be free")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_two_quick_signals_cause_no_traceback(start_player, no_server, second):
    for _ in range(5):
        player = start_player(no_server)
        player.interrupt()
        player.kill(second)
        status = player.finish()
        assert status in (130, 128 + second) or player.signalstatus in (signal.SIGINT, second)


def test_signal_after_the_end_of_input_causes_no_traceback(no_server):
    for _ in range(5):
        process = start_in_pipes([sys.executable, CLIENT, "--port", "%d" % no_server])
        try:
            assert process.stdout.readline() == b"Nickname:\n"
            process.stdin.close()
            process.send_signal(signal.SIGINT)
            _, err = read_output(process)
        finally:
            end_process(process)
        assert err == "" and process.returncode in (0, 130, -signal.SIGINT)


@pytest.mark.parametrize("place", sorted(ENDS))
def test_ctrl_d_ends_the_client(program, start_player, place):
    open_account(program.database, "bob", 100, "sword")
    player = start_player(program.port)
    reach(player, place)
    player.sendeof()
    assert player.finish() == 0
    assert player.before.strip() == ""
    wait_for(lambda: program.free("bob"), "the nickname to be free")


@pytest.mark.parametrize("method", ["login", "ping", "buy", "sell"])
def test_ctrl_c_ends_waiting_for_a_response(script, start_player, method):
    player = start_player(script.port)
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


def test_ctrl_c_ends_the_client_while_it_starts(directory):
    # The import of a standard module lasts, as it may on a slow disk.
    started = os.path.join(directory, "started")
    with io.open(os.path.join(directory, "ssl.py"), "w") as module:
        module.write("import time\nopen(%s, 'w').close()\ntime.sleep(%d)\n"
                     % (json.dumps(started), 2 * PATIENCE))
    process = start_in_pipes([sys.executable, CLIENT], PYTHONPATH=directory)
    try:
        wait_for(lambda: os.path.exists(started), "the import to begin")
        process.send_signal(signal.SIGINT)
        _, err = read_output(process)
    finally:
        end_process(process)
    assert err == ""
    assert process.returncode in (130, -signal.SIGINT)      # a shell's $? is 130 for both


SESSION = ["bob", "balance", "BUY", "Horse", "Potion", "items", "sell", "potion", "dance", "logout",
           "ann", "Items"]
SESSION_SHOWS = [
    "Nickname:\n", "Welcome back, bob!\n", "credits  100\n", "items    none\n", "Options",
    "\nbob 100>\n", "You have 100 credits", "price", "potion", "25", "horse", "500",
    "What would you like to buy? (or back)\n", "costs 500", "Congratulations", "75 credits",
    "\nbob 75>\n", "Your items: potion.\n", "potion", "25",
    "What would you like to sell? (or back)\n", "Congratulations", "100 credits", "\nbob 100>\n",
    "no option", "Goodbye, bob.\n", "Nickname:\n", "ann",
    "Options", "ann ", "no items"]


def test_session_in_pipes(program):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, SESSION)
    assert (status, err) == (0, "")
    assert in_order(out, *SESSION_SHOWS)
    assert not set(out) & set("\x1b\r")
    assert out.count("Nickname:") == 2 and out.count("bob 100>") == 2
    assert not out.endswith("\n\n")
    assert stored_account(program, "bob") == (100, "")


def test_end_of_a_pipe_ends_the_client_anywhere(program):
    for length in range(len(SESSION)):
        status, out, err = run(program.port, SESSION[:length])
        assert (status, err) == (0, "")
        assert out.endswith("\n")


def test_last_line_of_a_pipe_needs_no_newline(program):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, ["bob", "items"], end="")
    assert (status, err) == (0, "")
    assert in_order(out, "Options", "You have no items.")


def test_closed_reader_of_the_output_ends_the_client_quietly(program, directory):
    for lines_read in range(3):
        process = start_in_pipes([sys.executable, CLIENT, "--port", str(program.port)])
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
            except EnvironmentError:        # the client may have ended already
                pass
            wait_for(lambda: process.poll() is not None, "the client to end")
            assert process.stderr.read() == b""
        finally:
            end_process(process)
        wait_for(lambda: program.free("bob"), "the nickname to be free")


def test_script_may_have_crlf_and_a_byte_order_mark(program):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, [b"\xef\xbb\xbfbob\r", b"buy potion\r", b"sell\r",
                                          b"potion\r", b"buy torch\r", b"logout\r"])
    assert (status, err) == (0, "")
    assert in_order(out, "Nickname:\nWelcome back, bob!\n", "bought the potion", "sold the potion",
                    "bought the torch", "Goodbye, bob.\n")
    assert stored_account(program, "bob") == (60, "torch")
    status, out, err = run(program.port, [b"bob\r", "\ufeff"], end="")     # only at the beginning
    assert (status, err) == (0, "") and "There is no option \"\\ufeff\"." in out


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_empty_script_asks_once(no_server, data):
    assert run(no_server, [data], end="") == (0, "Nickname:\n", "")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_script_in_utf_16_ends_the_client_with_a_sentence(program, encoding):
    script = "\ufeffbob\r\nbuy potion\r\n".encode(encoding)
    status, out, err = run(program.port, [script], end="")
    assert (status, err) == (1, "")
    assert out == "Nickname:\nThis input is UTF-16; save it as UTF-8.\n"
    assert query(program.database, "SELECT * FROM account") == []


def socket_pair():
    return [os.dup(sock.fileno()) for sock in socket.socketpair()]


@pytest.mark.parametrize("make_pair", [os.pipe, socket_pair])
def test_non_blocking_input_is_waited_for(program, make_pair):
    """It comes in pieces, the first of which ends within a character."""
    reader, writer = make_pair()
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK)
    process = subprocess.Popen([sys.executable, CLIENT, "--port", str(program.port)], stdin=reader,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=player_environment(), close_fds=True)
    os.close(reader)
    try:
        for data, shown in [(b"", b"Nickname:"), (b"\xd0\x91\xd0", None), (b"\xbe\n", b"Options"),
                            (b"it", None), (b"ems\n", b"no items")]:
            if data:
                wait_for(lambda: sleeps_or_ended(process.pid), "the client to wait for input")
                os.write(writer, data)
            line = b""
            while shown and shown not in line:
                line = process.stdout.readline()
                assert line
        os.close(writer)
        _, err = read_output(process)
    finally:
        end_process(process)
    assert (process.returncode, err) == (0, "")
    assert query(program.database, "SELECT nickname FROM account") == [("Бо",)]


def test_non_blocking_output_is_waited_for(program):
    open_account(program.database, "bob", 100)
    reader, writer = small_pipe()
    process = subprocess.Popen([sys.executable, CLIENT, "--port", str(program.port)],
                               stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE,
                               env=player_environment(), close_fds=True)
    os.close(writer)
    try:
        process.stdin.write(b"bob\n" + b"?\n" * 40)
        process.stdin.close()
        wait_for(lambda: is_full(reader) or process.poll() is not None, "the pipe to be full")
        with io.open(reader, "rb") as pipe:
            out = pipe.read()
        wait_for(lambda: process.poll() is not None, "the client to end")
        assert process.stderr.read() == b"" and process.returncode == 0
    finally:
        end_process(process)
    assert len(out) > 2 * PAGE and out.count(b"help buy") == 40


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "<&- >&-"])
def test_closed_standard_files_cause_no_traceback(no_server, redirection):
    assert run_redirected(no_server, redirection)[1] == ""


def run_redirected(port, redirection):
    """Run the client with this redirection; return (exit status, standard error)."""
    process = shell(port, redirection=redirection)
    try:
        process.stdin.close()
        _, err = read_output(process)
    finally:
        end_process(process)
    return process.returncode, err


@pytest.mark.parametrize("redirection", [">/dev/full", "</dev/null >/dev/full"])
def test_full_disk_is_a_line_on_standard_error(no_server, redirection):
    assert run_redirected(no_server, redirection) == (
        1, "cannot read or write: No space left on device\n")


def test_pipes_work_without_standard_error(program):
    process = shell(program.port, redirection="2>&-")
    try:
        process.stdin.write(b"bob\nitems\n")
        process.stdin.close()
        out, _ = read_output(process)
    finally:
        end_process(process)
    assert process.returncode == 0
    assert in_order(out, "Nickname:", "bob", "Options", "bob ", "no items")


def test_prompts_do_not_go_to_standard_error(program, start_player, directory):
    command = 'exec "$@" 2>' + os.path.join(directory, "errors")
    player = start_player(program.port, shell=["sh", "-c", command, "sh"])
    player.enter("bob", OPTION)


def test_terminal_works_without_standard_error(program, start_player):
    player = start_player(program.port, shell=["sh", "-c", 'exec "$@" 2>&-', "sh"])
    player.enter("bob", OPTION)
    player.enter("logout", NICKNAME)


# --- encodings ----------------------------------------------------------------------------------

STRICT = {"PYTHONIOENCODING": "utf-8"}      # strict decoding, 3.x's default in most locales


def test_undecodable_bytes_are_refused_on_a_terminal(program, start_player):
    player = start_player(program.port, **STRICT)

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
    assert stored_account(program, "Боб")[1] == "potion"


def test_undecodable_bytes_are_refused_in_a_pipe(program):
    lines = [b"\xff\xfe", "Боб", b"\x80", "buy", b"\xc3", "potion"]
    status, out, err = run(program.port, lines, **STRICT)
    assert (status, err) == (0, "")
    assert in_order(out, "not text", "Боб", "Options", "not text", "(or back)", "not text",
                    "Congratulations")
    assert stored_account(program, "Боб")[1] == "potion"


@pytest.mark.parametrize("variables", [
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])    # else 3.x uses UTF-8
def test_c_locale_shows_or_escapes_other_alphabets(program, script, start_player, variables):
    player = start_player(program.port, **variables)
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

    open_account(program.database, "tim", 1, "меч")      # not typed, but shown
    status, out, err = run(program.port, ["tim", "items"], **variables)
    assert (status, err) == (0, "")
    assert "меч" in out or "\\u043c\\u0435\\u0447" in out


# --- the command --------------------------------------------------------------------------------

@pytest.fixture
def elsewhere():
    """Return a Script at another address than the default."""
    script = Script("127.0.0.2")
    yield script
    script.close()


def test_environment_names_the_server_and_flags_override_it(elsewhere, no_server, start_player):
    elsewhere.admit(start_player(LAVKA_HOST="127.0.0.2", LAVKA_PORT=elsewhere.port))
    elsewhere.admit(start_player(elsewhere.port, "--host", "127.0.0.2", LAVKA_HOST=HOST,
                                 LAVKA_PORT=no_server))
    elsewhere.admit(start_player(elsewhere.port, LAVKA_HOST="127.0.0.2", LAVKA_PORT=no_server))
    elsewhere.admit(start_player(None, "--host", "127.0.0.2", LAVKA_HOST=HOST,
                                 LAVKA_PORT=elsewhere.port))
    for variables in ({}, {"LAVKA_HOST": "", "LAVKA_PORT": ""}):
        error, = start_player(elsewhere.port, **variables).enter("bob", NICKNAME)
        assert "%s:%s" % (HOST, elsewhere.port) in error            # the default host


def test_help_names_the_defaults():
    status, out, err = run(None, [], "--help")
    assert (status, err) == (0, "")
    assert HOST in out and str(PORT) in out


@pytest.mark.parametrize("port", ["x", "", "-1", "65536", "1.5", "9" * 30])
def test_invalid_port_is_a_usage_error(port):
    for arguments, variables in [(["--port", port], {}), ([], {"LAVKA_PORT": port})]:
        if variables == {"LAVKA_PORT": ""}:
            continue                    # an empty variable counts as unset
        status, out, err = run(None, [], *arguments, **variables)
        assert (status, out) == (2, "")
        assert "--port" in err and "Traceback" not in err


@pytest.mark.parametrize("host", ["x" * 64, "a..b", "no host", "хост..хост"])
def test_invalid_host_is_an_error(host):
    status, out, err = run(1, ["bob", "bob"], "--host", host)
    assert (status, err) == (0, "")
    assert out.count("no server") == 2


# --- other Pythons ------------------------------------------------------------------------------

other_python = pytest.mark.parametrize("python", PYTHONS or [
    pytest.param(None, marks=pytest.mark.skip(reason="LAVKA_TEST_PYTHONS names no other Python"))])


@other_python
def test_client_of_another_python_plays(program, python):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, SESSION + ["buy", "potion", "logout"], python=python)
    assert (status, err) == (0, "")
    assert in_order(out, *SESSION_SHOWS)
    assert stored_account(program, "bob") == (100, "")
    assert stored_account(program, "ann")[1] == "potion"
    assert program.free("ann")


@other_python
def test_server_of_another_python_serves(start, python):
    program = start(python=python)
    open_account(program.database, "Боб", 100)
    status, out, err = run(program.port, ["Боб"] + SESSION[1:] + ["buy", "potion", "logout"])
    assert (status, err) == (0, "")
    assert in_order(out, *[fragment.replace("bob", "Боб") for fragment in SESSION_SHOWS])
    assert stored_account(program, "Боб") == (100, "")
    assert stored_account(program, "ann")[1] == "potion"
    assert program.free("ann")
