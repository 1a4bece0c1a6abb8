"""What `dvc repro` would do, and what it would take: stages, amounts, disk, hours. `python -m selma.plan` shows it."""
