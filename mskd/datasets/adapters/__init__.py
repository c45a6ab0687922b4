"""One module per layout; each has `find_cases`, TITLE, LAYOUT, LICENCE, NON_COMMERCIAL, EXAMPLE and OPTIONS."""
