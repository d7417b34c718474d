"""Settings for all tests."""

import os

# The problems are small: more threads cost more than they give, and on a busy machine wait for each other (a test of 5 s took
# minutes). Before torch is imported, so that processes which tests start inherit it; what is about threads sets its own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
