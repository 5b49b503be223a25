# -*- coding: utf-8 -*-
"""client.py on a terminal of 80 columns and 24 lines: line editing and what is shown."""
from __future__ import unicode_literals

import io
import os
import re
import signal
import sys
import termios

import pexpect
import pytest
from conftest import CLIENT, WAITING, open_account
from playing import (ACCOUNT, BUY, NICKNAME, OPTION, RESULTS, SELL, end_process, run,
                     start_in_pipes, stored_account)
from screen import CLEAR, CTRL_C, CTRL_Z, ENTER, LEFT, TAB, UP, Screen
from wcwidth import wcswidth

from client import Client
from constants import ITEMS, OPTIONS


@pytest.fixture
def open_screen():
    """Return a function that starts a Screen.

    Every screen is ended after the test. None may have seen a traceback.
    """
    screens = []

    def start_screen(port, prompt="Nickname: ", **variables):
        screens.append(Screen(port, **variables))
        screens[-1].until_line(prompt)
        return screens[-1]

    yield start_screen
    for screen in screens:
        screen.update()
        screen.end()
    for screen in screens:
        assert b"Traceback" not in screen.written


@pytest.fixture
def bob(program, open_screen):
    """Return a Screen: a player with 100 credits, a sword and a torch has just logged in."""
    open_account(program.database, "bob", 100, "sword,torch")
    screen = open_screen(program.port)
    screen.enter("bob", "bob 100> ")
    return screen


def begin_login(script, screen):
    """Enter a nickname; leave its login unanswered."""
    screen.type("bob", ENTER)
    script.accept()
    script.request()


# --- line editing -------------------------------------------------------------------------------

def test_tab_completes_options_and_their_items(bob):
    for typed, line in [
            ("ba", "balance"), ("l", "logout"), ("BAL", "balance"), ("h", "help"), ("bu", "buy "),
            ("s", "sell "), ("x", "x"), ("  ba", "  balance"), ("buy sw", "buy sword"),
            ("buy SW", "buy sword"), ("bu  sw", "bu  sword"), ("b s", "b s"), ("s s", "s sword"),
            ("sell t", "sell torch"), ("sell p", "sell p"), ("balance s", "balance s"),
            ("? s", "? sell"), ("help p", "help protect")]:
        bob.type(typed, TAB, "#")
        bob.until_line("bob 100> %s#" % line)
        bob.type(CLEAR)


def test_tab_lists_ambiguous_completions(bob):
    bob.type("b", TAB)
    bob.until_line("bob 100> b")
    bob.until_shown("balance  buy")
    bob.type("u", TAB, "s", TAB)
    bob.until_shown("shield  sword")
    bob.type("w", TAB)
    bob.until_line("bob 100> buy sword")


def test_tab_completes_items_at_the_question(program, bob):
    bob.enter("buy", "What would you like to buy? (or back) ")
    for typed, completed in [("po", "potion"), ("ba", "back"), ("sh", "shield"), ("ite", "ite")]:
        bob.type(typed, TAB)
        bob.until_line("What would you like to buy? (or back) %s" % completed)
        bob.type(CLEAR)
    bob.enter("back", "bob 100> ")
    bob.enter("sell", "What would you like to sell? (or back) ")
    for typed, completed in [("s", "sword"), ("b", "back"), ("p", "p")]:        # owned items only
        bob.type(typed, TAB)
        bob.until_line("What would you like to sell? (or back) %s" % completed)
        bob.type(CLEAR)
    bob.type("s", TAB)
    bob.enter("", "bob 300> ")
    assert stored_account(program, "bob") == (300, "torch")


def test_tab_completes_names_with_spaces_but_none_to_be_escaped(script, open_screen):
    screen = open_screen(script.port)
    names = ["Healing Potion", "Healing Poultice", "Меч", "\x1b[31mred"]
    begin_login(script, screen)
    script.answer(result=dict(RESULTS["login"],
                              catalog=[{"name": name, "price": 1} for name in names]))
    screen.until_line("bob 4321> ")
    for typed, completed in [("buy he", "buy Healing Po"),
                             ("buy healing pot", "buy healing Potion"), ("buy м", "buy Меч"),
                             ("buy \x16\x1b", "buy ^[")]:
        screen.type(typed, TAB, "#")
        screen.until_line("bob 4321> %s#" % completed)
        screen.type(CLEAR)


