"""What can be wrong with the data of a study, found before anything is computed."""
