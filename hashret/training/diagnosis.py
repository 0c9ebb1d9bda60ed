"""What goes wrong in a run, and what to change: a run's history in, sentences out.

Rules read numbers of the log alone, so they work on the log of a finished run too, and each can be checked by hand. Where a
rule has a limit, the comment says what healthy and broken runs showed when it was set. docs/health.md is the page for users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from hashret.errors import HashretError
from hashret.training.options import TrainingOptions

Line: TypeAlias = Mapping[str, Any]
History: TypeAlias = Sequence[Line]

NEEDED = (
    "between",
    "broken",
    "dead",
    "effective_bits",
    "gap",
    "suspect_share",
    "turn",
    "updates",
    "val_map",
)
"""Numbers without which a log is of an earlier version, and is not judged."""
LABEL_NOISE = "label noise"
SUSPECTS_NAMED = 20
"""Pictures with suspicious labels that a line of the log names."""


class Finding(NamedTuple):
    """A recognised cause by name, the numbers that show it, and what to change."""

    cause: str
    evidence: str
    advice: str

    @property
    def sentence(self) -> str:
        """All of it, for people."""
        return f"{self.cause}: {self.evidence}; {self.advice}"


def diagnose(history: History, options: TrainingOptions) -> list[Finding]:
    """What the lines of a run's log show to be wrong at its end, the worst first; nothing while all is well."""
    if len(history) < 2 or any(name not in line for line in history for name in NEEDED):
        return []
    # A warm-up by classification trains other things for other ends.
    settled = [line for line in history if line["epoch"] > options.codes_from]
    hindrance, dead = _infinite_numbers(history, options), None
    if options.trains_codes and len(settled) >= 2:
        # What keeps a run from learning at all hides the rest: one name is enough for it.
        for rule in HINDRANCES:
            hindrance = hindrance or rule(settled, options)
        dead = _dead_bits(settled, options)
    found = (hindrance, dead, _label_noise(history, options), _overfitting(settled, options))
    return [finding for finding in found if finding is not None]


def found_in(document: Mapping[str, Any], history: History) -> list[Finding]:
    """What is wrong with a run, by its run.json; while that says nothing, as of a run that trains or was killed, by its log."""
    noted = document.get("findings")
    if isinstance(noted, list):
        return [Finding(**entry) for entry in noted if isinstance(entry, dict) and entry.keys() == set(Finding._fields)]
    try:
        return diagnose(history, TrainingOptions.from_dict(document.get("options", {})))
    except (HashretError, TypeError):  # of another version
        return []


def _collapsed(history: History, options: TrainingOptions) -> bool:
    """All bits of the training codes say the same, or nothing, for two epochs, and neighbours do not share labels.

    Runs on six colours that learned had 2 to 6 effective bits, and dips to 1.4 for an epoch; collapsed ones stay at 0, or at
    1.0 to 1.1. Two classes need no more than one.
    """
    return history[-1].get("classes", 0) > 2 and all(
        (line["effective_bits"] < 1.3 or line["dead_bits"] > 0.8 * options.code_size) and _agreement(line) < 0.75
        for line in history[-2:]
    )


def _infinite_numbers(history: History, options: TrainingOptions) -> Finding | None:
    """Gradients that are no numbers, though the loss is one."""
    recent = history[-2:]
    broken = sum(line["broken"] for line in recent)
    if not broken:
        return None
    return _too_fast(f"{100 * broken / len(recent):.0f} % of the last updates had infinite numbers", options)


def _learning_rate_too_high(history: History, options: TrainingOptions) -> Finding | None:
    """Updates that turn the head round, and codes that are the worse for it."""
    last = history[-1]
    largest = max(line.get("turn_max", 0.0) for line in history)
    # Runs that learn turn a bit's weights by 3 to 8 degrees in an update at the most, ten times their rate by 15 and more.
    wild = largest > 12.0 and not _margin_impossible(last, options)
    harmed = _collapsed(history, options) or _dead_in_training(history) or last["gap"] < 0.02
    if not (wild and harmed):
        return None
    return _too_fast(
        f"an update turned the weights of a bit by up to {largest:.0f} degrees, and {_shape(last, options)}", options
    )


def _too_fast(evidence: str, options: TrainingOptions) -> Finding:
    return Finding(
        "learning rate too high",
        evidence,
        f"train anew with a lower --lr (now {options.lr:g}) or --head-lr-factor (now {options.head_lr_factor:g}), a tenth of "
        "it say, or a longer --warmup",
    )


