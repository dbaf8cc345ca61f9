"""The help of every command shows how it is called, in lines that its own options take."""

import re
import shlex

import pytest
from typer.main import get_command

from service.cli import app, run_command_line
from service.commands.examples import EXAMPLES

ENDS_A_COMMAND = {"&&", "|", ">", "<", ";"}


def walk(command, words=()):
    """Yield each command and group that help lists, with its words."""
    yield " ".join(words), command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from walk(below, (*words, name))


COMMANDS = dict(walk(get_command(app)))


def calls_in(line):
    """The words after `loadmaster` of each of its calls in a line for a shell."""
    calls, call = [], None
    for word in shlex.split(line):
        if word in ENDS_A_COMMAND:
            call = None
        elif word == "loadmaster":
            calls.append(call := [])
        elif call is not None:
            call.append(word)
    return calls


def parse(call):
    """Parse a call as the command line would, without running it; returns the words of its command."""
    command, words, rest = COMMANDS[""], [], list(call)
    while rest and rest[0] in getattr(command, "commands", {}):
        words.append(rest.pop(0))
        command = command.commands[words[-1]]
    command.make_context(" ".join(words), rest)  # raises where a word is none of its own
    return " ".join(words)


@pytest.mark.parametrize("words", COMMANDS)
def test_the_help_of_every_command_shows_examples_that_its_own_options_take(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run_command_line([*words.split(), "--help"]) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert EXAMPLES[words], "each command has an example"
    assert set(EXAMPLES[words]) <= set(shown)
    calls = [parse(call) for line in EXAMPLES[words] for call in calls_in(line)]
    assert any(re.match(rf"{words}\b", called) for called in calls), "an example is of the command itself"


def test_no_example_is_of_a_command_that_is_not_there():
    assert set(EXAMPLES) == set(COMMANDS)
