"""Do the authors' own towers and evaluator give what ours give?

    git clone https://github.com/Yan98/Event-based-Zero-Shot-Recognition authors
    pip install einops
    python benchmarks/authors_check.py authors --recording N-IMAGENET-RECORDING.npz

Towers of both families are built in the authors' package, with random weights, large ones with few
blocks; ours read their state dicts, and embed the same random pictures. Then the authors' data set
and ours cut the same slices from recordings, which are parts of the one that is given, and
`--protocol official` scores them over 1,000 random texts: once as the recording is stored, and once
sorted by (t, y, x), as our samples are, so that slices hold the same events. Nothing of the
authors' is copied: it is imported from the checkout. Results go to
benchmarks/results/authors_check.json.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from machine import ROOT, write_result
from torch import Tensor, nn

from ezsr_shards.datasets import known_classes
from ezsr_shards.formats.arrays import read_npz
from ezsr_shards.importer import list_recordings
from ezsr_train import recognition, released
from ezsr_train.encoder import AUTHORS_PX, open_encoder
from ezsr_train.prepare import View
from ezsr_train.ranks import Ranks
from ezsr_train.recording_files import RecordingFiles
from ezsr_train.templates import read_templates

ALONE = Ranks(0, 1, torch.device("cpu"))
LENGTHS = (9_000, 13_500, 15_500, 17_500, 40_000, 60_000, 90_000)  # of the parts, in events
TEXTS, SCALE = 1000, 100.0  # CLIP's logits are 100 times the cosine
OFFICIAL = ("openai B/32", "eva B/16", "openai L/14-336")
SEED = 5
WHOLE = 12  # blocks of the B towers, which are built whole


@dataclass(frozen=True)
class Case:
    """A tower, of so many blocks: OpenAI's width, patch, image side in px and D, or EVA's name."""

    layers: int
    openai: tuple[int, int, int, int] = (0, 0, AUTHORS_PX, 0)
    eva: str = ""


CASES = {
    "openai B/32": Case(WHOLE, (768, 32, 224, 512)),
    "openai B/16": Case(WHOLE, (768, 16, 224, 512)),
    "openai L/14": Case(4, (1024, 14, 224, 768)),
    "openai L/14-336": Case(4, (1024, 14, 336, 768)),
    "eva B/16": Case(WHOLE, eva="EVA02-CLIP-B-16"),
    "eva L/14": Case(4, eva="EVA02-CLIP-L-14"),
    "eva L/14-336": Case(4, eva="EVA02-CLIP-L-14-336"),
    "eva E/14+": Case(2, eva="EVA02-CLIP-bigE-14-plus"),
}


def build(case: Case, checkout: Path) -> nn.Module:
    """Return a tower of the authors' package with weights drawn at random."""
    from eva_clip.model import _build_vision_tower

    width, patch_px, side_px, embed_dim = case.openai
    vision = {"image_size": side_px, "layers": case.layers, "width": width, "patch_size": patch_px}
    if case.eva:
        path = checkout / "eva_clip/model_configs" / f"{case.eva}.json"
        told = json.loads(path.read_text())
        embed_dim, vision = told["embed_dim"], told["vision_cfg"]
        vision["layers"] = case.layers
    tower: nn.Module = _build_vision_tower(embed_dim, vision, quick_gelu=not case.eva)
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.normal_(float(weight.ndim == 1 and "weight" in name), spread)
    return tower.eval()


@contextmanager
def shallow(layers: int) -> Iterator[None]:
    """Let our reader know every tower with so many blocks."""
    config_of, create = open_clip.get_model_config, timm.create_model

    def config(model: str) -> dict[str, Any]:
        told = copy.deepcopy(config_of(model))
        if "layers" in told["vision_cfg"]:
            told["vision_cfg"]["layers"] = layers
        return told

    def create_shallow(model: str, **how: Any) -> nn.Module:
        tower: nn.Module = create(model, depth=layers, **how)
        return tower

    known = {sizes._replace(layers=layers): one for sizes, one in released._KNOWN.items()}
    with (
        patch.object(released, "_KNOWN", known),
        patch.object(open_clip, "get_model_config", config),
        patch.object(timm, "create_model", create_shallow),
    ):
        yield


