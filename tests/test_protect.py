# -*- coding: utf-8 -*-
"""Keys in the client: the option `protect`, logging in with keys, and the question for one."""
from __future__ import unicode_literals

import io
import os
import signal
import termios

import pexpect
import pytest
from conftest import WAITING, open_account, wait_for
from playing import KEY, NICKNAME, OPTION, RESULTS, run, sleeps_or_ended
from screen import CTRL_C, CTRL_Z, ENTER, TAB, UP, Screen

from client import Client, RpcError, new_key
from constants import KEY_ATTEMPTS
from keyfile import KeyFile
from protocol import ErrorCode, key_problem

RIGHT, WRONG, OLD = "0123456789abcdef" * 2, "f" * 32, "e" * 32
PROMPT = "Key (not shown; Enter goes back): "
NO_KEY = "A key is 32 to 128 characters of printable ASCII."
WRONG_KEY = "This is not the key of this account."
ATTEMPTS_OVER = "%d wrong keys: log in again." % KEY_ATTEMPTS


class Computer(object):
    """A computer of the player's, with a file of keys of its own."""

    def __init__(self, home):
        self.variables = {"XDG_DATA_HOME": home}
        self.path = os.path.join(home, "lavka", "keys.json")
        self.file = KeyFile(self.path)

    def keys(self, port, nickname="bob"):
        return self.file.keys("127.0.0.1:%d" % port, nickname)

    def store(self, port, *keys):
        for key in reversed(keys):
            self.file.add("127.0.0.1:%d" % port, "bob", key)

    def spoil(self):
        """Let the file of keys be something that cannot be read or written."""
        os.makedirs(self.path)


@pytest.fixture
def make_computer(directory):
    """Return a function that returns a new Computer."""
    made = []

    def make():
        made.append(Computer(os.path.join(directory, "home%d" % len(made))))
        return made[-1]

    return make


@pytest.fixture
def computer(make_computer):
    return make_computer()


@pytest.fixture
def protected(program):
    """Return a server with bob's account, which has 100 credits and the key RIGHT."""
    open_account(program.database, "bob", 100)
    with Client(port=program.port) as owner:
        owner.login("bob")
        owner.protect(RIGHT)
    return program


def opens(program, key, nickname="bob"):
    """Return whether the account opens with a key, or without one if it is None."""
    with Client(port=program.port) as client:
        try:
            return bool(client.login(nickname, key))
        except RpcError as refusal:
            assert refusal.reason in ("key_required", "wrong_key")
            return False


def refuse(script, code):
    """Answer the last request with an error."""
    number, reason = code.value
    script.answer(error={"code": number, "message": "No: %s." % reason, "data": {"reason": reason}})


def logins(script, *outcomes):
    """Read a login for each outcome, an ErrorCode or None for success; return the keys sent."""
    keys = []
    for outcome in outcomes:
        params = script.request()["params"]
        assert set(params) <= {"nickname", "key"} and params["nickname"] == "bob"
        keys.append(params.get("key"))
        if outcome:
            refuse(script, outcome)
        else:
            script.answer(result=RESULTS["login"])
    return keys


def key_sent(script, player):
    """Have the player type `protect`; return the new key that the server gets."""
    player.sendline("protect")
    script.serve("ping")
    return script.request()["params"]["key"]


def type_key(player, key, prompt):
    """Answer the question for the key; return the lines shown before the next prompt."""
    end_of_line, rest = player.enter(key, prompt)[0], player.before.splitlines()[1:]
    assert end_of_line == ""                            # all that Enter shows
    return [line for line in rest if line != WAITING]


# --- the library ----------------------------------------------------------------------------------

