# -*- coding: utf-8 -*-
"""Replaying the ledger: `find_differences` as a function of rows, without a database."""
from __future__ import unicode_literals

import pytest

import ledger
from sqlite_file import BrokenText

TIME = 1767323045


def account(id, nickname, credits, items=""):
    """Return the row of an account, as `ledger.ACCOUNTS` selects it."""
    return id, nickname, items, credits


def change(account_id, id, kind, item, price, credits, time=TIME):
    """Return a row of the ledger, as `ledger.CHANGES` selects it."""
    return account_id, id, kind, item, price, credits, time


def is_account(row):
    return len(row) == 4


def problems(*rows):
    """Return the problems of all accounts in one list, given the rows of both tables."""
    accounts = [row for row in rows if is_account(row)]
    changes = [row for row in rows if not is_account(row)]
    return [problem for found in ledger.find_differences(accounts, changes) for problem in found]


# Ann has bought a sword and a potion and sold the sword.
ANN = account(1, "ann", 475, "potion")
OPENING = change(1, 1, "opening", "", 0, 500)
SWORD = change(1, 2, "purchase", "sword", 200, 300)
POTION = change(1, 3, "purchase", "potion", 25, 275)
SALE = change(1, 4, "sale", "sword", 200, 475)


def replaced(row, **columns):
    """Return the row with other values in some columns."""
    names = (("id", "nickname", "items", "credits") if is_account(row) else
             ("account_id", "id", "kind", "item", "price", "credits", "time"))
    return tuple(columns.get(name, value) for name, value in zip(names, row))


# --- histories without a problem ------------------------------------------------------------------

def test_empty_database_has_no_accounts():
    assert list(ledger.find_differences([], [])) == []


def test_opening_gives_credits_and_items():
    assert problems(account(1, "ann", 500), OPENING) == []
    assert problems(account(1, "ann", 240, "torch,sword"),
                    change(1, 1, "opening", "torch,sword", 0, 240)) == []


def test_purchase_takes_price_and_appends_item():
    assert problems(account(1, "ann", 275, "sword,potion"), OPENING, SWORD, POTION) == []


def test_sale_returns_price_and_removes_item():
    assert problems(ANN, OPENING, SWORD, POTION, SALE) == []


def test_item_that_was_sold_can_be_bought_again():
    assert problems(account(1, "ann", 275, "potion,sword"), OPENING, SWORD, POTION, SALE,
                    change(1, 5, "purchase", "sword", 200, 275)) == []


@pytest.mark.parametrize("price", [100, -475])
def test_grant_adds_credits(price):
    assert problems(account(1, "ann", 475 + price, "potion"), OPENING, SWORD, POTION, SALE,
                    change(1, 5, "grant", "", price, 475 + price)) == []


def test_gift_appends_item_whatever_the_catalog_has_now():
    gift = change(1, 5, "gift", "no longer sold", 0, 475)
    assert problems(account(1, "ann", 475, "potion,no longer sold"), OPENING, SWORD, POTION, SALE,
                    gift) == []
    assert problems(account(1, "ann", 475, "potion,potion"), OPENING, SWORD, POTION, SALE,
                    replaced(gift, item="potion")) == [
        'account "ann": row 5 of the ledger gives "potion", which was owned']
    for wrong in (replaced(gift, item=""), replaced(gift, price=5)):
        assert problems(ANN, OPENING, SWORD, POTION, SALE, wrong) == [
            'account "ann": row 5 of the ledger is none that the shop writes']


def test_rows_are_read_lazily_and_each_account_gets_a_list():
    """A ledger of any length takes constant memory."""
    taken = []

    def rows():
        for row in (OPENING, change(2, 5, "opening", "", 0, 0), change(3, 6, "opening", "", 0, 0)):
            taken.append(row)
            yield row

    results = ledger.find_differences(iter([ANN, account(2, "bob", 0)]), rows())
    assert len(next(results)) == 2              # credits and items
    assert len(taken) == 2                      # up to the next account
    assert next(results) == []
    assert next(results) == ["row 6 of the ledger is of account 3, which is not there"]
    assert next(results, None) is None


