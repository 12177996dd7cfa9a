"""Answers: when a finding names the cause of a case, and the module to blame.

Two names count as the same fault only where they describe the same state of the training; each entry says why.
"""

from collections.abc import Sequence

_LARGE_WEIGHTS = "the training of the bench is sick because its weights begin too large"
SAME_FAULT: dict[tuple[str, str], str] = {
    ("exploding_gradient", "init_too_large"): _LARGE_WEIGHTS,
    ("saturation", "init_too_large"): _LARGE_WEIGHTS,
    ("attention_logit_growth", "init_too_large"): _LARGE_WEIGHTS,
    ("init_too_large/attention", "attention_logit_growth"): "the large weights are those of the attention, too",
    ("sgd_on_badly_scaled", "inputs_not_normalised"): "gradients are badly scaled because the features are",
    ("no_warmup", "lr_too_high"): "the rate is one that only its first steps do not stand; lower, it needs no warm-up",
    ("update_below_precision", "lr_too_low"): "a step below the last digit is a small step and a coarse digit",
}
"""(kind of a case or its key, kind of a finding) -> why both are right."""


def names_kind(case: str, finding: str) -> bool:
    """Return whether a finding of this kind names the cause of a case ``kind/name``."""
    kind = case.split("/")[0]
    return finding == kind or (kind, finding) in SAME_FAULT or (case, finding) in SAME_FAULT


def names_place(accepted: Sequence[str], where: str | None) -> bool:
    """Return whether a place is one of those accepted, or lies in one of them."""
    return where is not None and any(where == name or where.startswith(name + ".") for name in accepted)
