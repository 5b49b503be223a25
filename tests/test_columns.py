# -*- coding: utf-8 -*-
"""columns.py: what a terminal shows, how wide it is, and where it is cut."""
from __future__ import unicode_literals

import pytest

from columns import columns, escape_unseen, fit, graphemes, shorten, wrap
from text import escape

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
RAINBOW = "\U0001f3f3\ufe0f\u200d\U0001f308"
BURNING_HEART = "\u2764\ufe0f\u200d\U0001f525"
DETECTIVE = "\U0001f575\U0001f3fd\u200d\u2642\ufe0f"
COUPLE = "\U0001f9d1\U0001f3fd\u200d\U0001f91d\u200d\U0001f9d1\U0001f3ff"
KEYCAP = "1\ufe0f\u20e3"
THUMB = "\U0001f44d\U0001f3fd"
FLAG = "\U0001f1e9\U0001f1ea"
HEART = "\u2764\ufe0f"
JAMO = "\u1112\u1161\u11ab"
EMOJI = [FAMILY, RAINBOW, BURNING_HEART, DETECTIVE, COUPLE, KEYCAP, THUMB, FLAG, HEART]


# --- what is shown ------------------------------------------------------------------------------

@pytest.mark.parametrize("shown", EMOJI + [
    "\U0001f469\u200d\U0001f680", "\xa9\ufe0f", "#\ufe0f\u20e3", JAMO, "cafe\u0301",
    "\u0915\u094d\u200d\u0937", "\u0645\u06cc\u200c\u062e"])
def test_what_changes_the_picture_is_shown(shown):
    """The last two are a half form of Devanagari and a Persian prefix."""
    assert escape_unseen("a%sb" % shown) == "a%sb" % shown
    assert escape_unseen(shown) == shown


@pytest.mark.parametrize("hidden", [
    "bob\u200d", "\u200cbob", "b\u200cob", "b\u200d\u200cob", "\u0431\u200d\u043e\u0431",
    "bob\u200b", "^\u200d^", "\u5263\u200d\u5263",
    # joiners that are not between two emoji, both in their form as emoji
    "\xa9\u200d\xae", "\u2502\u200d\u2502", "\u2764\u200d\U0001f525", "\U0001f3c3\u200d\u2642",
    "\U0001f469\u200c\U0001f680", "\U0001f469\u200d", "\u200d\U0001f680",
    "\U0001f469\u200d\u200d\U0001f680", "a\ufe0f\u200d\U0001f680",
    "\U0001f600\ufe0f\u200d\U0001f680",
    # selectors that make no emoji of anything
    "a\ufe0f", "1\ufe0f", "\U0001f600\ufe0f", "\ufe0f", "\u261d\ufe0f\U0001f3fd", "a\ufe0f\u20e3",
    "\u2764\ufe0e", "\U0001f1e9\ufe0f\U0001f1ea", "\u2764\u0301\ufe0f",
    # letters that join anyway, or never; a virama without a letter
    "\u0628\u200d\u0628", "\u0627\u200c\u0628", "\u0628\u200cb", "\u0915\u094d\u200cb",
    "\u0915\u094d\u200d"])
def test_what_nobody_sees_is_escaped(hidden):
    assert escape_unseen(hidden) == escape(hidden) != hidden


def test_only_the_unseen_character_beside_a_picture_is_escaped():
    assert escape_unseen(HEART + "\ufe0f") == HEART + "\\ufe0f"
    assert escape_unseen(RAINBOW + "\ufe0f\u202e") == RAINBOW + "\\ufe0f\\u202e"


# --- widths -------------------------------------------------------------------------------------

@pytest.mark.parametrize("shown, width", [
    ("", 0), ("bow", 3), ("剣", 2), ("\u0301", 0), ("cafe\u0301", 4), ("\U0001f600", 2), ("ﾊﾝ", 2),
    ("Боб", 3), (JAMO, 2), ("\ud55c", 2), ("\u2764", 1), ("1\u20e3", 1),
    ("\u0645\u06cc\u200c\u062e", 3), ("\u0915\u094d\u200d\u0937", 2)] + [(one, 2) for one in EMOJI])
def test_columns_of_text(shown, width):
    assert columns(shown) == width
    assert columns("a%sb%s" % (shown, shown)) == 2 + 2 * width


