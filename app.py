"""The entry: the frame every page shares, and the page itself."""

import streamlit as st

from fac import ui

page = ui.navigation()
st.set_page_config(page_title=f"{page.title} · FAC Explorer")
st.logo(ui.LOGO, icon_image=ui.MARK, size="large")
with ui.guard():
    ui.frame(page.title)
    page.run()
