# -*- coding: utf-8 -*-
"""The house: which module imports which, how large each is, and what stands in one place only.

`python tests/house.py` prints the graph.
"""
from __future__ import unicode_literals

import ast
import io
import os
import re
import sys

import house
import pytest

# Every module, and all that it may import; docs/architecture.md says what each is for.
ARROWS = {
    "constants": "",
    "models": "constants",
    "text": "constants",
    "cli": "constants text",
    "log": "constants text",
    "notify": "constants",
    "protocol": "constants text",
    "storage": "constants models text",
    "schema": "constants models storage text",
    "files": "constants log",
    "checkpoint": "constants log storage text",
    "sqlite_file": "constants files models schema storage text",
    "sqlite": "checkpoint constants files sqlite_file storage text",
    "sqlite_target": "constants files models schema sqlite_file storage",
    "postgresql_connection": "constants storage text",
    "postgresql_locks": "constants log postgresql_connection storage",
    "postgresql_database": "models postgresql_connection schema storage",
    "postgresql": "constants log models postgresql_connection postgresql_database postgresql_locks "
                  "storage text",
    "ledger": "models text",
    "db": "cli constants log models postgresql sqlite storage text",
    "postgresql_target": "models postgresql_connection postgresql_database schema storage text",
    "progress": "log",
    "admin_database": "cli constants ledger models progress storage text",
    "transfer": "admin_database cli constants models postgresql_target progress sqlite_target "
                "storage text",
    "rpc": "constants log protocol text",
    "admin": "admin_database admin_server admin_socket cli db protocol storage transfer",
    "session": "constants protocol",
    "stats": "constants log protocol",
    "players": "constants session text",
    "admin_server": "text",
    "admin_methods": "constants protocol session",
    "service": "admin_methods constants db log players protocol session stats storage text",
    "connection": "constants session",
    "listener": "connection constants protocol session text",
    "admin_socket": "constants listener protocol rpc text",
    "server": "admin_socket cli connection constants db listener log notify service session "
              "storage text",
    "columns": "constants text",
    "display": "cli columns constants text",
    "terminal": "cli columns constants display text",
    "keyfile": "constants log text",
    "login": "keyfile protocol",
    "cache": "text",
    "game_session": "cache constants display keyfile protocol text",
    "console": "constants display game_session login protocol",
    "one_shot": "cache constants protocol text",
    "client": "cli console constants keyfile login one_shot protocol rpc terminal text",
}

MOST_LINES = {"a file": 500, "a class": 300, "a function": 40}


def source(name):
    with io.open(os.path.join(house.ROOT, name + ".py"), encoding="utf-8") as file:
        return file.read()


def test_the_imports_are_the_arrows_of_the_map():
    assert {name: " ".join(sorted(names)) for name, names in house.arrows().items()} == ARROWS


def test_the_imports_make_no_circle():
    floors = house.floors(house.arrows())
    assert floors[0] == ["constants"] and sum(map(len, floors)) == len(ARROWS)


def test_a_circle_is_found():
    with pytest.raises(ValueError):
        house.floors({"a": {"b"}, "b": {"a"}, "c": set()})


def test_imports_inside_functions_count():
    tree = ast.parse("def f():\n    from b import c\n    import d.e, g\n")
    assert house.imported(tree) == {"b", "d", "g"}


@pytest.mark.skipif(sys.version_info < (3, 8), reason="the syntax tree has no ends of nodes")
def test_no_file_class_or_function_is_too_long():
    sizes = {}
    for name, tree in house.modules().items():
        sizes["a file", name] = len(source(name).splitlines())
        for node in ast.walk(tree):
            kind = {ast.ClassDef: "a class", ast.FunctionDef: "a function"}.get(type(node))
            if kind:
                sizes[kind, "%s.%s" % (name, node.name)] = node.end_lineno - node.lineno + 1
    assert len(sizes) > 300
    assert {place: size for place, size in sizes.items() if size > MOST_LINES[place[0]]} == {}


def lines_with(pattern):
    """The lines of the product that have it, as (module, line)."""
    return sorted((name, line.strip()) for name in ARROWS for line in source(name).splitlines()
                  if re.search(pattern, line))


def test_every_exception_is_caught_in_the_service_alone():
    """Once for parsing, once for applying; both log the defect."""
    found = lines_with(r"except( Exception| BaseException|:)")
    assert [name for name, _ in found] == ["service"] * 2
    assert len(re.findall(r"except Exception as defect:.*\n +log_defect\(", source("service"))) == 2


def test_durations_are_measured_with_a_monotonic_clock():
    """`time.time` is for timestamps: those of the ledger's rows."""
    found = lines_with(r"\btime\.time\b|from time import")
    assert all("int(time.time())" in line or line == "from time import monotonic"
               for _, line in found) and len(found) > 3


def test_the_service_knows_no_sockets():
    for name in ("protocol", "session", "service", "db"):
        imported = house.imported(house.modules()[name])
        assert not imported & {"socket", "select", "selectors", "selectors2"}


def test_only_the_connection_to_postgresql_knows_its_driver():
    users = [name for name, tree in house.modules().items() if "psycopg2" in house.imported(tree)]
    assert users == ["postgresql_connection"]


def test_text_in_the_log_is_cut():
    """`quote` is for the commands that show it to people; the log's lines take an `excerpt`."""
    found = lines_with(r"\b(?<!def )quote\(")
    assert {name for name, _ in found} == {
        "admin_database", "admin_server", "cli", "ledger", "text"}
