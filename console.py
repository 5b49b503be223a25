# -*- coding: utf-8 -*-
"""The console that a player types into: a state machine between lines and answers."""
from __future__ import unicode_literals

import functools
from enum import Enum

import protocol
from constants import BACK, HOST, ITEM_COLUMNS, KEY_ATTEMPTS, NICKNAME_COLUMNS, OPTIONS, PORT
from keyfile import KeyFileError, new_key
from protocol import RpcError, ServerGone
from terminal import FAINT, GREEN, PLAIN
from text import find

HELP_WORDS = ("help", "?")
TRADES = ("buy", "sell")
UNKNOWN_ITEM = "There is no \"%s\" in the catalog."
EXPLANATIONS = {
    "balance": "your credits", "items": "what you own",
    "buy": "shows the catalog, and asks what you choose",
    "sell": "shows what you own, and asks what you give back for its price",
    "logout": "frees your nickname for others",
    "protect": "makes a key, without which nobody can play your account"}

# Refusals of a login that another key may avoid; a server older than keys knows no param for them.
KEY_REFUSALS = ("key_required", "wrong_key", "invalid_params")


def advice_by_reason(host, port, tls):
    """Return what a player can do about a ServerGone, by its reason."""
    check = "Check --host and --port."
    flags = (" --host %s" % host if host != HOST else "") \
        + (" --port %d" % port if port != PORT else "")
    start = "Start one%s python server.py%s" % (":" if flags else " with:", flags)
    is_local = not tls and (host in ("localhost", "::1") or host.startswith("127."))
    return {"not_running": start if is_local else check, "unreachable": check, "not_lavka": check,
            "tls_failed": "Check --tls and --ca.", "no_answer": "Try to log in again.",
            "gone": "Log in again when it is back."}


class State(Enum):
    """The state of the console: what it takes the player's next line for."""
    LOGIN = "a nickname"
    GAME_SESSION = "an option"


def call_server(terminal, method, *arguments):
    """Return the result of a method that waits for the server; say so if it takes long."""
    with terminal.waiting_notice("Waiting for the server ..."):
        return method(*arguments)


class Login(object):
    """A login to an account, and the player's keys for it."""

    def __init__(self, nickname, connect, terminal, key_file):
        self.nickname = nickname
        self.connect = connect          # function that returns a new Client
        self.terminal = terminal
        self.key_file = key_file
        self.client = None              # connection
        self.keys = []                  # keys that may be the account's, the newest first
        self.key = None                 # key that the server has accepted, None if it needed none
        self.call_server = functools.partial(call_server, terminal)

    def close(self):
        """End the connection, if there is one."""
        if self.client:
            self.client.close()

    def open(self):
        """Connect and log in; return `Client.login`'s result, None if the player has no key."""
        self.client = self.call_server(self.connect)
        try:
            self.keys = self.key_file.keys(self.client.server, self.nickname)
        except KeyFileError as problem:
            self.terminal.say_error("%s" % problem)
        try:
            result = self.try_keys(self.keys + [None])
        except RpcError as refusal:
            if refusal.reason != "key_required":
                raise
            result = self.ask_key()
        if self.key is not None and self.keys[:1] != [self.key]:
            was_typed = self.key not in self.keys
            if self.change_file(self.key_file.add, self.key) and was_typed:
                self.terminal.say("This client sends the key by itself from now on: it is in %s."
                                  % self.key_file.name)
        return result

    def try_keys(self, keys):
        """Log in with the first of the keys that is right; return the result."""
        for key in keys[:-1]:
            try:
                return self.try_key(key)
            except RpcError as refusal:
                if refusal.reason not in KEY_REFUSALS:
                    raise
        return self.try_key(keys[-1])

    def try_key(self, key):
        """Log in with a key, or without one if it is None; return the result."""
        result = self.call_server(self.client.login, self.nickname, key)
        self.key = key
        return result

    def ask_key(self):
        """Ask for the key and log in with it; return the result, None if the player has no key."""
        self.terminal.say_error("This account at %s is protected." % self.client.address,
                                "Its key is not in %s." % self.key_file.name)
        for _ in range(KEY_ATTEMPTS):
            self.close()                # the server waits less long for a login than people type
            key = self.terminal.ask("Key (not shown; Enter goes back): ", is_secret=True).strip()
            if not key:
                return None
            problem = protocol.key_problem(key)
            if problem is None:
                self.client = self.call_server(self.connect)
                try:                    # without a key first: the account may need none any more
                    return self.try_keys([None, key])
                except RpcError as refusal:
                    if refusal.reason != "wrong_key":
                        raise
                    problem = refusal.message
            self.terminal.say_error(problem)
        self.terminal.discard_typeahead()       # keys, which would be taken for nicknames
        self.terminal.say_error("%d wrong keys: log in again." % KEY_ATTEMPTS)
        return None

    def protect(self):
        """Protect the account with a new key; return False if the key could not be stored.

        It is stored before it is sent, beside the old one: the answer may never come.
        """
        key = new_key()
        if not self.change_file(self.key_file.add, key):
            return False
        try:
            self.call_server(self.client.protect, key)
        except RpcError as refusal:
            if refusal.reason != "internal_error":      # after a defect, either may be valid
                self.change_file(self.key_file.remove, key)
            raise
        self.key = key
        return True

    def change_file(self, change, key):
        """Add or remove a key in the file; return whether that was possible, and say so if not."""
        try:
            change(self.client.server, self.nickname, key)
            return True
        except KeyFileError as problem:
            self.terminal.say_error("%s" % problem)
            return False


