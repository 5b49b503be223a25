# -*- coding: utf-8 -*-
"""text.py: which characters are escaped, how text is cut, and matching of words."""
from __future__ import unicode_literals

import sys
import unicodedata

import pytest

from constants import LOG_TEXT
from text import WHITE_SPACE, cut, escape, excerpt, find, find_by_prefix, quote, show

# Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt.
DEFAULT_IGNORABLE = [
    (0xad, 0xad), (0x34f, 0x34f), (0x61c, 0x61c), (0x115f, 0x1160), (0x17b4, 0x17b5),
    (0x180b, 0x180f), (0x200b, 0x200f), (0x202a, 0x202e), (0x2060, 0x206f), (0x3164, 0x3164),
    (0xfe00, 0xfe0f), (0xfeff, 0xfeff), (0xffa0, 0xffa0), (0xfff0, 0xfff8), (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a), (0xe0000, 0xe0fff)]
SURROGATES = (0xd800, 0xdfff)
BRAILLE_BLANK = (0x2800, 0x2800)
INTERLINEAR_ANNOTATION = (0xfff9, 0xfffb)
UNSAFE_RANGES = DEFAULT_IGNORABLE + [SURROGATES, BRAILLE_BLANK, INTERLINEAR_ANNOTATION]
UNSAFE_CATEGORIES = ("Cc", "Zl", "Zp", "Zs")    # controls; ends of lines and paragraphs; spaces


def character(code):
    """Return the character of a code point; a narrow build of 2.7 has a pair for some."""
    if code <= sys.maxunicode:
        return "%c" % code
    return ("\\U%08x" % code).encode("ascii").decode("unicode-escape")


def test_unsafe_code_points_are_escaped_and_no_others():
    unsafe = {code for first, last in UNSAFE_RANGES for code in range(first, last + 1)}
    unsafe.update(code for code in range(0x10000) if code != 0x20
                  and unicodedata.category(character(code)) in UNSAFE_CATEGORIES)
    wrong = []
    for code in range(0x110000):
        one = character(code)
        expected = ("\\u%04x" if code < 0x10000 else "\\U%08x") % code if code in unsafe else one
        if escape(one) != expected:
            wrong.append("%04x" % code)
    assert wrong == []


def test_no_category_beyond_the_first_plane_is_unsafe():
    if sys.maxunicode == 0xffff:
        pytest.skip("a narrow build of Python 2.7 tells no categories of pairs")
    assert not any(unicodedata.category(character(code)) in UNSAFE_CATEGORIES
                   for code in range(0x10000, 0x110000))


@pytest.mark.parametrize("raw, escaped", [
    ("", ""), ("Боб, 剣 and \U0001f3f9", "Боб, 剣 and \U0001f3f9"), ("back\\slash", "back\\slash"),
    ("a\tb\r\n", "a\\u0009b\\u000d\\u000a"), ("\x1b[31m", "\\u001b[31m"),
    ("\u202egnp.exe", "\\u202egnp.exe"), ("a\U000e0041b", "a\\U000e0041b"),
    ("\U0001f600\U0001f3f9", "\U0001f600\U0001f3f9")])
def test_escape_within_text(raw, escaped):
    assert escape(raw) == escaped
    assert escape(escaped) == escaped


def test_unsafe_characters_that_are_seen_may_be_kept():
    assert escape("a\u200db\u200dc", lambda text, index: text[index - 1] == "b") \
        == "a\\u200db\u200dc"


def test_white_space_is_that_of_unicode():
    """`isspace` also takes the separators of information, U+001C to U+001F, for white space."""
    spaces = {character(code) for code in range(0x10000)
              if "%c" % code != "\u180e" and character(code).isspace()}
    assert set(WHITE_SPACE) == spaces - set("\x1c\x1d\x1e\x1f")


@pytest.mark.parametrize("raw, quoted", [
    ("", '""'), ("bob", '"bob"'), ('a "b" c', r'"a \"b\" c"'), ("a\\", r'"a\\"'),
    ("\\u000a", '"\\\\u000a"'), ("\n", '"\\u000a"'), ("剣", '"剣"'), ("\u200d", '"\\u200d"')])
def test_quoted_text_is_one_word_of_a_log_line(raw, quoted):
    assert quote(raw) == quoted


def test_quoted_texts_differ_where_the_texts_do():
    texts = ["\n", "\\n", "\\u000a", "\\\n", '"', '\\"', "\\\\"]
    assert len({quote(one) for one in texts}) == len(texts)


@pytest.mark.parametrize("text", [
    "x" * LOG_TEXT, "\u00e4" * (LOG_TEXT // 2), "\U0001f600" * (LOG_TEXT // 4),
    "\U000e0001" * (LOG_TEXT // 10), '"' * (LOG_TEXT // 2), "\\" * (LOG_TEXT // 2)])
def test_excerpt_is_the_whole_text_as_long_as_there_is_room(text):
    assert excerpt(text) == quote(text)
    assert excerpt(text + text[0]) == quote(text) + "...+1"


def test_excerpt_says_outside_of_the_quotation_marks_how_much_was_left_out():
    assert excerpt("x" * 49000) == '"%s"...+%d' % ("x" * LOG_TEXT, 49000 - LOG_TEXT)
    assert excerpt('x"...+5 ' * 200).count('"') == excerpt('x"...+5 ' * 200).count('\\"') + 2


@pytest.mark.parametrize("text", ["\U000e0001" * 255, "a\U0001f600" * 255, '\u202e"' * 255,
                                  "\ud800" * 255, "\\" * 49000, "\x1b" * 49000])
def test_excerpt_is_bounded_and_cuts_no_character_nor_escape(text):
    shown, left_out = excerpt(text).rsplit("...+", 1)
    assert LOG_TEXT - 10 <= len(shown.encode("utf-8")) - 2 <= LOG_TEXT
    assert shown == quote(text[:-int(left_out)])


def test_text_is_cut_by_its_size_in_the_encoding():
    assert cut("\u00e4" * 10, 20, escape) == ("\u00e4" * 10, "")
    assert cut("\u00e4" * 10, 20, escape, "ascii") == ("\u00e4" * 5, "...+5")


def test_show_accepts_every_type_of_a_database():
    assert [show(value) for value in ("a\n", 5, None)] == ['"a\\u000a"', "5", "None"]
    assert "\x1b" not in show(b"\x1b")


# --- matching of words ------------------------------------------------------------------------

def test_exact_case_is_found_first():
    assert find("sword", ["Sword", "sword"]) == ["sword"]


@pytest.mark.parametrize("word, listed, found", [
    ("BO", [], ["bow"]), ("sword", [], ["Sword"]), ("swo", [], ["Sword", "swordfish"]),
    ("1", ["bow"], ["bow"]), ("1", [], []), ("2", ["bow", "Sword"], ["2"]),
    ("02", ["bow", "Sword"], []), ("x", ["bow"], [])])
def test_word_is_found_as_name_or_number_or_prefix(word, listed, found):
    assert find(word, ["bow", "Sword", "swordfish", "2"], listed) == found


def test_prefix_is_found_in_any_case():
    assert find_by_prefix("ME", ["меч", "mead", "Mermaid"]) == ["mead", "Mermaid"]
    assert find_by_prefix("М", ["меч", "mead"]) == ["меч"]
    assert find_by_prefix("", ["a", "b"]) == ["a", "b"]
