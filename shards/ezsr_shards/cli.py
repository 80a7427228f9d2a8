"""ezsr-shards: look at shard sets and check them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ezsr_shards.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    exit_code_of,
    format_bytes,
    parse_arguments,
    say,
    use_hyphens,
)
from ezsr_shards.draw import Tile, contact_sheet, save_gif
from ezsr_shards.errors import ConfigError, EzsrError, InputError, OutputError, ShardError
from ezsr_shards.sample import Sample, decode_jpeg
from ezsr_shards.shardset import (
    count_reasons,
    list_reasons,
    read_classes,
    read_config,
    read_records,
)
from ezsr_shards.verify import iterate_samples, verify


@dataclass(frozen=True)
class ViewOptions:
    """What `ezsr-shards view` draws."""

    to: str | None = None
    """File to write, .png or .gif; by default OUT/view.png."""
    key: str | None = None
    """Draw this sample only; a .gif shows the first one by default."""
    samples: int = 24
    """Samples on the contact sheet."""
    columns: int = 4
    """Samples side by side."""


def build_parser() -> ArgumentParser:
    """Return the parser with its subcommands."""
    parser = ArgumentParser(
        prog="ezsr-shards", description="Look at shard sets and check them.", exit_on_error=False
    )
    commands = parser.add_subcommands(dest="command")
    for command, text in (
        ("info", "print counts and sizes"),
        ("verify", "check everything; name the first fault"),
        ("view", "draw a contact sheet (PNG), or one sample moving (GIF)"),
    ):
        one = ArgumentParser(description=text, exit_on_error=False)
        one.add_argument("folder", metavar="OUT", type=str, help="folder that ezsr-synth wrote")
        if command == "view":
            one.add_class_arguments(ViewOptions, None)
        commands.add_subcommand(command, use_hyphens(one), help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return 0, 1 (a check failed) or 2 (bad usage)."""
    try:
        options = parse_arguments(build_parser(), argv)
        if options.command is None:
            raise ConfigError("give a command: info, verify or view (see ezsr-shards --help)")
        arguments = options[options.command]
        command = {"info": _info, "verify": _verify, "view": _view}[options.command]
        say(command(Path(arguments.folder), arguments))
        return 0
    except EzsrError as error:
        print(f"ezsr-shards: {error}", file=sys.stderr)
        return exit_code_of(error)
    except OSError as error:
        print(f"ezsr-shards: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _info(folder: Path, options: Any) -> str:
    return describe(folder)


def describe(folder: Path) -> str:
    """Return a shard set's counts and sizes, a line each."""
    config = read_config(folder)
    records = read_records(folder, str(config.get("name")))
    samples = sum(record.samples for record in records)
    events = sum(record.events for record in records)
    on = sum(record.on_events for record in records)
    failures = count_reasons([failure for record in records for failure in record.failures])
    lines = [
        ("shards", f"{len(records)} of {config.get('shards')} complete"),
        ("pictures", str(sum(record.pictures for record in records))),
        ("samples", str(samples)),
        ("events", f"{events}, {events / max(samples, 1):.0f} a sample"),
        ("ON share", f"{on / max(events, 1):.1%}"),
        ("size", format_bytes(sum(record.size_bytes for record in records))),
        ("failures", list_reasons(failures) or "none"),
    ]
    try:
        classes, split = read_classes(folder)
        present = {label for record in records for label in record.labels}
        lines.append(("classes", f"{len(classes)}, {len(present)} with samples"))
        lines.append(("split", split or "not named"))
    except ShardError:
        lines.append(("classes", "not written yet: the run did not end"))
    synthesis = config.get("synthesis", {})
    lines.append(("sensor", f"{synthesis.get('size')}, fit {synthesis.get('fit')}"))
    lines.append(("seed", str(synthesis.get("seed"))))
    return "\n".join(f"{name:10}{value}" for name, value in lines)


def _verify(folder: Path, options: Any) -> str:
    found = verify(folder)
    return (
        f"{folder}: {found.samples} samples with {found.events} events in {found.shards} shards "
        f"keep the contract"
    )


def _view(folder: Path, options: Any) -> str:
    path = Path(options.to) if options.to else folder / "view.png"
    if path.suffix.lower() not in (".png", ".gif"):
        raise ConfigError(f"to {path}: the name must end in .png or .gif")
    if options.samples < 1 or options.columns < 1:
        raise ConfigError("samples, columns: give 1 or more")
    samples = iterate_samples(folder)
    if options.key is not None:
        samples = (sample for sample in samples if sample.key == options.key)
    chosen = list(islice(samples, 1 if path.suffix.lower() == ".gif" else options.samples))
    for sample in chosen:
        sample.events.check()
    if not chosen:
        which = f" {options.key!r}" if options.key else ""
        raise InputError(f"{folder}: holds no sample{which}")
    try:
        if path.suffix.lower() == ".gif":
            save_gif(path, decode_jpeg(chosen[0]), chosen[0].events)
        else:
            tiles = [Tile(decode_jpeg(sample), sample.events, _title(sample)) for sample in chosen]
            contact_sheet(tiles, options.columns).save(path)
    except OSError as error:
        raise OutputError(f"to {path}: cannot be written ({error.strerror or error})") from error
    return f"wrote {path}"


def _title(sample: Sample) -> str:
    return sample.caption or str(sample.meta.get("class_name") or sample.key)


if __name__ == "__main__":
    sys.exit(main())
