# -*- coding: utf-8 -*-
"""The product's modules, and which of them import which, read from the code.

    python tests/house.py       prints the graph, from the top module to the bottom one
"""
from __future__ import print_function, unicode_literals

import ast
import glob
import io
import os

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def modules():
    """Return {name: syntax tree} of the modules at the top level."""
    trees = {}
    for path in glob.glob(os.path.join(ROOT, "*.py")):
        with io.open(path, "rb") as file:
            trees[os.path.basename(path)[:-3]] = ast.parse(file.read())
    return trees


def imported(tree):
    """Return the names of the modules that a module imports, those inside functions included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def arrows():
    """Return {name: names of the product's modules that it imports}."""
    trees = modules()
    return {name: imported(tree).intersection(trees) for name, tree in trees.items()}


def floors(graph):
    """Return the modules in floors, the lowest first: each imports only those of lower floors.

    Raises ValueError for a circle.
    """
    floors, below = [], set()
    while len(below) < len(graph):
        floor = sorted(name for name in graph if name not in below and graph[name] <= below)
        if not floor:
            raise ValueError("a circle among %s" % ", ".join(sorted(set(graph) - below)))
        floors.append(floor)
        below.update(floor)
    return floors


def main():
    graph = arrows()
    for floor in reversed(floors(graph)):
        for name in floor:
            print("%-22s -> %s" % (name, ", ".join(sorted(graph[name])) or "nothing"))


if __name__ == "__main__":
    main()
