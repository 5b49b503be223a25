# -*- coding: utf-8 -*-
"""The documentation, compared with the programs."""
from __future__ import unicode_literals

import ast
import io
import json
import os
import re
import sys
from xml.etree import ElementTree

import house
import pytest
from conftest import ROOT, Peer, open_account, reason, request

sys.path.insert(0, os.path.join(ROOT, "docs"))

import screenshot
from constants import BACK, OPTIONS
from protocol import METHODS, TCP_METHODS, ErrorCode

MODULES = house.modules()
PAGES = ["README.md"] + ["docs/%s.md" % name for name in (
    "architecture", "operations", "performance", "protocol", "reliability")]
PAGES += [name for name in ("CONTRIBUTING.md", "CHANGELOG.md")
          if os.path.exists(os.path.join(ROOT, name))]
GLOSSARY = """group commit, optimistic locking, write-ahead log, checkpoint, prefetch, quantum,
    poll, self-pipe, back-pressure, high-water mark, write stall, half-close, lingering close,
    abort, fencing, advisory lock, rate-limited logging, debounce, busy timeout, listen queue,
    tick, event source"""


def read(*path):
    with io.open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def section(page, title):
    """Return the text under a heading, up to the next one of its level or a higher one."""
    match = re.search(r"^(#+) %s\n" % re.escape(title), page, re.MULTILINE)
    end = re.search(r"^#{1,%d} " % len(match.group(1)), page[match.end():], re.MULTILINE)
    return page[match.end():][:end.start() if end else None]


def table(text, heading):
    """Return the rows of the table whose first cell of its head is `heading`, as lists of cells."""
    rows = []
    for line in text.splitlines():
        if line.startswith("| %s |" % heading):
            rows = [line]
        elif rows and line.startswith("|"):
            rows.append(line)
        elif rows:
            break
    assert len(rows) > 2
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


# --- the code -------------------------------------------------------------------------------

def string(node):
    """Return the text of a node that is a literal string, else None."""
    value = getattr(node, "s" if sys.version_info[0] < 3 else "value", None)
    return value if isinstance(value, type("")) else None


def targets(node):
    """Return the nodes that an assignment gives a value, those in a tuple one by one."""
    found = node.targets if isinstance(node, ast.Assign) else []
    return [one for target in found for one in getattr(target, "elts", [target])]


def defined(module):
    """Return what can be named in a module: functions, classes and constants as "name", methods,
    class attributes and attributes of self as "Class.name"."""
    names = set()
    for node in MODULES[module].body:
        names.add(getattr(node, "name", None))
        names.update(getattr(target, "id", None) for target in targets(node))
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            names.add("%s.%s" % (node.name, getattr(member, "name", None)))
            for inner in ast.walk(member):
                for target in targets(inner):
                    own = getattr(getattr(target, "value", None), "id", None) == "self"
                    name = getattr(target, "attr" if own else "id", None)
                    if name and (own or inner is member):
                        names.add("%s.%s" % (node.name, name))
    return names


def log_events():
    """Return the server's log lines, {event: set of its keys}."""
    events = {}
    for tree in MODULES.values():
        for node in ast.walk(tree):
            text, called = string(node), getattr(getattr(node, "func", None), "attr", None)
            line = string(node.args[0]) if called in ("info", "warning", "error") else None
            if line and re.match("[a-z_]+$", line):
                events.setdefault(line, set())                  # it has no keys
            elif text and re.match(r"[a-z_]+ [a-z_]+=%", text):
                keys = re.findall(r" ([a-z_]+)=%", text)
                events.setdefault(text.split()[0], set()).update(keys)
    return events


# --- docs/architecture.md ---------------------------------------------------------------------

def test_architecture_table_has_each_module_with_its_sentence():
    rows = table(read("docs", "architecture.md"), "file")
    assert sorted(name for name, _, _ in rows) == sorted("`%s.py`" % name for name in MODULES)
    for name, sentence, change in rows:
        docstring = ast.get_docstring(MODULES[name[1:-4]])
        first = re.match(r".*?\.(?=\s|$)", docstring, re.DOTALL).group()
        assert sentence == " ".join(first.split())
        assert change


def test_architecture_table_is_in_the_order_of_imports():
    arrows, seen = house.arrows(), set()
    for name, _, _ in table(read("docs", "architecture.md"), "file"):
        assert arrows[name[1:-4]] <= seen, name
        seen.add(name[1:-4])


def test_architecture_diagram_has_every_import():
    lines = re.findall(r"^(\w+) +-> (.+)$", read("docs", "architecture.md"), re.MULTILINE)
    drawn = {name: set(imported.split(", ")) for name, imported in lines}
    actual = {name: names - {"text", "constants"} for name, names in house.arrows().items()}
    assert drawn == {name: names for name, names in actual.items() if names}
    for number, (_, imported) in enumerate(lines):          # arrows only go down
        assert set(imported.split(", ")).isdisjoint(name for name, _ in lines[:number])


