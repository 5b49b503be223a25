# -*- coding: utf-8 -*-
"""The command-line options that the programs share, and their types."""
from __future__ import unicode_literals

import argparse
import os
import re
import signal
import sys

from constants import DATABASE, HOST, PORT, VERSION
from text import Text


def end_on_ctrl_c():
    """Let Ctrl-C end this program without a traceback.

    For the first moments, while modules are imported; `main` of most programs then sets handlers.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_standard_descriptors():
    """Open /dev/null as each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the first files and sockets opened get these numbers, and a client or a database the
    lines that are written to standard error. To be called before anything is opened.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except EnvironmentError:
            os.open(os.devnull, os.O_RDWR)              # gets the lowest number that is free


class Parser(argparse.ArgumentParser):
    """An argument parser with --version.

    Its error messages leave out all of a URL but the scheme: a URL may contain a password.
    """

    def __init__(self, *arguments, **options):
        super(Parser, self).__init__(*arguments, **options)
        if options.get("add_help", True):
            self.add_argument("--version", action="version", version="Lavka %s" % VERSION)

    def error(self, message):
        super(Parser, self).error(re.sub(r":/\S+", ":/...", message))


def add_address_options(parser):
    """Add --host and --port, with defaults from the environment, else from constants.py."""
    parser.add_argument("--host", type=text, default=os.environ.get("LAVKA_HOST") or HOST,
                        help="the server's address (default: LAVKA_HOST, or %s)" % HOST)
    parser.add_argument("--port", type=port, default=os.environ.get("LAVKA_PORT") or PORT,
                        help="its TCP port (default: LAVKA_PORT, or %d)" % PORT)


def add_database_option(parser):
    """Add --database, with its default from the environment, else from constants.py."""
    parser.add_argument("--database", metavar="DATABASE", type=path,
                        default=os.environ.get("LAVKA_DATABASE") or DATABASE,
                        help="an SQLite file, or postgresql://user:password@host/name "
                        "(default: LAVKA_DATABASE, or %s)" % DATABASE)


# --- types of arguments -----------------------------------------------------------------------
# Each takes a word of the command line or the environment, which is bytes on 2.7. Each raises
# ArgumentTypeError, or ValueError, for what it does not accept.

def text(argument):
    """Return the word as text."""
    return argument if type(argument) is Text else argument.decode(sys.getfilesystemencoding())


def port(argument):
    """Return the number of a TCP port."""
    number = int(argument)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("%s is not a port; ports are 0 to 65535" % argument)
    return number


def path(argument):
    """Return the name of a file, or a URL."""
    if not argument:
        raise argparse.ArgumentTypeError("the name of a file cannot be empty")
    return text(argument)


def nickname(argument):
    """Return a nickname; bytes of the command line that were no text are refused."""
    try:
        name = text(argument)
        name.encode("utf-8")
        return name
    except UnicodeError:
        raise argparse.ArgumentTypeError("a nickname is text")


def credits_to_grant(argument):
    """Return a number of credits other than 0."""
    try:
        number = int(argument)
    except ValueError:
        number = 0
    if not number:
        raise argparse.ArgumentTypeError("%s is not a number of credits to give or take" % argument)
    return number