def test_client_protects_and_logs_in_with_the_key(program):
    key = new_key()
    assert key_problem(key) is None
    with Client(port=program.port) as owner:
        assert owner.login("bob")["created"] is True
        assert owner.protect(key) is True
        assert owner.logout() is True
        for wrong, reason in [(None, "key_required"), (new_key(), "wrong_key")]:
            with pytest.raises(RpcError) as caught:
                owner.login("bob", wrong)
            assert caught.value.reason == reason
        assert owner.login("bob", key)["created"] is False
        with pytest.raises(RpcError) as caught:
            owner.protect("short")
        assert caught.value.reason == "invalid_params"


def test_login_without_a_key_sends_none(script, start_player, computer):
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    assert script.last["params"] == {"nickname": "bob"}


# --- the option -----------------------------------------------------------------------------------

def test_protect_stores_a_key_that_later_logins_send(program, start_player, computer):
    player = start_player(program.port, **computer.variables)
    player.enter("bob", OPTION)
    shown = player.enter("protect", OPTION)
    assert "".join(shown[:2]).startswith("Only your key opens this account now.")
    text = " ".join(shown)
    for part in (computer.path, "sends it by itself", "On another computer, type the key",
                 "copy the file to the same place, if there is none yet", "Keep a copy",
                 "whoever runs the server can help"):
        assert part in text
    assert "Earlier keys" not in text
    key, = computer.keys(program.port)
    assert key_problem(key) is None and os.stat(computer.path).st_mode & 0o777 == 0o600
    player.enter("logout", NICKNAME)
    assert opens(program, key) and not opens(program, None)
    assert "Welcome back" in player.enter("bob", OPTION)[0]
    assert key not in player.recording.getvalue()
    assert computer.keys(program.port) == [key]


def test_protect_again_replaces_the_key(protected, start_player, computer):
    computer.store(protected.port, RIGHT)
    player = start_player(protected.port, **computer.variables)
    player.enter("bob", OPTION)
    assert "Earlier keys open nothing any more: your other computers need this one." \
        in player.enter("PROTECT", OPTION)
    key, old = computer.keys(protected.port)
    assert key != RIGHT and old == RIGHT
    player.enter("logout", NICKNAME)
    assert opens(protected, key) and not opens(protected, RIGHT)
    player.enter("bob", OPTION)


@pytest.mark.parametrize("old", [[], [OLD]])
def test_new_key_is_stored_before_it_is_sent(script, start_player, computer, old):
    computer.store(script.port, *old)
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    key = key_sent(script, player)
    assert script.last["method"] == "protect"
    assert computer.keys(script.port) == [key] + old
    script.hang_up()                                    # the answer never comes
    text = " ".join(player.read_until(NICKNAME))
    assert "server is gone" in text and "may or may not have taken the new key" in text
    assert computer.path in text and "your next login uses it by itself" in text
    assert "protect again" in text
    assert key not in player.recording.getvalue()
    assert computer.keys(script.port) == [key] + old
    player.sendline("bob")
    script.accept()
    if old:
        assert logins(script, ErrorCode.WRONG_KEY, None) == [key, OLD]
        player.read_until(OPTION)
        assert computer.keys(script.port) == [OLD, key]
    else:
        assert logins(script, None) == [key]
        player.read_until(OPTION)
        assert computer.keys(script.port) == [key]


@pytest.mark.parametrize("valid", [0, 1])
def test_login_after_a_lost_answer_finds_the_valid_key(protected, start_player, computer, valid):
    keys = [WRONG, WRONG]
    keys[valid] = RIGHT
    computer.store(protected.port, *keys)
    player = start_player(protected.port, **computer.variables)
    assert "Welcome back" in player.enter("bob", OPTION)[0]
    assert computer.keys(protected.port)[0] == RIGHT


def test_two_shops_in_turn_at_one_address_lose_no_key(protected, start_player, computer):
    """The key of the other one is refused here, and stays."""
    computer.store(protected.port, OLD, RIGHT)
    player = start_player(protected.port, **computer.variables)
    for _ in range(2):
        assert "Welcome back" in player.enter("bob", OPTION)[0]
        assert computer.keys(protected.port) == [RIGHT, OLD]
        player.enter("logout", NICKNAME)


