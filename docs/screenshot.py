# -*- coding: utf-8 -*-
"""The picture of the README: a session on a terminal, played and drawn.

    python docs/screenshot.py       writes docs/session.svg
"""
from __future__ import unicode_literals

import io
import os
import re
import shutil
import sys
import tempfile
from xml.sax.saxutils import escape

DOCS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(DOCS), "tests"))

from conftest import Program, open_account      # noqa: E402
from screen import TAB, Screen                  # noqa: E402

PICTURE = os.path.join(DOCS, "session.svg")


def play():
    """Play the session; return (what the client wrote, the lines of the screen)."""
    directory = tempfile.mkdtemp()
    program = screen = None
    try:
        program = Program(directory)
        open_account(program.database, "bob", 290, "torch")
        screen = Screen(program.port, height=40)      # high enough: nothing scrolls
        screen.until_line("Nickname: ")
        screen.enter("bob", "bob 290> ")
        screen.enter("buy", "What would you like to buy? (or back) ")
        screen.type("sw", TAB)
        screen.until_line("What would you like to buy? (or back) sword")
        screen.enter("", "bob 90> ")
        screen.enter("buy armor", "bob 90> ")
        screen.enter("sell tor", "bob 130> ")
        screen.enter("items", "bob 130> ")
        screen.enter("logout", "Nickname [bob]: ")
        return screen.sent().decode("utf-8"), "\n".join(screen.lines()).rstrip().split("\n")
    finally:
        if screen:
            screen.end()
        if program:
            program.kill()
        shutil.rmtree(directory)


FONT_SIZE, LINE_HEIGHT, MARGIN = 14, 20, 16     # of the picture, in pixels
COLUMN = FONT_SIZE * 0.602                      # what most fixed-width fonts have
SGR = re.compile("\x1b\\[([0-9]*)m")           # what ECMA-48 has for colours
STYLES = {"": None, "1": "bold", "2": "faint", "31": "red", "32": "green"}
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %(width)d %(height)d" \
width="%(width)d" height="%(height)d"
     font-family="monospace" font-size="%(size)d">
<title>A session of client.py</title>
<style>
  text { fill: #1f2328; white-space: pre }
  rect { fill: #f6f8fa; stroke: #d0d7de }
  .bold { font-weight: bold }
  .faint { fill: #6e7781 }
  .red { fill: #cf222e }
  .green { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    rect { fill: #0d1117; stroke: #30363d }
    .faint { fill: #8b949e }
    .red { fill: #ff7b72 }
    .green { fill: #56d364 }
  }
</style>
<rect x="0.5" y="0.5" width="%(inner_width)d" height="%(inner_height)d" rx="8"/>
"""


def draw(written):
    """Return the picture, as SVG, of what the client wrote."""
    lines = written.replace("\a", "").splitlines()
    columns = max(len(SGR.sub("", line)) for line in lines)
    width, height = int(columns * COLUMN) + 2 * MARGIN, len(lines) * LINE_HEIGHT + 2 * MARGIN
    picture = [HEAD % {"width": width, "height": height, "inner_width": width - 1,
                       "inner_height": height - 1, "size": FONT_SIZE}]
    for number, line in enumerate(lines, 1):
        picture.append('<text x="%d" y="%d" xml:space="preserve">%s</text>\n' % (
            MARGIN, MARGIN + number * LINE_HEIGHT - 5, spans(line)))
    return "".join(picture) + "</svg>\n"


def spans(line):
    """Return a line's text as SVG."""
    parts = iter([""] + SGR.split(line))
    return "".join('<tspan class="%s">%s</tspan>' % (STYLES[style], escape(text))
                   if STYLES[style] else escape(text) for style, text in zip(parts, parts))


if __name__ == "__main__":
    with io.open(PICTURE, "w", encoding="utf-8") as file:
        file.write(draw(play()[0]))