def test_history_has_options_but_no_nicknames(bob):
    bob.type(UP, "#")
    bob.until_line("bob 100> #")                        # the history is empty
    bob.type(CLEAR)
    bob.enter("balance", "bob 100> ")
    bob.enter("items", "bob 100> ")
    bob.type(UP)
    bob.until_line("bob 100> items")
    bob.type(UP)
    bob.until_line("bob 100> balance")
    bob.type(LEFT, LEFT, "#")
    bob.until(lambda: bob.line() == "bob 100> balan#ce")
    bob.type(CLEAR)
    bob.type("\x0b")
    bob.enter("logout", "Nickname [bob]: ")
    bob.type(UP, "#")
    bob.until_line("Nickname [bob]: #")                 # options are not in its history
    bob.type(CLEAR)
    bob.enter("", "bob 100> ")
    bob.type(UP)
    bob.until_line("bob 100> logout")


@pytest.mark.parametrize("line, shown", [
    ("bal", ["You have 100 credits."]), ("BAL", ["You have 100 credits."]),
    ("1", ["You have 100 credits."]), ("2", ["Your items: sword, torch."]),
    ("i", ["Your items: sword, torch."])])
def test_prefix_or_number_selects_an_option(player, line, shown):
    assert player.enter(line, OPTION) == shown


def test_ambiguous_prefix_of_an_option_is_refused(player):
    assert player.enter("b", OPTION)[0] == '"b" may be balance or buy.'
    assert player.enter("B", OPTION)[0] == '"B" may be balance or buy.'
    player.enter("bu", BUY)
    player.enter("ba", OPTION)                          # back
    player.enter("se", SELL)
    player.enter("back", OPTION)
    player.enter("5", NICKNAME)


def test_prefix_or_number_selects_an_item(program, player):
    player.enter("3", BUY)
    assert player.enter("s", BUY) == ['"s" may be shield or sword.']
    assert player.enter("b", BUY) == ['"b" may be bow or back.']
    for number in ("0", "9"):
        assert player.enter(number, BUY) == ["There is no number %s in the list." % number]
    for word in ("-1", "1.0"):
        assert player.enter(word, BUY) == ['There is no "%s" in the catalog.' % word]
    assert player.enter("2", BUY) == ["You already own the torch."]
    player.enter("3", OPTION)
    assert stored_account(program, "bob") == (40, "sword,torch,dagger")
    player.enter("4", SELL)
    player.enter("S", OPTION)                           # the only owned item with this prefix
    assert stored_account(program, "bob") == (240, "torch,dagger")
    player.enter("sell", SELL)
    player.enter("2", OPTION)
    assert stored_account(program, "bob") == (300, "torch")


def test_number_refers_to_the_list_shown_last(program, player):
    for line, question, length in [("sell 1", SELL, 3), ("buy 1", BUY, 9)]:
        assert len(player.enter(line, question)) == length      # no list was shown yet
        player.enter("back", OPTION)
    player.enter("sell", SELL)
    player.enter("1", OPTION)
    assert player.enter("sell 1", OPTION) == ["You do not own the sword."]   # again
    assert stored_account(program, "bob") == (300, "torch")
    player.enter("buy", BUY)
    player.enter("back", OPTION)
    assert "Congratulations! You bought the potion." in player.enter("buy 1", OPTION)
    player.enter("logout", NICKNAME)
    player.enter("bob", OPTION)
    assert len(player.enter("buy 1", BUY)) == 9         # no list was shown in this session
    assert stored_account(program, "bob") == (275, "torch,potion")


@pytest.mark.parametrize("line", ["buy potion", "  BUY   Potion ", "bu po"])
def test_buy_in_one_line(program, player, line):
    assert player.enter(line, OPTION) == [
        "Congratulations! You bought the potion.", "You have 75 credits."]
    assert stored_account(program, "bob") == (75, "sword,torch,potion")


@pytest.mark.parametrize("line", ["sell sword", "s s"])
def test_sell_in_one_line(program, player, line):
    assert player.enter(line, OPTION) == [
        "Congratulations! You sold the sword for 200 credits.", "You have 300 credits."]
    assert stored_account(program, "bob") == (300, "torch")