def test_login_with_the_newest_key_leaves_the_file_alone(protected, start_player, computer):
    computer.store(protected.port, RIGHT, OLD)
    before = os.stat(computer.path)
    player = start_player(protected.port, **computer.variables)
    assert "Welcome back" in player.enter("bob", OPTION)[0]
    assert os.stat(computer.path).st_ino == before.st_ino


@pytest.mark.parametrize("code, message, is_definite", [
    (ErrorCode.STORAGE_FAILED, "No: storage_failed.", True),
    (ErrorCode.METHOD_NOT_FOUND,
     "This server is older than keys: it cannot protect an account.", True),
    (ErrorCode.INTERNAL_ERROR, "No: internal_error.", False)])
@pytest.mark.parametrize("old", [[], [OLD]])
def test_refused_protect_keeps_the_old_key(script, start_player, computer, code, message,
                                           is_definite, old):
    computer.store(script.port, *old)
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    key = key_sent(script, player)
    refuse(script, code)
    assert player.read_until(OPTION) == [message]
    assert computer.keys(script.port) == (old if is_definite else [key] + old)


@pytest.mark.parametrize("result", [False, None, 1, "true", {"key": True}])
def test_answer_that_is_not_true_keeps_both_keys(script, start_player, computer, result):
    computer.store(script.port, OLD)
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    key = key_sent(script, player)
    script.answer(result=result)
    text = " ".join(player.read_until(NICKNAME))
    assert "not a Lavka server" in text and "may or may not have taken the new key" in text
    assert computer.keys(script.port) == [key, OLD]


def test_protect_without_a_login_ends_the_session(script, start_player, computer):
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    player.sendline("protect")
    script.serve("ping")
    script.request()
    refuse(script, ErrorCode.NOT_LOGGED_IN)
    assert player.read_until(NICKNAME) == ["No: not_logged_in."]
    assert computer.keys(script.port) == []


def test_key_that_cannot_be_stored_is_not_sent(script, start_player, computer):
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    computer.spoil()
    player.sendline("protect")
    script.serve("ping")
    assert "".join(player.read_until(OPTION)).replace(" ", "") == (
        "The file of keys, %s, cannot be written: it is not a file." % computer.path
        ).replace(" ", "")
    player.sendline("balance")
    script.serve("ping")
    player.read_until(OPTION)
    assert script.methods == ["login", "ping", "ping"]


def test_refused_key_that_cannot_be_removed_is_a_sentence(script, start_player, computer):
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    key_sent(script, player)
    os.remove(computer.path)
    computer.spoil()
    refuse(script, ErrorCode.STORAGE_FAILED)
    shown = player.read_until(OPTION)
    assert in_words(shown[:-1], "cannot be written: it is not a file.")
    assert shown[-1] == "No: storage_failed."


@pytest.mark.parametrize("old", [[], [OLD]])
def test_accepted_key_is_no_error_if_the_file_cannot_be_written_any_more(script, start_player,
                                                                         computer, old):
    computer.store(script.port, *old)
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    key = key_sent(script, player)
    os.mkdir(computer.path + ".new")                    # the next writing fails
    script.answer(result=True)
    assert not in_words(player.read_until(OPTION), "cannot be")
    assert computer.keys(script.port) == [key] + old


def test_keys_of_another_client_survive_a_late_answer(script, start_player, computer):
    """The account was taken over and protected anew before the answer was read."""
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    key = key_sent(script, player)
    computer.store(script.port, OLD)
    script.answer(result=True)
    player.read_until(OPTION)
    assert computer.keys(script.port) == [OLD, key]


# --- logging in with the keys of the file ---------------------------------------------------------

