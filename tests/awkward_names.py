"""File names that are legal and hard to store or to show."""

import os

from hypothesis import strategies as st

AWKWARD = [
    "cr\r.png",
    "lf\n.png",
    'crlf\r\n, and "quotes".png',
    " spaces .png",
    "=1+1.png",
    "--force.png",
    "-.png",
    "tab\t.png",
    "\N{LATIN SMALL LETTER E WITH ACUTE}\u2028.png",
    os.fsdecode(b"\xff\xfe not UTF-8 \xe9.png"),
]

# All that Linux has.
file_names = st.binary(min_size=1, max_size=80).filter(lambda name: not set(name) & set(b"/\0")).map(os.fsdecode)