def test_refused_trade_in_one_line(program, player):
    for line, why in [("buy horse", "The horse costs 500 credits; you have 100."),
                      ("buy sword", "You already own the sword."),
                      ("sell bow", "You do not own the bow."),
                      ("buy s", '"s" may be shield or sword.'),
                      ("buy excalibur", 'There is no "excalibur" in the catalog.'),
                      ("buy back", 'There is no "back" in the catalog.')]:
        assert player.enter(line, OPTION) == [why]
    assert stored_account(program, "bob") == (100, "sword,torch")


def test_trade_in_one_line_sends_ping_first(script, start_player):
    player = start_player(script.port)
    script.admit(player)
    player.sendline("buy pot")
    script.serve("ping", "buy")
    assert script.last["params"] == {"item": "Potion"}
    player.read_until(OPTION)
    player.sendline("sell potion")
    script.serve("ping", "sell")
    player.read_until(OPTION)
    player.sendline("sell sword")                       # the last result has no items
    script.serve("ping")
    assert player.read_until(OPTION) == ["You have nothing to sell."]


def test_trade_in_one_line_is_run_at_the_question_for_an_item(program, player):
    for line in ("BUY potion", "buy pot", "sell sword", "sell x"):
        player.enter("buy", BUY)
        player.enter(line, OPTION)
    assert stored_account(program, "bob") == (275, "torch,potion")
    player.enter("buy", BUY)
    for line in ("bu potion", "balance potion", "logout now"):
        assert player.enter(line, BUY) == ['There is no "%s" in the catalog.' % line]


@pytest.mark.parametrize("line", ["help", "?", "HELP", "he"])
def test_help_shows_the_options(player, line):
    lines = player.enter(line, OPTION)
    for number, option in enumerate(OPTIONS):
        assert lines[number].split()[:2] == ["%d" % (number + 1), option]
    assert "Ctrl-C" in lines[-1]
    player.enter("buy", BUY)


ITEM_HELP = [
    "Type the name of an item, its beginning, or its number in the list.",
    "\"back\" leads back to the options. So does an option in full, such as \"balance\"."]


@pytest.mark.parametrize("line", ["help", "?", "HELP"])
def test_question_for_an_item_has_help_of_its_own(program, player, line):
    for question, option in [(BUY, "buy"), (SELL, "sell")]:
        player.enter(option, question)
        assert player.enter(line, question) == ITEM_HELP        # without numbers
        assert player.enter("he", question)[0].endswith(" \"he\" in the catalog."
                                                        if option == "buy" else " \"he\".")
        player.enter("back", OPTION)
    assert stored_account(program, "bob") == (100, "sword,torch")


def test_help_with_an_option_explains_it(player):
    assert player.enter("help buy", OPTION) == [
        "buy: show the catalog, and choose an item to buy.",
        "\"buy sword\" buys the sword at once. What you already own cannot be bought again."]
    assert player.enter("? BAL", OPTION) == ["balance: show your credits."]
    assert player.enter("help 5", OPTION)[0].startswith("logout: free your nickname")
    assert player.enter("help b", OPTION) == ['"b" may be balance or buy.']
    assert player.enter("help potion", OPTION) == [
        'There is no option "potion". To buy the potion, type "buy potion".']


def test_help_leaves_the_question_for_an_item_open(program, player):
    player.enter("buy", BUY)
    assert player.enter("help sell", BUY)[0].startswith("sell: show what you own")
    assert player.enter("? BAL", BUY) == ["balance: show your credits."]
    for line in ("help potion", "help b", "help 1"):        # no options with numbers
        assert player.enter(line, BUY) == ITEM_HELP
    player.enter("back", OPTION)
    assert stored_account(program, "bob") == (100, "sword,torch")


def test_help_names_editing_keys_only_with_line_editing(program, bob):
    bob.enter("?", "bob 100> ")
    assert any(line.startswith("Tab completes") for line in bob.lines())
    assert "Tab completes" not in run(program.port, ["ann", "?"])[1]


