"""Parameter names: those of a model that is compiled, distributed or wrapped are those of the model inside."""

# The child of `torch.compile`, `FullyShardedDataParallel` and `checkpoint_wrapper`. No other module has these names.
PRIVATE_CHILDREN = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPERS = frozenset({"module", *PRIVATE_CHILDREN})  # "module" is the child of DataParallel and DDP


def unwrapped_name(name: str) -> str:
    """Return the name of a parameter without the parts that wrappers add, at any level.

    Example:
        >>> unwrapped_name("_orig_mod.layers.0.module.weight")
        'layers.0.weight'
    """
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in _WRAPPERS), last])


def same_parameter(name: object, saved_name: object) -> bool:
    """Return True if two names are those of one parameter, in a model that is wrapped or is not."""
    if not isinstance(name, str) or not isinstance(saved_name, str):
        return name == saved_name
    return unwrapped_name(name) == unwrapped_name(saved_name)
