"""What pages and commands ask of runs and caches, answered without a page.

catalogue     measured runs and what they are called, samples, a probed text
explanations  what features are said to be
relevance     which features matter
comparison    a dataset against an anchor: coverage, its curve, changes
gaps          what the dataset lacks, with the evidence
ratings       how well people agree, with each other and with a judge

Each imports only from those above it.
"""
