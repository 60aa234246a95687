"""The synthetic corpus: speech, heads and rendered clips with exact labels.

Owns how clips are drawn and stored. Does not know the networks that learn from them.
"""