def _weight_decay_too_large(history: History, options: TrainingOptions) -> Finding | None:
    """Activations stay near the middle of their range: the head's scale was decayed away."""
    last = history[-1]
    # Untrained activations are 0.4 from their bits, and the gap only falls where all is well.
    if not all(line["gap"] > 0.9 for line in history[-2:]) or last["between"] > 0.02 * options.code_size:
        return None
    # Each update takes the share rate × decay; half of the highest rate is the mean of the schedule. It was 5 in all where
    # decay was to blame, and below 0.1 where it was not.
    rate = 0.5 * options.lr * options.head_lr_factor
    if rate * options.weight_decay * sum(line["updates"] for line in history) < 0.5:
        return None
    return Finding(
        "weight decay too large",
        f"activations hardly leave the middle of their range (gap {last['gap']:.2f}), and pictures of two classes are "
        f"{last['between']:.2g} bits apart",
        f"train anew with a lower --weight-decay (now {options.weight_decay:g})",
    )


def _batches_too_small(history: History, options: TrainingOptions) -> Finding | None:
    """Most batches hold nothing to learn from, and yet the codes of all training pictures are not in order."""
    recent = history[-2:]
    idle = sum(line.get("idle", 0.0) for line in recent) / len(recent)
    last = history[-1]
    # Where training is done, batches are idle too; but then neighbours share their labels.
    if idle < 0.5 or any(_agreement(line) > 0.75 for line in recent):
        return None
    return Finding(
        "P × K too small",
        f"{100 * idle:.0f} % of the batches of {options.classes_per_batch} × {options.pictures_per_class} pictures had no "
        f"active triplet, but only {100 * _agreement(last):.0f} % of a training picture's neighbours have its label",
        f"raise --classes-per-batch (now {options.classes_per_batch}) and --pictures-per-class (now "
        f"{options.pictures_per_class})",
    )


def _learning_rate_too_low(history: History, options: TrainingOptions) -> Finding | None:
    """At the pace of its fastest epoch the head would not turn noticeably in the whole run."""
    warming_up = sum(line["updates"] for line in history) <= options.optimizer_spec.warmup_updates
    if history[-1]["epoch"] <= options.warmup or warming_up:
        return None
    updates = history[-1]["updates"] * options.epochs
    # Half of the highest rate is the mean of the schedule. Runs that learn turn by 1 to 8 degrees an update, by hundreds in all;
    # a run of a few updates turns by little however fast it is.
    fastest = max(line["turn"] for line in history)
    turned = 0.5 * updates * fastest
    if turned > 5.0 or fastest > 0.1:
        return None
    return Finding(
        "learning rate too low",
        f"in all {updates:.0f} updates of the run the weights of a bit will have turned by some {turned:.2g} degrees",
        f"raise --lr (now {options.lr:g}) tenfold or more",
    )


def _collapse(history: History, options: TrainingOptions) -> Finding | None:
    """All bits say the same: a margin that the codes cannot reach, or nobody knows why."""
    if not _collapsed(history, options):
        return None
    last = history[-1]
    # Where the activations of two classes are clearly farther apart than the margin asks for, it is not to blame; and it makes
    # bits equal, not constant: batch norm spreads them over each batch.
    alive = last["dead_bits"] <= 0.8 * options.code_size
    if alive and (_margin_bits(last) > 0.7 * last["between"] or _margin_impossible(last, options)):
        # A quarter of the code is what random codes can spare; half of what was too much is a step.
        bits = min(options.code_size / 8, last["margin_bits"] / 2)
        return Finding(
            "margin too large",
            f"{_shape(last, options)}: classes are to be {last['margin_bits']:g} bits farther apart than pictures of one "
            f"class, their activations come to {last['between']:.1f} of {options.code_size}",
            f"lower --margin (now {last['margin']:g}), to {last['margin'] * bits / last['margin_bits']:g} say, or "
            "give a larger --code-size",
        )
    if _label_noise(history, options) is not None:  # contradicting labels are cause enough
        return None
    change = ["batch norm that learns (no --freeze-norm)"] if options.freeze_norm else []
    change += [f"another --margin (now {last['margin']:g}), half and twice of it"] if _margin_bits(last) else []
    return Finding(
        "collapse",
        f"{_shape(last, options)}, and the numbers do not tell why",
        f"try in turn: {', '.join([*change, f'a lower --lr (now {options.lr:g})', 'larger batches'])}",
    )


