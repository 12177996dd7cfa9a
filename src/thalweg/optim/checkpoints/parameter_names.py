"""Parameter names: those of a model that is compiled, distributed or wrapped are those of the model inside."""

# The attributes under which torch's wrappers hold a module: torch.compile, DataParallel and DDP, FSDP, and activation
# checkpointing.
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


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
