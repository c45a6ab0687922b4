"""Training: patches, augmentation, optimisation, checkpoints, the loop."""
