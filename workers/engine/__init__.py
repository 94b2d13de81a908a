import os

# torch's threads and numba's are two pools, each of as many threads as there are processors. By default a thread that has finished its part
# spins for milliseconds until the next one. On processors that do anything else meanwhile (another engine that loads its model, a store, an
# API) this takes the time of those it waits for: steps become several times longer, and so does every restart. Where nothing else runs,
# going to sleep sooner costs a few percent. Read by each pool when its library is loaded, hence before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
