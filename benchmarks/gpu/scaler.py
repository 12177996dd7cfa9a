"""GradScaler with steps that overflow: they change nothing, the others are those of unscaled gradients, none waits."""

from functools import partial

import torch

from benchmarks.gpu import waits
from benchmarks.gpu.session import Session, SkippedError
from benchmarks.gpu.stepping import Subject, subjects

NUM_STEPS = 10
OVERFLOWS = (0, 3, 4)  # the steps in which a gradient is infinite; the first one makes no state then
SHAPES = ((5, 3), (33, 5), (7,), (300, 131))
_IN_SHORT = ("AdamW", "SGD", "LAMB")


def run(session: Session) -> None:
    """Scale the gradients of all rules."""
    for subject in subjects():
        if not session.stub or subject.name.startswith(_IN_SHORT):
            session.check(subject.name, partial(_compare, session, subject))
    adamw = next(subject for subject in subjects() if subject.name.startswith("AdamW"))
    session.check("AdamW after unscale_ and clipping", partial(_compare, session, adamw, unscale=True))


def _compare(session: Session, subject: Subject, *, unscale: bool = False) -> None:
    if subject.rule.traits.needs != "gradient":
        raise SkippedError(f"it needs a {subject.rule.traits.needs} in each step")
    device = session.device
    shapes = subject.shapes if subject.rule.traits.needs_whole_matrices else SHAPES
    scaled, unscaled = (
        [torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).to(device).requires_grad_() for shape in shapes]
        for _ in range(2)
    )
    optimizer, reference = subject.make(scaled), subject.make(unscaled)
    optimizer.prepare()
    reference.prepare()
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, growth_interval=4)
    for step in range(NUM_STEPS):
        generator = torch.Generator().manual_seed(step)
        slopes = [torch.randn(param.shape, generator=generator).to(device) + 0.3 for param in scaled]
        optimizer.zero_grad()
        losses = [(param * slope).sum() for param, slope in zip(scaled, slopes, strict=True)]
        scaler.scale(torch.stack(losses).sum()).backward()
        if step in OVERFLOWS:
            scaled[0].grad.view(-1)[:1].fill_(torch.inf)
        with waits.forbidden(device) if step > OVERFLOWS[-1] else waits.forbidden(torch.device("cpu")):
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        if step in OVERFLOWS:
            continue
        for param, slope in zip(unscaled, slopes, strict=True):
            param.grad = slope
        reference.step()
    for k, (param, expected) in enumerate(zip(scaled, unscaled, strict=True)):
        off = float((param - expected).detach().abs().max())
        assert torch.equal(param, expected), f"parameter {k} of shape {tuple(param.shape)} is off by {off:.3g}"
    expected_scale = 2.0 ** (10 - len(OVERFLOWS)) * 2.0  # one growth, after four steps in a row
    assert scaler.get_scale() == expected_scale, f"the scale is {scaler.get_scale()}, not {expected_scale}"
