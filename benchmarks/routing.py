"""What routing says of the models of transformers: `python benchmarks/routing.py`, four minutes, no network.

Each `For...` class and each base model that can be made from a configuration is made on the meta device, with two
layers where its configuration allows, and routed with `optim.route(model, "muon")`. What Muon must not be given is
told apart from routing: by the types of modules, by what transformers calls output embeddings, by Linears with as many
outputs as there are labels or words, and by having one dimension.
"""

import argparse
import json
import os
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: what would fetch weights fails at once

import torch
import transformers
from rich.progress import track
from torch import nn

from thalweg import optim

RECORD = Path(__file__).parent / "records" / "routing.json"
PATIENCE_S = 20
LABELS = 7  # no width has this many
_KIND = re.compile(r".*(For[A-Z]\w+|LMHeadModel|DoubleHeadsModel|Model)")
_NOT_MODELS = re.compile(r"AutoModel.*|.*Pre[Tt]rained\w*Model\w*|Pretrained.*")
_DEPTHS = re.compile(r"(\w+_)?(num_hidden_layers|num_layers|n_layers?|layers|num_blocks)")


def classes() -> list[type[nn.Module]]:
    """The models of the installed transformers, each once, under its own name."""
    found = {}
    for name in sorted(dir(transformers)):
        if not _KIND.fullmatch(name) or _NOT_MODELS.fullmatch(name):
            continue
        try:
            one = getattr(transformers, name)
        except Exception:  # wants a library that is not here
            continue
        if isinstance(one, type) and issubclass(one, transformers.PreTrainedModel) and one.config_class is not None:
            found[one.__name__] = one
    return list(found.values())


def configurations(kind: Any) -> Iterator[Any]:
    """Configurations of a kind, the smallest first: some refuse another depth than their own."""
    small = _small(kind)
    for given in (small, {name: value for name, value in small.items() if isinstance(value, dict)}, {}):
        for labels in ({"num_labels": LABELS}, {}):
            try:
                yield kind(**given, **labels)
            except Exception:
                continue


def _small(kind: Any) -> dict[str, Any]:
    """Arguments that make two layers of every stack, in the parts of a configuration too."""
    try:
        default = kind()
    except Exception:  # a few have no defaults that go together
        return {}
    given: dict[str, Any] = {}
    for name, value in vars(default).items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 2 and _DEPTHS.fullmatch(name):
            given[name] = 2
        elif isinstance(value, transformers.PreTrainedConfig):
            # What each layer is would be told for as many as there were.
            own = {key: one for key, one in value.to_dict().items() if key != "layer_types"}
            given[name] = own | _small(type(value))
    return given


def made(one: Any) -> nn.Module | None:
    """A model of this class without data, or None if no configuration makes one."""
    for config in configurations(one.config_class):
        try:
            with torch.device("meta"):
                return one(config)
        except TimeoutError:
            return None
        except Exception:
            continue
    return None


def forbidden(model: nn.Module) -> dict[int, str]:
    """What Muon must not be given, and why, by the identity of the parameter."""
    modules = dict(model.named_modules())
    linears = {path: module for path, module in modules.items() if isinstance(module, nn.Linear)}
    config = model.config
    texts = [config, getattr(config, "text_config", None), getattr(config, "decoder", None)]
    words = {size for one in texts if isinstance(size := getattr(one, "vocab_size", None), int) and size > 1024}
    # In a few models a last Linear takes what each label is given by another.
    labels = {LABELS} - {module.in_features for module in linears.values()}
    found = {id(param): "vector" for param in model.parameters() if param.dim() < 2}
    for module in modules.values():
        kind = type(module).__name__
        for param in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                found[id(param)] = "embedding"
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm) or kind.endswith("Norm"):
                found[id(param)] = "norm"
    for path, module in linears.items():
        in_block = re.search(r"\.\d+\.", path)  # where a width may be as large as a vocabulary
        if module.out_features in labels or (module.out_features in words and not in_block):
            found[id(module.weight)] = "head"
    try:
        last = model.get_output_embeddings()
    except Exception:  # most have none
        last = None
    if isinstance(last, nn.Module):
        found |= {id(param): "head" for param in last.parameters()}
    return found


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError inside when this takes longer."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def judged(one: type[nn.Module]) -> dict[str, Any] | None:
    """What routing says of one class; None if it cannot be made."""
    try:
        with at_most(PATIENCE_S):
            model = made(one)
    except TimeoutError:
        return None
    if model is None or not any(param.requires_grad for param in model.parameters()):
        return None
    try:
        with at_most(PATIENCE_S):
            plan = optim.route(model, "muon")
    except Exception as error:  # what is raised is what was found
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    reasons = forbidden(model)
    return {
        "parameters": len(plan.parameters),
        "matrices": sum(part.rule == "muon" for part in plan.parameters),
        "questions": [part.name for part in plan.questions],
        "wrong": {
            part.name: f"{reasons[id(part.param)]}, taken for {part.role}: {part.why}"
            for part in plan.parameters
            if part.rule == "muon" and id(part.param) in reasons
        },
        "judged": len(reasons),
    }


def main() -> None:
    """Route every model and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="classes whose name matches; nothing is written")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(100)
    torch.set_num_threads(1)
    kinds = [one for one in classes() if re.search(asked.only, one.__name__)]
    found: dict[str, dict[str, Any]] = {}
    not_made = []
    for one in track(kinds, "models"):
        result = judged(one)
        if result is None:
            not_made.append(one.__name__)
        else:
            found[one.__name__] = result
    routed = {name: one for name, one in found.items() if "error" not in one}
    patterns = Counter(
        pattern for one in routed.values() for pattern in {re.sub(r"\d+", "#", name) for name in one["questions"]}
    )
    record = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "classes": len(kinds),
        "built": len(found),
        "routed": len(routed),
        "with_questions": sum(bool(one["questions"]) for one in routed.values()),
        "parameters": sum(one["parameters"] for one in routed.values()),
        "matrices": sum(one["matrices"] for one in routed.values()),
        "known_not_to_be_matrices": sum(one["judged"] for one in routed.values()),
        "wrong": {name: one["wrong"] for name, one in routed.items() if one["wrong"]},
        "errors": {name: one["error"] for name, one in found.items() if "error" in one},
        "questions": {name: len(one["questions"]) for name, one in routed.items() if one["questions"]},
        "asked_most": dict(patterns.most_common(20)),
        "not_built": not_made,
    }
    if asked.only:
        json.dump(record, sys.stdout, indent=1)
    else:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(*(f"{key}: {value}" for key, value in record.items() if isinstance(value, int | str)), sep="\n")


if __name__ == "__main__":
    main()
