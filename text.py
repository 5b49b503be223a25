# -*- coding: utf-8 -*-
"""Text for logs and terminals: escaping, quoting, bounding, widths, and matching of words.

One table says which characters are unsafe to show; the log, the console and the operators'
commands share it.
"""
from __future__ import unicode_literals

import re
import sys
import unicodedata

from constants import COLUMNS, LOG_TEXT

Text = type("")                                     # unicode on 2.7

# Matches URLs and near misses. They may hold a password, so they are never taken for the name of a
# file, and never shown.
URL = re.compile(r".*://|.*password\s*=|[^\w./]*postgres(ql)?(:|;|//)|/*[^/]*:[^/]*@")

# Characters that steer a terminal, begin a line, change the direction of text (Unicode Standard
# Annex 9), are not seen, or look like a space: the control characters; the ends of lines; all
# spaces but U+0020; Default_Ignorable_Code_Point of DerivedCoreProperties.txt, which has the
# joiners, Hangul fillers, variation selectors, tags and unassigned format characters; interlinear
# annotation; the Braille blank.
_UNSAFE_RANGES = (
    "\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f"
    "\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb")
if sys.maxunicode > 0xffff:         # a wide build; lone halves of surrogate pairs are unsafe, too
    _unsafe_pattern = re.compile(
        "[%s\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
        % _UNSAFE_RANGES)
else:                               # a narrow build of 2.7 stores these characters as pairs
    _unsafe_pattern = re.compile(
        "[%s]|\ud82f[\udca0-\udca3]|\ud834[\udd73-\udd7a]|[\udb40-\udb43][\udc00-\udfff]"
        "|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]" % _UNSAFE_RANGES)

MAX_ESCAPE = len("\\U00000000")    # characters that escaping makes of one

_NON_JOINER, _JOINER = "\u200c", "\u200d"
_VIRAMA = 9                         # canonical combining class
_SYMBOLS = {"So", "Sk", "Cn", "Cs"}     # categories of emoji; the last two are those of 2.7


# --- escaping and quoting ---------------------------------------------------------------------

def escape(text, keep_joiners=False):
    """Return the text with unsafe characters as \\uXXXX or \\UXXXXXXXX.

    With `keep_joiners`, joiners stay that change how their neighbours look.
    """
    def replace(match):
        if keep_joiners and _is_seen(match):
            return match.group()
        return _escaped(match.group())

    return _unsafe_pattern.sub(replace, text)


def _is_seen(match):
    """Return whether an unsafe character is a joiner that changes how its neighbours look.

    That is so after a virama, between letters of Arabic's kind (RFC 5892, appendix A), and, of the
    joiner alone, between emoji.
    """
    character, (begin, end) = match.group(), match.span()
    before, after = match.string[:begin][-1:], match.string[end:end + 1]
    if character not in (_NON_JOINER, _JOINER) or not before or not after:
        return False
    return (unicodedata.combining(before) == _VIRAMA
            or unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL"
            or character == _JOINER
            and {unicodedata.category(before), unicodedata.category(after)} <= _SYMBOLS)


def _escaped(character):
    if len(character) == 2:         # a pair of a narrow build
        high, low = character
        return "\\U%08x" % (0x10000 + ((ord(high) - 0xd800) << 10) + (ord(low) - 0xdc00))
    return ("\\u%04x" if character <= "\uffff" else "\\U%08x") % ord(character)


def quote(text):
    """Return the text in quotation marks, escaped, so that it is one word."""
    return '"%s"' % escape(text.replace("\\", "\\\\").replace('"', '\\"'))


def excerpt(text):
    """Return the text quoted for a log line, or as much of its beginning as LOG_TEXT has room for.

    The number of characters left out follows the quotation marks, where no text can forge it:
    `"aaa"...+48200`.
    """
    if len(text) <= LOG_TEXT // MAX_ESCAPE:             # the usual case, kept short
        return quote(text)
    kept, left_out = cut(text, LOG_TEXT, lambda part: quote(part)[1:-1])
    return '"%s"%s' % (kept, left_out)


def cut(text, room, escaped, encoding="utf-8"):
    """Return the escaped text, or as much of its beginning as fits into `room` encoded bytes, and
    how much that left out: "" or "...+N", with the number of characters.

    What is left out is not escaped either, so that a long text costs no more than a short one.
    """
    kept = text[:room]
    whole = escaped(kept)
    if len(kept) == len(text) and len(whole.encode(encoding, "backslashreplace")) <= room:
        return whole, ""
    pieces = []
    for character in kept:
        piece = escaped(character)
        room -= len(piece.encode(encoding, "backslashreplace"))
        if room < 0:
            break
        pieces.append(piece)
    return "".join(pieces), "...+%d" % (len(text) - len(pieces))


def show(value):
    """Return any value of a database as text for people."""
    return quote(value) if isinstance(value, Text) else escape("%r" % (value,))


# --- columns of a terminal --------------------------------------------------------------------

def is_whole(text):
    """Return whether a text has no lone surrogate, half a character that UTF-8 cannot encode."""
    try:    # 3.x fails to encode it, 2.7 fails to decode it
        text.encode("utf-16-le").decode("utf-16-le")
    except UnicodeError:
        return False
    return True


def columns(text):
    """Return how many columns of a terminal the text takes (Unicode Standard Annex 11)."""
    return sum(map(_columns_of, text))


def _columns_of(character):
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0                        # combined with the character before it, or not shown
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return 2
    return 2 if str is bytes and character >= "\U0001f300" else 1       # 2.7 knows no emoji


def shorten(text, width):
    """Return the text, or as much of its beginning as fits into `width` columns, with dots."""
    if columns(text) <= width:
        return text
    room = width - columns("...")
    kept = []
    for character in text:
        room -= _columns_of(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "..."


def wrap(text, indent=0):
    """Return the text as lines of at most `COLUMNS` columns, the later ones indented.

    A word that is longer than a line stays whole; the terminal cuts it.
    """
    lines = [[]]
    used = 0                            # columns of the last line
    for word in re.findall(" *[^ ]+", text):
        if lines[-1] and used + columns(word) > COLUMNS \
                and columns(word.lstrip(" ")) <= COLUMNS - indent:
            lines.append([" " * indent])
            used = indent
            word = word.lstrip(" ")
        lines[-1].append(word)
        used += columns(word)
    return ["".join(line) for line in lines]


# --- words -----------------------------------------------------------------------------------

def counted(number, noun):
    """Return "1 credit", "2 credits"."""
    return "%d %s%s" % (number, noun, "" if number == 1 else "s")


def find(word, names, listed=()):
    """Return the names that a player may mean by a word, in any case.

    In this order: the name equal to the word; the entry of `listed` with that number; all names
    that begin with the word.
    """
    exact = [name for name in names if name == word] \
        or [name for name in names if name.lower() == word.lower()] \
        or [name for number, name in enumerate(listed, 1) if "%d" % number == word]
    return exact[:1] or find_by_prefix(word, names)


def find_by_prefix(prefix, names):
    """Return the names that begin with the prefix, in any case."""
    return [name for name in names if name.lower().startswith(prefix.lower())]
