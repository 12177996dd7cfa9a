"""Routing of the models of transformers: `python benchmarks/correctness/routing.py`, four minutes, no network.

Each `For...` class and each base model that can be made from a configuration is made on the meta device, with two
layers where its configuration allows, and routed with `optim.route(model, "muon")`. The parameters that Muon must not
get are identified without routing: by the types of modules, by the output embeddings of transformers, by Linears with
as many outputs as there are labels or words, and by the number of dimensions.
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

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: an attempt to fetch weights fails at once

import torch
import transformers
from rich.progress import track
from torch import nn

from thalweg import optim

RECORD = Path(__file__).parents[1] / "records" / "routing.json"
TIMEOUT_S = 20
LABELS = 7  # equals no width
_KIND = re.compile(r".*(For[A-Z]\w+|LMHeadModel|DoubleHeadsModel|Model)")
_NOT_MODELS = re.compile(r"AutoModel.*|.*Pre[Tt]rained\w*Model\w*|Pretrained.*")
_DEPTHS = re.compile(r"(\w+_)?(num_hidden_layers|num_layers|n_layers?|layers|num_blocks)")


def classes() -> list[type[nn.Module]]:
    """Return the models of the installed transformers, each once, under its own name."""
    matches = {}
    for name in sorted(dir(transformers)):
        if not _KIND.fullmatch(name) or _NOT_MODELS.fullmatch(name):
            continue
        try:
            kind = getattr(transformers, name)
        except Exception:  # it needs a library that is not installed
            continue
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) and kind.config_class is not None:
            matches[kind.__name__] = kind
    return list(matches.values())


def configurations(kind: Any) -> Iterator[Any]:
    """Yield configurations of a class, the smallest first: some classes refuse any depth but their default."""
    small = _small(kind)
    for arguments in (small, {name: value for name, value in small.items() if isinstance(value, dict)}, {}):
        for labels in ({"num_labels": LABELS}, {}):
            try:
                yield kind(**arguments, **labels)
            except Exception:
                continue


def _small(kind: Any) -> dict[str, Any]:
    """Return arguments that make two layers of every stack, in the parts of a configuration too."""
    try:
        default = kind()
    except Exception:  # the defaults of a few classes contradict each other
        return {}
    arguments: dict[str, Any] = {}
    for name, value in vars(default).items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 2 and _DEPTHS.fullmatch(name):
            arguments[name] = 2
        elif isinstance(value, transformers.PreTrainedConfig):
            # `layer_types` has an entry for each layer of the default depth.
            values = {key: setting for key, setting in value.to_dict().items() if key != "layer_types"}
            arguments[name] = values | _small(type(value))
    return arguments


def make_model(kind: Any) -> Any:
    """Return a model of this class without data, or None if no configuration makes one."""
    for config in configurations(kind.config_class):
        try:
            with torch.device("meta"):
                return kind(config)
        except TimeoutError:
            return None
        except Exception:
            continue
    return None


def unsuitable(model: Any) -> dict[int, str]:
    """Return the parameters that Muon must not get, by identity, each with the reason.

    Args:
        model: A model of transformers.
    """
    modules = dict(model.named_modules())
    linears = {path: module for path, module in modules.items() if isinstance(module, nn.Linear)}
    config = model.config
    texts = [config, getattr(config, "text_config", None), getattr(config, "decoder", None)]
    words = {size for text in texts if isinstance(size := getattr(text, "vocab_size", None), int) and size > 1024}
    # In a few models a last Linear gets the outputs of another, one for each label.
    labels = {LABELS} - {module.in_features for module in linears.values()}
    reasons = {id(param): "vector" for param in model.parameters() if param.dim() < 2}
    for module in modules.values():
        kind = type(module).__name__
        for param in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                reasons[id(param)] = "embedding"
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm) or kind.endswith("Norm"):
                reasons[id(param)] = "norm"
    for path, module in linears.items():
        in_block = re.search(r"\.\d+\.", path)  # where a width may be as large as a vocabulary
        if module.out_features in labels or (module.out_features in words and not in_block):
            reasons[id(module.weight)] = "head"
    try:
        last = model.get_output_embeddings()
    except Exception:  # most have none
        last = None
    if isinstance(last, nn.Module):
        reasons |= {id(param): "head" for param in last.parameters()}
    return reasons


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the body of the ``with`` block if it takes longer."""

    def raise_timeout(number: int, frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, raise_timeout)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def evaluate(kind: type[nn.Module]) -> dict[str, Any] | None:
    """Route a model of a class and return the counts, or None if no model can be made."""
    try:
        with at_most(TIMEOUT_S):
            model = make_model(kind)
    except TimeoutError:
        return None
    if model is None or not any(param.requires_grad for param in model.parameters()):
        return None
    try:
        with at_most(TIMEOUT_S):
            plan = optim.route(model, "muon")
    except Exception as error:  # an error is a result
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    reasons = unsuitable(model)
    return {
        "parameters": len(plan.parameters),
        "matrices": sum(part.rule == "muon" for part in plan.parameters),
        "questions": [part.name for part in plan.questions],
        "wrong": {
            part.name: f"{reasons[id(part.param)]}, taken for {part.role}: {part.why}"
            for part in plan.parameters
            if part.rule == "muon" and id(part.param) in reasons
        },
        "unsuitable": len(reasons),
    }


def main() -> None:
    """Route every model and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="classes whose name matches; nothing is written")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(100)
    torch.set_num_threads(1)
    kinds = [kind for kind in classes() if re.search(arguments.only, kind.__name__)]
    results: dict[str, dict[str, Any]] = {}
    not_built = []
    for kind in track(kinds, "models"):
        result = evaluate(kind)
        if result is None:
            not_built.append(kind.__name__)
        else:
            results[kind.__name__] = result
    routed = {name: result for name, result in results.items() if "error" not in result}
    patterns = Counter(
        pattern for result in routed.values() for pattern in {re.sub(r"\d+", "#", name) for name in result["questions"]}
    )
    record = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "classes": len(kinds),
        "built": len(results),
        "routed": len(routed),
        "with_questions": sum(bool(result["questions"]) for result in routed.values()),
        "parameters": sum(result["parameters"] for result in routed.values()),
        "matrices": sum(result["matrices"] for result in routed.values()),
        "known_not_to_be_matrices": sum(result["unsuitable"] for result in routed.values()),
        "wrong": {name: result["wrong"] for name, result in routed.items() if result["wrong"]},
        "errors": {name: result["error"] for name, result in results.items() if "error" in result},
        "questions": {name: len(result["questions"]) for name, result in routed.items() if result["questions"]},
        "asked_most": dict(patterns.most_common(20)),
        "not_built": not_built,
    }
    if arguments.only:
        json.dump(record, sys.stdout, indent=1)
    else:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(*(f"{key}: {value}" for key, value in record.items() if isinstance(value, int | str)), sep="\n")


if __name__ == "__main__":
    main()
