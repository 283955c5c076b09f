"""What the commands share: their flags, data, training and results."""
