"""What an expert is trained by."""