def test_ctrl_z_keeps_the_typed_line(program, open_screen):
    open_account(program.database, "bob", 100)
    shell = open_screen(program.port, prompt="$ ", shell=["bash", "--norc", "-i"], PS1="$ ")
    shell.type(" ".join(shell.command), ENTER)
    shell.until_line("Nickname: ")
    shell.type("bo")
    shell.until_line("Nickname: bo")            # Ctrl-Z drops unread input
    shell.type_signal(CTRL_Z)
    shell.until_line("$ ")
    shell.enter("fg", "Nickname: bo")
    shell.enter("b", "bob 100> ")
    shell.type("buy po")
    shell.until_line("bob 100> buy po")
    shell.type_signal(CTRL_Z)
    shell.until_line("$ ")
    shell.enter("fg", "bob 100> buy po")
    shell.enter("tion", "bob 75> ")
    shell.type_signal(CTRL_C)
    shell.until_line("$ ")
    shell.enter("echo status $?", "$ ")
    shell.until_shown("$ echo status $?", "status 130", "$")


def test_typeahead_is_dropped_when_the_server_is_lost(script, open_screen):
    screen = open_screen(script.port)
    screen.type("bob", ENTER)
    script.accept()
    script.serve("login")
    screen.until_line("bob 4321> ")
    screen.type("buy potion", ENTER)
    script.serve("ping")
    script.request()
    screen.type("items", ENTER, "log")
    screen.until(lambda: any("items" in line for line in screen.lines()))
    screen.until(lambda: any(line.endswith("log") for line in screen.lines()))
    script.hang_up()
    screen.until_line("Nickname [bob]: ")
    screen.type(ENTER)
    script.accept()
    assert script.request()["params"] == {"nickname": "bob"}


def test_typeahead_is_read_at_the_start_and_after_logout(program, open_screen):
    open_account(program.database, "bob", 100)
    screen = open_screen(program.port, prompt="")       # before the client has started
    screen.type("bob\nlogout\n\nbalance\nbuy potion\n")
    screen.until_shown("You have 75 credits.", "bob 75>")
    screen.until_shown("You have 100 credits.")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1,
                                    signal.SIGABRT, signal.SIGXCPU, signal.SIGIO])
def test_signal_that_ends_the_client_restores_the_terminal(bob, number):
    def modes():
        return termios.tcgetattr(bob.process.child_fd)[3] & (termios.ICANON | termios.ECHO)
    assert modes() == 0                                 # readline's modes
    bob.process.kill(number)
    bob.process.expect(pexpect.EOF)
    assert modes() == termios.ICANON | termios.ECHO
    bob.process.wait()
    assert bob.process.exitstatus == 128 + number


def test_pasted_lines_are_read_one_by_one(bob):
    bob.type("balance\rbuy potion\ritems\r")
    bob.until_shown("You have 75 credits.", "bob 75> items", "Your items: sword, torch, potion.",
                    "bob 75>")
    assert b"\x1b[?2004h" not in bob.written            # bracketed paste would make them one line


# --- the look -----------------------------------------------------------------------------------

CATALOG = """\
  #  item    price
  1  potion     25  affordable
  2  torch      40  owned
  3  dagger     60  affordable
  4  shield    120  20 credits short
  5  bow       150  50 credits short
  6  sword     200  owned
  7  armor     350  250 credits short
  8  horse     500  400 credits short"""


def test_session_on_the_screen(bob):
    bob.until_shown("Nickname: bob", "Welcome back, bob!", "  credits  100",
                    "  items    sword, torch",
                    "Options: 1 balance, 2 items, 3 buy, 4 sell, 5 logout, 6 protect.",
                    "Type ? for help; Ctrl-C or Ctrl-D leaves the game.", "bob 100>")
    bob.enter("buy", "What would you like to buy? (or back) ")
    bob.until_shown("bob 100> buy", CATALOG, "What would you like to buy? (or back)")
    bob.enter("potion", "bob 75> ")
    bob.until_shown("What would you like to buy? (or back) potion",
                    "Congratulations! You bought the potion.", "You have 75 credits.", "bob 75>")
    bob.enter("", "bob 75> ")
    bob.until_shown("bob 75>", "bob 75>")
    bob.enter("", "bob 75> ")
    bob.enter("logout", "Nickname [bob]: ")
    bob.until_shown("bob 75> logout", "Goodbye, bob.", "Nickname [bob]:")


