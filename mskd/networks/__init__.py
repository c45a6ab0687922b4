"""Networks: (B, 1, X, Y, Z) normalised intensities to (B, C, X, Y, Z) scores; channel 0 is the background."""
