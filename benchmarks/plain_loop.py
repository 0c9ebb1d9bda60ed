"""The plain way to train a hash model with triplet loss, as most scripts have it: what a recipe has to beat.

A pretrained backbone whose last layer gives K outputs, tanh, relu(d(a,p) - d(a,n) + margin) averaged over all triplets of a
batch, d the squared Euclidean distance; Adam, one learning rate, half a cosine down. Pictures, batches, augmentation and
preprocessing are those of hashret, so that the difference lies in the recipe. The last epoch is saved as a hashret model.

Run: python benchmarks/plain_loop.py --data cars.csv --out plain --backbone mobilenet_v2 --weights FILE --epochs 12
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hashret.data.loading import PictureLoader
from hashret.data.samplers import PKSampler
from hashret.data.sources import open_source
from hashret.model.device import keep_freed_memory
from hashret.model.hasher import Hasher, build
from hashret.training.augmentation import augmentation, choose_preset, typical_side
from hashret.training.splits import split_for_training


def plain_triplet_loss(u_DK: Tensor, labels_D: Tensor, margin: float) -> Tensor:
    """Mean of relu(d(a,p) - d(a,n) + margin) over all triplets of different pictures: cubic memory."""
    distances_DD = (u_DK[:, None] - u_DK[None, :]).square().sum(dim=2)
    same_DD = labels_D[:, None] == labels_D[None, :]
    different_DD = ~torch.eye(len(u_DK), dtype=torch.bool)
    valid_DDD = (same_DD & different_DD)[:, :, None] & ~same_DD[:, None, :]
    terms_DDD = torch.relu(distances_DD[:, :, None] - distances_DD[:, None, :] + margin)
    return terms_DDD[valid_DDD].mean()


def train(options: argparse.Namespace) -> Hasher:
    """A Hasher after the last epoch."""
    torch.manual_seed(options.seed)
    keep_freed_memory()
    split = split_for_training(open_source(options.data), validation=options.validation, seed=options.seed)
    labels_N = split.train.class_ids()[0]
    hasher = build(
        options.backbone,
        options.code_size,
        weights=options.weights,
        image_size=options.image_size,
        mean=options.mean,
        std=options.std,
    )
    network = hasher.network
    head = nn.Linear(network.feature_size, options.code_size)
    optimizer = torch.optim.Adam([*network.backbone.parameters(), *head.parameters()], lr=options.lr)
    sampler = PKSampler(labels_N, classes_per_batch=options.classes_per_batch, pictures_per_class=8, seed=options.seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(sampler))
    network.train()
    side = typical_side(split.train, "squash")
    preset, _ = choose_preset(options.augment, split.train, options.image_size, side)
    make, augment, _ = augmentation(preset, hasher.preprocess, side)
    with PictureLoader(split.train, make, augment=augment) as loader:
        for epoch in range(options.epochs):
            batches = list(sampler.epoch(epoch))
            pictures = loader.batches(batches, seed=[options.seed, epoch])
            for rows, pixels in tqdm(pictures, f"epoch {epoch + 1}/{options.epochs}", len(batches), disable=None):
                u_DK = torch.tanh(head(network.backbone(hasher.preprocess.normalise(pixels))))
                loss = plain_triplet_loss(u_DK, torch.from_numpy(labels_N)[rows], options.margin)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        # hashret's head has batch norm in the place of a bias; in eval mode this one adds the bias and does nothing else.
        norm = network.head.norm
        network.head.linear.weight.copy_(head.weight)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(1)
        norm.bias.copy_(head.bias)
    return hasher


def main(arguments: list[str] | None = None) -> int:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--mean", type=float, nargs=3)
    parser.add_argument("--std", type=float, nargs=3)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--code-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--classes-per-batch", type=int, default=16)
    parser.add_argument("--margin", type=float, default=8.0)
    parser.add_argument("--augment", default="auto")
    parser.add_argument("--validation", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    hasher = train(options)
    hasher.save_pretrained(options.out)
    print(json.dumps({"model": str(options.out), "seconds": round(time.perf_counter() - started, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
