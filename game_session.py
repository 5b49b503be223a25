# -*- coding: utf-8 -*-
"""A game session: what the lines of a player who is logged in do."""
from __future__ import unicode_literals

import functools

from cache import Cache, ambiguous, unknown_outcome
from constants import BACK, EXIT_WORDS, HELP_WORDS, OPTIONS, TRADES, WORD_COLUMNS
from display import FAINT, GREEN, PLAIN, call_server
from keyfile import KeyFileError
from protocol import RpcError, ServerGone
from text import find

# What `help` says of each option, and what `help OPTION` adds.
HELP = {
    "balance": ("show your credits", ""),
    "items": ("show what you own", ""),
    "buy": ("show the catalog, and choose an item to buy",
            "\"buy sword\" buys the sword at once. What you already own cannot be bought again."),
    "sell": ("show what you own, and choose an item to sell for its full price",
             "\"sell sword\" sells the sword at once."),
    "logout": ("free your nickname for others, and go back to the question for one", ""),
    "protect": ("make a key, without which nobody can play your account",
                "This client keeps the key in a file of yours, and sends it by itself. \"protect\" "
                "again makes another key in its place.")}


def find_options(words):
    """Return the options that the words of a line may mean; only trades and help take a second."""
    if words[1:]:
        return find(words[0], TRADES + HELP_WORDS)
    if words[0].lower() in EXIT_WORDS:
        return [words[0].lower()]
    return find(words[0], OPTIONS + HELP_WORDS, OPTIONS)


class SessionLost(Exception):
    """The server is lost, and with it the answer to a request; its arguments are sentences."""


