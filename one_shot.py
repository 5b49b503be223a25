# -*- coding: utf-8 -*-
"""One option for a script: log in, carry it out, log out, print the outcome."""
from __future__ import unicode_literals

import json
import logging
from collections import OrderedDict

from cache import Cache, ambiguous, unknown_outcome
from constants import OPTIONS, TRADES, WORD_COLUMNS
from protocol import RpcError, ServerGone
from text import find

log = logging.getLogger("lavka.client")

SCRIPT_OPTIONS = ("balance", "items") + TRADES

# Exit statuses; argparse has 2 for wrong usage. NO_ANSWER also stands for one that was not printed.
DONE, REFUSED, NO_ANSWER = 0, 1, 3


class Failed(Exception):
    """The option was not carried out, or nobody knows; the text is sentences for people."""

    def __init__(self, status, *sentences):
        super(Failed, self).__init__(" ".join(sentences))
        self.status = status            # exit status


def chosen_option(word, item):
    """Return the option that a word of the command line means, with the console's short forms.

    `item` is the next word, or None. Raises ValueError, with a sentence, for wrong usage.
    """
    if item is None:
        matches = find(word, OPTIONS, OPTIONS) if word else []
    elif not item.strip():              # every name begins with it: a script's variable is unset
        raise ValueError("the ITEM is blank")
    else:
        matches = find(word, TRADES)
        if not matches and find(word, OPTIONS):
            raise ValueError("only buy and sell take an ITEM")
    if len(matches) > 1:
        raise ValueError(ambiguous(word, matches))
    if not matches or matches[0] not in SCRIPT_OPTIONS:
        raise ValueError("OPTION is %s or %s" % (
            ", ".join(SCRIPT_OPTIONS[:-1]), SCRIPT_OPTIONS[-1]))
    if item is None and matches[0] in TRADES:
        raise ValueError("%s needs an ITEM" % matches[0])
    return matches[0]


def run(option, word, login, advice, terminal, as_json):
    """Carry out an option with a Login that is not open yet; return the exit status.

    `word` means the item of a trade, and `advice` says what to do about a ServerGone, by its
    reason. With `as_json` the account is printed as one line of JSON, in place of sentences.
    """
    try:
        cache, sentences = carry_out(option, word, login, advice, terminal)
        if as_json:
            names = ("nickname", "credits", "items")
            lines = [json.dumps(OrderedDict((name, cache.account[name]) for name in names))]
        else:
            lines = news(login) + sentences
        print_lines(lines, terminal)
    except Failed as failure:
        tell(terminal, " ".join(news(login) + ["%s" % failure]))
        return failure.status
    finally:
        if login.file_problem:
            tell(terminal, login.file_problem)
    return DONE


def carry_out(option, word, login, advice, terminal):
    """Log in, carry out an option, log out; return (the cache, sentences to print).

    Raises Failed.
    """
    try:
        cache = Cache(login.open())
        sentences = []
        if option in TRADES:
            sentences.append(trade(option, word, login.client, cache, terminal))
        sentences.append(cache.items() if option == "items" else cache.balance())
        log_out(login.client)
        return cache, sentences
    except RpcError as refusal:
        if refusal.reason == "key_required" and not login.file_problem:
            raise Failed(REFUSED, refusal.message, "Its key is not in %s." % login.key_file.name)
        raise Failed(REFUSED, refusal.message)
    except ServerGone as gone:
        raise Failed(NO_ANSWER, gone.message, advice[gone.reason])
    finally:
        login.close()


def news(login):
    """Return a sentence about a new account, in a list: the nickname may have been mistyped."""
    return ["This is a new account."] if login.is_new else []


def trade(verb, word, client, cache, terminal):
    """Buy or sell the item that a word means; return the congratulation.

    Raises RpcError, and Failed.
    """
    matches = cache.find(verb, word.strip())
    if len(matches) != 1:
        shown = terminal.shorten(word, WORD_COLUMNS)
        raise Failed(REFUSED, ambiguous(shown, matches) if matches
                     else cache.unknown_item(verb, shown))
    try:
        cache.account = getattr(client, verb)(matches[0])
    except ServerGone as gone:
        raise Failed(NO_ANSWER, gone.message, unknown_outcome(verb))
    return cache.done(verb, matches[0])


def log_out(client):
    """Free the nickname before the script goes on."""
    try:
        client.logout()
    except (RpcError, ServerGone):                  # the end of the connection frees it, too
        pass


def print_lines(lines, terminal):
    """Print lines to standard output. Raises Failed."""
    try:
        for line in lines:
            terminal.write(terminal.escape(line) + "\n")
    except EnvironmentError as error:
        raise Failed(NO_ANSWER, "It is done, but the output cannot be written: %s."
                     % error.strerror)


def tell(terminal, text):
    """Write sentences to standard error."""
    log.error("%s", terminal.escape(text))
