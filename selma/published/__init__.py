"""Models that others published, in the layout that judges load.

Apart from selma/judging, so that an edit of a judge does not download its files again.
"""
