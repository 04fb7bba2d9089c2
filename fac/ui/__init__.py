"""All Streamlit of the project but the pages themselves, which import the modules they use.

What a number means and what is asked of the stores is in fac.questions, what a figure looks like in
fac.charts.
"""
