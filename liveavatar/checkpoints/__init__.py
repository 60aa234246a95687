"""Model directories on disk: our layout, the released one, LoRA merging, downloads, digests.

Owns how weights are named and stored. Does not know how a network computes, nor the code that runs it.
"""
