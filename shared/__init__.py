"""The contract that producers and workers agree on. Imports neither side, nor torch."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rerankfleet")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+source"

__all__ = ["__version__"]
