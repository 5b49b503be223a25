# -*- coding: utf-8 -*-
"""The documentation, held against the programs."""
from __future__ import unicode_literals

import io
import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

from conftest import ROOT, Peer, environment, open_account

sys.path.insert(0, os.path.join(ROOT, "docs"))

import screenshot       # noqa: E402
from constants import BACK, OPTIONS
from protocol import METHODS, ErrorCode


def read(*path):
    with io.open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def test_the_example_session_of_the_protocol_happens_as_written(program):
    open_account(program.database, "ann", 240, "torch")
    peer = Peer(program.port)
    replies = 0
    for line in read("docs", "protocol.md").splitlines():
        if line.startswith("--> "):
            peer.send(line[4:].encode("utf-8") + b"\n")
        elif line.startswith("<-- "):
            assert peer.line() == json.loads(line[4:])
            replies += 1
    assert replies == 6


def test_the_bot_of_the_protocol_page_buys(program):
    open_account(program.database, "buyer", 240, "sword")
    bot, = re.findall(r"^```python\n(.*?)^```", read("docs", "protocol.md"),
                      re.MULTILINE | re.DOTALL)
    assert len(bot.splitlines()) == 10 and bot.count("port=7777") == 1
    out = subprocess.check_output(
        [sys.executable, "-c", bot.replace("port=7777", "port=%d" % program.port)],
        env=environment(PYTHONPATH=ROOT))
    assert out.decode("ascii").splitlines() == [
        "horse: not_enough_credits", "armor: not_enough_credits", "sword: item_already_owned",
        "bought bow"]
    assert program.free("buyer")


def test_the_picture_of_a_session_shows_what_the_client_shows():
    """`make screenshot` draws it anew."""
    sent, lines = screenshot.play()
    for picture in (screenshot.draw(sent), read("docs", "session.svg")):
        texts = ElementTree.fromstring(picture.encode("utf-8")).iter(
            "{http://www.w3.org/2000/svg}text")
        assert ["".join(text.itertext()).rstrip() for text in texts] == lines


def test_the_protocol_page_has_every_reason_of_the_client():
    page = read("docs", "protocol.md").partition("## From Python")[2]
    raised = re.findall(r'ServerGone\(\s*"(\w+)"', read("client.py"))
    assert sorted(raised) == sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    for method in METHODS:
        assert "`%s(" % method in page


def test_the_protocol_page_has_every_error_and_every_method():
    page = read("docs", "protocol.md")
    errors = re.findall(r"^\| (-?\d+) \| `(\w+)`", page, re.MULTILINE)
    assert {(int(code), reason) for code, reason in errors} == {code.value for code in ErrorCode}
    methods = re.findall(r"^\| `(\w+)` \| (\S+) \|.*\| (yes|no) \|$", page, re.MULTILINE)
    assert set(methods) == {
        (name, "`%s`" % method.param if method.param else "none",
         "yes" if method.needs_login else "no") for name, method in METHODS.items()}


def test_the_readme_names_every_option():
    readme = read("README.md")
    assert all("`%s`" % option in readme for option in OPTIONS + (BACK,))


def test_the_operators_page_has_every_statistic_and_every_line_of_the_log():
    page = read("docs", "operations.md")
    source = read("server.py") + read("db.py")
    stats = re.findall(r'^            \("(\w+)", ', source, re.MULTILINE)
    assert len(stats) == 12 and all("`%s`" % name in page for name in stats)
    events = set(re.findall(r'"(\w+) \w+=%[sd]', source))
    assert len(events) > 13
    for event in events:
        assert re.search("`%s[ `]" % event, page), event


def test_every_file_that_the_documents_name_is_there():
    for page in ("README.md", "docs/protocol.md", "docs/architecture.md", "docs/reliability.md",
                 "docs/operations.md"):
        for name in re.findall(r"\b(?<!/)(?:[\w.-]+/)*[\w-]+\.(?:py|md|txt|service|svg)\b", read(page)):
            assert any(os.path.exists(os.path.join(ROOT, folder, name))
                       for folder in ("", "docs", "tests")), (page, name)
