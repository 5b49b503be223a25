# -*- coding: utf-8 -*-
"""`client.py --nickname NAME OPTION [ITEM]`: one option for a script, and its exit status."""
from __future__ import unicode_literals

import json
import os
import signal
import sys

import pytest
from conftest import CLIENT, open_account, wait_for
from playing import (ACCOUNT, NICKNAME, OPTION, RESULTS, end_process, read_output, run, shell,
                     sleeps_or_ended, start_in_pipes, stored_account)

from client import Client
from constants import REPLY_SECONDS
from keyfile import KeyFile

DONE, REFUSED, USAGE, NO_ANSWER = 0, 1, 2, 3
KEY, OTHER_KEY = "0123456789abcdef" * 2, "f" * 32


@pytest.fixture
def bob(program):
    """Return a server with bob's account, which has 100 credits, a sword and a torch."""
    open_account(program.database, "bob", 100, "sword,torch")
    return program


def one_shot(port, *words, **variables):
    """Run client.py for bob; return (exit status, standard output, standard error)."""
    return run(port, [], "--nickname", "bob", *words, **variables)


def command(port):
    return [sys.executable, CLIENT, "--port", "%d" % port, "--nickname", "bob"]


# --- done -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, shown", [
    (["balance"], "You have 100 credits.\n"),
    (["items"], "Your items: sword, torch.\n"),
    (["buy", "potion"], "Congratulations! You bought the potion.\nYou have 75 credits.\n"),
    (["sell", "sword"],
     "Congratulations! You sold the sword for 200 credits.\nYou have 300 credits.\n"),
    (["BAL"], "You have 100 credits.\n"), (["1"], "You have 100 credits.\n"),
    (["i"], "Your items: sword, torch.\n"), (["2"], "Your items: sword, torch.\n"),
    (["b", "POT"], "Congratulations! You bought the potion.\nYou have 75 credits.\n"),
    (["s", " tor "],
     "Congratulations! You sold the torch for 40 credits.\nYou have 140 credits.\n")])
def test_option_is_carried_out_with_the_short_forms_of_the_console(bob, words, shown):
    assert one_shot(bob.port, *words) == (DONE, shown, "")


@pytest.mark.parametrize("words", [["--json", "balance"], ["items", "--json"],
                                   ["--json", "buy", "potion"], ["sell", "sword", "--json"]])
def test_json_is_the_account_in_one_line(bob, words):
    status, out, err = one_shot(bob.port, *words)
    assert (status, err) == (DONE, "") and out.count("\n") == 1 and out.endswith("}\n")
    credits, items = stored_account(bob, "bob")
    assert json.loads(out, object_pairs_hook=list) == [
        ("nickname", "bob"), ("credits", credits), ("items", items.split(","))]


def test_json_is_ascii_whatever_the_nickname(program):
    nickname = "Боб \U0001f600\x1b[31m\""
    status, out, err = run(program.port, [], "--nickname", nickname, "--json", "items")
    assert (status, err) == (DONE, "") and json.loads(out)["nickname"] == nickname
    assert set(out) <= {chr(code) for code in range(32, 127)} | {"\n"}


def test_new_account_is_opened_and_said_so(program):
    status, out, err = one_shot(program.port, "items")
    assert (status, out, err) == (DONE, "This is a new account.\nYou have no items.\n", "")
    assert stored_account(program, "bob")[1] == ""
    assert one_shot(program.port, "items") == (DONE, "You have no items.\n", "")


def test_nickname_is_free_when_the_client_has_ended(bob):
    for number in range(20):                            # the next login finds it free at once
        verb = "buy" if number % 2 == 0 else "sell"
        assert one_shot(bob.port, verb, "potion")[0] == DONE
    assert stored_account(bob, "bob") == (100, "sword,torch")
    assert bob.log().count("reason=logout") == 20


@pytest.mark.parametrize("is_refused", [False, True])
def test_logout_that_fails_undoes_nothing(script, is_refused):
    process = start_in_pipes(command(script.port) + ["balance"])
    try:
        script.accept()
        script.serve("login")
        assert script.request()["method"] == "logout"
        if is_refused:
            script.answer(error={"code": -32603, "message": "A defect."})
        script.hang_up()
        assert read_output(process) == ("You have 4321 credits.\n", "")
        assert process.returncode == DONE
    finally:
        end_process(process)
    assert script.methods == ["login", "logout"]


@pytest.mark.parametrize("redirection, shown", [
    ("<&-", "Congratulations! You bought the potion.\nYou have 75 credits.\n"),
    (">&-", ""), ("<&- >&- 2>&-", "")])