def test_file_that_cannot_be_read_is_a_sentence_and_the_login_goes_on(script, start_player,
                                                                      computer):
    computer.spoil()
    player = start_player(script.port, **computer.variables)
    shown = script.admit(player)
    assert script.last["params"] == {"nickname": "bob"}
    assert in_words(shown, "The file of keys, %s, cannot be read: it is not a file."
                    % computer.path)
    assert "Welcome back, bob!" in shown


def test_file_that_cannot_be_read_is_a_sentence_if_the_login_is_refused(script, start_player,
                                                                        computer):
    computer.spoil()
    player = start_player(script.port, **computer.variables)
    player.sendline("bob")
    script.accept()
    assert logins(script, ErrorCode.NICKNAME_IN_USE) == [None]
    shown = player.read_until(NICKNAME)
    assert in_words(shown[:-1], "cannot be read: it is not a file.")
    assert shown[-1] == "No: nickname_in_use."


def test_problem_of_the_file_is_told_once(script, start_player, computer):
    computer.spoil()
    player = start_player(script.port, **computer.variables)
    assert in_words(script.admit(player), "cannot be read")
    os.rmdir(computer.path)
    key_sent(script, player)
    refuse(script, ErrorCode.INTERNAL_ERROR)
    assert player.read_until(OPTION) == ["No: internal_error."]


def in_words(lines, sentence):
    """Return whether a sentence was shown, wherever its lines were wrapped."""
    return sentence.replace(" ", "") in "".join(lines).replace(" ", "")


def test_key_is_never_sent_to_another_server(script, program, start_player, computer):
    player = start_player(program.port, **computer.variables)
    player.enter("bob", OPTION)
    player.enter("protect", OPTION)
    other = start_player(script.port, **computer.variables)
    other.sendline("bob")
    script.accept()
    assert logins(script, ErrorCode.KEY_REQUIRED) == [None]
    other.read_until(KEY)
    script.hang_up()
    assert type_key(other, "", NICKNAME) == []
    assert computer.keys(script.port) == []


def test_server_of_before_keys_gets_a_login_without_one(script, start_player, computer):
    computer.store(script.port, OLD)
    player = start_player(script.port, **computer.variables)
    player.sendline("bob")
    script.accept()
    assert logins(script, ErrorCode.INVALID_PARAMS, None) == [OLD, None]
    player.read_until(OPTION)
    assert computer.keys(script.port) == [OLD]          # the server may be newer again some day


def test_other_refusals_of_a_login_with_a_key_are_shown(script, start_player, computer):
    computer.store(script.port, OLD)
    player = start_player(script.port, **computer.variables)
    player.sendline("bob")
    script.accept()
    assert logins(script, ErrorCode.NICKNAME_IN_USE) == [OLD]
    assert player.read_until(NICKNAME) == ["No: nickname_in_use."]
    assert computer.keys(script.port) == [OLD]


def test_protected_login_that_is_lost_may_have_been_taken_over(script, start_player, computer):
    player = start_player(script.port, **computer.variables)
    script.admit(player)
    player.sendline("protect")
    script.serve("ping", "protect")
    player.read_until(OPTION)
    script.hang_up()
    assert in_words(player.enter("balance", NICKNAME), "your key was used for a login elsewhere")


def test_login_with_the_key_takes_over(protected, start_player, computer):
    computer.store(protected.port, RIGHT)
    first, second = [start_player(protected.port, **computer.variables) for _ in range(2)]
    first.enter("bob", OPTION)
    assert "Welcome back" in second.enter("bob", OPTION)[0]
    assert first.enter("balance", NICKNAME) == [
        "The server is gone, or your key was used for a login elsewhere. Log in again."]
    second.enter("balance", OPTION)


# --- the question for the key ---------------------------------------------------------------------

