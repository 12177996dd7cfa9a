"""Seeds: every random number of a comparison follows from one seed."""

import hashlib


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """Derive a seed.

    Args:
        seed: Seed of the comparison.
        purpose: Use of the derived seed, e.g. ``race/0``; different purposes have independent seeds.
        index: Number within the purpose.

    Returns:
        A whole number below 2**32.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "little")
