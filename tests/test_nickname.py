# -*- coding: utf-8 -*-
"""display.py: how a nickname is shown, so that no two look the same."""
from __future__ import unicode_literals

import io
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from columns import columns, graphemes
from constants import NICKNAME_COLUMNS
from terminal import Terminal

ASTRONAUT = "\U0001f469\u200d\U0001f680"


def open_terminal(encoding):
    """Return a Terminal whose standard input and output are no terminals."""
    standard_files = sys.stdin, sys.stdout
    try:
        sys.stdin = io.open(os.devnull, encoding=encoding)
        sys.stdout = io.open(os.devnull, "w", encoding=encoding)
        return Terminal()
    finally:
        sys.stdin, sys.stdout = standard_files


@pytest.fixture(scope="module")
def terminal():
    return open_terminal("utf-8")


@pytest.mark.parametrize("nickname", [
    "bob", "a b", "剣", 'bob "the axe"', "back\\slash", "\\u200b", "'", ASTRONAUT, "\u2764\ufe0f"])
def test_usual_nickname_is_shown_as_it_is(terminal, nickname):
    assert terminal.name(nickname) == nickname


@pytest.mark.parametrize("nickname, shown", [
    (" bob", '" bob"'), ("bob ", '"bob "'), ("bob\u3000", '"bob\\u3000"'), ('"bob"', r'"\"bob\""'),
    ("bob\u200d", '"bob\\u200d"'), ("a\tb", '"a\\u0009b"'), ("\\\u200b", '"\\\\\\u200b"'),
    ('a"\u200b', '"a\\"\\u200b"'), ("\u2764\ufe0e", '"\u2764\\ufe0e"'), ("\x1c", '"\\u001c"'),
    (ASTRONAUT + " ", '"%s "' % ASTRONAUT), ("\u2800", '"\\u2800"'), ('"', '"\\""')])
def test_nickname_that_may_mislead_is_in_quotation_marks(terminal, nickname, shown):
    assert terminal.name(nickname) == shown


def test_nickname_that_cannot_be_encoded_is_in_quotation_marks():
    assert open_terminal("ascii").name("Боб") == '"\\u0411\\u043e\\u0431"'


@pytest.mark.parametrize("nickname, width, shown", [
    ("bob", 3, "bob"), ("barbara", 6, "bar..."), (" bob", 6, '" bob"'), (" barbara", 8, '" ba..."'),
    (" bob", 2, '""'), ("bob", 1, ".")])
def test_shortened_nickname_keeps_its_quotation_marks(terminal, nickname, width, shown):
    assert terminal.name(nickname, width) == shown


def test_nickname_in_a_question_leaves_room_to_type(terminal):
    shown = terminal.short_name(" " + "剣" * 200)
    assert NICKNAME_COLUMNS - 1 <= columns(shown) <= NICKNAME_COLUMNS


# Texts of few different characters, so that two of them often look alike.
VISIBLE = st.lists(st.sampled_from(
    "a 1 \" \\ \\u200d \u2764 \u2642 \u261d \u20e3 \U0001f469 \U0001f680 \U0001f3c3 \U0001f525 "
    "\U0001f3fd \U0001f1e9 \U0001f1ea".split() + [" "]), max_size=4)
UNSEEN = st.lists(st.sampled_from(["", "\u200d", "\ufe0f", "\u200c", "\ufe0e", "\ufe0f\u200d"]),
                  min_size=5, max_size=5)


def interleaved(visible, unseen):
    return unseen[0] + "".join(one + other for one, other in zip(visible, unseen[1:]))


def picture(shown):
    """Return what a player sees of a shown text: visible characters, and their columns."""
    return [(grapheme.replace("\u200d", "").replace("\ufe0f", ""), columns(grapheme))
            for grapheme in graphemes(shown)]


@settings(max_examples=1000, deadline=None)
@given(visible=VISIBLE, unseen=UNSEEN, other_unseen=UNSEEN)
def test_nicknames_that_differ_in_unseen_characters_are_told_apart(
        terminal, visible, unseen, other_unseen):
    one, other = interleaved(visible, unseen), interleaved(visible, other_unseen)
    if one != other:
        assert picture(terminal.name(one)) != picture(terminal.name(other))


@settings(max_examples=1000, deadline=None)
@given(one=st.text(st.sampled_from('"\\u2d0 \u200d\ufe0fa\U000e0001\n'), max_size=8),
       other=st.text(st.sampled_from('"\\u2d0 \u200d\ufe0fa\U000e0001\n'), max_size=8))
def test_different_nicknames_are_shown_differently(terminal, one, other):
    assert (terminal.name(one) == terminal.name(other)) == (one == other)
