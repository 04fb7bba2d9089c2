"""Measurements behind the tables of the README; each is a command that prints what it measured."""
