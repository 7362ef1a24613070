"""What the report says in sentences."""

from __future__ import annotations

import math

from inception_deploy.reporting.data import Record
from inception_deploy.reporting.facts import Facts, Ratio, engine_name
from inception_deploy.reporting.numerals import count, significant, times

__all__ = [
    "NOT_TRAINED",
    "baseline_name",
    "preprocessing_steps",
    "sentence",
    "shrinkage",
    "speed",
    "verdict_name",
]

NOT_TRAINED = (
    "These weights are random. Accuracy and predictions mean nothing; only speed, size and"
    " numerical agreement do."
)
_SAME_SIZE = 1.02  # sizes closer than this are not worth a word


def verdict_name(verdict: str | None) -> str:
    """What the badge says."""
    return {None: "Not measured", "NOT_ASKED": "No bound asked"}.get(verdict, str(verdict))


def baseline_name(key: str) -> str:
    """ "pytorch:torch" → "PyTorch"; "onnxruntime:reference.onnx" → "reference.onnx on …"."""
    engine, _, graph = key.partition(":")
    named = engine_name(engine)
    return named if engine == "pytorch" or not graph else f"{graph} on {named}"


def sentence(facts: Facts) -> str:
    """The outcome in one sentence: agreement, speed at the smallest batch, size."""
    parts = [_agreement(facts)]
    for batch in facts.batches:
        ratio = facts.ratio(batch)
        if ratio:
            said = speed(ratio)
            if not ratio.baseline.startswith("pytorch:") and "about" not in said:
                said += f" than {baseline_name(ratio.baseline)}"
            parts.append(f"{said} at batch {batch}")
            break
    reference, deployed = facts.size("reference"), facts.size("graph")
    if reference and deployed:
        parts.append(shrinkage(reference / deployed, 2))
    return "; ".join(parts) + "."


def _agreement(facts: Facts) -> str:
    who = f"{facts.precision} on {engine_name(facts.target)}"
    agreement, images = facts.parity_percentage("top1_agreement"), facts.images
    if agreement is None or not images:
        return f"{who}: agreement with {facts.reference_name} was not measured"
    if math.isnan(agreement):
        return f"{who}: agreement with {facts.reference_name} is not a number"
    agreed = round(agreement / 100 * images)
    return f"{who} agrees with {facts.reference_name} on {count(agreed)} of {count(images)} images"


def speed(ratio: Ratio) -> str:
    """ "3.2× faster", "1.3× slower", or "about as fast" where the interval holds 1."""
    if ratio.undecided or ratio.value <= 0:
        return "about as fast"
    if ratio.value < 1:
        return f"{times(1 / ratio.value, 2)} slower"
    return f"{times(ratio.value, 2)} faster"


def shrinkage(ratio: float, digits: int) -> str:
    """ "2.0× smaller", "1.3× larger", or "the same size"; `ratio` is reference over deployed."""
    if 1 / _SAME_SIZE < ratio < _SAME_SIZE:
        return "the same size"
    return f"{times(ratio, digits)} smaller" if ratio > 1 else f"{times(1 / ratio, digits)} larger"


def preprocessing_steps(fields: Record) -> list[str]:
    """The preprocessing contract as steps, in the order in which they happen."""
    size, resize = fields.number("size"), fields.number("resize")
    if size is None or resize is None:
        raise fields.mismatch("size" if size is None else "resize", "a number")
    order = fields.text("channel_order")
    steps = [
        "Convert the image to RGB.",
        f"Resize the shorter side to {count(resize)} px, keeping the aspect ratio"
        f" ({fields.text('interpolation')}, antialiased).",
        f"Crop the central {count(size)} × {count(size)} px.",
    ]
    top = fields.number("pixel_max")
    if top is not None:
        scaled = "Keep pixels at 0–255." if top == 255 else f"Scale pixels from 0–255 to 0–{top:g}."
        steps.append(scaled)
    if order != "RGB":
        steps.append(f"Reorder the channels to {order}.")
    steps.append(
        f"Per channel ({', '.join(order)}), subtract {_triple(fields, 'mean')}"
        f" and divide by {_triple(fields, 'std')}."
    )
    return [*steps, f"Arrange as N × 3 × {count(size)} × {count(size)} (NCHW)."]


def _triple(fields: Record, key: str) -> str:
    values = fields.items(key)
    if not values or not all(isinstance(v, int | float) for v in values):
        raise fields.mismatch(key, "three numbers")
    shown = [significant(float(v), 4) for v in values]
    return f"{values[0]:g}" if len(set(values)) == 1 else f"({', '.join(shown)})"