# --- every kind of problem ------------------------------------------------------------------------

@pytest.mark.parametrize("rows, expected", [
    ([replaced(ANN, credits=999), OPENING, SWORD, POTION, SALE],
     ["it has 999 credits, by the ledger it should have 475"]),
    ([replaced(ANN, items="horse"), OPENING, SWORD, POTION, SALE],
     ['its items are "horse", by the ledger they should be "potion"']),
    ([account(1, "ann", 275, "potion,sword"), OPENING, SWORD, POTION],
     ['its items are "potion,sword", by the ledger they should be "sword,potion"']),
    ([account(1, "ann", 7)],
     ["it has no opening in the ledger"]),
    ([account(1, "ann", 300, "sword"), SWORD],
     ["row 2 of the ledger is no opening",
      "row 2 of the ledger should have -200 credits, it has 300"]),
    ([account(1, "ann", 500), OPENING, change(1, 2, "opening", "", 0, 500)],
     ["row 2 of the ledger is another opening"]),
    ([ANN, OPENING, POTION, replaced(SALE, credits=675)],
     ["row 3 of the ledger should have 475 credits, it has 275",
      'row 4 of the ledger sells "sword", which was not owned',
      "row 4 of the ledger should have 475 credits, it has 675",
      "it has 475 credits, by the ledger it should have 675"]),
    ([account(1, "ann", 450, "potion,potion"), OPENING, change(1, 2, "purchase", "potion", 25, 475),
      change(1, 3, "purchase", "potion", 25, 450)],
     ['row 3 of the ledger buys "potion", which was owned']),
    ([account(1, "ann", 501), OPENING, change(1, 2, "grant", "", 5, 501)],
     ["row 2 of the ledger should have 505 credits, it has 501"])])
def test_problem_names_row_and_figures(rows, expected):
    assert problems(*rows) == ['account "ann": ' + problem for problem in expected]


@pytest.mark.parametrize("nickname", ["", b"\xff", None, 7])
def test_nickname_that_is_no_text_is_a_problem(nickname):
    problem, = problems(account(1, nickname, 500), OPENING)
    assert problem.startswith("account ") and problem.endswith(": its nickname is no text")


@pytest.mark.parametrize("columns", [
    {"price": 0}, {"price": -200}, {"price": "x"}, {"price": 200.5}, {"price": None},
    {"item": ""}, {"item": b"\x00"}, {"item": None}, {"item": 1},
    {"kind": "gift"}, {"kind": b"\xff"}, {"kind": None}, {"kind": "grant"}, {"kind": "opening"},
    {"credits": -1}, {"credits": "300"}, {"credits": 300.0},
    {"time": "yesterday"}, {"time": None}, {"time": 1.5},
    # Equal to what the shop writes, but of another type.
    {"price": 200.0}, {"time": float(TIME)}, {"item": BrokenText("sword")},
    {"kind": BrokenText("purchase")}])
def test_row_that_the_shop_never_writes_is_a_problem(columns):
    found = problems(ANN, OPENING, replaced(SWORD, **columns))
    assert found[0] == 'account "ann": row 2 of the ledger is none that the shop writes'


@pytest.mark.parametrize("wrong", [
    change(1, 5, "purchase", "bow", 0, 475), change(1, 5, "purchase", "bow", -5, 480),
    change(1, 5, "purchase", "bow", 500, -25), change(1, 5, "purchase", "", 5, 470),
    change(1, 5, "sale", "potion", 0, 475), change(1, 5, "sale", "potion", -5, 470)])
def test_row_that_the_shop_never_writes_is_a_problem_where_the_credits_add_up(wrong):
    assert problems(ANN, OPENING, SWORD, POTION, SALE, wrong) == [
        'account "ann": row 5 of the ledger is none that the shop writes']


def test_rows_after_an_opening_that_the_shop_never_writes_have_none():
    found = problems(ANN, replaced(OPENING, price=1), SWORD, POTION, SALE)
    assert found == ['account "ann": ' + problem for problem in [
        "row 1 of the ledger is none that the shop writes", "row 2 of the ledger is no opening",
        "row 2 of the ledger should have -200 credits, it has 300"]]


