"""ezsr-eval and ezsr-heatmap: command lines, thin layers over `evaluate` and `draw_heatmap`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ezsr_shards.command import say, use_hyphens
from ezsr_shards.datasets import DATA_SETS
from ezsr_shards.errors import ConfigError, InputError
from ezsr_shards.formats.raw import Convention
from ezsr_shards.importer import ImportOptions, list_recordings
from ezsr_train.cli import run_command

try:
    from ezsr_train.encoder import open_encoder
    from ezsr_train.export import check_export, export_open_clip
    from ezsr_train.heatmap import HeatmapOptions, draw_heatmap
    from ezsr_train.ranks import join_ranks
    from ezsr_train.recognition import EvalConfig, check_out, evaluate
    from ezsr_train.recording import Recordings
    from ezsr_train.recording_files import RecordingFiles
    from ezsr_train.shard_files import open_shard_set
    from ezsr_train.texts import load_partner
except ModuleNotFoundError as missing:
    sys.exit(f"ezsr: {missing.name} is not installed; run pip install 'ezsr[train]'")

_AXES = {
    "swap_xy": "with --format: exchange x and y",
    "flip_x": "with --format: mirror left and right",
    "flip_y": "with --format: mirror top and bottom",
    "invert_polarity": "with --format: exchange ON and OFF",
}
_FILES = ("split", "list", "size")


def build_eval_parser() -> ArgumentParser:
    """Return the parser of ezsr-eval."""
    parser = ArgumentParser(
        prog="ezsr-eval",
        description="Score an event encoder: zero-shot accuracy, with its intervals and protocol.",
        exit_on_error=False,
    )
    parser.add_argument(
        "source",
        metavar="SHARDS|ROOT",
        type=str,
        nargs="?",
        help="a shard set; with --format a data set's folder as it was downloaded",
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="an encoder's file")
    parser.add_argument("--out", type=str, default="evaluation", help="folder for the report")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    parser.add_argument("--format", type=str, help=f"one of {', '.join(DATA_SETS)}")
    parser.add_argument("--split", type=str, help="with --format: the split to score")
    parser.add_argument("--list", type=str, help="with --format: a file that lists the recordings")
    parser.add_argument("--size", type=str, help="with --format: the sensor's WxH")
    for flag, text in _AXES.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    parser.add_argument(
        "--allow_pickle", action="store_true", help="with --format: read pickled data sets"
    )
    parser.add_argument("--cache", type=str, help="folder for copies of remote shards")
    parser.add_argument(
        "--export", type=str, help="open_clip: write the encoder for it to --out; score nothing"
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(EvalConfig, None, skip={"ceiling"})
    parser.add_argument(
        "--ceiling", action="store_true", help="score the teacher on the RGB pictures as well"
    )
    return use_hyphens(parser)


def build_heatmap_parser() -> ArgumentParser:
    """Return the parser of ezsr-heatmap."""
    parser = ArgumentParser(
        prog="ezsr-heatmap",
        description="Draw where in a recording the encoder sees what a text says.",
        exit_on_error=False,
    )
    parser.add_argument("events", metavar="EVENTS", type=str, help="a recording, or a shard set")
    parser.add_argument("--checkpoint", type=str, required=True, help="an encoder's file")
    parser.add_argument(
        "--text", type=str, action="append", required=True, help="what to look for; repeatable"
    )
    parser.add_argument("--out", type=str, required=True, help="PNG to write")
    parser.add_class_arguments(HeatmapOptions, None)
    return use_hyphens(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ezsr-eval; return 0, 1 (too many broken recordings), 2 (bad usage) or 130."""
    return run_command("ezsr-eval", build_eval_parser, _evaluate, argv)


def heatmap(argv: Sequence[str] | None = None) -> int:
    """Run ezsr-heatmap; return codes as `main`."""
    return run_command("ezsr-heatmap", build_heatmap_parser, _heatmap, argv)


def _evaluate(options: Namespace) -> None:
    config = EvalConfig(**{name: options[name] for name in EvalConfig.__dataclass_fields__})
    out = Path(options.out)
    if options.export is not None:
        _export(options, config, out)
        return
    if options.source is None:
        raise ConfigError("SHARDS: give a shard set, or --format F and the data set's folder")
    if not Path(options.checkpoint).exists():
        raise InputError(f"checkpoint {options.checkpoint}: no such file")
    with join_ranks() as ranks:
        recordings = _open(options)
        check_out(out, options.overwrite)
        report = evaluate(options.checkpoint, recordings, config, ranks, options.source)
        if ranks.first:
            report.write(out)
            say("\n".join([*report.lines(), f"wrote {out}/report.json, .md and confusion.png"]))


def _open(options: Namespace) -> Recordings:
    if options.format is None:
        for name in (*_FILES, *_AXES, "allow_pickle"):
            if options[name]:
                raise ConfigError(f"{name} {options[name]}: needs --format; shards have theirs")
        return open_shard_set(options.source, options.cache)
    axes = Convention(**{name: options[name] for name in _AXES})
    told = {name: options[name] for name in (*_FILES, "allow_pickle")}
    chosen = ImportOptions(**told, convention=axes)
    return RecordingFiles(list_recordings(options.format, options.source, chosen))


def _export(options: Namespace, config: EvalConfig, out: Path) -> None:
    if options.export != "open_clip":
        raise ConfigError(f"export {options.export!r}: only open_clip is known")
    if options.source is not None:
        raise ConfigError(f"SHARDS {options.source}: --export scores nothing; leave it out")
    check_export(out, options.overwrite)
    with join_ranks() as ranks:
        encoder, facts = open_encoder(Path(options.checkpoint))
        teacher = load_partner(facts, ranks.device, config.model, config.pretrained)
        if ranks.first:
            export_open_clip(encoder, teacher, out)
    say(f"wrote {out}; open_clip.create_model('local-dir:{out}') loads it")


def _heatmap(options: Namespace) -> None:
    how = HeatmapOptions(**{name: options[name] for name in HeatmapOptions.__dataclass_fields__})
    draw_heatmap(options.events, options.checkpoint, options.text, Path(options.out), how)
    say(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(main())
