"""ezsr-train: the command line, a thin layer over `ezsr_train.loop.train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from ezsr_shards.command import EXIT_INTERRUPTED, exit_code_of, parse_arguments, use_hyphens
from ezsr_shards.errors import EzsrError

try:
    from ezsr_train.config import TrainConfig
    from ezsr_train.loop import train
except ModuleNotFoundError as missing:
    sys.exit(f"ezsr-train: {missing.name} is not installed; run pip install 'ezsr[train]'")


def build_parser() -> ArgumentParser:
    """Return the parser; every field of the configuration is an option, nested ones with dots."""
    parser = ArgumentParser(
        prog="ezsr-train",
        description="Train an event encoder whose embedding matches CLIP's of the picture.",
        exit_on_error=False,
    )
    parser.add_argument("shards", metavar="SHARDS", type=str, help="folder that ezsr-synth wrote")
    parser.add_argument("--out", type=str, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--val", type=str, help="shards on which zero-shot accuracy is measured")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(TrainConfig, None)
    return use_hyphens(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 (the run failed), 2 (bad usage) or 130 (interrupted)."""
    try:
        options = parse_arguments(build_parser(), argv)
        names = TrainConfig.__dataclass_fields__
        config = TrainConfig(**{name: getattr(options, name) for name in names})
        validation = Path(options.val) if options.val else None
        train(Path(options.shards), Path(options.out), config, validation, options.resume)
        return 0
    except EzsrError as error:
        print(f"ezsr-train: {error}", file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        print("\nezsr-train: stopped; give --resume to continue", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
