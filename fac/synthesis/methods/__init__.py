"""One method a file, under its own name with `-` for `_`: its METHOD says what it asks."""
