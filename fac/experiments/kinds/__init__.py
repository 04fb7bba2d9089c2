"""What can be asked of labelled data: one file each, whose EXPERIMENT says what it is."""
