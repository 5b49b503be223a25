# -*- coding: utf-8 -*-
"""The exporter for Prometheus, its dashboard and its alarms: real servers, scraped over HTTP."""
from __future__ import unicode_literals

import io
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT, Peer, environment, free_port, wait_for

if sys.version_info < (3, 8):
    pytest.skip("prometheus_client needs Python 3.8", allow_module_level=True)

from itertools import accumulate
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

import constants
from protocol import ErrorCode

needs_promtool = pytest.mark.skipif(
    not any(os.access(os.path.join(path, "promtool"), os.X_OK)
            for path in os.environ["PATH"].split(os.pathsep)), reason="there is no promtool here")


class Exporter(object):
    """deploy/exporter.py in a subprocess; an argument may have {port} for a port of its own."""

    def __init__(self, *arguments, **variables):
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "deploy", "exporter.py")]
            + [argument.format(port=self.port) for argument in arguments],
            stderr=subprocess.PIPE, env=environment(**variables),
            cwd=os.sep)     # a shop may be running in the directory of the tests

    def page(self, host="127.0.0.1"):
        """What a scrape gets, as text."""
        def scraped():
            assert self.process.poll() is None, self.process.stderr.read()
            try:
                url = "http://%s:%d/metrics" % (host, self.port)
                with urlopen(url, timeout=PATIENCE) as response:
                    return response.read().decode("utf-8")
            except HTTPError:                   # a URLError, too
                raise
            except URLError:
                return None
        return wait_for(scraped, "the exporter to listen")

    def scrape(self):
        """{(name, values of its labels ...): value} of all samples."""
        return {(sample.name,) + tuple(sample.labels.values()): sample.value
                for family in text_string_to_metric_families(self.page())
                for sample in family.samples}

    def close(self):
        """End it; returns what it has written to standard error."""
        self.process.kill()
        return self.process.communicate()[1].decode("utf-8")


@pytest.fixture
def export():
    """A function that starts an `Exporter`; every one is ended, and none may have said a word."""
    started = []

    def start_exporter(*arguments, **variables):
        started.append(Exporter("--listen", "{port}", *arguments, **variables))
        return started[-1]

    yield start_exporter
    assert "".join([exporter.close() for exporter in started]) == ""


@pytest.fixture
def exporter(export, program):
    return export("--admin-socket", program.admin_path)