def test_closed_standard_files_are_no_refusal(bob, redirection, shown):
    process = shell(bob.port, "--nickname", "bob", "buy", "potion", redirection=redirection)
    try:
        process.stdin.close()
        out, err = read_output(process)
    finally:
        end_process(process)
    assert (process.returncode, out, err) == (DONE, shown, "")
    assert stored_account(bob, "bob") == (75, "sword,torch,potion")


@pytest.mark.parametrize("option, answer, out, err", [
    (["items"], {"result": True}, "Your items: \\u001b[31m\\u000a.\n", ""),
    (["buy", "potion"], {"error": {"code": 1, "message": "\x1b[31m\n", "data": {"reason": "x"}}},
     "", "\\u001b[31m\\u000a\n")])
def test_text_of_a_server_is_escaped(script, option, answer, out, err):
    process = start_in_pipes(command(script.port) + option)
    try:
        script.accept()
        script.request()
        account = dict(ACCOUNT, items=["\x1b[31m\n"])
        script.answer(result=dict(RESULTS["login"], account=account))
        script.request()
        script.answer(**answer)
        assert read_output(process) == (out, err)
    finally:
        end_process(process)


def test_standard_input_is_not_read(bob):
    assert run(bob.port, ["buy horse", "ann"], "--nickname", "bob", "balance") \
        == (DONE, "You have 100 credits.\n", "")


# --- refused --------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, error", [
    (["buy", "horse"], "The horse costs 500 credits; you have 100."),
    (["buy", "sword"], "You already own the sword."),
    (["buy", "excalibur"], "There is no \"excalibur\" in the catalog."),
    (["buy", "s"], "\"s\" may be shield or sword."),
    (["buy", "1"], "There is no \"1\" in the catalog."),         # no list was shown
    (["sell", "bow"], "You do not own the bow."),
    (["sell", "excalibur"], "You do not own \"excalibur\"."),
    (["sell", "x" * 3000], "You do not own \"%s...\"." % ("x" * 37)),
    (["--json", "buy", "\x1b[31m"], "There is no \"\\u001b[31m\" in the catalog.")])
def test_refusal_is_a_line_on_standard_error(bob, words, error):
    assert one_shot(bob.port, *words) == (REFUSED, "", error + "\n")
    assert stored_account(bob, "bob") == (100, "sword,torch")


@pytest.mark.parametrize("words", [["sell", "bow"], ["--json", "sell", "bow"]])
def test_refusal_says_that_the_account_is_new(program, words):
    error = "You do not own the bow.\n"
    assert one_shot(program.port, *words) == (REFUSED, "", "This is a new account. " + error)
    assert one_shot(program.port, *words) == (REFUSED, "", error)


def test_nickname_in_use_is_refused(bob):
    with Client(port=bob.port) as other:
        other.login("bob")
        status, out, err = one_shot(bob.port, "buy", "potion")
    assert (status, out) == (REFUSED, "") and "This nickname is in use" in err
    assert stored_account(bob, "bob") == (100, "sword,torch")


def test_key_is_that_of_the_file(bob, directory):
    with Client(port=bob.port) as owner:
        owner.login("bob")
        owner.protect(KEY)
    home = os.path.join(directory, "home")
    key_file = KeyFile(os.path.join(home, "lavka", "keys.json"))
    for keys in ([], [OTHER_KEY]):
        for key in keys:
            key_file.add("127.0.0.1:%d" % bob.port, "bob", key)
        status, out, err = one_shot(bob.port, "balance", XDG_DATA_HOME=home)
        assert (status, out) == (REFUSED, "")
        assert "protected" in err and "Its key is not in %s." % key_file.path in err
    key_file.add("127.0.0.1:%d" % bob.port, "bob", KEY)
    assert one_shot(bob.port, "balance", XDG_DATA_HOME=home)[0] == DONE


def test_unreadable_file_of_keys_is_a_line_and_the_login_goes_on(bob, directory):
    os.makedirs(os.path.join(directory, "lavka", "keys.json"))
    status, out, err = one_shot(bob.port, "balance", XDG_DATA_HOME=directory)
    assert (status, out) == (DONE, "You have 100 credits.\n")
    assert err.count("\n") == 1 and "The file of keys" in err and "cannot be read" in err
    with Client(port=bob.port) as owner:
        owner.login("bob")
        owner.protect(KEY)
    status, out, err = one_shot(bob.port, "balance", XDG_DATA_HOME=directory)
    assert (status, out, err.count("\n")) == (REFUSED, "", 2)
    assert "protected" in err and "cannot be read" in err and "Its key is not in" not in err


# --- wrong usage ----------------------------------------------------------------------------------