def test_lines_have_colours(bob):
    plain, bold = ("default", False), ("default", True)
    assert bob.style("bob 100>") == bob.style("Nickname:") == bold
    assert bob.style("Welcome") == ("green", False)
    assert bob.style("Options") == plain
    bob.enter("dance", "bob 100> ")
    assert bob.style("There is no option") == ("red", False)
    bob.enter("buy potion", "bob 75> ")
    assert bob.style("Congratulations") == ("green", False)
    assert bob.style("You have 75") == plain
    bob.enter("buy horse", "bob 75> ")
    assert bob.style("The horse costs") == ("red", False)
    faint = bob.sent().count(b"\x1b[2m")
    bob.enter("buy", "What would you like to buy? (or back) ")
    assert bob.sent().count(b"\x1b[2m") == faint + 8    # header, owned and unaffordable items


@pytest.mark.parametrize("variables, has_colours", [
    ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True), ({}, True)])
def test_colours_can_be_switched_off(program, open_screen, variables, has_colours):
    screen = open_screen(program.port, **variables)
    screen.type("bob", ENTER)
    screen.until(lambda: re.match(r"bob \d+>$", screen.line()))
    screen.type("dance", ENTER)
    screen.until(lambda: any("no option" in line for line in screen.lines()))
    screen.update()
    assert (re.search(b"\x1b\\[[0-9;]*m", screen.written) is not None) == has_colours


def test_table_aligns_wide_characters(script, open_screen):
    screen = open_screen(script.port)
    catalog = [("剣", 200), ("potion", 5), ("盾とかぶと", 1200), ("cafe\u0301", 30), ("🏹", 7)]
    screen.type("ボブ", ENTER)
    script.accept()
    script.request()
    script.answer(result={"account": {"nickname": "ボブ", "credits": 50, "items": ["剣"]},
                          "created": False,
                          "catalog": [{"name": name, "price": price} for name, price in catalog]})
    screen.until_line("ボブ 50> ")
    screen.type("buy", ENTER)
    script.serve("ping")
    screen.until_line("What would you like to buy? (or back) ")
    rows = screen.lines()[screen.screen.cursor.y - 5:screen.screen.cursor.y]
    assert len(rows) == 5
    ends = [wcswidth(row[:re.search(" %d  " % price, row).end()])
            for (name, price), row in zip(catalog, rows)]
    assert len(set(ends)) == 1, rows


def admit_with(script, player, **members):
    player.sendline("bob")
    script.accept()
    script.request()
    script.answer(result=dict(RESULTS["login"], **members))


def test_huge_nickname_is_shortened(script, start_player):
    player = start_player(script.port)
    admit_with(script, player, account=dict(ACCOUNT, nickname="x" * 60000))
    player.read_until(re.escape("x" * 21 + "... 4321> "))


@pytest.mark.parametrize("width, name_width", [(80, 56), (40, 16), (200, 56)])
def test_long_item_name_is_shortened_to_the_width(script, open_screen, width, name_width):
    screen = open_screen(script.port, width=width)
    begin_login(script, screen)
    script.answer(result=dict(RESULTS["login"], catalog=[
        {"name": name, "price": 7} for name in ("x" * 100, "bow", "a long name " * 9)]))
    screen.until_line("bob 4321> ")
    screen.type("buy", ENTER)
    script.serve("ping")
    screen.until_shown(
        "  #  %-*s  price" % (name_width, "item"),
        "  1  %s...      7  affordable" % ("x" * (name_width - 3)),
        "  2  %-*s      7  affordable" % (name_width, "bow"),
        "  3  %s...      7  affordable" % ("a long name " * 9)[:name_width - 3])


def test_long_list_of_items_is_wrapped_and_indented(script, open_screen):
    screen = open_screen(script.port)
    begin_login(script, screen)
    items = ["item-%d" % number for number in range(20)]
    script.answer(result=dict(RESULTS["login"], account=dict(ACCOUNT, items=items)))
    screen.until_shown("  items    %s," % ", ".join(items[:8]),
                       "           %s," % ", ".join(items[8:16]),
                       "           %s" % ", ".join(items[16:]))
    screen.type("items", ENTER)
    script.serve("ping")
    screen.until_shown("Your items: %s," % ", ".join(items[:8]),
                       "            %s," % ", ".join(items[8:15]),
                       "            %s." % ", ".join(items[15:]))


