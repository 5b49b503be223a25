# -*- coding: utf-8 -*-
"""What constants.py promises to the other modules."""
from __future__ import unicode_literals

from constants import (BACK, CREDITS_RANGE, ITEMS, KEEPALIVE_IDLE_SECONDS,
                       KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES, LOGIN_SECONDS, OPTIONS,
                       STOP_SECONDS)


def test_items_can_be_stored_joined_by_commas_and_typed_in_any_case():
    names = [name.lower() for name in ITEMS]
    assert len(set(names)) == len(names)
    for name in names:
        assert name and name == name.strip() and "," not in name
        assert name not in OPTIONS and name != BACK


def test_prices_are_positive_integers():
    assert all(type(price) is int and price > 0 for price in ITEMS.values())


def test_the_lowest_credits_buy_the_cheapest_item():
    low, high = CREDITS_RANGE
    assert min(ITEMS.values()) <= low <= high


def test_the_options_of_the_contract():
    assert OPTIONS[:5] == ("balance", "items", "buy", "sell", "logout")
    assert OPTIONS[5:] == ("protect",)


def test_the_time_limits_keep_the_contract():
    assert KEEPALIVE_IDLE_SECONDS + KEEPALIVE_INTERVAL_SECONDS * KEEPALIVE_PROBES < 30
    assert LOGIN_SECONDS <= 30
    assert STOP_SECONDS < 2
