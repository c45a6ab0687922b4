"""Loss terms: supervision by labels, and distillation from teachers' targets."""