def _dead_bits(history: History, options: TrainingOptions) -> Finding | None:
    """Bits that say nothing though the others do."""
    last = history[-1]
    if _collapsed(history, options):
        return None
    if _dead_in_training(history):
        return Finding(
            "dead bits",
            f"{_counted_bits(last['dead'], options)} the same value in the codes of all training pictures",
            f"lower --head-lr-factor (now {options.head_lr_factor:g}) or --lr (now {options.lr:g}), or give a smaller "
            "--code-size",
        )
    # A bit puts each of C classes on one side, and all on one by chance in 2^(1-C). Before 50 updates, batch norm's means
    # of the training pictures, which validation uses, are still those it began with.
    recent = history[-3:]
    usual = options.code_size * 2.0 ** (1 - last["val_classes"])
    if sum(line["updates"] for line in history) < 100 or len(recent) < 3:
        return None
    if min(line["val_dead_bits"] for line in recent) <= max(0.1 * options.code_size, 4.0 * usual):
        return None
    return Finding(
        "dead bits",
        f"{_counted_bits(last['val_dead'], options)} the same value in the codes of all validation pictures, but not of the "
        "training pictures",
        "see whether the validation pictures look like those that are trained on",
    )


def _label_noise(history: History, options: TrainingOptions) -> Finding | None:
    """A share of the training pictures looks, epoch after epoch, like another class."""
    # Runs with right labels had none, one with classes alike 3 %; where labels were wrong, nearly all that were named were.
    # Wrong labels can make codes collapse, and then features fade as well: the two clearest epochs had 3 to 7 % before that,
    # and none where something else was to blame.
    shares = [line["suspect_share"] for line in history]
    collapsed = _collapsed(history, options)
    if (sorted(shares)[-2] < 0.02) if collapsed else (min(shares[-2:]) < 0.05):
        return None
    seen = history[shares.index(max(shares))] if collapsed else history[-1]
    return Finding(
        LABEL_NOISE,
        f"{100 * seen['suspect_share']:.0f} % of the training pictures have neighbours that mostly carry one other label, the "
        f"clearest are {', '.join(seen['suspects'][:5])}{'; such labels can make codes collapse' if collapsed else ''}",
        "look at them and correct their labels: the run's suspects.csv lists all (hashret data sheet shows it)",
    )


def _overfitting(history: History, options: TrainingOptions) -> Finding | None:
    """Validation has fallen from its best for three epochs, while training pictures came into better order."""
    del options
    best = max(history, key=lambda line: line["val_map"], default={})
    later = [line for line in history if line["epoch"] > best["epoch"]]
    recent = later[-3:]
    # A few hundred updates in, scores still go up and down, and so do they from one epoch to the next.
    if len(recent) < 3 or sum(line["updates"] for line in later) < 50:
        return None
    now = max(line["val_map"] for line in recent)
    worse = now < best["val_map"] - max(0.05, 0.15 * best["val_map"])
    if not worse or min(map(_agreement, recent)) < max(0.6, _agreement(best)):
        return None
    return Finding(
        "overfitting",
        f"validation mAP was {best['val_map']:.3f} after epoch {best['epoch']} and is {now:.3f}, while training pictures came "
        f"into better order (neighbours agree {100 * _agreement(best):.0f} %, now {100 * _agreement(history[-1]):.0f} %)",
        "the best epoch is kept; for a better one give a stronger --augment, a larger --weight-decay, or more pictures",
    )


HINDRANCES = (
    _weight_decay_too_large,
    _learning_rate_too_high,
    _batches_too_small,
    _learning_rate_too_low,
    _collapse,
)
"""What can keep codes from being learned, in the order in which it is asked for."""


def _margin_impossible(line: Line, options: TrainingOptions) -> bool:
    """Codes of random classes are half of their bits apart: more cannot be asked for on average."""
    return _margin_bits(line) >= options.code_size / 2


def _margin_bits(line: Line) -> float:
    """The margin of a loss over distances of codes, in bits; 0 for another loss."""
    return float(line.get("margin_bits") or 0.0)


def _agreement(line: Line) -> float:
    """How far neighbours share their labels; 0 where no two pictures have a label in common."""
    return float(line.get("agreement") or 0.0)


def _dead_in_training(history: History) -> bool:
    return len(history) > 2 and all(line["dead"] for line in history[-2:])


def _shape(line: Line, options: TrainingOptions) -> str:
    """What the training codes look like, in half a sentence."""
    if line["dead_bits"] == options.code_size:
        return "all training pictures have the same code"
    if line["effective_bits"] < 1.3 and line["dead_bits"] <= 0.8 * options.code_size:
        return f"all {options.code_size} bits say the same (correlation {line['correlation']:.2f})"
    return (
        f"{line['dead_bits']:.0f} of {options.code_size} bits are dead, activations {line['gap']:.3f} from their bits"
    )


def _counted_bits(bits: Sequence[int], options: TrainingOptions) -> str:
    shown = ", ".join(str(bit) for bit in bits[:8]) + (" …" if len(bits) > 8 else "")
    return f"{len(bits)} of {options.code_size} bits ({shown}) {'has' if len(bits) == 1 else 'have'}"
