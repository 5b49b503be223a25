# -*- coding: utf-8 -*-
"""Text for people: escaping, quoting, bounding, and matching of words.

One table says which characters are unsafe to show; the log, the console and the operators'
commands share it.
"""
from __future__ import unicode_literals

import codecs
import re
import sys

from constants import LOG_TEXT

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

_beyond_ascii = re.compile("[^ -~]").search         # or a control character

MAX_ESCAPE = len("\\U00000000")    # characters that escaping makes of one

# Unicode's property White_Space (PropList.txt). `strip` alone also removes control characters,
# which nicknames may have, and differs from one Python to the next.
WHITE_SPACE = ("\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
               "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000")


# --- escaping and quoting ---------------------------------------------------------------------

def escape(text, is_seen=None):
    """Return the text with unsafe characters as \\uXXXX or \\UXXXXXXXX.

    Those stay for which `is_seen`, a function of the text and an index, returns True.
    """
    if not _beyond_ascii(text):         # the usual case, kept short: the pattern is a slow one
        return text

    def replace(match):
        if is_seen and is_seen(text, match.start()):
            return match.group()
        return _escaped(match.group())

    return _unsafe_pattern.sub(replace, text)


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


def is_whole(text):
    """Return whether a text has no lone surrogate, half a character that UTF-8 cannot encode."""
    try:    # 3.x fails to encode it, 2.7 fails to decode it
        text.encode("utf-16-le").decode("utf-16-le")
    except UnicodeError:
        return False
    return True


def encoding_name(encoding):
    """Return the usual name of an encoding: "ASCII" for what Linux calls "ANSI_X3.4-1968"."""
    return codecs.lookup(encoding).name.upper()


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
