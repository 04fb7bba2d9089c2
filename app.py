"""The entry of `streamlit run app.py`: imported it is the server, run for a browser a page."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st

if __name__ == "__main__":
    from fac.ui import access, shell
    from fac.ui.views import announce, guard

    announce()
    with guard():
        page = shell.navigation()
        st.set_page_config(page_title=f"{page.title} · FAC Explorer")
        st.logo(shell.LOGO, icon_image=shell.MARK, size="large")
        access.enter()
        shell.frame(page.title)
        page.run()
        announce()
else:
    from starlette.middleware import Middleware

    from fac.access import DoorKeeper
    from fac.errors import InputError
    from fac.ui.access import open_door

    try:
        door = open_door()
    except InputError as error:
        raise SystemExit(f"fac: {error}") from None

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

    app = st.App(__file__, lifespan=lifespan, middleware=[Middleware(DoorKeeper, door=door)])
