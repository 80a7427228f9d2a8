"""ezsr-synth: the command line, a thin layer over `ezsr_synth.run.synthesize`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from types import FrameType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ezsr_shards.command import (
    EXIT_INTERRUPTED,
    exit_code_of,
    parse_arguments,
    say,
    use_hyphens,
)
from ezsr_shards.errors import ConfigError, EzsrError
from ezsr_shards.making import RunOptions, summarize
from ezsr_shards.urls import show_url
from ezsr_synth.config import PRESET, CameraConfig, MotionConfig, SensorSize, SynthConfig
from ezsr_synth.presets import list_presets
from ezsr_synth.run import synthesize
from ezsr_synth.sources import SourceOptions

_NAMED = {"camera": "preset", "motion": "family"}


def build_parser() -> ArgumentParser:
    """Return the parser; every field of the configuration is an option, nested ones with dots."""
    parser = ArgumentParser(
        prog="ezsr-synth",
        description="Turn still pictures into event streams, as WebDataset tar shards.",
        exit_on_error=False,
    )
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="a picture, a folder, a class tree (folder = class), a .txt list, tars or URLs "
        "with {000..123} and ::, a folder such as s3://bucket/photos, or toy:N",
    )
    parser.add_argument(
        "out", metavar="OUT", help="folder or URL for the shards; rerun to continue"
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--size", type=str, default="224x224", help="sensor size WxH in pixels")
    parser.add_class_arguments(SynthConfig, None, skip={"size"})
    parser.add_class_arguments(SourceOptions, None, skip={"allow_pipe"})
    parser.add_class_arguments(RunOptions, None, skip={"overwrite"})
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the shard set in OUT and start anew"
    )
    parser.add_argument(
        "--allow-pipe",
        action="store_true",
        help="run the commands of pipe:COMMAND in IMAGES, as you wrote them, and read their tars",
    )
    parser.add_argument(
        "--list", choices=("cameras", "motions"), help="print what can be named, and stop"
    )
    parser.add_argument("--name", type=str, default="events", help="first part of file names")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="try a few pictures and print samples, GB and hours to expect; write nothing",
    )
    for section, kind in (("camera", CameraConfig), ("motion", MotionConfig)):
        left_out = [field.name for field in fields(kind) if field.default is PRESET]
        parser.set_defaults({f"{section}.{name}": PRESET for name in left_out})
        action = parser._option_string_actions[f"--{section}"]
        action.metavar, action.help = "NAME", f"short for --{section}.{_NAMED[section]}"
    return use_hyphens(parser)


def spell_out(argv: Sequence[str]) -> list[str]:
    """Return arguments with `--camera NAME` and `--motion NAME` as the options they stand for."""
    words = []
    for word in argv:
        option, equals, value = word.partition("=")
        section = option.removeprefix("--")
        if option.startswith("--") and section in _NAMED:
            option = f"{option}.{_NAMED[section]}"
        words += ["--list", value] if option == "--list" and equals else [option + equals + value]
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 (the run failed), 2 (bad usage) or 130 (interrupted)."""
    parser = build_parser()
    signal.signal(signal.SIGTERM, _interrupt)
    options: Namespace | None = None
    try:
        words = spell_out(sys.argv[1:] if argv is None else argv)
        if "--list" in words:  # which needs neither IMAGES nor OUT
            say(list_presets("".join(words[words.index("--list") + 1 :][:1])))
            return 0
        options = parse_arguments(parser, words, _NAMED)
        options.size = SensorSize.parse(options.size)
        for flag in ("overwrite", "dry_run", "allow_pipe"):
            if not isinstance(options[flag], bool):
                raise ConfigError(f"{flag} {options[flag]!r}: write true or false")
        config, source, run = (
            _take(options, kind) for kind in (SynthConfig, SourceOptions, RunOptions)
        )
        if options.dry_run:
            from ezsr_synth.estimate import estimate  # which loads the kernels

            say(estimate(options.images, config, source, run))
            return 0
        report = synthesize(options.images, options.out, config, source, run, options.name)
        say(summarize(report, show_url(options.out)))
        return 0
    except EzsrError as error:
        print(f"ezsr-synth: {error}", file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        where = show_url(options.out) if options else "OUT"
        print(
            f"\nezsr-synth: stopped. Finished shards are kept in {where}; run the same command "
            f"again to continue.",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


def _take(options: Namespace, kind: type[Any]) -> Any:
    """Build one configuration from the options that carry its fields' names."""
    names = kind.__dataclass_fields__
    return kind(**{name: getattr(options, name) for name in names})


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
