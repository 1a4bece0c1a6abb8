"""Classifier-free guidance (selma/images/classifier_free.py) and nothing else."""

from selma.images.classifier_free import branches, combine

__all__ = ["branches", "combine"]
