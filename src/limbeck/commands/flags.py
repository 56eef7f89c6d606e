"""Messages of the library in the words of the command: flags in the place of Python arguments.

    in_flags('No text; pass text_column=, or label_column="".', "distill")
    # No text; pass --text_column, or --label_column "".

What this file does not know: which messages there are. A name that is no option of the command stays as it is.
"""

import re

from limbeck.commands.known import known_options

FLAG_OF = {"augment": "jitter", "processing_class": "tokenizer", "folder": "output_dir"}
"""Python arguments whose option has another name."""

VALUE = r"\"[^\"]*\"|\([^()]*\)|\.\.\.|\d[\d.e-]*|[A-Za-z]\w*(?![\w.(])|"
"""What stands after `name=` in a message: a text, a tuple, dots, a number, a word, or nothing."""

KEYWORD = re.compile(rf"(?<![\w.'\"`/-])(?P<quote>`?)(?P<name>[a-z]\w*)=(?P<value>{VALUE})(?![\w{{])(?P=quote)")
"""An argument as Python writes it."""

NAME = re.compile(r"(?<![\w.'\"`/=-])(?P<name>[a-z]+(?:_[a-z0-9]+)+)(?![\w'\"`/=(]|\.\w)")
"""A name of several words that stands in a sentence as it is: not quoted, in a path, an attribute or a call."""

SETS = re.compile(r"\b(?P<verb>lower|raise|set) (?P<name>[a-z]\w*)\b(?!\.\w)")
"""A name of one word after such a verb is an option."""

TWICE = {
    r"(--\w+) of limbeck\.\w+": r"\1",
    r"(--\w+) \(\1\)": r"\1",
    r"(--\w+), or (\1 )": r"\2",
    r"(--\w+)(?: \S+)? \(the command: (\1 [^\s)]+)\)": r"\2",
}
"""Messages that name the Python argument and the flag would name the flag twice: what to write in the place of both."""


def in_flags(message: str, command: str) -> str:
    """A message in which the arguments that are options of the command are written as its flags.

    message: a LimbeckError's. command: a subcommand.
    """
    known = known_options(command)

    def flag(name: str) -> str | None:
        name = FLAG_OF.get(name, name)
        return f"--{name}" if name in known else None

    def keyword(found: re.Match[str]) -> str:
        named = flag(found["name"])
        if named is None or _in_call(message, found.start()):
            return found[0]
        return f"{named} {_as_word(found['value'])}".rstrip()

    message = re.sub(r"; in Python [a-z_]+=?(?: and [a-z_]+=?)?(?=[;,)])", "", message)
    message = KEYWORD.sub(keyword, message)
    message = NAME.sub(lambda found: flag(found["name"]) or found[0], message)
    message = SETS.sub(lambda found: f"{found['verb']} {flag(found['name']) or found['name']}", message)
    for twice, once in TWICE.items():
        message = re.sub(twice, once, message)
    return message


def _as_word(value: str) -> str:
    """A value as a shell takes it; nothing for dots, a tuple and the name of a variable."""
    if value in ("True", "False"):
        return value.lower()
    if value.startswith('"') and " " not in value:
        return value.strip('"') or value
    return value if value.startswith('"') or value[:1].isdigit() else ""


def _in_call(message: str, place: int) -> bool:
    """Whether a place is among the arguments of a call that the message spells out."""
    before, depth = message[:place], 0
    for at in range(place - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(before[at], 0)
        if depth < 0:
            return at > 0 and (before[at - 1].isalnum() or before[at - 1] == "_")
    return False
