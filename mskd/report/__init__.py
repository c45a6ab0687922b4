"""The report of a study: one HTML page that opens from disk and loads nothing."""