def test_no_line_is_wider_than_80_columns(program, start_player):
    nickname = "剣" * 20
    open_account(program.database, nickname, 99999, "shield")
    open_account(program.database, "bob", 10)
    player = start_player(program.port)

    shown = []

    def enter(prompt, *lines):
        for line in lines:
            shown.extend(player.enter(line, prompt) + [player.after])

    enter(NICKNAME, "")
    enter(OPTION, nickname, "?", "help", "dance", "b", "balance", "items")
    enter(SELL, "sell", "x")
    enter(OPTION, "back", *["buy %s" % item for item in ITEMS])
    enter(OPTION, "items", "buy sword", "sell x")
    enter(BUY, "buy", "s", "b")
    enter(OPTION, "sell armor")                         # at the question for an item to buy
    enter(NICKNAME, "logout")
    enter(OPTION, "bob", "buy horse", "sell")
    enter(BUY, "buy")
    program.kill()
    enter(NICKNAME, "potion", "bob")
    assert len(shown) > 90 and all(0 <= wcswidth(line) <= 80 for line in shown)


def words_of(lines):
    return " ".join(lines).split()


@pytest.mark.parametrize("height, width", [(12, 40), (24, 80), (50, 200)])
def test_lines_wrap_between_words_at_the_width(program, open_screen, height, width):
    """What a terminal of 80 columns shows, word by word, at most 80 columns wide."""
    open_account(program.database, "bob", 100, "sword,torch")
    prompt = "bob 100> "

    def play(screen):
        """Return the lines shown after each command."""
        shown = []
        screen.enter("bob", prompt)
        for line in ("?", "dance", "exit", "sword", "help buy", "buy horse", "items"):
            screen.update()
            screen.stream.feed(b"\x1b[2J\x1b[H")         # a screen of its own for each command
            screen.enter(line, prompt)
            shown.append([one for one in screen.lines() if one][1:])
        screen.enter("logout", "Nickname [bob]: ")
        return shown

    plays = [play(open_screen(program.port, height=50 if size == 80 else height + 20, width=size))
             for size in (80, width)]
    for usual, lines in zip(*plays):
        assert words_of(lines) == words_of(usual)
        assert max(map(wcswidth, lines)) <= min(80, width)


def test_lines_follow_a_resize(program, open_screen):
    open_account(program.database, "bob", 100)
    screen = open_screen(program.port)
    screen.enter("bob", "bob 100> ")
    options = "Options: 1 balance, 2 items, 3 buy, 4 sell, 5 logout, 6 protect."
    screen.until_shown(options)
    screen.resize(40)
    screen.enter("dance", "bob 100> ")
    screen.until_shown("There is no option \"dance\".", "Options: 1 balance, 2 items, 3 buy,",
                       "4 sell, 5 logout, 6 protect.")
    screen.enter("balance", "bob 100> ")
    screen.resize(100)
    screen.enter("dance", "bob 100> ")
    screen.until_shown("There is no option \"dance\".", options)


def test_long_question_leaves_room_to_type(script, open_screen):
    screen = open_screen(script.port, width=40)
    begin_login(script, screen)
    script.answer(result=RESULTS["login"])
    screen.until_line("bob 4321> ")
    screen.type("buy", ENTER)
    script.serve("ping")
    screen.until_shown("What would you like to buy?", "(or back)")
    screen.type("healing potion", TAB, "#")
    screen.until_line("(or back) healing potion#")
    screen.type(CLEAR, "back", ENTER)
    script.serve("ping")
    screen.until_line("bob 4321> ")


@pytest.mark.parametrize("width", [1, 2, 5, 19])
def test_very_narrow_terminal_shows_what_it_can(program, start_player, width):
    open_account(program.database, "bob", 100, "sword")
    player = start_player(program.port)
    player.setwinsize(24, width)
    for line, prompt in [("bob", r"100> "), ("?", r"100> "), ("buy", r"back\) "),
                         ("potion", r"75> ")]:
        player.sendline(line)
        player.expect(prompt)
    assert stored_account(program, "bob") == (75, "sword,potion")


def test_pipe_wraps_nothing(program):
    status, out, err = run(program.port, ["bob", "help sell", "?"])
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) > 70