@pytest.mark.parametrize("words, error", [
    (["--nickname", "bob", "dance"], "OPTION is balance, items, buy or sell"),
    (["--nickname", "bob", "logout"], "OPTION is balance, items, buy or sell"),
    (["--nickname", "bob", "protect"], "OPTION is balance, items, buy or sell"),
    (["--nickname", "bob", "help"], "OPTION is balance, items, buy or sell"),
    (["--nickname", "bob", ""], "OPTION is balance, items, buy or sell"),
    (["--nickname", "bob", "b"], "\"b\" may be balance or buy"),
    (["--nickname", "bob", "buy"], "buy needs an ITEM"),
    (["--nickname", "bob", "sell"], "sell needs an ITEM"),
    (["--nickname", "bob", "sell", ""], "the ITEM is blank"),
    (["--nickname", "bob", "sell", " "], "the ITEM is blank"),
    (["--nickname", "bob", "balance", "sword"], "only buy and sell take an ITEM"),
    (["--nickname", "bob", "buy", "golden", "sword"], "unrecognized arguments: sword"),
    (["--nickname", "bob", "--json"], "--json needs an OPTION"),
    (["--nickname", " ", "balance"], "A nickname cannot be blank"),
    (["--nickname", "x" * 256, "balance"], "A nickname has at most 255 characters"),
    (["--nickname", "bob", "--port", "0", "balance"], "port 0"),
    (["balance"], "need --nickname"), ([""], "need --nickname"),
    (["--json"], "need --nickname")])
def test_wrong_usage_connects_to_nothing(script, words, error):
    status, out, err = run(script.port, [], *words)
    assert (status, out) == (USAGE, "") and error in err
    assert not script.has_caller()


# --- no answer ------------------------------------------------------------------------------------

def test_no_server(no_server):
    assert one_shot(no_server, "balance") == (
        NO_ANSWER, "", "There is no server at 127.0.0.1:%d. Start one: python server.py --port %d\n"
        % (no_server, no_server))


@pytest.mark.parametrize("method, option, hint", [
    ("login", ["balance"], "Log in again when it is back."),
    ("login", ["buy", "potion"], "Log in again when it is back."),
    ("buy", ["buy", "potion"],
     "The purchase may or may not have gone through; your next login will show."),
    ("sell", ["sell", "sword"],
     "The sale may or may not have gone through; your next login will show.")])
def test_lost_server(script, method, option, hint):
    process = start_in_pipes(command(script.port) + option)
    try:
        script.accept()
        if method != "login":
            script.serve("login")
        assert script.request()["method"] == method
        script.hang_up()
        assert read_output(process) == ("", "The server is gone. %s\n" % hint)
        assert process.returncode == NO_ANSWER
    finally:
        end_process(process)


def test_answer_that_never_comes(script):
    process = start_in_pipes(command(script.port) + ["--json", "buy", "potion"])
    try:
        script.accept()
        script.serve("login")
        script.request()
        assert read_output(process) == (        # no waiting notice among what a script reads
            "", "The server did not answer within %d seconds. The purchase may or may not have "
            "gone through; your next login will show.\n" % REPLY_SECONDS)
        assert process.returncode == NO_ANSWER
    finally:
        end_process(process)


def test_outcome_that_cannot_be_printed_is_no_refusal(bob):
    process = shell(bob.port, "--nickname", "bob", "buy", "potion", redirection=">/dev/full")
    try:
        process.stdin.close()
        assert read_output(process) == (
            "", "It is done, but the output cannot be written: No space left on device.\n")
        assert process.returncode == NO_ANSWER
    finally:
        end_process(process)
    assert stored_account(bob, "bob") == (75, "sword,torch,potion")


def test_ctrl_c_ends_it_quietly(script):
    process = start_in_pipes(command(script.port) + ["buy", "potion"])
    try:
        script.accept()
        script.serve("login")
        script.request()
        wait_for(lambda: sleeps_or_ended(process.pid), "the client to wait")
        process.send_signal(signal.SIGINT)
        assert read_output(process) == ("", "")
        assert process.returncode == 130
    finally:
        end_process(process)


# --- the console with --nickname ------------------------------------------------------------------

def test_nickname_without_an_option_opens_the_console(bob, start_player):
    player = start_player(bob.port, "--nickname", "bob", prompt=OPTION)
    assert "Welcome back, bob!" in player.recording.getvalue()
    assert "nickname" not in player.recording.getvalue().lower()
    player.enter("logout", NICKNAME)                    # then it asks, as always
    player.enter("", OPTION)


def test_refused_nickname_of_the_command_line_is_asked_for(bob, start_player):
    with Client(port=bob.port) as other:
        other.login("bob")
        player = start_player(bob.port, "--nickname", "bob", prompt=NICKNAME)
        assert "in use" in player.recording.getvalue()
        other.logout()
    assert "Welcome back, bob!" in player.enter("", OPTION)