class GameSession(object):
    """The options and trades of a player who is logged in.

    `handle_line` raises RpcError if the server has lost the login, and ServerGone or SessionLost if
    the server is lost.
    """

    def __init__(self, login, result, terminal):
        self.login = login
        self.cache = Cache(result)
        self.terminal = terminal
        self.say, self.say_error = terminal.say, terminal.say_error
        self.call_server = functools.partial(call_server, terminal)
        self.options = {"balance": self.show_balance, "items": self.show_items,
                        "buy": functools.partial(self.start_trade, "buy"),
                        "sell": functools.partial(self.start_trade, "sell"),
                        "logout": self.log_out, "protect": self.protect}
        self.options.update((word, self.show_help) for word in HELP_WORDS)
        self.options.update((word, functools.partial(self.explain_exit, word))
                            for word in EXIT_WORDS)
        self.open_trade = None          # "buy" or "sell" at the question for its item
        self.lists_options = True       # an unknown option is followed by the list of options
        self.is_over = False            # the player has logged out

    def greet(self, is_new):
        """Show the account and the options."""
        welcome = "Welcome to Lavka" if is_new else "Welcome back"
        self.say("%s, %s!" % (welcome, self.terminal.name(self.cache.account["nickname"])), GREEN)
        if is_new:
            self.say("This is a new account. \"logout\" goes back to the nickname; Ctrl-D leaves.")
        self.say("  credits  %d" % self.cache.account["credits"])
        self.say("  items    %s" % (", ".join(self.cache.account["items"]) or "none"), indent=11)
        self.show_options()

    def handle_line(self):
        """Ask for the next line, and do what it says."""
        if self.open_trade:
            self.choose_item(self.open_trade)
        else:
            self.choose_option()

    # --- options ------------------------------------------------------------------------------

    def choose_option(self):
        """Ask for an option, and carry it out."""
        account = self.cache.account
        question = "%s %d> " % (self.terminal.short_name(account["nickname"]), account["credits"])
        self.run_option(self.terminal.ask(question, self.complete_option))

    def run_option(self, line):
        """Carry out the option in a line."""
        self.call_server(self.login.client.ping)    # any line, an empty one, too, detects its loss
        words = line.strip().split(None, 1)
        if not words:
            return
        matches = find_options(words)
        if len(matches) == 1:
            self.lists_options = True
            self.options[matches[0]](*words[1:])
        else:
            self.reject_option(line.strip(), matches)

    def reject_option(self, line, matches):
        """Say that a line is no option, or may be several; list the options, but not twice."""
        shown = self.terminal.shorten(line, WORD_COLUMNS)
        item = self.cache.item_named(line)
        if matches:
            self.say_error(ambiguous(shown, matches))
        elif item:
            verb = "sell" if item in self.cache.account["items"] else "buy"
            self.say_error("There is no option \"%s\"." % shown,
                           "To %s the %s, type \"%s %s\"." % (verb, item, verb, item))
        else:
            self.say_error("There is no option \"%s\"." % shown)
            if self.lists_options:
                self.show_options()
            self.lists_options = False

    def complete_option(self, line):
        """Complete an option, or the item after a trade; a completer of `Terminal.ask`."""
        option, space, item = line.lstrip().partition(" ")
        if not space:
            return option, [name + " " if name in TRADES else name
                            for name in OPTIONS + HELP_WORDS[:1]]
        matches = find_options([option, item])
        if len(matches) != 1:
            return item.lstrip(), []
        return item.lstrip(), self.cache.tradable(matches[0]) if matches[0] in TRADES else OPTIONS

    def log_out(self):
        self.call_server(self.login.client.logout)
        self.say("Goodbye, %s." % self.terminal.name(self.cache.account["nickname"]))
        self.is_over = True

    def protect(self):
        """Protect the account with a new key, and tell the player what that means."""
        had_key = self.login.key is not None
        try:
            self.call_server(self.login.protect)
        except KeyFileError as problem:
            self.say_error("%s" % problem)
        except RpcError as refusal:
            self.login.tell_file_problem(self.terminal)
            self.say_refusal(refusal, "This server is older than keys: it cannot protect an "
                             "account." if refusal.reason == "method_not_found" else None)
        except ServerGone as gone:
            raise SessionLost(gone.message, "It may or may not have taken the new key. That is in "
                              "%s, and your next login uses it by itself. Then protect again, to "
                              "be sure." % self.login.key_file.name)
        else:
            self.explain_key(had_key)

    def explain_key(self, had_key):
        """Tell the player where the new key is, and what to do with it."""
        self.say("Only your key opens this account now. It is in %s." % self.login.key_file.name,
                 GREEN)
        if had_key:
            self.say("Earlier keys open nothing any more: your other computers need this one.")
        self.say("This client sends it by itself. On another computer, type the key when it is "
                 "asked for, or copy the file to the same place, if there is none yet.")
        self.say("Keep a copy of the file. If the key is lost, whoever runs the server can help.")

    def explain_exit(self, word):
        self.say_error("There is no %s option: press Ctrl-D to leave." % word)

    # --- trades -------------------------------------------------------------------------------

    def start_trade(self, verb, word=None):
        """Trade the item that a word means; without one, list the items and ask for one."""
        if verb == "sell" and not self.cache.account["items"]:
            self.say_error("You have nothing to sell.")
        elif word and (verb in self.cache.listed or not word.isdigit()):    # numbers need a list
            self.trade_or_reject(verb, word, self.cache.find(verb, word))
        else:
            self.list_items(verb)
            self.open_trade = verb

    def choose_item(self, verb):
        """Ask for the item of a trade; the line may also be `back`, or an option in full."""
        names = self.cache.tradable(verb) + [BACK]
        line = self.terminal.ask("What would you like to %s? (or %s) " % (verb, BACK),
                                 lambda line: (line.lstrip(), names)).strip()
        matches = self.cache.find(verb, line, [BACK]) if line else []
        if self.is_option(line) and line.lower() not in [name.lower() for name in matches]:
            self.run_option_at_question(line)
        elif len(matches) == 1 and matches != [BACK]:
            self.request_trade(verb, matches[0])
        else:
            self.call_server(self.login.client.ping)
            if matches == [BACK]:
                self.open_trade = None
            elif line:
                self.trade_or_reject(verb, line, matches)

    def is_option(self, line):
        """Return whether a line at the question for an item is an option, written in full."""
        words = line.lower().split(None, 1)
        return bool(words) and words[0] in (TRADES + HELP_WORDS if words[1:] else self.options)

    def run_option_at_question(self, line):
        """Carry out an option; the question goes on after help, and after an exit word."""
        words = line.split(None, 1)
        if words[0].lower() in HELP_WORDS:
            self.call_server(self.login.client.ping)
            self.explain_question(*words[1:])
        else:
            if line.lower() not in EXIT_WORDS:
                self.open_trade = None
            self.run_option(line)

    def trade_or_reject(self, verb, word, matches):
        """Trade the only item of the matches; without one, say what is wrong with the word."""
        shown = self.terminal.shorten(word, WORD_COLUMNS)
        if len(matches) == 1:
            self.request_trade(verb, matches[0])
        elif matches:
            self.say_error(ambiguous(shown, matches))
        else:
            self.say_error(self.cache.unknown_item(verb, shown))

    def request_trade(self, verb, item):
        """Let the server trade. If it refuses, the question stays open, if there is one."""
        try:
            self.cache.account = self.call_server(getattr(self.login.client, verb), item)
        except RpcError as refusal:
            self.say_refusal(refusal)
        except ServerGone as gone:
            raise SessionLost(gone.message, unknown_outcome(verb))
        else:
            self.open_trade = None
            self.say(self.cache.done(verb, item), GREEN)
            self.show_balance()

    def say_refusal(self, refusal, sentence=None):
        """Print why the server refuses; raise the refusal if the server has lost the login."""
        if refusal.reason == "not_logged_in":
            raise refusal
        self.say_error(sentence or refusal.message)

    # --- what the player sees -----------------------------------------------------------------

    def show_balance(self):
        self.say(self.cache.balance())

    def show_items(self):
        self.say(self.cache.items(), indent=len("Your items: "))

    def list_items(self, verb):
        """Print a table of the items that can be traded, with their numbers."""
        rows = [(("#", "item", "price", ""), FAINT)]
        for number, name in enumerate(self.cache.number(verb), 1):
            price = self.cache.prices.get(name, "-")    # an owned item may have left the catalog
            note = self.cache.note(verb, name)
            rows.append((("%d" % number, name, "%s" % price, note),
                         PLAIN if note in ("", "affordable") else FAINT))
        self.terminal.show_table("><><", rows)

    def show_options(self):
        self.say("Options: %s." % ", ".join("%d %s" % pair for pair in enumerate(OPTIONS, 1)))
        self.say("Type ? for help; Ctrl-C or Ctrl-D leaves the game.", FAINT)

    def show_help(self, word=None):
        """Explain the options, or the one that a word means."""
        if word is None:
            self.explain_options()
            return
        matches = find(word, OPTIONS, OPTIONS)
        if len(matches) == 1:
            self.explain_option(matches[0])
        else:
            self.reject_option(word, matches)

    def explain_options(self):
        """Explain all options, and what may be typed."""
        for number, option in enumerate(OPTIONS, 1):
            self.say("  %d  %-8s %s" % (number, option, HELP[option][0]), indent=14)
        self.say("The beginning of an option or item is enough, or its number in the list shown.")
        self.say("\"buy sword\" and \"sell sword\" ask nothing; \"help buy\" explains \"buy\".")
        if self.terminal.can_edit:
            self.say("Tab completes; the arrow keys bring back earlier lines.")
        self.say("Ctrl-C or Ctrl-D leaves the game.")

    def explain_option(self, option):
        """Explain one option."""
        does, more = HELP[option]
        self.say("%s: %s." % (option, does), indent=len(option) + 2)
        if more:
            self.say(more)

    def explain_question(self, word=""):
        """Explain the option that a word means, or else the question for an item.

        Options have no numbers there: they would be taken for those of items.
        """
        matches = find(word, OPTIONS) if word else []
        if len(matches) == 1:
            self.explain_option(matches[0])
            return
        self.say("Type the name of an item, its beginning, or its number in the list.")
        self.say("\"%s\" leads back to the options. So does an option in full, such as \"balance\"."
                 % BACK)
