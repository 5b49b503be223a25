# -*- coding: utf-8 -*-
"""Text on a terminal: what of it is shown, how many columns it takes, where it wraps.

The widths are those of the library wcwidth. They are measured for one grapheme at a time, which is
what a player sees as one character, such as an emoji of several code points. None is cut in two.
"""
from __future__ import unicode_literals

import itertools
import unicodedata

try:
    from wcwidth import wcswidth, wcwidth
except ImportError:             # programs may use the library without it
    def wcwidth(character):
        """Return one column for every character; no selector makes an emoji of it then."""
        return 1

    wcswidth = wcwidth

from constants import CELL_COLUMNS
from text import escape

DOTS = "..."                    # in place of what was left out

_NON_JOINER, _JOINER = "\u200c", "\u200d"
_SELECTOR = "\ufe0f"            # the character before it is shown as an emoji
_KEYCAP = "\u20e3"              # a key around the digit before it
_VIRAMA = 9                     # canonical combining class
_SYMBOLS = {"So", "Cn"}         # categories of emoji; "Cn" is that of 2.7
_SKIN_TONES = ("\U0001f3fb", "\U0001f3ff")              # the first and the last
_FLAG_LETTERS = ("\U0001f1e6", "\U0001f1ff")            # the first and the last; a flag has two


def _letters_with(form):
    """Return the Arabic letters that have a form of their own for a place in a word."""
    pairs = [unicodedata.decomposition("%c" % code).split() for code in range(0xfb50, 0xff00)]
    return frozenset("%c" % int(pair[1], 16) for pair in pairs if len(pair) == 2
                     and pair[0] == form)


_JOINING_NEXT, _JOINING_PREVIOUS = _letters_with("<initial>"), _letters_with("<final>")


# --- what is shown ----------------------------------------------------------------------------

def escape_unseen(text):
    """Return the text with unsafe characters escaped, but for those that change the picture.

    A joiner, and the selector of emoji, stay where the text would look different without them.
    Elsewhere they are escaped, so that names that look alike are told apart.
    """
    return escape(text, _is_seen)


def _is_seen(text, index):
    """Return whether an unsafe character changes how the characters beside it look."""
    before, character, after = text[max(index - 1, 0):index], text[index], text[index + 1:index + 2]
    if not before:
        return False
    if character == _SELECTOR:
        return _makes_emoji(before, after)
    if character not in (_NON_JOINER, _JOINER) or not after:
        return False
    return (_shapes_letters(before, character, after)
            or character == _JOINER and _ends_emoji(text, index) and _begins_emoji(text, index + 1))


def _ends_emoji(text, end):
    """Return whether the text before `end` ends with an emoji that a joiner may join (UTS 51)."""
    last = text[end - 1]
    return (_is_wide_symbol(last) or _is_in(last, _SKIN_TONES)
            or last == _SELECTOR and _is_seen(text, end - 1))


def _begins_emoji(text, begin):
    """Return whether an emoji begins there; a sign without a selector is none."""
    return (_is_wide_symbol(text[begin])
            or text[begin + 1:begin + 2] == _SELECTOR and _is_seen(text, begin + 1))


def _is_wide_symbol(character):
    return wcwidth(character) == 2 and unicodedata.category(character) in _SYMBOLS


def _makes_emoji(before, after):
    """Return whether a selector turns the character before it into an emoji."""
    if before in "0123456789#*":
        return after == _KEYCAP
    if _is_in(after, _SKIN_TONES):              # a skin tone alone makes an emoji of it
        return False
    return wcswidth(before + _SELECTOR) > wcwidth(before)


def _shapes_letters(before, joiner, after):
    """Return whether a joiner changes the forms of letters (RFC 5892, appendix A)."""
    if unicodedata.combining(before) == _VIRAMA:
        return unicodedata.category(after) == "Lo"
    return joiner == _NON_JOINER and before in _JOINING_NEXT and after in _JOINING_PREVIOUS


def _is_in(character, ends):
    return ends[0] <= character <= ends[1]


# --- widths (of escaped text) -----------------------------------------------------------------

def graphemes(text):
    """Yield the parts of a text that are shown as one character each."""
    begin = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or not _continues(text, begin, end):
            yield text[begin:end]
            begin = end


def _continues(text, begin, index):
    """Return whether a character belongs to the grapheme that begins at `begin`."""
    before, character = text[index - 1], text[index]
    if _is_in(character, _FLAG_LETTERS):
        return index - begin == 1 and _is_in(before, _FLAG_LETTERS)
    return (wcwidth(character) == 0 or _is_in(character, _SKIN_TONES)
            or before == _JOINER and not character.isalpha())


def columns(text):
    """Return how many columns of a terminal the text takes."""
    return sum(map(wcswidth, graphemes(text)))


def shorten(text, width):
    """Return the text, or as much of its beginning as fits into `width` columns, with dots."""
    used = kept = 0                     # columns; characters before the dots
    for grapheme in graphemes(text):
        used += wcswidth(grapheme)
        if used > width:
            return text[:kept] + DOTS[:max(width, 0)]
        if used <= width - len(DOTS):
            kept += len(grapheme)
    return text


def wrap(text, width, indent=0):
    """Return the text as lines of at most `width` columns, the later ones indented.

    A word that is longer than a line stays whole; the terminal cuts it. A word that only just fits
    into a line is indented less.
    """
    lines, used = [], 0                 # used: columns of the last line
    for gap, word in _words(text, width):
        room = columns(word)
        if lines and (used + len(gap) + room <= width or room > width):
            lines[-1] += gap + word
            used += len(gap) + room
        else:
            lead = (" " * indent if lines else gap)[:max(width - room, 0)]
            lines.append(lead + word)
            used = len(lead) + room
    return lines or [""]


def _words(text, width):
    """Return pairs (spaces before a word, word).

    A number and the word after it are one, if they fit into a line: "4 sell", "200 credits".
    """
    words, gap = [], ""
    for is_gap, run in itertools.groupby(graphemes(text), lambda grapheme: grapheme == " "):
        run = "".join(run)
        if is_gap:
            gap = run
        elif (words and words[-1][1].isdigit() and gap == " "
                and columns(words[-1][1] + gap + run) <= width):
            words[-1] = (words[-1][0], words[-1][1] + gap + run)
        else:
            words.append((gap, run))
    return words


def fit(widths, alignments, room):
    """Return the widths of a table's columns, so that they fit into `room` together.

    Only columns with "<" give way, the widest one first. In a very narrow room they do not fit.
    """
    widths = list(widths)
    flexible = sorted((number for number, alignment in enumerate(alignments) if alignment == "<"),
                      key=lambda number: -widths[number])
    for floor in (CELL_COLUMNS, len(DOTS)):     # all are still to be read, if that is possible
        for number in flexible:
            widths[number] -= max(0, min(sum(widths) - room, widths[number] - floor))
    return widths
