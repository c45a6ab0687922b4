"""From folders of data to a study file: what lies there, which organs it labels, and the file that says so."""