@pytest.mark.parametrize("text, parts", [
    ("", []), ("ab", ["a", "b"]), ("cafe\u0301s", ["c", "a", "f", "e\u0301", "s"]),
    (FLAG + FLAG + FLAG[0], [FLAG, FLAG, FLAG[0]]), ("".join(EMOJI), EMOJI), (JAMO * 2, [JAMO] * 2),
    ("\u0301a", ["\u0301", "a"]), (" \u0301", [" \u0301"]),
    ("\u0915\u094d\u200d\u0937", ["\u0915\u094d\u200d", "\u0937"])])
def test_graphemes_are_what_is_seen_as_one_character(text, parts):
    assert list(graphemes(text)) == parts


@pytest.mark.parametrize("whole, width, shortened", [
    ("potion", 6, "potion"), ("potions", 6, "pot..."), ("potion", 3, "..."), ("potion", 1, "."),
    ("potion", -1, ""), ("剣剣剣剣", 7, "剣剣..."), ("剣剣剣剣", 8, "剣剣剣剣"), ("", 0, ""),
    ("\U0001f600" * 9, 6, "\U0001f600..."), ("e\u0301" * 9, 6, "e\u0301" * 3 + "..."),
    ("\u0301" * 60000 + "x" * 30, 24, "\u0301" * 60000 + "x" * 21 + "..."),
    ("x" * 60000, 24, "x" * 21 + "...")],
    ids=["fits", "ascii", "dots", "narrow", "no-room", "wide", "wide-fits", "empty", "emoji",
         "marks", "many-marks", "long"])
def test_text_is_shortened_to_a_width(whole, width, shortened):
    assert shorten(whole, width) == shortened


@pytest.mark.parametrize("one", EMOJI)
def test_no_emoji_is_cut_in_two(one):
    assert shorten(one * 5, 8) == one * 2 + "..."
    assert wrap("a %s %s" % (one * 3, one), 8) == ["a " + one * 3, one]


@pytest.mark.parametrize("whole, indent, lines", [
    ("", 0, [""]), ("  bow   25", 0, ["  bow   25"]), ("x" * 80, 0, ["x" * 80]),
    ("x" * 40 + " " + "y" * 39, 3, ["x" * 40 + " " + "y" * 39]),
    ("x" * 40 + " " + "y" * 40, 3, ["x" * 40, "   " + "y" * 40]),
    ("剣" * 20 + " " + "剣" * 20 + " bow", 0, ["剣" * 20, "剣" * 20 + " bow"]),
    ("x" * 40 + " " + "y" * 80, 0, ["x" * 40, "y" * 80]),
    ("x" * 40 + " " + "y" * 78, 3, ["x" * 40, "  " + "y" * 78]),
    ("  " + "x" * 80 + " bow", 0, ["x" * 80, "bow"]),
    ("Items: %s, bow" % ("x" * 100), 7, ["Items: %s," % ("x" * 100), "       bow"]),
    ("x" * 79 + " \u0301y", 0, ["x" * 79 + " \u0301y"]),
    ("x" * 76 + ", 4 sell", 0, ["x" * 76 + ",", "4 sell"]), (" 4 sell", 0, [" 4 sell"]),
    ("x" * 76 + " 4 " + "y" * 79, 0, ["x" * 76 + " 4", "y" * 79])])
def test_long_lines_are_wrapped(whole, indent, lines):
    assert wrap(whole, 80, indent) == lines


@pytest.mark.parametrize("width", [1, 2, 5])
def test_text_is_wrapped_at_any_width(width):
    text = "Your items: a, bow"
    assert " ".join(wrap(text, width, 12)).split() == text.split()


@pytest.mark.parametrize("widths, room, fitted", [
    ([1, 6, 5, 16], 30, [1, 6, 5, 16]), ([1, 60, 5, 16], 32, [1, 10, 5, 16]),
    ([1, 60, 5, 16], 30, [1, 10, 5, 14]), ([1, 16, 5, 60], 30, [1, 14, 5, 10]),
    ([1, 60, 5, 16], 20, [1, 4, 5, 10]), ([1, 6, 5, 16], 12, [1, 3, 5, 3]),
    ([1, 6, 5, 16], -8, [1, 3, 5, 3]), ([1, 2, 5, 0], 3, [1, 2, 5, 0])])
def test_widest_column_of_a_table_gives_way_first(widths, room, fitted):
    assert fit(widths, "><><", room) == fitted


def test_table_without_text_stays_as_it_is():
    assert fit([5, 5], ">>", 3) == [5, 5]
