"""The entry of `streamlit run app.py`: imported it is the server, run for a browser a page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st

if __name__ == "__main__":
    from fac.ui import shell
    from fac.ui.views import guard

    with guard():
        page = shell.navigation()
        st.set_page_config(page_title=f"{page.title} · FAC Explorer")
        st.logo(shell.LOGO, icon_image=shell.MARK, size="large")
        shell.frame(page.title)
        page.run()
else:

    def prepare() -> None:
        """Imports what pages are made with, once Streamlit's caches can be made."""
        from fac.ui import shell

        shell.prepare()

    @asynccontextmanager
    async def lifespan(_: st.App) -> AsyncIterator[None]:
        await asyncio.to_thread(prepare)
        yield

    app = st.App(__file__, lifespan=lifespan)