@pytest.mark.parametrize("in_file", [[], [WRONG]])
def test_typed_key_is_stored(protected, start_player, computer, in_file):
    computer.store(protected.port, *in_file)
    player = start_player(protected.port, **computer.variables)
    assert in_words(player.enter("bob", KEY),
                    "This account at 127.0.0.1:%d is protected. Its key is not in %s."
                    % (protected.port, computer.path))
    shown = type_key(player, "  %s " % RIGHT, OPTION)       # pasted with spaces
    assert in_words(shown, "This client sends the key by itself from now on: it is in %s."
                    % computer.path)
    assert "Welcome back, bob!" in shown
    assert computer.keys(protected.port) == [RIGHT] + in_file
    player.enter("logout", NICKNAME)
    assert player.enter("bob", OPTION)[0] == "Welcome back, bob!"


def test_typed_key_opens_even_if_it_cannot_be_stored(protected, start_player, computer):
    computer.spoil()
    player = start_player(protected.port, **computer.variables)
    player.enter("bob", KEY)
    shown = type_key(player, RIGHT, OPTION)
    assert in_words(shown, "cannot be written") and "Welcome back, bob!" in shown
    assert not in_words(shown, "from now on")


def test_empty_key_leads_back_to_the_nickname(protected, start_player, computer):
    player = start_player(protected.port, **computer.variables)
    for line in ("", "  "):
        player.enter("bob", KEY)
        assert type_key(player, line, NICKNAME) == []
    player.enter("ann", OPTION)


def test_three_wrong_keys_lead_back_to_the_nickname(protected, start_player, computer):
    player = start_player(protected.port, **computer.variables)
    player.enter("bob", KEY)
    assert type_key(player, WRONG, KEY) == [WRONG_KEY]
    assert type_key(player, "short", KEY) == [NO_KEY]
    assert type_key(player, WRONG, NICKNAME) == [WRONG_KEY, ATTEMPTS_OVER]
    assert not os.path.exists(computer.path)
    for wrong in ("x" * 129, "ключ" * 10, "\x01" * 40):
        player.enter("bob", KEY)
        assert type_key(player, wrong, KEY) == [NO_KEY]
        type_key(player, RIGHT, OPTION)
        player.enter("logout", NICKNAME)
        os.remove(computer.path)


def test_player_may_take_long_to_type_the_key(script, start_player, computer):
    """The server closes a connection without a login; so each attempt has a new one."""
    player = start_player(script.port, **computer.variables)
    player.sendline("bob")
    script.accept()
    logins(script, ErrorCode.KEY_REQUIRED)
    for key, outcome in [(WRONG, ErrorCode.WRONG_KEY), (RIGHT, None)]:
        player.read_until(KEY)
        assert script.request() is None                 # closed while the player types
        player.sendline(key)
        script.accept()
        assert logins(script, ErrorCode.KEY_REQUIRED, outcome) == [None, key]
    player.read_until(OPTION)
    assert computer.keys(script.port) == [RIGHT]


def test_key_is_neither_sent_nor_stored_for_an_account_that_needs_none(script, start_player,
                                                                       computer):
    player = start_player(script.port, **computer.variables)
    player.sendline("bob")
    script.accept()
    logins(script, ErrorCode.KEY_REQUIRED)
    player.read_until(KEY)
    player.sendline(RIGHT)                              # an operator has unprotected it meanwhile
    script.accept()
    assert logins(script, None) == [None]
    assert player.read_until(OPTION)[:2] == ["", "Welcome back, bob!"]
    assert not os.path.exists(computer.path)


def test_server_lost_at_the_question_leads_back_to_the_nickname(start, protected, start_player,
                                                               computer):
    player = start_player(protected.port, **computer.variables)
    player.enter("bob", KEY)
    protected.kill()
    assert "no server" in type_key(player, RIGHT, NICKNAME)[0]
    start("--port", str(protected.port))
    player.enter("bob", KEY)
    type_key(player, RIGHT, OPTION)


