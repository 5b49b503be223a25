# -*- coding: utf-8 -*-
"""The client's cache: what a word means, and the sentences about the account."""
from __future__ import unicode_literals

import pytest

from cache import Cache, ambiguous


def cache(credits=100, items=(), catalog=(("potion", 99), ("Sword", 200), ("shield", 1))):
    return Cache({"account": {"nickname": "bob", "credits": credits, "items": list(items)},
                  "catalog": [{"name": name, "price": price} for name, price in catalog]})


@pytest.mark.parametrize("credits, sentence", [
    (0, "You have 0 credits."), (1, "You have 1 credit."), (2, "You have 2 credits.")])
def test_balance_has_a_singular(credits, sentence):
    assert cache(credits).balance() == sentence


def test_note_tells_what_is_missing():
    poor = cache(98, ["shield"])
    assert [poor.note("buy", name) for name in poor.tradable("buy")] == [
        "1 credit short", "102 credits short", "owned"]
    assert poor.note("sell", "shield") == "" and cache(99).note("buy", "potion") == "affordable"


def test_sale_tells_what_it_brought():
    assert cache().done("sell", "shield") == "Congratulations! You sold the shield for 1 credit."
    assert cache().done("sell", "Sword") == "Congratulations! You sold the Sword for 200 credits."
    assert cache().done("sell", "relic") == "Congratulations! You sold the relic."
    assert cache().done("buy", "Sword") == "Congratulations! You bought the Sword."


def test_word_means_a_tradable_item_or_one_that_will_be_refused():
    owner = cache(items=["shield"])
    assert owner.find("sell", "SH") == ["shield"]
    assert owner.find("sell", "s") == ["shield"]            # of what is owned, if that has any
    assert owner.find("sell", "po") == ["potion"]           # the server will say why not
    assert owner.find("buy", "s") == ["Sword", "shield"]
    assert owner.find("buy", "b", ["back"]) == ["back"]
    assert owner.find("buy", "x") == []
    assert cache(items=["relic"]).find("buy", "r") == ["relic"]     # one that left the catalog


def test_number_means_an_item_of_the_list_that_was_shown():
    owner = cache(items=["shield", "potion"])
    assert owner.find("sell", "2") == []
    assert owner.number("sell") == ["shield", "potion"]
    owner.account["items"].remove("shield")                 # the list stays as it was shown
    assert owner.find("sell", "2") == ["potion"]
    assert owner.find("buy", "2") == []                     # another list
    assert owner.unknown_item("sell", "3") == "There is no number 3 in the list."
    assert owner.unknown_item("buy", "3") == "There is no \"3\" in the catalog."
    assert owner.unknown_item("sell", "x") == "You do not own \"x\"."


def test_name_alone_is_found_in_any_case():
    owner = cache(items=["relic"])
    assert owner.item_named("sWORD") == "Sword"
    assert owner.item_named("RELIC") == "relic"
    assert owner.item_named("swor") is None and owner.item_named("") is None


def test_ambiguous_word():
    assert ambiguous("s", ["a", "b", "c"]) == "\"s\" may be a, b or c."