def keep(tower: nn.Module, path: Path) -> None:
    """Write a tower as the authors' files are."""
    torch.save({f"visual.{name}": value for name, value in tower.state_dict().items()}, path)


@torch.no_grad()
def compare_towers(tower: nn.Module, path: Path) -> dict[str, Any]:
    """Return how far our reading of a tower's file is from the tower."""
    found = released.load_released(path)
    pictures = torch.randn(2, 3, found.spec.size_px, found.spec.size_px)
    theirs, ours = tower(pictures), found.tower(pictures)
    return {
        "read as": found.model,
        "largest embedding difference": float((theirs - ours).abs().max()),
        "largest embedding": float(theirs.abs().max()),
    }


def write_parts(recording: Path, root: Path) -> list[Path]:
    """Write parts of a recording, in both forms of N-ImageNet's files, each in a class's folder."""
    raw, rng = read_npz(recording), np.random.default_rng(0)
    columns = {"x": raw.x, "y": raw.y, "t": raw.t, "p": np.asarray(raw.p) > 0}
    names = {"x": "x_pos", "y": "y_pos", "t": "timestamp", "p": "polarity"}
    paths = []
    for n, length in enumerate((len(raw.t), *LENGTHS)):
        first = int(rng.integers(0, len(raw.t) - length + 1))
        part = {name: column[first : first + length] for name, column in columns.items()}
        folder = root / "extracted_val" / known_classes("n-imagenet")[n * 120].shown.folder
        folder.mkdir(parents=True)
        paths.append(folder / f"{n}.npz")
        if n % 2:
            records = np.empty(length, [(name, part[name].dtype) for name in "xytp"])
            for name in "xytp":
                records[name] = part[name]
            np.savez(paths[-1], event_data=records)
        else:
            np.savez(paths[-1], **{names[name]: part[name] for name in "xytp"})
    return paths


@dataclass(frozen=True)
class Seen:
    """Of every recording, by file name: what the tower saw, and its unit embedding."""

    images: dict[str, Tensor]
    rows: dict[str, Tensor]


def run_ours(checkpoint: Path, root: Path) -> Seen:
    """Run `--protocol official`, with random texts, as no text tower is at hand."""
    images: list[Tensor] = []
    found: list[Any] = []

    def opened(path: Path) -> Any:
        encoder, facts = open_encoder(path)
        encoder.visual.register_forward_pre_hook(lambda _, given: images.extend(given[0]))
        return encoder, facts

    def answered(embedded: Any, texts: Tensor, ranks: Ranks) -> Any:
        found.append(embedded)
        return answer(embedded, texts, ranks)

    answer, partner = recognition.answer, SimpleNamespace(name="none", sha256="none")
    dimensions = released.load_released(checkpoint).spec.embed_dim
    config = recognition.EvalConfig(protocol="official", seed=SEED, workers=0, batch=2)
    with (
        patch.object(recognition, "open_encoder", opened),
        patch.object(recognition, "load_partner", lambda *_: partner),
        patch.object(recognition, "embed_classes_once", lambda *_: random_texts(dimensions)),
        patch.object(recognition, "answer", answered),
    ):
        recordings = RecordingFiles(list_recordings("n-imagenet", root))
        recognition.evaluate(checkpoint, recordings, config, ALONE)
    names = [Path(key).name for key in found[0].keys]
    return Seen(
        dict(zip(names, images, strict=True)),
        dict(zip(names, found[0].embeddings, strict=True)),
    )


