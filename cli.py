# -*- coding: utf-8 -*-
"""What the programs share: their start, their options and types, and standard files that wait."""
from __future__ import unicode_literals

import argparse
import io
import os
import re
import select
import signal
import sys

from constants import DATABASE, HOST, MAX_REASON, METRICS_PORT, PORT, VERSION
from text import Text, encoding_name, is_whole, quote


class CommandFailed(Exception):
    """A command was not carried out; the text is one sentence for whoever typed it."""


def prepare_process():
    """Prepare the process of a program, before the program's other modules are imported.

    Ctrl-C ends it without a traceback; `main` of most programs then sets handlers. A standard file
    that the parent has closed becomes /dev/null: or a socket would get its number, and log lines.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)     # the lowest number that is free
    os.close(descriptor)


# --- options ----------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    """An argument parser with --version, and with options that an environment variable stands for.

    Its error messages leave out all of a URL but the scheme: a URL may contain a password.
    """

    def __init__(self, *arguments, **options):
        super(Parser, self).__init__(*arguments, **options)
        self.variables = []             # (name in the options, variable, type, default)
        if options.get("add_help", True):
            self.add_argument("--version", action="version", version="Lavka %s" % VERSION)

    def add_option(self, name, kind, default, meaning, metavar=None):
        """Add --NAME, whose default is the variable LAVKA_NAME, or else `default`.

        None stands for a default that the meaning tells.
        """
        variable = "LAVKA_" + name.upper().replace("-", "_")
        self.variables.append((name.replace("-", "_"), variable, kind, default))
        self.add_argument("--" + name, metavar=metavar or name.upper(), type=kind,
                          help="%s (default: %s%s)" % (
                              meaning, variable, "" if default is None else ", or %s" % default))

    def parse_known_args(self, *arguments, **options):
        chosen, rest = super(Parser, self).parse_known_args(*arguments, **options)
        for name, variable, kind, default in self.variables:
            if getattr(chosen, name) is None:
                word = os.environ.get(variable)
                try:
                    setattr(chosen, name, kind(word) if word else default)
                except argparse.ArgumentTypeError as error:     # argparse would name the option
                    self.error("environment variable %s: %s" % (variable, error))
        return chosen, rest

    def error(self, message):
        super(Parser, self).error(re.sub(r":/\S+", ":/...", message))


def add_address_options(parser):
    """Add --host and --port."""
    parser.add_option("host", text, HOST, "the server's address")
    parser.add_option("port", port, PORT, "its TCP port")


def add_database_option(parser):
    """Add --database."""
    parser.add_option("database", path, DATABASE,
                      "an SQLite file, or postgresql://user:password@host/name")


def add_admin_socket_option(parser):
    """Add --admin-socket; without one it is None, for `admin_socket.default_path`.

    That needs a port. A program without --port has LAVKA_PORT in the options, or the default.
    """
    parser.add_option("admin-socket", path, None, "the Unix socket for operators; if none is "
                      "named, DATABASE.sock, or lavka-PORT.sock on PostgreSQL", "PATH")
    if not any(variable == "LAVKA_PORT" for _, variable, _, _ in parser.variables):
        parser.variables.append(("port", "LAVKA_PORT", port, PORT))
        parser.set_defaults(port=None)


def add_exporter_options(parser):
    """Add the options of deploy/exporter.py; `listen` is (port, host)."""
    add_database_option(parser)
    add_admin_socket_option(parser)
    parser.add_argument("--listen", type=port_and_host, default=(METRICS_PORT, HOST),
                        metavar="[HOST:]PORT", help="where Prometheus asks (default: %s:%d)"
                        % (HOST, METRICS_PORT))


# --- types of arguments -----------------------------------------------------------------------
# Each takes a word of the command line or the environment, which is bytes on 2.7. Each raises
# ArgumentTypeError for what it does not accept.

def text(argument):
    """Return the word as text."""
    try:
        if type(argument) is not Text:
            argument = argument.decode(sys.getfilesystemencoding())     # 2.7
        argument.encode("utf-8")        # fails for surrogates of bytes not decoded
        return argument
    except UnicodeError:
        raise argparse.ArgumentTypeError(
            "it is not text in %s" % encoding_name(sys.getfilesystemencoding()))


def port(argument):
    """Return the number of a TCP port."""
    try:
        number = int(argument)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(
            "%s is not a port; ports are 0 to 65535" % quote(text(argument)))
    return number


def port_and_host(argument):
    """Return (port, host) of [HOST:]PORT; an IPv6 address is in brackets, or not."""
    host, _, number = text(argument).rpartition(":")
    return port(number), host.strip("[]") or HOST


def path(argument):
    """Return the name of a file, or a URL; 3.x has surrogates for bytes that are no text."""
    if not argument:
        raise argparse.ArgumentTypeError("the name of a file cannot be empty")
    return argument if type(argument) is Text else text(argument)


def credits_to_grant(argument):
    """Return a number of credits other than 0."""
    try:
        number = int(argument)
    except ValueError:
        number = 0
    if not number:
        raise argparse.ArgumentTypeError("%s is not a number of credits to give or take" % argument)
    return number


def reason(argument):
    """Return why something is given, for the ledger, as text."""
    word = text(argument)
    if not 0 < len(word) <= MAX_REASON or "\0" in word or not is_whole(word):
        raise argparse.ArgumentTypeError("a reason is text of 1 to %d characters" % MAX_REASON)
    return word


# --- standard files ---------------------------------------------------------------------------

class StandardFile(io.FileIO):
    """Standard input or output, unbuffered; it waits even if it is non-blocking.

    The parent process may share a pipe that has O_NONBLOCK, as Node does. The flag stays as it is,
    since it is not this process's own (open(2)).
    """

    def __init__(self, stream, mode):
        super(StandardFile, self).__init__(stream.fileno(), mode, closefd=False)

    def readinto(self, buffer):
        """Fill the buffer with what comes; return how many bytes, 0 at the end of the input."""
        while True:
            count = super(StandardFile, self).readinto(buffer)
            if count is not None:               # None is EAGAIN
                return count
            select.select([self], [], [])

    def write(self, data):
        """Write some of the bytes; return how many."""
        while True:
            count = super(StandardFile, self).write(data)
            if count is not None:
                return count
            select.select([], [self], [])
