"""Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008), in the two orders they are used in."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""For lines and marks on white paper, the most legible first. Yellow is left out: it cannot be seen on white."""

ON_GREY = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#0072B2")
"""For outlines on grey images, the best on grey first."""

INK = "#1c2733"
"""Colour of text, axes and anything that means nothing by its colour."""
