"""Multi-teacher, single-student knowledge distillation for multi-organ CT segmentation.

Not for clinical use.
"""

__version__ = "0.1.0"
