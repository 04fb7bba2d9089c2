"""All Streamlit of the project but the pages themselves. Pages import the modules they use.

text          foreign text made harmless, tokens with their activations
views         what is shown lives in the URL; empty states, links, cards
stores        the stores of the workspace
jobs          jobs: asked for, watched, failed
pickers       runs, relevance and threshold, chosen once for all pages
explanations  what a feature is said to be, what matters for a task
tables        a page of rows at a time
bars          the charts of the first page
atlas         the map of a dictionary
review        the item in view and its keys
writing       what both steps of a synthesis have on their pages
pairs         pairs decided on
synthesis     what is asked from approved pairs, and what that will take
results       what came of it, text by text
shell         menu, styles, worker, strip of jobs

What a number means and what is asked of the stores is in fac.questions, what a figure looks like in
fac.charts.
"""