def test_number_of_modules_is_told():
    names = {18: "Eighteen", 19: "Nineteen", 20: "Twenty", 21: "Twenty-one", 22: "Twenty-two",
             23: "Twenty-three", 24: "Twenty-four", 25: "Twenty-five", 26: "Twenty-six",
             27: "Twenty-seven", 28: "Twenty-eight", 29: "Twenty-nine", 30: "Thirty",
             31: "Thirty-one", 32: "Thirty-two", 33: "Thirty-three", 34: "Thirty-four",
             35: "Thirty-five", 36: "Thirty-six", 37: "Thirty-seven", 38: "Thirty-eight",
             39: "Thirty-nine", 40: "Forty", 41: "Forty-one", 42: "Forty-two", 43: "Forty-three",
             44: "Forty-four", 45: "Forty-five", 46: "Forty-six"}
    for page in (read("README.md"), read("docs", "architecture.md")):
        assert "%s flat modules" % names[len(MODULES)] in page


def test_architecture_picture_has_every_module():
    picture = ElementTree.fromstring(read("docs", "architecture.svg").encode("utf-8"))
    texts = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(text for text in texts if text.endswith(".py")) == sorted(
        "%s.py" % name for name in MODULES)


def test_places_named_in_architecture_exist():
    names = {module: defined(module) for module in MODULES}
    page = read("docs", "architecture.md")
    in_files = re.findall(r"`(\w+)\.py: ([\w.]+)`", page)
    assert len(in_files) > 100 and len(in_files) == page.count(".py: ")
    for module, name in in_files:
        assert name in names[module], (module, name)
    anywhere = re.findall(r"`([A-Z]\w*\.\w+)`", page)
    assert len(anywhere) > 90
    for name in anywhere:
        assert any(name in defined_names for defined_names in names.values()), name


def test_constants_named_in_pages_exist():
    names = set().union(*map(defined, MODULES))
    for page in PAGES:
        for name in re.findall(r"`([A-Z]+_[A-Z_]+)`", read(page)):
            if not name.startswith(("LAVKA_", "NO_COLOR", "SQLITE_")):  # environment variables
                assert name in names or name.lower() in {
                    code.value[1] for code in ErrorCode} | {"key_required", "wrong_key"}, name


def test_glossary_has_every_term_with_a_place():
    rows = table(section(read("docs", "architecture.md"), "Glossary"), "term")
    terms = [term for term, _, _ in rows]
    assert terms == sorted(set(terms), key=lambda term: term.replace("-", " "))
    assert set(re.split(r",\s+", GLOSSARY)) <= set(terms)
    for term, meaning, where in rows:
        assert meaning.endswith(".") and ". " not in meaning, term      # one sentence
        assert re.match(r"`\w+\.py", where), term


@pytest.mark.parametrize("change", [
    "Add an item", "Add a method", "Change the time after which a silent connection is closed",
    "Add a figure to the statistics", "Change what a key may be", "Support another database",
    "Change the prompt's colour", "Add a column", "Change how many connections an address may have",
    "Add an operators' command", "Add a refusal", "Change a log line"])
def test_architecture_answers_how_to_change(change):
    changes = section(read("docs", "architecture.md"), "How to change")
    answer, = re.findall(
        r"^### %s\b.*\n((?:(?!#).*\n)+)" % re.escape(change), changes, re.MULTILINE)
    assert re.search(r"`\w+\.py: [\w.]+`", answer)


# --- docs/protocol.md -------------------------------------------------------------------------

def test_example_session_happens_as_written(program):
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


def test_first_of_several_errors_is_told(program):
    """Each request deserves the error that its row tells at its place, and later ones."""
    open_account(program.database, "ann", 100, "sword,excalibur")
    ann, bob, stranger = Peer(program.port, "ann"), Peer(program.port, "bob"), Peer(program.port)
    key, wrong_key = "a" * 32, "b" * 32
    ann.call("protect", key=key)
    requests = {
        "logout": [(stranger, request("logout"))],
        "protect": [(stranger, request("protect", key=key))],
        "buy": [(stranger, request("buy", item="excalibur")),
                (ann, request("buy", item="excalibur")), (ann, request("buy", item="sword")),
                (ann, request("buy", item="horse"))],
        "sell": [(stranger, request("sell", item="wand")), (ann, request("sell", item="wand")),
                 (ann, request("sell", item="excalibur"))],
        "login": [(bob, request("login", nickname="ann")),
                  (stranger, request("login", nickname="ann")),
                  (stranger, request("login", nickname="ann", key=wrong_key)),
                  (stranger, request("login", nickname="bob", key=wrong_key))],
        "any": [(Peer(program.port), b"[" * 65536 + b"\n"), (stranger, b"[{\n"),
                (stranger, b'{"method": "fly", "params": {}}\n'),
                (stranger, request("fly", nickname=1)), (stranger, request("buy", thing=1))],
    }
    told = {method: [reason(peer.exchange(line)) for peer, line in lines]
            for method, lines in requests.items()}
    rows = table(section(read("docs", "protocol.md"), "Errors"), "method")
    orders = {re.search(r"\w+", method).group(): re.findall(r"`(\w+)`", order)
              for method, order in rows}
    assert told == dict(orders, protect=orders["logout"])