class Console(object):
    """The state machine between a player's lines and the server's answers."""

    def __init__(self, connect, advice, terminal, key_file):
        self.connect = connect          # function that returns a new Client
        self.advice = advice            # what to do about a ServerGone, by its reason
        self.terminal = terminal
        self.key_file = key_file
        self.say, self.say_error = terminal.say, terminal.say_error
        self.call_server = functools.partial(call_server, terminal)
        self.options = {"balance": self.show_balance, "items": self.show_items,
                        "buy": functools.partial(self.trade, "buy"),
                        "sell": functools.partial(self.trade, "sell"), "logout": self.log_out,
                        "protect": self.protect}
        self.options.update((word, self.show_help) for word in HELP_WORDS)
        self.login = None               # Login of this session, or the one that is being made
        self.nickname = ""              # nickname of the last login, offered for the next one
        self.end_session()

    def run(self):
        """Handle lines until EOFError, the end of the input."""
        if self.terminal.has_keyboard:
            self.say("A nickname opens an account, or gets yours back. Ctrl-C or Ctrl-D leaves.",
                     FAINT)
        while True:
            try:
                step = self.log_in if self.state is State.LOGIN else self.ask_option
                step()
            except RpcError as refusal:     # the login was refused, or the server has lost it
                self.abort_session(refusal.message)
            except ServerGone as gone:
                if gone.reason == "gone" and self.login.key is not None:    # or taken over
                    self.abort_session("The server is gone, or your key was used for a login "
                                       "elsewhere.", "Log in again.")
                else:
                    self.abort_session(gone.message, self.advice[gone.reason])

    def end_session(self):
        """Close the connection, drop the cache and enter State.LOGIN."""
        if self.login:
            self.login.close()
        self.state = State.LOGIN
        self.login = None
        self.account, self.catalog = None, []       # cache of what the server has sent
        self.listed = {}                # items in the order listed last, for "buy" and for "sell"

    def abort_session(self, *sentences):
        """End the session because of an error, and print it."""
        self.terminal.discard_typeahead()       # options, which would be taken for nicknames
        self.end_session()
        self.say_error(*sentences)

    # --- State.LOGIN --------------------------------------------------------------------------

    def log_in(self):
        """Ask for a nickname, connect and log in."""
        default = self.nickname if self.terminal.has_keyboard else ""   # a pipe has no Enter key
        offer = " [%s]" % self.terminal.shorten(default, NICKNAME_COLUMNS) if default else ""
        nickname = self.terminal.ask("Nickname%s: " % offer, remember=False) or default
        problem = protocol.nickname_problem(nickname)
        if problem:
            self.say_error(problem)
            return
        self.nickname = default or nickname
        self.login = Login(nickname, self.connect, self.terminal, self.key_file)
        result = self.login.open()
        if result is None:
            self.end_session()
            return
        self.nickname = nickname
        self.state = State.GAME_SESSION
        self.account, self.catalog = result["account"], result["catalog"]
        welcome = "Welcome to the shop" if result["created"] else "Welcome back"
        self.say("%s, %s!" % (welcome, nickname), GREEN)
        self.show_account()
        self.show_options()

    # --- State.GAME_SESSION -------------------------------------------------------------------

    def ask_option(self):
        """Ask for an option and run it."""
        nickname = self.terminal.shorten(self.account["nickname"], NICKNAME_COLUMNS)
        question = "%s %d> " % (nickname, self.account["credits"])
        line = self.terminal.ask(question, self.complete_option)
        while line is not None:
            line = self.run_option(line)

    def run_option(self, line):
        """Run the option in a line; return the next one if the player has already typed it."""
        self.call_server(self.login.client.ping)    # any line, an empty one, too, detects its loss
        words = line.strip().split(None, 1)
        if not words:
            return None
        names, listed = (TRADES, ()) if words[1:] else (OPTIONS + HELP_WORDS, OPTIONS)
        matches = find(words[0], names, listed)
        if len(matches) == 1:
            return self.options[matches[0]](*words[1:])
        self.reject_word("There is no option \"%s\".", line.strip(), matches)
        return self.show_options()

    def complete_option(self, line):
        """Complete an option, or the item after a trade; a completer of `Terminal.ask`."""
        option, space, item = line.lstrip().partition(" ")
        if not space:
            return option, [name + " " if name in TRADES else name
                            for name in OPTIONS + HELP_WORDS[:1]]
        matches = find(option, TRADES)
        return item.lstrip(), self.tradable_items(matches[0]) if len(matches) == 1 else []

    def is_option(self, line):
        """Return whether a line at the question for an item is an option, written in full."""
        words = line.lower().split(None, 1)
        return bool(words) and words[0] in (TRADES if words[1:] else self.options)

    def log_out(self):
        self.call_server(self.login.client.logout)
        self.say("Good bye, %s." % self.account["nickname"])
        self.end_session()

    def protect(self):
        """Protect the account with a new key, and tell the player what that means."""
        had_key = self.login.key is not None
        try:
            if not self.login.protect():
                return
        except RpcError as refusal:
            if refusal.reason == "not_logged_in":       # the server has lost the login
                raise
            self.say_error("This server is older than keys: it cannot protect an account."
                           if refusal.reason == "method_not_found" else refusal.message)
            return
        except ServerGone as gone:
            self.abort_session(gone.message, "It may or may not have taken the new key. That is in "
                               "%s, and your next login uses it by itself. Then protect again, to "
                               "be sure." % self.key_file.name)
            return
        self.say("Only your key opens this account now. It is in %s." % self.key_file.name, GREEN)
        if had_key:
            self.say("Earlier keys open nothing any more: your other computers need this one.")
        self.say("This client sends it by itself. On another computer, type the key when it is "
                 "asked for, or copy the file to the same place, if there is none yet.")
        self.say("Keep a copy of the file. If the key is lost, whoever runs the server can help.")

    def trade(self, verb, word=None):
        """Trade the item that a word means, or ask for one; return an option typed instead."""
        if verb == "sell" and not self.account["items"]:
            return self.say_error("You have nothing to sell.")
        if word and (verb in self.listed or not word.isdigit()):    # a number refers to a list
            matches = self.find_item(verb, word)
            if len(matches) == 1:
                self.request_trade(verb, matches[0])
            else:
                self.reject_word(UNKNOWN_ITEM, word, matches)
            return None
        self.list_items(verb)
        return self.ask_item(verb)

    def ask_item(self, verb):
        """Ask until an item is traded or the player goes back; return an option typed instead."""
        names = self.tradable_items(verb) + [BACK]
        question = "What do you %s? (or %s) " % (verb, BACK)
        while True:
            word = self.terminal.ask(question, lambda line: (line.lstrip(), names)).strip()
            matches = self.find_item(verb, word, [BACK]) if word else []
            if self.is_option(word) and word.lower() not in [name.lower() for name in matches]:
                if word.lower() not in HELP_WORDS:
                    return word
                self.run_option(word)
            elif len(matches) == 1 and matches != [BACK]:
                if self.request_trade(verb, matches[0]):
                    return None
            else:
                self.call_server(self.login.client.ping)
                if matches == [BACK]:
                    return None
                if word:
                    self.reject_word(UNKNOWN_ITEM, word, matches)

    def tradable_items(self, verb):
        """Return the names of the items that can be bought, or that can be sold."""
        owned = list(self.account["items"])
        return owned if verb == "sell" else [item["name"] for item in self.catalog]

    def find_item(self, verb, word, others=()):
        """Return the items that a word may mean, or else those that the server will refuse."""
        names = self.tradable_items(verb) + list(others)
        return find(word, names, self.listed.get(verb, ())) \
            or find(word, self.tradable_items("sell" if verb == "buy" else "buy"))

    def request_trade(self, verb, item):
        """Let the server trade; return False if it refuses and the player may choose again."""
        try:
            self.account = self.call_server(getattr(self.login.client, verb), item)
        except RpcError as refusal:
            if refusal.reason == "not_logged_in":       # the server has lost the login
                raise
            self.say_error(refusal.message)
            return False
        except ServerGone as gone:
            self.abort_session(gone.message, "It may or may not have let you %s the %s: your next "
                               "login will show." % (verb, item))
            return True
        self.say("Congratulations! You %s the %s." % ("bought" if verb == "buy" else "sold", item),
                 GREEN)
        self.show_balance()
        return True

    # --- what the player sees -----------------------------------------------------------------

    def reject_word(self, problem, word, matches):
        """Say that a word means nothing, or too many things."""
        if matches:
            self.say_error("\"%s\" may be %s or %s." % (word, ", ".join(matches[:-1]), matches[-1]))
        else:
            self.say_error(problem % word)

    def show_account(self):
        self.say("  credits  %d" % self.account["credits"])
        self.say("  items    %s" % (", ".join(self.account["items"]) or "none"), indent=11)

    def show_balance(self):
        self.say("You have %d credits." % self.account["credits"])

    def show_items(self):
        items = self.account["items"]
        self.say("Your items: %s." % ", ".join(items) if items else "You have no items.", indent=12)

    def list_items(self, verb):
        """Print a table of the items that can be traded, and remember their numbers."""
        names = self.listed[verb] = self.tradable_items(verb)
        prices = {item["name"]: item["price"] for item in self.catalog}
        rows = [(("#", "item", "price", ""), FAINT)]
        for number, name in enumerate(names, 1):
            price = prices.get(name, "-")           # an owned item may have left the catalog
            note = self.affordability(name, price) if verb == "buy" else ""
            cells = ("%d" % number, self.terminal.shorten(name, ITEM_COLUMNS), "%s" % price, note)
            rows.append((cells, PLAIN if note in ("", "affordable") else FAINT))
        self.terminal.show_table("><><", rows)

    def affordability(self, name, price):
        missing = price - self.account["credits"]
        if name in self.account["items"]:
            return "owned"
        return "%d credits short" % missing if missing > 0 else "affordable"

    def show_options(self):
        self.say("Options: %s." % ", ".join("%d %s" % pair for pair in enumerate(OPTIONS, 1)))
        self.say("Type ? for help; Ctrl-C or Ctrl-D leaves the game.", FAINT)

    def show_help(self):
        for number, option in enumerate(OPTIONS, 1):
            self.say("  %d  %-8s %s" % (number, option, EXPLANATIONS[option]))
        self.say("The beginning of an option or item is enough, or its number in the list shown.")
        self.say("\"buy sword\" and \"sell sword\" ask nothing; \"%s\" leaves a question." % BACK)
        if self.terminal.can_edit:
            self.say("Tab completes, the arrow keys bring back earlier lines.")
        self.say("Ctrl-C or Ctrl-D leaves the game.")
