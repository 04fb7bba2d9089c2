"""The entry of `streamlit run app.py`: imported it is the server, run for a browser a page."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st

if __name__ == "__main__":
    from fac.ui import shell
    from fac.ui.views import announce, guard

    announce()
    with guard():
        page = shell.navigation()
        st.set_page_config(page_title=f"{page.title} · FAC Explorer")
        st.logo(shell.LOGO, icon_image=shell.MARK, size="large")
        shell.frame(page.title)
        page.run()
        announce()
else:

    def prepare() -> None:
        """Imports what pages are made with, once Streamlit's caches can be made."""
        from fac.ui import shell

        shell.prepare()

    @asynccontextmanager
    async def lifespan(_: st.App) -> AsyncIterator[None]:
        await asyncio.to_thread(prepare)
        # What stands now stays. A full garbage collection walks it all, for 100 ms and within
        # whichever page sets it off; frozen it is not walked again.
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()

    app = st.App(__file__, lifespan=lifespan)
