"""Models that others published: brought, held against their pins, and put into the layout that judges load.

Apart from selma/judges, so that an edit of a judge does not bring its files anew.
"""

from pathlib import Path

FOLDER = Path("models/judges")
CARD = "judge.json"  # in models/judges/<name>/: the kind, and where its files came from
