"""Architectures as people write them, small, from configurations, and which of their parameters are hidden matrices."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as t
from torch import Tensor, nn

WIDTH = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"vocab_size": 53, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"num_key_value_heads": 2}


@dataclass(frozen=True)
class Architecture:
    """A model and the expected roles.

    Attributes:
        make: A function that makes the model.
        matrices: The names of its hidden matrices, as a regular expression.
        head: The name of its head.
        answers: The roles that a user must give.
    """

    make: Callable[[], nn.Module]
    matrices: str
    head: str | None
    answers: tuple[tuple[str, str], ...] = ()

    def hidden(self, model: nn.Module) -> set[str]:
        """Return the names of the hidden matrices."""
        return {name for name, _ in model.named_parameters() if re.fullmatch(self.matrices, name)}


class Recurrent(nn.Module):
    """Words through an LSTM and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(53, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, bidirectional=True)
        self.gru = nn.GRU(48, 24)
        self.out = nn.Linear(24, 53)


class Residual(nn.Module):
    """The layout of a residual network for images as it is in vision libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1, groups=2))
        self.fc = nn.Linear(16, 10)


class Gpt(nn.Module):
    """A hand-written transformer, with Q, K and V in one projection and the head tied to the embedding."""

    def __init__(self, width: int = 8, words: int = 11) -> None:
        super().__init__()
        self.wte = nn.Embedding(words, width)
        self.pos = nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.ModuleList(GptBlock(width) for _ in range(2))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, words, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.wte(words) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class GptBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.ln(x)).chunk(3, -1)
        return x + self.proj(torch.softmax(q @ k.mT, -1) @ v)


def images(**more: object) -> dict[str, object]:
    return {"image_size": 16, "patch_size": 4, **WIDTH, **more}


ARCHITECTURES = {
    "GPT-2": Architecture(
        lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=24, n_layer=2, n_head=4, n_positions=8, **WORDS)),
        r"transformer\.h\.\d\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight",
        None,
    ),
    "Llama": Architecture(
        lambda: t.LlamaForCausalLM(t.LlamaConfig(**WIDTH, **WORDS, **GROUPED)),
        r"model\.layers\.\d\.(self_attn|mlp)\.\w+_proj\.weight",
        "lm_head.weight",
    ),
    "BERT": Architecture(
        lambda: t.BertForMaskedLM(t.BertConfig(**WIDTH, **WORDS)),
        r"bert\.encoder\.layer\.\d.*(query|key|value|dense)\.weight|cls\.predictions\.transform\.dense\.weight",
        None,
    ),
    "BERT, a classifier": Architecture(
        lambda: t.BertForSequenceClassification(t.BertConfig(**WIDTH, **WORDS)),
        r"bert\.encoder\.layer\.\d.*(query|key|value|dense)\.weight|bert\.pooler\.dense\.weight",
        "classifier.weight",
    ),
    "BERT, pretraining": Architecture(
        lambda: t.BertForPreTraining(t.BertConfig(**WIDTH, **WORDS)),
        r"bert\.encoder\.layer\.\d.*(query|key|value|dense)\.weight|bert\.pooler\.dense\.weight"
        r"|cls\.predictions\.transform\.dense\.weight",
        "cls.seq_relationship.weight",
    ),
    "T5, questions": Architecture(
        lambda: t.T5ForQuestionAnswering(
            t.T5Config(d_model=24, d_ff=40, num_layers=2, num_heads=4, d_kv=6, vocab_size=53)
        ),
        r"(en|de)coder\.block\.\d\.layer\.\d\.(SelfAttention|EncDecAttention|DenseReluDense)\.\w+\.weight"
        r"(?<!relative_attention_bias\.weight)",
        "qa_outputs.weight",
    ),
    "BERT, no head": Architecture(
        lambda: t.BertModel(t.BertConfig(**WIDTH, **WORDS)),
        r"encoder\.layer\.\d.*(query|key|value|dense)\.weight|pooler\.dense\.weight",
        None,
    ),
    "ViT": Architecture(
        lambda: t.ViTForImageClassification(t.ViTConfig(**images())),
        r"vit\.(encoder\.)?layers?\.\d+\.(?!.*norm).*\.weight",
        "classifier.weight",
    ),
    "ResNet": Architecture(
        lambda: t.ResNetForImageClassification(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        r"resnet\.encoder\..*convolution\.weight",
        "classifier.1.weight",
    ),
    "ResNet, of a vision library": Architecture(Residual, r"conv1\.weight|layer1\.[02]\.weight", "fc.weight"),
    "ConvNeXt": Architecture(
        lambda: t.ConvNextForImageClassification(t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
        r"convnext\..*(pwconv\d|downsampling_layer\.1)\.weight",
        "classifier.weight",
    ),
    "Swin": Architecture(
        lambda: t.SwinForImageClassification(
            t.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], image_size=16, patch_size=2)
        ),
        r"swin\.encoder\.layers\.\d\.(blocks.*(proj|query|key|value|dense|fc\d)|downsample\.reduction)\.weight",
        "classifier.weight",
    ),
    "T5": Architecture(
        lambda: t.T5ForConditionalGeneration(
            t.T5Config(d_model=24, d_ff=40, num_layers=2, num_heads=4, d_kv=6, vocab_size=53)
        ),
        r"(en|de)coder\.block\.\d\.layer\.\d\.(SelfAttention|EncDecAttention|DenseReluDense)\.\w+\.weight"
        r"(?<!relative_attention_bias\.weight)",
        None,
    ),
    "Mamba": Architecture(
        lambda: t.MambaForCausalLM(t.MambaConfig(hidden_size=24, num_hidden_layers=2, state_size=4, **WORDS)),
        r"backbone\.layers\.\d\.mixer\.\w+_proj\.weight",
        None,
    ),
    "Mixtral, a mixture of experts": Architecture(
        lambda: t.MixtralForCausalLM(t.MixtralConfig(**WIDTH, **WORDS, **GROUPED, num_local_experts=3)),
        r"model\.layers\.\d\.(self_attn\.\w_proj\.weight|mlp\.experts\.\w+_proj)",
        "lm_head.weight",
    ),
    "GPT-NeoX, whose Q, K and V lie head by head": Architecture(
        lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**WIDTH, **WORDS)),
        r"gpt_neox\.layers\.\d\.(attention|mlp)\.\w+\.weight",
        None,  # embed_out, or lm_head
        (("*.query_key_value.weight", "hidden matrix"),),
    ),
    "RNN": Architecture(Recurrent, r"(lstm|gru)\.weight_.*", "out.weight"),
    "torch's transformer": Architecture(
        lambda: nn.Transformer(24, 4, 1, 1, 40, batch_first=True),
        r".*(in_proj_weight|out_proj\.weight|linear\d\.weight)",
        None,
    ),
    "a perceptron": Architecture(
        lambda: nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1)),
        r"[02]\.weight",
        "4.weight",
    ),
    "a transformer of one's own": Architecture(Gpt, r"blocks\.\d\.(qkv|proj)\.weight", None),
}


TOKENS = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(0))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(TOKENS).square().mean().backward()
        optimizer.step()


def gpt(seed: int = 0) -> Gpt:
    torch.manual_seed(seed)
    return Gpt()
