# -*- coding: utf-8 -*-
"""A model of the shop in a few lines; the tests hold the real one against it."""
from __future__ import unicode_literals

from constants import ITEMS


class Model(object):
    """The rules of the contract. A call returns the reason of a refusal, or (credits, items)."""

    def __init__(self):
        self.accounts = {}      # nickname -> (credits, items)
        self.keys = {}          # nickname -> key, of protected accounts
        self.logins = {}        # client -> nickname
        self.is_broken = False  # whether changes cannot be stored

    def login(self, client, nickname, key=None):
        if client in self.logins:
            return "already_logged_in"
        if key != self.keys.get(nickname, key):
            return "wrong_key" if key else "key_required"
        if nickname in self.logins.values() and nickname not in self.keys:
            return "nickname_in_use"
        if nickname not in self.accounts and self.is_broken:
            return "storage_failed"
        self.logins = {other: name for other, name in self.logins.items() if name != nickname}
        self.logins[client] = nickname
        return self.accounts.get(nickname, "new")

    def protect(self, client, key):
        if client not in self.logins:
            return "not_logged_in"
        if self.is_broken:
            return "storage_failed"
        self.keys[self.logins[client]] = key
        return True

    def buy(self, client, item):
        credits, items = self.accounts.get(self.logins.get(client), (0, []))
        return ("not_logged_in" if client not in self.logins
                else "unknown_item" if item not in ITEMS
                else "item_already_owned" if item in items
                else "not_enough_credits" if credits < ITEMS[item]
                else self.change(client, credits - ITEMS[item], items + [item]))

    def sell(self, client, item):
        credits, items = self.accounts.get(self.logins.get(client), (0, []))
        return ("not_logged_in" if client not in self.logins
                else "item_not_owned" if item not in items
                else self.change(client, credits + ITEMS[item], [i for i in items if i != item]))

    def change(self, client, credits, items):
        if self.is_broken:
            return "storage_failed"
        self.accounts[self.logins[client]] = credits, items
        return credits, items

    def logout(self, client):
        return True if self.logins.pop(client, None) else "not_logged_in"
