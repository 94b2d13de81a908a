"""Our engine: a decoder, a paged cache, and the kernels that compute both."""

import os

# Before the first import of torch, whose OpenMP reads it as it is loaded. Threads of a kernel wait for each other a few hundred times a
# step. Those that spin meanwhile are busy in the system's eyes, and on processors that others want too they lose them for whole time slices
# with everybody waiting; one that sleeps gets its processor as soon as it is woken. These few spins cover the gaps between kernels:
# measured in docs/engine-performance.md.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
