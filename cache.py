# -*- coding: utf-8 -*-
"""The client's cache: the account and the catalog that the server has told, and how they read."""
from __future__ import unicode_literals

from collections import OrderedDict

from text import counted, find


class Cache(object):
    """What a login has handed over, kept up to date by the results of trades.

    `verb` is a trade, "buy" or "sell", everywhere.
    """

    def __init__(self, login):
        """Keep the result of `Client.login`."""
        self.account = login["account"]
        self.prices = OrderedDict((item["name"], item["price"]) for item in login["catalog"])
        self.listed = {}                # names in the order listed last, by verb

    # --- what a word means --------------------------------------------------------------------

    def tradable(self, verb):
        """Return the names of the items that can be bought, or that can be sold."""
        return list(self.account["items"] if verb == "sell" else self.prices)

    def number(self, verb):
        """Return the names of `tradable` for a list; from now on a number means one of them."""
        self.listed[verb] = self.tradable(verb)
        return self.listed[verb]

    def find(self, verb, word, others=()):
        """Return the names that a word may mean, or else those of items that will be refused."""
        names = self.tradable(verb) + list(others)
        return find(word, names, self.listed.get(verb, ())) \
            or find(word, self.tradable("sell" if verb == "buy" else "buy"))

    def item_named(self, word):
        """Return the item whose whole name, in any case, is the word; None if there is none."""
        return next((name for name in list(self.prices) + self.account["items"]
                     if name.lower() == word.lower()), None)

    # --- sentences ----------------------------------------------------------------------------

    def balance(self):
        return "You have %s." % counted(self.account["credits"], "credit")

    def items(self):
        items = self.account["items"]
        return "Your items: %s." % ", ".join(items) if items else "You have no items."

    def done(self, verb, item):
        """Return the congratulation on a trade."""
        if verb == "buy":
            return "Congratulations! You bought the %s." % item
        if item not in self.prices:                     # an owned item may have left the catalog
            return "Congratulations! You sold the %s." % item
        return "Congratulations! You sold the %s for %s." % (
            item, counted(self.prices[item], "credit"))

    def note(self, verb, item):
        """Return what the list of items says about one beside its price."""
        missing = self.prices.get(item, 0) - self.account["credits"]
        if verb == "sell":
            return ""
        if item in self.account["items"]:
            return "owned"
        return "%s short" % counted(missing, "credit") if missing > 0 else "affordable"

    def unknown_item(self, verb, word):
        """Return that a word means no item; `word` is short enough to be shown."""
        if verb in self.listed and word.isdigit():
            return "There is no number %s in the list." % word
        return ("You do not own \"%s\"." if verb == "sell"
                else "There is no \"%s\" in the catalog.") % word


def ambiguous(word, matches):
    """Return that a word may mean several names; `word` is short enough to be shown."""
    return "\"%s\" may be %s or %s." % (word, ", ".join(matches[:-1]), matches[-1])


def unknown_outcome(verb):
    """Return what a player has to know of a trade whose answer never came."""
    return "The %s may or may not have gone through; your next login will show." \
        % ("purchase" if verb == "buy" else "sale")