def test_undecodable_key_is_refused(protected, start_player, computer):
    player = start_player(protected.port, PYTHONIOENCODING="utf-8", **computer.variables)
    player.enter("bob", KEY)
    os.write(player.child_fd, b"\xff" * 40 + b"\n")
    _, error = player.read_until(KEY)
    assert "not text" in error
    type_key(player, RIGHT, OPTION)


# --- the keyboard ---------------------------------------------------------------------------------

@pytest.fixture
def open_at_key(protected, computer):
    """Return a function that starts a Screen, ended after the test, at the question for the key."""
    screens = []

    def start_screen(**variables):
        screen = Screen(protected.port, **dict(computer.variables, **variables))
        screens.append(screen)
        screen.until_line("Nickname: ")
        screen.enter("bob", PROMPT)
        return screen

    yield start_screen
    for screen in screens:
        screen.update()
        screen.end()
        assert b"Traceback" not in screen.written
        assert RIGHT.encode("ascii") not in screen.written


def wait_at_key(screen):
    wait_for(lambda: not echoes(screen) and sleeps_or_ended(screen.process.pid),
             "the client to wait for the key")


def echoes(screen):
    return bool(termios.tcgetattr(screen.process.child_fd)[3] & termios.ECHO)


@pytest.fixture
def without_readline(directory):
    """Return the environment variables of a Python without the module readline."""
    with io.open(os.path.join(directory, "readline.py"), "w") as module:
        module.write("raise ImportError()\n")
    return {"PYTHONPATH": directory}


@pytest.mark.parametrize("line_editing", [True, False])
def test_key_is_not_echoed_and_not_in_the_history(open_at_key, without_readline, line_editing):
    screen = open_at_key(**({} if line_editing else without_readline))
    screen.type(RIGHT[:20], TAB, "\x7f", RIGHT[20:], "\x15")    # all deleted again
    screen.type(RIGHT)
    screen.enter("", "bob 100> ")
    screen.until_shown("Welcome back, bob!")
    assert echoes(screen) or line_editing               # readline echoes by itself
    assert RIGHT[:4].encode("ascii") not in screen.written
    if line_editing:
        screen.type(UP, "#")
        screen.until_line("bob 100> #")                 # the history is empty


@pytest.fixture
def connecting(script, computer):
    """Return a Screen where bob has typed the nickname; the script has accepted the client."""
    screen = Screen(script.port, **computer.variables)
    try:
        screen.until_line("Nickname: ")
        screen.type("bob", ENTER)
        script.accept()
        yield screen
    finally:
        screen.end()


def type_ahead(screen):
    """Type the right key before anything asks for it."""
    screen.type(RIGHT, ENTER)
    screen.until(lambda: any(RIGHT in line for line in screen.lines()))         # echoed


def test_what_was_typed_before_the_question_is_no_key(script, connecting):
    script.request()
    type_ahead(connecting)
    refuse(script, ErrorCode.KEY_REQUIRED)
    connecting.until_line(PROMPT)
    wait_at_key(connecting)
    connecting.type(ENTER)
    connecting.until_line("Nickname [bob]: ")
    assert not script.has_caller()                      # no key was tried


def test_what_was_typed_after_the_last_key_is_no_nickname(script, connecting):
    logins(script, ErrorCode.KEY_REQUIRED)
    for attempt in range(1, KEY_ATTEMPTS + 1):
        connecting.until_line(PROMPT)
        wait_at_key(connecting)
        connecting.type(WRONG, ENTER)
        script.accept()
        logins(script, ErrorCode.KEY_REQUIRED)
        script.request()
        if attempt == KEY_ATTEMPTS:
            type_ahead(connecting)
        refuse(script, ErrorCode.WRONG_KEY)
    connecting.until_line("Nickname [bob]: ")
    connecting.type(ENTER)
    script.accept()
    assert script.request()["params"] == {"nickname": "bob"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT])
def test_signal_at_the_key_restores_the_echo(open_at_key, number):
    screen = open_at_key()
    wait_at_key(screen)
    screen.process.kill(number)
    screen.process.expect(pexpect.EOF)
    assert echoes(screen)
    screen.process.wait()
    assert screen.process.exitstatus == 128 + number


