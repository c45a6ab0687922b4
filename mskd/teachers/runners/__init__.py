"""What runs in a teacher's own process: `serve.py`, and one module per tool. None of it imports mskd."""
