"""Teachers: whatever can say something about a scan once. One file per kind."""
