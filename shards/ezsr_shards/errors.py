"""Errors that a user can act on: one sentence with the field, its value and the remedy."""

from numbers import Integral, Real


class EzsrError(Exception):
    """Base of every error that the command line prints as one sentence, without a traceback."""


class ConfigError(EzsrError):
    """An option or a combination of options makes no sense; nothing was started."""


class InputError(EzsrError):
    """The pictures, or the list of them, cannot be used as given."""


class OutputError(EzsrError):
    """The output folder cannot be used as asked; nothing in it was changed."""


class ShardError(EzsrError):
    """A shard, or a sample in it, breaks the contract."""


class StoreError(EzsrError):
    """A store could not be reached, however often it was tried; a later try may succeed."""


class RunError(EzsrError):
    """A run began but could not end as it should; what is complete is kept."""


def check_number(field_name: str, value: float, least: float, most: float) -> None:
    """Raise ConfigError unless least <= value <= most (which also refuses NaN).

    Where both bounds are int, the value must be a whole number, too.
    """
    whole = isinstance(least, int) and isinstance(most, int)
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"{field_name} {value!r}: give {kind} from {least:g} to {most:g}")
    if not least <= value <= most:
        raise ConfigError(f"{field_name} {value}: give a value from {least:g} to {most:g}")
