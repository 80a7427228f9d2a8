"""ezsr-train and ezsr-embed: command lines, thin layers over `train` and `embed_shards`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from ezsr_shards.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    exit_code_of,
    parse_arguments,
    say,
    use_hyphens,
)
from ezsr_shards.errors import EzsrError, InputError, RunError, check_number

try:
    from ezsr_train.config import TrainConfig
    from ezsr_train.loop import train
    from ezsr_train.ranks import join_ranks
    from ezsr_train.shard_files import open_shard_set
    from ezsr_train.teacher import load_teacher
    from ezsr_train.teacher_cache import embed_shards
except ModuleNotFoundError as missing:
    sys.exit(f"ezsr: {missing.name} is not installed; run pip install 'ezsr[train]'")


_TELL_EVERY_S = 30.0


def build_parser() -> ArgumentParser:
    """Return the parser; every field of the configuration is an option, nested ones with dots."""
    parser = ArgumentParser(
        prog="ezsr-train",
        description="Train an event encoder whose embedding matches CLIP's of the picture.",
        exit_on_error=False,
    )
    parser.add_argument("shards", metavar="SHARDS", type=str, help="folder or URL of a shard set")
    parser.add_argument("--out", type=str, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--val", type=str, help="shards on which zero-shot accuracy is measured")
    parser.add_argument("--resume", type=str, help="go on from 'latest', or from a checkpoint")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(TrainConfig, None)
    return use_hyphens(parser)


def build_embed_parser() -> ArgumentParser:
    """Return the parser of ezsr-embed."""
    parser = ArgumentParser(
        prog="ezsr-embed",
        description="Compute the teacher's picture embeddings once, beside the shards.",
        exit_on_error=False,
    )
    parser.add_argument("shards", metavar="SHARDS", type=str, help="folder of a shard set")
    parser.add_argument("--model", type=str, default="toy", help="as in ezsr-train")
    parser.add_argument("--pretrained", type=str, help="as in ezsr-train")
    parser.add_argument("--geometry", type=Literal["stretch", "crop"], default="stretch")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return use_hyphens(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ezsr-train; return 0, 1 (the run failed), 2 (bad usage) or 130 (interrupted)."""
    return run_command("ezsr-train", build_parser, _train, argv)


def embed(argv: Sequence[str] | None = None) -> int:
    """Run ezsr-embed; return codes as `main`."""
    return run_command("ezsr-embed", build_embed_parser, _embed, argv)


def run_command(
    name: str,
    parser: Callable[[], ArgumentParser],
    work: Callable[[Namespace], None],
    argv: Sequence[str] | None,
) -> int:
    """Parse, work, and return the exit code; every mistake becomes a sentence."""
    try:
        work(parse_arguments(parser(), argv))
        return 0
    except EzsrError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return exit_code_of(error)
    except OSError as error:
        print(f"{name}: {error.filename}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        how = {
            "ezsr-train": "; the same again with --resume latest goes on",
            "ezsr-embed": "; the same again goes on",
        }
        print(f"\n{name}: stopped{how.get(name, '')}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _train(options: Namespace) -> None:
    names = TrainConfig.__dataclass_fields__
    config = TrainConfig(**{name: getattr(options, name) for name in names})
    train(options.shards, options.out, config, options.val, options.resume, say)


class _Telling:
    """Says how far a long work is, twice a minute."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > _TELL_EVERY_S:
            self._last = time.monotonic()
            say(f"shard {done}/{total}")


def _embed(options: Namespace) -> None:
    check_number("workers", options.workers, 0, 1024)
    if "://" in options.shards:
        raise InputError(f"SHARDS {options.shards}: embed where the shards lie, in a folder")
    with join_ranks() as ranks:
        teacher = load_teacher(options.model, options.pretrained, ranks.device)
    done = embed_shards(
        open_shard_set(options.shards),
        teacher,
        options.geometry,
        options.workers,
        options.overwrite,
        _Telling(),
    )
    say(f"{done.pictures} pictures of {done.shards} shards embedded, in {done.folder}")
    for fault in done.skipped[:10]:
        say(f"left out: {fault}")
    if done.unreadable:
        raise RunError(
            f"shards without one whole picture: {', '.join(done.unreadable[:10])}; make them "
            f"again, then run this again"
        )


if __name__ == "__main__":
    sys.exit(main())
