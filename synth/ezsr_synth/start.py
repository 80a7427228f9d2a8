"""Start: the command `ezsr-synth`; its workers get ready while it reads what it was told."""

from __future__ import annotations

import sys

from ezsr_shards.engines.forks import FORKS, prepare_workers

_WORKLESS = ("-h", "--help", "--list", "--dry-run", "--engine", "--print_config")


def main() -> int:
    """Run the command; see `ezsr_synth.cli.main`."""
    words = sys.argv[1:]
    if FORKS and len(words) > 1 and not any(word.startswith(_WORKLESS) for word in words):
        prepare_workers("ezsr_synth.warm")
    from ezsr_synth.cli import main as run  # half a second, in which the workers get ready

    return run()


if __name__ == "__main__":
    sys.exit(main())
