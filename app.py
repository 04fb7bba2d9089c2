"""The entry of `streamlit run app.py`: imported it is the server, run for a browser a page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st

if __name__ == "__main__":
    from fac import ui

    page = ui.navigation()
    st.set_page_config(page_title=f"{page.title} · FAC Explorer")
    st.logo(ui.LOGO, icon_image=ui.MARK, size="large")
    with ui.guard():
        ui.frame(page.title)
        page.run()
else:

    def prepare() -> None:
        """Imports what pages are made with, once Streamlit's caches can be made."""
        from fac import ui

        ui.prepare()

    @asynccontextmanager
    async def lifespan(_: st.App) -> AsyncIterator[None]:
        await asyncio.to_thread(prepare)
        yield

    app = st.App(__file__, lifespan=lifespan)
