"""One module per layout.

Each has `find_cases`, TITLE, LAYOUT, LICENCE, NON_COMMERCIAL, EXAMPLE, CASE_NAMES, LABELS and OPTIONS.
"""
