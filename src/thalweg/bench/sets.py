"""Sets of parameter shapes on which steps are timed."""

Shapes = list[tuple[int, ...]]


def gpt2() -> Shapes:
    """98 million parameters in 148 tensors: GPT-2's twelve layers of width 768, with a vocabulary of 16,384."""
    d = 768
    norm = [(d,), (d,)]
    attention = [(3 * d, d), (3 * d,), (d, d), (d,)]
    mlp = [(4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(16_384, d), (1_024, d), *(12 * [*norm, *attention, *norm, *mlp]), *norm]


def gpt2_124m() -> Shapes:
    """124 million parameters in 148 tensors: GPT-2, with a head that shares the embedding's weights."""
    return _gpt2(width=768, layers=12)


def gpt2_355m() -> Shapes:
    """355 million parameters in 292 tensors: GPT-2 medium."""
    return _gpt2(width=1024, layers=24)


def _gpt2(width: int, layers: int) -> Shapes:
    norm = [(width,), (width,)]
    attention = [(3 * width, width), (3 * width,), (width, width), (width,)]
    mlp = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(50_257, width), (1_024, width), *(layers * [*norm, *attention, *norm, *mlp]), *norm]


def llama_1b() -> Shapes:
    """1.1 billion parameters in 201 tensors: a Llama of 22 layers of width 2,048, with 4 heads for keys and values."""
    d, hidden, key_value = 2048, 5632, 256
    attention = [(d, d), (key_value, d), (key_value, d), (d, d)]
    mlp = [(hidden, d), (hidden, d), (d, hidden)]
    return [(32_000, d), *(22 * [*attention, *mlp, (d,), (d,)]), (d,), (32_000, d)]


def small() -> Shapes:
    """0.8 million parameters in 400 tensors: matrices of 64 by 64, and vectors of 64."""
    return 200 * [(64, 64), (64,)]


def resnet50() -> Shapes:
    """25.6 million parameters in 161 tensors: ResNet-50's convolutions, batch norms and head."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for out, into, kernel in ((width, channels, 1), (width, width, 3), (4 * width, width, 1)):
                shapes += [(out, into, kernel, kernel), (out,), (out,)]
            if block == 0:
                shapes += [(4 * width, channels, 1, 1), (4 * width,), (4 * width,)]
            channels = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


SETS = {
    "gpt2": gpt2,
    "small": small,
    "resnet50": resnet50,
    "gpt2-124m": gpt2_124m,
    "gpt2-355m": gpt2_355m,
    "llama-1b": llama_1b,
}

# The sets that the command times if none is named.
SETS_FOR_CPU = ("gpt2", "small", "resnet50")
SETS_FOR_DEVICE = ("gpt2-124m", "gpt2-355m", "llama-1b", "resnet50", "small")
