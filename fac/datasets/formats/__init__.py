"""One module a format: the names of its files, and how its rows are read and written."""
