"""ezsr-shards: look at shard sets, check them, make them of recordings, hand them on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ezsr_shards.beats import Lookout
from ezsr_shards.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    exit_code_of,
    format_bytes,
    parse_arguments,
    say,
    use_hyphens,
)
from ezsr_shards.datasets import DATA_SETS
from ezsr_shards.draw import Tile, contact_sheet, save_gif
from ezsr_shards.encodings import ENCODINGS
from ezsr_shards.errors import (
    ConfigError,
    EzsrError,
    InputError,
    OutputError,
    ShardError,
    check_number,
)
from ezsr_shards.export import export_samples
from ezsr_shards.formats.raw import Convention
from ezsr_shards.importer import ImportOptions, import_recordings
from ezsr_shards.making import RunOptions, summarize
from ezsr_shards.repair import repair
from ezsr_shards.report.page import ReportOptions, write_report
from ezsr_shards.sample import Sample, decode_jpeg
from ezsr_shards.shardset import (
    count_reasons,
    list_reasons,
    read_classes,
    read_config,
    read_records,
)
from ezsr_shards.status import describe_status, look_at
from ezsr_shards.store import Place, Store, open_store
from ezsr_shards.urls import show_url
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
        prog="ezsr-shards",
        description="Look at shard sets, check them, make them of recordings, and hand them on.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command")
    for command, text in (
        ("info", "print counts and sizes"),
        ("status", "print what runs have done, are doing, and will need"),
        ("verify", "check everything; name the first fault"),
        ("view", "draw a contact sheet (PNG), or one sample moving (GIF)"),
        ("report", "write one HTML page of everything, to look at without a network"),
    ):
        one = ArgumentParser(description=text, exit_on_error=False)
        one.add_argument("folder", metavar="OUT", type=str, help="folder or URL of a shard set")
        if command == "view":
            one.add_class_arguments(ViewOptions, None)
        if command == "status":
            one.add_argument("--json", action="store_true", help="print JSON, for programs")
            one.add_argument(
                "--watch", type=float, default=0.0, help="look again every so many seconds"
            )
        if command == "verify":
            one.add_argument("--repair", action="store_true", help=_REPAIR_TEXT)
        if command == "report":
            one.add_class_arguments(ReportOptions, None)
        commands.add_subcommand(command, use_hyphens(one), help=text)
    commands.add_subcommand("import", use_hyphens(_import_parser()), help=_IMPORT_TEXT)
    commands.add_subcommand("export", use_hyphens(_export_parser()), help=_EXPORT_TEXT)
    return parser


def _import_parser() -> ArgumentParser:
    one = ArgumentParser(description=_IMPORT_TEXT, exit_on_error=False)
    one.add_argument("--format", type=str, required=True, help=", ".join(DATA_SETS))
    one.add_argument("root", metavar="ROOT", type=str, help="folder of the recordings")
    one.add_argument(
        "out", metavar="OUT", type=str, help="folder or URL for the shards; rerun to go on"
    )
    one.add_class_arguments(ImportOptions, None, skip={"convention", "allow_pickle"})
    one.add_class_arguments(RunOptions, None, skip={"overwrite"})
    for flag, text in _IMPORT_FLAGS.items():
        one.add_argument(f"--{flag}", action="store_true", help=text)
    return one


_REPAIR_TEXT = "remove whatever is broken, so that a rerun makes exactly that again"


def _export_parser() -> ArgumentParser:
    one = ArgumentParser(description=_EXPORT_TEXT, exit_on_error=False)
    one.add_argument("--format", type=str, required=True, help=", ".join(ENCODINGS))
    one.add_argument("folder", metavar="OUT", type=str, help="folder of a shard set")
    one.add_argument("to", metavar="TO", type=str, help="folder for the files; rerun to go on")
    text = "delete an earlier export in TO and start anew"
    one.add_argument("--overwrite", action="store_true", help=text)
    return one


_EXPORT_TEXT = "write every sample as a file that other event libraries read"
_IMPORT_TEXT = "turn recordings of real event cameras into a shard set"
_IMPORT_FLAGS = {
    "swap_xy": "exchange x and y, where a recording's convention differs from the default",
    "flip_x": "mirror left and right",
    "flip_y": "mirror top and bottom",
    "invert_polarity": "exchange ON and OFF",
    "allow_pickle": "read data sets saved as pickles, by a reader that knows numpy arrays only",
    "overwrite": "delete the shard set in OUT and start anew",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return 0, 1 (a check or a run failed), 2 (bad usage) or 130."""
    try:
        options = parse_arguments(build_parser(), argv)
        if options.command is None:
            raise ConfigError(
                f"give a command: {', '.join(_COMMANDS)} or import (see ezsr-shards --help)"
            )
        arguments = options[options.command]
        if options.command == "import":
            say(_import(arguments))
            return 0
        command = _COMMANDS[options.command]
        say(command(open_store(arguments.folder), arguments))
        return 0
    except EzsrError as error:
        print(f"ezsr-shards: {error}", file=sys.stderr)
        return exit_code_of(error)
    except OSError as error:
        print(f"ezsr-shards: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nezsr-shards: stopped; an import or export goes on if repeated", file=sys.stderr)
        return EXIT_INTERRUPTED


