"""Scores of predictions against references, and the tables and figures made of them."""
