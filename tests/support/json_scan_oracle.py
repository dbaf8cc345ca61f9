"""What `service.kernels.json_scan` counts, from the text without its strings."""

import re

STRING = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)


def scan(text):
    """Values and depth of a whole text."""
    bare = STRING.sub(b"", text)
    depth = deepest = 0
    for byte in bare:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return 1 + sum(bare.count(mark) for mark in (b",", b"[", b"{")), deepest