@pytest.mark.parametrize("typed, status", [(CTRL_C, 130), ("\x04", 0)])
def test_ctrl_c_and_ctrl_d_at_the_key_restore_the_echo(open_at_key, typed, status):
    screen = open_at_key()
    wait_at_key(screen)
    screen.type(typed)
    screen.process.expect(pexpect.EOF)
    assert echoes(screen)
    screen.process.wait()
    assert screen.process.exitstatus == status


@pytest.mark.parametrize("shell", [
    ["bash", "--norc", "-i"],
    pytest.param(["dash", "-i"], marks=pytest.mark.skipif(
        not os.path.exists("/bin/dash"), reason="there is no dash here"))])
def test_ctrl_z_at_the_key_restores_the_echo_until_fg(protected, computer, shell):
    screen = Screen(protected.port, shell=shell, **dict(computer.variables, PS1="$ ", ENV=""))
    try:
        screen.until_line("$ ")
        screen.type(" ".join(screen.command), ENTER)
        screen.until_line("Nickname: ")
        screen.enter("bob", PROMPT)
        for _ in range(2):
            wait_for(lambda: not echoes(screen), "the echo to be off")
            screen.type(RIGHT[:9])
            screen.type_signal(CTRL_Z)
            screen.until_line("$ ")
            assert echoes(screen) or "bash" in shell    # bash edits its lines without the echo
            screen.enter("fg", PROMPT)
        wait_for(lambda: not echoes(screen), "the echo to be off")
        screen.enter(RIGHT, "bob 100> ")
        assert RIGHT[:9].encode("ascii") not in screen.written
    finally:
        screen.end()


# --- in a pipe ------------------------------------------------------------------------------------

def test_key_of_a_pipe_is_the_next_line(protected, computer):
    status, out, err = run(protected.port, ["bob", RIGHT, "balance", "logout", "bob", "items"],
                           **computer.variables)
    assert (status, err) == (0, "")
    assert out.count(PROMPT.rstrip() + "\n") == 1 and out.count("Welcome back, bob!") == 2
    assert "You have 100 credits." in out and "You have no items." in out
    assert RIGHT not in out


def test_lines_of_a_pipe_are_taken_for_keys_until_three_are_wrong(protected, computer):
    status, out, err = run(protected.port, ["bob", "buy potion", WRONG, "items", "ann", "items"],
                           **computer.variables)
    assert (status, err) == (0, "")
    begin = out.index(PROMPT.rstrip())
    assert out[begin:].startswith("%s\n%s\n%s\n%s\n%s\nNickname:\n" % (
        PROMPT.rstrip(), NO_KEY, WRONG_KEY, NO_KEY, ATTEMPTS_OVER))
    assert "potion" not in out[:out.index("Welcome")] and WRONG not in out
    assert "Welcome to Lavka, ann!" in out and "You have no items." in out
    log = protected.log()
    assert log.count("reason=wrong_key") == 1 and WRONG not in log and RIGHT not in log


@pytest.mark.parametrize("lines", [["bob"], ["bob", "items"], ["bob", WRONG]])
def test_end_of_a_pipe_at_the_key_ends_the_client(protected, computer, lines):
    status, out, err = run(protected.port, lines, **computer.variables)
    assert (status, err) == (0, "") and out.endswith("\n")


def test_protect_in_a_pipe(program, computer):
    status, out, err = run(program.port, ["bob", "protect", "logout", "bob", "pro"],
                           **computer.variables)
    assert (status, err) == (0, "")
    key, old = computer.keys(program.port)
    assert out.count("Only your key opens this account now. It is in %s.\n" % computer.path) == 2
    assert out.count("Earlier keys open nothing") == 1
    assert key not in out and old not in out
    assert opens(program, key)
