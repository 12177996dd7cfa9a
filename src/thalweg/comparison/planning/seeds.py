"""Seeds: every random thing in a comparison follows from one number."""

import hashlib


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one purpose (`final`, say) and index; different purposes never share one by design."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
