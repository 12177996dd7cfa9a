"""The model, the data and the optimizers that trainers of other libraries train here."""

import os
import signal
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from thalweg import optim
from thalweg.optim import RuleOptimizer

WORDS, LENGTH = 32, 8

Make = Callable[[nn.Module], RuleOptimizer]
# Each with an evaluation, a checkpoint, a kill and a resume.
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda model: optim.AdamW(model.parameters(), lr=1e-2),
    "Prodigy": lambda model: optim.Prodigy(model.parameters(), d0=1e-3),
    "ScheduleFreeAdamW": lambda model: optim.ScheduleFreeAdamW(model.parameters(), lr=1e-2, warmup_steps=2),
    "moving_average(sgd)": lambda model: optim.optimizer_for("moving_average(sgd)")(
        model.parameters(), lr=0.1, average_decay=0.5
    ),
    "route(model, 'muon')": lambda model: optim.route(model, "muon", lr=1e-2).optimizer(),
    "sam(sgd)": lambda model: optim.optimizer_for("sam(sgd)")(model.parameters(), lr=0.1, momentum=0.9, rho=0.1),
}


def make_model(dropout: float = 0.1) -> GPT2LMHeadModel:
    """Make a language model of two layers. With dropout, a resumed run needs the random numbers, too."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=WORDS,
            n_positions=LENGTH,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        )
    )


def make_words(count: int, seed: int) -> Tensor:
    """Return texts of random words in which the first half is repeated, of shape (count, LENGTH)."""
    return torch.randint(WORDS, (count, LENGTH // 2), generator=torch.Generator().manual_seed(seed)).repeat(1, 2)


def values_of(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]


def assert_same_bits(model: nn.Module, expected: nn.Module) -> None:
    assert all(map(torch.equal, values_of(model), values_of(expected)))


def run_until_killed(train: Callable[[], object]) -> None:
    """Run a training in a forked process that kills itself. Fail if it ends in another way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of threads that the new process does not have
        pid = os.fork()
    if pid == 0:
        try:
            os.environ["CC"] = " "  # no kernels: a process that is killed leaves its compiler behind
            train()
        finally:
            os._exit(1)
    deadline = time.monotonic() + 300
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == -signal.SIGKILL


def kill_this_process() -> None:
    """End this process as a power cut would: nothing is written, nothing is closed."""
    os.kill(os.getpid(), signal.SIGKILL)
