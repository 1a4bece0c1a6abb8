"""What a person reads: tables, charts, the report."""
