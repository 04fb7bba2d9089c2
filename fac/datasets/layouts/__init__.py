"""One module a layout: the columns by which it is recognised and how they become a chat."""
