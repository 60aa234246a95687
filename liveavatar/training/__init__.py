"""Training of the embedded model: corpus, autoencoder, teacher, distillation, evaluation, export.

Owns recipes, losses and the training loops. Does not know renders, flows or benchmarks; no room that runs a model
imports it.
"""