@pytest.mark.parametrize("hidden, shown", [
    ("bob\u200d", "bob\\u200d"), ("b\u200cob", "b\\u200cob"), ("b\u3164ob", "b\\u3164ob"),
    ("bob\xa0x", "bob\\u00a0x")])
def test_names_that_look_alike_are_told_apart(program, start_player, hidden, shown):
    open_account(program.database, hidden, 1)
    player = start_player(program.port)
    assert player.enter(hidden, OPTION)[0] == "Welcome back, \"%s\"!" % shown


def test_names_are_told_apart_without_the_library_of_widths(program, directory):
    with io.open(os.path.join(directory, "wcwidth.py"), "w") as module:
        module.write("raise ImportError()\n")
    status, out, err = run(program.port, ["bob\ufe0f", "buy"], PYTHONPATH=directory)
    assert (status, err) == (0, "")
    assert "Welcome to Lavka, \"bob\\ufe0f\"!" in out and "  1  potion     25  affordable" in out


def test_joiners_are_shown(program, start_player):
    astronaut = "\U0001f469\u200d\U0001f680"
    open_account(program.database, "bob", 1, astronaut)
    player = start_player(program.port)
    assert player.enter("bob", OPTION)[2] == "  items    " + astronaut


def test_long_nickname_is_shortened_in_the_prompt(program, open_screen):
    open_account(program.database, "剣" * 200, 100)
    screen = open_screen(program.port)
    screen.enter("剣" * 200, "%s... 100> " % ("剣" * 10))
    screen.enter("logout", "Nickname [%s...]: " % ("剣" * 10))
    screen.resize(40)                                   # a third of the width: 13 columns
    screen.enter("剣" * 200, "%s... 100> " % ("剣" * 5))


def test_unsafe_characters_are_escaped_on_the_screen(script, open_screen):
    screen = open_screen(script.port)
    evil = "\u202eevil\u200b\u2028\x1b\ufeff\x9b"
    shown = "\\u202eevil\\u200b\\u2028\\u001b\\ufeff\\u009b"
    begin_login(script, screen)
    script.answer(result={"account": {"nickname": evil, "credits": 1, "items": [evil]},
                          "created": False, "catalog": [{"name": evil, "price": 12345}]})
    screen.until_line("\"%s...\" 1> " % shown[:19])
    screen.until_shown("  items    " + shown)
    screen.type("buy", ENTER)
    script.serve("ping")
    screen.until_shown("  1  %s  12345  owned" % shown)
    assert b"\x9b" not in screen.written and "\u200b" not in screen.written.decode("utf-8")
    screen.type("1", ENTER)
    assert script.request()["params"] == {"item": evil}
    script.answer(error={"code": 1, "message": evil, "data": {"reason": "x"}})
    screen.until_shown(shown)


# --- waiting, and the nickname that is offered ---------------------------------------------------

def test_waiting_notice_is_shown_and_erased(script, open_screen):
    screen = open_screen(script.port)
    begin_login(script, screen)
    screen.until_line(WAITING)
    script.answer(result=RESULTS["login"])
    screen.until_line("bob 4321> ")
    assert WAITING not in screen.lines()                # the notice is erased
    screen.until_shown("Nickname: bob", "Welcome back, bob!")
    screen.type("balance", ENTER)
    script.serve("ping")
    screen.until_shown("bob 4321> balance", "You have 4321 credits.", "bob 4321>")
    screen.type("buy potion", ENTER)
    script.serve("ping")
    script.request()
    screen.until_line(WAITING)
    script.answer(result=RESULTS["buy"])
    screen.until_line("bob 4296> ")


def test_waiting_notice_fits_into_a_narrow_terminal(script, open_screen):
    screen = open_screen(script.port, width=20)
    begin_login(script, screen)
    screen.until_line("Waiting for the s...")
    script.answer(result=RESULTS["login"])
    screen.until_line("bob 4321> ")
    screen.until_shown("Nickname: bob", "Welcome back, bob!")


def test_waiting_notice_is_a_line_on_a_dumb_terminal(script, start_player):
    player = start_player(script.port)
    player.sendline("bob")
    script.accept()
    script.request()
    player.expect_exact(WAITING + "\r\n")
    script.answer(result=RESULTS["login"])
    assert player.read_until(OPTION)[0] == "Welcome back, bob!"


