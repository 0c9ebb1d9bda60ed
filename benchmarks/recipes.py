"""What is trained to be compared: studies, and the recipes of each, as flags of `hashret train`.

Every row of a study has the same pictures, input size, epochs and weights to start from.
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS, OBJECTIVES, LENGTHS, BEST = "steps", "objectives", "lengths", "best"


@dataclass(frozen=True)
class Recipe:
    """One training: the name of its row, and the flags that are its own.

    program: "train" is `hashret train`; "plain" is benchmarks/plain_loop.py.
    """

    section: str
    name: str
    flags: str = ""
    bits: int = 64
    seed: int = 0
    program: str = "train"

    @property
    def folder(self) -> str:
        """A name for its run, of letters that need no quoting; the same for recipes that differ in the section only."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.name.lower()).split()
        return f"{'-'.join(words)}_{self.bits}_seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """Recipes on one set of pictures: `shared` flags that all have, `rule` what is scored."""

    name: str
    title: str
    rule: str
    shared: str
    evaluate: str
    recipes: tuple[Recipe, ...]
    aims: bool = False
    """Whether the default was to come near the best features and away from the plain loop, which the page then says."""
    fitted: bool = False
    """Whether features are scored too, untrained ones and trained ones, and codes that are fitted to them without labels."""


DEFAULT = ""
"""Nothing: the default recipe is what `hashret train` does when it is told nothing."""
ONCE = "--mirror training"
ALONE = f"--classify 0 --code-gradient 1 {ONCE}"
"""Codes move the backbone, no classifier beside them."""


def _cars() -> tuple[Recipe, ...]:
    triplets = f"{ALONE} --head-start random"
    classification = "--objective classification --batch-size 64"
    finalists = {
        "default": DEFAULT,
        "triplets alone": triplets,
        "cosine, classifier beside": f"--objective cosine --code-gradient 1 {ONCE}",
    }
    lengths = tuple(
        Recipe(LENGTHS, name, flags, bits, seed)
        for name, flags in finalists.items()
        for bits in ((16, 32, 64, 128, 256) if name == "default" else (16, 32, 64, 128))
        for seed in (0, 1, 2)
    )
    nested = tuple(Recipe(LENGTHS, "nested", "--nested", 128, seed) for seed in (0, 1, 2))
    return (
        *(
            Recipe(STEPS, f"plain loop, margin 8, rate {rate}", f"--lr {rate}", program="plain")
            for rate in ("1e-4", "3e-4", "1e-3")
        ),
        Recipe(STEPS, "plain loop, half of a batch", "--lr 3e-4 --classes-per-batch 8", program="plain"),
        Recipe(STEPS, "triplets alone", triplets),
        Recipe(STEPS, "and a classifier beside", f"--code-gradient 1 --head-start random {ONCE}"),
        Recipe(STEPS, "and it alone moves the backbone", f"--head-start random {ONCE}"),
        Recipe(STEPS, "and codes start as ITQ", ONCE),
        Recipe(STEPS, "default", DEFAULT),
        Recipe(OBJECTIVES, "classification", f"{classification} {ONCE}"),
        Recipe(OBJECTIVES, "classification, mirrored", classification),
        Recipe(OBJECTIVES, "triplets alone", triplets),
        Recipe(OBJECTIVES, "triplets alone, semi-hard", f"{triplets} --mining semi-hard"),
        Recipe(OBJECTIVES, "triplets alone, hard", f"{triplets} --mining hard"),
        Recipe(OBJECTIVES, "triplets alone, softplus", f"{triplets} --hinge softplus"),
        Recipe(OBJECTIVES, "cosine", f"--objective cosine {ALONE}"),
        Recipe(OBJECTIVES, "cosine, classifier beside", finalists["cosine, classifier beside"]),
        Recipe(OBJECTIVES, "central", f"--objective central {ALONE}"),
        Recipe(OBJECTIVES, "dtsh", f"--objective dtsh {ALONE} --head-start random"),
        Recipe(OBJECTIVES, "self", f"--objective self {ONCE}"),
        Recipe(OBJECTIVES, "default", DEFAULT),
        *lengths,
        *nested,
        Recipe(BEST, "default, enlarged to 160 px, 24 epochs", "--image-size 160 --epochs 24 --validation 0.05"),
        Recipe(BEST, "the same, 128 bits", "--image-size 160 --epochs 24 --validation 0.05", 128),
        Recipe(
            BEST,
            "224 px, 60 epochs on a GPU",
            "--image-size 224 --epochs 60 --classes-per-batch 32 --validation 0.05 --device cuda",
        ),
    )


STUDIES = (
    Study(
        "cars",
        "Stanford Cars, unseen classes",
        "8,144 pictures of the train split of Krause et al. 2013, cropped and squashed to 96×96. Trained on classes "
        "001-098, of which 15 are held out to choose the epoch; each of the 4,092 pictures of classes 099-196 "
        "queries all the others.",
        "--backbone mobilenet_v2 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --image-size 96 --epochs 12",
        "--split test --two-stage 100 --logits",
        _cars(),
        aims=True,
        fitted=True,
    ),
    Study(
        "cifar10",
        "CIFAR-10, all classes known",
        'Protocol "cifar10-2": the 50,000 training pictures (as lossy JPEG) are trained on and are the '
        "gallery, 5 % of them held out to choose the epoch; each of the 10,000 test pictures queries the gallery, "
        "mAP over all of it.",
        "--backbone resnet18 --image-size 32 --weights none --validation 0.05 --objective cosine --classify 0 --code-gradient 1 "
        "--lr 0.003 --augment shifted --amp on",
        "--split test --gallery-split train --two-stage 100 --logits",
        (
            Recipe(BEST, "cosine, 12 epochs on a processor", "--epochs 12"),
            Recipe(BEST, "cosine, 100 epochs on a GPU", "--epochs 100 --batch-size 512 --device cuda"),
        ),
    ),
    Study(
        "omniglot",
        "Omniglot, unseen alphabets",
        "Handwritten characters, 20 drawings each: trained on the five alphabets of the first small background "
        "set, of whose characters 15 % are held out to choose the epoch; each of the 2,120 drawings of three other alphabets "
        "queries all the others.",
        "--backbone resnet18 --image-size 32 --weights none --epochs 30 --mirror never --amp on",
        "--split test --two-stage 100 --logits --controls on",
        (
            Recipe(OBJECTIVES, "default"),
            Recipe(OBJECTIVES, "classification", "--objective classification --batch-size 64"),
        ),
    ),
    Study(
        "turntable",
        "Rendered cars, unseen models",
        "`hashret data turntable --out cars`: 24 views, four times of day; near views of the query left out (same paint "
        "and time of day within 30 degrees). Controls: raw pixels and an untrained network.",
        "--backbone resnet18 --image-size 80 --weights none --epochs 14 --classes-per-batch 8 --pictures-per-class 4 "
        "--augment light",
        "--split test --two-stage 100 --logits --controls on",
        (Recipe(OBJECTIVES, "default"),),
    ),
)