@pytest.mark.parametrize("wrong, problem", [
    (change(1, 5, "sale", "bow", 5, 480), 'row 5 of the ledger sells "bow", which was not owned'),
    (change(1, 5, "sale", "potion", 25, 480),
     "row 5 of the ledger should have 500 credits, it has 480"),
    (change(1, 5, "purchase", "potion", 25, 450),
     'row 5 of the ledger buys "potion", which was owned'),
    (change(1, 5, "purchase", "bow", 25, 470),
     "row 5 of the ledger should have 450 credits, it has 470")])
def test_trade_with_one_problem_has_no_other(wrong, problem):
    found = problems(ANN, OPENING, SWORD, POTION, SALE, wrong)
    assert found[0] == 'account "ann": ' + problem and "row " not in "".join(found[1:])


@pytest.mark.parametrize("credits, shown", [
    ("many", '"many"'), ("\x1b[31mred", '"\\u001b[31mred"'), (None, "None"), (475.0, "475.0"),
    ("475", '"475"')])
def test_credits_that_are_no_number_are_a_problem_shown_escaped(credits, shown):
    assert problems(replaced(ANN, credits=credits), OPENING, SWORD, POTION, SALE) == [
        'account "ann": it has %s credits, by the ledger it should have 475' % shown]


def test_items_that_are_no_text_are_a_problem():
    problem, = problems(replaced(ANN, items=b"potion"), OPENING, SWORD, POTION, SALE)
    assert problem.startswith('account "ann": its items are ')
    assert problem.endswith(', by the ledger they should be "potion"')


# As SQLite sorts them; PostgreSQL has whole numbers only.
IDS = [None, -1.5, 0, 1, 1.5, 7, "w", "x", b"\xfe", b"\xff"]
SHOWN = ["None", "-1.5", "0", "1", "1.5", "7", '"w"', '"x"', "%r" % b"\xfe", "%r" % b"\xff"]


@pytest.mark.parametrize("place", range(len(IDS)))
def test_ledger_of_no_account_is_a_problem_for_each_row(place):
    """Wherever its rows are; the account between them is without a problem."""
    expected = [["row 5 of the ledger is of account %s, which is not there" % shown,
                 "row 6 of the ledger is of account %s, which is not there" % shown]
                for shown in SHOWN]
    changes = [change(id, row, "opening", "", 0, 0) for id in IDS for row in (5, 6)]
    assert list(ledger.find_differences([], changes)) == expected
    changes[2 * place:2 * place + 2] = [change(IDS[place], 5, "opening", "", 0, 0)]
    expected[place] = []
    assert list(ledger.find_differences([account(IDS[place], "ann", 0)], changes)) == expected
    del changes[2 * place]
    expected[place] = ['account "ann": it has no opening in the ledger']
    assert list(ledger.find_differences([account(IDS[place], "ann", 0)], changes)) == expected


def test_account_without_a_ledger_between_others_leaves_them_their_rows():
    eve = account(2, "eve", 7)
    bob = account(3, "bob", 0), change(3, 5, "opening", "", 0, 0)
    assert problems(account(1, "ann", 500), OPENING, eve, *bob) == [
        'account "eve": it has no opening in the ledger']


def test_row_of_another_account_is_a_problem_of_both():
    assert problems(ANN, OPENING, SWORD, POTION, account(2, "bob", 0),
                    change(2, 5, "opening", "", 0, 0), replaced(SALE, account_id=2)) == [
        'account "ann": it has 475 credits, by the ledger it should have 275',
        'account "ann": its items are "potion", by the ledger they should be "sword,potion"',
        'account "bob": row 4 of the ledger sells "sword", which was not owned',
        'account "bob": row 4 of the ledger should have 200 credits, it has 475',
        'account "bob": it has 0 credits, by the ledger it should have 475']


def test_wrong_credits_of_one_row_are_one_problem():
    """The replay goes on from what the row has, so that the rows after it are no problems."""
    assert problems(ANN, OPENING, replaced(SWORD, price=1), POTION, SALE) == [
        'account "ann": row 2 of the ledger should have 499 credits, it has 300']
