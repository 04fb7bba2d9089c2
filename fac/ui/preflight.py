"""What a preflight established, as a person reads it."""

from __future__ import annotations

import streamlit as st

from fac import charts
from fac.manifest import PreflightManifest
from fac.preflight.numbers import FITS
from fac.ui.text import plain
from fac.ui.views import CHART, cards

MARKS = {
    True: ":green[:material/check_circle:]",
    False: ":red[:material/cancel:]",
    None: ":gray[:material/help:]",
}


def show_preflight(manifest: PreflightManifest) -> None:
    """The verdict, the figures, the layers side by side, and every finding with its reason."""
    facts = manifest.facts
    wrong = [each for each in facts.findings if each["ok"] is False]
    if not facts.belongs:
        reasons = "; ".join(f"**{each['check']}**: {plain(each['says'])}" for each in wrong)
        st.error(
            f"This SAE does not belong to this model and layer. {reasons}.",
            icon=":material/cancel:",
        )
    else:
        says = st.success if facts.verdict.startswith("This SAE belongs") else st.info
        says(plain(facts.verdict), icon=":material/check_circle:")
    if quality := facts.quality:
        cards(
            ("FVU", f"{quality['fvu']:.3f}", "Variance unexplained: 0 is perfect, 1 the mean."),
            ("L0", f"{quality['l0']:.1f}", "Features active per token."),
            ("Silent", f"{quality['dead']:.1%}", "Of its features, on these texts."),
            (
                "Loss recovered",
                f"{quality['loss_recovered']:.3f}",
                "Of the cross-entropy that zeroing the stream costs.",
            ),
        )
    left, right = st.columns(2)
    if facts.layers:
        with left:
            st.caption(
                f"How well it describes the layers beside, on {facts.samples:,} samples of "
                f"{plain(facts.texts)}; below the dotted line it counts as describing a stream."
            )
            chart = charts.layer_fit(facts.layers, manifest.spec.layer, FITS)
            st.plotly_chart(chart, config=CHART, key=f"layers of {manifest.run}")
    with right if facts.layers else st.container():
        for each in facts.findings:
            if each["check"] != "neighbours":
                st.markdown(f"{MARKS[each['ok']]} **{each['check']}** {plain(each['says'])}")