def test_waiting_notice_is_a_line_in_a_pipe(script):
    process = start_in_pipes([sys.executable, CLIENT, "--port", "%d" % script.port])
    try:
        process.stdin.write(b"bob\n")
        process.stdin.close()
        script.accept()
        script.request()
        assert process.stdout.readline() == b"Nickname:\n"
        assert process.stdout.readline() == WAITING.encode("ascii") + b"\n"
        script.answer(result=RESULTS["login"])
        assert process.stdout.readline() == b"Welcome back, bob!\n"
    finally:
        end_process(process)


def test_waiting_notice_is_left_out_without_threads(script, start_player, directory):
    with io.open(os.path.join(directory, "sitecustomize.py"), "w") as module:
        module.write("import threading\n"
                     "def fail(*arguments, **more): raise threading.ThreadError('no more')\n"
                     "threading._start_new_thread = threading._start_joinable_thread = fail\n")
    script.admit(start_player(script.port, PYTHONPATH=directory))


def test_waiting_notice_covers_connecting(open_screen, full_listen_queue):
    screen = open_screen(full_listen_queue)
    screen.type("bob", ENTER)
    screen.until_line(WAITING)
    screen.resize(100)                                  # interrupts system calls on 2.7
    screen.resize(80)
    screen.until_line("Nickname [bob]: ")
    screen.until_shown(
        "Nickname: bob",
        "There is no server at 127.0.0.1:%d: no answer. Check --host and --port."
        % full_listen_queue,
        "Nickname [bob]:")


def test_resized_terminal_does_not_interrupt_waiting(script, open_screen):
    screen = open_screen(script.port)
    begin_login(script, screen)
    screen.until_line(WAITING)
    for width in (100, 60, 80):
        screen.resize(width)
    script.answer(result=RESULTS["login"])
    screen.until_line("bob 4321> ")


def test_enter_takes_the_last_nickname(start, program, open_screen):
    screen = open_screen(program.port)
    open_account(program.database, "bob", 100)
    screen.type(ENTER)
    screen.until_shown("A nickname cannot be blank.", "Nickname:")
    screen.enter("bob", "bob 100> ")
    program.kill()
    screen.enter("balance", "Nickname [bob]: ")
    screen.until_shown("The server is gone. Log in again when it is back.", "Nickname [bob]:")
    screen.type("ann", ENTER)                           # a nickname that is not logged in
    screen.until_shown("There is no server at 127.0.0.1:%d. Start one: python server.py --port %d"
                       % (program.port, program.port), "Nickname [ann]:")
    start("--port", str(program.port))
    with Client(port=program.port) as other:
        other.login("bob")
        screen.enter("bob", "Nickname [bob]: ")          # in use: the player waits
        other.logout()
    screen.enter("", "bob 100> ")
    screen.enter("logout", "Nickname [bob]: ")
    screen.type(" ", ENTER)                             # a blank line does not take the offer
    screen.until_shown("A nickname cannot be blank.", "Nickname [bob]:")
    screen.type("ann", ENTER)
    screen.until(lambda: re.match(r"ann \d+>$", screen.line()))


def test_empty_line_of_a_pipe_is_a_blank_nickname(program):
    open_account(program.database, "bob", 100)
    status, out, err = run(program.port, ["bob", "logout", "", "balance"])
    assert (status, err) == (0, "")
    assert out.count("A nickname cannot be blank.") == 1 and out.count("bob 100>") == 1
    assert "Welcome to Lavka, balance!" in out


@pytest.mark.parametrize("encoding", ["utf-8", None])
def test_utf8_can_be_typed_in_the_c_locale(program, open_screen, encoding):
    """In no locale may readline take bytes of UTF-8 for keys."""
    variables = {"LC_ALL": "C"}
    if encoding:
        variables["PYTHONIOENCODING"] = encoding
    else:
        variables.update({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    open_account(program.database, "Боб", 100)
    screen = open_screen(program.port, **variables)
    screen.type("Боб", ENTER)
    screen.until(lambda: screen.line().endswith("100>") or any(
        line == "That is not text in ASCII." for line in screen.lines()))
    assert screen.line().endswith("100>") == bool(encoding)     # else the encoding is ASCII
