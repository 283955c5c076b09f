"""What a finished run is measured by, and what is made of it."""