def promtool(*arguments, **options):
    """Have promtool check a file, or a page of metrics; returns what it says of it."""
    process = subprocess.Popen(("promtool", "check") + arguments, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.communicate(options.get("page", "").encode("utf-8"))[0].decode("utf-8")
    assert process.returncode == 0, said
    return said


# --- what is exported -----------------------------------------------------------------------------

def test_every_figure_is_exported(exporter, program):
    player = Peer(program.port, "bob")
    player.call("buy", item="potion")
    assert "error" in player.call("buy", item="potion")
    stats, samples = program.stats(), exporter.scrape()
    assert samples["lavka_up",] == samples["lavka_build_info", constants.VERSION] == 1
    for name in ("clients", "max_clients", "players", "largest_batch", "unsent_bytes"):
        assert samples["lavka_" + name,] == stats.pop(name)
    for name in ("trades", "commits", "log_lost"):
        assert samples["lavka_%s_total" % name,] == stats.pop(name)
    for name in ("uptime_seconds", "wal_bytes"):        # both may have grown since
        assert samples["lavka_" + name,] >= stats.pop(name) > 0
    requests, refusals = stats.pop("requests"), stats.pop("refusals")
    for method, number in requests.items():     # the scrape is a request, too
        assert samples["lavka_requests_total", method] == number + (method == "stats")
    for code in ErrorCode:                      # zeros included
        reason = code.value[1]
        assert samples["lavka_refusals_total", reason] == refusals.pop(reason, 0)
    assert refusals == {} and sorted(stats) == ["commit_seconds", "tick_seconds", "version"]
    assert len(samples) == 12 + len(requests) + len(ErrorCode) + 2 * 10


def test_histograms_are_cumulative(exporter, program):
    player = Peer(program.port, "bob")
    for _ in range(20):
        player.call("buy", item="potion")
        player.call("sell", item="potion")
    times, samples = program.stats()["commit_seconds"], exporter.scrape()
    bounds = ["%s" % bound for bound in constants.HISTOGRAM_BOUNDS] + ["+Inf"]
    assert [samples["lavka_commit_seconds_bucket", bound] for bound in bounds] \
        == list(accumulate(times["counts"]))
    assert samples["lavka_commit_seconds_count",] == sum(times["counts"]) == 41
    assert samples["lavka_commit_seconds_sum",] == times["sum"] > 0
    assert samples["lavka_tick_seconds_bucket", "+Inf"] >= 41


@needs_promtool
def test_names_and_units_follow_the_conventions(exporter, program):
    assert promtool("metrics", page=exporter.page()) == ""
    program.kill()
    assert promtool("metrics", page=exporter.page()) == ""


# --- a server that is away, and where it is -------------------------------------------------------

def test_scrape_of_a_server_that_is_away_says_so(export, start, directory):
    exporter = export("--admin-socket", os.path.join(directory, "lavka.db.sock"))
    assert exporter.scrape() == {("lavka_up",): 0}
    for _ in range(2):                          # counters begin again
        program = start()
        assert exporter.scrape()["lavka_requests_total", "stats"] == 1
        program.kill()
        assert exporter.scrape() == {("lavka_up",): 0}


def test_scrape_of_something_else_says_that_no_server_answers(export, directory):
    path = os.path.join(directory, "file")
    io.open(path, "w").close()
    assert export("--admin-socket", path).scrape() == {("lavka_up",): 0}


@pytest.mark.parametrize("variable, option", [
    ("LAVKA_DATABASE", None), ("LAVKA_ADMIN_SOCKET", None), (None, "--database"),
    (None, "--admin-socket")])
def test_server_is_found_as_by_the_other_programs(export, program, variable, option):
    place = program.admin_path if "ADMIN" in (variable or option).upper() else program.database
    exporter = export(*[option, place] if option else [], **{variable: place} if variable else {})
    assert exporter.scrape()["lavka_up",] == 1


# --- where it listens -----------------------------------------------------------------------------

def test_exporter_listens_on_loopback_unless_told_otherwise(export):
    exporter = export()
    assert exporter.scrape() == {("lavka_up",): 0}
    with pytest.raises(URLError):
        urlopen("http://127.0.0.2:%d/metrics" % exporter.port)


@pytest.mark.parametrize("listen, host", [("127.0.0.2:{port}", "127.0.0.2"),
                                          ("[::1]:{port}", "[::1]")])
def test_exporter_listens_on_the_address_that_it_is_told(export, listen, host):
    assert "lavka_up 0.0\n" in export("--listen", listen).page(host)


@pytest.mark.parametrize("listen, problem", [
    ("{port}", "cannot listen there: Address already in use"),
    ("nowhere", 'argument --listen: "nowhere" is not a port; ports are 0 to 65535')])
def test_exporter_that_cannot_listen_says_why(exporter, listen, problem):
    exporter.page()
    other = Exporter("--listen", listen.format(port=exporter.port))
    assert other.process.wait() == 2
    assert other.close().splitlines()[-1] == "exporter.py: error: " + problem


def test_ctrl_c_ends_it_quietly(export):
    exporter = export()
    exporter.page()
    exporter.process.send_signal(2)
    assert exporter.process.wait() == -2


# --- the dashboard, and what the manual says ------------------------------------------------------

def read(*path):
    with io.open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def blocks():
    """The YAML of the manual: the configuration of Prometheus, and the rules of alarms."""
    return re.findall("^```yaml\n(.*?)^```$", read("docs", "operations.md"),
                      re.MULTILINE | re.DOTALL)


def names(expressions):
    return set(re.findall(r"\blavka_\w+", " ".join(expressions)))


def test_dashboard_names_metrics_that_are_exported(exporter):
    panels = json.loads(read("deploy", "dashboard.json"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    exported = {sample[0] for sample in exporter.scrape()}
    assert names(expressions) == {"lavka_players", "lavka_max_clients", "lavka_trades_total",
                                  "lavka_commit_seconds_bucket", "lavka_refusals_total"}
    assert names(expressions) <= exported


def test_alarms_of_the_manual_name_metrics_that_are_exported(exporter):
    _, rules = blocks()
    expressions = re.findall("expr: (.*)", rules)
    assert len(expressions) == 3 and len(names(expressions)) > 2
    assert names(expressions) <= {sample[0] for sample in exporter.scrape()}


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_rules_of_the_manual(directory):
    for name, text in zip(("prometheus.yml", "lavka.yml"), blocks()):
        with io.open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)
    said = promtool("config", os.path.join(directory, "prometheus.yml"))
    assert "SUCCESS: 3 rules found" in said


def test_manual_names_the_port_of_the_exporter():
    assert "127.0.0.1:%d" % constants.METRICS_PORT in blocks()[0]
