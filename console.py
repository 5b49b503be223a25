# -*- coding: utf-8 -*-
"""The console that a player types into: a state machine between lines and answers."""
from __future__ import unicode_literals

from enum import Enum

import protocol
from constants import KEY_ATTEMPTS
from display import FAINT, call_server
from game_session import GameSession, SessionLost
from login import Login
from protocol import RpcError, ServerGone


class State(Enum):
    """The state of the console: what it takes the player's next line for."""
    LOGIN = "a nickname"
    GAME_SESSION = "an option"


class Console(object):
    """The state machine: a question for a nickname, then a game session, and so on."""

    def __init__(self, connect, advice, terminal, key_file, nickname=None):
        self.connect = connect          # function that returns a new Client
        self.advice = advice            # what to do about a ServerGone, by its reason
        self.terminal = terminal
        self.key_file = key_file
        self.first_nickname = nickname  # nickname that the first login takes without a question
        self.nickname = ""              # nickname typed last, offered for the next login
        self.login = None               # Login of the session, or the one that is being made
        self.session = None             # GameSession

    @property
    def state(self):
        return State.GAME_SESSION if self.session else State.LOGIN

    def run(self):
        """Handle lines until EOFError, the end of the input."""
        if self.terminal.has_keyboard and self.first_nickname is None:
            self.terminal.say("A nickname opens an account, or gets yours back. Ctrl-C or Ctrl-D "
                              "leaves.", FAINT)
        while True:
            try:
                if self.state is State.LOGIN:
                    self.log_in()
                else:
                    self.session.handle_line()
                    if self.session.is_over:
                        self.end_session()
            except RpcError as refusal:     # the login was refused, or the server has lost it
                self.abort_session(refusal.message)
            except SessionLost as lost:
                self.abort_session(*lost.args)
            except ServerGone as gone:
                self.abort_session(*self.explain(gone))

    def explain(self, gone):
        """Return sentences about a ServerGone, with what the player can do."""
        if gone.reason == "gone" and self.login.key is not None:
            return ("The server is gone, or your key was used for a login elsewhere.",
                    "Log in again.")
        return gone.message, self.advice[gone.reason]

    def end_session(self):
        """Close the connection, drop the cache and enter State.LOGIN."""
        if self.login:
            self.login.close()
        self.login = self.session = None

    def abort_session(self, *sentences):
        """End the session because of an error, and print it."""
        self.terminal.discard_typeahead()       # options, which would be taken for nicknames
        self.end_session()
        self.terminal.say_error(*sentences)

    # --- State.LOGIN --------------------------------------------------------------------------

    def log_in(self):
        """Ask for a nickname, connect and log in."""
        nickname, self.first_nickname = self.first_nickname, None
        if nickname is None:
            nickname = self.ask_nickname()
        problem = protocol.nickname_problem(nickname)
        if problem:
            self.terminal.say_error(problem)
            return
        self.nickname = nickname
        self.login = Login(nickname, self.connect, self.key_file)
        result = self.open_login()
        if result is None:
            self.end_session()
        else:
            self.session = GameSession(self.login, result, self.terminal)
            self.session.greet(result["created"])

    def ask_nickname(self):
        default = self.nickname if self.terminal.has_keyboard else ""   # a pipe has no Enter key
        offer = " [%s]" % self.terminal.short_name(default) if default else ""
        return self.terminal.ask("Nickname%s: " % offer, remember=False) or default

    def open_login(self):
        """Log in; return the result, None if the account needs a key that the player has not."""
        try:
            return call_server(self.terminal, self.login.open)
        except RpcError as refusal:
            if refusal.reason != "key_required":
                raise
        finally:
            self.login.tell_file_problem(self.terminal)
        return self.ask_key()

    def ask_key(self):
        """Ask for the key and log in with it; return the result, None if the player has no key."""
        self.terminal.say_error("This account at %s is protected." % self.login.client.address,
                                "Its key is not in %s." % self.key_file.name)
        for _ in range(KEY_ATTEMPTS):
            self.login.close()          # the server waits less long for a login than people type
            key = self.terminal.ask("Key (not shown; Enter goes back): ", is_secret=True).strip()
            if not key:
                return None
            problem = protocol.key_problem(key)
            if problem is None:
                try:
                    return self.log_in_with(key)
                except RpcError as refusal:
                    if refusal.reason != "wrong_key":
                        raise
                    problem = refusal.message
            self.terminal.say_error(problem)
        self.terminal.discard_typeahead()       # keys, which would be taken for nicknames
        self.terminal.say_error("%d wrong keys: log in again." % KEY_ATTEMPTS)
        return None

    def log_in_with(self, key):
        """Log in with a key that the player has typed; return the result."""
        result = call_server(self.terminal, self.login.open_with, key)
        if not self.login.tell_file_problem(self.terminal) and self.login.key == key:
            self.terminal.say("This client sends the key by itself from now on: it is in %s."
                              % self.key_file.name)
        return result
