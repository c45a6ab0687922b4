"""Synthetic abdominal CTs: seeded anatomies, scanners, and the public layouts they are written in."""
