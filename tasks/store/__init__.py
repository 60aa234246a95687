"""Content-addressed artefact store and the keys of its entries."""
