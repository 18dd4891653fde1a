"""Independent random streams from one trial seed, the same in any process and on any platform."""

import hashlib


def seed_of(purpose: str, *key: int) -> int:
    """A 63-bit seed for one stream, such as ("dropout", trial seed, epoch); any other key gives another stream."""
    digest = hashlib.sha256(repr((purpose, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
