"""The router, and the frame that every page shares."""

import streamlit as st

from fac import ui

st.set_page_config(page_title="FAC Explorer", page_icon=ui.MARK, layout="wide")

st.logo(ui.LOGO, icon_image=ui.MARK, size="large")

page = st.navigation(
    {
        "": [st.Page(ui.HOME, title="Home", icon=":material/home:", default=True)],
        "Measure": [
            st.Page(ui.DATASETS, title="Datasets", icon=":material/database:"),
            st.Page(ui.FEATURES, title="Features", icon=":material/scatter_plot:"),
            st.Page(ui.COVERAGE, title="Coverage", icon=":material/donut_large:"),
            st.Page(ui.COMPARE, title="Compare", icon=":material/compare_arrows:"),
            st.Page(ui.PLAYGROUND, title="Playground", icon=":material/edit_note:"),
        ],
        "System": [st.Page(ui.JOBS, title="Jobs", icon=":material/schedule:")],
    }
)

with ui.guard():
    ui.frame(page.title)
    page.run()
