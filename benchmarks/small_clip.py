"""Train a small CLIP on any class tree of pictures, or on the toy world.

    python benchmarks/small_clip.py CLASS_TREE|toy:N:all --out FILE.safetensors

Captions are the class names, and the words they are made of, in a few templates. Architecture and
tokenizer are open_clip's own and travel in the file's metadata, so that `ezsr-train --model FILE`
needs nothing else.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ezsr_synth.decode import PictureError
from ezsr_synth.sources import SourceOptions, list_pictures
from ezsr_train.clip_file import ClipArchitecture, build_clip, save_clip
from ezsr_train.config import OptimConfig
from ezsr_train.optimize import learning_rate, make_optimizer, set_learning_rate
from ezsr_train.templates import PLAIN
from ezsr_train.tower import normalize
from ezsr_train.zeroshot import count_hits, embed_classes


def load_pictures(images: str, size_px: int) -> tuple[Tensor, Tensor, list[str]]:
    """Return all pictures as uint8 (N, 3, S, S), labels int64 (N,), and the class names."""
    listing = list_pictures(images, SourceOptions())
    if not listing.classes:
        raise SystemExit(f"{images}: no class folders; small_clip.py needs labels")
    pictures, labels = [], []
    for task in listing.tasks():
        for record in task.pictures:
            try:
                rgb = record.decode(64_000_000)
            except PictureError:
                continue
            pictures.append(cv2.resize(rgb, (size_px, size_px), interpolation=cv2.INTER_AREA))
            labels.append(record.label)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return stacked, torch.tensor(labels), [entry.name for entry in listing.classes]


def augment(pictures: Tensor, flip: float, generator: torch.Generator) -> Tensor:
    """Return float pictures in [0, 1]: shifted by a few pixels, some mirrored, in other light."""
    batch, _, size, _ = pictures.shape
    images = pictures.float() / 255
    mirrored = (torch.rand(batch, generator=generator) < flip)[:, None, None, None]
    gain = 1 + 0.4 * (torch.rand(batch, 1, 1, 1, generator=generator) - 0.5)
    images = torch.where(mirrored, images.flip(3), images).mul(gain).clamp(0, 1)
    reach = size // 8
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    dx, dy = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    return padded[:, :, dy : dy + size, dx : dx + size]


def list_words(names: list[str]) -> tuple[list[str], Tensor]:
    """Return the words that several class names share, and (classes, words): who has which.

    Each row sums to 1, or to 0 where a name shares no word.
    """
    owners: dict[str, set[int]] = {}
    for label, name in enumerate(names):
        for word in name.split():
            owners.setdefault(word, set()).add(label)
    words = sorted(word for word, those in owners.items() if 1 < len(those) < len(names))
    shares = torch.zeros(len(names), len(words))
    for column, word in enumerate(words):
        shares[list(owners[word]), column] = 1.0
    return words, shares / shares.sum(1, keepdim=True).clamp(min=1)


def main() -> None:
    """Train, report the accuracy on held-back pictures, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--flip", type=float, default=0.5, help="chance of a mirror image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    pictures, labels, names = load_pictures(options.images, options.size)
    words, shares = list_words(names)
    held_back = max(1, len(pictures) // 10)
    architecture = ClipArchitecture.small(options.size)
    clip, tokenizer = build_clip(architecture)
    schedule = OptimConfig(options.steps, lr=options.lr, warmup=100, weight_decay=0.1)
    optimiser = make_optimizer(clip, schedule)
    started = time.time()
    for step in range(options.steps):
        set_learning_rate(optimiser, learning_rate(step, schedule))
        chosen = torch.randint(held_back, len(pictures), (options.batch,), generator=generator)
        template = PLAIN[int(torch.randint(len(PLAIN), (1,), generator=generator))]
        prompts = [template.replace("{}", text) for text in names + words]
        texts = clip.encode_text(tokenizer(prompts), normalize=True)
        inputs = normalize(augment(pictures[chosen], options.flip, generator), architecture.tower)
        with torch.autocast("cpu", torch.bfloat16):
            images = clip.encode_image(inputs)
        scale = clip.logit_scale.exp().clamp(max=100)
        logits = scale * F.normalize(images.float(), dim=1) @ texts.T
        loss = F.cross_entropy(logits[:, : len(names)], labels[chosen])
        if words:
            loss = loss + F.cross_entropy(logits[:, len(names) :], shares[labels[chosen]])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0 or step == options.steps - 1:
            print(f"step {step} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
    clip.eval()
    with torch.no_grad():
        classes = embed_classes(clip, tokenizer, names)
        hits = 0
        for start in range(0, held_back, 256):
            part = slice(start, min(held_back, start + 256))
            images = clip.encode_image(normalize(pictures[part].float() / 255, architecture.tower))
            hits += count_hits(images, labels[part], classes).hits
    accuracy = hits / held_back
    print(f"top-1 on {held_back} pictures never trained on: {accuracy:.1%}")
    save_clip(options.out, clip, architecture)
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
