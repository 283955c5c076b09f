"""Metrics, predictions and files of a trained model: everything after training."""
