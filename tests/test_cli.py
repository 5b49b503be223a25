# -*- coding: utf-8 -*-
"""cli.py: the types of arguments, and the options that the programs share."""
from __future__ import unicode_literals

import argparse
import signal
import sys

import pytest
from playing import run

import cli
from constants import DATABASE, HOST, PORT, VERSION

UNDECODABLE = b"\xff" if str is bytes else "\udcff"     # byte 0xff of a command line in UTF-8


def word(text):
    """Return text as `sys.argv` has it."""
    return text.encode(sys.getfilesystemencoding()) if str is bytes else text


# --- types of arguments ---------------------------------------------------------------------

def test_text_is_decoded():
    assert cli.text(word("bob")) == cli.text("bob") == "bob"
    assert type(cli.text(word("bob"))) is cli.Text
    with pytest.raises(argparse.ArgumentTypeError):
        cli.text(UNDECODABLE)


@pytest.mark.parametrize("argument, number", [("0", 0), ("7777", 7777), ("65535", 65535)])
def test_port_is_a_number(argument, number):
    assert cli.port(word(argument)) == number


@pytest.mark.parametrize("argument", ["-1", "65536", "", "x", "1.5", "9" * 30])
def test_invalid_port_is_refused(argument):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.port(word(argument))


def test_path_is_not_empty():
    assert cli.path(word("lavka.db")) == "lavka.db"
    with pytest.raises(argparse.ArgumentTypeError):
        cli.path(word(""))


@pytest.mark.parametrize("argument, number", [("5", 5), ("-5", -5), ("+1", 1)])
def test_credits_to_grant_are_a_number(argument, number):
    assert cli.credits_to_grant(word(argument)) == number


@pytest.mark.parametrize("argument", ["0", "", "five", "1.5"])
def test_invalid_credits_to_grant_are_refused(argument):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.credits_to_grant(word(argument))


# --- options --------------------------------------------------------------------------------

@pytest.fixture
def parse(monkeypatch):
    """Return a function that parses arguments with all shared options.

    Its keyword arguments are environment variables.
    """
    def parse_arguments(*arguments, **variables):
        for name in ("LAVKA_HOST", "LAVKA_PORT", "LAVKA_DATABASE"):
            monkeypatch.delenv(str(name), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(str(name), value if isinstance(value, str) else str(value))
        parser = cli.Parser(prog="program")
        cli.add_address_options(parser)
        cli.add_database_option(parser)
        options = parser.parse_args(list(arguments))
        return options.host, options.port, options.database

    return parse_arguments


def test_flags_override_the_environment_and_it_overrides_the_defaults(parse):
    variables = {"LAVKA_HOST": "::1", "LAVKA_PORT": "1", "LAVKA_DATABASE": "other.db"}
    assert parse() == (HOST, PORT, DATABASE)
    assert parse(**variables) == ("::1", 1, "other.db")
    assert parse("--host", "shop", "--port", "2", "--database", "a.db", **variables) \
        == ("shop", 2, "a.db")
    assert parse(**dict.fromkeys(variables, "")) == (HOST, PORT, DATABASE)


@pytest.mark.parametrize("variable, value", [
    ("LAVKA_PORT", "x"), ("LAVKA_PORT", "65536"), ("LAVKA_PORT", " "), ("LAVKA_PORT", UNDECODABLE),
    ("LAVKA_HOST", UNDECODABLE)])
def test_invalid_variable_is_named_and_a_flag_overrides_it(parse, capsys, variable, value):
    with pytest.raises(SystemExit) as caught:
        parse(**{variable: value})
    assert caught.value.code == 2
    error = capsys.readouterr()[1].splitlines()[-1]
    assert error.startswith("program: error: environment variable %s: " % variable)
    assert "--" not in error
    assert parse("--host", "shop", "--port", "2", **{variable: value}) == ("shop", 2, DATABASE)


@pytest.mark.parametrize("arguments", [
    ["--port", "postgresql://bob:secret@host/shop"], ["postgresql://bob:secret@host/shop"],
    ["--database", "a.db", "postgresql://bob:secret@host/shop?x=y"]])
def test_url_is_hidden_in_an_error(parse, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert "postgresql:/..." in err
    assert "secret" not in err and "host/shop" not in err


def test_version_is_printed_and_ends_the_program(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.Parser(prog="program").parse_args(["--version"])
    assert not caught.value.code
    assert "".join(capsys.readouterr()).strip() == "Lavka %s" % VERSION     # 2.7: standard error


def test_parser_without_help_has_no_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.Parser(prog="program", add_help=False).parse_args(["--version"])
    assert caught.value.code == 2


def test_client_prints_its_version():
    status, out, err = run(None, [], "--version")
    assert status == 0
    assert (out + err).strip() == "Lavka %s" % VERSION                      # 2.7: standard error


def test_ctrl_c_ends_the_program_by_default_action():
    handler = signal.getsignal(signal.SIGINT)
    try:
        cli.prepare_process()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, handler)