def _import(options: Any) -> str:
    names = ("split", "list", "size", "labels", "shard_size", "allow_pickle")
    axes = ("swap_xy", "flip_x", "flip_y", "invert_polarity")
    convention = Convention(**{name: options[name] for name in axes})
    chosen = ImportOptions(**{name: options[name] for name in names}, convention=convention)
    run = RunOptions(**{name: options[name] for name in RunOptions.__dataclass_fields__})
    report = import_recordings(options.format, options.root, options.out, chosen, run)
    return summarize(report, show_url(options.out), "recordings")


def _info(store: Store, options: Any) -> str:
    return describe(store)


def describe(place: Place) -> str:
    """Return a shard set's counts and sizes, a line each."""
    store = open_store(place)
    config = read_config(store)
    records = read_records(store, str(config.get("name")))
    samples = sum(record.samples for record in records)
    events = sum(record.events for record in records)
    on = sum(record.on_events for record in records)
    synthesis = config.get("synthesis", {})
    failures = count_reasons([failure for record in records for failure in record.failures])
    lines = [
        ("shards", f"{len(records)} of {config.get('shards')} complete"),
        ("pictures" if synthesis else "recordings", str(sum(r.pictures for r in records))),
        ("samples", str(samples)),
        ("events", f"{events}, {events / max(samples, 1):.0f} a sample"),
        ("ON share", f"{on / max(events, 1):.1%}"),
        ("size", format_bytes(sum(record.size_bytes for record in records))),
        ("failures", list_reasons(failures) or "none"),
    ]
    try:
        classes, split = read_classes(store)
        present = {label for record in records for label in record.labels}
        lines.append(("classes", f"{len(classes)}, {len(present)} with samples"))
        lines.append(("split", split or "not named"))
    except ShardError:
        lines.append(("classes", "not written yet: the run did not end"))
    if synthesis:
        lines.append(("sensor", f"{synthesis.get('size')}, fit {synthesis.get('fit')}"))
        lines.append(("seed", str(synthesis.get("seed"))))
    else:
        how = config.get("import", {})
        turned = [name for name in Convention.__dataclass_fields__ if how.get(name)]
        lines.append(("format", f"{how.get('format')}, sensor {how.get('size') or 'as it tells'}"))
        lines.append(("turned", ", ".join(turned) or "nothing"))
    return "\n".join(f"{name:12}{value}" for name, value in lines)


def _status(store: Store, options: Any) -> str:
    check_number("watch", options.watch, 0.0, 86_400.0)
    lookout = Lookout(store)
    while True:
        status = look_at(store, lookout)
        text = json.dumps(status.facts()) if options.json else describe_status(status)
        if not options.watch or status.complete == status.shards:
            return text
        say(text)
        time.sleep(options.watch)


def _verify(store: Store, options: Any) -> str:
    if options.repair:
        removed = repair(store)
        for one in removed:
            say(f"removed {one}")
        if removed:
            raise ShardError(
                f"{store.url}: was broken and is incomplete now; run the command that made it "
                f"again, which makes exactly what is missing"
            )
    found = verify(store)
    return (
        f"{store.url}: {found.samples} samples with {found.events} events in {found.shards} shards "
        f"keep the contract"
    )


def _view(store: Store, options: Any) -> str:
    path = Path(options.to) if options.to else store.nearby / "view.png"
    if path.suffix.lower() not in (".png", ".gif"):
        raise ConfigError(f"to {path}: the name must end in .png or .gif")
    if options.samples < 1 or options.columns < 1:
        raise ConfigError("samples, columns: give 1 or more")
    samples = iterate_samples(store)
    if options.key is not None:
        samples = (sample for sample in samples if sample.key == options.key)
    chosen = list(islice(samples, 1 if path.suffix.lower() == ".gif" else options.samples))
    for sample in chosen:
        sample.events.check()
    if not chosen:
        which = f" {options.key!r}" if options.key else ""
        raise InputError(f"{store.url}: holds no sample{which}")
    try:
        if path.suffix.lower() == ".gif":
            save_gif(path, decode_jpeg(chosen[0]), chosen[0].events)
        else:
            tiles = [Tile(decode_jpeg(sample), sample.events, _title(sample)) for sample in chosen]
            contact_sheet(tiles, options.columns).save(path)
    except OSError as error:
        raise OutputError(f"to {path}: cannot be written ({error.strerror or error})") from error
    return f"wrote {path}"


def _report(store: Store, options: Any) -> str:
    path, found = write_report(store, ReportOptions(options.to, options.samples))
    lines = [f"wrote {path} ({format_bytes(path.stat().st_size)})"]
    if found.faults:
        faults = f"{len(found.faults)} faults, told on the page"
        lines.append(f"{faults}; the first: {found.faults[0]}")
    return "\n".join(lines)


def _export(store: Store, options: Any) -> str:
    report = export_samples(store, options.to, options.format, options.overwrite)
    return (
        f"{options.to}: {report.samples} samples with {report.events} events as {options.format}, "
        f"{report.written} files new"
    )


def _title(sample: Sample) -> str:
    return sample.caption or str(sample.meta.get("class_name") or sample.key)


_COMMANDS = {
    "info": _info,
    "status": _status,
    "verify": _verify,
    "view": _view,
    "report": _report,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
