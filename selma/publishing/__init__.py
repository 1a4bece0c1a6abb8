"""What leaves the house: exported LoRAs and data sets with their cards, and their way to the hub."""