@torch.no_grad()
def run_theirs(tower: nn.Module, side_px: int, paths: list[Path], sort: bool) -> Seen:
    """Run the authors' data set on the slices that ours cuts, and their tower on that.

    sort  whether events are sorted by (t, y, x) first, as ours are
    """
    import dataset.dataset as their_data
    import dataset.event_utlities as their_events
    from eva_clip.transform import image_transform

    listing = paths[0].parents[2] / "list.txt"
    listing.write_text("\n".join(map(str, paths)))
    images = their_data.ImageNetDataset(
        "", listing, train=False, transform_event=image_transform(side_px, is_train=False)
    )
    rule, cut = recognition.SliceRule(1, True, 2000, SEED), their_events.slice_event

    def sorted_cut(events: Tensor, *how: int) -> Tensor:
        x, y, t, _ = events.numpy().T
        return cut(events[np.lexsort((x, y, np.rint(t * 1e6)))], *how)

    seen = Seen({}, {})
    for n, path in enumerate(paths):
        events = len(read_npz(path).t)
        drawn = fixed_chance(rule.views(15_000, events)[0], events)
        with (
            patch.object(their_events, "random", drawn),
            patch.object(their_data, "slice_event", sorted_cut if sort else cut),
        ):
            image, _ = images[n]
        seen.images[path.name] = image
        seen.rows[path.name] = F.normalize(tower(image[None]), dim=1)[0]
    return seen


def fixed_chance(view: View, events: int) -> Any:
    """Return what stands for `random` in the authors' module: the draws of a view of ours."""
    start = int(view.place * (max(events - view.length, 0) + 1))
    return SimpleNamespace(randint=lambda least, most: view.length, choice=lambda places: start)


def random_texts(dimensions: int) -> Tensor:
    """Return unit embeddings, float32 (TEXTS, D), always the same."""
    drawn = torch.randn(TEXTS, dimensions, generator=torch.Generator().manual_seed(1))
    return F.normalize(drawn, dim=1)


def compare_seen(ours: Seen, theirs: Seen) -> dict[str, Any]:
    """Return how far two evaluations are from one another, at most."""
    texts = random_texts(len(next(iter(ours.rows.values()))))
    logits = [
        SCALE * torch.stack([seen.rows[name] for name in ours.rows]) @ texts.T
        for seen in (ours, theirs)
    ]
    images = [float((ours.images[n] - theirs.images[n]).abs().max()) for n in ours.images]
    return {
        "largest event image difference": max(images),
        "largest logit difference": float((logits[0] - logits[1]).abs().max()),
        "other answers": int((logits[0].argmax(1) != logits[1].argmax(1)).sum()),
        "spread of logits": float(logits[1].std()),
        "recordings": len(ours.rows),
    }


def compare_texts() -> dict[str, bool]:
    """Return whether the words of every class's folder, and the prompts, are the authors'.

    The two number the classes differently.
    """
    import dataset.imagenet_zeroshot_data as theirs

    words = theirs.DATASET_TO_CLASSNAME["imagenet"]
    told = {folder: words[int(one[0]) - 1] for folder, one in theirs.IMAGENET_CLASS.items()}
    prompts = [template("X") for template in theirs.get_template("imagenet")]
    return {
        "words of every class are equal": told
        == {one.shown.folder: one.shown.name for one in known_classes("n-imagenet")},
        "prompts are equal": prompts == [one.format("X") for one in read_templates("imagenet")],
    }


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="the authors' repository")
    parser.add_argument("--recording", type=Path, required=True, help="an .npz of N-ImageNet")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/authors_check.json")
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout))
    with redirect_stdout(io.StringIO()):  # it prints what else could be installed
        import eva_clip  # noqa: F401
    torch.manual_seed(0)
    towers, official = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths, checkpoint = write_parts(options.recording, Path(folder)), Path(folder) / "tower.pt"
        for name, case in CASES.items():
            tower = build(case, options.checkout)
            keep(tower, checkpoint)
            with nullcontext() if case.layers == WHOLE else shallow(case.layers):
                towers[name] = {"blocks": case.layers} | compare_towers(tower, checkpoint)
                print(name, towers[name], flush=True)
                if name not in OFFICIAL:
                    continue
                ours = run_ours(checkpoint, Path(folder))
            official[name] = {
                order: compare_seen(
                    ours, run_theirs(tower, case.openai[2], paths, order == "sorted")
                )
                for order in ("sorted", "as stored")
            }
            print(name, official[name], flush=True)
    commit = ["git", "-C", str(options.checkout), "rev-parse", "HEAD"]
    told = subprocess.run(commit, capture_output=True, text=True).stdout.strip()
    facts = {"towers": towers, "official": official, "texts": compare_texts()}
    write_result(options.out, {**facts, "authors' commit": told or None})


if __name__ == "__main__":
    main()
