"""Which cases a dataset has, where their files lie, and which split and block each belongs to.

Nothing here opens an image: the workflow lists cases each time it is parsed, so these modules import
the standard library only.
"""
