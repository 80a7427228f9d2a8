"""Templates: the sentences that class names are put into."""

from __future__ import annotations

from pathlib import Path

import open_clip

from ezsr_shards.errors import InputError

PLAIN = ("{}", "a photo of {}", "a picture of {}", "this is {}")
_OBJECT = ("a photo of a {}", "a photo of the {}", "a grey picture of a {}", "an outline of a {}")
_DIGIT = ("{}", "the digit {}", "a handwritten {}", "a picture of the number {}")
_ACTION = (
    "{}",
    "a person {}",
    "a video of a person {}",
    "someone is {}",
    "the action of {}",
)
_PEOPLE = ("{}", "two people {}", "a video of two people {}", "the action of {}")


def imagenet_templates() -> tuple[str, ...]:
    """Return OpenAI's 80 templates for ImageNet, as open_clip has them."""
    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


_NAMED = {
    "plain": PLAIN,
    "object": _OBJECT,
    "digit": _DIGIT,
    "action": _ACTION,
    "people": _PEOPLE,
}
_OF_DATA_SET = {
    "n-imagenet": "imagenet",
    "n-caltech101": "object",
    "cifar10-dvs": "object",
    "n-mnist": "digit",
    "hardvs": "action",
    "dailydvs-200": "action",
    "daily-action": "action",
    "paf": "action",
    "bullying10k": "people",
    "ucf101-dvs": "action",
}
NAMES = ("imagenet", *_NAMED)


def templates_for(data_set: str | None) -> str:
    """Return the name of the templates that a data set is scored with by default."""
    return _OF_DATA_SET.get(data_set or "", "plain")


def read_templates(choice: str) -> tuple[str, ...]:
    """Return templates by name, or those of a file, one a line, with {} where the name goes.

    Raises InputError for another name, or a line without its {}.
    """
    if choice == "imagenet":
        return imagenet_templates()
    if choice in _NAMED:
        return _NAMED[choice]
    path = Path(choice)
    if not path.is_file():
        raise InputError(f"templates {choice!r}: no such file, and none of {', '.join(NAMES)}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"templates {choice}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and line.count("{}") != 1:
            raise InputError(
                f"templates {choice}, line {number}: {line!r} must have {{}} once, where the "
                f"class name goes"
            )
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise InputError(f"templates {choice}: holds no line")
    return found