def test_protocol_page_has_every_reason_of_server_gone():
    library = section(read("docs", "protocol.md"), "From Python")
    raised = re.findall(r'ServerGone\(\s*"(\w+)"', read("client.py") + read("rpc.py"))
    assert sorted(raised) == sorted(name.strip("`") for name, _ in table(library, "reason"))
    for method in TCP_METHODS:
        assert "`%s(" % method in library


def test_protocol_page_has_every_error_and_every_method():
    page = read("docs", "protocol.md")
    errors = re.findall(r"^\| (-?\d+) \| `(\w+)`", page, re.MULTILINE)
    assert {(int(code), reason) for code, reason in errors} == {code.value for code in ErrorCode}
    public, for_operators = section(page, "Methods").split("### On the admin socket")
    assert sorted([row[0], row[1], row[3]] for row in table(public, "method")) == sorted(
        ["`%s`" % name, params_told(method), "yes" if method.needs_login else "no"]
        for name, method in TCP_METHODS.items())
    assert sorted(row[:2] for row in table(for_operators, "method")) == sorted(
        ["`%s`" % name, params_told(method)]
        for name, method in METHODS.items() if name not in TCP_METHODS)


def params_told(method):
    """Return the cell about the params of a method."""
    return ", ".join(["optional " * (number >= method.required) + "`%s`" % param
                      for number, param in enumerate(method.params)]) or "none"


# --- README.md and docs/operations.md -----------------------------------------------------------

def test_readme_names_every_option():
    options = [re.findall("`(.+?)`", row[0]) for row in
               table(section(read("README.md"), "In the shop"), "option")]
    assert sum(options, []) == list(OPTIONS) + ["help", "?"]
    assert "`%s`" % BACK in read("README.md")


def test_picture_of_a_session_shows_what_the_client_shows():
    """`make screenshot` draws it again."""
    sent, lines = screenshot.play()
    for picture in (screenshot.draw(sent), read("docs", "session.svg")):
        texts = ElementTree.fromstring(picture.encode("utf-8")).iter(
            "{http://www.w3.org/2000/svg}text")
        assert ["".join(text.itertext()).rstrip() for text in texts] == lines


def test_operations_page_has_every_statistic():
    stats = re.findall(r'^            \("(\w+)", ', read("stats.py"), re.MULTILINE)
    rows = table(read("docs", "operations.md"), "figure")
    assert len(stats) > 11
    assert sum([re.findall("`(.+?)`", name) for name, _ in rows], []) == stats


def test_operations_page_has_every_log_event_with_its_keys():
    documented = {}
    for cell in [row[0] for row in table(read("docs", "operations.md"), "line")]:
        words = re.match("`(.+?)`", cell).group(1).split()
        documented[words[0]] = {word[:-1] for word in words[1:] if word.endswith("=")}
    assert documented.pop("listening") == set()         # its line has no key
    events = log_events()
    assert len(events) > 19
    assert documented == events


def test_operations_page_has_every_command():
    commands = table(read("docs", "operations.md"), "command")
    named = {re.match(r"`lavka-admin (\w+)", cell).group(1) for cell, _ in commands}
    assert named == set(re.findall(r"^    \((\w+), open_\w+, \[", read("admin.py"), re.MULTILINE))


# --- all pages ----------------------------------------------------------------------------------

@pytest.mark.parametrize("page", PAGES)
def test_files_named_exist(page):
    names = re.findall(
        r"(?<![\w/-])(?:[\w.-]+/)*\w[\w-]*\.(?:py|md|txt|service|timer|svg)\b", read(page))
    assert names
    for name in names:
        assert any(os.path.exists(os.path.join(ROOT, folder, name))
                   for folder in ("", "deploy", "docs", "examples", "tests")), name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_a_heading(page):
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", read(page)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, path)), target
        if anchor:
            headings = re.findall("^#+ (.+)$", read(path), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                              for heading in headings], target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_commands_named_exist(page):
    text = read(page)
    commands = re.findall(r"^    \((\w+), open_\w+, \[", read("admin.py"), re.MULTILINE)
    assert len(commands) > 4
    for _, command in re.findall(
            r"(?:admin\.py|[ `(]lavka-admin)((?: --[\w-]+ \S+)*) ([a-z]+)", text):
        assert command in commands, command
    assert not re.search(r"\bdb\.py(?: --[\w-]+ \S+)* (?:%s)\b" % "|".join(commands), text)
    targets = re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets
    rounds = re.findall(r'^    \("([\w-]+)", \(', read("tests", "torture.py"), re.MULTILINE)
    assert len(rounds) > 10
    for name in re.findall(r"torture\.py --only ([\w-]+)", text):
        assert name in rounds
