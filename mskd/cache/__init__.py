"""The target cache: what teachers say of a case, small, exact within stated bounds, and checked when it is read.

The format is documented in `docs/cache.md`.
"""
