"""What our command lines share: parsing, one sentence per mistake, exit codes."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from ezsr_shards.errors import ConfigError, EzsrError, InputError, OutputError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_KINDS = {
    "tuple": "two numbers, [least,most]",
    "<class 'float'>": "a number",
    "<class 'int'>": "a whole number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text, in quotes where it looks like something else",
}
"""What jsonargparse calls the kinds of our options, the widest first, and what we call them."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def use_hyphens(parser: ArgumentParser) -> ArgumentParser:
    """Spell every option with hyphens, as command lines do; underscores are still accepted."""
    for action in parser._actions:
        for option in list(action.option_strings):
            if option.startswith("--") and "_" in option and option != "--print_config":
                hyphenated = option.replace("_", "-")
                action.option_strings = [hyphenated]
                parser._option_string_actions[hyphenated] = action
    return parser


def parse_arguments(
    parser: ArgumentParser, argv: Sequence[str] | None, named: Mapping[str, str] | None = None
) -> Namespace:
    """Parse and instantiate; raise ConfigError with one sentence for whatever is wrong.

    named  the option of each section that a user may have meant by a value for the whole section
    """
    try:
        options: Namespace = parser.instantiate(parser.parse_args(argv))
    except argparse.ArgumentError as error:
        text = _in_our_words(" ".join(str(error).split()), named or {})
        text = _as_written(text, parser)
        raise ConfigError(f"{text} (see {parser.prog} --help)") from error
    except (TypeError, ValueError, AttributeError) as error:  # YAML of other shapes than ours
        text = " ".join(str(error).split())
        if "must be a mapping" in text:  # jsonargparse tells how it calls, not what is wrong
            text = "a section of the YAML file is no mapping of options"
        raise ConfigError(f"options: {text} (see {parser.prog} --help)") from error
    return options


def _in_our_words(text: str, named: Mapping[str, str]) -> str:
    """Return what jsonargparse says of an option as field, value and remedy, where it can be."""
    if text.startswith("Unexpected config:"):
        return "config: the file gives no option a value; write lines such as 'seed: 1' in it"
    found = re.match(r"""Parser key "([^"]+)": Unable to load config ['"](.*?)['"] - """, text)
    if found:
        section, value = found.groups()
        name = f"{named[section]}: {value}" if section in named else "NAME: VALUE"
        return f"{section} {value!r}: in a file, write '{name}' on a line of its own below it"
    found = re.match(r'Parser key "([^"]+)": (.*)(?:Given|Got) value: ?(.*)$', text)
    expected = found.group(2).partition("Given value type")[0] if found else ""
    choice = re.search(r"Literal\[(.*?)\]", expected)
    kinds = [words for kind, words in _KINDS.items() if kind in expected]
    if found and (choice or kinds):
        remedy = choice.group(1).replace("'", "").replace(", ", " or ") if choice else kinds[0]
        return f"{found.group(1)} {found.group(3) or repr('')}: give {remedy}"
    return text


def _as_written(text: str, parser: argparse.ArgumentParser) -> str:
    """Return an error's text with the arguments that it misses as the command line has them."""
    head, required, names = text.partition(" required: ")
    written = dict(_spellings(parser))
    return head + required + ", ".join(written.get(name, name) for name in names.split(", "))


def _spellings(parser: argparse.ArgumentParser, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name that jsonargparse gives an argument, and how a command line spells it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, one in action.choices.items():
                yield from _spellings(one, f"{command}.")
        else:
            shown = action.option_strings[0] if action.option_strings else action.metavar
            yield above + action.dest, str(shown or action.dest)


def say(text: str) -> None:
    """Print a result; a reader that has gone away does not make the work a failure."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush


def exit_code_of(error: EzsrError) -> int:
    """Return 2 where the command was wrong and nothing was done, else 1."""
    wrong = (ConfigError, InputError, OutputError)
    return EXIT_USAGE if isinstance(error, wrong) else EXIT_FAILED


def format_bytes(size: float) -> str:
    """Return a size in the largest unit that leaves at least 1, such as '1.5 GB'."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
