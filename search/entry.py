"""The entry point: quiet where Ctrl-C comes while PyTorch and Ray are still being imported, some seconds."""

import sys

try:
    from search.cli import main
except KeyboardInterrupt:
    sys.exit(130)

__all__ = ["main"]
