# -*- coding: utf-8 -*-
"""The operators' commands on a server that runs: what they print, and where they find it."""
from __future__ import unicode_literals

import json
import os
import re

import pytest
from conftest import Peer, both, reason, request, run_program, wait_for

from admin_server import describe_figure
from stats import Histogram


def ask(program, *arguments, **variables):
    """The exit status and the output of `python admin.py --database ... COMMAND`."""
    return run_program("admin.py", "--database", program.database, *arguments,
                       cwd=os.path.dirname(program.log_path),
                       **dict(variables, LAVKA_PORT=program.port))


@both
def test_statistics_for_people_and_for_programs(start, database):
    program = start(database=database)
    player = Peer(program.port, "bob")
    assert reason(player.call("steal")) == "method_not_found"
    status, out, err = ask(program, "stats")
    assert (status, err) == (0, "")
    figures = dict(line.split(None, 1) for line in out.splitlines())
    assert figures["players"] == "1" and figures["refusals"] == "method_not_found 1"
    assert figures["requests"].startswith("buy 0, kick 0, login 1, logout 0, ping 0, players 0, ")
    assert re.match(r"1, mean \d\.\d+, 50 % up to (more than )?[\d.]+, "
                    r"99 % up to (more than )?[\d.]+$", figures["commit_seconds"])
    status, out, err = ask(program, "stats", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    figures = json.loads(out)
    assert figures["requests"]["stats"] == 2 and sum(figures["commit_seconds"]["counts"]) == 1


def test_a_histogram_is_told_by_the_bounds_of_its_shares():
    def describe(durations):
        histogram = Histogram()
        for seconds in durations:
            histogram.add(seconds)
        return describe_figure(json.loads(json.dumps(histogram.figures())))

    assert describe([]) == "none"
    assert describe([0.001] * 98 + [0.03, 7]) == \
        "100, mean 0.071280, 50 % up to 0.002, 99 % up to 0.1"
    assert describe([0.001, 7]) == "2, mean 3.500500, 50 % up to 0.002, 99 % up to more than 1.0"


@both
def test_players_are_listed_and_kicked(start, database):
    program = start(database=database)
    assert ask(program, "players") == (0, "", "")
    bob = Peer(program.port, "bob \x1b[31m")
    ann = Peer(program.port, "ann")
    status, out, err = ask(program, "players")
    assert (status, err) == (0, "")
    assert re.match(r" +\d s  127\.0\.0\.1:\d+ +\"ann\"\n +\d s  127\.0\.0\.1:\d+ +"
                    r"\"bob \\u001b\[31m\"\n$", out)
    assert ask(program, "kick", "ann") == (0, "\"ann\" is logged out\n", "")
    assert ann.line() is None
    assert 'nickname="ann"' in program.log() and "reason=kicked" in program.log()
    assert ask(program, "kick", "ann") == (
        1, "", "Nobody is logged in here with this nickname.\n")
    assert bob.exchange(request("ping"))["result"] == "pong"


def test_the_socket_is_named_by_option_and_variable(start, directory):
    elsewhere = os.path.join(directory, "elsewhere")
    program = start("--admin-socket", elsewhere)
    assert ask(program, "--admin-socket", elsewhere, "players") == (0, "", "")
    assert ask(program, "players", LAVKA_ADMIN_SOCKET=elsewhere) == (0, "", "")
    assert not os.path.exists(program.admin_path)


@pytest.mark.parametrize("command", [["stats"], ["stats", "--json"], ["players"], ["kick", "bob"]])
def test_no_server(start, command):
    program = start()
    program.kill()
    assert ask(program, *command) == (
        1, "", "No server answers at the admin socket %s: Connection refused; "
        "--admin-socket names another one.\n" % program.admin_path)


def test_a_server_that_was_asked_goes_on_when_the_operator_is_killed(program):
    operator = Peer(program.admin_path)
    operator.send(request("stats")[:-1])
    operator.reset()
    wait_for(lambda: program.stats()["clients"] == 0, "an answer")
