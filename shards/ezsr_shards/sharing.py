"""Sharing: this run's part in making a set; other runs may be making the rest of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import chain

from ezsr_shards.claims import Claims
from ezsr_shards.engines.outcomes import Done, Lost, Outcome, Task, Working
from ezsr_shards.errors import RunError, ShardError
from ezsr_shards.plan import ENGINES, RunOptions, SetPlan, Work
from ezsr_shards.progress import Counts, Progress
from ezsr_shards.shardset import CONFIG_FILE, ShardRecord, read_json, shard_name, sorted_shards

_FIRST_PAUSE_S = 0.2


class Share:
    """The shards that are complete, whoever made them, and those that this run claims.

    records  of all complete shards, by number
    made     how many of them this run made
    """

    def __init__(self, plan: SetPlan, claims: Claims) -> None:
        """Begin with what is complete already."""
        self.records: dict[int, ShardRecord] = {}
        self.made = 0
        self._plan, self._claims = plan, claims
        self._lost: list[Lost] = []
        self._looked = 0.0
        self._look()

    @property
    def missing(self) -> int:
        """How many shards nobody has completed yet."""
        return self._plan.shards - len(self.records)

    def make_missing(self, work: Work, run: RunOptions, judge: Callable[[Counts], None]) -> None:
        """Make every shard that nobody else makes, and wait for those; raise RunError at losses.

        judge  called with all counts now and then; what it raises ends the work
        """
        plan = self._plan
        first = run.job_id * plan.shards // run.num_jobs
        order = *range(first, plan.shards), *range(first)
        with Progress(plan.inputs, plan.noun, self.records, self._claims.held) as progress:
            self._claims.heart.work = progress.facts
            pause_s = _FIRST_PAUSE_S
            while self.missing:
                made = self.made
                with closing(self._outcomes(order, work, run)) as outcomes:
                    for outcome in outcomes:
                        self._note(outcome)
                        progress.show(outcome)
                        judge(progress.counts)
                self._stop_if_lost()
                if self._look() or self.made > made:
                    pause_s = _FIRST_PAUSE_S
                elif self.missing:
                    progress.wait(self._claims.others(), self.missing)
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, self._claims.longest_pause_s)

    def _outcomes(
        self, order: tuple[int, ...], work: Work, run: RunOptions
    ) -> Generator[Outcome, None, None]:
        """Let the engine make what can be claimed; it is not even started where nothing can."""
        tasks = self._take(order, work.task_of)
        first = next(tasks, None)
        if first is None:
            return
        tasks = chain([first], tasks)

        def next_task() -> Task | None:
            """Claim one more; when all were looked at, look again at times, for runs may die."""
            nonlocal tasks
            task = next(tasks, None)
            if task is None and self._looks_old and self._look_for_more():
                tasks = self._take(order, work.task_of)
                task = next(tasks, None)
            return task

        with closing(
            ENGINES[run.engine](next_task, work.make, run.workers, work.preload)
        ) as engine:
            yield from engine

    @property
    def _looks_old(self) -> bool:
        return time.monotonic() - self._looked > self._claims.longest_pause_s

    def _look_for_more(self) -> bool:
        """Look again; tell whether there are shards that are neither complete nor this run's."""
        self._look()
        return self.missing > len(self._claims.held()) + len(self._lost)

    def _take(self, order: tuple[int, ...], task_of: Callable[[int], Task]) -> Iterator[Task]:
        """Claim one missing shard after the other, as the engine asks for them."""
        for index in order:
            lost = any(loss.index == index for loss in self._lost)
            if lost or index in self.records or not self._claims.take(index):
                continue
            record = self._read_complete(index)
            if record is None:
                self._check_configuration()
                yield task_of(index)
                continue
            self.records[index] = record  # completed since the last look, which is old
            self._claims.release(index)
            if self._looks_old:
                self._look()

    def _check_configuration(self) -> None:
        """Raise RunError if OUT was begun anew, while this run slept and was taken for dead."""
        store = self._plan.store
        if read_json(store, CONFIG_FILE).get("config_hash") != self._plan.config_hash:
            raise RunError(
                f"OUT {store.url}: another run has begun it anew with another configuration; give "
                f"another folder"
            )

    def _note(self, outcome: Outcome) -> None:
        if isinstance(outcome, Working):
            return
        if isinstance(outcome, Done):
            self.records[outcome.index] = outcome.record
            self.made += 1
        else:
            self._lost.append(outcome)
        self._claims.release(outcome.index)

    def _stop_if_lost(self) -> None:
        if not self._lost:
            return
        names = ", ".join(shard_name(self._plan.name, loss.index) for loss in self._lost[:5])
        raise RunError(
            f"{len(self._lost)} of {self._plan.shards} shards could not be made ({names}): "
            f"{self._lost[0].why}; what is complete is kept, run the same command again to retry"
        )

    def _look(self) -> bool:
        """Take in what is complete in OUT by now; tell whether anything new was."""
        self._looked, before = time.monotonic(), len(self.records)
        name, sizes = self._plan.name, self._claims.look()
        numbers = (
            int(file.removesuffix(".json")[len(name) + 1 :])
            for file in sorted_shards(sizes, name, ".json")
        )
        new = [n for n in numbers if n < self._plan.shards and n not in self.records]
        for index, record in zip(new, self._plan.store.read_each(self._read, new), strict=True):
            if record and sizes.get(f"{record.name}.tar") == record.size_bytes:
                self.records[index] = record
        return len(self.records) > before

    def _read_complete(self, index: int) -> ShardRecord | None:
        """Return a shard's record where it is complete in OUT by now."""
        stem, store = shard_name(self._plan.name, index), self._plan.store
        record = self._read(index) if store.size(f"{stem}.json") is not None else None
        return record if record and store.size(f"{stem}.tar") == record.size_bytes else None

    def _read(self, index: int) -> ShardRecord | None:
        """Return a shard's record; None where it is damaged or of another configuration."""
        try:
            file = f"{shard_name(self._plan.name, index)}.json"
            record = ShardRecord.read(self._plan.store, file)
        except ShardError:  # the shard is made again
            return None
        return record if record.config_hash == self._plan.config_hash else None
